//! Pipes, inside the guest.

mod buffer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use serde::{Deserialize, Serialize};
use vm_memory::VolatileSlice;

use super::budget::Budget;
use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind, Object, Ready};
use super::kernel::Kernel;
use super::stat::Attributes;
use super::thread::FileId;
use super::user::scatter;
use crate::sync::lock;
use buffer::{ATOMIC, Buffer};

/// One end.
pub struct PipeEnd {
    buffer: Arc<Mutex<Buffer>>,
    writes: bool,
    /// Number of the pipe, unlike any other's.
    inode: u64,
    /// The file of the other end, to tell it of changes.
    peer: Mutex<Weak<File>>,
}

/// What a checkpoint keeps of an end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedPipe {
    writes: bool,
    inode: u64,
    /// The file of the other end, if that is open.
    peer: Option<FileId>,
    /// Kept with the end for reading; with the other if that is all there is.
    content: Option<Buffer>,
}

/// The pipes of a program that is being restored.
pub type SavedPipes = BTreeMap<FileId, Arc<Mutex<Buffer>>>;

impl SavedPipe {
    /// The file of the other end, if that is open.
    pub fn peer(&self) -> Option<FileId> {
        self.peer
    }
}

impl PipeEnd {
    /// What a checkpoint keeps.
    pub fn save(&self, is_open: impl Fn(FileId) -> bool) -> SavedPipe {
        let peer = lock(&self.peer).upgrade();
        let peer = peer.map(|peer| peer.id).filter(|peer| is_open(*peer));
        let content = if self.writes && peer.is_some() { None } else { Some(self.lock().clone()) };
        SavedPipe { writes: self.writes, inode: self.inode, peer, content }
    }

    /// The end as it was, as file `id`; `made` are the pipes of the program so far. It gets its peer by [`PipeEnd::join`].
    pub fn restore(id: FileId, saved: &SavedPipe, made: &mut SavedPipes, budget: &Budget) -> PipeEnd {
        let key = saved.peer.map_or(id, |peer| peer.min(id));
        let buffer = made.entry(key).or_default();
        let mut content = lock(buffer);
        if let Some(saved) = saved.content.as_ref().filter(|saved| saved.is_consistent()) {
            budget.give(content.len());
            budget.take_restored(saved.len());
            content.clone_from(saved);
        }
        if saved.peer.is_none() {
            (content.reader_gone, content.writer_gone) = (saved.writes, !saved.writes);
        }
        drop(content);
        let (buffer, peer) = (Arc::clone(buffer), Mutex::default());
        PipeEnd { buffer, writes: saved.writes, inode: saved.inode, peer }
    }

    /// Makes `other` the other end of a restored one.
    pub fn join(&self, other: &Arc<File>) {
        *lock(&self.peer) = Arc::downgrade(other);
    }

    /// An end whose other end is gone: it reads as over, and writing fails with `EPIPE`.
    pub fn cut(flags: u32) -> PipeEnd {
        let writes = flags as i32 & libc::O_ACCMODE == libc::O_WRONLY;
        let mut buffer = Buffer::default();
        (buffer.reader_gone, buffer.writer_gone) = (writes, !writes);
        PipeEnd { buffer: Arc::new(Mutex::new(buffer)), writes, inode: 0, peer: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        lock(&self.buffer)
    }

    fn tell_peer(&self, kernel: &Kernel) {
        let peer = lock(&self.peer).upgrade();
        if let Some(peer) = peer {
            kernel.changed(&peer);
        }
    }

    /// Bytes that wait to be read.
    pub fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.lock().capacity()
    }

    /// Changes that to `wanted` or a little more; returns what it is then. `EBUSY` where more than that waits to be read.
    pub fn set_capacity(&self, kernel: &Kernel, wanted: usize) -> Result<usize, Errno> {
        let capacity = self.lock().set_capacity(wanted)?;
        self.tell_peer(kernel);
        Ok(capacity)
    }
}

/// Whether each write through the file is a packet.
fn makes_packets(file: &File) -> bool {
    file.flags() & libc::O_DIRECT as u32 != 0
}

impl Object for PipeEnd {
    fn read(&self, kernel: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let mut buffer = self.lock();
        let room: usize = into.iter().map(VolatileSlice::len).sum();
        if room == 0 {
            return Ok(0);
        }
        if buffer.is_empty() {
            return if buffer.writer_gone { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let bytes = buffer.read(&kernel.budget, room);
        drop(buffer);
        scatter(into, &bytes);
        self.tell_peer(kernel);
        Ok(bytes.len())
    }

    fn write(&self, kernel: &Kernel, file: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let mut buffer = self.lock();
        if buffer.reader_gone {
            return Err(Errno::EPIPE);
        }
        let written = buffer.write(&kernel.budget, from, makes_packets(file))?;
        drop(buffer);
        self.tell_peer(kernel);
        Ok(written)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        let buffer = self.lock();
        let mut ready = Ready::empty();
        if self.writes {
            ready.set(Ready::OUT | Ready::WRNORM, buffer.room(false) >= ATOMIC);
            ready.set(Ready::ERR, buffer.reader_gone);
        } else {
            ready.set(Ready::IN | Ready::RDNORM, !buffer.is_empty());
            ready.set(Ready::HUP, buffer.writer_gone);
        }
        ready
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes { inode: self.inode, ..Attributes::synthetic(libc::S_IFIFO | 0o600) })
    }

    fn closed(&self, kernel: &Kernel) {
        let mut buffer = self.lock();
        if self.writes {
            buffer.writer_gone = true;
        } else {
            buffer.reader_gone = true;
            buffer.clear(&kernel.budget);
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
    let kernel = ctx.kernel;
    let inode = kernel.next_inode();
    let end = |writes| PipeEnd { buffer: Arc::clone(&buffer), writes, inode, peer: Mutex::default() };
    let status = flags & (libc::O_NONBLOCK | libc::O_DIRECT) as u32;
    let name = format!("pipe:[{inode}]");
    let reader = kernel.new_file(Kind::Pipe(end(false)), name.clone().into(), status);
    let writer = kernel.new_file(Kind::Pipe(end(true)), name.into(), status | libc::O_WRONLY as u32);
    for (file, peer) in [(&reader, &writer), (&writer, &reader)] {
        if let Kind::Pipe(end) = &file.kind {
            *lock(&end.peer) = Arc::downgrade(peer);
        }
    }
    kernel.install_pair([reader, writer], flags, pointer)
}
