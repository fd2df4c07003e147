//! Guest RAM: one range of guest-physical memory from address 0.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory, VolatileSlice};

use super::error::VmmError;
use super::frames::{FRAME_SIZE, Frames};
use super::image::Layer;
use super::kvm::Hypervisor;
use super::pagemap::Pagemap;
use super::paging::LARGE_PAGE;
use crate::sync::lock;

/// The RAM of one VM, mapped into this process. All access is bounds-checked and volatile: guest threads may change any
/// byte at any time.
pub struct GuestMemory {
    region: MmapRegion,
    /// The layers of the image that it began as, if it did.
    began_as: Mutex<Vec<Arc<Layer>>>,
    /// In order, none next to another: see [`GuestMemory::replaced`].
    replaced: Mutex<Vec<Range<u64>>>,
    /// For each 2 MiB of RAM that the page tables may show as a large page: the frame of the table that one there hides, or 0. Empty where they may not.
    hidden_tables: Box<[AtomicU32]>,
}

impl GuestMemory {
    /// Makes `bytes` of zeroed RAM for a program that starts. Nothing is resident until it is touched, then a large page at once where the
    /// host has them and the program's own pages lie: a start touches thousands of those, but few of ring 0's and of page tables.
    pub fn new(bytes: u64) -> Result<GuestMemory, VmmError> {
        let memory = GuestMemory::reserve(bytes)?.allow_large_pages();
        memory.advise(Frames::for_data(bytes), libc::MADV_HUGEPAGE);
        Ok(memory)
    }

    /// The same with page tables that may show large pages, whatever pages the host has for it. KVM can make nothing of them where the
    /// host's addresses are not aligned alike.
    pub(super) fn allow_large_pages(mut self) -> GuestMemory {
        if self.host_address().is_multiple_of(LARGE_PAGE) {
            self.hidden_tables = (0..self.size() / LARGE_PAGE).map(|_| AtomicU32::new(0)).collect();
        }
        self
    }

    /// Has the host use no large pages for it, for whoever measures or probes single ones.
    pub(super) fn keep_pages_small(&self) {
        self.advise(0..self.size(), libc::MADV_NOHUGEPAGE);
    }

    /// Advice that leaves the content of the range as it is. Where the host refuses it, that costs time alone.
    pub(super) fn advise(&self, range: Range<u64>, advice: libc::c_int) {
        if let Some(slice) = self.slice(range.start, range.end.saturating_sub(range.start) as usize) {
            let start = slice.ptr_guard_mut().as_ptr().cast();
            // SAFETY: the range lies within our own mapping, which stays as it is.
            unsafe { libc::madvise(start, slice.len(), advice) };
        }
    }

