//! Page faults: a page gets a frame when it is first touched.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::super::host_io;
use super::mapped_file::SharedPage;
use super::object::ObjectId;
use super::space::{AddressSpace, Backing, Region};
use crate::vmm::{Access, Entry, FRAME_SIZE, Frame};

/// What a page fault comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The page is there now: the access can be repeated.
    Handled,
    /// Nothing is mapped at the address (`SEGV_MAPERR`).
    NoMapping,
    /// The region does not allow the access (`SEGV_ACCERR`).
    Denied,
    /// The page lies past the end of its file (`SIGBUS`).
    PastEnd,
    /// There is no free RAM.
    OutOfMemory,
}

/// Pages that are filled together, in the aligned window around the fault.
const AROUND: u64 = 16;
/// The same of a file, which is there to be read, or where the window before is already filled: the program goes through memory in order.
const FAR_AROUND: u64 = 64;
/// Pages of a file that are read ahead at a time: whoever has to wait for that waits for no longer than an exit takes.
const AHEAD: u64 = 8;

impl AddressSpace {
    /// Makes the page at `address` present for an access that needs `needed`.
    pub fn fault(&mut self, address: u64, needed: Access) -> Fault {
        self.fault_within(address, needed, FAR_AROUND)
    }

    /// The same in less time, of a file's page: what is around it at no great distance is for [`AddressSpace::fill_ahead`].
    pub fn fault_near(&mut self, address: u64, needed: Access) -> Fault {
        self.fault_within(address, needed, AROUND)
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
        let (low, high) = self.window(page, start, &region, AHEAD);
        self.fill(low, high, page, start, &region) == Fault::Handled
    }

    fn fault_within(&mut self, address: u64, needed: Access, far: u64) -> Fault {
        let Some((start, region)) = self.find(address) else { return Fault::NoMapping };
        let region = region.clone();
        if region.access.is_empty() || !region.access.contains(needed) {
            return Fault::Denied;
        }
        let page = address & !(FRAME_SIZE - 1);
        if let Some(entry) = self.tables().get(page) {
            // Another thread was faster, or the page was given back its rights without its entry.
            let access = shown(page, needed, start, &region);
            if entry.access != access && !self.set(page, entry.frame, access) {
                return Fault::OutOfMemory;
            }
            return Fault::Handled;
        }
        let (low, high) = self.window(page, start, &region, far);
        let outcome = match self.fill(low, high, page, start, &region) {
            Fault::OutOfMemory if high - low > FRAME_SIZE => self.fill(page, page + FRAME_SIZE, page, start, &region),
            outcome => outcome,
        };
        if outcome == Fault::Handled
            && let Some(entry) = self.tables().get(page)
        {
            let access = shown(page, needed, start, &region);
            if entry.access != access && !self.set(page, entry.frame, access) {
                return Fault::OutOfMemory;
            }
        }
        outcome
    }

    /// The frame of the page at `address` if the program may access it so, faulting it in.
    pub fn resolve(&mut self, address: u64, needed: Access) -> Option<Frame> {
        let page = address & !(FRAME_SIZE - 1);
        if let Some(entry) = self.tables().get(page)
            && entry.access.contains(needed)
        {
            return Some(entry.frame);
        }
        match self.fault(address, needed) {
            Fault::Handled => self.tables().get(page).map(|entry| entry.frame),
            _ => None,
        }
    }

