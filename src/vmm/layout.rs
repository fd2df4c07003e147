//! Where things lie: guest-physical memory from 0, and the part of guest-virtual memory that is not the program's.

/// Global descriptor table.
pub const GDT: u64 = 0x1000;
/// Interrupt descriptor table: 32 gates of 16 bytes.
pub const IDT: u64 = 0x2000;
/// The same for vCPUs whose page faults can be answered without an exit.
pub const EXITLESS_IDT: u64 = IDT + IDT_BYTES;
/// Bytes of such a table.
pub const IDT_BYTES: u64 = 32 * 16;
/// Ring-0 code: exception entries and the return to ring 3.
pub const RING0_CODE: u64 = 0x3000;
/// The system-call entry, in a page of its own: on some KVMs ring 3 executes it (see [`super::ring0`]).
pub const SYSCALL_CODE: u64 = 0x4000;
/// Root of the page tables (PML4).
pub const PAGE_ROOT: u64 = 0x5000;
/// Lower page tables of the ring-0 window: one each of PDPT, page directory, page table.
pub const WINDOW_TABLES: [u64; 3] = [0x6000, 0x7000, 0x8000];
/// Lower page tables of [`SYSCALL_ALIAS`].
pub const ALIAS_TABLES: [u64; 3] = [0x9000, 0xa000, 0xb000];
/// The system-call entries of [`super::exitless`], one for each vCPU that has one.
pub const EXITLESS_CODE: u64 = 0xc000;
/// From here to [`FIRST_FRAME`] lies what vCPUs use while they run; no image holds it.
pub const VCPU_AREA: u64 = 0x1_0000;
/// Where those entries ask, one area for each.
pub const EXITLESS_AREAS: u64 = VCPU_AREA;
/// Bytes of such an entry, and of such an area.
pub const EXITLESS_SIZE: u64 = 0x140;
/// vCPUs that have one.
pub const EXITLESS_VCPUS: usize = (EXITLESS_BYTES / EXITLESS_SIZE) as usize;
/// Bytes of all entries, and of all areas.
pub const EXITLESS_BYTES: u64 = VCPU_AREA - EXITLESS_CODE;
/// The frames by which ring 0 takes page faults to those entries, one for each, as far from each other as the areas. Ring 3 does not see them.
pub const EXITLESS_FRAMES: u64 = EXITLESS_AREAS + EXITLESS_BYTES;
/// One page for each vCPU: its task state segment at the start, its kernel stack at the end.
pub const VCPU_PAGES: u64 = EXITLESS_FRAMES + EXITLESS_BYTES;
/// Most vCPUs of a VM: what fits between [`VCPU_PAGES`] and [`FIRST_FRAME`].
pub const MAX_VCPUS: usize = ((FIRST_FRAME - VCPU_PAGES) / 0x1000) as usize;
/// From here on guest RAM is handed out by [`super::Frames`]. What is below is the 2 MiB that the ring-0 window shows.
pub const FIRST_FRAME: u64 = 0x20_0000;

/// Guest-virtual address of the ring-0 window, which shows guest-physical 0 to [`FIRST_FRAME`], to ring 0 only.
pub const WINDOW: u64 = 0xffff_8880_0000_0000;
/// Second, user-executable, read-only mapping of [`SYSCALL_CODE`]: the page after the last one that Linux lets a program have.
pub const SYSCALL_ALIAS: u64 = 0x7fff_ffff_f000;
/// User-executable, read-only mapping of [`EXITLESS_CODE`].
pub const EXITLESS_CODE_ALIAS: u64 = EXITLESS_AREAS_ALIAS - EXITLESS_BYTES;
/// User-writable mapping of [`EXITLESS_AREAS`].
pub const EXITLESS_AREAS_ALIAS: u64 = SYSCALL_ALIAS - EXITLESS_BYTES;
/// End of the addresses that a program can map: 32 KiB below Linux's with four-level paging.
pub const USER_END: u64 = EXITLESS_CODE_ALIAS;

/// Selectors, as Linux has them.
pub mod selector {
    /// Ring-0 code.
    pub const KERNEL_CODE: u16 = 0x10;
    /// Ring-0 data.
    pub const KERNEL_DATA: u16 = 0x18;
    /// Ring-3 code of 32 bits; `sysret` counts from it.
    pub const USER_CODE_32: u16 = 0x23;
    /// Ring-3 data.
    pub const USER_DATA: u16 = 0x2b;
    /// Ring-3 code.
    pub const USER_CODE: u16 = 0x33;
    /// Task state segment.
    pub const TASK: u16 = 0x38;
}

/// Flags that `syscall` clears, by the model-specific register FMASK: trap, direction, I/O privilege, nested task, alignment check. There are
/// no interrupts.
pub const SYSCALL_CLEARS: u64 = 0x4_7500;
/// I/O port by which the system-call entry leaves the VM.
pub const SYSCALL_PORT: u16 = 0x10;
/// I/O port by which an entry leaves the VM that has asked in vain.
pub const EXITLESS_PORT: u16 = 0x12;
/// I/O port by which such an entry leaves the VM with a page fault.
pub const FAULT_PORT: u16 = 0x13;
/// I/O port by which the entry of 32-bit code's `syscall` leaves the VM.
pub const COMPAT_PORT: u16 = 0x11;
/// I/O port of exception 0; exception `n` has port `EXCEPTION_PORT + n`.
pub const EXCEPTION_PORT: u16 = 0x20;

const _: () = assert!(SYSCALL_ALIAS >= USER_END && MAX_VCPUS >= 256);