    /// Has the host find and clear what a program uses until it is up, on another thread: there is more to do meanwhile than to wait for that.
    pub fn touch_ahead(self: &Arc<GuestMemory>) {
        /// A large page is touched at once, by whoever loads the program.
        const FIRST: u64 = 2 << 20;
        /// The least that an interpreter uses.
        const LAST: u64 = 8 << 20;
        let pages = Frames::for_data(self.size());
        let [first, last] = [FIRST, LAST].map(|bytes| pages.end.min(pages.start + bytes));
        let memory = Arc::clone(self);
        // Otherwise it is found when it is used. To touch it keeps nobody from changing the address space, as one call for all of it would.
        let _ = thread::Builder::new().name("guest-ram".into()).stack_size(64 << 10).spawn(move || {
            for page in (first..last).step_by(FRAME_SIZE as usize) {
                // A store that changes nothing, whatever the program does with the page.
                let word = memory.atomic(page);
                let _ = word.map(|word| word.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed));
            }
        });
    }

    /// Has the host find and clear memory for `len` bytes at `address` at once, rather than at a fault for each page. KVM finds those pages mapped
    /// then, several at a time.
    pub fn make_resident(&self, address: u64, len: usize) {
        self.advise(address..address + len as u64, libc::MADV_POPULATE_WRITE);
    }

    /// Reserves addresses for `bytes` of RAM that reads as zero, to be given the content of an [`super::Image`] later.
    pub fn reserve(bytes: u64) -> Result<GuestMemory, VmmError> {
        Ok(GuestMemory::private(map(None, bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?, Vec::new()))
    }

    /// RAM in a private mapping, which may be replaced by another part by part. Its content is that of the `layers` of an image.
    pub(super) fn private(region: MmapRegion, layers: Vec<Arc<Layer>>) -> GuestMemory {
        GuestMemory {
            region,
            began_as: Mutex::new(layers),
            replaced: Mutex::default(),
            hidden_tables: Box::default(),
        }
    }

    /// The layers of the image whose content it had at first; none if it was zero.
    pub(super) fn began_as(&self) -> Vec<Arc<Layer>> {
        lock(&self.began_as).clone()
    }

    /// Notes that it has the content of an image now.
    pub(super) fn begin_as(&self, layers: Vec<Arc<Layer>>) {
        *lock(&self.began_as) = layers;
        lock(&self.replaced).clear();
    }

    /// Notes that a large page at `address` hides a page table; false if there may be none.
    pub(super) fn hide_table(&self, address: u64, table: u64) -> bool {
        let entry = self.hidden_tables.get((address / LARGE_PAGE) as usize);
        entry.map(|entry| entry.store((table / FRAME_SIZE) as u32, Ordering::Release)).is_some()
    }

    /// The page table that a large page at `address` hides.
    pub(super) fn hidden_table(&self, address: u64) -> Option<u64> {
        let frame = self.hidden_tables.get((address / LARGE_PAGE) as usize)?.load(Ordering::Acquire);
        (frame != 0).then_some(u64::from(frame) * FRAME_SIZE)
    }

    /// Whether its page tables may show large pages.
    pub fn allows_large_pages(&self) -> bool {
        !self.hidden_tables.is_empty()
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.region.size() as u64
    }

    /// Host-virtual address of guest-physical 0, for KVM's memory slot.
    pub(super) fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64
    }

    /// The bytes at guest-physical `[address, address + len)`, or `None` outside of RAM.
    pub fn slice(&self, address: u64, len: usize) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(usize::try_from(address).ok()?, len).ok()
    }

    /// Reads the page-table entry or other aligned word at `address`; 0 outside of RAM.
    pub fn load(&self, address: u64) -> u64 {
        let word = usize::try_from(address)
            .ok()
            .and_then(|at| self.region.as_volatile_slice().load::<u64>(at, Ordering::Acquire).ok());
        debug_assert!(word.is_some(), "load outside of guest RAM");
        word.unwrap_or(0)
    }

    /// Writes an aligned word at `address`, in one piece as the page walker and vCPUs see it.
    pub fn store(&self, address: u64, value: u64) {
        let done = usize::try_from(address)
            .ok()
            .and_then(|at| self.region.as_volatile_slice().store(value, at, Ordering::Release).ok());
        debug_assert!(done.is_some(), "store outside of guest RAM");
    }

    /// The aligned word at `address`, to be read and changed in one step while vCPUs do so too; `None` outside of RAM.
    pub(super) fn atomic(&self, address: u64) -> Option<&AtomicU32> {
        self.region.get_atomic_ref(usize::try_from(address).ok()?).ok()
    }

    /// Copies `bytes` to `address`, which the caller has taken from the layout or from [`super::Frames`].
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let target = self.slice(address, bytes.len());
        debug_assert!(target.is_some(), "write outside of guest RAM");
        if let Some(target) = target {
            target.copy_from(bytes);
        }
    }

    /// Sets `len` bytes from `address`, which the caller has from the layout or from [`super::Frames`], to zero.
    pub fn zero(&self, address: u64, len: usize) {
        let target = self.slice(address, len);
        debug_assert!(target.is_some(), "clears outside of guest RAM");
        if let Some(target) = target {
            // SAFETY: slice() checked that the bytes lie within our own mapping; no reference to them exists, whatever vCPUs do with them.
            unsafe { target.ptr_guard_mut().as_ptr().write_bytes(0, len) };
        }
    }

    /// Makes all vCPUs forget translations to `[address, address + len)`, so that a page-table entry that was cleared
    /// or narrowed takes effect everywhere.
    ///
    /// KVM drops its own (shadow or nested) entries of a range and flushes every vCPU's TLB, on both sorts, when it is told that the host's
    /// mapping changes; a flush inside the guest would not reach shadow page tables. So a change is announced, where the
    /// [probe](Hypervisor::announcer) saw that to be enough, or made.
    pub fn flush(&self, address: u64, len: usize) -> Result<(), VmmError> {
        let Some(slice) = self.slice(address, len) else {
            return Err(flush_failed(len, io::ErrorKind::InvalidInput.into()));
        };
        let start = slice.ptr_guard_mut().as_ptr();
        let announce = |pagemap: &Pagemap| pagemap.announce_change(start as u64..start as u64 + len as u64);
        if Hypervisor::announcer().is_some_and(|pagemap| announce(pagemap).is_ok()) {
            return Ok(());
        }
        change_protection(&slice).map_err(|source| flush_failed(len, source))
    }

    /// Gives the page-aligned range back to the host: it reads as zeros afterwards, and no vCPU has a translation to it.
    pub fn discard(&self, address: u64, len: usize) -> Result<(), VmmError> {
        let failed = |source| VmmError::Memory { doing: "give back", bytes: len as u64, source };
        let Some(slice) = self.slice(address, len) else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        if self.began_as().is_empty() {
            return self.drop_copies(address, len);
        }
        let start: *mut libc::c_void = slice.ptr_guard_mut().as_ptr().cast();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: replaces a part of our own mapping by zeroed memory of the same protection. MADV_DONTNEED would
        // bring the image's content back.
        let mapped = unsafe { libc::mmap(start, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        self.note_replaced(address..address + len as u64);
        Ok(())
    }

    /// Undoes all changes to the page-aligned range, which must not have been [discarded](GuestMemory::discard) or must be zero
    /// in the image: it shows the image again, and no vCPU has a translation to it. Nothing happens to RAM that has no image.
    pub(super) fn drop_copies(&self, address: u64, len: usize) -> Result<(), VmmError> {
        let failed = |source| VmmError::Memory { doing: "undo changes of", bytes: len as u64, source };
        let Some(slice) = self.slice(address, len) else { return Ok(()) };
        // SAFETY: the range lies within our own private mapping, which stays mapped.
        match unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), len, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(failed(io::Error::last_os_error())),
        }
    }

    /// Guest-physical ranges that do not show the image any more, whether they were written to or not.
    pub(super) fn replaced(&self) -> Vec<Range<u64>> {
        lock(&self.replaced).clone()
    }

    fn note_replaced(&self, range: Range<u64>) {
        let mut replaced = lock(&self.replaced);
        let first = replaced.partition_point(|other| other.end < range.start);
        let last = replaced.partition_point(|other| other.start <= range.end);
        let joined = replaced[first..last]
            .iter()
            .fold(range, |all, other| all.start.min(other.start)..all.end.max(other.end));
        replaced.splice(first..last, [joined]);
    }
}

