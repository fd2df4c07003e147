//! Writing a snapshot: in two halves, because the program stands still during the first.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Instant;

use super::checksum::Checksum;
use super::copy::{Copied, CopyRoom, ProgramCopy, copy_sparse, file_for_another};
use super::error::{Part, SaveError};
use super::expected::Expected;
use super::manifest::{MemoryFile, Parent, StateFile};
use super::opened::Snapshot;
use super::shelf::Files;
use super::store::Inner;
use crate::folder::Staged;
use crate::linux::Checkpoint;
use crate::vmm::GuestMemory;

/// A snapshot that is copied and not yet in its place. The program may go on: [`Draft::commit`] does the rest. Dropping it removes
/// what is written.
pub struct Draft {
    store: Arc<Inner>,
    expected: Expected,
    staged: Staged,
    memory: File,
    parent: Option<Arc<Snapshot>>,
    copy: ProgramCopy,
}

/// Where the writing of a snapshot has come to; for tests that end it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is a folder for it among the half-written ones.
    Begun,
    /// Its memory is copied.
    Memory,
    /// Its state is written.
    State,
    /// Its manifest is written.
    Manifest,
    /// All of it is on the disk.
    Synced,
    /// It has its place.
    Placed,
    /// That is on the disk too.
    Durable,
    /// The one before is removed.
    Done,
}

impl Step {
    /// All of them in their order.
    pub const ALL: [Step; 8] = [
        Step::Begun,
        Step::Memory,
        Step::State,
        Step::Manifest,
        Step::Synced,
        Step::Placed,
        Step::Durable,
        Step::Done,
    ];
}

/// Where a snapshot will be written. It is made before the program is stopped, for whose pause every step counts. Dropping it leaves
/// nothing.
pub struct Staging {
    store: Arc<Inner>,
    expected: Expected,
    staged: Staged,
    memory: File,
    parent: Option<Arc<Snapshot>>,
    /// What is made ahead of the copy, if this process makes that.
    room: Option<CopyRoom>,
}

impl Staging {
    /// With a `parent` that is whole by itself, but the pages will be kept that differ from it.
    pub(super) fn new(
        store: Arc<Inner>,
        expected: &Expected,
        parent: Option<Arc<Snapshot>>,
    ) -> Result<Staging, SaveError> {
        let failed = |doing| store.failed(expected.svmid, doing);
        let parent = parent.filter(|parent| parent.manifest().parent.is_none());
        let staged = Staged::new(&store.shelf.partial()).map_err(failed("make a folder"))?;
        store.reached(Step::Begun);
        let memory = create(&staged, Part::Memory).map_err(failed("make the memory's file"))?;
        Ok(Staging { expected: expected.clone(), staged, memory, parent, room: None, store })
    }

    /// The same with all that can be made ahead of a copy by this process.
    pub(super) fn with_room(self) -> Result<Staging, SaveError> {
        let room = self.make_room()?;
        Ok(Staging { room: Some(room), ..self })
    }

    fn make_room(&self) -> Result<CopyRoom, SaveError> {
        let room = self
            .memory
            .try_clone()
            .and_then(|file| CopyRoom::new(file, self.expected.memory, self.parent.clone()));
        room.map_err(self.store.failed(self.expected.svmid, "make the memory's file"))
    }

    /// Copies the program of `checkpoint`, which may go on afterwards: drop the checkpoint before [`Draft::commit`].
    ///
    /// # Errors
    /// The disk is full or fails. Nothing is left of the attempt.
    pub fn write(self, checkpoint: &Checkpoint<'_>) -> Result<Draft, SaveError> {
        self.copied(|room| room.copy(checkpoint))
    }

    /// Copies a program that stands still, as [`Staging::write`]: its RAM, of which `runs` are the guest-physical byte ranges that count
    /// (all else is zero), and its encoded state. It stood still since `since`.
    ///
    /// # Errors
    /// The disk is full or fails. Nothing is left of the attempt.
    pub fn copy(
        self,
        ram: &GuestMemory,
        runs: impl Iterator<Item = Range<u64>>,
        state: Vec<u8>,
        since: Instant,
    ) -> Result<Draft, SaveError> {
        self.copied(|room| room.copy_ram(ram, runs, state, since))
    }

    fn copied(mut self, copy: impl FnOnce(CopyRoom) -> io::Result<ProgramCopy>) -> Result<Draft, SaveError> {
        let room = self.room.take().map_or_else(|| self.make_room(), Ok)?;
        let Staging { store, expected, staged, memory, parent, .. } = self;
        let copy = copy(room).map_err(store.failed(expected.svmid, "write the memory"))?;
        Ok(Draft { store, expected, staged, memory, parent, copy })
    }

