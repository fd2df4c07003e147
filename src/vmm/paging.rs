//! The guest's page tables: four levels of 4 KiB pages, kept in guest RAM and edited through the host's mapping. The
//! guest itself has no mapping of them.
//!
//! A lowest-level table whose pages show an aligned run of frames alike can be hidden behind one entry for a *large page* of 2 MiB above it: KVM
//! maps that at once, where its shadow of single pages costs an exit for every eight of them. The table stays, and says what there is; its first change makes
//! it visible again.

use super::frames::{FRAME_SIZE, Frame, Frames};
use super::layout::PAGE_ROOT;
use super::memory::GuestMemory;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// In an entry one level above the lowest: a large page.
const LARGE: u64 = 1 << 7;
/// Accessed and dirty are set from the start: nothing reads them, and the CPU need not write them.
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;
/// A bit that the CPU ignores: the page has a frame though ring 3 may not touch it.
const RETAINED: u64 = 1 << 9;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: u64 = 512;
/// Bytes that one lowest-level table maps.
const TABLE_SPAN: u64 = ENTRIES * FRAME_SIZE;
/// Frames of a large page, which are aligned to as many.
pub const LARGE_FRAMES: usize = ENTRIES as usize;
/// Bytes of a large page.
pub const LARGE_PAGE: u64 = TABLE_SPAN;

bitflags::bitflags! {
    /// What ring 3 may do with a page.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Access: u8 {
        /// Load from it.
        const READ = 1;
        /// Store to it.
        const WRITE = 2;
        /// Fetch instructions from it.
        const EXECUTE = 4;
    }
}

/// An entry of a lowest-level table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The frame that the page shows.
    pub frame: Frame,
    /// What ring 3 may do with it. Without any access the page keeps its frame but is absent for the CPU; with any, x86
    /// lets it be read.
    pub access: Access,
}

impl Entry {
    fn decode(bits: u64) -> Option<Entry> {
        let frame = Frame(((bits & ADDRESS) / FRAME_SIZE) as u32);
        if bits & PRESENT == 0 {
            return (bits & RETAINED != 0).then_some(Entry { frame, access: Access::empty() });
        }
        let mut access = Access::READ;
        access.set(Access::WRITE, bits & WRITABLE != 0);
        access.set(Access::EXECUTE, bits & NO_EXECUTE == 0);
        Some(Entry { frame, access })
    }

    fn encode(self) -> u64 {
        if self.access.is_empty() {
            return self.frame.address() | RETAINED;
        }
        let mut bits = self.frame.address() | PRESENT | USER | ACCESSED_DIRTY;
        if self.access.contains(Access::WRITE) {
            bits |= WRITABLE;
        }
        if !self.access.contains(Access::EXECUTE) {
            bits |= NO_EXECUTE;
        }
        bits
    }
}

/// Looks at and changes the user half of the page tables of one VM. A table that was ever linked stays where it is: what KVM has made of the
/// link could not be taken back by telling it that the host's memory changes. Changes that take rights away must be followed by
/// [`GuestMemory::flush`] of the frames concerned.
pub struct PageTables<'a> {
    memory: &'a GuestMemory,
}

