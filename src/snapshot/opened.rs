//! A snapshot that is ready to be restored.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::manifest::Manifest;
use crate::linux::{Guest, RestoreError, State, Surroundings};
use crate::vmm::Image;

/// A snapshot whose files were verified, and are kept open: programs can be restored from it, any number at a time, even when
/// its files are removed or replaced.
pub struct Snapshot {
    manifest: Manifest,
    image: Arc<Image>,
    state: Vec<u8>,
}

impl Snapshot {
    pub(super) fn new(manifest: Manifest, memory: File, state: Vec<u8>) -> io::Result<Snapshot> {
        let image = Image::new(memory, manifest.memory.bytes).map_err(io::Error::other)?;
        Ok(Snapshot { manifest, image: Arc::new(image), state })
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Makes the program go on, in a new microVM whose RAM is this snapshot's until it is written to.
    ///
    /// # Errors
    /// The machine fails, or something that the program used outside of itself is gone or another.
    pub fn restore(&self, surroundings: Surroundings) -> Result<Guest, RestoreError> {
        let state = match postcard::take_from_bytes::<State>(&self.state) {
            Ok((state, [])) => state,
            _ => return Err(RestoreError::Damaged("it cannot be decoded")),
        };
        Guest::restore(state, self.image.map()?, surroundings)
    }

    /// The program's encoded state.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The RAM that programs go on with.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The file of its memory.
    pub(super) fn memory(&self) -> &File {
        self.image.file()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}
