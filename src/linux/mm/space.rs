//! The map of regions.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Weak};

use super::super::errno::Errno;
use super::super::host_fd::HostFds;
use super::mapped_file::MappedFile;
use super::object::{ObjectId, Objects};
use crate::vmm::{Access, FRAME_SIZE, Frames, GuestMemory, LARGE_PAGE, PageTables, layout};

/// Lowest address that can be mapped, as Linux's `vm.mmap_min_addr`.
const LOWEST: u64 = 0x1_0000;
/// Most regions, as Linux's `vm.max_map_count`.
const MAX_REGIONS: usize = 65_530;

/// What a region's pages hold when they are first touched.
#[derive(Clone)]
pub enum Backing {
    /// Zeros.
    Zero,
    /// The file's content, from `offset` for the region's first byte.
    File {
        /// The file.
        file: Arc<MappedFile>,
        /// Multiple of the page size.
        offset: u64,
    },
    /// The content of a file in guest RAM: the object's own frames if the region is shared, else copies.
    Object {
        /// The object.
        object: ObjectId,
        /// As for `File`.
        offset: u64,
    },
}

/// A mapped address range; its start is its key in the map.
#[derive(Clone)]
pub struct Region {
    /// First address after it.
    pub end: u64,
    /// What the program may do with it.
    pub access: Access,
    /// Content at first touch.
    pub backing: Backing,
    /// `MAP_SHARED`: stores are meant for the file.
    pub shared: bool,
    /// `mprotect` may allow stores: a shared mapping needs a file that is open for writing.
    pub may_write: bool,
    /// For `/proc/self/maps`: `[heap]`, `[stack]`, … or empty.
    pub label: &'static str,
}

impl Region {
    /// An anonymous private region up to `end`.
    pub fn zero(end: u64, access: Access, label: &'static str) -> Region {
        Region { end, access, backing: Backing::Zero, shared: false, may_write: true, label }
    }

    /// `EINVAL` if a region of `len` bytes would need offsets in its file that there are not.
    pub(super) fn check_offsets(&self, len: u64) -> Result<(), Errno> {
        match &self.backing {
            Backing::File { offset, .. } | Backing::Object { offset, .. } => {
                offset.checked_add(len).map(|_| ()).ok_or(Errno::EINVAL)
            }
            Backing::Zero => Ok(()),
        }
    }

    /// The file of a shared mapping of one.
    pub(super) fn shared_file(&self) -> Option<(&Arc<MappedFile>, u64)> {
        match &self.backing {
            Backing::File { file, offset } if self.shared => Some((file, *offset)),
            _ => None,
        }
    }

    /// The same region beginning `by` bytes later.
    fn shifted(&self, by: u64) -> Region {
        let mut region = self.clone();
        if let Backing::File { offset, .. } | Backing::Object { offset, .. } = &mut region.backing {
            *offset += by;
        }
        region
    }

    /// The object that it maps.
    pub(super) fn object(&self) -> Option<ObjectId> {
        match self.backing {
            Backing::Object { object, .. } => Some(object),
            _ => None,
        }
    }

    /// Whether its frames are its own, rather than a file's.
    pub(super) fn owns_frames(&self) -> bool {
        !self.shared || matches!(self.backing, Backing::Zero)
    }

    /// Whether `next`, which starts where this one ends, continues it.
    fn continues_as(&self, next: &Region, len: u64) -> bool {
        let backing = match (&self.backing, &next.backing) {
            (Backing::Zero, Backing::Zero) => true,
            (Backing::File { file: a, offset: i }, Backing::File { file: b, offset: j }) => {
                Arc::ptr_eq(a, b) && i + len == *j
            }
            (Backing::Object { object: a, offset: i }, Backing::Object { object: b, offset: j }) => {
                a == b && i + len == *j
            }
            _ => false,
        };
        backing
            && self.access == next.access
            && self.shared == next.shared
            && self.may_write == next.may_write
            && self.label == next.label
    }
}

/// How the address of a new mapping is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Anywhere; at the hint if that is free, and [worth](AddressSpace::is_worth_tables) the page tables.
    Hint(u64),
    /// Exactly here; what was there goes.
    Fixed(u64),
    /// Exactly here, or not at all.
    FixedFree(u64),
    /// Anywhere in the low 2 GiB.
    Low,
}

