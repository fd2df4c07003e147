//! Unix sockets, inside the guest: streams, datagrams and sequences of packets.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the socket as a file |
//! | `table.rs` | the records of all sockets, under one lock |
//! | `name.rs` | addresses, names, nodes in the file tree |
//! | `connect.rs` | naming, connecting, accepting, closing |
//! | `transfer.rs` | sending, receiving, readiness |
//! | `options.rs` | `setsockopt` and its like |
//! | `saved.rs` | what a checkpoint keeps |
//! | `collect.rs` | sockets that only their own messages refer to |
//!
//! A name leads to sockets of the same program only. Where the policy is [`Policy::Open`] a socket that finds nobody inside connects to
//! the host's socket of that name, and is a host socket from then on; in a sandbox only where the name is that of a file.
//!
//! What waits in a socket is host memory. A sender's buffer bounds it, the program's [`Budget`](super::super::budget::Budget) bounds all.
//!
//! All is plain data but the files that wait to be received: those a record names by number, and the table holds. A socket that became
//! a host socket is reset by a checkpoint, as other host sockets are.

mod collect;
mod connect;
mod name;
mod options;
mod saved;
mod table;
mod transfer;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::super::file::{File, Kind as FileKind, Object, Ready};
use super::super::kernel::{Kernel, PID};
use super::super::stat::Attributes;
use super::control::Control;
use super::{Direction, Endpoint, Policy, Received, Socket, host};
use name::{Asked, Key};
use transfer::Parcel;

pub use saved::{SavedUnix, SavedUnixSocket};
pub(super) use table::Record;
pub use table::{Kind, SocketId, Unix};

/// A socket, by its number in the table.
pub struct UnixSocket {
    id: SocketId,
    kind: Kind,
    /// The host's socket that it became.
    bridge: OnceLock<Socket>,
}

/// Whom a name leads to.
enum Target {
    /// A socket of this program.
    Inside(Key),
    /// A socket of the host: its address, and what keeps that valid.
    Host(Vec<u8>, Option<std::os::fd::OwnedFd>),
}

impl Kind {
    /// From `SOCK_…`.
    pub fn from_number(kind: i32) -> Result<Kind, Errno> {
        match kind {
            libc::SOCK_STREAM => Ok(Kind::Stream),
            // As Linux has it.
            libc::SOCK_DGRAM | libc::SOCK_RAW => Ok(Kind::Datagram),
            libc::SOCK_SEQPACKET => Ok(Kind::Seqpacket),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }

    fn number(self) -> i32 {
        match self {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Datagram => libc::SOCK_DGRAM,
            Kind::Seqpacket => libc::SOCK_SEQPACKET,
        }
    }
}

impl UnixSocket {
    /// A new socket.
    pub fn new(kernel: &Kernel, kind: Kind) -> Result<UnixSocket, Errno> {
        let id = kernel.unix(|table| table.add(&kernel.budget, kind))?;
        Ok(UnixSocket::of(id, kind))
    }

    /// Two connected ones.
    pub fn pair(kernel: &Kernel, kind: Kind) -> Result<(UnixSocket, UnixSocket), Errno> {
        let (first, second) = kernel.unix(|table| table.pair(&kernel.budget, kind))?;
        Ok((UnixSocket::of(first, kind), UnixSocket::of(second, kind)))
    }

    /// The socket with this number.
    pub fn of(id: SocketId, kind: Kind) -> UnixSocket {
        UnixSocket { id, kind, bridge: OnceLock::new() }
    }

    /// Its number.
    pub fn id(&self) -> SocketId {
        self.id
    }

