//! A folder among the half-written ones.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::folder::remove_tree;

/// A new folder of the store's folder `partial`. What lies there by its name when this value ends is removed.
#[derive(Debug)]
pub(super) struct Staged(PathBuf);

impl Staged {
    pub(super) fn new(partial: &Path) -> io::Result<Staged> {
        Ok(Staged(TempDir::new_in(partial)?.keep()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it now, and says if that fails.
    pub(super) fn remove(self) -> io::Result<()> {
        remove_tree(&self.0)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(%error, "cannot remove a folder of the snapshot store that is not used any more; the next start does");
        }
    }
}
