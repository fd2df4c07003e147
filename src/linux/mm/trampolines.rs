//! Code of the program's that is rewritten so that its system calls need no `syscall`, and the pages of code that this leads to ([`CallSite`]).
//!
//! A page of trampolines lies as near below the code that leads there as there is room. The program sees it in its maps, and can neither
//! change nor unmap it, as pages that Linux has sealed.

use super::super::errno::Errno;
use super::space::{AddressSpace, Placement, Region};
use crate::vmm::{Access, CallSite, FRAME_SIZE};

/// Name of the region.
pub(super) const TRAMPOLINES: &str = "[trampolines]";
/// Most such pages of a program: each serves all of a library, and more.
const MOST_PAGES: usize = 64;
const CODE: Access = Access::READ.union(Access::EXECUTE);

/// Who else may be executing the code that is to be rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// No other thread is in the guest, nor comes there meanwhile.
    Away,
    /// Other threads may be. They see the old instruction or the new one where the change is one store.
    Running,
}

/// What became of a call site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewritten {
    /// It leads to a trampoline, or never will.
    Settled,
    /// It cannot be rewritten while other threads run.
    NotNow,
}

impl AddressSpace {
    /// Has the instructions before `end`, where a system call was made from, lead to a trampoline, if they are of that kind and the program
    /// cannot write to them.
    pub fn rewrite_call(&mut self, end: u64, others: Others) -> Rewritten {
        let Some(site) = self.call_site(end) else { return Rewritten::Settled };
        let (word, shift) = (site.address() & !7, (site.address() % 8) as usize);
        if others == Others::Running && shift + CallSite::JUMP > 8 {
            return Rewritten::NotNow;
        }
        let Some(trampoline) = self.trampoline(site) else { return Rewritten::Settled };
        let jump = site.jump(trampoline);
        // Nothing more can fail: the page has just been read.
        let _ = match others {
            Others::Away => self.poke(site.address(), &jump),
            Others::Running => self.poke_within(word, shift, &jump),
        };
        Rewritten::Settled
    }

    fn call_site(&mut self, end: u64) -> Option<CallSite> {
        let first = end.checked_sub(CallSite::BYTES as u64)?;
        // One page and one region: its rights are those of all bytes.
        let (start, region) = self.find(first)?;
        let is_fixed_code = region.access == CODE && !region.shared && region.label != TRAMPOLINES;
        if !is_fixed_code || end > region.end || first < start || first / FRAME_SIZE != (end - 1) / FRAME_SIZE {
            return None;
        }
        let mut bytes = [0; CallSite::BYTES];
        self.peek(first, &mut bytes).ok()?;
        CallSite::read(bytes, end)
    }

    /// Changes bytes of one aligned word of mapped memory in one store.
    fn poke_within(&mut self, word: u64, shift: usize, bytes: &[u8]) -> Result<(), Errno> {
        let frame = self.resolve(word, Access::READ).ok_or(Errno::ENOMEM)?;
        let at = frame.address() + word % FRAME_SIZE;
        let mut value = self.memory.load(at).to_le_bytes();
        value[shift..shift + bytes.len()].copy_from_slice(bytes);
        self.memory.store(at, u64::from_le_bytes(value));
        Ok(())
    }

    /// The address of a new trampoline for the site, written.
    fn trampoline(&mut self, site: CallSite) -> Option<u64> {
        let address = match self.free_trampoline(site) {
            Some(address) => address,
            None => self.new_trampolines(site)?,
        };
        self.poke(address, &site.trampoline(address)).ok()?;
        Some(address)
    }

    /// Where there is room for one in a page that there is.
    fn free_trampoline(&mut self, site: CallSite) -> Option<u64> {
        let pages: Vec<u64> = self
            .regions()
            .filter(|(_, region)| region.label == TRAMPOLINES)
            .flat_map(|(start, region)| (start..region.end).step_by(FRAME_SIZE as usize))
            .filter(|page| site.reaches(*page))
            .collect();
        pages.into_iter().find_map(|page| {
            let mut code = vec![0; FRAME_SIZE as usize];
            self.peek(page, &mut code).ok()?;
            let used = code.chunks(CallSite::TRAMPOLINE).position(|one| one[0] == 0)?;
            Some(page + (used * CallSite::TRAMPOLINE) as u64)
        })
    }

    /// A new page for them, below the regions that the site's adjoins.
    fn new_trampolines(&mut self, site: CallSite) -> Option<u64> {
        let all = self.regions().filter(|(_, region)| region.label == TRAMPOLINES);
        if all.map(|(start, region)| (region.end - start) / FRAME_SIZE).sum::<u64>() >= MOST_PAGES as u64 {
            return None;
        }
        let mut top = site.address();
        for (start, region) in self.regions.range(..=site.address()).rev() {
            if region.end < top {
                break;
            }
            top = *start;
        }
        let page = top.checked_sub(FRAME_SIZE).filter(|page| site.reaches(*page))?;
        self.map(Placement::FixedFree(page), FRAME_SIZE, |end| Region {
            may_write: false,
            ..Region::zero(end, CODE, TRAMPOLINES)
        })
        .ok()
    }

    /// `EPERM` if a change of the range would be one of trampolines.
    pub(super) fn check_sealed(&self, start: u64, end: u64) -> Result<(), Errno> {
        let first = self.find(start).map_or(start, |(first, _)| first);
        let is_sealed = self.regions.range(first..end.max(first)).any(|(_, region)| region.label == TRAMPOLINES);
        if is_sealed { Err(Errno::EPERM) } else { Ok(()) }
    }
}
