//! Sockets: host sockets behind the guest's descriptors, and a policy for whom they may talk to.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the socket as a file |
//! | `policy.rs` | which addresses may be used |
//! | `address.rs` | socket addresses between guest and host |
//! | `host.rs` | the host's system calls |
//! | `calls.rs` | making, connecting, options |
//! | `message.rs` | sending and receiving |
//!
//! The host's sockets never wait; a call that would wait is begun again when the host says that the socket is ready.

mod address;
#[allow(missing_docs)] // Handlers are named after their system calls.
pub mod calls;
mod host;
#[allow(missing_docs)] // As above.
pub mod message;
mod policy;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use vm_memory::VolatileSlice;

use super::errno::Errno;
use super::file::{File, Object, Ready};
use super::host_file::host_ready;
use super::kernel::Kernel;
use super::stat::Attributes;

pub use policy::Policy;

/// A host socket, always non-blocking on the host.
pub struct Socket {
    fd: OwnedFd,
    /// `AF_…` and `SOCK_…`.
    domain: i32,
    kind: i32,
    /// Names of a Unix socket and its peer as the guest gave them: the host's kernel knows others.
    names: Mutex<Names>,
}

#[derive(Clone, Default)]
struct Names {
    local: Option<Vec<u8>>,
    peer: Option<Vec<u8>>,
}

impl Socket {
    fn new(fd: OwnedFd, domain: i32, kind: i32) -> Socket {
        Socket { fd, domain, kind, names: Mutex::default() }
    }

    /// The host's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Socket {
    fn read(&self, _: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Ok(host::receive(self.fd(), into, 0, 0, 0)?.bytes)
    }

    fn write(&self, _: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        host::send(self.fd(), from, None, &[], 0)
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
