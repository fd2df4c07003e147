//! Files and streams of the host: regular files, devices, FIFOs, terminals.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, SeekFrom};
use vm_memory::VolatileSlice;

use super::errno::Errno;
use super::file::{File, Object, Ready};
use super::host_fd::HostFd;
use super::host_io;
use super::kernel::Kernel;
use super::stat::Attributes;

/// A stream that is ready takes this much without waiting.
const ATOMIC: usize = 4096;

/// A host descriptor.
pub struct HostFile {
    fd: HostFd,
    /// Reads and writes may wait: anything but regular files and block devices.
    stream: bool,
    /// Its mode, owner and times may be changed, and it may be opened anew with other rights.
    changeable: bool,
}

impl HostFile {
    /// A file of this type. `changeable`: it is the guest's own, rather than lent to it (a device, an inherited stream) or
    /// below a read-only mount.
    pub fn new(fd: HostFd, kind: FileType, changeable: bool) -> HostFile {
        HostFile { fd, stream: !matches!(kind, FileType::RegularFile | FileType::BlockDevice), changeable }
    }

    /// Whether mode, owner and times may be changed, and rights that the descriptor does not have be gained by opening it anew.
    pub fn is_changeable(&self) -> bool {
        self.changeable
    }

    /// The descriptor, for calls that are passed on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it is a stream.
    pub fn is_stream(&self) -> bool {
        self.stream
    }
}

/// What the host says of a descriptor's readiness.
pub fn host_ready(fd: BorrowedFd<'_>) -> Ready {
    let flags = PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::RDHUP;
    let mut polled = [PollFd::from_borrowed_fd(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled, Some(&now)) {
        Ok(_) => {
            let mut ready = Ready::from_bits_truncate(u32::from(polled[0].revents().bits()));
            ready.set(Ready::RDNORM, ready.contains(Ready::IN));
            ready.set(Ready::WRNORM, ready.contains(Ready::OUT));
            ready
        }
        Err(_) => Ready::ERR,
    }
}

impl Object for HostFile {
    fn read(&self, _: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        if !self.stream {
            return host_io::read(&self.fd, into);
        }
        if !host_ready(self.fd()).intersects(Ready::IN | Ready::HUP | Ready::ERR) {
            return Err(Errno::EAGAIN);
        }
        host_io::read_now(&self.fd, into)
    }

    fn write(&self, _: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        if !self.stream {
            return host_io::write(&self.fd, from);
        }
        // In pieces that a ready stream takes whole: a larger one could hold up this host thread.
        let mut done = 0;
        for slice in from {
            let mut at = 0;
            while at < slice.len() {
                if !host_ready(self.fd()).intersects(Ready::OUT | Ready::HUP | Ready::ERR) {
                    return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
                }
                let n = (slice.len() - at).min(ATOMIC);
                let piece = slice.subslice(at, n).map_err(|_| Errno::EFAULT)?;
                match host_io::write_now(&self.fd, &[piece]) {
                    Ok(n) => (done, at) = (done + n, at + n),
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(done)
    }

    fn read_at(&self, into: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
        host_io::pread(&self.fd, into, offset)
    }

    fn write_at(&self, from: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
        host_io::pwrite(&self.fd, from, offset)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        let from_start = || u64::try_from(offset).map_err(|_| Errno::EINVAL);
        let position = match whence {
            libc::SEEK_SET => SeekFrom::Start(from_start()?),
            libc::SEEK_CUR => SeekFrom::Current(offset),
            libc::SEEK_END => SeekFrom::End(offset),
            libc::SEEK_DATA => SeekFrom::Data(u64::try_from(offset).map_err(|_| Errno::ENXIO)?),
            libc::SEEK_HOLE => SeekFrom::Hole(u64::try_from(offset).map_err(|_| Errno::ENXIO)?),
            _ => return Err(Errno::EINVAL),
        };
        Ok(rustix::fs::seek(&self.fd, position)?)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        if self.stream { host_ready(self.fd()) } else { Ready::ALWAYS }
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::from_host(&rustix::fs::fstat(&self.fd)?))
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        self.stream.then(|| self.fd())
    }
}