/// The address space.
pub struct AddressSpace {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) frames: Frames,
    pub(super) regions: BTreeMap<u64, Region>,
    pub(super) objects: Objects,
    /// The files behind regions, by device and inode.
    pub(super) files: HashMap<(u64, u64), Weak<MappedFile>>,
    /// Counts the descriptors that are held for them; nobody does before the program runs.
    pub(in super::super) host_fds: Option<Arc<HostFds>>,
    /// Whether shared mappings of files ever had pages.
    pub(super) shares_files: bool,
    /// Addresses are chosen downwards from here.
    top: u64,
    /// Start of the heap that `brk` moves the end of.
    pub(super) heap_start: u64,
    /// End of the heap, to the byte.
    pub(super) heap_end: u64,
}

impl AddressSpace {
    /// An empty one over the whole of `memory`.
    pub fn new(memory: Arc<GuestMemory>) -> AddressSpace {
        let frames = Frames::new(memory.size());
        AddressSpace {
            memory,
            frames,
            regions: BTreeMap::new(),
            objects: Objects::default(),
            files: HashMap::new(),
            host_fds: None,
            shares_files: false,
            top: 0x7fff_0000_0000,
            heap_start: 0,
            heap_end: 0,
        }
    }

    /// Sets where the heap begins.
    pub fn set_heap(&mut self, start: u64) {
        self.heap_start = start;
        self.heap_end = start;
    }

