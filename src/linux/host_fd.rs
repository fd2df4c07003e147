//! Descriptors of the host that are held for programs: files that they have open, sockets. All are this process's own, and it needs some
//! itself, for requests and for microVMs: so there is a bound for each program, and one for all together.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

use super::errno::Errno;
use super::rights::Rights;

/// How many all programs of this process hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// How many a program holds, and may.
#[derive(Debug)]
pub struct HostFds {
    held: AtomicUsize,
    most: usize,
    /// Of all programs.
    most_of_all: usize,
}

/// Room for one.
#[derive(Debug)]
pub struct Room(Arc<HostFds>);

/// A descriptor of the host that is held for a program.
#[derive(Debug)]
pub struct HostFd {
    fd: OwnedFd,
    /// None for one that the program was given: those are few.
    _room: Option<Room>,
}

impl HostFds {
    /// Those of a program. All programs together have half of what this process may open. A sandbox has a small part of that, which is
    /// enough to load a large runtime, and no more than a jail gives a process.
    pub fn new(rights: Rights) -> Arc<HostFds> {
        const SHARE: usize = 16;
        const BOUNDS: (usize, usize) = (256, 4096);
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(usize::MAX);
        let most_of_all = limit / 2;
        let most = match rights {
            Rights::Own => most_of_all,
            Rights::Sandbox(_) => (limit / SHARE).clamp(BOUNDS.0, BOUNDS.1),
        };
        Arc::new(HostFds { held: AtomicUsize::new(0), most, most_of_all })
    }

    /// Room for one more; `ENFILE` if there is none.
    pub fn room(self: &Arc<Self>) -> Result<Room, Errno> {
        let take = |held: &AtomicUsize, most| {
            let add = |held| (held < most).then_some(held + 1);
            held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::ENFILE)
        };
        take(&self.held, self.most)?;
        take(&HELD, self.most_of_all).inspect_err(|_| {
            self.held.fetch_sub(1, Ordering::Relaxed);
        })?;
        Ok(Room(Arc::clone(self)))
    }

    /// Holds one for a restored program, which was within the bound when it was saved.
    pub fn hold_again(self: &Arc<Self>, fd: OwnedFd) -> HostFd {
        self.held.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(1, Ordering::Relaxed);
        Room(Arc::clone(self)).hold(fd)
    }
}

impl Room {
    /// Takes the room.
    pub fn hold(self, fd: OwnedFd) -> HostFd {
        HostFd { fd, _room: Some(self) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HostFd {
    /// One that the program is given.
    pub fn given(fd: OwnedFd) -> HostFd {
        HostFd { fd, _room: None }
    }
}

impl AsFd for HostFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_is_gone() {
        let fds = |most| Arc::new(HostFds { held: AtomicUsize::new(0), most, most_of_all: usize::MAX });
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it is everywhere"));
        let (one, other) = (fds(2), fds(1));
        let mut held: Vec<HostFd> = (0..2).map(|_| one.room().expect("room").hold(null())).collect();
        assert_eq!(one.room().err(), Some(Errno::ENFILE));
        assert!(other.room().is_ok());
        held.pop();
        assert!(one.room().is_ok());
        // A restored program has what it had.
        let again: Vec<HostFd> = (0..3).map(|_| one.hold_again(null())).collect();
        assert_eq!(one.room().err(), Some(Errno::ENFILE));
        drop((again, held));
        assert_eq!(one.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_program_leaves_room_for_others() {
        let sandbox = HostFds::new(Rights::Sandbox(None));
        assert!((256..=4096).contains(&sandbox.most), "{sandbox:?}");
        let own = HostFds::new(Rights::Own);
        assert_eq!(own.most, own.most_of_all);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) as usize;
        assert!(own.most <= limit / 2);
    }
}
