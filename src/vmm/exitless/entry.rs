//! The entries that ask before they leave, and where in them a vCPU stands.
//!
//! That of system calls has three registers to itself, those that `syscall` changes, and leaves the flags alone: where the call does not
//! leave, the program has them back as they were. That of page faults has `rax` and the flags; ring 0 has put them, and all else that the
//! CPU saves of the program, at the end of the area, from where `iretq` takes them.
//!
//! Each vCPU has a copy, which lies as far from its area as that of any other.

use std::arch::global_asm;

use super::super::layout::{
    EXITLESS_AREAS_ALIAS, EXITLESS_CODE, EXITLESS_CODE_ALIAS, EXITLESS_SIZE, EXITLESS_VCPUS,
};
use super::super::memory::GuestMemory;
use super::super::ring0::image;
use super::{ANSWERED, ASKED, FAULTED, LEAVE, TAKEN, offset};

global_asm!(
    ".pushsection .rodata.hydra_exitless,\"a\",@progbits",
    ".balign 16",
    ".globl hydra_exitless_start, hydra_exitless_ready, hydra_exitless_asked, hydra_exitless_withdrawn",
    ".globl hydra_exitless_plain, hydra_exitless_plain_end, hydra_exitless_done, hydra_exitless_fault, hydra_exitless_end",
    "area = hydra_exitless_start + {distance}",
    "hydra_exitless_start:",
    "    mov [rip + area + {RIP}], rcx",
    "    mov ecx, [rip + area + {SPINS}]",
    "    jrcxz hydra_exitless_plain",
    "    mov [rip + area + {RFLAGS}], r11",
    "    mov [rip + area + {RAX}], rax",
    "    mov [rip + area + {RDI}], rdi",
    "    mov [rip + area + {RSI}], rsi",
    "    mov [rip + area + {RDX}], rdx",
    "    mov [rip + area + {R10}], r10",
    "    mov [rip + area + {R8}], r8",
    "    mov [rip + area + {R9}], r9",
    "    mov r11, rcx",
    "hydra_exitless_ready:",
    "    mov dword ptr [rip + area + {STATE}], {ASKED}",
    "hydra_exitless_asked:",
    "    pause",
    "    mov ecx, [rip + area + {STATE}]",
    "    jrcxz hydra_exitless_done",
    "    lea rcx, [rcx - {LEAVE}]",
    "    jrcxz hydra_exitless_leave",
    "    lea r11, [r11 - 1]",
    "    mov rcx, r11",
    "    jrcxz 2f",
    "    jmp hydra_exitless_asked",
    "hydra_exitless_plain:",
    "    mov rcx, [rip + area + {RIP}]",
    "    out {port}, al",
    "    hlt",
    "hydra_exitless_plain_end:",
    "2:  mov ecx, [rip + area + {STATE}]",
    "    lea rcx, [rcx - {TAKEN}]",
    "    jrcxz 3f",
    "    mov ecx, {LEAVE}",
    "    xchg [rip + area + {STATE}], ecx",
    "hydra_exitless_withdrawn:",
    "    jrcxz hydra_exitless_done",
    "hydra_exitless_leave:",
    "    out {left_port}, al",
    "    hlt",
    // A call that is being served is over before long, sooner than an exit.
    "3:  mov r11d, 16",
    "    jmp hydra_exitless_asked",
    "hydra_exitless_done:",
    "    mov rax, [rip + area + {RAX}]",
    "    mov r11, [rip + area + {RFLAGS}]",
    "    mov rcx, [rip + area + {RIP}]",
    "    jmp rcx",
    "    hlt",
    "hydra_exitless_fault:",
    "    mov [rip + area + {ADDRESS}], rax",
    "    mov eax, [rip + area + {SPINS}]",
    "    test eax, eax",
    "    jz 6f",
    "    mov dword ptr [rip + area + {STATE}], {FAULTED}",
    "4:  pause",
    "    cmp dword ptr [rip + area + {STATE}], {ANSWERED}",
    "    je 7f",
    "    cmp dword ptr [rip + area + {STATE}], {LEAVE}",
    "    je 6f",
    "    dec eax",
    "    jnz 4b",
    "    cmp dword ptr [rip + area + {STATE}], {TAKEN}",
    "    jne 5f",
    "    mov eax, 16",
    "    jmp 4b",
    "5:  mov eax, {LEAVE}",
    "    xchg [rip + area + {STATE}], eax",
    "    test eax, eax",
    "    jz 7f",
    "6:  out {fault_port}, al",
    "    hlt",
    "7:  mov rax, [rip + area + {FAULT_FRAME}]",
    "    lea rsp, [rip + area + {FAULT_FRAME} + 16]",
    "    iretq",
    "    hlt",
    "hydra_exitless_end:",
    ".popsection",
    distance = const super::super::layout::EXITLESS_AREAS_ALIAS - EXITLESS_CODE_ALIAS,
    port = const super::super::layout::SYSCALL_PORT,
    left_port = const super::super::layout::EXITLESS_PORT,
    fault_port = const super::super::layout::FAULT_PORT,
    ANSWERED = const ANSWERED,
    FAULTED = const FAULTED,
    ADDRESS = const offset::ADDRESS,
    FAULT_FRAME = const offset::FAULT_FRAME,
    ASKED = const ASKED,
    TAKEN = const TAKEN,
    LEAVE = const LEAVE,
    STATE = const offset::STATE,
    SPINS = const offset::SPINS,
    RIP = const offset::RIP,
    RFLAGS = const offset::RFLAGS,
    RAX = const offset::RAX,
    RDI = const offset::RDI,
    RSI = const offset::RSI,
    RDX = const offset::RDX,
    R10 = const offset::R10,
    R8 = const offset::R8,
    R9 = const offset::R9,
);

