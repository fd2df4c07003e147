//! Code of the program's that is rewritten so that its system calls need no `syscall`, and the pages of code that this leads to ([`CallSite`]).
//!
//! A page of trampolines lies as near below the code that leads there as there is room. The program sees it in its maps, and can neither
//! change nor unmap it, as pages that Linux has sealed.

use super::super::errno::Errno;
use super::space::{AddressSpace, Backing, Placement, Region};
use crate::vmm::{Access, CallSite, FRAME_SIZE};

/// Name of the region.
pub(super) const TRAMPOLINES: &str = "[trampolines]";
/// Most such pages of a program.
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
    /// It leads to a trampoline. A thread that was in a call from there goes on here.
    Done(u64),
    /// It is of no kind that can.
    Never,
    /// It cannot be rewritten while other threads run.
    NotNow,
}

impl AddressSpace {
    /// Has the code around the `syscall` before `end`, where the call of that `number` was made from, lead to a trampoline, if it is of such a kind
    /// and from a file, and the program cannot write to it.
    pub fn rewrite_call(&mut self, end: u64, number: u64, others: Others) -> Rewritten {
        // What looks as if it brought another number does something else.
        let Some(site) = self.call_site(end).filter(|site| site.number().is_none_or(|its| its == number))
        else {
            return Rewritten::Never;
        };
        let (word, shift) = (site.address() & !7, (site.address() % 8) as usize);
        if others == Others::Running && shift + CallSite::JUMP > 8 {
            return Rewritten::NotNow;
        }
        let Some(trampoline) = self.trampoline(site) else { return Rewritten::Never };
        let jump = site.jump(trampoline);
        let written = match others {
            Others::Away => self.poke(site.address(), &jump),
            Others::Running => self.poke_within(word, shift, &jump),
        };
        written.map_or(Rewritten::Never, |()| Rewritten::Done(site.goes_on(trampoline)))
    }

    /// Where a thread goes on that has come to the trap of a rewritten call site at `rip`; `None` if there is none.
    pub fn after_trap(&mut self, rip: u64) -> Option<u64> {
        let jump = self.code(rip.checked_sub(2)?)?;
        CallSite::after_trap(jump, rip).filter(|next| self.is_trampoline(*next))
    }

    /// Where a thread that stands at `rip` would stand if nothing were rewritten, for the program to see.
    pub fn origin(&mut self, rip: u64) -> u64 {
        const ALIGNMENT: u64 = CallSite::ALIGNMENT as u64;
        if !self.is_trampoline(rip) {
            return rip;
        }
        let nearest = rip - rip % ALIGNMENT;
        let starts = [nearest, nearest.saturating_sub(ALIGNMENT)];
        let at =
            |start: u64| self.code(start).and_then(|code| CallSite::origin(code, (rip - start) as usize));
        starts.into_iter().find_map(at).unwrap_or(rip)
    }

    /// The pages of trampolines that there are.
    fn trampoline_pages(&self) -> impl Iterator<Item = u64> {
        let regions = self.regions().filter(|(_, region)| region.label == TRAMPOLINES);
        regions.flat_map(|(start, region)| (start..region.end).step_by(FRAME_SIZE as usize))
    }

    fn is_trampoline(&self, address: u64) -> bool {
        self.find(address).is_some_and(|(_, region)| region.label == TRAMPOLINES)
    }

    fn call_site(&mut self, end: u64) -> Option<CallSite> {
        let (_, region) = self.find(end.checked_sub(CallSite::BEFORE as u64)?)?;
        // Code that the program has made it may change again.
        let is_from_file = !matches!(region.backing, Backing::Zero) && !region.shared;
        if region.access != CODE || !is_from_file {
            return None;
        }
        let before = self.code(end - CallSite::BEFORE as u64)?;
        CallSite::read(before, self.code(end), end)
    }

