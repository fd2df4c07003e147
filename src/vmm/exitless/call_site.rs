//! The code of a program around a `syscall`, and what it is rewritten to: a jump to a trampoline, and that.
//!
//! Two kinds of code can be rewritten, which between them are almost all of a C library's:
//! - `mov eax, NUMBER; syscall`. The jump replaces the `mov`. The `syscall` stays.
//! - `syscall; cmp rax, NUMBER`. The jump replaces the `syscall` and half of the `cmp`. Whoever jumps to the `cmp`, or comes back there from a call made
//!   before, finds the second byte of the jump's displacement, which is chosen so that it is no instruction; [`CallSite::after_trap`] says where to go on.

use super::direct::ENTRY;

/// A `syscall` that can be made by way of a trampoline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallSite {
    /// Address after the `syscall`.
    end: u64,
    neighbour: Neighbour,
}

/// The instruction beside it that the jump takes the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Neighbour {
    /// `mov eax, NUMBER`, before it.
    Move([u8; MOVE]),
    /// `cmp rax, NUMBER`, after it.
    Compare([u8; COMPARE]),
}

const MOVE: usize = 5;
const COMPARE: usize = 6;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const MOVE_EAX: u8 = 0xb8;
const JUMP: u8 = 0xe9;
/// A byte that is no instruction, nor begins one.
const TRAP: u8 = 0x06;
/// Which byte of a jump the end of a replaced `syscall` is.
const TRAPPED: usize = SYSCALL.len();
/// How far a jump leads, less what some pages may make.
const REACH: u64 = (1 << 31) - (1 << 20);
/// Distance of the places for a trampoline that is jumped to by way of [`TRAP`].
const STRIDE: u64 = 1 << 16;

/// Offsets in a trampoline: the address of the entry, and that of the jump.
const ENTRY_AT: usize = 32;
const SITE_AT: usize = 40;
/// Where a trampoline that makes the call itself has the address after its `syscall`.
const AFTER_CALL: usize = 15;

impl CallSite {
    /// Bytes before the end of the `syscall` that are looked at, and after it.
    pub const BEFORE: usize = 10;
    /// The same after it.
    pub const AFTER: usize = COMPARE;
    /// Bytes of the jump.
    pub const JUMP: usize = 5;
    /// Bytes of a trampoline.
    pub const TRAMPOLINE: usize = 48;
    /// What its address is a multiple of. Of no trampoline are so many bytes zero.
    pub const ALIGNMENT: usize = 16;

    /// The one that ends at `end`, after `before`; `after` that comes what is there. `None` where neither is of a kind that can be replaced,
    /// or could be another.
    pub fn read(before: [u8; Self::BEFORE], after: Option<[u8; Self::AFTER]>, end: u64) -> Option<CallSite> {
        let neighbour = match before {
            // With a number of a call, rather than any.
            [c, b, a, MOVE_EAX, low, high @ 0..4, 0, 0, 0x0f, 0x05] if begins_with_move([c, b, a]) => {
                Neighbour::Move([MOVE_EAX, low, high, 0, 0])
            }
            // It was rewritten: the call comes back to the comparison.
            [.., JUMP, _, _, _, _, 0x0f, 0x05] => return None,
            [.., 0x0f, 0x05] => Neighbour::Compare(after.filter(|after| after.starts_with(&[0x48, 0x3d]))?),
            _ => return None,
        };
        Some(CallSite { end, neighbour })
    }

    /// The number of the call that it makes, where that is in the code that is replaced.
    pub fn number(self) -> Option<u64> {
        match self.neighbour {
            Neighbour::Move([_, a, b, c, d]) => Some(u32::from_le_bytes([a, b, c, d]).into()),
            Neighbour::Compare(_) => None,
        }
    }

    /// Where the jump is to be.
    pub fn address(self) -> u64 {
        let call = self.end.wrapping_sub(SYSCALL.len() as u64);
        match self.neighbour {
            Neighbour::Move(_) => call.wrapping_sub(MOVE as u64),
            Neighbour::Compare(_) => call,
        }
    }

    /// Whether a trampoline at `address` can be jumped to from here.
    pub fn reaches(self, address: u64) -> bool {
        let is_near = address.abs_diff(self.end) < REACH;
        let is_any = matches!(self.neighbour, Neighbour::Move(_));
        is_near && (is_any || self.jump(address)[TRAPPED] == TRAP)
    }

