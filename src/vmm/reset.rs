//! Putting guest RAM back in place to what an image holds, so that its VM can run the same program again from there.
//!
//! Only pages that were written to are looked at. Their content is copied back rather than mapped anew: KVM's own translations to
//! them stay, and those are what a new VM pays for when it first touches a page.
//!
//! A page table keeps its place once it is linked, also when the image has none there: KVM knows its shadow of a table by the
//! table's frame, so a frame must never become another table. The entries of such a table are emptied, which is the
//! same to the program.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::VmmError;
use super::frames::{FRAME_SIZE, Frame, Frames, SavedFrames};
use super::image::Reference;
use super::layout;
use super::memory::GuestMemory;
use super::paging::PageTables;

/// What it took.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ResetFigures {
    /// Pages whose content was copied back.
    pub copied: usize,
    /// Pages that vCPUs were made to forget.
    pub flushed: usize,
    /// Pages beside the image's that the VM has of its own now, for its next run.
    pub kept: usize,
}

/// Pages outside of the image that stay resident for the next run, the lowest, which are the first to be used again; the others are given
/// back to the host.
const MOST_KEPT: usize = 2048;

/// Makes RAM that began as a copy of the image `original` hold the same again. `saved` are the frames
/// that the image holds, `before` is the allocator as the program left it. Returns the allocator for the next run.
///
/// No vCPU of the VM may run meanwhile.
///
/// # Errors
/// The host refuses a change of its mapping, or `saved` does not fit the RAM. The VM is of no more use then.
pub fn reset(
    memory: &GuestMemory,
    original: &Reference,
    saved: &SavedFrames,
    before: &Frames,
) -> Result<(Frames, ResetFigures), VmmError> {
    debug_assert!(!memory.allows_large_pages());
    let mut frames =
        Frames::restore(saved, memory.size()).ok_or(VmmError::Lacks("the frames of the image"))?;
    let in_image = |page: u64| page < layout::VCPU_AREA || saved.contains(Frame((page / FRAME_SIZE) as u32));
    let tables: BTreeMap<u64, u32> = PageTables::new(memory).tables().into_iter().collect();
    let mut figures = ResetFigures::default();
    let exitless = layout::EXITLESS_AREAS..layout::EXITLESS_AREAS + layout::EXITLESS_BYTES;
    let (mut stale, mut beside) = (Vec::new(), Vec::new());
    for page in memory.changed()?.into_iter().flat_map(|run| run.step_by(FRAME_SIZE as usize)) {
        match tables.get(&page) {
            Some(0) => put_back_table(memory, original, page, in_image(page), &mut stale),
            // Links to tables are only ever added: RAM that began as an image has no large pages.
            Some(_) => {}
            // A program can read there what the one before has asked.
            None if exitless.contains(&page) => memory.zero(page, FRAME_SIZE as usize),
            None if (layout::VCPU_AREA..layout::FIRST_FRAME).contains(&page) => {}
            None if in_image(page) => {
                copy(memory, original, page);
                figures.copied += 1;
            }
            None => beside.push(page),
        }
    }
    figures.flushed = stale.len();
    for run in runs(stale) {
        memory.flush(run.start, (run.end - run.start) as usize)?;
    }
    frames.continue_from(before, tables.keys().map(|table| Frame((table / FRAME_SIZE) as u32)));
    // They came in order.
    figures.kept = beside.len().min(MOST_KEPT);
    for run in runs(beside.split_off(figures.kept)) {
        let (first, len) = (Frame((run.start / FRAME_SIZE) as u32), (run.end - run.start) as usize);
        memory.drop_copies(run.start, len)?;
        frames.mark_clean(first, len / FRAME_SIZE as usize);
    }
    Ok((frames, figures))
}

fn copy(memory: &GuestMemory, original: &Reference, page: u64) {
    let size = FRAME_SIZE as usize;
    if let (Some(from), Some(to)) = (original.slice(page, size), memory.slice(page, size)) {
        from.copy_to_volatile_slice(to);
    }
}

/// Gives a lowest-level table its entries back. Those that vCPUs may have used and that allowed more, or something else, are noted in `stale`
/// by the address of their frame.
fn put_back_table(
    memory: &GuestMemory,
    original: &Reference,
    table: u64,
    in_image: bool,
    stale: &mut Vec<u64>,
) {
    for at in (table..table + FRAME_SIZE).step_by(8) {
        let (now, then) = (memory.load(at), if in_image { original.load(at) } else { 0 });
        if now != then {
            stale.extend(PageTables::narrowed(now, then).map(Frame::address));
            memory.store(at, then);
        }
    }
}

