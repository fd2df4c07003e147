//! Which frames (4 KiB pages of guest RAM) are in use.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::layout::FIRST_FRAME;
use super::paging::LARGE_FRAMES;

mod saved;

pub use saved::SavedFrames;

/// Bytes of a frame.
pub const FRAME_SIZE: u64 = 4096;
const PER_WORD: usize = 64;

/// A frame by its number: guest-physical address divided by [`FRAME_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Frame(pub u32);

impl Frame {
    /// Guest-physical address of the first byte.
    pub fn address(self) -> u64 {
        u64::from(self.0) * FRAME_SIZE
    }
}

/// A bitmap allocator over guest RAM. Frames are given out in runs where possible, because a run is flushed, copied and
/// given back by one operation, and from the lowest free one on: those that were used before are there already, while the host has to
/// find and clear memory for new ones.
#[derive(Clone, Debug)]
pub struct Frames {
    used: Vec<u64>,
    /// Frames that have been used since the RAM was zero: they must be cleared before they are used again.
    dirty: Vec<u64>,
    free: usize,
    total: usize,
    /// For runs of 1, 2, 4, … frames: no word before this one has a free aligned run of so many.
    lowest: [usize; RUN_SIZES],
    /// Frames that were given out at any time.
    touched: Vec<u64>,
    /// Next of the frames kept for page tables, which end with the RAM.
    next_table: usize,
}

/// One in so many frames is kept for page tables, in RAM of at least [`SPLIT`] frames.
const TABLE_SHARE: usize = 64;
const SPLIT: usize = 8192;
/// Tables are plenty until one in so many of those frames is used.
const PLENTY: usize = 4;

/// How many sizes a run can be looked for in: the powers of two up to a word's bits.
const RUN_SIZES: usize = PER_WORD.trailing_zeros() as usize + 1;

impl Frames {
    /// All frames of `bytes` of RAM, less those below [`FIRST_FRAME`].
    pub fn new(bytes: u64) -> Frames {
        let total = usize::try_from(bytes / FRAME_SIZE).unwrap_or(0);
        let (first, data_end) = Frames::bounds(total);
        let words = total.div_ceil(PER_WORD);
        let zeros = vec![0; words];
        let mut frames = Frames {
            used: zeros.clone(),
            dirty: zeros.clone(),
            touched: zeros,
            free: data_end.saturating_sub(first),
            total,
            lowest: [first / PER_WORD; RUN_SIZES],
            next_table: data_end,
        };
        for frame in (0..first.min(total)).chain(data_end..words * PER_WORD) {
            frames.used[frame / PER_WORD] |= 1 << (frame % PER_WORD);
        }
        frames
    }

    /// How many frames there are, free or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many frames are free.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Takes up to `count` frames that follow each other, at least one; `None` when RAM is exhausted. Returns the first and
    /// how many. Runs of up to 64 are found whole while any aligned run of that size is free.
    pub fn allocate(&mut self, count: usize) -> Option<(Frame, usize)> {
        let count = count.clamp(1, PER_WORD).next_power_of_two().min(PER_WORD).min(count.max(1));
        let mut align = count.next_power_of_two();
        loop {
            if let Some(first) = self.find(align) {
                let got = align.min(count);
                let mask = mask(got) << (first % PER_WORD);
                self.used[first / PER_WORD] |= mask;
                self.touched[first / PER_WORD] |= mask;
                self.free -= got;
                return Some((Frame(first as u32), got));
            }
            if align == 1 {
                return None;
            }
            align /= 2;
        }
    }

    /// Takes the frames of a large page: [`LARGE_FRAMES`] that follow each other, aligned to as many.
    pub fn allocate_large(&mut self) -> Option<Frame> {
        const WORDS: usize = LARGE_FRAMES / PER_WORD;
        let from = self.lowest[RUN_SIZES - 1] / WORDS;
        let mut runs = self.used.chunks_exact(WORDS).skip(from);
        let index = from + runs.position(|words| words.iter().all(|word| *word == 0))?;
        let words = index * WORDS..(index + 1) * WORDS;
        self.used[words.clone()].fill(u64::MAX);
        self.touched[words].fill(u64::MAX);
        self.free -= LARGE_FRAMES;
        Some(Frame((index * LARGE_FRAMES) as u32))
    }