fn flush_failed(len: usize, source: io::Error) -> VmmError {
    VmmError::Memory { doing: "flush translations of", bytes: len as u64, source }
}

/// Widens the protection of pages and puts it back; it is never narrowed, because host threads may be using them. That splits large pages, and
/// KVM drops all that is in one of those.
pub(super) fn change_protection(pages: &VolatileSlice<'_>) -> io::Result<()> {
    let start = pages.ptr_guard_mut().as_ptr().cast();
    let plain = libc::PROT_READ | libc::PROT_WRITE;
    for protection in [plain | libc::PROT_EXEC, plain] {
        // SAFETY: the pages are a mapping's that outlives the slice, and stay readable and writable.
        if unsafe { libc::mprotect(start, pages.len(), protection) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn map(file: Option<FileOffset>, bytes: u64, flags: i32) -> Result<MmapRegion, VmmError> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    MmapRegion::build(file, address_space(bytes)?, protection, flags | libc::MAP_NORESERVE)
        .map_err(|e| VmmError::Memory { doing: "map", bytes, source: io::Error::other(e) })
}

/// A size as the host's address space has it.
pub(super) fn address_space(bytes: u64) -> Result<usize, VmmError> {
    usize::try_from(bytes).map_err(|_| VmmError::Lacks("so large an address space"))
}
