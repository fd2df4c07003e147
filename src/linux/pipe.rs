//! Pipes, inside the guest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_memory::VolatileSlice;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind, Object, Ready};
use super::kernel::Kernel;
use super::stat::Attributes;
use super::user::{gather, scatter};

/// Bytes that a pipe holds, as on Linux.
const CAPACITY: usize = 64 << 10;
/// Writes of up to this size are not split.
const ATOMIC: usize = 4096;

#[derive(Default)]
struct Buffer {
    bytes: VecDeque<u8>,
    reader_gone: bool,
    writer_gone: bool,
}

/// One end.
pub struct PipeEnd {
    buffer: Arc<Mutex<Buffer>>,
    writes: bool,
    /// The file of the other end, to tell it of changes.
    peer: Mutex<Weak<File>>,
}

impl PipeEnd {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_peer(&self, kernel: &Kernel) {
        let peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(peer) = peer {
            kernel.changed(&peer);
        }
    }

    /// Bytes that wait to be read.
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Whether nothing waits to be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl Object for PipeEnd {
    fn read(&self, kernel: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let mut buffer = self.lock();
        let room: usize = into.iter().map(VolatileSlice::len).sum();
        if buffer.bytes.is_empty() && room > 0 {
            return if buffer.writer_gone { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let n = room.min(buffer.bytes.len());
        let bytes: Vec<u8> = buffer.bytes.drain(..n).collect();
        drop(buffer);
        scatter(into, &bytes);
        self.tell_peer(kernel);
        Ok(n)
    }

    fn write(&self, kernel: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let total: usize = from.iter().map(VolatileSlice::len).sum();
        let mut buffer = self.lock();
        if buffer.reader_gone {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY - buffer.bytes.len();
        if total > 0 && (room == 0 || total <= ATOMIC && room < total) {
            return Err(Errno::EAGAIN);
        }
        let bytes = gather(from, room);
        buffer.bytes.extend(&bytes);
        drop(buffer);
        self.tell_peer(kernel);
        Ok(bytes.len())
    }

    fn ready(&self, _: &Kernel) -> Ready {
        let buffer = self.lock();
        let mut ready = Ready::empty();
        if self.writes {
            ready.set(Ready::OUT | Ready::WRNORM, CAPACITY - buffer.bytes.len() >= ATOMIC);
            ready.set(Ready::ERR, buffer.reader_gone);
        } else {
            ready.set(Ready::IN | Ready::RDNORM, !buffer.bytes.is_empty());
            ready.set(Ready::HUP, buffer.writer_gone);
        }
        ready
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(libc::S_IFIFO | 0o600))
    }

    fn closed(&self, kernel: &Kernel) {
        let mut buffer = self.lock();
        if self.writes {
            buffer.writer_gone = true;
        } else {
            buffer.reader_gone = true;
        }
        drop(buffer);
        self.tell_peer(kernel);
    }
}

pub fn pipe(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make(ctx, args.u64(0), 0)
}

pub fn pipe2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make(ctx, args.u64(0), args.u32(1))
}

fn make(ctx: &Ctx<'_>, pointer: u64, flags: u32) -> SysResult {
    const KNOWN: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT;
    if flags & !(KNOWN as u32) != 0 {
        return Err(Errno::EINVAL);
    }
    let buffer = Arc::new(Mutex::new(Buffer::default()));
    let end = |writes| PipeEnd { buffer: Arc::clone(&buffer), writes, peer: Mutex::default() };
    let status = flags & libc::O_NONBLOCK as u32;
    let name = format!("pipe:[{}]", Arc::as_ptr(&buffer) as usize >> 4 & 0xff_ffff);
    let kernel = ctx.kernel;
    let reader = kernel.new_file(Kind::Pipe(end(false)), name.clone().into(), status);
    let writer = kernel.new_file(Kind::Pipe(end(true)), name.into(), status | libc::O_WRONLY as u32);
    for (file, peer) in [(&reader, &writer), (&writer, &reader)] {
        if let Kind::Pipe(end) = &file.kind {
            *end.peer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(peer);
        }
    }
    let first = kernel.install(reader, flags)?;
    let second = match kernel.install(writer, flags) {
        Ok(second) => second,
        Err(error) => {
            let closed = kernel.descriptors().remove(first as i32);
            drop(closed);
            return Err(error);
        }
    };
    kernel.write(pointer, &[first as i32, second as i32])?;
    Ok(0)
}