unsafe extern "C" {
    static hydra_exitless_start: [u8; 0];
    static hydra_exitless_ready: [u8; 0];
    static hydra_exitless_asked: [u8; 0];
    static hydra_exitless_withdrawn: [u8; 0];
    static hydra_exitless_plain: [u8; 0];
    static hydra_exitless_plain_end: [u8; 0];
    static hydra_exitless_done: [u8; 0];
    static hydra_exitless_fault: [u8; 0];
    static hydra_exitless_end: [u8; 0];
}

/// Offset of a label from the entry's first instruction.
fn at(label: *const [u8; 0]) -> u64 {
    label as u64 - (&raw const hydra_exitless_start) as u64
}

/// Writes the entry of each vCPU that can have one.
pub(in super::super) fn install(memory: &GuestMemory) {
    let code = image((&raw const hydra_exitless_start).cast(), (&raw const hydra_exitless_end).cast());
    debug_assert!(code.len() as u64 <= EXITLESS_SIZE);
    for index in 0..EXITLESS_VCPUS as u64 {
        memory.write(EXITLESS_CODE + index * EXITLESS_SIZE, code);
    }
}

/// Where `syscall` enters on the vCPU with this number; `None` if it has no entry of its own.
pub(in super::super) fn address(index: usize) -> Option<u64> {
    (index < EXITLESS_VCPUS).then(|| EXITLESS_CODE_ALIAS + index as u64 * EXITLESS_SIZE)
}

/// Where a page fault enters ring 3 on the vCPU with this number, which has entries of its own, and with which stack pointer.
pub(in super::super) fn fault_entry(index: usize) -> (u64, u64) {
    let (index, frame) = (index as u64 * EXITLESS_SIZE, EXITLESS_AREAS_ALIAS + offset::FAULT_FRAME);
    (EXITLESS_CODE_ALIAS + at(&raw const hydra_exitless_fault) + index, frame + index)
}

/// Whether `rip` is in the entry of a page fault.
pub fn is_in_fault(rip: u64) -> bool {
    position(rip).is_some_and(|position| position >= at(&raw const hydra_exitless_fault))
}

/// Whether a vCPU at `rip` has the address of its page fault in `rax` alone: it stands before the first instruction of that entry.
pub(super) fn has_address_in_rax(rip: u64) -> bool {
    position(rip) == Some(at(&raw const hydra_exitless_fault))
}

/// Bytes from the first instruction of a vCPU's entries to `rip`, if that is in some.
fn position(rip: u64) -> Option<u64> {
    let from_first = rip.checked_sub(EXITLESS_CODE_ALIAS)?;
    let position = from_first % EXITLESS_SIZE;
    let is_in_some =
        from_first < EXITLESS_VCPUS as u64 * EXITLESS_SIZE && position < at(&raw const hydra_exitless_end);
    is_in_some.then_some(position)
}

/// Where in its system-call entry a vCPU stands: bytes from the first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position(u64);

/// What has become of the call there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It was not asked, and leaves.
    Before,
    /// It was asked; the entry has not seen the answer.
    Waiting,
    /// The entry has seen the answer.
    After,
}

impl Position {
    /// Where `rip` stands; `None` if that is in no such entry.
    pub fn of(rip: u64) -> Option<Position> {
        position(rip).filter(|position| *position < at(&raw const hydra_exitless_fault)).map(Position)
    }

    /// Where an entry leaves that was not answered.
    pub fn unanswered() -> Position {
        Position(at(&raw const hydra_exitless_asked))
    }

    /// What has become of the call; `rcx` is the vCPU's.
    pub fn stage(self, rcx: u64) -> Stage {
        let done = at(&raw const hydra_exitless_done);
        let has_withdrawn = self.0 == at(&raw const hydra_exitless_withdrawn);
        if self.0 < at(&raw const hydra_exitless_asked) || self.is_plain() {
            Stage::Before
        } else if self.0 >= done || has_withdrawn && rcx == u64::from(ANSWERED) {
            Stage::After
        } else {
            Stage::Waiting
        }
    }

    /// Whether the program's `rcx` is in the area.
    pub fn has_stored_rcx(self) -> bool {
        self.0 > 0
    }

    /// Whether the program's `r11` is in the area alone.
    pub fn has_lost_r11(self) -> bool {
        self.0 >= at(&raw const hydra_exitless_ready) && !self.is_plain()
    }

    /// Whether nobody polls.
    fn is_plain(self) -> bool {
        (at(&raw const hydra_exitless_plain)..at(&raw const hydra_exitless_plain_end)).contains(&self.0)
    }
}
