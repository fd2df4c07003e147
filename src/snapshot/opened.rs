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
use crate::messages::{content, unnamed_file};
use crate::sync::{read, write};
use crate::vmm::{Image, ResetFigures, VmmError, WorkingSet};

/// A snapshot whose files were verified, and are kept open: programs can be restored from it, any number at a time, even when
/// its files are removed or replaced, or those of its parent.
pub struct Snapshot {
    manifest: Manifest,
    image: Arc<Image>,
    state: Vec<u8>,
    /// The folder of its files, where this process has it.
    home: Option<OwnedFd>,
    known: RwLock<Known>,
    parent: Option<Arc<Snapshot>>,
}

/// Most bytes of what is handed over beside the memory: the state of a program that has as many files and threads as it may.
const MOST_HANDED_OVER: u64 = 128 << 20;

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
        let is_layered = parent.is_some() && manifest.parent.is_some();
        let image = image(&manifest, memory, parent.as_ref())
            .map_err(|error| if is_layered { damaged(error) } else { unreadable(error) })?;
        let known = working_set::read(&home).map_or(Known::Nothing, |set| Known::Done(Arc::new(set)));
        Ok(Snapshot { home: Some(home), ..Snapshot::of(manifest, image, state, known, parent) })
    }

    fn of(
        manifest: Manifest,
        image: Image,
        state: Vec<u8>,
        known: Known,
        parent: Option<Arc<Snapshot>>,
    ) -> Snapshot {
        let (image, known) = (Arc::new(image), RwLock::new(known));
        Snapshot { manifest, image, state, home: None, known, parent }
    }

    /// What [`Snapshot::handed_over`] takes, in another process: the file of the memory, and all else in one without a name.
    ///
    /// # Errors
    /// The host gives no more descriptors.
    pub fn hand_over(&self) -> io::Result<[OwnedFd; 2]> {
        let known = read(&self.known).working_set().map(|set| working_set::to_text(set));
        let text = self.manifest.to_text()?;
        let rest = postcard::to_stdvec(&(text, &self.state, known)).map_err(io::Error::other)?;
        Ok([self.memory().try_clone()?.into(), unnamed_file(&rest)?])
    }

    /// The snapshot of another process, which has verified it and goes on to keep it; `parent` is the one that it builds upon. What
    /// programs touch first is not kept when it is learnt here.
    ///
    /// # Errors
    /// It is none.
    pub fn handed_over([memory, rest]: [OwnedFd; 2], parent: Option<Arc<Snapshot>>) -> io::Result<Snapshot> {
        let rest = content(&rest.into(), MOST_HANDED_OVER)?;
        let (text, state, known): (String, Vec<u8>, Option<String>) =
            postcard::from_bytes(&rest).map_err(io::Error::other)?;
        let manifest = Manifest::parse(text.as_bytes()).map_err(io::Error::other)?;
        let image = image(&manifest, memory.into(), parent.as_ref()).map_err(io::Error::other)?;
        let known = known.as_deref().and_then(working_set::parse);
        let known = known.map_or(Known::Nothing, |set| Known::Done(Arc::new(set)));
        Ok(Snapshot::of(manifest, image, state, known, parent))
    }

    /// What programs touch first, as text for the process that keeps the snapshot; `None` while that is not known.
    pub fn known_working_set(&self) -> Option<String> {
        match &*read(&self.known) {
            Known::Done(set) => Some(working_set::to_text(set)),
            Known::Nothing | Known::Begun(_) => None,
        }
    }

    /// Takes over what another process found that programs touch first, if it says so in a way that makes sense.
    pub fn learn_working_set(&self, text: &str) {
        if let Some(set) = working_set::parse(text) {
            self.keep_working_set(set);
        }
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
        if let Some(home) = &self.home
            && let Err(error) = working_set::write(home, &set)
        {
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

/// The RAM of a snapshot, upon that of its parent if it has one.
fn image(manifest: &Manifest, memory: File, parent: Option<&Arc<Snapshot>>) -> Result<Image, VmmError> {
    match (parent, &manifest.parent) {
        (Some(parent), Some(named)) => Image::over(&parent.image, memory, named.pages.ranges().to_vec()),
        _ => Image::new(memory, manifest.memory.bytes),
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}
