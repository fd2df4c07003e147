//! Which frames (4 KiB pages of guest RAM) are in use.

use super::layout::FIRST_FRAME;

/// Bytes of a frame.
pub const FRAME_SIZE: u64 = 4096;
const PER_WORD: usize = 64;

/// A frame by its number: guest-physical address divided by [`FRAME_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frame(pub u32);

impl Frame {
    /// Guest-physical address of the first byte.
    pub fn address(self) -> u64 {
        u64::from(self.0) * FRAME_SIZE
    }
}

/// A bitmap allocator over guest RAM. Frames are given out in runs where possible, because a run is flushed, copied and
/// given back by one operation.
#[derive(Clone, Debug)]
pub struct Frames {
    used: Vec<u64>,
    /// Frames that have been used since the RAM was zero: they must be cleared before they are used again.
    dirty: Vec<u64>,
    free: usize,
    total: usize,
    next_word: usize,
    /// Frames that were given out at any time.
    touched: Vec<u64>,
    /// Next of the frames kept for page tables, which end with the RAM.
    next_table: usize,
}

/// One in so many frames is kept for page tables, in RAM of at least [`SPLIT`] frames.
const TABLE_SHARE: usize = 64;
const SPLIT: usize = 8192;

impl Frames {
    /// All frames of `bytes` of RAM, less those below [`FIRST_FRAME`].
    pub fn new(bytes: u64) -> Frames {
        let total = usize::try_from(bytes / FRAME_SIZE).unwrap_or(0);
        let first = (FIRST_FRAME / FRAME_SIZE) as usize;
        let words = total.div_ceil(PER_WORD);
        let data_end = if total < SPLIT { total } else { total - total / TABLE_SHARE };
        let zeros = vec![0; words];
        let mut frames = Frames {
            used: zeros.clone(),
            dirty: zeros.clone(),
            touched: zeros,
            free: data_end.saturating_sub(first),
            total,
            next_word: first / PER_WORD,
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

    /// First frame of a free run of `len` frames, aligned to `len`, a power of two up to 64.
    fn find(&mut self, len: usize) -> Option<usize> {
        let words = self.used.len();
        for step in 0..words {
            let index = (self.next_word + step) % words;
            let word = self.used[index];
            if word == u64::MAX {
                continue;
            }
            let mut at = 0;
            while at < PER_WORD {
                if word & (mask(len) << at) == 0 {
                    self.next_word = index;
                    return Some(index * PER_WORD + at);
                }
                at += len;
            }
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

    /// Gives a frame back. No vCPU may have a translation to it any more.
    pub fn release(&mut self, frame: Frame) {
        let (word, bit) = (frame.0 as usize / PER_WORD, frame.0 as usize % PER_WORD);
        debug_assert!(self.used[word] >> bit & 1 == 1, "frame {frame:?} released twice");
        if self.used[word] >> bit & 1 == 1 {
            self.used[word] &= !(1 << bit);
            self.free += 1;
        }
    }
}

fn mask(len: usize) -> u64 {
    if len >= PER_WORD { u64::MAX } else { (1 << len) - 1 }
}

#[cfg(test)]
mod tests {
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
