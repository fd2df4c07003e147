//! What the guest is told of the CPU: the host's features that KVM supports, less those that the guest must not use.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

use super::error::VmmError;
use super::kvm::{self, Found};
use super::state::XsaveLayout;

/// Leaf 1, ECX: VMX, x2APIC, TSC deadline timer.
const LEAF1_ECX: u32 = 1 << 5 | 1 << 21 | 1 << 24;
/// Leaf 7, ECX: memory protection keys, and whether the system enabled them.
const LEAF7_ECX: u32 = 1 << 3 | 1 << 4;
/// Leaf 7, EDX: AMX with brain floats, tiles and integers.
const LEAF7_EDX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// Leaf 0x80000001, ECX: SVM.
const LEAF8_1_ECX: u32 = 1 << 2;
/// KVM's own leaves: paravirtual clocks and the like, which need a kernel in the guest.
const KVM_LEAVES: std::ops::Range<u32> = 0x4000_0000..0x4000_0100;

/// Size and components of the guests' XSAVE area. Known before all that [`Hypervisor`](super::Hypervisor) finds out.
pub fn xsave_layout() -> Result<XsaveLayout, VmmError> {
    Features::get().map(|features| features.xsave)
}

/// What all vCPUs have.
pub(super) struct Features {
    /// What `cpuid` tells, where KVM virtualises it.
    pub cpuid: CpuId,
    /// Their XSAVE components.
    pub xsave: XsaveLayout,
}

impl Features {
    /// Asks KVM, once; where this itself runs in a VM that takes as long as making one.
    pub fn get() -> Result<&'static Features, VmmError> {
        static FEATURES: Found<Features> = Found::nothing();
        FEATURES.get_or_try(|| Features::of(kvm::device()?))
    }

    fn of(kvm: &Kvm) -> Result<Features, VmmError> {
        let mut table = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(VmmError::kvm("list the CPU features it supports"))?;
        let mut xcr0 = 3;
        table.retain(|entry| !KVM_LEAVES.contains(&entry.function));
        for entry in table.as_mut_slice() {
            match (entry.function, entry.index) {
                (1, _) => entry.ecx &= !LEAF1_ECX,
                (7, 0) => {
                    entry.ecx &= !LEAF7_ECX;
                    entry.edx &= !LEAF7_EDX;
                }
                (0xd, 0) => xcr0 = u64::from(entry.edx) << 32 | u64::from(entry.eax),
                (0x8000_0001, _) => entry.ecx &= !LEAF8_1_ECX,
                _ => {}
            }
        }
        let layout = XsaveLayout::of_cpu(xcr0);
        for entry in table.as_mut_slice() {
            if (entry.function, entry.index) == (0xd, 0) {
                entry.eax = layout.features as u32;
                entry.edx = 0;
                entry.ebx = layout.size as u32;
                entry.ecx = layout.size as u32;
            }
        }
        Ok(Features { cpuid: table, xsave: layout })
    }

    /// Whether they have `bit` of leaf 7's EBX.
    pub fn leaf7_ebx(&self, bit: u32) -> bool {
        self.cpuid.as_slice().iter().any(|e| e.function == 7 && e.index == 0 && e.ebx >> bit & 1 != 0)
    }

    /// Whether they have `bit` of leaf 7's ECX.
    pub fn leaf7_ecx(&self, bit: u32) -> bool {
        self.cpuid.as_slice().iter().any(|e| e.function == 7 && e.index == 0 && e.ecx >> bit & 1 != 0)
    }
}
