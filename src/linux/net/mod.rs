//! Sockets.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the socket as a file |

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vm_memory::VolatileSlice;

use super::errno::Errno;
use super::file::{File, Object, Ready};
use super::host_file::host_ready;
use super::host_io;
use super::kernel::Kernel;
use super::stat::Attributes;

/// A host socket, always non-blocking on the host.
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// A non-blocking host socket.
    pub fn new(fd: OwnedFd) -> Socket {
        Socket { fd }
    }

    /// The host's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Object for Socket {
    fn read(&self, _: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        host_io::read(&self.fd, into)
    }

    fn write(&self, _: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        host_io::write(&self.fd, from)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        host_ready(self.fd())
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::from_host(&rustix::fs::fstat(&self.fd)?))
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd())
    }
}