    /// Takes a frame for a page table, for good. It never held anything else: a host call that still fills memory which the program
    /// unmapped meanwhile can spoil the program's data, but not its page tables.
    pub fn allocate_table(&mut self) -> Option<Frame> {
        if self.next_table < self.total {
            self.next_table += 1;
            return Some(Frame(self.next_table as u32 - 1));
        }
        let word = (0..self.used.len()).find(|i| self.used[*i] | self.touched[*i] != u64::MAX)?;
        let bit = (self.used[word] | self.touched[word]).trailing_ones() as usize;
        self.used[word] |= 1 << bit;
        self.touched[word] |= 1 << bit;
        self.free -= 1;
        Some(Frame((word * PER_WORD + bit) as u32))
    }

    /// Whether there are enough frames for page tables to give some to pages that could as well lie where there are tables already.
    pub fn tables_are_plenty(&self) -> bool {
        let (_, data_end) = Frames::bounds(self.total);
        self.next_table - data_end < (self.total - data_end) / PLENTY
    }

    /// First frame of the lowest free run of `len` frames, aligned to `len`, a power of two up to 64.
    fn find(&mut self, len: usize) -> Option<usize> {
        let lowest = &mut self.lowest[len.trailing_zeros() as usize];
        while let Some(word) = self.used.get(*lowest) {
            let free = |at: &usize| word & (mask(len) << at) == 0;
            if *word != u64::MAX
                && let Some(at) = (0..PER_WORD).step_by(len).find(free)
            {
                return Some(*lowest * PER_WORD + at);
            }
            *lowest += 1;
        }
        None
    }

    /// Whether `frame` may hold old content; from now on it may.
    pub fn mark_dirty(&mut self, frame: Frame) -> bool {
        let (word, bit) = (frame.0 as usize / PER_WORD, frame.0 as usize % PER_WORD);
        let was = self.dirty[word] >> bit & 1 != 0;
        self.dirty[word] |= 1 << bit;
        was
    }

    /// Says that the frames are zero again because they were given back to the host.
    pub fn mark_clean(&mut self, first: Frame, count: usize) {
        for frame in first.0 as usize..first.0 as usize + count {
            self.dirty[frame / PER_WORD] &= !(1 << (frame % PER_WORD));
        }
    }

    /// Whether `frame` is given out.
    pub fn is_used(&self, frame: Frame) -> bool {
        let (word, bit) = (frame.0 as usize / PER_WORD, frame.0 as usize % PER_WORD);
        (frame.0 as usize) < self.total && self.used[word] >> bit & 1 == 1
    }

    /// Gives a frame back. No vCPU may have a translation to it any more.
    pub fn release(&mut self, frame: Frame) {
        let (word, bit) = (frame.0 as usize / PER_WORD, frame.0 as usize % PER_WORD);
        debug_assert!(self.used[word] >> bit & 1 == 1, "frame {frame:?} released twice");
        if self.used[word] >> bit & 1 == 1 {
            self.used[word] &= !(1 << bit);
            self.free += 1;
            for (size, lowest) in self.lowest.iter_mut().enumerate() {
                let len = 1 << size;
                if self.used[word] & (mask(len) << (bit & !(len - 1))) != 0 {
                    break;
                }
                *lowest = word.min(*lowest);
            }
        }
    }

    /// First frame that is given out, and the first of those kept for page tables.
    fn bounds(total: usize) -> (usize, usize) {
        let data_end = if total < SPLIT { total } else { total - total / TABLE_SHARE };
        ((FIRST_FRAME / FRAME_SIZE) as usize, data_end)
    }

    /// Guest-physical bytes of the frames that are not kept for page tables, of so many bytes of RAM; empty if there are none.
    pub(super) fn for_data(bytes: u64) -> Range<u64> {
        let (first, end) = Frames::bounds(usize::try_from(bytes / FRAME_SIZE).unwrap_or(0));
        let first = first.min(end);
        first as u64 * FRAME_SIZE..end as u64 * FRAME_SIZE
    }
}

fn mask(len: usize) -> u64 {
    if len >= PER_WORD { u64::MAX } else { (1 << len) - 1 }
}

