//! Which pages of a VM's RAM differ from an image.

use std::io;
use std::ops::Range;

use super::error::VmmError;
use super::frames::FRAME_SIZE;
use super::image::{Image, Reference};
use super::memory::GuestMemory;
use super::pagemap::{Pagemap, Touched};

const PAGE: usize = FRAME_SIZE as usize;

impl GuestMemory {
    /// Calls `found` with the guest-physical address of each page that is not as in `base`, and its content; without one where it is
    /// zero. Of this RAM only the ranges `used` count, which are of whole pages and in order; all else is taken for zero.
    ///
    /// # Errors
    /// A range is outside of RAM, the image is of RAM of another size, or the host fails.
    pub fn difference(
        &self,
        base: &Image,
        used: impl Iterator<Item = Range<u64>>,
        mut found: impl FnMut(u64, Option<&[u8]>),
    ) -> Result<(), VmmError> {
        let failed = |source| VmmError::Memory { doing: "compare", bytes: self.size(), source };
        if base.bytes() != self.size() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let reference = base.reference()?;
        let candidates = self.candidates(base)?;
        let used: Vec<_> = used.collect();
        let (mut ours, mut theirs) = ([0; PAGE], [0; PAGE]);
        for page in common(&used, &candidates).flat_map(pages) {
            let slice = self.slice(page, PAGE).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
            slice.copy_to(&mut ours[..]);
            if ours != *read(reference, page, &mut theirs) {
                found(page, Some(&ours).filter(|ours| **ours != ZERO).map(|ours| &ours[..]));
            }
        }
        let data = joined(base.data().map_err(failed)?);
        for page in common(&data, &gaps(&used, self.size())).flat_map(pages) {
            if *read(reference, page, &mut theirs) != ZERO {
                found(page, None);
            }
        }
        Ok(())
    }

    /// Guest-physical ranges outside of which RAM that began as an image is what it was then, in order: pages that were written to, and those
    /// that took the place of the image's.
    pub(super) fn changed(&self) -> Result<Vec<Range<u64>>, VmmError> {
        let failed =
            |source| VmmError::Memory { doing: "look for the written pages of", bytes: self.size(), source };
        let base = self.host_address();
        let mut changed = self.replaced();
        let pagemap = Pagemap::open().map_err(failed)?;
        pagemap
            .pages(Touched::Written, base..base + self.size(), |run| {
                changed.push(run.start - base..run.end - base)
            })
            .map_err(failed)?;
        Ok(joined(changed))
    }

    /// Ranges outside of which this RAM is as in `base`, in order.
    fn candidates(&self, base: &Image) -> Result<Vec<Range<u64>>, VmmError> {
        match base.runs_above(&self.began_as()) {
            Some(above) => {
                let mut changed = self.changed()?;
                changed.extend(above);
                Ok(joined(changed))
            }
            None => Ok(std::iter::once(0..self.size()).collect()),
        }
    }
}

const ZERO: [u8; PAGE] = [0; PAGE];

fn read<'a>(reference: &Reference, page: u64, into: &'a mut [u8; PAGE]) -> &'a [u8; PAGE] {
    match reference.slice(page, PAGE) {
        Some(slice) => {
            slice.copy_to(&mut into[..]);
        }
        None => into.fill(0),
    }
    into
}

fn pages(range: Range<u64>) -> impl Iterator<Item = u64> {
    range.step_by(PAGE)
}

/// Sorts ranges, and joins those that overlap or touch.
pub(super) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// What lies between ranges in order, up to `end`.
fn gaps(ranges: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
    let mut from = 0;
    let mut gaps = Vec::with_capacity(ranges.len() + 1);
    for range in ranges.iter().chain([&(end..end)]) {
        if from < range.start {
            gaps.push(from..range.start);
        }
        from = range.end.max(from);
    }
    gaps
}

