//! Sockets.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | what every socket can do |
//! | `calls.rs` | making, connecting, naming; options |
//! | `message.rs` | sending and receiving |
//! | `control.rs` | control messages |
//! | `address.rs` | socket addresses between guest and host |
//! | `unix/` | Unix sockets, which are the guest's own |
//! | `stream.rs` | a stream whose other end Hydra holds |
//! | `inet.rs` | internet sockets: host sockets behind the guest's descriptors |
//! | `netlink.rs`, `interfaces.rs` | what may be asked of the host's network interfaces |
//! | `host.rs` | the host's system calls |
//! | `saved.rs` | what becomes of a host socket by a checkpoint |
//! | `policy.rs`, `stack.rs` | in which of the host's networks the host sockets are |
//!
//! No operation waits; a call that would wait is begun again when its socket is ready.
//!
//! # Checkpoint and restore
//! Unix sockets and what waits in them are part of a checkpoint. A host socket is not: after a restore a connection reads as reset
//! (`ECONNRESET`, then the end), a listener and a bound datagram socket are opened and bound anew, and if that cannot be done, as
//! where the port is taken, they read as reset too. A netlink socket is opened anew, and a stream to Hydra is another one.

mod address;
#[allow(missing_docs)] // Handlers are named after their system calls.
pub mod calls;
mod control;
mod host;
mod inet;
mod interfaces;
#[allow(missing_docs)] // As above.
pub mod message;
mod netlink;
mod policy;
mod saved;
mod stack;
mod stream;
pub mod unix;

use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::context::Ctx;
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};
use super::kernel::Kernel;
use control::Control;

pub use inet::Socket;
pub use policy::Policy;
pub use saved::SavedSocket;
pub use stack::Network;
pub use stream::{GuestStream, HostStream, ROOM as STREAM_ROOM, stream};

/// A way through a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the program.
    Receive,
    /// From it.
    Send,
}

/// What `shutdown` ends: the way to the program, and that from it.
fn ended_by(how: i32) -> Result<(bool, bool), Errno> {
    match how {
        libc::SHUT_RD => Ok((true, false)),
        libc::SHUT_WR => Ok((false, true)),
        libc::SHUT_RDWR => Ok((true, true)),
        _ => Err(Errno::EINVAL),
    }
}

/// What was received.
#[derive(Default)]
pub struct Received {
    /// Bytes of data; with `MSG_TRUNC` in the call's flags, of the whole packet.
    bytes: usize,
    /// The sender's address, if there is one.
    address: Vec<u8>,
    /// Control messages that the host made.
    control: Vec<u8>,
    /// Files that were sent along.
    files: Vec<Arc<File>>,
    /// The sender's credentials are wanted.
    with_credentials: bool,
    /// `MSG_…` flags of the message.
    flags: i32,
}

/// What every socket can do. Addresses are `struct sockaddr` of the socket's family.
trait Endpoint {
    /// Whether what is sent has no boundaries.
    fn is_stream(&self) -> bool;
    /// `bind`.
    fn bind(&self, kernel: &Kernel, address: &[u8]) -> Result<(), Errno>;
    /// `connect`. `EAGAIN` and `EINPROGRESS` ask to be called again, after the latter with `again`, when the socket is ready.
    fn connect(&self, kernel: &Kernel, address: &[u8], again: bool) -> Result<(), Errno>;
    /// `listen`.
    fn listen(&self, kernel: &Kernel, backlog: i32) -> Result<(), Errno>;
    /// `accept`: the connection, not yet a file, and the peer's address.
    fn accept(&self, kernel: &Kernel) -> Result<(Kind, Vec<u8>), Errno>;
    /// `getsockname`.
    fn local_address(&self, kernel: &Kernel) -> Result<Vec<u8>, Errno>;
    /// `getpeername`.
    fn peer_address(&self, kernel: &Kernel) -> Result<Vec<u8>, Errno>;
    /// `shutdown`.
    fn shutdown(&self, kernel: &Kernel, how: i32) -> Result<(), Errno>;
    /// `getsockopt` of at most `room` bytes.
    fn option(&self, kernel: &Kernel, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno>;
    /// `setsockopt`.
    fn set_option(&self, kernel: &Kernel, level: i32, name: i32, value: &[u8]) -> Result<(), Errno>;
    /// Nanoseconds of `SO_RCVTIMEO` or `SO_SNDTIMEO`, if one is set.
    fn timeout(&self, kernel: &Kernel, direction: Direction) -> Option<u64>;
    /// Sends what there is room for. `EPIPE` where nobody can receive it.
    fn send(
        &self,
        kernel: &Kernel,
        from: &[VolatileSlice<'_>],
        to: Option<&[u8]>,
        control: Control,
        flags: i32,
    ) -> Result<usize, Errno>;
    /// Receives what is there, with at most `control_room` bytes of the host's control messages.
    fn receive(
        &self,
        kernel: &Kernel,
        into: &[VolatileSlice<'_>],
        flags: i32,
        control_room: usize,
    ) -> Result<Received, Errno>;
    /// Bytes that wait, as `FIONREAD` shows them.
    fn waiting(&self, kernel: &Kernel) -> Result<usize, Errno>;
}

impl File {
    /// Nanoseconds for which a call waits for it, if it is a socket for which that was set.
    pub fn timeout(&self, kernel: &Kernel, direction: Direction) -> Option<u64> {
        self.endpoint().ok()?.timeout(kernel, direction)
    }

    /// The socket; `ENOTSOCK` if it is none.
    fn endpoint(&self) -> Result<&dyn Endpoint, Errno> {
        match &self.kind {
            Kind::Socket(socket) => Ok(socket),
            Kind::Unix(socket) => Ok(socket),
            Kind::Stream(socket) => Ok(socket),
            _ => Err(Errno::ENOTSOCK),
        }
    }
}

/// An `ioctl` that is for sockets only: `ENOTTY` for other files and requests.
pub fn ioctl(ctx: &Ctx<'_>, file: &File, request: u32, pointer: u64) -> SysResult {
    const FIONREAD: u32 = libc::FIONREAD as u32;
    const TIOCOUTQ: u32 = libc::TIOCOUTQ as u32;
    const SIOCATMARK: u32 = 0x8905;
    let socket = file.endpoint().map_err(|_| Errno::ENOTTY)?;
    match request {
        FIONREAD => {
            let waiting = socket.waiting(ctx.kernel)?;
            ctx.kernel.write(pointer, &i32::try_from(waiting).unwrap_or(i32::MAX)).map(|()| 0)
        }
        TIOCOUTQ | SIOCATMARK => match &file.kind {
            Kind::Socket(socket) => {
                let answer = host::ask_int(socket.fd(), libc::c_ulong::from(request))?;
                ctx.kernel.write(pointer, &answer).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        },
        request => interfaces::ioctl(ctx, request, pointer).unwrap_or(Err(Errno::ENOTTY)),
    }
}
