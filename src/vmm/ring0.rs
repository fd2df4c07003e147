//! What ring 0 holds: descriptor tables, and a few instructions that turn a system call or an exception into a VM exit.
//!
//! The code keeps no state and makes no decisions. An exception entry leaves the VM by an `out` to the port of its vector, with the
//! CPU's exception frame on the kernel stack; a page fault has also pushed `rax` and put the faulting address there. The host
//! reads the frame at once. The way back to ring 3 is a fresh frame and one `iretq`.
//!
//! The system-call entry is a page of its own. On hardware it runs in ring 0. A KVM that emulates ring 0 enters it in
//! ring 3: the page is then executed through a user mapping, and the task's I/O bitmap allows its one port. A program can
//! issue that `out` itself; it is worth no more than the system call that it could make anyway.
//!
//! There a page fault goes on in ring 3 too, where it may be answered without an exit ([`exitless`]): the CPU's frame is in the vCPU's area,
//! and ring 0 returns at once, by a frame that ring 3 does not see.

use std::arch::global_asm;

use super::exitless;
use super::kvm::Sort;
use super::layout::{self, selector};
use super::memory::GuestMemory;
use super::paging::{FixedPage, map_fixed};

/// Bytes between two exception entries.
const ENTRY_SIZE: u64 = 16;
const VECTORS: u64 = 32;
const PAGE_FAULT: u64 = 14;
/// The instruction `hlt`, which ring 3 cannot execute.
pub(super) const HALT: u8 = 0xf4;
/// Flags of ring 3 at the entry of a page fault: only that which is always set, and interrupts.
const FLAGS: u64 = 0x202;

global_asm!(
    ".pushsection .rodata.hydra_ring0,\"a\",@progbits",
    ".balign 16",
    ".globl hydra_ring0_start, hydra_ring0_return, hydra_ring0_compat, hydra_ring0_fault, hydra_ring0_end",
    ".globl hydra_syscall_start, hydra_syscall_end",
    "hydra_ring0_start:",
    "vector = 0",
    ".rept 32",
    "  .balign 16",
    "  .if vector == 14",
    "    push rax",
    "    mov rax, cr2",
    "  .endif",
    "    out 0x20 + vector, al",
    "    hlt",
    "  vector = vector + 1",
    ".endr",
    ".balign 16",
    "hydra_ring0_return:",
    "    iretq",
    "    hlt",
    ".balign 16",
    "hydra_ring0_compat:",
    "    out 0x11, al",
    "    hlt",
    ".balign 16",
    "hydra_ring0_fault:",
    "    push rax",
    "    mov rax, cr2",
    "    lea rsp, [rsp + {to_frame}]",
    "    iretq",
    "    hlt",
    "hydra_ring0_end:",
    ".balign 16",
    "hydra_syscall_start:",
    "    out 0x10, al",
    "    hlt",
    "hydra_syscall_end:",
    ".popsection",
    to_frame = const layout::EXITLESS_FRAMES - layout::EXITLESS_AREAS - exitless::FAULT_FRAME,
);

unsafe extern "C" {
    static hydra_ring0_start: [u8; 0];
    static hydra_ring0_return: [u8; 0];
    static hydra_ring0_compat: [u8; 0];
    static hydra_ring0_fault: [u8; 0];
    static hydra_ring0_end: [u8; 0];
    static hydra_syscall_start: [u8; 0];
    static hydra_syscall_end: [u8; 0];
}

