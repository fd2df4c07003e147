//! A stream between a program and Hydra: to the program a connected Unix socket, whose other end Hydra holds.
//!
//! What goes through waits in memory, [`ROOM`] bytes in each direction, and wakes nobody but who waits for it: neither end has a
//! descriptor of the host. A restored program finds the stream that it is given then, in which waits what Hydra had not read at the checkpoint.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::super::file::{File, Kind, Object, Ready};
use super::super::kernel::Kernel;
use super::super::stat::Attributes;
use super::super::user::{gather, scatter};
use super::control::Control;
use super::unix::Record;
use super::{Direction, Endpoint, Received, ended_by};
use crate::sync::lock;

/// Bytes up to which an end may send: about what a Unix socket of Linux holds. What Hydra gives back comes on top.
pub const ROOM: usize = 256 << 10;
/// Memory that a direction in which nothing waits keeps, in bytes.
const KEPT: usize = 16 << 10;

/// A new stream: Hydra's end and the program's.
#[must_use]
pub fn stream() -> (HostStream, GuestStream) {
    let pipe = Arc::new(Pipe { state: Mutex::new(State::new()), file: OnceLock::new() });
    (HostStream(Arc::clone(&pipe)), GuestStream(pipe))
}

/// Hydra's end. The program reads the end of the stream when this is dropped.
pub struct HostStream(Arc<Pipe>);

/// The program's end. Hydra reads the end of the stream when this is dropped.
pub struct GuestStream(Arc<Pipe>);

/// What both ends share.
struct Pipe {
    state: Mutex<State>,
    /// What the program has open.
    file: OnceLock<Weak<File>>,
}

struct State {
    /// The program's end as any Unix socket, but for its queue. Both ways of it are shut when either end is gone.
    socket: Record,
    /// On its way to the program, and to Hydra.
    inward: BytesMut,
    outward: BytesMut,
    /// The program's end went with bytes unread, of which Hydra was not told yet.
    host_reset: bool,
    /// The program was refused room.
    starved: bool,
    /// Hydra waits for bytes, or for room.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn new() -> State {
        State {
            socket: Record::connected(),
            inward: BytesMut::new(),
            outward: BytesMut::new(),
            host_reset: false,
            starved: false,
            reader: None,
            writer: None,
        }
    }

    /// An end goes, and with it all that can be received there.
    fn shut(&mut self) {
        (self.socket.receive_shut, self.socket.send_shut) = (true, true);
    }

    /// Whether `poll` shows the program room, as Linux decides it for Unix sockets.
    fn has_room(&self) -> bool {
        self.outward.len() * 4 <= ROOM
    }

    /// Those of Hydra who wait; they look again.
    fn waiting(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }
}

/// Takes the first `n` bytes away.
fn consume(bytes: &mut BytesMut, n: usize) {
    bytes.advance(n);
    if bytes.is_empty() && bytes.try_reclaim(KEPT + 1) {
        *bytes = BytesMut::new();
    }
}

fn wake(waiting: [Option<Waker>; 2]) {
    waiting.into_iter().flatten().for_each(Waker::wake);
}

impl Pipe {
    /// Tells the program to look again.
    fn announce(&self) {
        if let Some(file) = self.file.get().and_then(Weak::upgrade) {
            file.announce();
        }
    }
}