    /// The highest address at or below `top` where a trampoline can be that is reached, at an address of the right alignment; then in descending order.
    pub fn places(self, top: u64) -> impl Iterator<Item = u64> {
        let alignment = Self::ALIGNMENT as u64;
        let (first, stride) = match self.neighbour {
            Neighbour::Move(_) => (top & !(alignment - 1), alignment),
            Neighbour::Compare(_) => {
                let after_jump = self.address().wrapping_add(Self::JUMP as u64);
                // The window of 256 bytes that begins here, and every so many bytes, is that of the right displacements.
                let window = after_jump.wrapping_add(u64::from(TRAP) << 8).next_multiple_of(alignment);
                (window.wrapping_sub(window.saturating_sub(top).next_multiple_of(STRIDE)), STRIDE)
            }
        };
        let address = move |i: u64| first.checked_sub(i.checked_mul(stride)?);
        (0..).map_while(address).take_while(move |address| address.abs_diff(self.end) < REACH)
    }

    /// The jump to a trampoline that it [`reaches`](CallSite::reaches).
    pub fn jump(self, trampoline: u64) -> [u8; Self::JUMP] {
        let [a, b, c, d] = distance(self.address().wrapping_add(Self::JUMP as u64), trampoline);
        [JUMP, a, b, c, d]
    }

    /// The trampoline there: what the jump replaces, with the address to come back to in `rcx` and a jump to the entry instead of the `syscall`.
    pub fn trampoline(self, address: u64) -> [u8; Self::TRAMPOLINE] {
        let mut code = Code { bytes: Vec::with_capacity(Self::TRAMPOLINE), address };
        match self.neighbour {
            Neighbour::Move(instruction) => {
                code.push(&instruction);
                code.load_address(self.end);
                code.jump_to_entry();
            }
            Neighbour::Compare(instruction) => {
                code.load_address(address.wrapping_add(AFTER_CALL as u64));
                code.jump_to_entry();
                code.push(&SYSCALL);
                debug_assert_eq!(code.bytes.len(), AFTER_CALL);
                code.push(&instruction);
                code.jump(self.end.wrapping_add(COMPARE as u64));
            }
        }
        let mut all = [TRAP; Self::TRAMPOLINE];
        all[..code.bytes.len()].copy_from_slice(&code.bytes);
        all[ENTRY_AT..SITE_AT].copy_from_slice(&ENTRY.to_le_bytes());
        all[SITE_AT..].copy_from_slice(&self.address().to_le_bytes());
        all
    }

    /// Where a thread goes on after a call that it had made from here before it was rewritten to lead to `trampoline`.
    pub fn goes_on(self, trampoline: u64) -> u64 {
        match self.neighbour {
            Neighbour::Move(_) => self.end,
            Neighbour::Compare(_) => trampoline.wrapping_add(AFTER_CALL as u64),
        }
    }

    /// Where a program goes on that has come to the trap in a `jump`, which begins two bytes before `rip`: in a trampoline, if there is one.
    pub fn after_trap(jump: [u8; Self::JUMP], rip: u64) -> Option<u64> {
        let [JUMP, a, TRAP, c, d] = jump else { return None };
        let after_jump = rip.wrapping_add((Self::JUMP - TRAPPED) as u64);
        let distance = i64::from(i32::from_le_bytes([a, TRAP, c, d]));
        Some(after_jump.wrapping_add_signed(distance).wrapping_add(AFTER_CALL as u64))
    }