    /// Finds whom an address means.
    fn target(&self, kernel: &Kernel, address: &[u8]) -> Result<Target, Errno> {
        let open = kernel.network.policy() == Policy::Open;
        let known = |key: &Key| kernel.unix(|table| table.names.contains_key(key));
        match name::parse(address)? {
            Asked::Any => Err(Errno::EINVAL),
            Asked::Abstract(path) => {
                let key = Key::Abstract(self.kind, path);
                // A sandbox is led to the host's sockets by its files only.
                Ok(if open && !kernel.rights.is_sandbox() && !known(&key) {
                    Target::Host(address.to_vec(), None)
                } else {
                    Target::Inside(key)
                })
            }
            Asked::Path(path) => {
                let found = name::find_node(kernel, &path)?;
                let key = Key::Node(found.node);
                let Some(host) = found.host.filter(|_| open && !known(&key)) else {
                    return Ok(Target::Inside(key));
                };
                let mut address = name::Name::unnamed();
                address.extend_from_slice(format!("/proc/self/fd/{}\0", host.as_raw_fd()).as_bytes());
                Ok(Target::Host(address, Some(host)))
            }
        }
    }

    /// Becomes a host socket that is connected to `address`.
    fn connect_to_host(&self, kernel: &Kernel, address: &[u8], shown: &[u8]) -> Result<(), Errno> {
        let room = kernel.host_fds.room()?;
        let fd = room.hold(host::socket(libc::AF_UNIX, self.kind.number(), 0)?);
        host::connect(std::os::fd::AsFd::as_fd(&fd), address)?;
        kernel.unix(|table| {
            let record = table.get(self.id)?;
            record.peer_address = shown.to_vec();
            Ok::<(), Errno>(())
        })?;
        let socket = Socket::new(fd, libc::AF_UNIX, self.kind.number());
        self.bridge.set(socket).map_err(|_| Errno::EISCONN)
    }
}

impl Endpoint for UnixSocket {
    fn is_stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    fn bind(&self, kernel: &Kernel, address: &[u8]) -> Result<(), Errno> {
        if self.bridge.get().is_some() {
            return Err(Errno::EINVAL);
        }
        let asked = name::parse(address)?;
        kernel.unix(|table| table.check_unnamed(self.id)).map_err(|error| match &asked {
            // Linux looks at the path first.
            Asked::Path(path) if name::is_taken(kernel, path) => Errno::EADDRINUSE,
            _ => error,
        })?;
        match asked {
            Asked::Any => kernel.unix(|table| table.bind_to_any(self.id)),
            Asked::Abstract(path) => {
                kernel.unix(|table| table.bind(self.id, path.clone(), Key::Abstract(self.kind, path)))
            }
            Asked::Path(path) => {
                let node = name::make_node(kernel, &path)?;
                kernel.unix(|table| table.bind(self.id, path, Key::Node(node)))
            }
        }
    }

    fn connect(&self, kernel: &Kernel, address: &[u8], _again: bool) -> Result<(), Errno> {
        if let Some(bridge) = self.bridge.get()
            && self.kind != Kind::Datagram
        {
            return host::peer_address(bridge.fd()).and(Err(Errno::EISCONN));
        }
        let unspecified = address.first_chunk() == Some(&(libc::AF_UNSPEC as u16).to_ne_bytes());
        if unspecified && self.kind == Kind::Datagram {
            return kernel.unix(|table| table.set_peer(&kernel.budget, self.id, None));
        }
        match self.target(kernel, address)? {
            Target::Inside(key) => kernel.unix(|table| match self.kind {
                Kind::Datagram => table.set_peer(&kernel.budget, self.id, Some(&key)),
                _ => table.connect(&kernel.budget, self.id, &key),
            }),
            Target::Host(host, _keep) => self.connect_to_host(kernel, &host, address),
        }
    }

    fn listen(&self, kernel: &Kernel, backlog: i32) -> Result<(), Errno> {
        match self.bridge.get() {
            Some(_) => Err(Errno::EINVAL),
            None => kernel.unix(|table| table.listen(self.id, backlog)),
        }
    }

    fn accept(&self, kernel: &Kernel) -> Result<(FileKind, Vec<u8>), Errno> {
        let id = kernel.unix(|table| table.accept(self.id))?;
        let peer = kernel.unix(|table| table.get(id).map(|record| record.peer_address.clone()));
        Ok((FileKind::Unix(UnixSocket::of(id, self.kind)), peer?))
    }

