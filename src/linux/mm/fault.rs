//! Page faults: a page gets a frame when it is first touched.

use std::ops::Range;

use super::super::errno::Errno;
use super::space::{AddressSpace, Backing, Region};
use crate::vmm::{Access, FRAME_SIZE, Frame};

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
pub(super) const AROUND: u64 = 16;
/// The same of a file, which is there to be read, of a region that is no larger, or where the window before is already filled: the program
/// goes through memory in order.
pub(super) const FAR_AROUND: u64 = 64;
/// The same where as many are already filled in order.
const FARTHEST_AROUND: u64 = 256;

/// Most pages that a page fault fills.
#[derive(Clone, Copy)]
struct Reach {
    /// Of a file.
    file: u64,
    /// Of memory that the program goes through in order.
    zero: u64,
}

impl AddressSpace {
    /// Makes the page at `address` present for an access that needs `needed`.
    pub fn fault(&mut self, address: u64, needed: Access) -> Fault {
        self.fault_within(address, needed, Reach { file: FAR_AROUND, zero: FARTHEST_AROUND })
    }

    /// The same in less time, or `None` where it takes long in any case. What is around a file's page at no great distance is for
    /// [`AddressSpace::fill_ahead`].
    pub fn fault_near(&mut self, address: u64, needed: Access) -> Option<Fault> {
        let page = address & !(FRAME_SIZE - 1);
        let takes_long =
            self.find(address).is_some_and(|(start, region)| self.is_large_due(page, start, region));
        (!takes_long).then(|| self.fault_within(address, needed, Reach { file: AROUND, zero: FAR_AROUND }))
    }

