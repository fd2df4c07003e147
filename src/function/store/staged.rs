//! Code on its way into the store.
use super::{
    Limits,
    download::Download,
    form::Form,
    index::Source,
    unpack::{self, UnpackError},
};
use crate::folder::remove_tree;
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, BufReader},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A new folder among the half-written files. What is left of it is removed with this value.
pub(super) struct Staged(PathBuf);

impl Staged {
    pub(super) fn new(partial: &Path) -> io::Result<Staged> {
        Ok(Staged(TempDir::new_in(partial)?.keep()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts the code into the folder `root` of this one; returns its size in bytes.
    pub(super) fn fill(
        &self,
        download: Download,
        source: &Source,
        limits: &Limits,
    ) -> Result<u64, UnpackError> {
        let root = self.0.join("root");
        let writing = |source| UnpackError::Write { path: root.clone(), source };
        DirBuilder::new().mode(0o755).create(&root).map_err(writing)?;
        let file = File::open(&download.file).map_err(writing)?;
        match source.form {
            Form::Tree => return unpack::unpack(BufReader::new(file), &root, limits),
            Form::Jar => unpack::check(BufReader::new(&file), limits)?,
            _ => {}
        }
        let bytes = file.metadata().map_err(writing)?.len();
        file.set_permissions(Permissions::from_mode(0o444)).map_err(writing)?;
        download.file.persist(root.join(&source.name)).map_err(|error| writing(error.error))?;
        fs::set_permissions(&root, Permissions::from_mode(0o555)).map_err(writing)?;
        Ok(bytes)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(%error, "cannot remove a half-written folder of the code store; the next start does");
        }
    }
}
