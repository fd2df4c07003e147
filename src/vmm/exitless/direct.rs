//! System calls without an entry of KVM's: the program jumps to its vCPU's entry instead of executing `syscall`.
//!
//! Where KVM emulates ring 0, `syscall` is itself an exit to the host and back before the entry begins, which costs many times what an answer in
//! memory takes. So code around a `syscall` is replaced by a jump to a *trampoline* near by ([`CallSite`](super::CallSite)), which does what that code did, but for the
//! exit: it goes by way of the code here to the entry of the vCPU on which it is, as if `syscall` had led there. gVisor's systrap has shown the
//! way. Where the vCPU has no entry, or the thread has set a base of its own, the `syscall` is made after all.
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
pub(super) const ENTRY: u64 = SYSCALL_ALIAS + PLACE;
const PLACE: u64 = 0x100;
/// Bytes of `syscall`.
const SYSCALL: u64 = 2;

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

/// Has a vCPU that stands in that code stand at the `syscall`.
pub(in super::super) fn back_to_call(regs: &mut kvm_regs) {
    let at = |label: *const [u8; 0]| label as u64 - (&raw const hydra_direct_start) as u64;
    let Some(position) =
        regs.rip.checked_sub(ENTRY).filter(|position| *position < at(&raw const hydra_direct_end))
    else {
        return;
    };
    let is_moved =
        (at(&raw const hydra_direct_moved)..at(&raw const hydra_direct_moved_back)).contains(&position);
    // Other registers hold what the `syscall` expects.
    regs.rip = if is_moved { regs.r11 } else { regs.rcx }.wrapping_sub(SYSCALL);
}