    /// What the snapshot will build upon.
    pub fn parent(&self) -> Option<&Arc<Snapshot>> {
        self.parent.as_ref()
    }

    /// Bytes of the memory.
    pub fn bytes(&self) -> u64 {
        self.expected.memory
    }

    /// A file in memory for another process, which is not trusted, to copy the program's RAM into.
    ///
    /// # Errors
    /// The host gives no more descriptors.
    pub fn file_for_another(&self) -> io::Result<File> {
        file_for_another(self.bytes())
    }

    /// Gives a snapshot its place that another process has copied, its RAM into `memory`, as [`Draft::commit`].
    ///
    /// # Errors
    /// As there, or what the process says of it makes no sense.
    pub fn commit(self, memory: &File, copied: Copied) -> Result<Arc<Snapshot>, SaveError> {
        let Staging { store, expected, staged, memory: own, parent, .. } = self;
        let stored = copy_sparse(memory, &own, expected.memory)
            .map_err(store.failed(expected.svmid, "write the memory"))?;
        place(&store, &expected, staged, own, parent, Copied { stored, ..copied })
    }
}

impl Draft {
    #[cfg(test)]
    pub(super) fn staged_folder(&self) -> &std::path::Path {
        self.staged.path()
    }

    /// Gives the snapshot its place, where it replaces the one before. It is on the disk when this returns.
    ///
    /// # Errors
    /// The disk is full or fails. The one before is then as it was, if it was not the very last step that failed.
    pub fn commit(self) -> Result<Arc<Snapshot>, SaveError> {
        let Draft { store, expected, staged, memory, parent, copy } = self;
        let copied = copy.finish().map_err(store.failed(expected.svmid, "write the memory"))?;
        place(&store, &expected, staged, memory, parent, copied)
    }
}

/// Completes what is written in `staged`, and gives it its place.
fn place(
    store: &Arc<Inner>,
    expected: &Expected,
    staged: Staged,
    memory: File,
    parent: Option<Arc<Snapshot>>,
    copied: Copied,
) -> Result<Arc<Snapshot>, SaveError> {
    let Copied { in_use, stored, over, pause, state } = copied;
    let svmid = expected.svmid;
    let failed = |doing| store.failed(svmid, doing);
    store.reached(Step::Memory);
    let mut state_file = create(&staged, Part::State).map_err(failed("write the state"))?;
    state_file.write_all(&state).map_err(failed("write the state"))?;
    store.reached(Step::State);
    let checksum = Checksum::of_sparse_file(&memory).map_err(failed("read the memory back"))?;
    let bytes = memory.metadata().map_err(failed("read the memory back"))?.len();
    let of_memory = MemoryFile { bytes, in_use, stored, checksum };
    let upon = parent.as_ref().zip(over).map(|(parent, pages)| Parent {
        svmid: parent.manifest().svmid,
        checksum: parent.manifest().memory.checksum,
        pages,
    });
    let of_state = StateFile { bytes: state.len() as u64, checksum: Checksum::of_bytes(&state) };
    let manifest = expected.manifest(store.cpu.clone(), of_memory, of_state, pause, upon);
    let text = manifest.to_text().map_err(|error| failed("write the manifest")(error.into()))?;
    let mut manifest_file = create(&staged, Part::Manifest).map_err(failed("write the manifest"))?;
    manifest_file.write_all(text.as_bytes()).map_err(failed("write the manifest"))?;
    store.reached(Step::Manifest);
    for file in [&memory, &state_file, &manifest_file] {
        file.sync_all().map_err(failed("write to the disk"))?;
    }
    let home = File::open(staged.path()).map_err(failed("write to the disk"))?;
    home.sync_all().map_err(failed("write to the disk"))?;
    store.reached(Step::Synced);
    // The clones' own: nobody can write through it.
    let memory =
        File::open(staged.path().join(Part::Memory.file_name())).map_err(failed("open the memory"))?;
    let files = Files { home: home.into(), manifest, memory, state };
    let snapshot =
        Snapshot::new(files, parent).map_err(|reason| failed("open the memory")(io::Error::other(reason)))?;
    let snapshot = Arc::new(snapshot);
    store.place(&snapshot, &staged).map_err(failed("move the snapshot to its place"))?;
    drop(staged);
    store.reached(Step::Done);
    Ok(snapshot)
}

fn create(staged: &Staged, part: Part) -> io::Result<File> {
    let path = staged.path().join(part.file_name());
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}