    fn fault_within(&mut self, address: u64, needed: Access, reach: Reach) -> Fault {
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
        if self.is_large_due(page, start, &region) && self.fill_large(page, &region) {
            return Fault::Handled;
        }
        let pages = self.pages_around(page, start, &region, reach);
        let (low, high) = self.window(page, pages, start, &region);
        let outcome = match self.fill(low, high, page, start, &region) {
            Fault::OutOfMemory if high - low > FRAME_SIZE => {
                self.fill(page, page + FRAME_SIZE, page, start, &region)
            }
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

    /// How many pages a fault at `page` fills.
    fn pages_around(&self, page: u64, start: u64, region: &Region, reach: Reach) -> u64 {
        let is_there = |at: u64| self.tables().get(at).is_some();
        let in_order = |pages: u64| {
            let before = |pages: u64| page - pages * FRAME_SIZE;
            page >= start + pages * FRAME_SIZE && is_there(before(1)) && is_there(before(pages))
        };
        match region.backing {
            Backing::File { .. } => reach.file,
            _ if in_order(FAR_AROUND) => reach.zero,
            _ if in_order(AROUND) || region.end - start <= FAR_AROUND * FRAME_SIZE => FAR_AROUND,
            _ => AROUND,
        }
    }

    /// The range to fill in the window of so many pages around `page`: absent pages only, within the region; the page alone where frames are
    /// scarce.
    pub(super) fn window(&self, page: u64, pages: u64, start: u64, region: &Region) -> (u64, u64) {
        if self.is_scarce() {
            return (page, page + FRAME_SIZE);
        }
        let absent = |at: u64| self.tables().get(at).is_none();
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
}

/// The aligned window of so many pages around `address`, as far as it is in the region.
pub(super) fn around(address: u64, pages: u64, start: u64, region: &Region) -> Range<u64> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Placement;
    use super::*;
    use crate::vmm::{GuestMemory, LARGE_FRAMES, LARGE_PAGE, wait_for_large_pages};

    const RW: Access = Access::READ.union(Access::WRITE);
    const PAGES: u64 = 2048;
    const RAM: u64 = 32 << 20;

    /// An address space with 32 MiB of RAM, and a region of [`PAGES`] in it that allows `access`.
    fn space(access: Access) -> (AddressSpace, u64) {
        space_in(GuestMemory::new(RAM).expect("memory"), access)
    }

    fn space_in(memory: GuestMemory, access: Access) -> (AddressSpace, u64) {
        let mut space = AddressSpace::new(Arc::new(memory));
        let make = |end| Region::zero(end, access, "");
        let start = space.map(Placement::Fixed(0x1000_0000), PAGES * FRAME_SIZE, make).expect("a region");
        (space, start)
    }

    fn is_there(space: &AddressSpace, page: u64) -> bool {
        space.tables().get(page).is_some()
    }

    /// Touches every page of the region in order: how many faults it took.
    fn faults_in_order(space: &mut AddressSpace, start: u64) -> usize {
        let mut faults = 0;
        for page in (start..start + PAGES * FRAME_SIZE).step_by(FRAME_SIZE as usize) {
            if !is_there(space, page) {
                assert!(space.fault(page, RW) == Fault::Handled);
                faults += 1;
            }
        }
        faults
    }

    #[test]
    fn memory_that_is_gone_through_in_order_takes_few_faults() {
        let (mut large, start) = space(RW);
        if wait_for_large_pages() {
            assert_eq!(faults_in_order(&mut large, start), PAGES as usize / LARGE_FRAMES);
        }
        let (mut small, start) = space_in(GuestMemory::reserve(RAM).expect("memory"), RW);
        assert_eq!(faults_in_order(&mut small, start), 3 + (PAGES / FARTHEST_AROUND - 1) as usize);
    }

    #[test]
    fn a_large_page_is_for_data_in_order_where_ram_is_plenty() {
        if !wait_for_large_pages() {
            return;
        }
        let wanted = |space: &mut AddressSpace, page: u64| {
            let before = space.frames().free();
            let is_near = space.fault_near(page, RW);
            assert!(is_near.unwrap_or_else(|| space.fault(page, RW)) == Fault::Handled);
            assert_eq!(is_near.is_none(), before - space.frames().free() >= LARGE_FRAMES);
            before - space.frames().free() >= LARGE_FRAMES
        };
        let (mut space, start) = space(RW);
        assert!(start.is_multiple_of(LARGE_PAGE), "{start:#x}");
        // Not what lies before it, nor its end first, as a stack's.
        assert!(!wanted(&mut space, start + LARGE_PAGE));
        assert!(!wanted(&mut space, start + 3 * LARGE_PAGE - FRAME_SIZE));
        assert!(wanted(&mut space, start));
        let (mut space, start) = self::space(RW | Access::EXECUTE);
        assert!(!wanted(&mut space, start));
        let (mut space, start) = self::space(RW);
        while space.frames().free() >= space.frames().total() / 4 {
            space.frames.allocate(1).expect("a frame");
        }
        assert!(!wanted(&mut space, start));
    }

    #[test]
    fn memory_that_is_touched_here_and_there_is_filled_around_that() {
        let (mut space, start) = space(RW);
        for page in [100, 900, 500].map(|page| start + page * FRAME_SIZE) {
            let before = space.ram().1;
            assert!(space.fault(page, RW) == Fault::Handled);
            assert!(before - space.ram().1 <= AROUND * FRAME_SIZE);
        }
    }

    #[test]
    fn a_small_part_that_becomes_writable_is_filled_and_a_large_one_is_not() {
        let (mut space, start) = space(Access::empty());
        let parts = [(0, FAR_AROUND), (FAR_AROUND, 3 * FAR_AROUND)]
            .map(|(low, high)| (start + low * FRAME_SIZE, start + high * FRAME_SIZE));
        for (low, high) in parts {
            space.protect(low, high, RW).expect("rights");
        }
        let there = parts.map(|(low, high)| {
            (low..high).step_by(FRAME_SIZE as usize).filter(|page| is_there(&space, *page)).count() as u64
        });
        assert_eq!(there, [FAR_AROUND, 0]);
    }

    #[test]
    fn what_is_filled_in_a_long_run_is_resident_before_it_is_touched() {
        let (mut space, start) = space_in(GuestMemory::reserve(RAM).expect("memory"), RW);
        let resident = |space: &AddressSpace| space.memory.working_set().expect("a look").bytes().1;
        let before = resident(&space);
        space.fill_writable(start, start + FAR_AROUND * FRAME_SIZE);
        let (filled, short) = (resident(&space), start + PAGES / 2 * FRAME_SIZE);
        assert!(filled - before >= FAR_AROUND * FRAME_SIZE);
        assert!(space.fault(short, RW) == Fault::Handled && is_there(&space, short + FRAME_SIZE));
        // The page tables for it.
        assert!(resident(&space) - filled <= 3 * FRAME_SIZE);
    }

    #[test]
    fn scarce_frames_are_given_out_one_by_one() {
        let (mut space, start) = space(RW);
        let total = space.frames().total();
        while space.frames().free() >= total / 16 {
            space.frames.allocate(1).expect("a frame");
        }
        let before = space.frames().free();
        space.fill_writable(start, start + FAR_AROUND * FRAME_SIZE);
        assert!(space.fault(start, RW) == Fault::Handled);
        assert_eq!(space.frames().free(), before - 1);
    }
}