impl<'a> PageTables<'a> {
    /// The page tables in `memory`.
    pub fn new(memory: &'a GuestMemory) -> PageTables<'a> {
        PageTables { memory }
    }

    /// The page at `address`, if it has a frame.
    pub fn get(&self, address: u64) -> Option<Entry> {
        let (table, _) = self.table(address)?;
        Entry::decode(self.memory.load(slot(table, address, 0)))
    }

    /// Gives the page at `address` a frame. Takes frames for the tables on the way from `frames`; false when there are none left.
    #[must_use]
    pub fn set(&self, address: u64, entry: Entry, frames: &mut Frames) -> bool {
        let Some(table) = self.table_or_new(address, frames) else { return false };
        self.memory.store(slot(table, address, 0), entry.encode());
        true
    }

    /// Gives the 2 MiB from `address` on, which have no frames, [`LARGE_FRAMES`] from that of `first` on, which is aligned to as many: as a large page,
    /// or as small ones in RAM that does not allow it. False when no frame is left for a table.
    #[must_use]
    pub fn set_large(&self, address: u64, first: Entry, frames: &mut Frames) -> bool {
        let Some(table) = self.table_or_new(address, frames) else { return false };
        for (i, at) in (table..table + FRAME_SIZE).step_by(8).enumerate() {
            let frame = Frame(first.frame.0 + i as u32);
            self.memory.store(at, Entry { frame, ..first }.encode());
        }
        if self.memory.hide_table(first.frame.address(), table)
            && let Some((_, above)) = self.table(address)
        {
            self.memory.store(above, first.encode() | LARGE);
        }
        true
    }

    /// Makes all large pages small ones, for whoever looks at the tables as they are in RAM.
    pub fn make_all_small(&self) {
        for (table, level) in self.tables() {
            for at in (table..table + FRAME_SIZE).step_by(8).filter(|_| level == 1) {
                self.show_table(at);
            }
        }
    }

    /// Whether no page in the page-aligned range has a frame.
    pub fn are_absent(&self, start: u64, end: u64) -> bool {
        let mut are_absent = true;
        self.update(start, end, |_, entry| {
            are_absent = false;
            Some(entry)
        });
        are_absent
    }

    /// Visits every page with a frame in the page-aligned range in order; `change` returns what is to become of it. Tables that are
    /// absent are skipped at the cost of one look.
    pub fn update(&self, start: u64, end: u64, mut change: impl FnMut(u64, Entry) -> Option<Entry>) {
        let mut address = start;
        while address < end {
            let Some((table, above)) = self.table(address) else {
                address = self.skip_absent(address);
                continue;
            };
            let stop = end.min((address / TABLE_SPAN + 1) * TABLE_SPAN);
            while address < stop {
                let at = slot(table, address, 0);
                if let Some(entry) = Entry::decode(self.memory.load(at)) {
                    let new = change(address, entry);
                    if new != Some(entry) {
                        self.show_table(above);
                        self.memory.store(at, new.map_or(0, Entry::encode));
                    }
                }
                address += FRAME_SIZE;
            }
        }
    }

    /// All tables: guest-physical address and level, 0 for those whose entries are pages. Those of ring 0 are among them.
    pub(super) fn tables(&self) -> Vec<(u64, u32)> {
        let mut tables = vec![(PAGE_ROOT, 3)];
        let mut next = 0;
        while let Some((table, level)) = tables.get(next).copied() {
            next += 1;
            if level > 0 {
                let entries = (0..ENTRIES).map(|i| self.memory.load(table + 8 * i));
                tables.extend(entries.filter_map(|bits| Some((self.next_table(bits)?, level - 1))));
            }
        }
        tables
    }

    /// The frame that an entry of a lowest-level table showed, if a vCPU that remembers `now` could do with it what `then` does not
    /// allow.
    pub(super) fn narrowed(now: u64, then: u64) -> Option<Frame> {
        let (now, then) = (Entry::decode(now)?, Entry::decode(then));
        let kept = then.is_some_and(|then| then.frame == now.frame && then.access.contains(now.access));
        (!kept && !now.access.is_empty()).then_some(now.frame)
    }

    /// Whether there are tables for other pages in the same GiB as `address`, so that a page there needs one more at most.
    pub fn are_near(&self, address: u64) -> bool {
        self.table_at(address, 1).is_some()
    }

    /// First address after the highest absent table that covers `address`.
    fn skip_absent(&self, address: u64) -> u64 {
        let mut table = PAGE_ROOT;
        for level in (1..4).rev() {
            let bits = self.memory.load(slot(table, address, level));
            if bits & PRESENT == 0 {
                let span = FRAME_SIZE << (9 * level);
                return (address / span + 1) * span;
            }
            table = bits & ADDRESS;
        }
        (address / TABLE_SPAN + 1) * TABLE_SPAN
    }

    /// The lowest-level table for `address`, hidden or not, and where the entry above is that leads to it.
    fn table(&self, address: u64) -> Option<(u64, u64)> {
        self.table_at(address, 0)
    }

    /// The same for a table of `level`, 0 being the lowest.
    fn table_at(&self, address: u64, level: u32) -> Option<(u64, u64)> {
        let (mut table, mut above) = (PAGE_ROOT, 0);
        for level in (level + 1..4).rev() {
            above = slot(table, address, level);
            table = self.next_table(self.memory.load(above))?;
        }
        Some((table, above))
    }

    /// The table that an entry above leads to, hidden or not.
    fn next_table(&self, bits: u64) -> Option<u64> {
        match bits & PRESENT {
            0 => None,
            _ if bits & LARGE != 0 => self.memory.hidden_table(bits & ADDRESS),
            _ => Some(bits & ADDRESS),
        }
    }

    /// Has the CPU see the table that the entry at `at` hides, if it does, before that is changed. All its translations stay as they are.
    fn show_table(&self, at: u64) {
        let bits = self.memory.load(at);
        if bits & (PRESENT | LARGE) == PRESENT | LARGE
            && let Some(table) = self.memory.hidden_table(bits & ADDRESS)
        {
            self.memory.store(at, link(table));
        }
    }

    /// The lowest-level table for `address`, to be changed.
    fn table_or_new(&self, address: u64, frames: &mut Frames) -> Option<u64> {
        let mut table = PAGE_ROOT;
        for level in (1..4).rev() {
            let at = slot(table, address, level);
            self.show_table(at);
            table = match self.next_table(self.memory.load(at)) {
                Some(table) => table,
                None => {
                    // Frames of page tables come zeroed: they were never used.
                    let frame = frames.allocate_table()?;
                    frames.mark_dirty(frame);
                    self.memory.store(at, link(frame.address()));
                    frame.address()
                }
            };
        }
        Some(table)
    }
}

/// The entry that leads to a table of the program's.
fn link(table: u64) -> u64 {
    table | PRESENT | WRITABLE | USER | ACCESSED_DIRTY
}

/// Maps one supervisor or user page with tables at fixed places; for the ring-0 window, before the first vCPU runs.
pub(super) fn map_fixed(
    memory: &GuestMemory,
    tables: [u64; 3],
    virtual_address: u64,
    physical: u64,
    flags: FixedPage,
) {
    let user = if matches!(flags, FixedPage::UserCode | FixedPage::UserData) { USER } else { 0 };
    let mut table = PAGE_ROOT;
    for (level, next) in (1..4).rev().zip(tables) {
        memory.store(slot(table, virtual_address, level), next | PRESENT | WRITABLE | user | ACCESSED_DIRTY);
        table = next;
    }
    let leaf = match flags {
        FixedPage::UserCode => USER,
        FixedPage::UserData => USER | WRITABLE | NO_EXECUTE,
        FixedPage::KernelCode => 0,
        FixedPage::KernelData => WRITABLE | NO_EXECUTE,
    };
    memory.store(slot(table, virtual_address, 0), physical | leaf | PRESENT | ACCESSED_DIRTY);
}

/// The sorts of page that are not the program's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FixedPage {
    UserCode,
    UserData,
    KernelCode,
    KernelData,
}

