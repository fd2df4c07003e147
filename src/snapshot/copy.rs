//! Copying a program's RAM: what of it is to be kept is held in memory while the program stands still, and written when it goes on.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::checksum::is_zero;
use crate::vmm::{FRAME_SIZE, GuestMemory, Image};

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
pub(super) struct RamCopy {
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
    pub fn finish(mut self) -> io::Result<File> {
        self.write()?;
        Ok(self.file)
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
