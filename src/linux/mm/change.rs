//! Changes to what is mapped. Whatever takes a right away flushes before it returns, and before a frame is used again.

use super::super::errno::Errno;
use super::space::{AddressSpace, Backing, Placement, Region};
use crate::vmm::{Access, Entry, FRAME_SIZE, Frame};

/// Runs of at least this many frames are given back to the host.
const GIVE_BACK: usize = 64;

impl AddressSpace {
    /// Unmaps the page-aligned range; absent parts are skipped.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        for key in self.carve(start..end) {
            if let Some(region) = self.regions.remove(&key) {
                self.write_back(key, region.end, key, &region);
                self.drop_pages(key, region.end)?;
            }
        }
        Ok(())
    }

    /// Frees the frames of the range. Its pages are absent afterwards.
    pub fn drop_pages(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        let mut frames = Vec::new();
        self.tables().update(start, end, |_, entry| {
            frames.push((entry.frame, !entry.access.is_empty()));
            None
        });
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
        if !self.is_mapped(start, end) {
            return Err(Errno::ENOMEM);
        }
        self.check_room()?;
        let mut narrowed = Vec::new();
        for key in self.carve(start..end) {
            let Some(mut region) = self.regions.remove(&key) else { continue };
            region.access = access;
            self.tables().update(key, region.end, |_, entry| {
                if !access.contains(entry.access) {
                    narrowed.push((entry.frame, true));
                }
                Some(Entry { access, ..entry })
            });
            self.insert(key, region);
        }
        for (first, count, _) in runs(&mut narrowed) {
            self.memory.flush(first.address(), count * FRAME_SIZE as usize).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }

    /// Moves `[old, old + len)`, which lies in one region, to `new`, a free range; frames go along.
    pub(super) fn move_pages(&mut self, old: u64, len: u64, new: u64) -> Result<(), Errno> {
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
        lost.into_iter().for_each(|frame| self.frames.release(frame));
        Ok(())
    }

    /// `mremap` of a range that lies in one region.
    pub fn remap(&mut self, old: u64, old_len: u64, new_len: u64, to: Option<Placement>) -> Result<u64, Errno> {
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
        if let Backing::File { offset, .. } = &mut target.backing {
            *offset += old - start;
        }
        self.move_pages(old, kept, new)?;
        self.insert(new, target);
        self.unmap(old, old + old_len)?;
        Ok(new)
    }

    /// Writes what the program stored into a shared mapping of a file back to it. Pages that it cannot write to are skipped.
    pub fn write_back(&self, from: u64, to: u64, start: u64, region: &Region) {
        let Backing::File { file, offset } = &region.backing else { return };
        if !region.shared || !region.access.contains(Access::WRITE) {
            return;
        }
        let Ok(size) = rustix::fs::fstat(&file.fd).map(|s| s.st_size as u64) else { return };
        self.tables().update(from, to, |address, entry| {
            let at = offset + (address - start);
            let len = size.saturating_sub(at).min(FRAME_SIZE) as usize;
            if len > 0
                && let Some(slice) = self.memory.slice(entry.frame.address(), len)
            {
                // The file may have become read-only or full: Linux drops such pages too, or reports them at msync.
                let _ = super::super::host_io::pwrite(&file.fd, &[slice], at);
            }
            Some(entry)
        });
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
