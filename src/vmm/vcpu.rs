//! One virtual CPU: entering ring 3 and coming back.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use kvm_bindings::{Msrs, kvm_device_attr, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use super::error::VmmError;
use super::kvm::{Hypervisor, Sort};
use super::layout::{self, selector};
use super::memory::GuestMemory;
use super::ring0;
use super::state::{ExtendedState, UserRegs, Xsave, XsaveLayout};
use super::vm::Vm;

/// Why a vCPU came back from ring 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The program made a system call. Its registers are as Linux's entry sees them, with `rip` after the instruction.
    Syscall,
    /// The program raised an exception.
    Exception {
        /// The CPU's number of the exception: 14 is a page fault.
        vector: u8,
        /// The CPU's error code, 0 where there is none.
        error: u64,
        /// The address of a page fault, else 0.
        address: u64,
    },
    /// [`Kick::kick`] was called, or a host signal arrived.
    Kicked,
}

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; `kvm-ioctls` has it for other architectures only.
const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;

/// Times that a spurious "bad address" of `KVM_RUN` is tried again: another thread may be changing the host mapping.
const RETRIES: u32 = 1000;

/// In which ring the vCPU stands between two entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ring {
    Kernel,
    User,
}

/// A virtual CPU. Used by one host thread at a time.
pub struct Vcpu {
    fd: VcpuFd,
    index: usize,
    sort: Sort,
    xsave: XsaveLayout,
    cr4: u64,
    ring: Ring,
    memory: Arc<GuestMemory>,
    kick: Arc<KickState>,
}

struct KickState {
    /// Address of `immediate_exit` in the mapped `kvm_run`, 0 once the vCPU is gone.
    immediate_exit: AtomicU64,
    /// Host thread that runs the vCPU, 0 while none does.
    thread: AtomicU64,
}

/// Makes a vCPU leave ring 3 soon, from any host thread.
#[derive(Clone)]
pub struct Kick(Arc<KickState>);

impl Kick {
    /// The next or current [`Vcpu::enter`] returns [`Exit::Kicked`] soon, or another exit that happened before.
    pub fn kick(&self) {
        let flag = self.0.immediate_exit.load(Ordering::Acquire);
        if flag == 0 {
            return;
        }
        // SAFETY: the address is that of a byte in the vCPU's `kvm_run` mapping; the drop of the vCPU sets it to 0 before it
        // unmaps, and a `Kick` is only used while its VM's vCPUs live (the scheduler drops them last).
        let flag = unsafe { AtomicU8::from_ptr(flag as *mut u8) };
        flag.store(1, Ordering::Release);
        let thread = self.0.thread.load(Ordering::Acquire);
        if thread != 0 {
            // SAFETY: plain system call; a thread that ended in between makes it fail, which is harmless.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread as libc::pid_t, signal()) };
        }
    }
}

/// The host signal that interrupts `KVM_RUN`. Its handler does nothing: the flag in `kvm_run` does the work.
fn signal() -> i32 {
    libc::SIGRTMIN()
}

/// Installs the handler of [`signal`] for the process.
fn install_signal() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is valid; the handler touches nothing. No SA_RESTART: KVM_RUN must return.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(signal(), &action, std::ptr::null_mut());
        }
    });
}

impl Vcpu {
    pub(super) fn create(hypervisor: &Hypervisor, vm: &Vm) -> Result<Vcpu, VmmError> {
        install_signal();
        let index = vm.next_vcpu()?;
        let mut fd = vm.fd.create_vcpu(index as u64).map_err(VmmError::kvm("create a vCPU"))?;
        fd.set_cpuid2(&hypervisor.cpuid).map_err(VmmError::kvm("set a vCPU's CPUID"))?;
        let mut xcrs = fd.get_xcrs().map_err(VmmError::kvm("read XCR0"))?;
        xcrs.nr_xcrs = 1;
        xcrs.xcrs[0].xcr = 0;
        xcrs.xcrs[0].value = hypervisor.xsave.features;
        // CR4.OSXSAVE first: KVM refuses XCR0 without it on some hosts.
        ring0::install_task(vm.memory(), index, hypervisor.sort == Sort::Emulated);
        fd.set_sync_valid_reg(SyncReg::Register);
        let flag = &raw mut fd.get_kvm_run().immediate_exit as u64;
        let kick = KickState { immediate_exit: AtomicU64::new(flag), thread: AtomicU64::new(0) };
        let mut vcpu = Vcpu {
            fd,
            index,
            sort: hypervisor.sort,
            xsave: hypervisor.xsave,
            cr4: hypervisor.cr4,
            ring: Ring::User,
            memory: Arc::clone(vm.memory()),
            kick: Arc::new(kick),
        };
        vcpu.reset_segments(0, 0)?;
        vcpu.fd.set_xcrs(&xcrs).map_err(VmmError::kvm("set XCR0"))?;
        vcpu.set_msrs()?;
        vcpu.share_counter();
        Ok(vcpu)
    }

