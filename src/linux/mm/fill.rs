//! What a page holds when it gets its frame: zeros, a part of a file, or of an object.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::super::host_io;
use super::fault::{AROUND, FAR_AROUND, Fault, around};
use super::mapped_file::SharedPage;
use super::object::ObjectId;
use super::space::{AddressSpace, Backing, Region};
use crate::vmm::{Access, Entry, FRAME_SIZE, Frame, LARGE_FRAMES, LARGE_PAGE, can_cut_large_pages};

/// Pages of a file that are read ahead at a time: whoever has to wait for that waits for no longer than an exit takes.
const AHEAD: u64 = 8;

impl AddressSpace {
    /// Fills the range, which the program has just got, if it is small, the program may write to it, and there is RAM to spare: each page fault
    /// costs an exit, and that more than to clear some pages in vain.
    pub(super) fn fill_writable(&mut self, start: u64, end: u64) {
        let Some((first, region)) = self.find(start) else { return };
        let end = end.min(region.end);
        let is_small = end - start <= FAR_AROUND * FRAME_SIZE;
        let is_to_write = matches!(region.backing, Backing::Zero) && region.access.contains(Access::WRITE);
        if !is_small || !is_to_write || region.shared || self.is_scarce() {
            return;
        }
        let region = region.clone();
        let mut page = start;
        while page < end {
            let is_absent = |page: &u64| self.tables().get(*page).is_none();
            let mut rest = (page..end).step_by(FRAME_SIZE as usize);
            let Some(low) = rest.find(is_absent) else { return };
            let high = rest.find(|page| !is_absent(page)).unwrap_or(end);
            if self.fill(low, high, low, first, &region) != Fault::Handled {
                return;
            }
            page = high;
        }
    }

    /// Fills one more part of what [`AddressSpace::fault`] fills around the page at `address` of a file; whether there was one.
    pub fn fill_ahead(&mut self, address: u64) -> bool {
        let Some((start, region)) = self.find(address) else { return false };
        if region.access.is_empty() || !matches!(region.backing, Backing::File { .. }) {
            return false;
        }
        let region = region.clone();
        let around = around(address, FAR_AROUND, start, &region);
        let mut parts = around.step_by(FRAME_SIZE as usize);
        let Some(page) = parts.find(|page| self.tables().get(*page).is_none()) else { return false };
        let (low, high) = self.window(page, AHEAD, start, &region);
        self.fill(low, high, page, start, &region) == Fault::Handled
    }

    /// Whether a fault at `page` is to give a large page: one begins there in zeroed memory that the program seems to go through in order, and RAM is
    /// plenty, as all of it is taken and cleared.
    pub(super) fn is_large_due(&self, page: u64, start: u64, region: &Region) -> bool {
        let is_data = matches!(region.backing, Backing::Zero)
            && !region.shared
            && region.access.contains(Access::WRITE)
            && !region.access.contains(Access::EXECUTE);
        // What is only begun may be meant for little.
        let least = self.frames.total() / if page == start { 2 } else { 4 };
        page.is_multiple_of(LARGE_PAGE)
            && page + LARGE_PAGE <= region.end
            && is_data
            && self.memory.allows_large_pages()
            && self.frames.free() >= least
            && (page == start || self.tables().get(page - FRAME_SIZE).is_some())
            && self.tables().are_absent(page, page + LARGE_PAGE)
            && can_cut_large_pages()
    }

    /// Gives it; false where no frames for it are together.
    pub(super) fn fill_large(&mut self, page: u64, region: &Region) -> bool {
        let Some(frame) = self.frames.allocate_large() else { return false };
        self.clear(frame, LARGE_FRAMES);
        let memory = std::sync::Arc::clone(&self.memory);
        let first = Entry { frame, access: region.access };
        let is_set = crate::vmm::PageTables::new(&memory).set_large(page, first, &mut self.frames);
        if !is_set {
            (frame.0..).take(LARGE_FRAMES).for_each(|frame| self.frames.release(Frame(frame)));
        }
        is_set
    }

    /// Whether frames are too few to be given out before they are asked for.
    pub(super) fn is_scarce(&self) -> bool {
        self.frames.free() < self.frames.total() / 16
    }

