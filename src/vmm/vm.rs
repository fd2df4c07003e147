//! One virtual machine: a memory slot and its vCPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use super::error::VmmError;
use super::kvm::{self, Found, Hypervisor};
use super::layout;
use super::memory::GuestMemory;
use super::ring0;
use super::vcpu::Vcpu;
use super::vcpu_thread::VcpuThreads;

/// A virtual machine. Has no in-kernel interrupt controller: it needs none, and one makes memory slots slow.
pub struct Vm {
    pub(super) fd: VmFd,
    memory: Arc<GuestMemory>,
    /// Whether KVM has the memory.
    slot: Found<()>,
    vcpus: AtomicUsize,
    /// Ring 0 is there from the start.
    has_ring0: bool,
    pub(super) threads: VcpuThreads,
}

impl Vm {
    /// A VM whose RAM is zero but for ring 0.
    pub fn new(memory: GuestMemory) -> Result<Vm, VmmError> {
        ring0::install(&memory);
        Ok(Vm { has_ring0: true, ..Vm::from_image(memory)? })
    }

    /// A VM whose RAM holds what another VM of the same layout left, ring 0 included.
    pub fn from_image(memory: GuestMemory) -> Result<Vm, VmmError> {
        let fd = kvm::device()?.create_vm().map_err(VmmError::kvm("create a VM"))?;
        Ok(Vm {
            fd,
            memory: Arc::new(memory),
            slot: Found::nothing(),
            vcpus: AtomicUsize::new(0),
            has_ring0: false,
            threads: VcpuThreads::default(),
        })
    }

    /// Adds the memory slot, if it is not there. That takes KVM a while, which has an account of every page, and is done at the latest when
    /// there is a vCPU.
    pub fn add_memory(&self) -> Result<(), VmmError> {
        let add = || {
            let slot = kvm_userspace_memory_region {
                slot: 0,
                guest_phys_addr: 0,
                memory_size: self.memory.size(),
                userspace_addr: self.memory.host_address(),
                flags: 0,
            };
            // SAFETY: the mapping is owned by `memory`, which this VM keeps, and vCPUs keep too.
            unsafe { self.fd.set_user_memory_region(slot) }.map_err(VmmError::kvm("add guest memory"))
        };
        self.slot.get_or_try(add).copied()
    }

    /// Writes anew what ring 0 has in the RAM of the vCPUs that there are, which no image holds: after its content was replaced, and before another
    /// program runs in it, whatever the one before did.
    ///
    /// # Errors
    /// There is no KVM.
    pub fn install_tasks(&self) -> Result<(), VmmError> {
        let sort = Hypervisor::get()?.sort;
        for index in 0..self.vcpus.load(Ordering::Relaxed).min(layout::MAX_VCPUS) {
            ring0::install_task(&self.memory, index, sort);
        }
        Ok(())
    }

    /// The VM's RAM.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// One more vCPU. It belongs to the calling process and must be loaded before it is entered.
    pub fn create_vcpu(&self) -> Result<Vcpu, VmmError> {
        let (hypervisor, probed) =
            if self.has_ring0 { Hypervisor::get_with(self)? } else { (Hypervisor::get()?, None) };
        probed.map_or_else(|| Vcpu::create(hypervisor, self), Ok)
    }

    pub(super) fn next_vcpu(&self) -> Result<usize, VmmError> {
        let index = self.vcpus.fetch_add(1, Ordering::Relaxed);
        if index < layout::MAX_VCPUS { Ok(index) } else { Err(VmmError::TooManyVcpus(layout::MAX_VCPUS)) }
    }
}
