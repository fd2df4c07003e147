//! Open directories of a tmpfs.

use std::sync::{Arc, Mutex};

use super::super::errno::Errno;
use super::super::stat::Attributes;
use super::file::close;
use super::{Ino, Tmpfs};
use crate::sync::lock;

/// An open directory.
pub struct OpenDirectory {
    fs: Arc<Tmpfs>,
    ino: Ino,
    /// Of the entry that is listed next: `.` and `..` come first.
    position: Mutex<u64>,
}

impl OpenDirectory {
    /// Opens a directory.
    pub fn new(fs: &Arc<Tmpfs>, ino: Ino) -> Result<OpenDirectory, Errno> {
        fs.with(|tree| {
            let inode = tree.get_mut(ino)?;
            inode.entries()?;
            inode.open += 1;
            Ok::<_, Errno>(())
        })?;
        Ok(OpenDirectory { fs: Arc::clone(fs), ino, position: Mutex::new(0) })
    }

    /// Opens one again for a restored program.
    pub fn restore(fs: &Arc<Tmpfs>, ino: Ino, position: u64) -> Result<OpenDirectory, Errno> {
        let mut open = OpenDirectory::new(fs, ino)?;
        open.position = position.into();
        Ok(open)
    }

    /// The position of the entry that is listed next.
    pub fn position(&self) -> u64 {
        *lock(&self.position)
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<Tmpfs> {
        &self.fs
    }

    /// Its inode.
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// The next entries, as many as fit: `add` takes position of the following one, name, inode and `DT_…` type; false if it is full.
    pub fn list(&self, mut add: impl FnMut(u64, &[u8], Ino, u8) -> bool) -> Result<(), Errno> {
        let mut position = lock(&self.position);
        self.fs.with(|tree| {
            let inode = tree.get(self.ino)?;
            let entries = inode.entries()?;
            if inode.links == 0 {
                return Ok(());
            }
            let dots = [(0, &b"."[..], self.ino), (1, &b".."[..], entries.parent)];
            let from = *position;
            for (at, name, ino) in dots.into_iter().filter(|dot| dot.0 >= from).chain(entries.from(from)) {
                let kind = tree.get(ino).map_or(libc::S_IFREG, |inode| inode.kind());
                // The `DT_…` numbers are the type bits of the mode.
                if !add(at + 1, name, ino, (kind >> 12) as u8) {
                    return Ok(());
                }
                *position = at + 1;
            }
            Ok(())
        })
    }

    /// Moves to a position that a listing gave.
    pub fn seek(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        let mut position = lock(&self.position);
        let target = match whence {
            libc::SEEK_SET => Some(offset),
            libc::SEEK_CUR => (*position as i64).checked_add(offset),
            _ => None,
        };
        *position = target.and_then(|at| u64::try_from(at).ok()).ok_or(Errno::EINVAL)?;
        Ok(*position)
    }

    /// What `fstat` shows.
    pub fn attributes(&self) -> Result<Attributes, Errno> {
        self.fs.attributes(self.ino)
    }

    /// Its path below the root of the file system; `ENOENT` if it was removed.
    pub fn path(&self) -> Result<Vec<u8>, Errno> {
        self.fs.with(|tree| tree.path_of(self.ino))
    }
}

impl Drop for OpenDirectory {
    fn drop(&mut self) {
        self.fs.with(|tree| close(tree, self.ino));
    }
}
