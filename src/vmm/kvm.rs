//! `/dev/kvm`: what it offers, found out once for the process.

use std::io;
use std::sync::OnceLock;

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm};

use super::cpuid;
use super::error::VmmError;
use super::layout;
use super::state::{UserRegs, Xsave, XsaveLayout};
use super::vcpu::{Exit, Vcpu};
use super::vm::Vm;

/// How ring 0 comes about, which decides how a system call arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// The CPU runs ring 0: `syscall` arrives there.
    Hardware,
    /// KVM emulates ring 0, and `syscall` arrives in ring 3.
    Emulated,
}

/// The opened KVM device with what the probe found.
pub struct Hypervisor {
    pub(super) kvm: Kvm,
    pub(super) sort: Sort,
    pub(super) cpuid: CpuId,
    pub(super) xsave: XsaveLayout,
    pub(super) cr4: u64,
    /// Rate of the time stamp counter, if the guest's is the host's.
    counter: Option<u32>,
}

/// Control register 4: PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18;
const CR4_UMIP: u64 = 1 << 11;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

impl Hypervisor {
    /// The host's KVM. The first call opens and probes it; a failure is tried again by the next call.
    pub fn get() -> Result<&'static Hypervisor, VmmError> {
        static ONCE: OnceLock<Hypervisor> = OnceLock::new();
        match ONCE.get() {
            Some(found) => Ok(found),
            None => {
                let opened = Hypervisor::open()?;
                Ok(ONCE.get_or_init(|| opened))
            }
        }
    }

    fn open() -> Result<Hypervisor, VmmError> {
        let kvm = Kvm::new().map_err(|e| VmmError::Open(io::Error::from_raw_os_error(e.errno())))?;
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
        let (cpuid, xsave) = cpuid::for_guest(&kvm)?;
        let mut opened = Hypervisor { kvm, sort: Sort::Emulated, cpuid, xsave, cr4: CR4, counter: None };
        (opened.sort, opened.counter) = opened.probe()?;
        if opened.sort == Sort::Hardware {
            for (offered, bit) in [
                (cpuid::leaf7_ebx(&opened.cpuid, 7), CR4_SMEP),
                (cpuid::leaf7_ebx(&opened.cpuid, 20), CR4_SMAP),
                (cpuid::leaf7_ecx(&opened.cpuid, 2), CR4_UMIP),
            ] {
                if offered {
                    opened.cr4 |= bit;
                }
            }
        }
        Ok(opened)
    }

    /// Runs `rdtsc` and one `syscall` in a tiny VM; looks in which ring it arrives, and whether the counter is the host's.
    fn probe(&self) -> Result<(Sort, Option<u32>), VmmError> {
        let vm = Vm::with(self, super::GuestMemory::reserve(layout::FIRST_FRAME)?)?;
        let mut vcpu = Vcpu::create(self, &vm)?;
        vcpu.load(&super::ExtendedState { fs_base: 0, gs_base: 0, xsave: Xsave::initial(self.xsave) })?;
        // `rdtsc; syscall; hlt` in the page of the system-call entry, which ring 3 may execute.
        let code = 0x800;
        vm.memory().write(layout::SYSCALL_CODE + code, &[0x0f, 0x31, 0x0f, 0x05, 0xf4]);
        let before = host_counter();
        let mut regs = UserRegs { rip: layout::SYSCALL_ALIAS + code, ..UserRegs::default() };
        match vcpu.enter(&mut regs)? {
            Exit::Syscall => {
                let counter = regs.rdx << 32 | regs.rax & 0xffff_ffff;
                let common = (before..=host_counter()).contains(&counter) && counter_is_steady();
                Ok((vcpu.arrival()?, vcpu.counter_kilohertz().filter(|_| common)))
            }
            exit => Err(VmmError::Stopped(format!("the probe's system call came back as {exit:?}"))),
        }
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
        self.xsave
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
