//! Copying a program: what of its RAM is to be kept is held in memory while the program stands still, and written when it goes on.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use super::checksum::is_zero;
use super::opened::Snapshot;
use super::page_runs::PageRuns;
use crate::linux::Checkpoint;
use crate::vmm::{FRAME_SIZE, GuestMemory, Image, next_data};

/// Of what the parent had in use, this part differs in most programs: room for it is made before they are stopped.
const DIFFERING: u64 = 3;

/// A file in memory of `bytes` for the copy of a program that another process makes: no more than that is in it, whatever is done with it.
///
/// # Errors
/// The host gives no more descriptors.
pub(super) fn file_for_another(bytes: u64) -> io::Result<File> {
    let file = rustix::fs::memfd_create("copy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Copies what is not zero of `from`, which another process may change meanwhile, into the empty file `to`, which becomes as large: `bytes`. How many
/// bytes that is.
///
/// # Errors
/// The disk is full or fails.
pub(super) fn copy_sparse(from: &File, to: &File, bytes: u64) -> io::Result<u64> {
    to.set_len(bytes)?;
    let mut buffer = vec![0; PIECE as usize];
    let (mut at, mut stored) = (0, 0);
    while let Some(data) = next_data(from, at)?.filter(|data| data.start < bytes) {
        at = data.start;
        let end = data.end.min(bytes);
        while at < end {
            let piece = &mut buffer[..PIECE.min(end - at) as usize];
            from.read_exact_at(piece, at)?;
            for page in piece.chunks(PAGE) {
                if !is_zero(page) {
                    to.write_all_at(page, at)?;
                    stored += page.len() as u64;
                }
                at += page.len() as u64;
            }
        }
        at = at.max(data.start + 1);
    }
    Ok(stored)
}

/// Where a program will be copied to. It is made before the program is stopped, for whose pause every step counts.
pub struct CopyRoom {
    memory: RamCopy,
    parent: Option<Arc<Snapshot>>,
}

/// A program that is copied, and may go on: [`ProgramCopy::finish`] does the rest.
pub struct ProgramCopy {
    memory: RamCopy,
    parent: Option<Arc<Snapshot>>,
    state: Vec<u8>,
    pause: Duration,
}

/// What a copy is, beside the file of its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Copied {
    /// Bytes that the program had in use of its RAM.
    pub in_use: u64,
    /// Bytes of the file that are not zero.
    pub stored: u64,
    /// Of a copy that builds upon a snapshot: the pages that lie over those of that.
    pub over: Option<PageRuns>,
    /// How long the program stood still.
    pub pause: Duration,
    /// Its encoded state.
    #[serde(skip)]
    pub state: Vec<u8>,
}

impl CopyRoom {
    /// Room for RAM of `bytes` in the empty `file`. With a `parent`, but the pages will be kept that differ from it.
    ///
    /// # Errors
    /// The disk fails.
    pub fn new(file: File, bytes: u64, parent: Option<Arc<Snapshot>>) -> io::Result<CopyRoom> {
        let mut memory = RamCopy::new(file, bytes)?;
        if let Some(parent) = &parent {
            memory.expect(parent.manifest().memory.in_use / DIFFERING);
        }
        Ok(CopyRoom { memory, parent })
    }

    /// Copies the program of `checkpoint`, which may go on afterwards: drop the checkpoint before [`ProgramCopy::finish`].
    ///
    /// # Errors
    /// The disk is full or fails, or the state cannot be encoded.
    pub fn copy(self, checkpoint: &Checkpoint<'_>) -> io::Result<ProgramCopy> {
        let state = postcard::to_stdvec(checkpoint.state()).map_err(io::Error::other)?;
        self.copy_ram(checkpoint.memory(), checkpoint.runs(), state, checkpoint.since())
    }

    /// The same of a program that is given by its RAM, of which `runs` are the guest-physical byte ranges that count (all else is zero), and
    /// its encoded state. It stood still since `since`.
    pub(super) fn copy_ram(
        self,
        ram: &GuestMemory,
        runs: impl Iterator<Item = Range<u64>>,
        state: Vec<u8>,
        since: Instant,
    ) -> io::Result<ProgramCopy> {
        let CopyRoom { mut memory, parent } = self;
        match &parent {
            Some(parent) => memory.difference(ram, runs, parent.image())?,
            None => memory.whole(ram, runs)?,
        }
        Ok(ProgramCopy { memory, parent, state, pause: since.elapsed() })
    }
}

impl ProgramCopy {
    /// Completes the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn finish(self) -> io::Result<Copied> {
        let ProgramCopy { mut memory, parent, state, pause } = self;
        let over = parent.map(|parent| memory.runs_over(parent.image()).map(PageRuns::new)).transpose()?;
        let (in_use, stored) = (memory.in_use, memory.stored);
        memory.finish()?;
        Ok(Copied { in_use, stored, over, pause, state })
    }
}

