//! Changes to what is mapped. Whatever takes a right away flushes before it returns, and before a frame is used again.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::errno::Errno;
use super::mapped_file::MappedFile;
use super::space::{AddressSpace, Backing, Placement, Region};
use crate::vmm::{Access, Entry, FRAME_SIZE, Frame};

/// Runs of at least this many frames are given back to the host. Shorter ones are soon used again, by collectors of garbage above all: to clear
/// them then costs less than to have the host find memory anew, and break a large page for it.
const GIVE_BACK: usize = 4096;

impl AddressSpace {
    /// Unmaps the page-aligned range; absent parts are skipped.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        self.check_sealed(start, end)?;
        let mut objects = BTreeSet::new();
        for key in self.carve(start..end) {
            if let Some(region) = self.regions.remove(&key) {
                let frames = self.clear_pages(key, region.end);
                if region.owns_frames() {
                    self.free_frames(frames)?;
                } else {
                    self.flush_seen(frames)?;
                }
                // Nobody stores through this region any more.
                self.write_back(key, region.end, key, &region);
                objects.extend(region.object());
                self.let_go(region)?;
            }
        }
        self.free_unused(&objects);
        Ok(())
    }

    /// Frees the frames of the range, whose pages are absent afterwards. Shared mappings keep their pages: the content is the file's.
    pub fn drop_pages(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        self.check_sealed(start, end)?;
        let from = self.find(start).map_or(start, |(first, _)| first);
        let own = self.regions.range(from..end).filter(|(_, region)| !region.shared);
        let ranges: Vec<_> = own.map(|(first, region)| (start.max(*first), end.min(region.end))).collect();
        for (low, high) in ranges {
            let frames = self.clear_pages(low, high);
            self.free_frames(frames)?;
        }
        Ok(())
    }

    /// Makes the pages of the range absent; returns their frames, and which of them vCPUs may still reach.
    pub(super) fn clear_pages(&mut self, start: u64, end: u64) -> Vec<(Frame, bool)> {
        let mut frames = Vec::new();
        self.tables().update(start, end, |_, entry| {
            frames.push((entry.frame, !entry.access.is_empty()));
            None
        });
        frames
    }

    /// Makes all vCPUs forget those frames that they may still reach.
    pub(super) fn flush_seen(&self, mut frames: Vec<(Frame, bool)>) -> Result<(), Errno> {
        for (first, count, _) in runs(&mut frames).into_iter().filter(|(.., seen)| *seen) {
            self.memory.flush(first.address(), count * FRAME_SIZE as usize).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }

    /// Frees frames that no page shows any more.
    pub(super) fn free_frames(&mut self, mut frames: Vec<(Frame, bool)>) -> Result<(), Errno> {
        for (first, count, seen) in runs(&mut frames) {
            let bytes = count * FRAME_SIZE as usize;
            if count >= GIVE_BACK {
                self.memory.discard(first.address(), bytes).map_err(|_| Errno::ENOMEM)?;
                self.frames.mark_clean(first, count);
            } else if seen {
                self.memory.flush(first.address(), bytes).map_err(|_| Errno::ENOMEM)?;
            }
            for i in 0..count as u32 {
                self.frames.release(Frame(first.0 + i));
            }
        }
        Ok(())
    }

    /// Changes what the program may do with the range, which must be mapped throughout.
    pub fn protect(&mut self, start: u64, end: u64, access: Access) -> Result<(), Errno> {
        self.check_sealed(start, end)?;
        if !self.is_mapped(start, end) {
            return Err(Errno::ENOMEM);
        }
        self.check_room()?;
        let first = self.find(start).map_or(start, |(first, _)| first);
        if access.contains(Access::WRITE)
            && self.regions.range(first..end).any(|(_, region)| !region.may_write)
        {
            return Err(Errno::EACCES);
        }
        let mut narrowed = Vec::new();
        let mut is_new = false;
        for key in self.carve(start..end) {
            let Some(mut region) = self.regions.remove(&key) else { continue };
            is_new |= region.access.is_empty();
            region.access = access;
            // The first store to a page of a shared mapping is to be seen.
            let shown = if region.shared_file().is_some() { access - Access::WRITE } else { access };
            self.tables().update(key, region.end, |_, entry| {
                if !shown.contains(entry.access) {
                    narrowed.push((entry.frame, true));
                }
                Some(Entry { access: shown, ..entry })
            });
            self.insert(key, region);
        }
        self.flush_seen(narrowed)?;
        if is_new {
            self.fill_writable(start, end);
        }
        Ok(())
    }

    /// Moves `[old, old + len)`, which lies in one region, to `new`, a free range; frames go along.
    pub(super) fn move_pages(&mut self, old: u64, len: u64, new: u64, owned: bool) -> Result<(), Errno> {
        let mut moved = Vec::new();
        self.tables().update(old, old + len, |address, entry| {
            moved.push((address, entry));
            None
        });
        let mut frames: Vec<_> = moved.iter().map(|(_, e)| (e.frame, !e.access.is_empty())).collect();
        let memory = std::sync::Arc::clone(&self.memory);
        let tables = crate::vmm::PageTables::new(&memory);
        let mut lost = Vec::new();
        for (address, entry) in moved {
            if !tables.set(address - old + new, entry, &mut self.frames) {
                lost.push(entry.frame);
            }
        }
        for (first, count, _) in runs(&mut frames) {
            self.memory.flush(first.address(), count * FRAME_SIZE as usize).map_err(|_| Errno::ENOMEM)?;
        }
        // Only now does no vCPU write to them any more.
        lost.into_iter().filter(|_| owned).for_each(|frame| self.frames.release(frame));
        Ok(())
    }

    /// `mremap` of a range that lies in one region.
    pub fn remap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        to: Option<Placement>,
    ) -> Result<u64, Errno> {
        self.check_sealed(old, old + old_len)?;
        let (start, region) = self.find(old).ok_or(Errno::EFAULT)?;
        if region.end < old + old_len {
            return Err(Errno::EFAULT);
        }
        let region = region.clone();
        if to.is_none() {
            if new_len <= old_len {
                self.unmap(old + new_len, old + old_len)?;
                return Ok(old);
            }
            region.check_offsets((old - start).checked_add(new_len).ok_or(Errno::EINVAL)?)?;
            // Grow in place where the next addresses are free and the region ends here.
            let growth = Placement::FixedFree(old + old_len);
            if region.end == old + old_len && self.place(growth, new_len - old_len).is_ok() {
                if let Some(region) = self.regions.get_mut(&start) {
                    region.end = old + new_len;
                }
                return Ok(old);
            }
            return Err(Errno::ENOMEM);
        }
        region.check_offsets((old - start).checked_add(new_len).ok_or(Errno::EINVAL)?)?;
        let new = self.place(to.unwrap_or(Placement::Hint(0)), new_len)?;
        if new < old + old_len && old < new + new_len {
            return Err(Errno::EINVAL);
        }
        self.unmap(new, new + new_len)?;
        let kept = old_len.min(new_len);
        let mut target = Region { end: new + new_len, ..region };
        if let Backing::File { offset, .. } | Backing::Object { offset, .. } = &mut target.backing {
            *offset += old - start;
        }
        self.move_pages(old, kept, new, target.owns_frames())?;
        self.insert(new, target);
        self.unmap(old, old + old_len)?;
        Ok(new)
    }

    /// Writes what the program stored into the part `[from, to)` of a region, which begins at `start`, back to its file if it is a shared
    /// mapping of one. Pages that it cannot write are skipped.
    pub fn write_back(&self, from: u64, to: u64, start: u64, region: &Region) {
        let Some((file, offset)) = region.shared_file() else { return };
        let page = |address: u64| (offset + (address - start)) / FRAME_SIZE;
        self.write_back_pages(file, page(from)..page(to));
    }

    /// The same for pages of a file by their numbers in it.
    pub(super) fn write_back_pages(&self, file: &MappedFile, pages: Range<u64>) {
        let Some(writer) = file.writer() else { return };
        let stored = file.stored(pages);
        if stored.is_empty() {
            return;
        }
        let Ok(size) = rustix::fs::fstat(writer).map(|s| s.st_size as u64) else { return };
        for (index, frame) in stored {
            let at = index * FRAME_SIZE;
            let len = size.saturating_sub(at).min(FRAME_SIZE) as usize;
            if len > 0
                && let Some(slice) = self.memory.slice(frame.address(), len)
            {
                // The file may have become read-only or full: Linux drops such pages too, or reports them at msync.
                let _ = super::super::host_io::pwrite(writer, &[slice], at);
            }
        }
    }
}

/// Sorts frames and joins those that follow each other: first, count, and whether any was `seen` by the CPU.
fn runs(frames: &mut [(Frame, bool)]) -> Vec<(Frame, usize, bool)> {
    frames.sort_unstable_by_key(|(frame, _)| *frame);
    let mut runs: Vec<(Frame, usize, bool)> = Vec::new();
    for (frame, seen) in frames.iter() {
        match runs.last_mut() {
            Some((first, count, any)) if first.0 + *count as u32 == frame.0 => {
                *count += 1;
                *any |= seen;
            }
            _ => runs.push((*frame, 1, *seen)),
        }
    }
    runs
}
