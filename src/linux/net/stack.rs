//! The network in which a program's host sockets are made.
//!
//! Under [`Policy::Loopback`] it is a network namespace of the program's own, made at its first socket (0.4 to 1 ms on the machine where
//! this was measured). A thread is in it only to make a socket: a socket stays in the network where it was made, whichever thread uses it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::super::errno::Errno;
use super::super::rights::Rights;
use super::host;
use super::policy::Policy;
use super::unix::Unix;

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
        self.within(|| Ok(std::fs::read(format!("/proc/thread-self/net/{name}"))?))
    }

    /// Runs `work` in the program's network; `EACCES` if it has none.
    fn within<T: Send>(&self, work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
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
        tracing::warn!(
            errno = errno.name(),
            "no network can be made for the program; it gets no internet sockets"
        );
        Errno::EACCES
    })
}

/// The calling thread's network.
fn current() -> Result<OwnedFd, Errno> {
    Ok(rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter(network: std::os::fd::BorrowedFd<'_>) -> Result<(), Errno> {
    Ok(rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?)
}

/// Runs `work` on a thread of its own, which ends after it, once `change` has put that into another network, or made it act for another user.
pub(super) fn inside<T: Send>(
    change: impl FnOnce() -> Result<(), Errno> + Send,
    work: impl FnOnce() -> Result<T, Errno> + Send,
) -> Result<T, Errno> {
    thread::scope(|scope| {
        let moved = thread::Builder::new().name("network".into()).spawn_scoped(scope, || {
            // A thread that acts for a sandbox may not make the change.
            Rights::Own.assume()?;
            change()?;
            work()
        });
        match moved?.join() {
            Ok(outcome) => outcome,
            Err(defect) => std::panic::resume_unwind(defect),
        }
    })
}