/// Bytes that are held at most; more are written at once, while the program stands still.
const MOST_HELD: usize = 64 << 20;
/// How many runs of pages a snapshot may have that builds upon another. Each is a mapping of its own in every copy, of which a process may
/// have 65,530 by default: programs that use more memory, of which there is room for fewer copies, may have more.
const RUNS: std::ops::RangeInclusive<u64> = 16..=64;
/// Bytes in use for each of them.
const RUN_FOR: u64 = 512 << 10;
/// Bytes that are copied at a time: they stay in the CPU's cache between being read and being written.
const PIECE: u64 = 256 << 10;
const PAGE: usize = FRAME_SIZE as usize;

/// A copy that is being made into a file, each byte to its guest-physical address.
struct RamCopy {
    file: File,
    /// Where the held bytes belong, in their order.
    pieces: Vec<Range<u64>>,
    held: Vec<u8>,
    /// Bytes of RAM that count.
    pub in_use: u64,
    /// Bytes of the file that are not zero.
    pub stored: u64,
    /// Pages that differ from the image that the copy builds upon, in no order.
    differing: Vec<u64>,
}

impl RamCopy {
    /// An empty copy of RAM of `bytes` into an empty file.
    pub fn new(file: File, bytes: u64) -> io::Result<RamCopy> {
        file.set_len(bytes)?;
        let (pieces, held, differing) = Default::default();
        Ok(RamCopy { file, pieces, held, in_use: 0, stored: 0, differing })
    }

    /// Takes memory for so many bytes: to get it from the host page by page takes longer than to copy into it.
    pub fn expect(&mut self, bytes: u64) {
        self.held.resize(bytes.min(MOST_HELD as u64) as usize, 0);
        self.held.clear();
    }

    /// Copies the ranges, but for pages that are all zeros.
    pub fn whole(&mut self, memory: &GuestMemory, runs: impl Iterator<Item = Range<u64>>) -> io::Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let piece = &mut buffer[..PIECE.min(run.end - at) as usize];
                memory.slice(at, piece.len()).ok_or_else(outside)?.copy_to(piece);
                for page in piece.chunks(PAGE) {
                    if !is_zero(page) {
                        self.hold(at, page)?;
                    }
                    at += page.len() as u64;
                }
            }
            self.in_use += run.end.saturating_sub(run.start);
        }
        Ok(())
    }

    /// Copies of the ranges what differs from `base`; all that is not in them counts as zero.
    pub fn difference(
        &mut self,
        memory: &GuestMemory,
        runs: impl Iterator<Item = Range<u64>>,
        base: &Image,
    ) -> io::Result<()> {
        let (mut in_use, mut failed) = (0, Ok(()));
        let runs = runs.inspect(|run| in_use += run.end.saturating_sub(run.start));
        let compared = memory.difference(base, runs, |page, content| {
            self.differing.push(page);
            if let Some(content) = content.filter(|_| failed.is_ok()) {
                failed = self.hold(page, content);
            }
        });
        self.in_use += in_use;
        compared.map_err(io::Error::other).and(failed)
    }

    /// The runs of pages that are to lie over `base`: those that differ, and others between them.
    pub fn runs_over(&mut self, base: &Image) -> io::Result<Vec<Range<u64>>> {
        let mut pages = std::mem::take(&mut self.differing);
        pages.sort_unstable();
        let most = (self.in_use / RUN_FOR).clamp(*RUNS.start(), *RUNS.end()) as usize;
        let (runs, between) = few_runs(&pages, most);
        let reference = base.reference().map_err(io::Error::other)?;
        let mut content = [0; PAGE];
        for page in between.into_iter().flat_map(|gap| gap.step_by(PAGE)) {
            reference.slice(page, PAGE).ok_or_else(outside)?.copy_to(&mut content[..]);
            if !is_zero(&content) {
                self.hold(page, &content)?;
            }
        }
        Ok(runs)
    }

    /// Writes what is held. The file is complete then.
    pub fn finish(mut self) -> io::Result<()> {
        self.write()
    }

    fn hold(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.held.len() + bytes.len() > MOST_HELD {
            self.write()?;
        }
        let end = at + bytes.len() as u64;
        match self.pieces.last_mut() {
            Some(piece) if piece.end == at => piece.end = end,
            _ => self.pieces.push(at..end),
        }
        self.held.extend_from_slice(bytes);
        self.stored += bytes.len() as u64;
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let mut held = &self.held[..];
        for piece in self.pieces.drain(..) {
            let (now, later) = held.split_at((piece.end - piece.start) as usize);
            self.file.write_all_at(now, piece.start)?;
            held = later;
        }
        self.held.clear();
        Ok(())
    }
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a range outside of the guest's memory")
}

