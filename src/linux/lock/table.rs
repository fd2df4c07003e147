//! Who holds which locks on files in guest RAM.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::super::thread::FileId;

/// Whoever holds a lock: an open file, or the process as such by this number, which no file has.
pub const PROCESS: FileId = 0;
/// The last byte that can be locked.
pub const LAST: u64 = i64::MAX as u64;
/// Most locks of a program. Those of one owner that touch each other are one.
const MOST: usize = 8192;

/// The two sorts of locks, which know nothing of each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Sort {
    /// Of bytes, by `fcntl`.
    Record,
    /// Of the whole file, by `flock`.
    Whole,
}

/// Device and inode of a file, and the sort of the lock on it.
pub type Key = (u64, u64, Sort);

/// A lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// [`PROCESS`], or the open file whose it is.
    pub owner: FileId,
    /// The first byte, and the last.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// Nobody else may have one there, rather than no such.
    pub exclusive: bool,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn excludes(&self, other: &Lock) -> bool {
        self.owner != other.owner && (self.exclusive || other.exclusive) && self.overlaps(other)
    }
}

/// All locks.
#[derive(Default)]
pub struct LockTable(BTreeMap<Key, Vec<Lock>>);

impl LockTable {
    /// What a checkpoint keeps.
    pub fn save(&self) -> Vec<(Key, Lock)> {
        let all = self.0.iter();
        all.flat_map(|(key, locks)| locks.iter().map(|lock| (*key, *lock))).collect()
    }

    /// The locks as they were; what contradicts itself is left out.
    pub fn restore(saved: Vec<(Key, Lock)>) -> LockTable {
        let mut table = LockTable::default();
        for (key, lock) in saved.into_iter().filter(|(_, lock)| lock.first <= lock.last) {
            let _ = table.take(key, lock);
        }
        table
    }

    /// A lock of somebody else that stands against this one.
    pub fn obstacle(&self, key: Key, wanted: &Lock) -> Option<Lock> {
        self.0.get(&key)?.iter().find(|held| held.excludes(wanted)).copied()
    }

    /// Whether its owner has exactly this lock.
    pub fn has(&self, key: Key, lock: &Lock) -> bool {
        self.0.get(&key).is_some_and(|locks| locks.contains(lock))
    }

    /// Takes a lock, in the place of what its owner has on those bytes. Gives back what stands against it. `ENOLCK`: there are too many.
    pub fn take(&mut self, key: Key, wanted: Lock) -> Result<Option<Lock>, Errno> {
        if let Some(obstacle) = self.obstacle(key, &wanted) {
            return Ok(Some(obstacle));
        }
        if self.count() + 2 > MOST {
            return Err(Errno::ENOLCK);
        }
        self.release(key, &wanted);
        let locks = self.0.entry(key).or_default();
        let mut merged = wanted;
        locks.retain(|held| {
            let continues = held.owner == wanted.owner
                && held.exclusive == wanted.exclusive
                && held.first <= merged.last.saturating_add(1)
                && merged.first <= held.last.saturating_add(1);
            if continues {
                (merged.first, merged.last) = (merged.first.min(held.first), merged.last.max(held.last));
            }
            !continues
        });
        locks.push(merged);
        Ok(None)
    }

    /// As [`LockTable::release`]; `ENOLCK` where that would make two locks of one, for which there is no room.
    pub fn give_back(&mut self, key: Key, gone: &Lock) -> Result<bool, Errno> {
        if self.is_too_full_for_hole(key, gone) { Err(Errno::ENOLCK) } else { Ok(self.release(key, gone)) }
    }

