//! The state of a thread in a vCPU: taking it out and putting another's in.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_regs, kvm_xsave};

use super::super::error::VmmError;
use super::super::state::{ExtendedState, StateHolder, UserRegs, Xsave, XsaveLayout};
use super::kick::KickState;
use super::{Kick, Vcpu};

impl Vcpu {
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
    pub(super) fn settle(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Makes the handles that there are ineffective: they were given out for another program.
    pub(in crate::vmm) fn renew_kicker(&mut self) {
        self.kick.immediate_exit.store(0, Ordering::Release);
        self.kick = KickState::of(&mut self.fd);
        // A handle that was in use just then may still have ordered an exit.
        self.fd.set_kvm_immediate_exit(0);
    }

    /// A handle that makes this vCPU leave ring 3.
    pub fn kicker(&self) -> Kick {
        Kick(Arc::clone(&self.kick))
    }
}

impl StateHolder for Vcpu {
    fn bases(&self) -> Result<(u64, u64), VmmError> {
        let sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        let own = if sregs.gs.base == self.idle_gs_base() { 0 } else { sregs.gs.base };
        Ok((sregs.fs.base, own))
    }

    fn set_bases(&mut self, fs: Option<u64>, gs: Option<u64>) -> Result<(), VmmError> {
        let mut sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        sregs.fs.base = fs.unwrap_or(sregs.fs.base);
        sregs.gs.base = gs.map_or(sregs.gs.base, |base| self.gs_base_for(base));
        self.fd.set_sregs(&sregs).map_err(VmmError::kvm("set a vCPU's segments"))
    }

    fn xsave(&self) -> Result<Xsave, VmmError> {
        let area = self.fd.get_xsave().map_err(VmmError::kvm("read a vCPU's vector registers"))?;
        let bytes = area.region.iter().flat_map(|word| word.to_le_bytes()).take(self.xsave.size).collect();
        Ok(Xsave(bytes))
    }

    fn set_xsave(&mut self, area: &Xsave) -> Result<(), VmmError> {
        let mut raw = kvm_xsave::default();
        for (word, bytes) in raw.region.iter_mut().zip(area.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        // SAFETY: the structure has the 4,096 bytes that KVM reads; larger areas need components we do not enable.
        unsafe { self.fd.set_xsave(&raw) }.map_err(VmmError::kvm("set a vCPU's vector registers"))
    }

    fn xsave_layout(&self) -> XsaveLayout {
        self.xsave
    }
}

/// The registers that both have, by the names that both give them.
macro_rules! same_registers {
    ($($name:ident)*) => {
        pub(super) fn to_kvm(user: &UserRegs) -> kvm_regs {
            kvm_regs { $($name: user.$name,)* }
        }

        pub(super) fn from_kvm(regs: &kvm_regs) -> UserRegs {
            UserRegs { $($name: regs.$name,)* }
        }
    };
}

same_registers!(rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);