/// At most `most` runs that have all of the `pages`, which are in order, and as few others as can be; and those others.
fn few_runs(pages: &[u64], most: usize) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let mut gaps: Vec<Range<u64>> =
        pages.windows(2).map(|two| two[0] + FRAME_SIZE..two[1]).filter(|gap| !gap.is_empty()).collect();
    gaps.sort_unstable_by_key(|gap| std::cmp::Reverse(gap.end - gap.start));
    let between = gaps.split_off(gaps.len().min(most - 1));
    let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return Default::default() };
    gaps.sort_unstable_by_key(|gap| gap.start);
    let starts = std::iter::once(*first).chain(gaps.iter().map(|gap| gap.end));
    let ends = gaps.iter().map(|gap| gap.start).chain([last + FRAME_SIZE]);
    (starts.zip(ends).map(|(start, end)| start..end).collect(), between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(ranges: &[Range<u64>]) -> u64 {
        ranges.iter().map(|range| (range.end - range.start) / FRAME_SIZE).sum()
    }

    #[test]
    fn the_narrowest_gaps_are_filled() {
        let pages: Vec<u64> = (0..20).map(|i| (i * 10 + u64::from(i > 3)) * FRAME_SIZE).collect();
        let (runs, between) = few_runs(&pages, 16);
        assert_eq!((runs.len(), between.len()), (16, 4));
        // The one gap that is a page wider than the others is none of those.
        assert!(runs.iter().any(|run| run.end == 31 * FRAME_SIZE));
        assert_eq!(few_runs(&[], 16), (vec![], vec![]));
        assert_eq!(few_runs(&[0, 4096, 12288], 16), (vec![0..8192, 12288..16384], vec![]));
    }

    #[test]
    fn what_another_process_copied_is_taken_and_no_more() {
        let bytes = 64 * FRAME_SIZE;
        let file = file_for_another(bytes).unwrap();
        for (at, content) in [(3, 7u8), (4, 0), (63, 9)] {
            file.write_all_at(&[content; PAGE], at * FRAME_SIZE).unwrap();
        }
        assert!(file.set_len(bytes + 1).is_err() && file.set_len(0).is_err());
        assert!(file.write_all_at(&[1], bytes).is_err());
        let copy = tempfile::tempfile().unwrap();
        assert_eq!(copy_sparse(&file, &copy, bytes).unwrap(), 2 * FRAME_SIZE);
        let mut content = vec![1; bytes as usize];
        copy.read_exact_at(&mut content, 0).unwrap();
        let found: Vec<_> = content.chunks(PAGE).map(|page| page[0]).enumerate().collect();
        assert!(found.iter().all(|(page, byte)| *byte
            == [(3, 7), (63, 9)].into_iter().find(|(at, _)| at == page).map_or(0, |(_, byte)| byte)));
        assert_eq!(copy.metadata().unwrap().len(), bytes);
    }

    proptest! {
        #[test]
        fn runs_are_few_and_have_all_pages(numbers in proptest::collection::btree_set(0..2000u64, 0..200), most in 1..20usize) {
            let pages: Vec<u64> = numbers.iter().map(|number| number * FRAME_SIZE).collect();
            let (runs, between) = few_runs(&pages, most);
            prop_assert!(runs.len() <= most);
            prop_assert!(runs.windows(2).all(|two| two[0].end < two[1].start));
            prop_assert!(pages.iter().all(|page| runs.iter().any(|run| run.contains(page))));
            prop_assert_eq!(count(&runs), pages.len() as u64 + count(&between));
        }
    }
}
