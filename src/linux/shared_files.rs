//! Files of the host that many programs have open in the same way: libraries that they have mapped, folders that they see. They share one
//! descriptor for each, so that a thousand copies of a program do not hold tens of thousands.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::Stat;

use crate::sync::lock;

/// Device and inode. While a file is open, no other has the same.
pub type Identity = (u64, u64);

/// The identity of a file that is open.
pub fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Files that are mapped, and are read at given places only.
pub static MAPPED: SharedFiles<Identity> = SharedFiles::new();

/// Sources of mounts, which are opened as places only. The path belongs to the key: one folder may be mounted twice in the host, with
/// other things mounted below it.
pub static MOUNTED: SharedFiles<(PathBuf, Identity)> = SharedFiles::new();

/// Descriptors that are shared by all who hold them, by what tells their files apart.
pub struct SharedFiles<K>(Mutex<Known<K>>);

struct Known<K> {
    files: BTreeMap<K, Weak<OwnedFd>>,
    /// With so many of them those are forgotten that nobody holds any more.
    tidy_at: usize,
}

/// The least number of files at which it pays to tidy up.
const FEW: usize = 64;

impl<K: Ord> SharedFiles<K> {
    const fn new() -> SharedFiles<K> {
        SharedFiles(Mutex::new(Known { files: BTreeMap::new(), tidy_at: FEW }))
    }

    /// The descriptor that others hold for this file, or what `open` gives.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn get<E>(&self, key: K, open: impl FnOnce() -> Result<OwnedFd, E>) -> Result<Arc<OwnedFd>, E> {
        let held = lock(&self.0).files.get(&key).and_then(Weak::upgrade);
        if let Some(held) = held {
            return Ok(held);
        }
        // Not under the lock: a file may take long to be opened. Should another be quicker, there are two for a while.
        let opened = Arc::new(open()?);
        let mut known = lock(&self.0);
        if known.files.len() >= known.tidy_at {
            known.files.retain(|_, file| file.strong_count() > 0);
            known.tidy_at = FEW.max(2 * known.files.len());
        }
        known.files.insert(key, Arc::downgrade(&opened));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn open() -> Result<OwnedFd, Infallible> {
        Ok(tempfile::tempfile().expect("a file").into())
    }

    #[test]
    fn a_file_is_opened_once_while_it_is_held() {
        let files = SharedFiles::new();
        let first = files.get(1, open).unwrap();
        let again = files.get(1, || -> Result<OwnedFd, Infallible> { unreachable!("it is held") }).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert!(!Arc::ptr_eq(&first, &files.get(2, open).unwrap()));
        drop((first, again));
        assert_eq!(files.get(1, || Err("gone")).unwrap_err(), "gone");
    }

    #[test]
    fn those_that_nobody_holds_are_forgotten() {
        let files = SharedFiles::new();
        let held: Vec<_> = (0..10).map(|key| files.get(key, open).unwrap()).collect();
        (10..1000).for_each(|key| drop(files.get(key, open).unwrap()));
        assert!(lock(&files.0).files.len() <= FEW);
        for (key, file) in (0..).zip(&held) {
            assert!(Arc::ptr_eq(file, &files.get(key, open).unwrap()));
        }
    }
}
