//! `/dev/kvm`: what it offers, found out once for the process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock};
use std::thread;

use kvm_ioctls::{Cap, Kvm};

use super::cpuid::Features;
use super::error::VmmError;
use super::frames::FRAME_SIZE;
use super::layout;
use super::pagemap::Pagemap;
use super::paging::{Access, Entry, PageTables};
use super::ring0;
use super::state::{ExtendedState, UserRegs, XsaveLayout};
use super::vcpu::{Exit, Vcpu};
use super::vm::Vm;
use crate::sync::lock;

/// How ring 0 comes about, which decides how a system call arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// The CPU runs ring 0: `syscall` arrives there.
    Hardware,
    /// KVM emulates ring 0, and `syscall` arrives in ring 3.
    Emulated,
}

/// What the probe found of the host's KVM.
pub struct Hypervisor {
    pub(super) sort: Sort,
    pub(super) features: &'static Features,
    pub(super) cr4: u64,
    /// Rate of the time stamp counter, if the guest's is the host's.
    counter: Option<u32>,
    /// By what KVM is made to forget pages, if it can be told.
    announcer: Option<Pagemap>,
    /// Ring 3 finds its vCPU's area by `gs`.
    finds_area: bool,
}

/// Control register 4: PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18;
const CR4_UMIP: u64 = 1 << 11;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

impl Hypervisor {
    /// The host's KVM. The first call probes it, and others wait for that; a failure is tried again by the next call.
    pub fn get() -> Result<&'static Hypervisor, VmmError> {
        let mut probed = None;
        let found = FOUND.get_or_try(|| {
            let vm = Vm::new(super::GuestMemory::reserve(layout::FIRST_FRAME)?)?;
            let (found, vcpu) = Hypervisor::probe(&vm)?;
            probed = Some((vcpu, vm));
            Ok(found)
        });
        // Its end takes as long as all the rest; others that wait need not wait for it.
        drop(probed);
        found
    }

    /// The same, but the first call probes it with `vm`, which has ring 0 and has never run, and may have made a vCPU of it.
    pub(super) fn get_with(vm: &Vm) -> Result<(&'static Hypervisor, Option<Vcpu>), VmmError> {
        let mut made = None;
        let found = FOUND.get_or_try(|| {
            let (found, vcpu) = Hypervisor::probe(vm)?;
            // It was made for this sort.
            made = (found.sort == Sort::Emulated).then_some(vcpu);
            Ok(found)
        })?;
        Ok((found, made))
    }

    /// Begins with what takes a while, on another thread: whoever asks for it soon waits less.
    pub fn get_ahead() {
        static BEGUN: OnceLock<()> = OnceLock::new();
        BEGUN.get_or_init(|| {
            // Who asks for it does it, or sees the failure, where this cannot.
            let _ = thread::Builder::new().name("kvm-features".into()).spawn(|| Features::get().map(drop));
        });
    }

    /// Runs `rdtsc`, a load and one `syscall` on a vCPU of `vm`; looks in which ring that arrives, whether the counter is the host's, and whether
    /// the page of the load can be taken away.
    fn probe(vm: &Vm) -> Result<(Hypervisor, Vcpu), VmmError> {
        let features = Features::get()?;
        let mut found = Hypervisor {
            sort: Sort::Emulated,
            features,
            cr4: CR4,
            counter: None,
            announcer: None,
            finds_area: false,
        };
        let mut vcpu = Vcpu::create(&found, vm)?;
        let state = ExtendedState::initial(features.xsave);
        vcpu.load(&state)?;
        // `rdtsc; mov r10d, [r8]; syscall; hlt` in the page of the system-call entry, which ring 3 may execute.
        let (at, code) = (0x800, [0x0f, 0x31, 0x45, 0x8b, 0x10, 0x0f, 0x05, 0xf4]);
        vm.memory().write(layout::SYSCALL_CODE + at, &code);
        let before = host_counter();
        let mut regs = UserRegs { rip: layout::SYSCALL_ALIAS + at, r8: PROBED_PAGE, ..UserRegs::default() };
        match vcpu.enter(&mut regs)? {
            Exit::Syscall => {
                let counter = regs.rdx << 32 | regs.rax & 0xffff_ffff;
                let common = (before..=host_counter()).contains(&counter) && counter_is_steady();
                found.sort = vcpu.arrival()?;
                found.counter = vcpu.counter_kilohertz().filter(|_| common);
            }
            exit => {
                return Err(VmmError::Stopped(format!("the probe's system call came back as {exit:?}")));
            }
        }
        match found.sort {
            // Back to ring 3.
            Sort::Hardware => vcpu.load(&state)?,
            Sort::Emulated => found.finds_area = finds_area(vm, &mut vcpu)?,
        }
        regs = UserRegs { rip: layout::SYSCALL_ALIAS + at, ..regs };
        found.announcer = announcer(vm, &mut vcpu, &mut regs)?;
        vm.memory().write(layout::SYSCALL_CODE + at, &[ring0::HALT; 8]);
        if found.sort == Sort::Hardware {
            for (offered, bit) in [
                (features.leaf7_ebx(7), CR4_SMEP),
                (features.leaf7_ebx(20), CR4_SMAP),
                (features.leaf7_ecx(2), CR4_UMIP),
            ] {
                if offered {
                    found.cr4 |= bit;
                }
            }
        }
        Ok((found, vcpu))
    }

    /// By what the KVM of this process, if it was probed, is made to forget pages without a change of them.
    pub(super) fn announcer() -> Option<&'static Pagemap> {
        FOUND.value.get()?.announcer.as_ref()
    }

    /// Whether programs can make system calls by [`CallSite`](super::CallSite)s that lead to trampolines: it pays, and ring 3 finds its vCPU's entry.
    pub fn takes_direct_calls(&self) -> bool {
        self.finds_area
    }

    /// Rate of the time stamp counter in kHz, if it is steady and the guest reads the same as the host.
    pub fn counter_kilohertz(&self) -> Option<u32> {
        self.counter
    }

    /// Which sort of KVM it is.
    pub fn sort(&self) -> Sort {
        self.sort
    }

    /// Size and components of the guest's XSAVE area.
    pub fn xsave(&self) -> XsaveLayout {
        self.features.xsave
    }
}