    /// Where a thread that stands at `position` bytes from the start of `trampoline` would stand in the code that leads there.
    pub fn origin(trampoline: [u8; Self::TRAMPOLINE], position: usize) -> Option<u64> {
        let word = |at: usize| trampoline[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let (entry, site) = (word(ENTRY_AT)?, word(SITE_AT)?);
        let is_compare = trampoline[0] == 0x48;
        let bytes = match position {
            _ if entry != ENTRY => return None,
            0 => 0,
            1..ENTRY_AT if !is_compare => MOVE,
            1..AFTER_CALL => 0,
            AFTER_CALL => SYSCALL.len(),
            16..ENTRY_AT => SYSCALL.len() + COMPARE,
            _ => return None,
        };
        Some(site.wrapping_add(bytes as u64))
    }
}

/// Whether [`MOVE_EAX`] after these bytes begins an instruction. In the middle of one it may follow a prefix, or name operands: those at a distance
/// from `r8`, which a prefix says, as `rax` holds the number of the call, or from more than one register.
fn begins_with_move(before: [u8; 3]) -> bool {
    let [c, b, a] = before;
    let is_prefix = matches!(a, 0x40..=0x4f | 0x66 | 0x67 | 0xf2 | 0xf3);
    let is_of_r8 = |byte: u8| byte & 0xf1 == 0x41;
    let is_operand = is_of_r8(b) || b == 0x0f && is_of_r8(c) || a & 0xc7 == 0x84;
    !is_prefix && !is_operand
}

/// Machine code from `address` on.
struct Code {
    bytes: Vec<u8>,
    address: u64,
}

impl Code {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The displacement, in the four bytes at the end of an instruction, by which that means `to`.
    fn push_distance(&mut self, to: u64) {
        let after = self.address.wrapping_add(self.bytes.len() as u64 + 4);
        self.push(&distance(after, to));
    }

    /// `lea rcx, [to]`
    fn load_address(&mut self, to: u64) {
        self.push(&[0x48, 0x8d, 0x0d]);
        self.push_distance(to);
    }

    /// `jmp [entry]`
    fn jump_to_entry(&mut self) {
        self.push(&[0xff, 0x25]);
        self.push_distance(self.address.wrapping_add(ENTRY_AT as u64));
    }

