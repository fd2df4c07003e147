//! Writing a snapshot: in two halves, because the program stands still during the first.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checksum::{Checksum, is_zero};
use super::error::{Part, SaveError};
use super::expected::Expected;
use super::manifest::{MemoryFile, StateFile};
use super::opened::Snapshot;
use super::staged::Staged;
use super::store::Inner;
use crate::vmm::{FRAME_SIZE, GuestMemory};

/// A snapshot that is copied and not yet in its place. The program may go on: [`Draft::commit`] does the rest. Dropping it removes
/// what is written.
pub struct Draft {
    store: Arc<Inner>,
    expected: Expected,
    staged: Staged,
    memory: File,
    state: Vec<u8>,
    copied: Copied,
    pause: Duration,
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

/// Bytes of guest RAM.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Copied {
    /// That were to be copied.
    pub in_use: u64,
    /// That were written.
    pub stored: u64,
}

impl Draft {
    /// Copies RAM and state to half-written files. `runs` are the guest-physical ranges that count; all else is zero.
    pub(super) fn write(
        store: Arc<Inner>,
        expected: &Expected,
        memory: &GuestMemory,
        runs: impl Iterator<Item = Range<u64>>,
        state: Vec<u8>,
        since: Instant,
    ) -> Result<Draft, SaveError> {
        let failed = |doing| store.failed(expected.svmid, doing);
        let staged = Staged::new(&store.shelf.partial()).map_err(failed("make a folder"))?;
        store.reached(Step::Begun);
        let file = create(&staged, Part::Memory).map_err(failed("make the memory's file"))?;
        file.set_len(memory.size()).map_err(failed("make the memory's file"))?;
        let copied = copy(memory, runs, &file).map_err(failed("write the memory"))?;
        store.reached(Step::Memory);
        let pause = since.elapsed();
        Ok(Draft { expected: expected.clone(), staged, memory: file, state, copied, pause, store })
    }

    #[cfg(test)]
    pub(super) fn staged_folder(&self) -> &std::path::Path {
        self.staged.path()
    }

    /// Gives the snapshot its place, where it replaces the one before. It is on the disk when this returns.
    ///
    /// # Errors
    /// The disk is full or fails. The one before is then as it was, if it was not the very last step that failed.
    pub fn commit(self) -> Result<Arc<Snapshot>, SaveError> {
        let Draft { store, expected, staged, memory, state, copied, pause } = self;
        let svmid = expected.svmid;
        let failed = |doing| store.failed(svmid, doing);
        let mut state_file = create(&staged, Part::State).map_err(failed("write the state"))?;
        state_file.write_all(&state).map_err(failed("write the state"))?;
        store.reached(Step::State);
        let checksum = Checksum::of_sparse_file(&memory).map_err(failed("read the memory back"))?;
        let of_memory = MemoryFile {
            bytes: memory.metadata().map_err(failed("read the memory back"))?.len(),
            in_use: copied.in_use,
            stored: copied.stored,
            checksum,
        };
        let of_state = StateFile { bytes: state.len() as u64, checksum: Checksum::of_bytes(&state) };
        let manifest = expected.manifest(store.cpu.clone(), of_memory, of_state, pause);
        let text = manifest.to_text().map_err(|error| failed("write the manifest")(error.into()))?;
        let mut manifest_file = create(&staged, Part::Manifest).map_err(failed("write the manifest"))?;
        manifest_file.write_all(text.as_bytes()).map_err(failed("write the manifest"))?;
        store.reached(Step::Manifest);
        for file in [&memory, &state_file, &manifest_file] {
            file.sync_all().map_err(failed("write to the disk"))?;
        }
        File::open(staged.path())
            .and_then(|folder| folder.sync_all())
            .map_err(failed("write to the disk"))?;
        store.reached(Step::Synced);
        // The clones' own: nobody can write through it.
        let memory =
            File::open(staged.path().join(Part::Memory.file_name())).map_err(failed("open the memory"))?;
        let snapshot = Snapshot::new(manifest, memory, state).map_err(failed("open the memory"))?;
        let snapshot = Arc::new(snapshot);
        store.place(&snapshot, &staged).map_err(failed("move the snapshot to its place"))?;
        drop(staged);
        store.reached(Step::Done);
        Ok(snapshot)
    }
}

fn create(staged: &Staged, part: Part) -> io::Result<File> {
    let path = staged.path().join(part.file_name());
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Bytes that are copied at a time: they stay in the CPU's cache between being read and being written.
const PIECE: u64 = 256 << 10;

/// Copies the ranges to the same places of the file, but for pages that are all zeros.
fn copy(memory: &GuestMemory, runs: impl Iterator<Item = Range<u64>>, file: &File) -> io::Result<Copied> {
    let mut buffer = vec![0; PIECE as usize];
    let mut copied = Copied::default();
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            let len = PIECE.min(run.end - at) as usize;
            let outside =
                || io::Error::new(io::ErrorKind::InvalidInput, "a range outside of the guest's memory");
            memory.slice(at, len).ok_or_else(outside)?.copy_to(&mut buffer[..len]);
            copied.stored += write_used(&buffer[..len], at, file)?;
            at += len as u64;
        }
        copied.in_use += run.end.saturating_sub(run.start);
    }
    Ok(copied)
}

/// Writes the pages of `piece` that are not all zeros, in as few calls as possible; returns their bytes.
fn write_used(piece: &[u8], at: u64, file: &File) -> io::Result<u64> {
    let mut written = 0;
    let mut start = 0;
    for (i, page) in piece.chunks(FRAME_SIZE as usize).enumerate() {
        if is_zero(page) {
            let end = i * FRAME_SIZE as usize;
            file.write_all_at(&piece[start..end], at + start as u64)?;
            written += end - start;
            start = end + page.len();
        }
    }
    file.write_all_at(&piece[start..], at + start as u64)?;
    Ok((written + piece.len() - start) as u64)
}