#[cfg(test)]
mod tests {
    use super::super::paging::LARGE_PAGE;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_is_given_out_once_and_then_none() {
        let mut frames = Frames::new(FIRST_FRAME + 100 * FRAME_SIZE);
        let mut seen = std::collections::BTreeSet::new();
        while let Some((first, n)) = frames.allocate(16) {
            for i in 0..n as u32 {
                assert!(seen.insert(first.0 + i), "frame {} given out twice", first.0 + i);
            }
        }
        assert_eq!((seen.len(), frames.free()), (100, 0));
        assert!(u64::from(*seen.first().expect("100 frames")) * FRAME_SIZE >= FIRST_FRAME);
    }

    #[test]
    fn frames_that_were_given_back_come_before_new_ones() {
        let mut frames = Frames::new(FIRST_FRAME + 1000 * FRAME_SIZE);
        let first = frames.allocate(64).expect("frames");
        let second = frames.allocate(64).expect("frames");
        frames.release(first.0);
        assert_eq!(frames.allocate(1), Some((first.0, 1)));
        for i in 0..64 {
            frames.release(Frame(first.0.0 + i));
        }
        // A run that is too short for what is asked does not hide a longer one behind it.
        frames.release(Frame(second.0.0 + 3));
        assert_eq!(frames.allocate(64), Some(first));
        assert_eq!(frames.allocate(1), Some((Frame(second.0.0 + 3), 1)));
    }

    #[test]
    fn a_large_page_gets_a_whole_aligned_run() {
        const LARGE: u32 = LARGE_FRAMES as u32;
        let mut frames = Frames::new(FIRST_FRAME + 3 * LARGE_PAGE);
        let first = (FIRST_FRAME / FRAME_SIZE) as u32;
        let single = frames.allocate(1).expect("a frame").0;
        // Not the run of which one is gone.
        let runs = [first + LARGE, first + 2 * LARGE].map(Frame);
        assert_eq!([(); 3].map(|()| frames.allocate_large()), [Some(runs[0]), Some(runs[1]), None]);
        assert_eq!(frames.free(), LARGE_FRAMES - 1);
        frames.release(single);
        assert_eq!(frames.allocate_large(), Some(Frame(first)));
        assert_eq!((frames.free(), frames.allocate(1)), (0, None));
        for frame in (runs[1].0..).take(LARGE_FRAMES).map(Frame) {
            assert!(frames.is_used(frame));
            frames.release(frame);
        }
        assert_eq!(frames.allocate(64), Some((runs[1], 64)));
        assert_eq!((frames.allocate_large(), frames.free()), (None, LARGE_FRAMES - 64));
    }

    #[test]
    fn page_tables_get_frames_that_never_held_data() {
        for total in [600, SPLIT] {
            let mut frames = Frames::new(total as u64 * FRAME_SIZE);
            let mut data = std::collections::BTreeSet::new();
            for _ in 0..5 {
                let (first, n) = frames.allocate(16).expect("frames");
                for frame in (first.0..).take(n).map(Frame) {
                    data.insert(frame);
                    frames.release(frame);
                }
            }
            let mut tables = std::collections::BTreeSet::new();
            while let Some(table) = frames.allocate_table() {
                assert!(!data.contains(&table) && tables.insert(table), "{table:?}");
            }
            assert_eq!(tables.len(), total - (FIRST_FRAME / FRAME_SIZE) as usize - data.len());
            assert_eq!(frames.free(), data.len());
        }
    }

    proptest! {
        #[test]
        fn free_count_matches_what_is_out(requests in proptest::collection::vec((1usize..80, any::<bool>()), 1..60)) {
            let mut frames = Frames::new(FIRST_FRAME + 1000 * FRAME_SIZE);
            let mut out = Vec::new();
            for (count, give_back) in requests {
                if let Some((first, n)) = frames.allocate(count) {
                    prop_assert!(n <= count && n >= 1);
                    out.extend((0..n as u32).map(|i| Frame(first.0 + i)));
                }
                if give_back && let Some(frame) = out.pop() {
                    frames.release(frame);
                }
                prop_assert_eq!(frames.free() + out.len(), 1000);
            }
        }
    }
}