    /// Gives frames to `[low, high)`, which must hold absent pages only. Fails for the page at `wanted` alone.
    pub(super) fn fill(&mut self, low: u64, high: u64, wanted: u64, start: u64, region: &Region) -> Fault {
        if let Backing::Object { object, offset } = region.backing {
            return self.fill_from_object(low, high, wanted, (object, offset.wrapping_sub(start)), region);
        }
        let shared = region.shared_file().map(|(file, offset)| (Arc::clone(file), offset));
        let number = |page: u64, offset: u64| (offset + (page - start)) / FRAME_SIZE;
        // A page that no store was seen to yet.
        let access = if shared.is_some() { region.access - Access::WRITE } else { region.access };
        if let Backing::File { file, offset } = &region.backing {
            // What shared mappings of the file hold is its content.
            self.write_back_pages(file, number(low, *offset)..number(high, *offset));
        }
        let mut at = low;
        while at < high {
            let mut end = high;
            if let Some((file, offset)) = &shared {
                let next = file
                    .shared()
                    .range(number(at, *offset)..number(high, *offset))
                    .next()
                    .map(|(i, p)| (*i, p.frame));
                if let Some((index, frame)) = next {
                    let page = start + (index * FRAME_SIZE - offset);
                    if page == at {
                        if !self.set(page, frame, access) {
                            return if at > wanted { Fault::Handled } else { Fault::OutOfMemory };
                        }
                        at += FRAME_SIZE;
                        continue;
                    }
                    end = page;
                }
            }
            let Some((frame, count)) = self.frames.allocate(((end - at) / FRAME_SIZE) as usize) else {
                return if at > wanted { Fault::Handled } else { Fault::OutOfMemory };
            };
            let filled = match &region.backing {
                Backing::Zero => {
                    self.clear(frame, count);
                    count
                }
                // Filled above.
                Backing::Object { .. } => 0,
                Backing::File { file, offset } => {
                    let bytes = count * FRAME_SIZE as usize;
                    let Some(slice) = self.memory.slice(frame.address(), bytes) else {
                        return Fault::OutOfMemory;
                    };
                    let got = read_whole(file.fd(), &slice, offset + (at - start));
                    let pages = got.div_ceil(FRAME_SIZE as usize);
                    for i in 0..count as u32 {
                        self.frames.mark_dirty(Frame(frame.0 + i));
                    }
                    self.memory.zero(frame.address() + got as u64, pages * FRAME_SIZE as usize - got);
                    pages
                }
            };
            for i in 0..count {
                let (page, frame) = (at + i as u64 * FRAME_SIZE, Frame(frame.0 + i as u32));
                if i >= filled || !self.set(page, frame, access) {
                    for rest in i..count {
                        self.frames.release(Frame(frame.0 + (rest - i) as u32));
                    }
                    let past_end = i >= filled;
                    return match page > wanted {
                        true => Fault::Handled,
                        false if past_end => Fault::PastEnd,
                        false => Fault::OutOfMemory,
                    };
                }
                if let Some((file, offset)) = &shared {
                    file.shared().insert(number(page, *offset), SharedPage { frame, stored: false });
                    self.shares_files = true;
                }
            }
            at += count as u64 * FRAME_SIZE;
        }
        Fault::Handled
    }

    /// [`AddressSpace::fill`] for a mapping of an object; the address `a` shows its byte `a + shift`.
    fn fill_from_object(
        &mut self,
        low: u64,
        high: u64,
        wanted: u64,
        (object, shift): (ObjectId, u64),
        region: &Region,
    ) -> Fault {
        let size = self.object_size(object).0;
        if wanted.wrapping_add(shift) >= size {
            return Fault::PastEnd;
        }
        for at in (low..high).step_by(FRAME_SIZE as usize) {
            let offset = at.wrapping_add(shift);
            let there = self.object_frame(object, offset / FRAME_SIZE);
            // Around the page that is wanted only what is there is mapped.
            if at != wanted && (offset >= size || there.is_none()) {
                continue;
            }
            let made = if region.shared {
                self.object_frame_or_new(object, offset / FRAME_SIZE)
            } else {
                self.copy_of(there)
            };
            let outcome = match made {
                Ok(frame) if self.set(at, frame, region.access) => continue,
                Ok(frame) => {
                    if !region.shared {
                        self.frames.release(frame);
                    }
                    Fault::OutOfMemory
                }
                Err(Errno::ENOMEM) => Fault::OutOfMemory,
                Err(_) => Fault::PastEnd,
            };
            if at == wanted {
                return outcome;
            }
        }
        Fault::Handled
    }

    /// A new frame with the content of another, or zeros.
    fn copy_of(&mut self, original: Option<Frame>) -> Result<Frame, Errno> {
        let (frame, _) = self.frames.allocate(1).ok_or(Errno::ENOMEM)?;
        let page = FRAME_SIZE as usize;
        match original {
            None => self.clear(frame, 1),
            Some(original) => {
                self.frames.mark_dirty(frame);
                let slices =
                    (self.memory.slice(original.address(), page), self.memory.slice(frame.address(), page));
                if let (Some(from), Some(to)) = slices {
                    from.copy_to_volatile_slice(to);
                }
            }
        }
        Ok(frame)
    }

    /// Makes frames zero that may hold old content. A longer run of others is for memory that is likely used whole: the host makes that resident.
    pub(super) fn clear(&mut self, first: Frame, count: usize) {
        let mut unused = 0;
        for i in 0..count as u32 {
            let frame = Frame(first.0 + i);
            if self.frames.mark_dirty(frame) {
                self.memory.zero(frame.address(), FRAME_SIZE as usize);
            } else {
                unused += 1;
            }
        }
        if unused > AROUND {
            self.memory.make_resident(first.address(), count * FRAME_SIZE as usize);
        }
    }

    pub(super) fn set(&mut self, page: u64, frame: Frame, access: Access) -> bool {
        let memory = std::sync::Arc::clone(&self.memory);
        crate::vmm::PageTables::new(&memory).set(page, Entry { frame, access }, &mut self.frames)
    }
}

/// Reads the file from `offset` until the slice is full or the file ends; a read error counts as its end.
fn read_whole(file: BorrowedFd<'_>, slice: &VolatileSlice<'_>, offset: u64) -> usize {
    let mut done = 0;
    while done < slice.len() {
        let Ok(rest) = slice.offset(done) else { break };
        match host_io::pread(file, &[rest], offset + done as u64) {
            Ok(0) | Err(_) => break,
            Ok(n) => done += n,
        }
    }
    done
}