    pub(super) fn tables(&self) -> PageTables<'_> {
        PageTables::new(&self.memory)
    }

    /// Which frames are in use.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// RAM in bytes: all, and what is free.
    pub fn ram(&self) -> (u64, u64) {
        (self.frames.total() as u64 * FRAME_SIZE, self.frames.free() as u64 * FRAME_SIZE)
    }

    /// All regions in order, with their starts.
    pub fn regions(&self) -> impl Iterator<Item = (u64, &Region)> {
        self.regions.iter().map(|(start, region)| (*start, region))
    }

    /// The region that holds `address`, and its start.
    pub fn find(&self, address: u64) -> Option<(u64, &Region)> {
        let (start, region) = self.regions.range(..=address).next_back()?;
        (address < region.end).then_some((*start, region))
    }

    /// Maps `len` bytes (a multiple of the page size); returns where.
    pub fn map(
        &mut self,
        placement: Placement,
        len: u64,
        make: impl FnOnce(u64) -> Region,
    ) -> Result<u64, Errno> {
        if self.regions.len() >= MAX_REGIONS {
            return Err(Errno::ENOMEM);
        }
        let start = self.place(placement, len)?;
        if matches!(placement, Placement::Fixed(_)) {
            self.unmap(start, start + len)?;
        }
        self.insert(start, make(start + len));
        Ok(start)
    }

    /// The address for a mapping of `len` bytes.
    pub fn place(&self, placement: Placement, len: u64) -> Result<u64, Errno> {
        if len == 0 || len > layout::USER_END {
            return Err(if len == 0 { Errno::EINVAL } else { Errno::ENOMEM });
        }
        let fits = |at: u64| at >= LOWEST && at.checked_add(len).is_some_and(|end| end <= layout::USER_END);
        match placement {
            Placement::Fixed(at) | Placement::FixedFree(at) if at % FRAME_SIZE != 0 => Err(Errno::EINVAL),
            Placement::Fixed(at) | Placement::FixedFree(at) if !fits(at) => {
                Err(if at < LOWEST { Errno::EPERM } else { Errno::ENOMEM })
            }
            Placement::Fixed(at) => Ok(at),
            Placement::FixedFree(at) if self.is_free(at, len) => Ok(at),
            Placement::FixedFree(_) => Err(Errno::EEXIST),
            Placement::Hint(hint) => {
                let at = hint & !(FRAME_SIZE - 1);
                if at != 0 && fits(at) && self.is_free(at, len) && self.is_worth_tables(at) {
                    return Ok(at);
                }
                self.gap_below(self.top, len)
                    .or_else(|| self.gap_below(layout::USER_END, len))
                    .map(|at| self.aligned(at, len))
                    .ok_or(Errno::ENOMEM)
            }
            Placement::Low => self.gap_below(0x8000_0000, len).ok_or(Errno::ENOMEM),
        }
    }

    /// Whether a mapping goes to `at` because the program would like that. Page tables are for good (see [`PageTables`]), and some programs
    /// never ask for the same address twice: V8 for each 256 KiB of its heap. In time those would leave no RAM for anything but tables.
    fn is_worth_tables(&self, at: u64) -> bool {
        self.frames.tables_are_plenty() || self.tables().are_near(at)
    }

    /// Where a free range at `at` that has room for large pages begins with one, if what is before it is free, too. Linux has had the same for most
    /// of them since 6.7.
    fn aligned(&self, at: u64, len: u64) -> u64 {
        let lower = at & !(LARGE_PAGE - 1);
        let is_better = len >= LARGE_PAGE && lower >= LOWEST && self.is_free(lower, len);
        if is_better { lower } else { at }
    }

    pub(super) fn is_free(&self, at: u64, len: u64) -> bool {
        self.regions.range(..at + len).next_back().is_none_or(|(_, region)| region.end <= at)
    }

    /// The highest free range of `len` bytes that ends at or below `top`.
    fn gap_below(&self, top: u64, len: u64) -> Option<u64> {
        let mut top = top;
        for (start, region) in self.regions.range(..top).rev() {
            if region.end.checked_add(len)? <= top {
                break;
            }
            top = top.min(*start);
        }
        top.checked_sub(len).filter(|at| *at >= LOWEST)
    }

    /// Adds a region in a free range, joined to its neighbours where it continues them.
    pub(super) fn insert(&mut self, start: u64, mut region: Region) {
        if let Some(next) = self.regions.get(&region.end)
            && region.continues_as(next, region.end - start)
        {
            let end = next.end;
            self.regions.remove(&region.end);
            region.end = end;
        }
        if let Some((before, previous)) = self.regions.range_mut(..start).next_back()
            && previous.end == start
            && previous.continues_as(&region, start - before)
        {
            previous.end = region.end;
            return;
        }
        self.regions.insert(start, region);
    }

    /// Cuts regions at `address`, so that none spans it.
    pub(super) fn split(&mut self, address: u64) {
        let Some((start, region)) = self.find(address) else { return };
        if start == address {
            return;
        }
        let upper = region.shifted(address - start);
        if let Some(lower) = self.regions.get_mut(&start) {
            lower.end = address;
        }
        self.regions.insert(address, upper);
    }

    /// `ENOMEM` if cutting a region in three would make too many.
    pub(super) fn check_room(&self) -> Result<(), Errno> {
        if self.regions.len() + 2 > MAX_REGIONS { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Starts of the regions in `range`, after cutting at its ends.
    pub(super) fn carve(&mut self, range: Range<u64>) -> Vec<u64> {
        self.split(range.start);
        self.split(range.end);
        self.regions.range(range).map(|(start, _)| *start).collect()
    }

    /// Whether every byte of the range is mapped.
    pub(super) fn is_mapped(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.find(at) {
                Some((_, region)) => at = region.end,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fault;
    use super::*;

    #[test]
    fn a_program_that_wishes_for_ever_new_addresses_does_not_run_out_of_memory() {
        const LEN: u64 = 64 * FRAME_SIZE;
        const STRIDE: u64 = 3 << 30;
        let memory = GuestMemory::new(64 << 20).expect("memory");
        let mut space = AddressSpace::new(Arc::new(memory));
        let wishes = (1..2 * space.frames().total() as u64).map(|i| i * STRIDE);
        let mut fulfilled = 0;
        for wish in wishes {
            let make = |end| Region::zero(end, Access::READ | Access::WRITE, "");
            let start = space.map(Placement::Hint(wish), LEN, make).expect("a mapping");
            fulfilled += u32::from(start == wish);
            assert!(space.fault(start, Access::WRITE) == Fault::Handled, "after {fulfilled} wishes");
            space.unmap(start, start + LEN).expect("unmapped");
        }
        assert!(fulfilled > 10, "{fulfilled}");
    }
}