    /// `jmp to`
    fn jump(&mut self, to: u64) {
        self.push(&[JUMP]);
        self.push_distance(to);
    }
}

/// From `from` to `to`, which is in reach.
fn distance(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMPARE_BYTES: [u8; COMPARE] = [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];
    const MOVE_BYTES: [u8; CallSite::BEFORE] = [0x0f, 0x1f, 0x00, 0xb8, 39, 0, 0, 0, 0x0f, 0x05];
    const END: u64 = 0x7ffe_ffde_ad0f;

    fn moved() -> CallSite {
        CallSite::read(MOVE_BYTES, Some(COMPARE_BYTES), END).expect("a move")
    }

    fn compared() -> CallSite {
        let before = [0, 0, 0, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05];
        CallSite::read(before, Some(COMPARE_BYTES), END).expect("a comparison")
    }

    #[test]
    fn what_only_looks_like_a_move_is_none() {
        for start in [
            // mov r8d, 39; movabs ending so; mov ax, …
            [0x90, 0x90, 0x41, 0xb8, 39, 0, 0, 0],
            [0x90, 0x90, 0x48, 0xb8, 39, 0, 0, 0],
            [0x90, 0x90, 0x66, 0xb8, 39, 0, 0, 0],
            // mov edi, 39: a number, but not of the call.
            [0x90, 0x90, 0x90, 0xbf, 39, 0, 0, 0],
            // mov rdi, [rbp - 0x98]; mov edi, [rax - 0x98]
            [0x90, 0x48, 0x8b, 0xbd, 0x68, 0xff, 0xff, 0xff],
            [0x90, 0x90, 0x8b, 0xb8, 0x68, 0xff, 0xff, 0xff],
            // mov rdi, [r8 + 0xa0]; lea rdi, [r8 + 0xa0]; movzx edi, word [r8 + 0xa0]; mov edi, [r8 + rdi * 4 + 0xa0]
            [0x90, 0x49, 0x8b, 0xb8, 0xa0, 0, 0, 0],
            [0x90, 0x49, 0x8d, 0xb8, 0xa0, 0, 0, 0],
            [0x41, 0x0f, 0xb7, 0xb8, 0xa0, 0, 0, 0],
            [0x41, 0x8b, 0xbc, 0xb8, 0xa0, 0, 0, 0],
        ] {
            let mut bytes = [0x0f, 0x05].repeat(5);
            bytes[..8].copy_from_slice(&start);
            let bytes = bytes.try_into().expect("so many bytes");
            assert_eq!(CallSite::read(bytes, None, END), None, "{start:x?}");
            let compared = CallSite::read(bytes, Some(COMPARE_BYTES), END).expect("a comparison");
            assert_eq!(compared.address(), END - 2);
        }
        let other = [0, 0, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x90];
        assert_eq!(CallSite::read(other, Some(COMPARE_BYTES), END), None);
        let other = [0, 0, 0x90, 0xb8, 39, 0, 0, 0, 0x0f, 0x34];
        assert_eq!(CallSite::read(other, Some(COMPARE_BYTES), END), None);
    }

    #[test]
    fn a_move_has_the_number_of_its_call() {
        let bytes = [0x90, 0x90, 0x90, MOVE_EAX, 39, 1, 0, 0, 0x0f, 0x05];
        assert_eq!(CallSite::read(bytes, None, END).and_then(CallSite::number), Some(0x127));
        assert_eq!(compared().number(), None);
    }

    #[test]
    fn moves_of_libraries_are_found() {
        for before in [
            // mov r10, rcx; mov r9d, [rsp + 0x28]; ret; what fills up before a function
            [0x49, 0x89, 0xca],
            [0x4c, 0x24, 0x28],
            [0x90, 0x90, 0xc3],
            [0x00, 0x00, 0x00],
        ] {
            let mut bytes = MOVE_BYTES;
            bytes[..3].copy_from_slice(&before);
            assert_eq!(CallSite::read(bytes, Some(COMPARE_BYTES), END), Some(moved()), "{before:x?}");
        }
        assert_eq!(moved().address(), END - 7);
    }

    #[test]
    fn what_was_rewritten_is_not_again() {
        let mut bytes = MOVE_BYTES;
        bytes[3..8].copy_from_slice(&moved().jump(END - 0x1000));
        assert_eq!(CallSite::read(bytes, Some(COMPARE_BYTES), END), None);
        let jump = compared().jump(compared().places(END).next().expect("a place"));
        let mut bytes = [0, 0, 0, 0, 0, 0, 0x31, 0xc0, jump[0], jump[1]];
        assert_eq!(CallSite::read(bytes, Some([jump[2], jump[3], jump[4], 0xf0, 0xff, 0xff]), END), None);
        bytes[8..].copy_from_slice(&SYSCALL);
        assert_eq!(CallSite::read(bytes, Some(COMPARE_BYTES), END), Some(compared()));
    }

    #[test]
    fn every_place_is_reached_and_those_of_a_comparison_have_the_trap() {
        for top in [END - 0x100_0000, END - 1, END + 0x1234_5678, END - 0x7fe0_0000] {
            assert!(moved().places(top).take(10).all(|place| moved().reaches(place) && place <= top));
            let places: Vec<u64> = compared().places(top).take(10).collect();
            assert!(!places.is_empty());
            for place in places {
                assert!(place <= top && compared().reaches(place) && place % 16 == 0);
                let jump = compared().jump(place);
                assert_eq!(CallSite::after_trap(jump, END), Some(compared().goes_on(place)));
            }
        }
        // Out of reach, there is none, and the search ends.
        assert_eq!(compared().places(0x40_0000).next(), None);
    }

    #[test]
    fn a_thread_in_a_trampoline_stands_at_the_same_instruction_of_the_code() {
        for (site, positions) in [
            (moved(), &[(0, END - 7), (5, END - 2), (12, END - 2)][..]),
            (compared(), &[(0, END - 2), (7, END - 2), (13, END - 2), (15, END), (21, END + 6)]),
        ] {
            let place = site.places(END - 0x10_0000).next().expect("a place");
            let trampoline = site.trampoline(place);
            for (position, original) in positions {
                assert_eq!(
                    CallSite::origin(trampoline, *position),
                    Some(*original),
                    "{site:?} at {position}"
                );
            }
            assert_eq!(CallSite::origin(trampoline, ENTRY_AT), None);
            // So many zeros are room for another.
            assert!(trampoline.chunks(CallSite::ALIGNMENT).all(|part| part.iter().any(|byte| *byte != 0)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            before: [u8; CallSite::BEFORE], after: Option<[u8; CallSite::AFTER]>, end: u64, top: u64, jump: [u8; 5],
        ) {
            if let Some(site) = CallSite::read(before, after, end) {
                for place in site.places(top).take(3) {
                    site.trampoline(place);
                    site.jump(place);
                }
            }
            CallSite::after_trap(jump, end);
        }

        #[test]
        fn any_bytes_are_a_trampoline_or_none(bytes in proptest::collection::vec(any::<u8>(), 48), position: usize) {
            let trampoline: [u8; CallSite::TRAMPOLINE] = bytes.try_into().expect("so many bytes");
            CallSite::origin(trampoline, position);
        }
    }
}
