//! Which frames are in use, as a checkpoint keeps it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{FRAME_SIZE, Frame, Frames, PER_WORD};
use crate::vmm::layout::FIRST_FRAME;

/// Which frames are in use: what a checkpoint keeps of [`Frames`]. All others count as zero.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedFrames {
    /// The frames that were given out, as runs: first and count.
    used: Vec<(u32, u32)>,
    /// See [`Frames`].
    next_table: u32,
}

impl SavedFrames {
    /// Whether the frame was given out.
    pub fn contains(&self, frame: Frame) -> bool {
        let next = self.used.partition_point(|(first, _)| *first <= frame.0);
        next > 0 && frame.0 - self.used[next - 1].0 < self.used[next - 1].1
    }

    /// Guest-physical byte ranges of the frames in use.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.used.iter().map(|(first, count)| {
            let start = u64::from(*first) * FRAME_SIZE;
            start..start + u64::from(*count) * FRAME_SIZE
        })
    }
}

impl Frames {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedFrames {
        let (first, data_end) = Frames::bounds(self.total);
        let mut used: Vec<(u32, u32)> = Vec::new();
        let mut add = |first: usize, count: usize| match used.last_mut() {
            Some((start, len)) if (*start + *len) as usize == first => *len += count as u32,
            _ => used.push((first as u32, count as u32)),
        };
        let mut at = first;
        while at < data_end {
            let rest = self.used[at / PER_WORD] >> (at % PER_WORD);
            let whole = (PER_WORD - at % PER_WORD).min(data_end - at);
            let (free, taken) = (rest.trailing_zeros() as usize, rest.trailing_ones() as usize);
            if taken > 0 {
                add(at, taken.min(whole));
                at += taken.min(whole);
            } else {
                at += free.min(whole);
            }
        }
        if self.next_table > data_end {
            add(data_end, self.next_table - data_end);
        }
        SavedFrames { used, next_table: self.next_table as u32 }
    }

    /// Takes over what RAM that was put back to its image keeps of the run before: which free frames may hold old content, and
    /// the frames that are page `tables` for good.
    pub(in crate::vmm) fn continue_from(&mut self, before: &Frames, tables: impl Iterator<Item = Frame>) {
        let words = self.dirty.iter_mut().zip(&mut self.touched);
        for ((dirty, touched), (old_dirty, old_touched)) in
            words.zip(before.dirty.iter().zip(&before.touched))
        {
            *dirty |= old_dirty;
            *touched |= old_touched;
        }
        self.next_table = self.next_table.max(before.next_table);
        for table in tables.filter(|table| u64::from(table.0) * FRAME_SIZE >= FIRST_FRAME) {
            let (word, bit) = (table.0 as usize / PER_WORD, table.0 as usize % PER_WORD);
            if self.used[word] >> bit & 1 == 0 {
                self.used[word] |= 1 << bit;
                self.free -= 1;
            }
        }
    }

    /// The allocator of RAM of `bytes` that holds the frames of `saved` and zeros elsewhere; `None` if they do not fit into it.
    pub fn restore(saved: &SavedFrames, bytes: u64) -> Option<Frames> {
        let mut frames = Frames::new(bytes);
        let (first, data_end) = Frames::bounds(frames.total);
        let next_table = saved.next_table as usize;
        if !(data_end..=frames.total).contains(&next_table) {
            return None;
        }
        frames.next_table = next_table;
        let mut from = first;
        for (start, count) in &saved.used {
            let (start, count) = (*start as usize, *count as usize);
            let end = start.checked_add(count)?;
            if start < from || end > next_table {
                return None;
            }
            from = end;
            for at in start..end.min(data_end) {
                let bit = 1 << (at % PER_WORD);
                frames.used[at / PER_WORD] |= bit;
                frames.dirty[at / PER_WORD] |= bit;
                frames.touched[at / PER_WORD] |= bit;
                frames.free -= 1;
            }
        }
        Some(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SPLIT;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_saved_is_in_use_after_a_restore_and_nothing_else() {
        for bytes in [FIRST_FRAME + 1000 * FRAME_SIZE, 2 * SPLIT as u64 * FRAME_SIZE] {
            let mut frames = Frames::new(bytes);
            let mut out: Vec<Frame> = Vec::new();
            for count in [1, 64, 7, 64, 64, 3] {
                let (first, n) = frames.allocate(count).expect("frames");
                out.extend((first.0..).take(n).map(Frame));
            }
            let table = frames.allocate_table().expect("a table");
            for frame in out.drain(10..40) {
                frames.release(frame);
            }
            let saved = frames.save();
            let mut kept: Vec<u64> = saved.ranges().flat_map(|r| r.step_by(FRAME_SIZE as usize)).collect();
            let mut expected: Vec<u64> = out.iter().chain([&table]).map(|frame| frame.address()).collect();
            kept.sort_unstable();
            expected.sort_unstable();
            assert_eq!(kept, expected);
            let mut restored = Frames::restore(&saved, bytes).expect("it fits");
            assert_eq!((restored.free(), restored.save()), (frames.free(), saved.clone()));
            assert!(Frames::restore(&saved, FIRST_FRAME + 16 * FRAME_SIZE).is_none());
            while let Some((first, n)) = restored.allocate(64) {
                for frame in (first.0..).take(n).map(Frame) {
                    assert!(!out.contains(&frame) && frame != table, "{frame:?} given out twice");
                    assert!(!restored.mark_dirty(frame), "{frame:?} counts as dirty");
                }
            }
            assert_ne!(restored.allocate_table(), Some(table));
        }
    }

    proptest! {
        #[test]
        fn damaged_saved_frames_are_refused_or_harmless(
            used in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..4),
            next_table in any::<u32>(),
        ) {
            if let Some(mut frames) = Frames::restore(&SavedFrames { used, next_table }, 8 << 20) {
                frames.allocate(64);
                frames.allocate_table();
            }
        }
    }
}
