//! What is in the directories of `/proc` and `/dev`. Nothing is kept of a list while a directory is open: descriptors and threads are
//! looked at when they are listed.

use std::path::Path;

use super::kernel::{Kernel, PID};
use super::proc::{self, Special};
use super::thread::Tid;

/// The names in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// These, with their `DT_…` types.
    Names(&'static [(&'static str, u8)]),
    /// Those of the open descriptors.
    Descriptors,
    /// Those of the threads.
    Threads,
}

impl Listing {
    /// What a directory that is open lists, by its path; nothing if there is no such directory any more.
    pub fn at(kernel: &Kernel, path: &Path) -> Listing {
        match proc::lookup(kernel, PID, path) {
            Some(Special::Directory(listing)) => listing,
            _ => Listing::Names(&[]),
        }
    }

    /// The entries from position `from` on: `add` takes the position of the following one, name and type; false ends the list.
    pub fn list(self, kernel: &Kernel, from: u64, mut add: impl FnMut(u64, &[u8], u8) -> bool) {
        let mut numbered = |number: i32, kind| add(number as u64 + 1, number.to_string().as_bytes(), kind);
        match self {
            Listing::Descriptors => {
                kernel.descriptors().iter_from(from).all(|(fd, _)| numbered(fd, libc::DT_LNK));
            }
            Listing::Threads => {
                let first = Tid::try_from(from).unwrap_or(Tid::MAX);
                kernel.sched.lock().threads.range(first..).all(|(tid, _)| numbered(*tid, libc::DT_DIR));
            }
            Listing::Names(names) => {
                let first = usize::try_from(from).unwrap_or(usize::MAX);
                let mut rest = names.iter().zip(1..).skip(first);
                rest.all(|((name, kind), next)| add(next, name.as_bytes(), *kind));
            }
        }
    }
}
