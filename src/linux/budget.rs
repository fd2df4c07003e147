//! How much host memory is held for the program beside its RAM: what waits in pipes and sockets, the texts of `/proc`, long paths of open
//! files, files in `epoll` sets, and what threads wait for, if it is much.
//!
//! Each such object has a limit of its own, but a program can make many of them. What they hold together is bounded here; a program
//! at the bound gets the errno that Linux gives where the kernel's own memory is short.

use std::sync::atomic::{AtomicU64, Ordering};

use super::errno::Errno;

/// A count of bytes with a bound.
#[derive(Debug)]
pub struct Budget {
    held: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Smallest and largest bound.
    const RANGE: (u64, u64) = (16 << 20, 256 << 20);

    /// The budget of a program with this much RAM, in bytes: an eighth of it, within reason.
    pub fn for_memory(memory: u64) -> Budget {
        Budget { held: AtomicU64::new(0), limit: (memory / 8).clamp(Self::RANGE.0, Self::RANGE.1) }
    }

    /// Takes `bytes`; `ENOBUFS` where that is more than there is.
    pub fn take(&self, bytes: usize) -> Result<(), Errno> {
        let add = |held: u64| held.checked_add(bytes as u64).filter(|sum| *sum <= self.limit);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(drop)
            .map_err(|_| Errno::ENOBUFS)
    }

    /// Takes what a restored object holds, which was within the bound when it was saved.
    pub fn take_restored(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: usize) {
        let rest = |held: u64| Some(held.saturating_sub(bytes as u64));
        let _ = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }

    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        let budget = Budget::for_memory(0);
        let all = Budget::RANGE.0 as usize;
        assert_eq!(budget.take(all - 1), Ok(()));
        assert_eq!(budget.take(2), Err(Errno::ENOBUFS));
        assert_eq!(budget.take(usize::MAX), Err(Errno::ENOBUFS));
        assert_eq!(budget.take(1), Ok(()));
        budget.give(all);
        assert_eq!(budget.held(), 0);
    }
}