/// What two lists of ranges in order have in common, in order.
fn common<'a>(one: &'a [Range<u64>], other: &'a [Range<u64>]) -> impl Iterator<Item = Range<u64>> + 'a {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        while let (Some(a), Some(b)) = (one.get(i), other.get(j)) {
            let both = a.start.max(b.start)..a.end.min(b.end);
            if a.end <= b.end {
                i += 1
            } else {
                j += 1
            }
            if !both.is_empty() {
                return Some(both);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 64;
    const RAM: u64 = PAGES * FRAME_SIZE;

    fn layer(marks: &BTreeMap<u64, u8>) -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(RAM).unwrap();
        for (page, mark) in marks {
            file.write_all_at(&[*mark; PAGE], page * FRAME_SIZE).unwrap();
        }
        file
    }

    fn found(memory: &GuestMemory, base: &Image, used: &[Range<u64>]) -> BTreeMap<u64, u8> {
        let mut found = BTreeMap::new();
        let used = used.iter().map(|run| run.start * FRAME_SIZE..run.end * FRAME_SIZE);
        memory
            .difference(base, used, |page, content| {
                let mark = content.map_or(0, |content| content[0]);
                assert_eq!(content.is_none(), mark == 0);
                assert_eq!(found.insert(page / FRAME_SIZE, mark), None, "page {page:#x} is found twice");
            })
            .unwrap();
        found
    }

    /// What must be found of RAM with the marks `ours`.
    fn expected(
        ours: &BTreeMap<u64, u8>,
        base: &BTreeMap<u64, u8>,
        used: &[Range<u64>],
    ) -> BTreeMap<u64, u8> {
        let mark = |marks: &BTreeMap<u64, u8>, page| marks.get(&page).copied().unwrap_or(0);
        (0..PAGES)
            .filter_map(|page| {
                let counts = used.iter().any(|run| run.contains(&page));
                let now = if counts { mark(ours, page) } else { 0 };
                (now != mark(base, page)).then_some((page, now))
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_differs_is_found_and_nothing_else(
            base in proptest::collection::btree_map(0..PAGES, 0..3u8, 0..20),
            above in proptest::collection::btree_map(0..PAGES, 0..3u8, 0..10),
            written in proptest::collection::btree_map(0..PAGES, 0..3u8, 0..10),
            discarded in proptest::collection::vec(0..PAGES, 0..5),
            cuts in proptest::collection::btree_set(0..=PAGES, 0..8),
        ) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let used: Vec<Range<u64>> = cuts.chunks_exact(2).map(|cut| cut[0]..cut[1]).collect();
            let image = Image::new(layer(&base), RAM).unwrap();
            let runs = above.keys().map(|page| page * FRAME_SIZE..(page + 1) * FRAME_SIZE).collect();
            let over = Image::over(&image, layer(&above), runs).unwrap();
            for began in [Some(&image), Some(&over), None] {
                let (memory, mut ours) = match began {
                    None => (GuestMemory::new(RAM).unwrap(), BTreeMap::new()),
                    Some(image) => (image.map().unwrap(), base.clone()),
                };
                if began.is_some_and(|began| std::ptr::eq(began, &over)) {
                    ours.extend(above.clone());
                }
                for page in &discarded {
                    memory.discard(page * FRAME_SIZE, PAGE).unwrap();
                    ours.insert(*page, 0);
                }
                for (page, mark) in &written {
                    memory.write(page * FRAME_SIZE, &[*mark; PAGE]);
                    ours.insert(*page, *mark);
                }
                prop_assert_eq!(found(&memory, &image, &used), expected(&ours, &base, &used));
            }
        }
    }

    #[test]
    fn an_image_of_another_size_is_refused() {
        let image = Image::new(layer(&BTreeMap::new()), RAM).unwrap();
        let memory = GuestMemory::new(2 * RAM).unwrap();
        assert!(memory.difference(&image, std::iter::empty(), |_, _| {}).is_err());
    }
}
