//! The vDSO: code and data that every program gets, with which it reads the clocks without a system call.
//!
//! The image is a minimal ELF shared object, written out below: one loadable segment, one dynamic section, a hash table with one
//! bucket, and version definitions, without which Go does not look at it. Before it lies the page of its data ([`Parameters`]).

use std::arch::global_asm;
use std::sync::atomic::{Ordering, fence};

use super::errno::Errno;
use super::kernel::Kernel;
use super::mm::{AddressSpace, Placement, Region};
use super::time::{Clock, Parameters};
use crate::vmm::{Access, FRAME_SIZE, Hypervisor, host_counter};

global_asm!(
    ".pushsection .rodata.hydra_vdso,\"a\",@progbits",
    ".balign 16",
    ".globl hydra_vdso_start, hydra_vdso_end",
    "hydra_vdso_start:",
    // ELF header: 64-bit, little-endian, shared object, x86-64, two program headers.
    ".byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".short 3, 62",
    ".long 1",
    ".quad 0, 64, 0",
    ".long 0",
    ".short 64, 56, 2, 0, 0, 0",
    // PT_LOAD, readable and executable, all of it.
    ".long 1, 5",
    ".quad 0, 0, 0, hydra_vdso_end - hydra_vdso_start, hydra_vdso_end - hydra_vdso_start, 0x1000",
    // PT_DYNAMIC.
    ".long 2, 4",
    ".quad 3f - hydra_vdso_start, 3f - hydra_vdso_start, 3f - hydra_vdso_start",
    ".quad 4f - 3f, 4f - 3f, 8",
    // Dynamic section: DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME, DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_NULL.
    ".balign 8",
    "3:",
    ".quad 4, 5f - hydra_vdso_start",
    ".quad 5, 7f - hydra_vdso_start",
    ".quad 6, 6f - hydra_vdso_start",
    ".quad 10, 8f - 7f",
    ".quad 11, 24",
    ".quad 14, 1",
    ".quad 0x6ffffff0, 9f - hydra_vdso_start",
    ".quad 0x6ffffffc, 10f - hydra_vdso_start",
    ".quad 0x6ffffffd, 2",
    ".quad 0, 0",
    "4:",
    // Hash table: one bucket, a chain through symbols 1 to 4.
    "5:",
    ".long 1, 5, 1, 0, 2, 3, 4, 0",
    // Symbols: name, global function, section (any but 0), value, size.
    "6:",
    ".zero 24",
    ".long 20f - 7f; .byte 0x12, 0; .short 1; .quad 30f - hydra_vdso_start, 31f - 30f",
    ".long 21f - 7f; .byte 0x12, 0; .short 1; .quad 31f - hydra_vdso_start, 32f - 31f",
    ".long 22f - 7f; .byte 0x12, 0; .short 1; .quad 32f - hydra_vdso_start, 33f - 32f",
    ".long 23f - 7f; .byte 0x12, 0; .short 1; .quad 33f - hydra_vdso_start, 34f - 33f",
    // The version of each symbol.
    "9:",
    ".short 0, 2, 2, 2, 2",
    // Version definitions, by name and its ELF hash: the object itself, and the one that the kernel's own has.
    ".balign 4",
    "10:",
    ".short 1, 1, 1, 1; .long 0xdeebfa1, 20, 28, 1, 0",
    ".short 1, 0, 2, 1; .long 0x3ae75f6, 20, 0, 24f - 7f, 0",
    "7:",
    ".byte 0",
    ".asciz \"linux-vdso.so.1\"",
    "20: .asciz \"__vdso_clock_gettime\"",
    "21: .asciz \"__vdso_gettimeofday\"",
    "22: .asciz \"__vdso_time\"",
    "23: .asciz \"__vdso_clock_getres\"",
    "24: .asciz \"LINUX_2.6\"",
    "8:",
    ".balign 16",
    // int clock_gettime(edi: clock, rsi: struct timespec *)
    "30:",
    "    cmp edi, 7",
    "    ja 2f",
    "    mov ecx, edi",
    "    mov eax, 0xd2", // CLOCK_MONOTONIC, _RAW, _MONOTONIC_COARSE, _BOOTTIME
    "    bt eax, ecx",
    "    mov r10d, 24",
    "    jc 1f",
    "    mov eax, 0x21", // CLOCK_REALTIME, _REALTIME_COARSE
    "    bt eax, ecx",
    "    mov r10d, 32",
    "    jnc 2f",
    "1:  call 40f",
    "    jc 2f",
    "    mov [rsi], rax",
    "    mov [rsi + 8], rdx",
    "    xor eax, eax",
    "    ret",
    "2:  mov eax, 228",
    "    syscall",
    "    ret",
    ".balign 16",
    // int gettimeofday(rdi: struct timeval *, rsi: struct timezone *)
    "31:",
    "    test rsi, rsi",
    "    jnz 2f",
    "    test rdi, rdi",
    "    jz 2f",
    "    mov r10d, 32",
    "    call 40f",
    "    jc 2f",
    "    mov [rdi], rax",
    "    mov rax, rdx",
    "    xor edx, edx",
    "    mov ecx, 1000",
    "    div rcx",
    "    mov [rdi + 8], rax",
    "    xor eax, eax",
    "    ret",
    "2:  mov eax, 96",
    "    syscall",
    "    ret",
    ".balign 16",
    // time_t time(rdi: time_t *)
    "32:",
    "    mov r10d, 32",
    "    call 40f",
    "    jc 2f",
    "    test rdi, rdi",
    "    jz 1f",
    "    mov [rdi], rax",
    "1:  ret",
    "2:  mov eax, 201",
    "    syscall",
    "    ret",
    ".balign 16",
    // int clock_getres(edi: clock, rsi: struct timespec *)
    "33:",
    "    mov eax, 229",
    "    syscall",
    "    ret",
    "34:",
    ".balign 16",
    // The clock whose base is at offset r10 of the parameters: seconds in rax, nanoseconds in rdx. Carry set: not available.
    // Uses rcx, r8, r9, r11.
    "40:",
    "    lea r8, [rip + hydra_vdso_start - 0x1000]",
    "41: mov r9d, [r8]",
    "    test r9d, 1",
    "    jnz 42f",
    "    cmp dword ptr [r8 + 4], 0",
    "    je 43f",
    "    lfence",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    xor ecx, ecx",
    "    sub rax, [r8 + 8]",
    "    cmovb rax, rcx",
    "    mul qword ptr [r8 + 16]",
    "    shrd rax, rdx, 32",
    "    add rax, [r8 + r10]",
    "    cmp r9d, [r8]",
    "    jne 41b",
    "    xor edx, edx",
    "    mov ecx, 1000000000",
    "    div rcx",
    "    clc",
    "    ret",
    "42: pause",
    "    jmp 41b",
    "43: stc",
    "    ret",
    "hydra_vdso_end:",
    ".popsection",
);

