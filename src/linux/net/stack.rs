//! The network in which a program's host sockets are made.
//!
//! Under [`Policy::Loopback`] it is a network namespace of the program's own, made at its first socket (0.4 to 1 ms on the machine where
//! this was measured; entering and leaving it take some microseconds). A worker enters it only to make a socket: a socket stays in the
//! network where it was made, whichever thread uses it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::super::errno::Errno;
use super::policy::Policy;
use super::unix::Unix;
use super::host;

/// A program's networks.
pub struct Network {
    policy: Policy,
    /// Its own, once it was made; the error if it could not be.
    own: OnceLock<Result<OwnedFd, Errno>>,
    /// Its Unix sockets.
    pub(super) unix: Unix,
}

impl Network {
    /// No network is made yet.
    pub fn new(policy: Policy) -> Network {
        Network { policy, own: OnceLock::new(), unix: Unix::default() }
    }

    /// Whom the program may talk to.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// A host socket in the program's network; `EACCES` if it has none.
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        self.within(|| host::socket(domain, kind, protocol))
    }

    /// The text of one of the host kernel's tables about the program's network, a file of `/proc/net`.
    pub fn table(&self, name: &'static str) -> Result<Vec<u8>, Errno> {
        let path = format!("/proc/self/task/{}/net/{name}", rustix::thread::gettid().as_raw_nonzero());
        self.within(|| Ok(std::fs::read(path)?))
    }

    /// Runs `work` in the program's network; `EACCES` if it has none.
    fn within<T>(&self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let own = match self.policy {
            Policy::Closed => return Err(Errno::EACCES),
            Policy::Open => return work(),
            Policy::Loopback => self.own.get_or_init(make),
        };
        let own = own.as_ref().map_err(|error| *error)?;
        inside(|| enter(own.as_fd()), work)
    }
}

/// Makes a network with a loopback interface that is up.
fn make() -> Result<OwnedFd, Errno> {
    let made = inside(
        // SAFETY: the thread shares no state with others that depends on its network.
        || Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?),
        || {
            host::loopback_up()?;
            current()
        },
    );
    made.map_err(|errno| {
        tracing::warn!(errno = errno.name(), "no network can be made for the program; it gets no internet sockets");
        Errno::EACCES
    })
}

/// The calling thread's network.
fn current() -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/task/{}/ns/net", rustix::thread::gettid().as_raw_nonzero());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter(network: std::os::fd::BorrowedFd<'_>) -> Result<(), Errno> {
    Ok(rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?)
}

/// Runs `work` after `change` put the calling thread into another network, and puts it back.
fn inside<T>(change: impl FnOnce() -> Result<(), Errno>, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    static HOST: OnceLock<OwnedFd> = OnceLock::new();
    let host = match HOST.get() {
        Some(host) => host,
        None => {
            let host = current()?;
            HOST.get_or_init(|| host)
        }
    };
    change()?;
    let outcome = work();
    if let Err(errno) = enter(host.as_fd()) {
        // The thread stays where less can be reached than before: it can serve no other program wrongly, as it serves only this one.
        tracing::error!(errno = errno.name(), fd = host.as_raw_fd(), "a thread cannot return to the host's network");
    }
    outcome
}