    /// What lies at `address`, if all of it is in one page.
    fn code<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let is_one_page = address % FRAME_SIZE + N as u64 <= FRAME_SIZE;
        (is_one_page && self.peek(address, &mut bytes).is_ok()).then_some(bytes)
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
        let address = match self.room_for_trampoline(site) {
            Some(address) => address,
            None => self.new_trampolines(site)?,
        };
        self.poke(address, &site.trampoline(address)).ok()?;
        Some(address)
    }

    /// Where there is room for one in a page that there is.
    fn room_for_trampoline(&mut self, site: CallSite) -> Option<u64> {
        let pages: Vec<u64> = self.trampoline_pages().collect();
        pages.into_iter().find_map(|page| {
            let code: [u8; FRAME_SIZE as usize] = self.code(page)?;
            let is_free = |at: &usize| code[*at..].iter().take(CallSite::TRAMPOLINE).all(|byte| *byte == 0);
            let mut places = (0..=code.len() - CallSite::TRAMPOLINE).step_by(CallSite::ALIGNMENT);
            places.find(|at| site.reaches(page + *at as u64) && is_free(at)).map(|at| page + at as u64)
        })
    }

    /// The place for one in a new page, below the regions that the site's adjoins.
    fn new_trampolines(&mut self, site: CallSite) -> Option<u64> {
        /// Places that are looked at.
        const MOST_PLACES: usize = 4096;
        if self.trampoline_pages().count() >= MOST_PAGES {
            return None;
        }
        let mut top = site.address();
        for (start, region) in self.regions.range(..=site.address()).rev() {
            if region.end < top {
                break;
            }
            top = *start;
        }
        let room = CallSite::TRAMPOLINE as u64;
        let page = |place: u64| place - place % FRAME_SIZE;
        let fits =
            |place: &u64| place % FRAME_SIZE + room <= FRAME_SIZE && self.is_free(page(*place), FRAME_SIZE);
        let place = site.places(top.checked_sub(FRAME_SIZE)?).take(MOST_PLACES).find(fits)?;
        let make = |end| Region { may_write: false, ..Region::zero(end, CODE, TRAMPOLINES) };
        self.map(Placement::FixedFree(page(place)), FRAME_SIZE, make).ok()?;
        Some(place)
    }

    /// `EPERM` if a change of the range would be one of trampolines.
    pub(super) fn check_sealed(&self, start: u64, end: u64) -> Result<(), Errno> {
        let first = self.find(start).map_or(start, |(first, _)| first);
        let mut changed = self.regions.range(first..end.max(first));
        if changed.any(|(_, region)| region.label == TRAMPOLINES) { Err(Errno::EPERM) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::MappedFile;
    use super::*;
    use crate::vmm::GuestMemory;

    /// Where the code is mapped.
    const START: u64 = 0x7ffe_0000_0000;
    /// End of a `mov eax, 39; syscall` at the start of a page.
    const MOVED: u64 = START + 7;
    /// End of a `xor eax, eax; syscall; cmp rax, -4096`, whose jump lies in two words.
    const COMPARED: u64 = START + 0x48;
    /// The same, whose `cmp` lies in two pages.
    const CUT: u64 = START + 0xffd;

    /// An address space with a page of such code, from a file or not.
    fn space(is_from_file: bool) -> AddressSpace {
        let mut code = [0x90; FRAME_SIZE as usize];
        code[..7].copy_from_slice(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        for end in [COMPARED, CUT] {
            let at = (end - START) as usize;
            code[at - 4..at].copy_from_slice(&[0x31, 0xc0, 0x0f, 0x05]);
            let compare = [0x48, 0x3d, 0, 0xf0, 0xff, 0xff];
            let there = compare.len().min(code.len() - at);
            code[at..at + there].copy_from_slice(&compare[..there]);
        }
        let file = rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
        rustix::io::pwrite(&file, &[[0x90; FRAME_SIZE as usize], code].concat(), 0).expect("written");
        let file = MappedFile::new(Arc::new(file), false, "code".into(), (0, 0)).expect("a mapped file");
        let mut space = AddressSpace::new(Arc::new(GuestMemory::new(32 << 20).expect("memory")));
        let backing =
            if is_from_file { Backing::File { file: Arc::new(file), offset: 0 } } else { Backing::Zero };
        // A page before the code, in which a call that ends in the code could begin.
        let make = |end| Region { backing, ..Region::zero(end, CODE, "") };
        space.map(Placement::Fixed(START - FRAME_SIZE), 2 * FRAME_SIZE, make).expect("the code");
        if !is_from_file {
            space.poke(START, &code).expect("the code");
        }
        space
    }

    #[test]
    fn code_leads_to_trampolines_below_it_which_the_program_can_not_change() {
        let mut space = space(true);
        assert_eq!(space.rewrite_call(COMPARED, 0, Others::Running), Rewritten::NotNow);
        // A call whose beginning is in the page before is not looked at.
        assert_eq!(space.rewrite_call(MOVED, 39, Others::Away), Rewritten::Never);
        let Rewritten::Done(next) = space.rewrite_call(COMPARED, 0, Others::Away) else {
            panic!("not rewritten")
        };
        assert_eq!(space.after_trap(COMPARED), Some(next));
        assert_eq!((space.origin(next), space.origin(COMPARED)), (COMPARED, COMPARED));
        let (page, region) = space.find(next).expect("trampolines");
        assert_eq!((region.label, region.access), (TRAMPOLINES, CODE));
        assert!(page < START - FRAME_SIZE);
        for (start, end) in [(page, page + FRAME_SIZE), (page - FRAME_SIZE, START)] {
            assert_eq!(space.check_sealed(start, end), Err(Errno::EPERM));
        }
        for (start, end) in [(page - FRAME_SIZE, page), (page + FRAME_SIZE, START)] {
            assert_eq!(space.check_sealed(start, end), Ok(()));
        }
        // It was the code's, and is no more.
        assert_eq!(space.rewrite_call(COMPARED, 0, Others::Away), Rewritten::Never);
    }

    #[test]
    fn what_is_no_code_of_a_file_stays_as_it_is() {
        assert_eq!(space(false).rewrite_call(COMPARED, 0, Others::Away), Rewritten::Never);
        let mut space = space(true);
        for end in [0, 3, CUT, START + 0x200, START + FRAME_SIZE, u64::MAX] {
            assert_eq!(space.rewrite_call(end, 0, Others::Away), Rewritten::Never, "{end:#x}");
            assert_eq!(space.after_trap(end), None);
            assert_eq!(space.origin(end), end);
        }
        space.protect(START, START + FRAME_SIZE, CODE | Access::WRITE).expect("rights");
        assert_eq!(space.rewrite_call(COMPARED, 0, Others::Away), Rewritten::Never);
    }
}