unsafe extern "C" {
    static hydra_vdso_start: [u8; 0];
    static hydra_vdso_end: [u8; 0];
}

fn image() -> &'static [u8] {
    let (start, end) = ((&raw const hydra_vdso_start).cast::<u8>(), (&raw const hydra_vdso_end).cast::<u8>());
    // SAFETY: both labels are in one read-only section, `end` after `start`, and live as long as the program.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// Name of the region that holds the data.
const DATA: &str = "[vvar]";

/// Maps data and code; returns the address of the image.
pub fn map(space: &mut AddressSpace) -> Result<u64, Errno> {
    let data = space.place(Placement::Hint(0), 2 * FRAME_SIZE)?;
    let code = data + FRAME_SIZE;
    space.map(Placement::FixedFree(data), FRAME_SIZE, |end| Region::zero(end, Access::READ, DATA))?;
    let access = Access::READ | Access::EXECUTE;
    space.map(Placement::FixedFree(code), FRAME_SIZE, |end| Region::zero(end, access, "[vdso]"))?;
    space.poke(code, image())?;
    space.poke(data, &Parameters::measure(&Clock::default(), 0).to_bytes())?;
    Ok(code)
}

/// Where the data is; `None` if the program has unmapped it.
fn data(space: &AddressSpace) -> Option<u64> {
    space.regions().find(|(_, region)| region.label == DATA).map(|(start, _)| start)
}

fn read(space: &mut AddressSpace, data: u64) -> Result<Parameters, Errno> {
    let mut bytes = [0; size_of::<Parameters>()];
    space.peek(data, &mut bytes)?;
    Ok(Parameters::from_bytes(&bytes))
}

/// Puts the data of a restored program right: counter and clocks have moved on. A thread that was stopped in the middle of reading
/// them sees by the sequence number that it must read again.
pub fn refresh(space: &mut AddressSpace, clock: &Clock) -> Result<(), Errno> {
    let Some(data) = data(space) else { return Ok(()) };
    let next = (read(space, data)?.sequence() | 1).wrapping_add(1);
    space.poke(data, &Parameters::measure(clock, next).to_bytes())
}

