//! System calls without an entry of KVM's: the program jumps to its vCPU's entry instead of executing `syscall`.
//!
//! Where KVM emulates ring 0, `syscall` is itself an exit to the host and back before the entry begins, which costs many times what an answer in memory
//! takes. So the five bytes of a `mov eax, NUMBER` before a `syscall` are replaced by a jump to a *trampoline* near by, which does what both do, but for
//! the exit: it goes by way of the [`ENTRY`] to the entry of the vCPU on which it is, as if `syscall` had led there. gVisor's systrap has shown the
//! way; here the `syscall` stays where it was, for whoever jumps to it, and for the trampoline itself where the vCPU has no entry.
//!
//! Ring 3 tells its vCPU by the base of `gs`, which programs on x86-64 leave alone: it is the address of the vCPU's area for every thread that has set none
//! of its own. `syscall` changes `rcx`, `r11` and nothing else, not even flags, so no instruction here does.

use std::arch::global_asm;

use kvm_bindings::kvm_regs;

use super::super::layout::{EXITLESS_AREAS_ALIAS, EXITLESS_BYTES, SYSCALL_ALIAS, SYSCALL_CODE};
use super::super::memory::GuestMemory;
use super::super::ring0::image;
use super::offset;

global_asm!(
    ".pushsection .rodata.hydra_direct,\"a\",@progbits",
    ".balign 16",
    ".globl hydra_direct_start, hydra_direct_moved, hydra_direct_moved_back, hydra_direct_end",
    // rcx: the address after the `syscall` that this one is made instead of.
    "hydra_direct_start:",
    "    mov r11, rcx",
    "hydra_direct_moved:",
    "    rdgsbase rcx",
    "    rorx rcx, rcx, 16",
    "    mov ecx, ecx",
    "    lea rcx, [rcx - {areas}]",
    "    jrcxz 1f",
    "    lea r11, [r11 - 2]",
    "    jmp r11",
    "1:  mov rcx, r11",
    "hydra_direct_moved_back:",
    "    mov r11d, {untouched}",
    "    jmp gs:[{entry}]",
    "    hlt",
    "hydra_direct_end:",
    ".popsection",
    areas = const EXITLESS_AREAS_ALIAS >> 16,
    untouched = const UNTOUCHED,
    entry = const offset::ENTRY,
);

unsafe extern "C" {
    static hydra_direct_start: [u8; 0];
    static hydra_direct_moved: [u8; 0];
    static hydra_direct_moved_back: [u8; 0];
    static hydra_direct_end: [u8; 0];
}

/// Where trampolines lead: in the page of the system-call entry, at a distance from that.
const ENTRY: u64 = SYSCALL_ALIAS + PLACE;
const PLACE: u64 = 0x100;

/// In `r11`, where the entry expects the flags: those of the program are where they always are. No flags are zero: bit 1 is always set.
pub(super) const UNTOUCHED: u64 = 0;

// What the check of the base compares is the same of all areas.
const _: () = assert!(EXITLESS_AREAS_ALIAS >> 16 == (EXITLESS_AREAS_ALIAS + EXITLESS_BYTES) >> 16);
const _: () = assert!(EXITLESS_AREAS_ALIAS >> 48 == 0);

/// Writes the code that trampolines lead to.
pub(super) fn install(memory: &GuestMemory) {
    let code = image((&raw const hydra_direct_start).cast(), (&raw const hydra_direct_end).cast());
    memory.write(SYSCALL_CODE + PLACE, code);
}

/// Whether the vCPU stands in that code; it stands at the `syscall` then.
pub(in super::super) fn back_to_call(regs: &mut kvm_regs) -> bool {
    let at = |label: *const [u8; 0]| label as u64 - (&raw const hydra_direct_start) as u64;
    let Some(position) =
        regs.rip.checked_sub(ENTRY).filter(|position| *position < at(&raw const hydra_direct_end))
    else {
        return false;
    };
    let is_moved =
        (at(&raw const hydra_direct_moved)..at(&raw const hydra_direct_moved_back)).contains(&position);
    // Other registers hold what the `syscall` expects.
    regs.rip = if is_moved { regs.r11 } else { regs.rcx }.wrapping_sub(CallSite::SYSCALL);
    true
}

/// A `syscall` right after a `mov eax, NUMBER`, which can lead to a trampoline instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallSite {
    /// Address after the `syscall`.
    end: u64,
    number: u32,
}

impl CallSite {
    /// Bytes of both instructions, and of that before whose last one is looked at.
    pub const BYTES: usize = 8;
    /// Bytes that are replaced.
    pub const JUMP: usize = 5;
    /// Bytes of a trampoline.
    pub const TRAMPOLINE: usize = 32;
    /// Bytes of `syscall`.
    const SYSCALL: u64 = 2;
    /// How far a jump leads, less what a page more or less may make.
    const REACH: u64 = (1 << 31) - (1 << 16);

    /// That which `bytes` are, up to `end`. `None` where they are something else, or could be: `mov r8d, …` ends alike.
    pub fn read(bytes: [u8; Self::BYTES], end: u64) -> Option<CallSite> {
        const MOV_EAX: u8 = 0xb8;
        let [before, MOV_EAX, a, b, c, d, 0x0f, 0x05] = bytes else { return None };
        let is_prefix = matches!(before, 0x40..=0x4f | 0x66 | 0x67 | 0xf2 | 0xf3);
        (!is_prefix).then_some(CallSite { end, number: u32::from_le_bytes([a, b, c, d]) })
    }

    /// Where the jump is to be.
    pub fn address(self) -> u64 {
        self.end.wrapping_sub(Self::SYSCALL + Self::JUMP as u64)
    }

    /// Whether a trampoline at `address` can be jumped to from here, and back.
    pub fn reaches(self, address: u64) -> bool {
        address.abs_diff(self.end) < Self::REACH
    }

    /// The jump to the trampoline at an address that it [`reaches`](CallSite::reaches).
    pub fn jump(self, trampoline: u64) -> [u8; Self::JUMP] {
        let [a, b, c, d] = distance(self.end.wrapping_sub(Self::SYSCALL), trampoline);
        [0xe9, a, b, c, d]
    }

    /// The trampoline there: `mov eax, NUMBER; lea rcx, [end]; jmp [entry]`, and the entry's address. Its first byte is not zero.
    pub fn trampoline(self, address: u64) -> [u8; Self::TRAMPOLINE] {
        const AFTER_LEA: u64 = 12;
        const TRAP: u8 = 0xcc;
        let mut code = [TRAP; Self::TRAMPOLINE];
        code[0] = 0xb8;
        code[1..5].copy_from_slice(&self.number.to_le_bytes());
        code[5..8].copy_from_slice(&[0x48, 0x8d, 0x0d]);
        code[8..12].copy_from_slice(&distance(address.wrapping_add(AFTER_LEA), self.end));
        // The eight bytes at the end, six after this instruction.
        code[12..18].copy_from_slice(&[0xff, 0x25, 6, 0, 0, 0]);
        code[24..].copy_from_slice(&ENTRY.to_le_bytes());
        code
    }
}

/// The displacement of an instruction that ends at `from` and means `to`, in reach.
fn distance(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from) as u32).to_le_bytes()
}
