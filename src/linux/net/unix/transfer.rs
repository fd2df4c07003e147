//! Sending and receiving on Unix sockets.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::super::super::budget::Budget;
use super::super::super::errno::Errno;
use super::super::super::file::{File, Ready};
use super::super::super::user::{gather, scatter};
use super::super::Received;
use super::name::Key;
use super::table::{Kind, Message, OVERHEAD, Phase, SocketId, Table};

/// Most messages that wait in one datagram socket, or sequence of packets.
const LONGEST_QUEUE: usize = 512;
/// A stream's small writes are joined into messages of up to this size.
const JOINED: usize = 64 << 10;

/// What is sent.
pub struct Parcel<'a> {
    pub bytes: &'a [VolatileSlice<'a>],
    /// To whom, where that is not the peer.
    pub to: Option<&'a Key>,
    pub files: &'a [Arc<File>],
    /// The sender named its credentials.
    pub credentials: bool,
}

/// Bytes of all slices.
fn length(slices: &[VolatileSlice<'_>]) -> usize {
    slices.iter().map(VolatileSlice::len).sum()
}

impl Table {
    /// Sends as much as there is room for.
    pub fn send(&mut self, budget: &Budget, id: SocketId, parcel: Parcel<'_>) -> Result<usize, Errno> {
        match self.get(id)?.kind {
            Kind::Stream => self.send_stream(budget, id, parcel),
            _ => self.send_packet(budget, id, parcel),
        }
    }

    fn send_stream(&mut self, budget: &Budget, id: SocketId, parcel: Parcel<'_>) -> Result<usize, Errno> {
        let record = self.get(id)?;
        let connected = record.phase == Phase::Connected;
        if parcel.to.is_some() {
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        if !connected {
            return Err(Errno::ENOTCONN);
        }
        let (shut, room) = (record.send_shut, record.options.send_buffer.saturating_sub(record.in_flight));
        let from = record.address();
        let peer = record.peer.filter(|_| !shut).ok_or(Errno::EPIPE)?;
        if length(parcel.bytes) == 0 {
            return Ok(0);
        }
        if room <= OVERHEAD {
            return Err(Errno::EAGAIN);
        }
        let bytes = gather(parcel.bytes, room - OVERHEAD);
        let sent = bytes.len();
        let queue = &mut self.sockets.get_mut(&peer).ok_or(Errno::EPIPE)?.queue;
        let last = queue.back_mut().filter(|last| {
            last.sender == id
                && last.rights.is_empty()
                && last.credentials == parcel.credentials
                && last.bytes.len() + sent <= JOINED
        });
        let cost = match last {
            Some(last) if parcel.files.is_empty() => {
                budget.take(sent)?;
                last.bytes.extend_from_slice(&bytes);
                sent
            }
            _ => {
                budget.take(sent + OVERHEAD)?;
                let credentials = parcel.credentials;
                let rights = self.pass(parcel.files).inspect_err(|_| budget.give(sent + OVERHEAD))?;
                let message = Message { bytes, taken: 0, sender: id, from, rights, credentials };
                self.sockets.get_mut(&peer).ok_or(Errno::EPIPE)?.queue.push_back(message);
                sent + OVERHEAD
            }
        };
        self.get(id)?.in_flight += cost;
        self.wake(peer);
        Ok(sent)
    }

    fn send_packet(&mut self, budget: &Budget, id: SocketId, parcel: Parcel<'_>) -> Result<usize, Errno> {
        let record = self.get(id)?;
        let datagram = record.kind == Kind::Datagram;
        if !datagram && record.phase != Phase::Connected {
            return Err(Errno::ENOTCONN);
        }
        if record.send_shut {
            return Err(Errno::EPIPE);
        }
        let (buffer, in_flight, from) = (record.options.send_buffer, record.in_flight, record.address());
        let peer = record.peer;
        let target = match parcel.to {
            // A sequence of packets has its peer, whatever address comes with them.
            Some(key) if datagram => self.datagram_target(id, key)?,
            _ => match peer {
                Some(peer) => peer,
                None if datagram => return Err(Errno::ENOTCONN),
                None => return Err(Errno::EPIPE),
            },
        };
        let len = length(parcel.bytes);
        if len + OVERHEAD > buffer {
            return Err(Errno::EMSGSIZE);
        }
        let gone = if datagram { Errno::ECONNREFUSED } else { Errno::EPIPE };
        let receiver = self.sockets.get_mut(&target).ok_or(gone)?;
        if receiver.receive_shut {
            return Err(Errno::EPIPE);
        }
        if receiver.queue.len() >= LONGEST_QUEUE {
            receiver.waiters.insert(id);
            return Err(Errno::EAGAIN);
        }
        let cost = len + OVERHEAD;
        if in_flight + cost > buffer {
            return Err(Errno::EAGAIN);
        }
        budget.take(cost)?;
        let rights = self.pass(parcel.files).inspect_err(|_| budget.give(cost))?;
        let bytes = gather(parcel.bytes, len);
        let message = Message { bytes, taken: 0, sender: id, from, rights, credentials: parcel.credentials };
        self.sockets.get_mut(&target).ok_or(gone)?.queue.push_back(message);
        self.get(id)?.in_flight += cost;
        self.wake(target);
        Ok(len)
    }

    /// Receives what waits. Of `flags`, `MSG_PEEK` and `MSG_TRUNC` matter here.
    pub fn receive(
        &mut self,
        budget: &Budget,
        id: SocketId,
        into: &[VolatileSlice<'_>],
        flags: i32,
    ) -> Result<Received, Errno> {
        let record = self.get(id)?;
        let with_credentials = record.options.pass_credentials;
        match (record.kind, &record.phase) {
            (Kind::Datagram, _) | (_, Phase::Connected) => {}
            (Kind::Stream, _) => return Err(Errno::EINVAL),
            (Kind::Seqpacket, _) => return Err(Errno::ENOTCONN),
        }
        if record.queue.is_empty() {
            return match record.error.take() {
                Some(error) => Err(Errno::from_host(error)),
                None if record.receive_shut => Ok(Received::default()),
                None => Err(Errno::EAGAIN),
            };
        }
        let mut received = match record.kind {
            Kind::Stream => self.receive_stream(budget, id, into, flags)?,
            _ => self.receive_packet(budget, id, into, flags)?,
        };
        received.with_credentials = with_credentials;
        if flags & libc::MSG_PEEK == 0 {
            let waiters = std::mem::take(&mut self.get(id)?.waiters);
            waiters.into_iter().for_each(|waiter| self.wake(waiter));
        }
        Ok(received)
    }

    fn receive_stream(
        &mut self,
        budget: &Budget,
        id: SocketId,
        into: &[VolatileSlice<'_>],
        flags: i32,
    ) -> Result<Received, Errno> {
        let mut received = Received::default();
        let room = length(into);
        let mut bytes = Vec::new();
        let mut credentials = None;
        let mut looked_at = 0;
        while bytes.len() < room {
            let record = self.get(id)?;
            let Some(message) = record.queue.get_mut(looked_at) else { break };
            // Bytes of senders that must be told apart are not joined, and nothing is read past files.
            if *credentials.get_or_insert(message.credentials) != message.credentials {
                break;
            }
            let n = (room - bytes.len()).min(message.bytes.len() - message.taken);
            bytes.extend_from_slice(&message.bytes[message.taken..message.taken + n]);
            let (sender, rights) = (message.sender, message.rights.clone());
            if flags & libc::MSG_PEEK != 0 {
                received.files = self.passed(&rights);
                looked_at += 1;
            } else {
                message.taken += n;
                message.rights.clear();
                let mut cost = n;
                if message.taken == message.bytes.len() {
                    record.queue.pop_front();
                    cost += OVERHEAD;
                }
                received.files = self.unpass(&rights);
                self.release(budget, sender, cost);
            }
            if !rights.is_empty() {
                break;
            }
        }
        received.bytes = scatter(into, &bytes);
        Ok(received)
    }

    fn receive_packet(
        &mut self,
        budget: &Budget,
        id: SocketId,
        into: &[VolatileSlice<'_>],
        flags: i32,
    ) -> Result<Received, Errno> {
        let record = self.get(id)?;
        let Some(message) = record.queue.front() else { return Err(Errno::EAGAIN) };
        let mut received = Received { bytes: scatter(into, &message.bytes), ..Received::default() };
        if received.bytes < message.bytes.len() {
            received.flags |= libc::MSG_TRUNC;
            if flags & libc::MSG_TRUNC != 0 {
                received.bytes = message.bytes.len();
            }
        }
        if record.kind == Kind::Datagram {
            // A sender without a name shows no address at all.
            received.address = if message.from.len() > 2 { message.from.clone() } else { Vec::new() };
        }
        let rights = message.rights.clone();
        if flags & libc::MSG_PEEK != 0 {
            received.files = self.passed(&rights);
        } else if let Some(message) = record.queue.pop_front() {
            received.files = self.unpass(&rights);
            self.release(budget, message.sender, message.cost());
        }
        Ok(received)
    }

    /// What would not wait now.
    pub fn ready(&mut self, id: SocketId) -> Ready {
        let Some(record) = self.sockets.get(&id) else { return Ready::ERR };
        let mut ready = Ready::empty();
        let connecting = record.kind != Kind::Datagram && record.phase == Phase::Idle;
        let listening = match &record.phase {
            Phase::Listening { pending, .. } => Some(!pending.is_empty()),
            _ => None,
        };
        let readable = listening.unwrap_or(!record.queue.is_empty()) || record.receive_shut;
        ready.set(Ready::IN | Ready::RDNORM, readable);
        ready.set(Ready::RDHUP, record.receive_shut);
        ready.set(Ready::HUP, record.receive_shut && record.send_shut || connecting);
        ready.set(Ready::ERR, record.error.is_some());
        let mut writable = listening.is_none() && record.in_flight * 4 <= record.options.send_buffer;
        let (kind, peer) = (record.kind, record.peer);
        if kind != Kind::Stream
            && let Some(receiver) = peer.and_then(|peer| self.sockets.get_mut(&peer))
            && receiver.queue.len() >= LONGEST_QUEUE
        {
            writable = false;
            receiver.waiters.insert(id);
        }
        ready.set(Ready::OUT | Ready::WRNORM, writable);
        ready
    }

    /// Bytes that `FIONREAD` shows: all of a stream, or the next packet.
    pub fn waiting(&mut self, id: SocketId) -> Result<usize, Errno> {
        let record = self.get(id)?;
        match (&record.phase, record.kind) {
            (Phase::Listening { .. }, _) => Err(Errno::EINVAL),
            (_, Kind::Datagram) => Ok(record.queue.front().map_or(0, |message| message.bytes.len())),
            _ => Ok(record.queue.iter().map(|message| message.bytes.len() - message.taken).sum()),
        }
    }
}