/// Puts the data of a running program right: the host's clocks do not go at the counter's rate to the millionth, and are set.
fn renew(space: &mut AddressSpace, clock: &Clock) -> Result<(), Errno> {
    let Some(data) = data(space) else { return Ok(()) };
    let old = read(space, data)?;
    let odd = old.sequence() | 1;
    space.poke(data, &odd.to_le_bytes())?;
    // From here on to the end nobody reads: no thread has seen a later time than these parameters show at the counter that is read now.
    fence(Ordering::SeqCst);
    let new = old.renewed(clock, odd).to_bytes();
    space.poke(data, &new)?;
    fence(Ordering::SeqCst);
    space.poke(data, &odd.wrapping_add(1).to_le_bytes())
}

impl Kernel {
    /// Puts the data of the vDSO right if that was not done within the last second. Called where a thread is served anyway, so that a program
    /// that sleeps is not woken for it.
    pub fn keep_clocks(&self) {
        let counter = host_counter();
        if counter < self.clocks_due.load(Ordering::Relaxed) {
            return;
        }
        let hypervisor = self.vm.as_ref().and_then(|_| Hypervisor::get().ok());
        let kilohertz = hypervisor.and_then(Hypervisor::counter_kilohertz);
        let due = kilohertz.map_or(u64::MAX, |kilohertz| counter.saturating_add(u64::from(kilohertz) * 1000));
        self.clocks_due.store(due, Ordering::Relaxed);
        if kilohertz.is_some()
            && let Err(errno) = renew(&mut self.mm(), &self.clock)
        {
            // The program has made the page unreadable: it does not use it.
            tracing::debug!(errno = errno.name(), "the data of the vDSO was not renewed");
        }
    }
}

const _: () = assert!(size_of::<Parameters>() == 40);

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    use super::super::time::SECOND;
    use super::*;
    use crate::vmm::GuestMemory;

    #[test]
    fn the_data_of_a_running_program_is_put_right() {
        let (clock, memory) = (Clock::default(), Arc::new(GuestMemory::new(16 << 20).expect("memory")));
        let mut space = AddressSpace::new(memory);
        map(&mut space).expect("a vDSO");
        let at = data(&space).expect("its data");
        if Parameters::measure(&clock, 0) == Parameters::default() {
            return eprintln!("skipped: the guest's counter cannot be used here");
        }
        const SEQUENCE: usize = 0;
        const MONOTONIC: usize = 24;
        const REALTIME: usize = 32;
        let word = |space: &mut AddressSpace, offset: usize| {
            let mut bytes = [0; 8];
            space.peek(at + offset as u64, &mut bytes).expect("the data");
            u64::from_le_bytes(bytes)
        };
        for wrong in [-(SECOND as i64), SECOND as i64] {
            let before = clock.monotonic();
            let shown = word(&mut space, MONOTONIC).wrapping_add_signed(wrong);
            for offset in [MONOTONIC, REALTIME] {
                space.poke(at + offset as u64, &shown.to_le_bytes()).expect("written");
            }
            let sequence = word(&mut space, SEQUENCE) as u32;
            renew(&mut space, &clock).expect("renewed");
            assert_eq!(word(&mut space, SEQUENCE) as u32, sequence + 2);
            let now = word(&mut space, MONOTONIC);
            assert!(now >= shown && now >= before, "{now} after {shown}, at {before}");
            assert!(wrong > 0 || now <= clock.monotonic());
            let real = word(&mut space, REALTIME);
            assert!(clock.realtime().abs_diff(real) < 3600 * SECOND, "{real}");
        }
        let end = at + FRAME_SIZE;
        space.unmap(at, end).expect("unmapped");
        assert_eq!(renew(&mut space, &clock), Ok(()));
    }

    #[test]
    fn the_dynamic_linker_takes_the_image_and_finds_its_functions() {
        let image = image();
        assert!(image.len() <= 4096);
        let file = rustix::fs::memfd_create("vdso", rustix::fs::MemfdFlags::empty()).expect("a file");
        rustix::io::write(&file, image).expect("the image is written");
        let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a path");
        // SAFETY: the library has no initialisers; none of its functions is called.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        for name in [c"__vdso_clock_gettime", c"__vdso_gettimeofday", c"__vdso_time", c"__vdso_clock_getres"]
        {
            // SAFETY: the handle is valid and both names end with a zero.
            let found = unsafe { libc::dlvsym(library, name.as_ptr(), c"LINUX_2.6".as_ptr()) };
            assert!(!found.is_null(), "{name:?}");
        }
    }
}