    fn local_address(&self, kernel: &Kernel) -> Result<Vec<u8>, Errno> {
        kernel.unix(|table| Ok(table.get(self.id)?.address()))
    }

    fn peer_address(&self, kernel: &Kernel) -> Result<Vec<u8>, Errno> {
        kernel.unix(|table| {
            let address = table.get(self.id)?.peer_address.clone();
            if address.is_empty() { Err(Errno::ENOTCONN) } else { Ok(address) }
        })
    }

    fn shutdown(&self, kernel: &Kernel, how: i32) -> Result<(), Errno> {
        match self.bridge.get() {
            Some(bridge) => bridge.shutdown(kernel, how),
            None => kernel.unix(|table| table.shutdown(self.id, how)),
        }
    }

    fn option(&self, kernel: &Kernel, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno> {
        if let Some(bridge) = self.bridge.get()
            && name != libc::SO_PEERCRED
        {
            return bridge.option(kernel, level, name, room);
        }
        let mut value = kernel.unix(|table| table.get(self.id)?.option(kernel, level, name))?;
        value.truncate(room);
        Ok(value)
    }

    fn set_option(&self, kernel: &Kernel, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        match self.bridge.get() {
            Some(bridge) => bridge.set_option(kernel, level, name, value),
            None => kernel.unix(|table| table.get(self.id)?.set_option(level, name, value)),
        }
    }

    fn timeout(&self, kernel: &Kernel, direction: Direction) -> Option<u64> {
        if let Some(bridge) = self.bridge.get() {
            return bridge.timeout(kernel, direction);
        }
        kernel.unix(|table| table.get(self.id).ok()?.options.timeout(direction))
    }

    fn send(
        &self,
        kernel: &Kernel,
        from: &[VolatileSlice<'_>],
        to: Option<&[u8]>,
        control: Control,
        flags: i32,
    ) -> Result<usize, Errno> {
        if let Some(bridge) = self.bridge.get() {
            return bridge.send(kernel, from, to, control, flags);
        }
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let own = [PID as u32, kernel.identity.uid, kernel.identity.gid];
        if control.credentials.is_some_and(|named| named != own) {
            return Err(Errno::EPERM);
        }
        let to = match to.filter(|_| self.kind != Kind::Seqpacket) {
            None => None,
            Some(address) => match self.target(kernel, address)? {
                Target::Inside(key) => Some(key),
                Target::Host(..) => return Err(Errno::ECONNREFUSED),
            },
        };
        let credentials = control.credentials.is_some();
        let parcel = Parcel { bytes: from, to: to.as_ref(), files: &control.files, credentials };
        kernel.unix(|table| table.send(&kernel.budget, self.id, parcel))
    }

    fn receive(
        &self,
        kernel: &Kernel,
        into: &[VolatileSlice<'_>],
        flags: i32,
        control_room: usize,
    ) -> Result<Received, Errno> {
        if let Some(bridge) = self.bridge.get() {
            return bridge.receive(kernel, into, flags, control_room);
        }
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        kernel.unix(|table| table.receive(&kernel.budget, self.id, into, flags))
    }

    fn waiting(&self, kernel: &Kernel) -> Result<usize, Errno> {
        match self.bridge.get() {
            Some(bridge) => bridge.waiting(kernel),
            None => kernel.unix(|table| table.waiting(self.id)),
        }
    }
}

impl Object for UnixSocket {
    fn read(&self, kernel: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Ok(Endpoint::receive(self, kernel, into, 0, 0)?.bytes)
    }

    fn write(&self, kernel: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Endpoint::send(self, kernel, from, None, Control::default(), 0)
    }

    fn ready(&self, kernel: &Kernel) -> Ready {
        match self.bridge.get() {
            Some(bridge) => bridge.ready(kernel),
            None => kernel.unix(|table| table.ready(self.id)),
        }
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes { inode: self.id, ..Attributes::synthetic(libc::S_IFSOCK | 0o777) })
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        self.bridge.get().map(Socket::fd)
    }

    fn closed(&self, kernel: &Kernel) {
        kernel.unix(|table| table.close(&kernel.budget, self.id));
    }
}