    /// Makes the time stamp counter the host's, where KVM virtualises it. The probe finds out whether it worked.
    fn share_counter(&self) {
        /// `KVM_VCPU_TSC_CTRL` and its attribute `KVM_VCPU_TSC_OFFSET`.
        const GROUP: u32 = 0;
        const OFFSET: u64 = 0;
        let zero = 0u64;
        let attribute =
            kvm_device_attr { group: GROUP, attr: OFFSET, addr: &raw const zero as u64, flags: 0 };
        // SAFETY: KVM reads 8 bytes at the address, which outlives the call.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
    }

    /// Rate of the time stamp counter in kHz.
    pub(super) fn counter_kilohertz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|rate| *rate > 0)
    }

    fn set_msrs(&mut self) -> Result<(), VmmError> {
        const STAR: u32 = 0xc000_0081;
        const LSTAR: u32 = 0xc000_0082;
        const FMASK: u32 = 0xc000_0084;
        /// Flags cleared at system-call entry: trap, interrupt, direction, I/O privilege, nested task, alignment check.
        const MASKED: u64 = 0x4_7700;
        let entry = match self.sort {
            Sort::Hardware => ring0::window(layout::SYSCALL_CODE),
            Sort::Emulated => layout::SYSCALL_ALIAS,
        };
        let segments = u64::from(selector::USER_CODE_32) << 48 | u64::from(selector::KERNEL_CODE) << 32;
        let entries = [(STAR, segments), (LSTAR, entry), (FMASK, MASKED)]
            .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let msrs = Msrs::from_entries(&entries).map_err(|_| VmmError::Lacks("room for three registers"))?;
        match self.fd.set_msrs(&msrs).map_err(VmmError::kvm("set the system-call registers"))? {
            3 => Ok(()),
            _ => Err(VmmError::Lacks("the system-call registers")),
        }
    }

    /// Puts the vCPU into ring 3 with flat segments.
    fn reset_segments(&mut self, fs_base: u64, gs_base: u64) -> Result<(), VmmError> {
        let mut sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        let data = segment(selector::USER_DATA, 3, false);
        sregs.cs = segment(selector::USER_CODE, 11, true);
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.fs.base = fs_base;
        sregs.gs.base = gs_base;
        sregs.tr = kvm_segment {
            base: ring0::task_segment(self.index),
            limit: ring0::TASK_LIMIT,
            selector: selector::TASK,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        sregs.gdt.base = ring0::window(layout::GDT);
        sregs.gdt.limit = 0x37;
        sregs.idt.base = ring0::window(layout::IDT);
        sregs.idt.limit = 0x1ff;
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = layout::PAGE_ROOT;
        sregs.cr4 = self.cr4;
        sregs.efer = 0xd01;
        self.fd.set_sregs(&sregs).map_err(VmmError::kvm("set a vCPU's segments"))?;
        self.ring = Ring::User;
        Ok(())
    }

    /// Gives the vCPU the state of a thread that last ran elsewhere.
    pub fn load(&mut self, state: &ExtendedState) -> Result<(), VmmError> {
        self.settle();
        self.reset_segments(state.fs_base, state.gs_base)?;
        self.set_xsave(&state.xsave)?;
        Ok(())
    }

    /// Takes the state of the thread that ran last out of the vCPU.
    pub fn save(&mut self) -> Result<ExtendedState, VmmError> {
        self.settle();
        let (fs_base, gs_base) = self.bases()?;
        Ok(ExtendedState { fs_base, gs_base, xsave: self.xsave()? })
    }

    /// Completes the exit before. One by `out` is completed by the next entry, and would change the next thread's registers.
    fn settle(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Bases of FS and GS.
    pub fn bases(&self) -> Result<(u64, u64), VmmError> {
        let sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        Ok((sregs.fs.base, sregs.gs.base))
    }

    /// Changes the bases of FS and GS, those that are given.
    pub fn set_bases(&mut self, fs: Option<u64>, gs: Option<u64>) -> Result<(), VmmError> {
        let mut sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        sregs.fs.base = fs.unwrap_or(sregs.fs.base);
        sregs.gs.base = gs.unwrap_or(sregs.gs.base);
        self.fd.set_sregs(&sregs).map_err(VmmError::kvm("set a vCPU's segments"))
    }

    /// The XSAVE area.
    pub fn xsave(&self) -> Result<Xsave, VmmError> {
        let area = self.fd.get_xsave().map_err(VmmError::kvm("read a vCPU's vector registers"))?;
        let bytes = area.region.iter().flat_map(|word| word.to_le_bytes()).take(self.xsave.size).collect();
        Ok(Xsave(bytes))
    }

    /// Replaces the XSAVE area. A guest's own must have been through [`Xsave::sanitise`].
    pub fn set_xsave(&mut self, area: &Xsave) -> Result<(), VmmError> {
        let mut raw = kvm_xsave::default();
        for (word, bytes) in raw.region.iter_mut().zip(area.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        // SAFETY: the structure has the 4,096 bytes that KVM reads; larger areas need components we do not enable.
        unsafe { self.fd.set_xsave(&raw) }.map_err(VmmError::kvm("set a vCPU's vector registers"))
    }

    /// Layout of the XSAVE area.
    pub fn xsave_layout(&self) -> XsaveLayout {
        self.xsave
    }

    /// A handle that makes this vCPU leave ring 3.
    pub fn kicker(&self) -> Kick {
        Kick(Arc::clone(&self.kick))
    }

    /// Runs ring 3 from `regs` until something happens, and leaves its registers there.
    pub fn enter(&mut self, regs: &mut UserRegs) -> Result<Exit, VmmError> {
        if !is_canonical(regs.rip) || !is_canonical(regs.rsp) {
            return Ok(Exit::Exception { vector: 13, error: 0, address: 0 });
        }
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as u64;
        self.kick.thread.store(thread, Ordering::Release);
        self.put(regs);
        let exit = self.run(regs);
        self.kick.thread.store(0, Ordering::Release);
        // A kick of this entry has been seen by now, or will be by whoever looks for its reason after this return.
        self.fd.set_kvm_immediate_exit(0);
        exit
    }

    /// Sets the registers with which the next entry starts.
    fn put(&mut self, user: &UserRegs) {
        let mut regs = to_kvm(user);
        regs.rflags = user.user_flags();
        if self.ring == Ring::Kernel {
            regs.rsp = ring0::write_return_frame(&self.memory, self.index, user.rip, regs.rflags, user.rsp);
            regs.rip = ring0::return_address();
            regs.rflags = 2;
        }
        self.fd.sync_regs_mut().regs = regs;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    fn run(&mut self, user: &mut UserRegs) -> Result<Exit, VmmError> {
        let mut retries = 0;
        loop {
            let port = match self.fd.run() {
                Ok(VcpuExit::IoOut(port, _)) => port,
                // The I/O bitmap that lets ring 3 leave by this port does not tell input from output; ring 0 has no input.
                Ok(VcpuExit::IoIn(layout::SYSCALL_PORT, _)) => {
                    *user = from_kvm(&self.fd.sync_regs().regs);
                    self.ring = Ring::User;
                    self.settle();
                    return Ok(Exit::Exception { vector: 13, error: 0, address: 0 });
                }
                Ok(exit) => {
                    let what = format!("{exit:?}");
                    let regs = self.fd.sync_regs().regs;
                    return Err(VmmError::Stopped(format!("{what} at {:#x}", regs.rip)));
                }
                Err(error) => match error.errno() {
                    libc::EINTR | libc::EAGAIN => match self.interrupted(user)? {
                        Some(exit) => return Ok(exit),
                        None => continue,
                    },
                    libc::EFAULT if retries < RETRIES => {
                        retries += 1;
                        continue;
                    }
                    errno => {
                        return Err(VmmError::Kvm {
                            doing: "run a vCPU",
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                },
            };
            return self.left_by(port, user);
        }
    }

    /// Reads the registers after an exit by `out` to `port`.
    fn left_by(&mut self, port: u16, user: &mut UserRegs) -> Result<Exit, VmmError> {
        let regs = self.fd.sync_regs().regs;
        if port == layout::SYSCALL_PORT {
            self.ring = if self.sort == Sort::Hardware { Ring::Kernel } else { Ring::User };
            *user = from_kvm(&regs);
            // `syscall` has put these there. Where ring 3 executes the entry a program may have jumped to it:
            // the registers are then what it likes, as they are its own.
            user.rip = regs.rcx;
            user.rflags = regs.r11;
            return Ok(Exit::Syscall);
        }
        let vector = port.wrapping_sub(layout::EXCEPTION_PORT);
        if vector >= 32 || !ring0::is_ring0(regs.rip) {
            return Err(VmmError::Stopped(format!("output to port {port:#x} at {:#x}", regs.rip)));
        }
        let vector = vector as u8;
        let frame = ring0::read_frame(&self.memory, self.index, vector, regs.rax, regs.rsp);
        let Some(frame) = frame.filter(|f| f.cs & 3 == 3) else {
            return Err(VmmError::Stopped(format!("exception {vector} in ring 0 (stack {:#x})", regs.rsp)));
        };
        self.ring = Ring::Kernel;
        *user = from_kvm(&regs);
        (user.rax, user.rip, user.rflags, user.rsp) = (frame.rax, frame.rip, frame.rflags, frame.rsp);
        Ok(Exit::Exception { vector, error: frame.error, address: frame.address })
    }

    /// What an interrupted `KVM_RUN` means; `None` to run on.
    fn interrupted(&mut self, user: &mut UserRegs) -> Result<Option<Exit>, VmmError> {
        self.fd.set_kvm_immediate_exit(0);
        let regs = self.fd.sync_regs().regs;
        if regs.rip == ring0::return_address() {
            // On the way to ring 3: `user` is still what it was.
            return Ok(Some(Exit::Kicked));
        }
        if ring0::is_ring0(regs.rip) {
            // Inside an entry, a few instructions from its `out`, which will be the exit.
            return Ok(None);
        }
        self.ring = Ring::User;
        *user = from_kvm(&regs);
        Ok(Some(Exit::Kicked))
    }

    /// In which ring the last system call arrived; for the probe.
    pub(super) fn arrival(&self) -> Result<Sort, VmmError> {
        let sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        Ok(if sregs.cs.dpl == 3 { Sort::Emulated } else { Sort::Hardware })
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kick.immediate_exit.store(0, Ordering::Release);
    }
}

fn segment(selector: u16, type_: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

/// Whether bits 63 to 47 are equal, without which the CPU refuses an address.
fn is_canonical(address: u64) -> bool {
    matches!((address as i64) >> 47, 0 | -1)
}

fn to_kvm(r: &UserRegs) -> kvm_regs {
    kvm_regs {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rsp: r.rsp,
        rbp: r.rbp,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rip: r.rip,
        rflags: r.rflags,
    }
}

fn from_kvm(r: &kvm_regs) -> UserRegs {
    UserRegs {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rsp: r.rsp,
        rbp: r.rbp,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rip: r.rip,
        rflags: r.rflags,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Access, Entry, Frames, PageTables, Xsave};
    use super::*;

    /// A VM with `code` at 0x40_0000 and a writable page at 0x50_0000; `None`, and a note, where there is no KVM.
    fn machine(code: &[u8]) -> Option<(Vm, Frames, Vcpu)> {
        let hypervisor = match Hypervisor::get() {
            Ok(found) => found,
            Err(error) => {
                assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
                eprintln!("skipped: {error}");
                return None;
            }
        };
        let vm = Vm::new(GuestMemory::new(8 << 20).expect("8 MiB")).expect("a VM");
        let mut frames = Frames::new(8 << 20);
        for (address, access) in
            [(0x40_0000, Access::READ | Access::EXECUTE), (0x50_0000, Access::READ | Access::WRITE)]
        {
            let (frame, _) = frames.allocate(1).expect("a frame");
            assert!(PageTables::new(vm.memory()).set(address, Entry { frame, access }, &mut frames));
            if access.contains(Access::EXECUTE) {
                vm.memory().write(frame.address(), code);
            }
        }
        let mut vcpu = vm.create_vcpu().expect("a vCPU");
        let state = ExtendedState { fs_base: 7, gs_base: 8, xsave: Xsave::initial(hypervisor.xsave()) };
        vcpu.load(&state).expect("initial state");
        assert_eq!(vcpu.save().expect("state").fs_base, 7);
        vcpu.load(&state).expect("initial state");
        Some((vm, frames, vcpu))
    }

    fn start() -> UserRegs {
        UserRegs { rip: 0x40_0000, rsp: 0x50_1000, rflags: 0x202, ..UserRegs::default() }
    }

    #[test]
    fn system_calls_and_exceptions_come_back_with_their_registers() {
        // mov rbx, rax; syscall; mov [rdi], rbx; ud2
        let code = [0x48, 0x89, 0xc3, 0x0f, 0x05, 0x48, 0x89, 0x1f, 0x0f, 0x0b];
        let Some((vm, mut frames, mut vcpu)) = machine(&code) else { return };
        let mut regs = UserRegs { rax: 42, rdi: 0x60_0008, ..start() };
        assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Syscall);
        assert_eq!((regs.rip, regs.rbx, regs.rax, regs.rsp), (0x40_0005, 42, 42, 0x50_1000));
        regs.rax = 99;
        let fault = vcpu.enter(&mut regs).expect("entry");
        assert_eq!(fault, Exit::Exception { vector: 14, error: 6, address: 0x60_0008 });
        assert_eq!((regs.rip, regs.rax, regs.rsp), (0x40_0005, 99, 0x50_1000));
        let (frame, _) = frames.allocate(1).expect("a frame");
        let entry = Entry { frame, access: Access::READ | Access::WRITE };
        assert!(PageTables::new(vm.memory()).set(0x60_0000, entry, &mut frames));
        let exit = vcpu.enter(&mut regs).expect("entry");
        assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
        assert_eq!((regs.rip, vm.memory().load(frame.address() + 8)), (0x40_0008, 42));
    }

    #[test]
    fn a_page_that_was_taken_away_is_not_reached_any_more() {
        // again: mov [rdi], rax; syscall; jmp again
        let Some((vm, _, mut vcpu)) = machine(&[0x48, 0x89, 0x07, 0x0f, 0x05, 0xeb, 0xf9]) else { return };
        let tables = PageTables::new(vm.memory());
        let whole = tables.get(0x50_0000).expect("the data page");
        for narrowed in [None, Some(Entry { access: Access::READ, ..whole })] {
            let mut regs = UserRegs { rdi: 0x50_0000, ..start() };
            assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Syscall);
            tables.update(0x50_0000, 0x50_1000, |_, _| narrowed);
            vm.memory().flush(whole.frame.address(), 4096).expect("flush");
            let error = if narrowed.is_some() { 7 } else { 6 };
            let fault = vcpu.enter(&mut regs).expect("entry");
            assert_eq!(fault, Exit::Exception { vector: 14, error, address: 0x50_0000 });
            let mut frames = Frames::new(8 << 20);
            assert!(tables.set(0x50_0000, whole, &mut frames));
        }
    }

    #[test]
    fn a_kick_ends_an_endless_loop() {
        let Some((_vm, _, mut vcpu)) = machine(&[0xeb, 0xfe]) else { return };
        let kick = vcpu.kicker();
        kick.kick();
        let mut regs = start();
        assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Kicked);
        let (entered, seen) = std::sync::mpsc::channel();
        let kicker = std::thread::spawn(move || {
            seen.recv().expect("the entry is announced");
            kick.kick();
        });
        entered.send(()).expect("the kicker waits");
        assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Kicked);
        assert_eq!(regs.rip, 0x40_0000);
        kicker.join().expect("the kicker ended");
    }

    #[test]
    fn ring_3_cannot_use_ports_or_halt_or_see_ring_0() {
        // out 0x2e, al | hlt | mov rax, [rdi] | jmp rdi
        for code in [&[0xe6, 0x2e][..], &[0xf4], &[0xe6, 0x80]] {
            let Some((_vm, _, mut vcpu)) = machine(code) else { return };
            let exit = vcpu.enter(&mut start()).expect("entry");
            assert!(matches!(exit, Exit::Exception { vector: 13, .. }), "{code:x?} gave {exit:?}");
        }
        for code in [&[0x48, 0x8b, 0x07][..], &[0xff, 0xe7], &[0x48, 0x89, 0x07]] {
            for target in [layout::WINDOW + layout::RING0_CODE, layout::WINDOW + layout::GDT] {
                let Some((_vm, _, mut vcpu)) = machine(code) else { return };
                let mut regs = UserRegs { rdi: target, ..start() };
                let exit = vcpu.enter(&mut regs).expect("entry");
                assert!(matches!(exit, Exit::Exception { vector: 14, .. }), "{code:x?} gave {exit:?}");
            }
        }
    }
}