/// Guest-physical address of the entry for `address` in a `table` of `level` (0 is the lowest).
fn slot(table: u64, address: u64, level: u32) -> u64 {
    table + 8 * (address >> (12 + 9 * level) & (ENTRIES - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_found_changed_and_cleared() {
        let memory = GuestMemory::new(8 << 20).expect("8 MiB of memory");
        let mut frames = Frames::new(memory.size());
        let tables = PageTables::new(&memory);
        let entry = Entry { frame: Frame(700), access: Access::READ | Access::WRITE };
        let pages = [0x40_0000, 0x7f_ffff_f000, 0x7fff_ffff_e000];
        for page in pages {
            assert!(tables.set(page, entry, &mut frames));
        }
        assert_eq!(tables.get(0x40_0000), Some(entry));
        assert_eq!(tables.get(0x40_1000), None);
        let mut seen = Vec::new();
        tables.update(0, 0x7fff_ffff_f000, |address, _| {
            seen.push(address);
            (address != pages[1]).then_some(Entry { frame: Frame(700), access: Access::READ })
        });
        assert_eq!(seen, pages);
        assert_eq!(tables.get(pages[0]).map(|e| e.access), Some(Access::READ));
        assert_eq!(tables.get(pages[1]), None);
    }

    #[test]
    fn no_frames_left_is_reported() {
        let memory = GuestMemory::new(8 << 20).expect("8 MiB of memory");
        let mut frames = Frames::new(super::super::layout::FIRST_FRAME + 2 * FRAME_SIZE);
        let entry = Entry { frame: Frame(700), access: Access::READ };
        assert!(!PageTables::new(&memory).set(0x40_0000, entry, &mut frames));
    }

    #[test]
    fn a_large_page_is_as_many_small_ones() {
        let address = 0x40_0000;
        let page = |i: u64| address + i * FRAME_SIZE;
        let entry = |i: u64| Entry { frame: Frame(1024 + i as u32), access: Access::READ | Access::WRITE };
        let narrowed = Entry { access: Access::READ, ..entry(3) };
        let memory = GuestMemory::new(8 << 20).expect("memory");
        if !memory.allows_large_pages() {
            return eprintln!("skipped: this kernel does not align memory to large pages");
        }
        let (tables, mut frames) = (PageTables::new(&memory), Frames::new(memory.size()));
        let is_large = || memory.load(tables.table(address).expect("a table").1) & LARGE != 0;
        let changes: [&dyn Fn(); 3] = [
            &|| tables.update(page(9), page(10), |_, _| None),
            &|| assert!(tables.set(page(3), narrowed, &mut Frames::new(8 << 20))),
            &|| tables.make_all_small(),
        ];
        for (change, changed) in changes.into_iter().zip([9, 3, 512]) {
            assert!(tables.are_absent(address, page(512)));
            assert!(tables.set_large(address, entry(0), &mut frames) && is_large());
            let linked = tables.tables();
            assert!(!tables.are_absent(page(511), page(512)));
            assert_eq!(tables.get(page(9)), Some(entry(9)));
            // What leaves it alone, leaves it large.
            tables.update(address, page(512), |_, entry| Some(entry));
            assert!(is_large());
            change();
            assert!(!is_large());
            assert_eq!(tables.tables(), linked);
            for i in (0..512).filter(|i| *i != changed) {
                assert_eq!(tables.get(page(i)), Some(entry(i)), "page {i}");
            }
            tables.update(address, page(512), |_, _| None);
        }
        // RAM that must not have them, as that of copies.
        let memory = GuestMemory::reserve(8 << 20).expect("memory");
        let tables = PageTables::new(&memory);
        assert!(tables.set_large(address, entry(0), &mut Frames::new(8 << 20)));
        let above = memory.load(tables.table(address).expect("a table").1);
        assert_eq!((tables.get(page(9)), above & LARGE), (Some(entry(9)), 0));
    }
}
