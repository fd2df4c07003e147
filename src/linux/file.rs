//! Open file descriptions: what a descriptor stands for.
//!
//! Each kind of file is an [`Object`] in a file of its own, and a variant of [`Kind`]. Its operations never wait: they say `EAGAIN`,
//! and `io.rs` decides whether the caller waits. When an object becomes ready it calls [`Kernel::changed`].

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use vm_memory::VolatileSlice;

use super::context::{Ctx, OnSignal};
use super::directory::Directory;
use super::epoll::Epoll;
use super::errno::Errno;
use super::eventfd::EventFd;
use super::host_fd::HostFd;
use super::host_file::HostFile;
use super::kernel::Kernel;
use super::net::unix::UnixSocket;
use super::net::{GuestStream, Socket};
use super::pipe::PipeEnd;
use super::stat::Attributes;
use super::text::Text;
use super::thread::{FileId, Wait};
use super::timerfd::TimerFd;
use super::tmpfs::OpenFile;

bitflags::bitflags! {
    /// Readiness, with the bits of `poll` and `epoll`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Ready: u32 {
        /// Something can be read, or its end.
        const IN = 0x1;
        /// Urgent data.
        const PRI = 0x2;
        /// Something can be written.
        const OUT = 0x4;
        /// An error waits.
        const ERR = 0x8;
        /// The other side is gone.
        const HUP = 0x10;
        /// Not an open descriptor; `poll` only.
        const NVAL = 0x20;
        /// As `IN`.
        const RDNORM = 0x40;
        /// As `OUT`.
        const WRNORM = 0x100;
        /// The other side writes no more.
        const RDHUP = 0x2000;
    }
}

impl Ready {
    /// Readable and writable, as files on disk always are.
    pub const ALWAYS: Ready = Ready::IN.union(Ready::OUT).union(Ready::RDNORM).union(Ready::WRNORM);
}