impl HostStream {
    /// Adds what the program has sent to `into`: how many bytes, 0 at the end of the stream. One task at a time waits here.
    ///
    /// # Errors
    /// `ConnectionReset`, once, when the program's end went with bytes unread.
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<std::io::Result<usize>> {
        let mut state = lock(&self.0.state);
        let sent = state.outward.len();
        if sent > 0 {
            let was_short = std::mem::take(&mut state.starved) || !state.has_room();
            into.extend_from_slice(&state.outward);
            consume(&mut state.outward, sent);
            drop(state);
            if was_short {
                self.0.announce();
            }
            return Poll::Ready(Ok(sent));
        }
        if std::mem::take(&mut state.host_reset) {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        if state.socket.send_shut {
            return Poll::Ready(Ok(0));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Gives back what was read and not used, to be read again: all of `bytes`, which must be the last that was read.
    pub fn give_back(&self, bytes: &mut BytesMut) {
        let mut state = lock(&self.0.state);
        bytes.extend_from_slice(&state.outward);
        state.outward = std::mem::take(bytes);
    }

    /// Sends the program as much of `bytes` as there is room for: how much. One task at a time waits here.
    ///
    /// # Errors
    /// `BrokenPipe` when the program reads no more.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut state = lock(&self.0.state);
        if state.socket.receive_shut {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        let taken = bytes.len().min(ROOM - state.inward.len());
        if taken == 0 && !bytes.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.inward.extend_from_slice(&bytes[..taken]);
        drop(state);
        self.0.announce();
        Poll::Ready(Ok(taken))
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.shut();
        if !std::mem::take(&mut state.outward).is_empty() {
            state.socket.error = Some(libc::ECONNRESET);
        }
        drop(state);
        self.0.announce();
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.shut();
        state.host_reset = !std::mem::take(&mut state.inward).is_empty();
        let waiting = state.waiting();
        drop(state);
        wake(waiting);
    }
}

impl GuestStream {
    /// Says what the program has open: from now on what comes from Hydra is a change of that file.
    pub fn shown_as(&self, file: &Arc<File>) {
        // A stream is given to one program, as one file.
        let _ = self.0.file.set(Arc::downgrade(file));
    }

    /// What Hydra has not read yet. A checkpoint keeps it: the program may be in the middle of a message.
    pub fn unread(&self) -> Vec<u8> {
        lock(&self.0.state).outward.to_vec()
    }

    /// Gives a restored program's stream what had not been read of the one in whose place it is.
    pub fn take_over(&self, unread: &[u8]) {
        let mut state = lock(&self.0.state);
        state.outward.extend_from_slice(unread);
        let reader = state.reader.take();
        drop(state);
        wake([reader, None]);
    }
}

impl Endpoint for GuestStream {
    fn is_stream(&self) -> bool {
        true
    }

    fn bind(&self, _: &Kernel, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn connect(&self, _: &Kernel, _: &[u8], _: bool) -> Result<(), Errno> {
        Err(Errno::EISCONN)
    }

    fn listen(&self, _: &Kernel, _: i32) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn accept(&self, _: &Kernel) -> Result<(Kind, Vec<u8>), Errno> {
        Err(Errno::EINVAL)
    }

    fn local_address(&self, _: &Kernel) -> Result<Vec<u8>, Errno> {
        Ok(lock(&self.0.state).socket.address())
    }

    fn peer_address(&self, _: &Kernel) -> Result<Vec<u8>, Errno> {
        Ok(lock(&self.0.state).socket.peer_address.clone())
    }

    fn shutdown(&self, _: &Kernel, how: i32) -> Result<(), Errno> {
        let (receive, send) = ended_by(how)?;
        let mut state = lock(&self.0.state);
        state.socket.receive_shut |= receive;
        state.socket.send_shut |= send;
        let waiting = state.waiting();
        drop(state);
        wake(waiting);
        self.0.announce();
        Ok(())
    }

    fn option(&self, kernel: &Kernel, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno> {
        let mut value = lock(&self.0.state).socket.option(kernel, level, name)?;
        value.truncate(room);
        Ok(value)
    }

    fn set_option(&self, _: &Kernel, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        lock(&self.0.state).socket.set_option(level, name, value)
    }

    fn timeout(&self, _: &Kernel, direction: Direction) -> Option<u64> {
        lock(&self.0.state).socket.options.timeout(direction)
    }

    fn send(
        &self,
        _: &Kernel,
        from: &[VolatileSlice<'_>],
        to: Option<&[u8]>,
        control: Control,
        flags: i32,
    ) -> Result<usize, Errno> {
        if to.is_some() {
            return Err(Errno::EISCONN);
        }
        // The program's files are not files of Hydra's.
        if flags & libc::MSG_OOB != 0 || !control.files.is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        let room = |state: &mut State| {
            if state.socket.send_shut {
                return Err(Errno::EPIPE);
            }
            // Hydra may have given back what there is no room for.
            let room = ROOM.saturating_sub(state.outward.len());
            state.starved |= room == 0;
            Ok(room)
        };
        let free = room(&mut lock(&self.0.state))?;
        // Not under the lock: the program's memory may have to be read from the disk first.
        let bytes = gather(from, free);
        let mut state = lock(&self.0.state);
        // Another thread may have sent meanwhile.
        let sent = bytes.len().min(room(&mut state)?);
        if sent == 0 && from.iter().any(|slice| !slice.is_empty()) {
            return Err(Errno::EAGAIN);
        }
        state.outward.extend_from_slice(&bytes[..sent]);
        let reader = state.reader.take();
        drop(state);
        wake([reader, None]);
        Ok(sent)
    }

    fn receive(
        &self,
        _: &Kernel,
        into: &[VolatileSlice<'_>],
        flags: i32,
        _: usize,
    ) -> Result<Received, Errno> {
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = lock(&self.0.state);
        if flags & libc::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        if state.inward.is_empty() {
            if let Some(error) = state.socket.error.take() {
                return Err(Errno::from_host(error));
            }
            let ended = state.socket.receive_shut || into.iter().all(VolatileSlice::is_empty);
            return if ended { Ok(Received::default()) } else { Err(Errno::EAGAIN) };
        }
        let room = into.iter().map(VolatileSlice::len).sum::<usize>().min(state.inward.len());
        let bytes = state.inward[..room].to_vec();
        let mut writer = None;
        if flags & libc::MSG_PEEK == 0 {
            consume(&mut state.inward, room);
            writer = state.writer.take();
        }
        drop(state);
        wake([None, writer]);
        // Not under the lock: the program's memory may have to be read from the disk first.
        Ok(Received { bytes: scatter(into, &bytes), ..Received::default() })
    }

    fn waiting(&self, _: &Kernel) -> Result<usize, Errno> {
        Ok(lock(&self.0.state).inward.len())
    }
}

impl Object for GuestStream {
    fn read(&self, kernel: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Ok(Endpoint::receive(self, kernel, into, 0, 0)?.bytes)
    }

    fn write(&self, kernel: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Endpoint::send(self, kernel, from, None, Control::default(), 0)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        let state = lock(&self.0.state);
        let ended = state.socket.receive_shut;
        let mut ready = Ready::empty();
        ready.set(Ready::IN | Ready::RDNORM, ended || !state.inward.is_empty());
        ready.set(Ready::OUT | Ready::WRNORM, state.has_room());
        ready.set(Ready::RDHUP, ended);
        ready.set(Ready::HUP, ended && state.socket.send_shut);
        ready.set(Ready::ERR, state.socket.error.is_some());
        ready
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(libc::S_IFSOCK | 0o777))
    }
}