/// Joins pages that follow each other.
fn runs(mut pages: Vec<u64>) -> Vec<Range<u64>> {
    pages.sort_unstable();
    pages.dedup();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += FRAME_SIZE,
            _ => runs.push(page..page + FRAME_SIZE),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::image::Image;
    use super::super::paging::{Access, Entry};
    use super::*;
    use std::io::Write;

    const BYTES: u64 = 16 << 20;
    const RW: Access = Access::READ.union(Access::WRITE);

    /// An image of `bytes` in which the page at 0x40_0000 shows a frame filled with `7`; and its frames.
    fn image(bytes: u64) -> (Image, Frames) {
        let memory = GuestMemory::new(bytes).expect("memory");
        super::super::ring0::install(&memory);
        let mut frames = Frames::new(memory.size());
        let (data, _) = frames.allocate(1).expect("a frame");
        memory.write(data.address(), &[7; FRAME_SIZE as usize]);
        assert!(PageTables::new(&memory).set(0x40_0000, Entry { frame: data, access: RW }, &mut frames));
        let mut bytes = vec![0; memory.size() as usize];
        memory.slice(0, bytes.len()).expect("all of it").copy_to(&mut bytes[..]);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("room for it");
        (Image::new(file, memory.size()).expect("an image"), frames)
    }

    #[test]
    fn memory_and_tables_are_what_they_were() {
        let (image, at_checkpoint) = image(BYTES);
        let saved = at_checkpoint.save();
        let memory = image.map().expect("a mapping");
        let original = image.reference().expect("a mapping");
        let tables = PageTables::new(&memory);
        let linked_before = tables.tables().len();
        let entry = tables.get(0x40_0000).expect("the page");
        let mut frames = Frames::restore(&saved, BYTES).expect("it fits");
        for round in 0..3 {
            // The program writes, narrows, maps more next to it and far away, and gives memory back.
            memory.write(entry.frame.address(), &[9; 100]);
            let (more, count) = frames.allocate(64).expect("frames");
            frames.mark_dirty(more);
            memory.write(more.address(), &[round; 4096]);
            for address in [0x40_1000, 0x7f00_0000_0000] {
                assert!(tables.set(address, Entry { frame: more, access: RW }, &mut frames));
            }
            assert!(tables.set(0x40_0000, Entry { access: Access::READ, ..entry }, &mut frames));
            memory.discard(entry.frame.address(), FRAME_SIZE as usize).expect("given back");
            let (after, figures) = reset(&memory, original, &saved, &frames).expect("a reset");
            assert!(figures.copied >= 1 && figures.flushed >= 1, "{figures:?}");
            assert_eq!(tables.get(0x40_0000), Some(entry));
            assert_eq!((tables.get(0x40_1000), tables.get(0x7f00_0000_0000)), (None, None));
            assert_eq!(memory.load(entry.frame.address()), u64::from_ne_bytes([7; 8]));
            // All frames but the image's are free, and the written one is known to be dirty.
            let linked = tables.tables().len() - linked_before;
            assert_eq!(after.free(), at_checkpoint.free() - linked);
            let mut next = after.clone();
            assert!(next.mark_dirty(more), "{count} frames");
            frames = after;
        }
    }

    #[test]
    fn of_much_memory_the_lowest_is_kept() {
        let (image, at_checkpoint) = image(BYTES);
        let saved = at_checkpoint.save();
        let memory = image.map().expect("a mapping");
        let original = image.reference().expect("a mapping");
        let mut frames = Frames::restore(&saved, BYTES).expect("it fits");
        let mut used = Vec::new();
        while let Some((run, count)) = frames.allocate(64) {
            for frame in (run.0..).take(count).map(Frame) {
                frames.mark_dirty(frame);
                memory.write(frame.address(), &[1; 8]);
                used.push(frame);
            }
        }
        used.sort_unstable();
        assert!(used.len() > MOST_KEPT + 1000);
        let (mut after, figures) = reset(&memory, original, &saved, &frames).expect("a reset");
        assert_eq!(figures.kept, MOST_KEPT);
        // The lowest ones are there, to be cleared when they are used again; the others are zero.
        for (frame, kept) in [(used[0], true), (used[MOST_KEPT - 1], true), (used[MOST_KEPT], false)] {
            assert_eq!(
                (memory.load(frame.address()) != 0, after.mark_dirty(frame)),
                (kept, kept),
                "{frame:?}"
            );
        }
    }
}