/// Whether ring 3 finds the vCPU's area, by instructions that this CPU and KVM let it have.
fn finds_area(vm: &Vm, vcpu: &mut Vcpu) -> Result<bool, VmmError> {
    // `rdgsbase rax; rorx rax, rax, 0; syscall`
    let (at, code) = (0x900, [0xf3, 0x48, 0x0f, 0xae, 0xc8, 0xc4, 0xe3, 0xfb, 0xf0, 0xc0, 0x00, 0x0f, 0x05]);
    vm.memory().write(layout::SYSCALL_CODE + at, &code);
    let mut regs = UserRegs { rip: layout::SYSCALL_ALIAS + at, ..UserRegs::default() };
    let exit = vcpu.enter(&mut regs)?;
    vm.memory().write(layout::SYSCALL_CODE + at, &code.map(|_| ring0::HALT));
    Ok(exit == Exit::Syscall && regs.rax == vcpu.idle_gs_base())
}

/// The last page of the areas of vCPUs, of which the first alone is in use while the probe runs.
const PROBED_PAGE: u64 = layout::EXITLESS_AREAS_ALIAS + layout::EXITLESS_BYTES - FRAME_SIZE;

/// By what KVM can be made to forget [`PROBED_PAGE`], if it can be, which `regs` are about to load from, and the vCPU did.
fn announcer(vm: &Vm, vcpu: &mut Vcpu, regs: &mut UserRegs) -> Result<Option<Pagemap>, VmmError> {
    let (tables, page) = (PageTables::new(vm.memory()), PROBED_PAGE..PROBED_PAGE + FRAME_SIZE);
    let Some((whole, pagemap)) = tables.get(page.start).zip(Pagemap::open().ok()) else { return Ok(None) };
    tables.update(page.start, page.end, |_, _| Some(Entry { access: Access::empty(), ..whole }));
    let address = vm.memory().host_address() + whole.frame.address();
    let is_announced = pagemap.announce_change(address..address + FRAME_SIZE).is_ok();
    let is_forgotten = is_announced && matches!(vcpu.enter(regs)?, Exit::Exception { vector: 14, .. });
    tables.update(page.start, page.end, |_, _| Some(whole));
    Ok(is_forgotten.then_some(pagemap))
}

static DEVICE: Found<Kvm> = Found::nothing();

/// A descriptor of `/dev/kvm`, for a process that may not open it.
pub fn open_device() -> Result<OwnedFd, VmmError> {
    // SAFETY: the device is open, and stays so as long as the process.
    let device = unsafe { BorrowedFd::borrow_raw(device()?.as_raw_fd()) };
    device.try_clone_to_owned().map_err(VmmError::Open)
}

/// Has this process use `device`, a descriptor of `/dev/kvm`. To be called before anything else here.
pub fn use_device(device: OwnedFd) -> Result<(), VmmError> {
    // SAFETY: the descriptor is given away; KVM refuses all calls on one that is not its own.
    DEVICE.get_or_try(|| has_all(unsafe { Kvm::from_raw_fd(device.into_raw_fd()) })).map(drop)
}

/// The opened device, of a KVM that has all that is needed. A failure is tried again by the next call.
pub(super) fn device() -> Result<&'static Kvm, VmmError> {
    DEVICE.get_or_try(|| {
        has_all(Kvm::new().map_err(|e| VmmError::Open(io::Error::from_raw_os_error(e.errno())))?)
    })
}

/// The same KVM, if it has all that is needed.
fn has_all(kvm: Kvm) -> Result<Kvm, VmmError> {
    for (cap, name) in [
        (Cap::UserMemory, "user memory slots"),
        (Cap::SyncRegs, "register synchronisation"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::Xsave, "XSAVE state"),
        (Cap::Xcrs, "extended control registers"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(VmmError::Lacks(name));
        }
    }
    Ok(kvm)
}

/// What is found out, or done, once. Who comes while another is at it waits; a failure is tried again by the next one.
pub(super) struct Found<T> {
    value: OnceLock<T>,
    finding: Mutex<()>,
}

static FOUND: Found<Hypervisor> = Found::nothing();

impl<T> Found<T> {
    pub const fn nothing() -> Found<T> {
        Found { value: OnceLock::new(), finding: Mutex::new(()) }
    }

    pub fn get_or_try(&self, find: impl FnOnce() -> Result<T, VmmError>) -> Result<&T, VmmError> {
        if let Some(found) = self.value.get() {
            return Ok(found);
        }
        let _finding = lock(&self.finding);
        if let Some(found) = self.value.get() {
            return Ok(found);
        }
        let found = find()?;
        Ok(self.value.get_or_init(|| found))
    }
}

/// The host's time stamp counter.
pub fn host_counter() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and Linux allows it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Whether the counter runs at one rate in all power states.
fn counter_is_steady() -> bool {
    const LEAF: u32 = 0x8000_0007;
    std::arch::x86_64::__cpuid(0x8000_0000).eax >= LEAF && std::arch::x86_64::__cpuid(LEAF).edx >> 8 & 1 != 0
}
