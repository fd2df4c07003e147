//! A snapshot that is ready to be restored.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};

use super::error::{Part, Reason};
use super::manifest::Manifest;
use super::shelf::Files;
use super::working_set;
use crate::linux::{Guest, RestoreError, State, Surroundings};
use crate::sync::{read, write};
use crate::vmm::{Image, ResetFigures, VmmError, WorkingSet};

/// A snapshot whose files were verified, and are kept open: programs can be restored from it, any number at a time, even when
/// its files are removed or replaced, or those of its parent.
pub struct Snapshot {
    manifest: Manifest,
    image: Arc<Image>,
    state: Vec<u8>,
    home: OwnedFd,
    known: RwLock<Known>,
    parent: Option<Arc<Snapshot>>,
}

/// What programs touch first when they go on from a snapshot.
#[derive(Default)]
enum Known {
    #[default]
    Nothing,
    /// What one has touched that is still at it.
    Begun(Arc<WorkingSet>),
    /// What the first that was done with its request and was looked at had touched.
    Done(Arc<WorkingSet>),
}

impl Known {
    fn working_set(&self) -> Option<&Arc<WorkingSet>> {
        match self {
            Known::Nothing => None,
            Known::Begun(set) | Known::Done(set) => Some(set),
        }
    }
}

impl Snapshot {
    /// The snapshot of these files. `parent` is the one that its manifest names.
    pub(super) fn new(files: Files, parent: Option<Arc<Snapshot>>) -> Result<Snapshot, Reason> {
        let Files { home, manifest, memory, state } = files;
        let unreadable = |error| Reason::Unreadable { part: Part::Memory, source: io::Error::other(error) };
        let damaged = |error: VmmError| Reason::Damaged { part: Part::Manifest, how: error.to_string() };
        let image = match (&parent, &manifest.parent) {
            (Some(parent), Some(named)) => {
                Image::over(&parent.image, memory, named.pages.ranges().to_vec()).map_err(damaged)?
            }
            _ => Image::new(memory, manifest.memory.bytes).map_err(unreadable)?,
        };
        let known = working_set::read(&home).map_or(Known::Nothing, |set| Known::Done(Arc::new(set)));
        Ok(Snapshot { manifest, image: Arc::new(image), state, home, known: RwLock::new(known), parent })
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The one that it builds upon.
    pub fn parent(&self) -> Option<&Arc<Snapshot>> {
        self.parent.as_ref()
    }

    /// Makes the program go on, in a new microVM whose RAM is this snapshot's until it is written to.
    ///
    /// # Errors
    /// The machine fails, or something that the program used outside of itself is gone or another.
    pub fn restore(&self, surroundings: Surroundings) -> Result<Guest, RestoreError> {
        let ahead = read(&self.known).working_set().cloned();
        Guest::restore(self.decode()?, &self.image, ahead.as_deref(), surroundings)
    }

    /// Ends the program of `guest`, which went on from this snapshot, and makes it go on from there again, in the same microVM.
    ///
    /// # Errors
    /// As [`Snapshot::restore`].
    pub fn reset(
        &self,
        guest: &Guest,
        surroundings: Surroundings,
    ) -> Result<(Guest, ResetFigures), RestoreError> {
        self.note_working_set(guest);
        guest.reset(self.decode()?, self.image.reference()?, surroundings)
    }

    /// Whether it is known what programs touch first when they go on from here.
    pub fn has_working_set(&self) -> bool {
        matches!(*read(&self.known), Known::Done(_))
    }

    /// Whether nothing at all is known of what programs touch.
    pub fn knows_nothing(&self) -> bool {
        matches!(*read(&self.known), Known::Nothing)
    }

    /// Remembers what `guest`, which went on from this snapshot and was done with its request, has touched: for those that follow it is
    /// brought in ahead.
    pub fn note_working_set(&self, guest: &Guest) {
        if self.has_working_set() {
            return;
        }
        if let Ok(set) = guest.working_set() {
            self.keep_working_set(set);
        }
    }

    /// Brings in ahead what `guest` has touched that is in the middle of its request, until it is known what one touches in all.
    pub fn glance_at(&self, guest: &Guest) {
        if self.knows_nothing()
            && let Ok(set) = guest.working_set()
        {
            self.keep_glance(set);
        }
    }

    pub(super) fn keep_glance(&self, set: WorkingSet) {
        let mut known = write(&self.known);
        if matches!(*known, Known::Nothing) {
            *known = Known::Begun(Arc::new(set));
        }
    }

    pub(super) fn keep_working_set(&self, set: WorkingSet) {
        let set = Arc::new(set);
        {
            let mut known = write(&self.known);
            // Another may have been quicker: theirs is as good.
            if matches!(*known, Known::Done(_)) {
                return;
            }
            *known = Known::Done(set.clone());
        }
        if let Err(error) = working_set::write(&self.home, &set) {
            tracing::debug!(svmid = self.manifest.svmid, %error, "the working set is not kept");
        }
    }

    #[cfg(test)]
    pub(super) fn brought_in(&self) -> Option<Arc<WorkingSet>> {
        read(&self.known).working_set().cloned()
    }

    fn decode(&self) -> Result<State, RestoreError> {
        match postcard::take_from_bytes(&self.state) {
            Ok((state, [])) => Ok(state),
            _ => Err(RestoreError::Damaged("it cannot be decoded")),
        }
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