    fn is_too_full_for_hole(&self, key: Key, gone: &Lock) -> bool {
        let is_cut =
            |held: &Lock| held.owner == gone.owner && held.first < gone.first && held.last > gone.last;
        self.0.get(&key).is_some_and(|locks| locks.iter().any(is_cut)) && self.count() + 2 > MOST
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Takes from an owner what it has on the bytes of `gone`; whether that was anything.
    pub fn release(&mut self, key: Key, gone: &Lock) -> bool {
        let Some(locks) = self.0.get_mut(&key) else { return false };
        let mut left = Vec::with_capacity(locks.len() + 1);
        let mut any = false;
        for held in locks.drain(..) {
            if held.owner != gone.owner || !held.overlaps(gone) {
                left.push(held);
                continue;
            }
            any = true;
            if held.first < gone.first {
                left.push(Lock { last: gone.first - 1, ..held });
            }
            if held.last > gone.last {
                left.push(Lock { first: gone.last + 1, ..held });
            }
        }
        if left.is_empty() {
            self.0.remove(&key);
        } else {
            *locks = left;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (1, 2, Sort::Record);

    fn lock(owner: FileId, bytes: std::ops::RangeInclusive<u64>, exclusive: bool) -> Lock {
        Lock { owner, first: *bytes.start(), last: *bytes.end(), exclusive }
    }

    #[test]
    fn locks_exclude_those_of_others_only() {
        let mut table = LockTable::default();
        let (mine, theirs) = (lock(PROCESS, 0..=9, true), lock(20, 5..=5, false));
        assert_eq!(table.take(KEY, mine), Ok(None));
        assert_eq!(table.take(KEY, theirs), Ok(Some(mine)));
        assert_eq!(table.take((1, 2, Sort::Whole), theirs), Ok(None));
        assert_eq!(table.take((1, 3, Sort::Record), theirs), Ok(None));
        // Its owner may weaken it, and then others may share it.
        assert_eq!(table.take(KEY, lock(PROCESS, 4..=6, false)), Ok(None));
        assert_eq!(table.take(KEY, theirs), Ok(None));
        assert_eq!(table.take(KEY, mine), Ok(Some(theirs)));
        assert_eq!(table.obstacle(KEY, &lock(20, 7..=LAST, false)), Some(lock(PROCESS, 7..=9, true)));
        assert!(table.release(KEY, &lock(20, 0..=LAST, false)));
        assert_eq!(table.take(KEY, mine), Ok(None));
        assert_eq!(table.save().iter().filter(|(key, _)| *key == KEY).count(), 1);
    }

    #[test]
    fn what_touches_is_one_and_what_is_cut_is_two() {
        let mut table = LockTable::default();
        for bytes in [0..=1, 4..=5, 2..=3] {
            assert_eq!(table.take(KEY, lock(20, bytes, true)), Ok(None));
        }
        assert_eq!(table.save(), [(KEY, lock(20, 0..=5, true))]);
        assert!(table.release(KEY, &lock(20, 2..=2, true)));
        assert_eq!(table.save(), [(KEY, lock(20, 0..=1, true)), (KEY, lock(20, 3..=5, true))]);
        assert!(!table.release(KEY, &lock(21, 0..=LAST, true)));
        assert_eq!(LockTable::restore(table.save()).save(), table.save());
        assert!(table.release(KEY, &lock(20, 0..=LAST, true)));
        assert_eq!(table.save(), []);
    }

    #[test]
    fn a_program_has_a_bounded_number_of_them() {
        let mut table = LockTable::default();
        let mut bytes = (0..).step_by(2);
        while table.take(KEY, lock(20, bytes.next().map_or(0..=0, |at| at..=at), false)) == Ok(None) {}
        assert_eq!(table.save().len(), MOST - 1);
        assert_eq!(table.take(KEY, lock(20, 0..=0, true)), Err(Errno::ENOLCK));
    }

    #[test]
    fn holes_make_no_more_locks_than_there_may_be() {
        let mut table = LockTable::default();
        assert_eq!(table.take(KEY, lock(20, 0..=LAST, true)), Ok(None));
        let hole = |at: u64| lock(20, at..=at, true);
        let mut at = 1;
        while !table.is_too_full_for_hole(KEY, &hole(at)) {
            assert!(table.release(KEY, &hole(at)));
            at += 2;
        }
        assert!((MOST - 2..=MOST).contains(&table.count()), "{}", table.count());
        assert_eq!(LockTable::restore(table.save()).count(), table.count());
        // What makes none is always given back.
        assert!(!table.is_too_full_for_hole(KEY, &lock(20, 0..=at, true)));
    }
}