/// The bytes between two labels of the assembly above.
pub(super) fn image(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both labels are in one read-only section, `end` after `start`, and live as long as the program.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// Guest-virtual address of a guest-physical address below [`layout::FIRST_FRAME`], as ring 0 sees it.
pub(super) const fn window(physical: u64) -> u64 {
    layout::WINDOW + physical
}

/// Guest-virtual address of a label in the ring-0 code.
fn in_window(label: *const [u8; 0]) -> u64 {
    window(layout::RING0_CODE) + (label as u64 - (&raw const hydra_ring0_start) as u64)
}

/// Where ring 0 is entered to return to ring 3.
pub(super) fn return_address() -> u64 {
    in_window(&raw const hydra_ring0_return)
}

/// Where `syscall` of 32-bit code enters ring 0: the guest's Linux serves no such calls, and takes it for an invalid instruction.
pub(super) fn compat_entry() -> u64 {
    in_window(&raw const hydra_ring0_compat)
}

/// Whether `rip` lies in the ring-0 window, where ring 3 cannot execute.
pub(super) fn is_ring0(rip: u64) -> bool {
    (layout::WINDOW..layout::WINDOW + layout::FIRST_FRAME).contains(&rip)
}

/// Guest-physical page of the vCPU with this number.
fn vcpu_page(index: usize) -> u64 {
    layout::VCPU_PAGES + 0x1000 * index as u64
}

/// Guest-physical address of the end of a vCPU's kernel stack.
pub(super) fn stack_end(index: usize) -> u64 {
    vcpu_page(index) + 0x1000
}

/// Guest-virtual address of a vCPU's task state segment.
pub(super) fn task_segment(index: usize) -> u64 {
    window(vcpu_page(index))
}

/// Guest-virtual address of the interrupt descriptor table of the vCPU with this number.
pub(super) fn descriptor_table(index: usize, sort: Sort) -> u64 {
    window(if has_fault_entry(index, sort) { layout::EXITLESS_IDT } else { layout::IDT })
}

/// Whether page faults of the vCPU with this number go to its [`exitless`] entry.
fn has_fault_entry(index: usize, sort: Sort) -> bool {
    sort == Sort::Emulated && exitless::address(index).is_some()
}

/// Offset of the first entry of the interrupt stack table in the task state segment.
const INTERRUPT_STACK: usize = 0x24;
/// Offset of the I/O permission bitmap in the task state segment.
const IO_BITMAP: usize = 0x68;
/// The bitmap: the clear bits are those of [`layout::SYSCALL_PORT`], [`layout::EXITLESS_PORT`] and [`layout::FAULT_PORT`]; ports past its
/// end are forbidden.
const IO_BITMAP_BYTES: [u8; 4] = [0xff, 0xff, 0xf2, 0xff];
/// Last byte of the task state segment.
pub(super) const TASK_LIMIT: u32 = (IO_BITMAP + IO_BITMAP_BYTES.len() - 1) as u32;

/// Writes descriptor tables, code and the page tables of the ring-0 window into zeroed guest RAM.
pub(super) fn install(memory: &GuestMemory) {
    use layout::{GDT, IDT, RING0_CODE, SYSCALL_CODE};
    let code = image((&raw const hydra_ring0_start).cast(), (&raw const hydra_ring0_end).cast());
    let syscall = image((&raw const hydra_syscall_start).cast(), (&raw const hydra_syscall_end).cast());
    memory.write(RING0_CODE, code);
    memory.write(SYSCALL_CODE, &[HALT; 4096]);
    memory.write(SYSCALL_CODE, syscall);

    let descriptors: [(u16, u64); 5] = [
        (selector::KERNEL_CODE, 0x00af_9b00_0000_ffff),
        (selector::KERNEL_DATA, 0x00cf_9300_0000_ffff),
        (selector::USER_CODE_32, 0x00cf_fb00_0000_ffff),
        (selector::USER_DATA, 0x00cf_f300_0000_ffff),
        (selector::USER_CODE, 0x00af_fb00_0000_ffff),
    ];
    for (selector, descriptor) in descriptors {
        memory.store(GDT + u64::from(selector & !7), descriptor);
    }
    for vector in 0..VECTORS {
        // Only the breakpoint and overflow gates can be called by an instruction of ring 3.
        let level: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let target = window(RING0_CODE) + ENTRY_SIZE * vector;
        // A stack of its own, so that also a fault in ring 0 is where it is looked for, and not where the program's stack pointer was.
        let (entry, exitless) = match vector {
            PAGE_FAULT => (gate(target, 0, 1), gate(in_window(&raw const hydra_ring0_fault), 0, 1)),
            _ => (gate(target, level, 0), gate(target, level, 0)),
        };
        for (table, [low, high]) in [(IDT, entry), (layout::EXITLESS_IDT, exitless)] {
            memory.store(table + 16 * vector, low);
            memory.store(table + 16 * vector + 8, high);
        }
    }

    let map = |physical, page| map_fixed(memory, layout::WINDOW_TABLES, window(physical), physical, page);
    map(GDT, FixedPage::KernelData);
    map(IDT, FixedPage::KernelData);
    map(RING0_CODE, FixedPage::KernelCode);
    map(SYSCALL_CODE, FixedPage::KernelCode);
    for index in 0..layout::MAX_VCPUS {
        map(vcpu_page(index), FixedPage::KernelData);
    }
    for page in (0..layout::EXITLESS_BYTES).step_by(0x1000) {
        map(layout::EXITLESS_AREAS + page, FixedPage::KernelData);
        map(layout::EXITLESS_FRAMES + page, FixedPage::KernelData);
    }
    let alias = |physical, address, page| map_fixed(memory, layout::ALIAS_TABLES, address, physical, page);
    alias(SYSCALL_CODE, layout::SYSCALL_ALIAS, FixedPage::UserCode);
    exitless::install(memory);
    for page in (0..layout::EXITLESS_BYTES).step_by(0x1000) {
        alias(layout::EXITLESS_CODE + page, layout::EXITLESS_CODE_ALIAS + page, FixedPage::UserCode);
        alias(layout::EXITLESS_AREAS + page, layout::EXITLESS_AREAS_ALIAS + page, FixedPage::UserData);
    }
}

/// An interrupt gate to `target`, which instructions of ring `level` and below may call, by entry `stack` of the interrupt stack table (0: none).
fn gate(target: u64, level: u64, stack: u64) -> [u64; 2] {
    let low = target & 0xffff
        | u64::from(selector::KERNEL_CODE) << 16
        | (0x8e00 | level << 13 | stack) << 32
        | (target >> 16 & 0xffff) << 48;
    [low, target >> 32]
}

/// Writes the task state segment of a vCPU, by which ring 3 may use the ports that are its own on this sort of KVM, and the frame that
/// takes its page faults to ring 3.
pub(super) fn install_task(memory: &GuestMemory, index: usize, sort: Sort) {
    let page = vcpu_page(index);
    let mut task = [0u8; IO_BITMAP + IO_BITMAP_BYTES.len()];
    task[4..12].copy_from_slice(&window(stack_end(index)).to_le_bytes());
    // A bitmap that starts past the segment's end forbids every port.
    let bitmap = if sort == Sort::Emulated { IO_BITMAP as u16 } else { 0xffff };
    task[0x66..0x68].copy_from_slice(&bitmap.to_le_bytes());
    task[IO_BITMAP..].copy_from_slice(&IO_BITMAP_BYTES);
    let mut fault_stack = stack_end(index);
    if has_fault_entry(index, sort) {
        fault_stack = exitless::area(index) + layout::EXITLESS_SIZE;
        let at = layout::EXITLESS_FRAMES + layout::EXITLESS_SIZE * index as u64;
        let (rip, rsp) = exitless::fault_entry(index);
        store_return_frame(memory, at, rip, FLAGS, rsp);
    }
    task[INTERRUPT_STACK..INTERRUPT_STACK + 8].copy_from_slice(&window(fault_stack).to_le_bytes());
    memory.write(page, &task);
}

/// What an exception entry left for the host.
pub(super) struct ExceptionFrame {
    /// Error code, 0 for vectors without one.
    pub error: u64,
    /// Address of a page fault, else 0.
    pub address: u64,
    /// Value of `rax` in ring 3.
    pub rax: u64,
    /// Where it happened, and with which flags and stack.
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
}

/// Reads the frame of `vector` from the kernel stack of vCPU `index`, whose registers were `rax` and `rsp` at the exit. `None` if
/// the stack pointer is not where this entry leaves it.
pub(super) fn read_frame(
    memory: &GuestMemory,
    index: usize,
    vector: u8,
    rax: u64,
    rsp: u64,
) -> Option<ExceptionFrame> {
    let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    let page_fault = u64::from(vector) == PAGE_FAULT;
    let words = 5 + u64::from(has_error) + u64::from(page_fault);
    // The CPU aligns the stack to 16 bytes before it pushes five words.
    let frame = stack_end(index) - 8 * words;
    if rsp != window(frame) {
        return None;
    }
    let word = |i: u64| memory.load(stack_end(index) - 8 * i);
    Some(ExceptionFrame {
        error: if has_error { word(6) } else { 0 },
        address: if page_fault { rax } else { 0 },
        rax: if page_fault { word(7) } else { rax },
        rip: word(5),
        cs: word(4),
        rflags: word(3),
        rsp: word(2),
    })
}

/// Writes the frame that takes `iretq` to ring 3 at `rip` on the kernel stack of vCPU `index`; returns the stack pointer.
pub(super) fn write_return_frame(memory: &GuestMemory, index: usize, rip: u64, rflags: u64, rsp: u64) -> u64 {
    let frame = stack_end(index) - 40;
    store_return_frame(memory, frame, rip, rflags, rsp);
    window(frame)
}

fn store_return_frame(memory: &GuestMemory, at: u64, rip: u64, rflags: u64, rsp: u64) {
    let words = [rip, u64::from(selector::USER_CODE), rflags, rsp, u64::from(selector::USER_DATA)];
    for (i, word) in words.into_iter().enumerate() {
        memory.store(at + 8 * i as u64, word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_where_the_gates_point() {
        let code = image((&raw const hydra_ring0_start).cast(), (&raw const hydra_ring0_end).cast());
        for vector in 0..VECTORS as usize {
            let entry = &code[vector * ENTRY_SIZE as usize..];
            let out = if vector as u64 == PAGE_FAULT { &entry[4..6] } else { &entry[..2] };
            assert_eq!(out, [0xe6, layout::EXCEPTION_PORT as u8 + vector as u8], "vector {vector}");
        }
        let syscall = image((&raw const hydra_syscall_start).cast(), (&raw const hydra_syscall_end).cast());
        assert_eq!(syscall, [0xe6, layout::SYSCALL_PORT as u8, 0xf4]);
    }
}
