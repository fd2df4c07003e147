//! Making a vCPU: what is set once and never changes.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{Msrs, kvm_device_attr, kvm_msr_entry, kvm_segment};
use kvm_ioctls::SyncReg;

use super::super::error::VmmError;
use super::super::exitless::{self, CallSlot};
use super::super::kvm::{Hypervisor, Sort};
use super::super::layout::{self, selector};
use super::super::ring0;
use super::super::vm::Vm;
use super::kick::{KickState, install_signal};
use super::{Ring, Vcpu};

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; `kvm-ioctls` has it for other architectures only.
const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;

impl Vcpu {
    pub(in crate::vmm) fn create(hypervisor: &Hypervisor, vm: &Vm) -> Result<Vcpu, VmmError> {
        install_signal();
        let index = vm.next_vcpu()?;
        let mut fd = vm.fd.create_vcpu(index as u64).map_err(VmmError::kvm("create a vCPU"))?;
        fd.set_cpuid2(&hypervisor.features.cpuid).map_err(VmmError::kvm("set a vCPU's CPUID"))?;
        let mut xcrs = fd.get_xcrs().map_err(VmmError::kvm("read XCR0"))?;
        xcrs.nr_xcrs = 1;
        xcrs.xcrs[0].xcr = 0;
        xcrs.xcrs[0].value = hypervisor.features.xsave.features;
        // CR4.OSXSAVE first: KVM refuses XCR0 without it on some hosts.
        ring0::install_task(vm.memory(), index, hypervisor.sort);
        fd.set_sync_valid_reg(SyncReg::Register);
        let kick = KickState::of(&mut fd);
        let mut vcpu = Vcpu {
            fd,
            index,
            sort: hypervisor.sort,
            xsave: hypervisor.features.xsave,
            cr4: hypervisor.cr4,
            ring: Ring::User,
            memory: Arc::clone(vm.memory()),
            kick,
            calls: match hypervisor.sort {
                Sort::Emulated => CallSlot::new(vm.memory(), index),
                Sort::Hardware => None,
            },
        };
        vcpu.reset_segments(0, 0)?;
        vcpu.fd.set_xcrs(&xcrs).map_err(VmmError::kvm("set XCR0"))?;
        vcpu.set_msrs()?;
        vcpu.share_counter();
        vm.add_memory()?;
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
    pub(in crate::vmm) fn counter_kilohertz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|rate| *rate > 0)
    }

    fn set_msrs(&mut self) -> Result<(), VmmError> {
        const STAR: u32 = 0xc000_0081;
        const LSTAR: u32 = 0xc000_0082;
        const CSTAR: u32 = 0xc000_0083;
        const FMASK: u32 = 0xc000_0084;
        let entry = match self.sort {
            Sort::Hardware => ring0::window(layout::SYSCALL_CODE),
            Sort::Emulated => exitless::address(self.index).unwrap_or(layout::SYSCALL_ALIAS),
        };
        let segments = u64::from(selector::USER_CODE_32) << 48 | u64::from(selector::KERNEL_CODE) << 32;
        let entries = [
            (STAR, segments),
            (LSTAR, entry),
            (CSTAR, ring0::compat_entry()),
            (FMASK, layout::SYSCALL_CLEARS),
        ]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let msrs = Msrs::from_entries(&entries).map_err(|_| VmmError::Lacks("room for four registers"))?;
        match self.fd.set_msrs(&msrs).map_err(VmmError::kvm("set the system-call registers"))? {
            4 => Ok(()),
            _ => Err(VmmError::Lacks("the system-call registers")),
        }
    }

    /// The base of `gs` while a thread that has set none runs: there ring 3 finds the vCPU's area.
    pub(in crate::vmm) fn idle_gs_base(&self) -> u64 {
        self.calls.as_ref().map_or(0, |calls| calls.base())
    }

    /// The base of `gs` while a thread runs that has set `base`; 0 is what all begin with.
    pub(super) fn gs_base_for(&self, base: u64) -> u64 {
        if base == 0 { self.idle_gs_base() } else { base }
    }

    /// Puts the vCPU into ring 3 with flat segments.
    pub(super) fn reset_segments(&mut self, fs_base: u64, gs_base: u64) -> Result<(), VmmError> {
        let mut sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        let data = segment(selector::USER_DATA, 3, false);
        sregs.cs = segment(selector::USER_CODE, 11, true);
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.fs.base = fs_base;
        sregs.gs.base = self.gs_base_for(gs_base);
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
        sregs.idt.base = ring0::descriptor_table(self.index, self.sort);
        sregs.idt.limit = layout::IDT_BYTES as u16 - 1;
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = layout::PAGE_ROOT;
        sregs.cr4 = self.cr4;
        sregs.efer = 0xd01;
        self.fd.set_sregs(&sregs).map_err(VmmError::kvm("set a vCPU's segments"))?;
        self.ring = Ring::User;
        Ok(())
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
