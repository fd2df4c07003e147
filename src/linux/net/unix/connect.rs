//! Naming, connecting and closing Unix sockets.

use std::collections::VecDeque;

use super::super::super::budget::Budget;
use super::super::super::errno::Errno;
use super::super::ended_by;
use super::name::{Key, Name};
use super::table::{Kind, Phase, SocketId, Table};

/// Longest queue of a listener.
const LONGEST_BACKLOG: usize = 4096;

impl Table {
    /// Two sockets that are each other's peer.
    pub fn pair(&mut self, budget: &Budget, kind: Kind) -> Result<(SocketId, SocketId), Errno> {
        let first = self.add(budget, kind)?;
        let second = self.add(budget, kind).inspect_err(|_| drop(self.forget(budget, first)))?;
        for (id, peer) in [(first, second), (second, first)] {
            let record = self.get(id)?;
            record.peer = Some(peer);
            record.peer_address = Name::unnamed();
            if kind != Kind::Datagram {
                record.phase = Phase::Connected;
            }
        }
        Ok((first, second))
    }

    /// `EINVAL` if the socket has a name already.
    pub fn check_unnamed(&mut self, id: SocketId) -> Result<(), Errno> {
        if self.get(id)?.name.is_some() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Gives the socket a name.
    pub fn bind(&mut self, id: SocketId, path: Vec<u8>, key: Key) -> Result<(), Errno> {
        self.check_unnamed(id)?;
        // A node that bears a dead socket's number is a new node.
        if matches!(key, Key::Abstract(..)) && self.names.contains_key(&key) {
            return Err(Errno::EADDRINUSE);
        }
        self.names.insert(key.clone(), id);
        self.get(id)?.name = Some(Name { path, key: Some(key) });
        Ok(())
    }

    /// Gives the socket a free abstract name of five hexadecimal digits.
    pub fn bind_to_any(&mut self, id: SocketId) -> Result<(), Errno> {
        const COUNT: u32 = 1 << 20;
        let kind = self.get(id)?.kind;
        // A program that has all of them bound would be out of sockets long before.
        for _ in 0..COUNT {
            self.next_name = (self.next_name + 1) % COUNT;
            let path = format!("\0{:05x}", self.next_name).into_bytes();
            match self.bind(id, path.clone(), Key::Abstract(kind, path)) {
                Err(Errno::EADDRINUSE) => {}
                done => return done,
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Lets others connect.
    pub fn listen(&mut self, id: SocketId, backlog: i32) -> Result<(), Errno> {
        let record = self.get(id)?;
        if record.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let length = usize::try_from(backlog).unwrap_or(LONGEST_BACKLOG).min(LONGEST_BACKLOG);
        match &mut record.phase {
            _ if record.name.is_none() => return Err(Errno::EINVAL),
            Phase::Listening { backlog, .. } => *backlog = length,
            Phase::Idle => record.phase = Phase::Listening { backlog: length, pending: VecDeque::new() },
            Phase::Connected => return Err(Errno::EINVAL),
        }
        let waiters = std::mem::take(&mut record.waiters);
        waiters.into_iter().for_each(|waiter| self.wake(waiter));
        Ok(())
    }

    /// Connects a stream or a sequence of packets; `EAGAIN` where the listener has a full queue.
    pub fn connect(&mut self, budget: &Budget, id: SocketId, key: &Key) -> Result<(), Errno> {
        let record = self.get(id)?;
        match record.phase {
            Phase::Idle => {}
            Phase::Connected => return Err(Errno::EISCONN),
            Phase::Listening { .. } => return Err(Errno::EINVAL),
        }
        let (kind, mine) = (record.kind, record.address());
        let listener = *self.names.get(key).ok_or(Errno::ECONNREFUSED)?;
        let record = self.sockets.get_mut(&listener).ok_or(Errno::ECONNREFUSED)?;
        if record.kind != kind {
            return Err(Errno::EPROTOTYPE);
        }
        let name = record.name.clone().map(|name| Name { key: None, ..name });
        let address = record.address();
        match &record.phase {
            Phase::Listening { .. } if record.receive_shut => return Err(Errno::ECONNREFUSED),
            Phase::Listening { backlog, pending } if pending.len() <= *backlog => {}
            Phase::Listening { .. } => {
                record.waiters.insert(id);
                return Err(Errno::EAGAIN);
            }
            _ => return Err(Errno::ECONNREFUSED),
        }
        let connection = self.add(budget, kind).map_err(|_| Errno::ENOMEM)?;
        let accepted = self.get(connection)?;
        accepted.phase = Phase::Connected;
        accepted.name = name;
        (accepted.peer, accepted.peer_address) = (Some(id), mine);
        let record = self.get(id)?;
        record.phase = Phase::Connected;
        (record.peer, record.peer_address) = (Some(connection), address);
        if let Phase::Listening { pending, .. } = &mut self.get(listener)?.phase {
            pending.push_back(connection);
        }
        self.wake(listener);
        self.wake(id);
        Ok(())
    }

    /// Sets the peer of a datagram socket, or unsets it. What others sent before is dropped.
    pub fn set_peer(&mut self, budget: &Budget, id: SocketId, key: Option<&Key>) -> Result<(), Errno> {
        let peer = match key {
            None => None,
            Some(key) => Some(self.datagram_target(id, key)?),
        };
        let address = peer.and_then(|peer| Some(self.sockets.get(&peer)?.address()));
        let record = self.get(id)?;
        let changed = record.peer.is_some() && record.peer != peer;
        (record.peer, record.peer_address) = (peer, address.unwrap_or_default());
        let dropped = if changed { std::mem::take(&mut record.queue) } else { VecDeque::new() };
        dropped.into_iter().for_each(|message| self.discard(budget, message));
        self.wake(id);
        Ok(())
    }

    /// The datagram socket of a name, which must not have another peer.
    pub(super) fn datagram_target(&mut self, id: SocketId, key: &Key) -> Result<SocketId, Errno> {
        let target = *self.names.get(key).ok_or(Errno::ECONNREFUSED)?;
        let record = self.sockets.get(&target).ok_or(Errno::ECONNREFUSED)?;
        match record.peer {
            _ if record.kind != Kind::Datagram => Err(Errno::EPROTOTYPE),
            Some(peer) if peer != id => Err(Errno::EPERM),
            _ => Ok(target),
        }
    }

    /// Takes the connection that has waited longest.
    pub fn accept(&mut self, id: SocketId) -> Result<SocketId, Errno> {
        let record = self.get(id)?;
        if record.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let shut = record.receive_shut;
        let Phase::Listening { pending, .. } = &mut record.phase else { return Err(Errno::EINVAL) };
        let Some(connection) = pending.pop_front() else {
            return Err(if shut { Errno::EINVAL } else { Errno::EAGAIN });
        };
        let waiters = std::mem::take(&mut record.waiters);
        waiters.into_iter().for_each(|waiter| self.wake(waiter));
        Ok(connection)
    }

    /// Ends one direction or both.
    pub fn shutdown(&mut self, id: SocketId, how: i32) -> Result<(), Errno> {
        let (receive, send) = ended_by(how)?;
        let record = self.get(id)?;
        record.receive_shut |= receive;
        record.send_shut |= send;
        let (kind, peer) = (record.kind, record.peer);
        let waiters = std::mem::take(&mut record.waiters);
        self.wake(id);
        if let Some(peer) = peer
            && kind != Kind::Datagram
            && let Some(record) = self.sockets.get_mut(&peer)
        {
            record.receive_shut |= send;
            record.send_shut |= receive;
            self.wake(peer);
        }
        waiters.into_iter().for_each(|waiter| self.wake(waiter));
        Ok(())
    }

    /// Closes a socket. Connections that nobody accepted go with it.
    pub fn close(&mut self, budget: &Budget, id: SocketId) {
        let mut closing = vec![(id, false)];
        while let Some((id, unaccepted)) = closing.pop() {
            let Some(record) = self.forget(budget, id) else { continue };
            if let Some(peer) = record.peer.filter(|_| record.kind != Kind::Datagram)
                && let Some(survivor) = self.sockets.get_mut(&peer)
            {
                survivor.peer = None;
                (survivor.receive_shut, survivor.send_shut) = (true, true);
                if unaccepted || !record.queue.is_empty() {
                    survivor.error = Some(libc::ECONNRESET);
                }
                self.wake(peer);
            }
            record.queue.into_iter().for_each(|message| self.discard(budget, message));
            record.waiters.into_iter().for_each(|waiter| self.wake(waiter));
            if let Phase::Listening { pending, .. } = record.phase {
                closing.extend(pending.into_iter().map(|connection| (connection, true)));
            }
        }
    }
}