    /// The range around `page` to fill: absent pages only, within the region; of a file at most `far` pages.
    fn window(&self, page: u64, start: u64, region: &Region, far: u64) -> (u64, u64) {
        let scarce = self.frames.free() < self.frames.total() / 16;
        if scarce {
            return (page, page + FRAME_SIZE);
        }
        let absent = |at: u64| self.tables().get(at).is_none();
        let in_order = page >= start + AROUND * FRAME_SIZE && !absent(page - FRAME_SIZE);
        let of_file = matches!(region.backing, Backing::File { .. });
        let pages = match (of_file, in_order) {
            (true, _) => far,
            (false, true) => FAR_AROUND,
            (false, false) => AROUND,
        };
        let Range { start: first, end: last } = around(page, pages, start, region);
        let mut low = page;
        while low > first && absent(low - FRAME_SIZE) {
            low -= FRAME_SIZE;
        }
        let mut high = page + FRAME_SIZE;
        while high < last && absent(high) {
            high += FRAME_SIZE;
        }
        (low, high)
    }

    /// Gives frames to `[low, high)`, which must hold absent pages only. Fails for the page at `wanted` alone.
    fn fill(&mut self, low: u64, high: u64, wanted: u64, start: u64, region: &Region) -> Fault {
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
                let next = file.shared().range(number(at, *offset)..number(high, *offset)).next().map(|(i, p)| (*i, p.frame));
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
                let slices = (self.memory.slice(original.address(), page), self.memory.slice(frame.address(), page));
                if let (Some(from), Some(to)) = slices {
                    from.copy_to_volatile_slice(to);
                }
            }
        }
        Ok(frame)
    }

    /// Makes frames zero that may hold old content.
    pub(super) fn clear(&mut self, first: Frame, count: usize) {
        for i in 0..count as u32 {
            let frame = Frame(first.0 + i);
            if self.frames.mark_dirty(frame) {
                self.memory.zero(frame.address(), FRAME_SIZE as usize);
            }
        }
    }

    fn set(&mut self, page: u64, frame: Frame, access: Access) -> bool {
        let memory = std::sync::Arc::clone(&self.memory);
        crate::vmm::PageTables::new(&memory).set(page, Entry { frame, access }, &mut self.frames)
    }
}

/// The aligned window of so many pages around `address`, as far as it is in the region.
fn around(address: u64, pages: u64, start: u64, region: &Region) -> Range<u64> {
    let size = FRAME_SIZE * pages;
    let first = address & !(size - 1);
    first.max(start)..(first + size).min(region.end)
}

/// What the page tables allow of a page after an access that needs `needed`: a store to a shared mapping of a file is noted, and until
/// there was one there is no right to it.
fn shown(page: u64, needed: Access, start: u64, region: &Region) -> Access {
    let Some((file, offset)) = region.shared_file() else { return region.access };
    let mut shared = file.shared();
    let stored = match shared.get_mut(&((offset + (page - start)) / FRAME_SIZE)) {
        Some(page) => {
            page.stored |= needed.contains(Access::WRITE);
            page.stored
        }
        None => false,
    };
    if stored { region.access } else { region.access - Access::WRITE }
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

impl AddressSpace {
    /// Writes to mapped pages whatever the program may do with them; for loading.
    pub fn poke(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let n = ((FRAME_SIZE - at % FRAME_SIZE) as usize).min(bytes.len() - done);
            let frame = self.resolve(at, Access::READ).ok_or(Errno::ENOMEM)?;
            self.memory.write(frame.address() + at % FRAME_SIZE, &bytes[done..done + n]);
            done += n;
        }
        Ok(())
    }

    /// Reads from a mapped page whatever the program may do with it.
    pub fn peek(&mut self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let frame = self.resolve(address, Access::READ).ok_or(Errno::ENOMEM)?;
        let at = frame.address() + address % FRAME_SIZE;
        self.memory.slice(at, into.len()).ok_or(Errno::ENOMEM)?.copy_to(into);
        Ok(())
    }

    /// Zeroes `[from, to)`, which lies in one mapped page.
    pub fn zero_within_page(&mut self, from: u64, to: u64) -> Result<(), Errno> {
        let frame = self.resolve(from, Access::READ).ok_or(Errno::ENOMEM)?;
        self.memory.zero(frame.address() + from % FRAME_SIZE, (to - from) as usize);
        Ok(())
    }
}