/// What a kind of file can do. Operations that a kind does not have keep the default: the errno that Linux gives.
pub trait Object {
    /// Reads at the current position.
    fn read(&self, _kernel: &Kernel, _file: &File, _into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Writes at the current position.
    fn write(&self, _kernel: &Kernel, _file: &File, _from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Reads from an offset.
    fn read_at(&self, _into: &[VolatileSlice<'_>], _offset: u64) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }
    /// Writes at an offset.
    fn write_at(&self, _from: &[VolatileSlice<'_>], _offset: u64) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }
    /// Moves the current position.
    fn seek(&self, _offset: i64, _whence: i32) -> Result<u64, Errno> {
        Err(Errno::ESPIPE)
    }
    /// What would not wait now.
    fn ready(&self, kernel: &Kernel) -> Ready;
    /// What `fstat` shows.
    fn attributes(&self) -> Result<Attributes, Errno>;
    /// The host descriptor whose readiness is this file's.
    fn host(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// The last descriptor is closed.
    fn closed(&self, _kernel: &Kernel) {}
}

/// The kinds of file.
pub enum Kind {
    /// A file or stream of the host.
    Host(HostFile),
    /// A file of a tmpfs, or a memory file.
    Tmpfs(OpenFile),
    /// A directory.
    Directory(Directory),
    /// An end of a pipe.
    Pipe(PipeEnd),
    /// `eventfd`.
    Event(EventFd),
    /// `timerfd`.
    Timer(TimerFd),
    /// `epoll`.
    Epoll(Epoll),
    /// A socket of the host.
    Socket(Socket),
    /// A Unix socket.
    Unix(UnixSocket),
    /// A stream to Hydra.
    Stream(GuestStream),
    /// A file of `/proc` whose text was made when it was opened.
    Text(Text),
}

/// An open file description.
pub struct File {
    /// Its number, unique in the VM.
    pub id: FileId,
    /// What it is.
    pub kind: Kind,
    /// The path that it was opened by, as the guest knows it; or a name such as `pipe:[7]`.
    pub path: PathBuf,
    flags: AtomicU32,
    changes: AtomicU64,
    /// It is the one of this number that the program was started with.
    inherited: Option<u32>,
    kernel: Weak<Kernel>,
}

/// What a checkpoint keeps of every open file, whatever its kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    pub id: FileId,
    #[serde(with = "super::checkpoint::path_bytes")]
    pub path: PathBuf,
    pub flags: u32,
    pub changes: u64,
    /// The restored program finds another in its place.
    pub inherited: Option<u32>,
}

/// The open flags that `fcntl` can change.
pub const CHANGEABLE: u32 =
    (libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME) as u32;

impl File {
    /// The object's operations.
    pub fn object(&self) -> &dyn Object {
        match &self.kind {
            Kind::Host(object) => object,
            Kind::Tmpfs(object) => object,
            Kind::Directory(object) => object,
            Kind::Pipe(object) => object,
            Kind::Event(object) => object,
            Kind::Timer(object) => object,
            Kind::Epoll(object) => object,
            Kind::Socket(object) => object,
            Kind::Unix(object) => object,
            Kind::Stream(object) => object,
            Kind::Text(object) => object,
        }
    }

    /// Open flags, as `F_GETFL` shows them.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// `F_SETFL`.
    pub fn set_flags(&self, flags: u32) {
        self.flags.store(self.flags() & !CHANGEABLE | flags & CHANGEABLE, Ordering::Relaxed);
    }

    /// Whether calls that would wait fail instead.
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & libc::O_NONBLOCK as u32 != 0
    }

    /// Whether it can be read, and written.
    pub fn access_mode(&self) -> (bool, bool) {
        if self.flags() & libc::O_PATH as u32 != 0 {
            return (false, false);
        }
        match (self.flags() as i32) & libc::O_ACCMODE {
            libc::O_RDONLY => (true, false),
            libc::O_WRONLY => (false, true),
            _ => (true, true),
        }
    }

    /// `EBADF` unless it was opened for reading.
    pub fn check_readable(&self) -> Result<(), Errno> {
        if self.access_mode().0 { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// `EBADF` unless it was opened for writing.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.access_mode().1 { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// How often its readiness has changed; edge-triggered polling compares it.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The host's descriptor, of a file that can be mapped.
    pub fn mappable(&self) -> Result<BorrowedFd<'_>, Errno> {
        match &self.kind {
            Kind::Host(host) if !host.is_stream() => Ok(host.fd()),
            _ => Err(Errno::ENODEV),
        }
    }
}

impl File {
    /// What a checkpoint keeps beside the kind.
    pub(super) fn known(&self) -> Known {
        let (path, flags, changes) = (self.path.clone(), self.flags(), self.changes());
        Known { id: self.id, path, flags, changes, inherited: self.inherited }
    }
}

impl File {
    /// As [`Kernel::changed`], from outside of the program: not while it is being checkpointed.
    pub(super) fn announce(&self) {
        if let Some(kernel) = self.kernel.upgrade() {
            let _events = kernel.reactor.stop_events();
            kernel.changed(self);
        }
    }
}

/// What a program is started with, or goes on with, as a descriptor.
pub enum Inherited {
    /// A descriptor of the host, with its open flags.
    Host(OwnedFd, u32),
    /// A stream to Hydra.
    Stream(GuestStream),
}

impl Inherited {
    fn flags(&self) -> u32 {
        match self {
            Inherited::Host(_, flags) => *flags,
            Inherited::Stream(_) => libc::O_RDWR as u32,
        }
    }

    pub(super) fn kind(self) -> Result<Kind, Errno> {
        match self {
            Inherited::Host(fd, _) => host_kind(HostFd::given(fd), false),
            Inherited::Stream(stream) => Ok(Kind::Stream(stream)),
        }
    }
}

/// What a host descriptor is.
pub(super) fn host_kind(fd: HostFd, changeable: bool) -> Result<Kind, Errno> {
    Ok(match rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        rustix::fs::FileType::Directory => Kind::Directory(Directory::new(fd)),
        rustix::fs::FileType::Socket => Kind::Socket(Socket::lent(fd)?),
        kind => Kind::Host(HostFile::new(fd, kind, changeable)),
    })
}

/// Host memory that is held for the path of a file, in bytes: longer ones count.
pub(super) fn path_cost(path: &Path) -> usize {
    const FREE: usize = 256;
    path.as_os_str().len().saturating_sub(FREE)
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.budget.give(path_cost(&self.path));
            kernel.reactor.forget(self.id);
            kernel.release_locks(self, self.id);
            if let Kind::Timer(timer) = &self.kind {
                timer.disarm(&kernel, self);
            }
            self.object().closed(&kernel);
        }
    }
}

impl Kernel {
    /// A new open file description, of something with a short name.
    pub fn new_file(&self, kind: Kind, path: PathBuf, flags: u32) -> Arc<File> {
        debug_assert_eq!(path_cost(&path), 0);
        self.number_file(kind, path, flags, None)
    }

    /// The same of something with any path; `ENOMEM` if too much is held for the program already.
    pub fn new_file_at(&self, kind: Kind, path: PathBuf, flags: u32) -> Result<Arc<File>, Errno> {
        self.budget.take(path_cost(&path)).map_err(|_| Errno::ENOMEM)?;
        Ok(self.number_file(kind, path, flags, None))
    }

    fn number_file(&self, kind: Kind, path: PathBuf, flags: u32, inherited: Option<u32>) -> Arc<File> {
        let id = self.next_inode();
        self.open_file(kind, Known { id, path, flags, changes: 0, inherited })
    }

    /// A number that no file has, and no other object that asked for one.
    pub fn next_inode(&self) -> u64 {
        /// Smaller numbers are the reactor's own.
        const FIRST: u64 = 16;
        FIRST + self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// An open file description, as what it is known by.
    pub(super) fn open_file(&self, kind: Kind, known: Known) -> Arc<File> {
        let Known { id, path, flags, changes, inherited } = known;
        let (flags, changes) = (AtomicU32::new(flags), AtomicU64::new(changes));
        Arc::new(File { id, kind, path, flags, changes, inherited, kernel: self.weak() })
    }

    /// How many files were made so far.
    pub fn files_made(&self) -> u64 {
        self.next_file.load(Ordering::Relaxed)
    }

    /// Continues the count of a checkpoint.
    pub fn set_files_made(&self, count: u64) {
        self.next_file.store(count, Ordering::Relaxed);
    }

    /// Descriptor `number` of those that the program is started with.
    pub fn inherited_file(&self, given: Inherited, number: u32) -> Result<Arc<File>, Errno> {
        let flags = given.flags();
        let file = self.number_file(given.kind()?, format!("/dev/fd/{number}").into(), flags, Some(number));
        if let Kind::Stream(stream) = &file.kind {
            stream.shown_as(&file);
        }
        Ok(file)
    }

    /// A new file on a host descriptor, directory or not. `changeable`: see [`HostFile::new`]. `ENFILE` if the program has too many.
    pub fn new_host_file(
        &self,
        fd: OwnedFd,
        path: PathBuf,
        flags: u32,
        changeable: bool,
    ) -> Result<Arc<File>, Errno> {
        self.new_file_at(host_kind(self.host_fds.room()?.hold(fd), changeable)?, path, flags)
    }

    /// Says that the readiness of `file` may have changed.
    pub fn changed(&self, file: &File) {
        file.changes.fetch_add(1, Ordering::AcqRel);
        self.wake_file(file.id);
    }
}

impl Ctx<'_> {
    /// Waits for a change of any of `files`: see [`Ctx::block`].
    #[must_use]
    pub fn wait_for(&mut self, files: &[Arc<File>], deadline: Option<u64>, on_signal: OnSignal) -> Errno {
        for file in files {
            if let Some(fd) = file.object().host()
                && let Err(error) = self.kernel.reactor.watch(file, fd)
            {
                return error;
            }
        }
        let mut files: Vec<FileId> = files.iter().map(|file| file.id).collect();
        files.sort_unstable();
        files.dedup();
        self.block(Wait { deadline, files, futex: false }, on_signal)
    }
}
