//! The state of a thread in ring 3: what must be kept of it while no vCPU runs it.

use std::arch::x86_64::__cpuid_count;

use serde::{Deserialize, Serialize};

use super::error::VmmError;

/// General registers, instruction pointer and flags.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are the architecture's.
pub struct UserRegs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

impl UserRegs {
    /// Flags that ring 3 may have: carry, parity, auxiliary, zero, sign, trap, direction, overflow, resume, alignment check, id.
    const FLAGS: u64 = 0x0025_0dd5;
    /// Flags that are always set in ring 3: the reserved bit and interrupts enabled.
    const FIXED_FLAGS: u64 = 0x202;

    /// The flags as ring 3 can have them, whatever was written to the field.
    pub fn user_flags(&self) -> u64 {
        self.rflags & Self::FLAGS | Self::FIXED_FLAGS
    }
}

/// All other state of a thread: segment bases and the XSAVE area.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExtendedState {
    /// Base of FS: thread-local storage.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// Floating-point and vector registers.
    pub xsave: Xsave,
}

impl ExtendedState {
    /// The state of a new program.
    pub fn initial(layout: XsaveLayout) -> ExtendedState {
        ExtendedState { fs_base: 0, gs_base: 0, xsave: Xsave::initial(layout) }
    }
}

/// An XSAVE area in the CPU's standard (not compacted) form, at most 4,096 bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Xsave(pub Vec<u8>);

/// Size and components of the XSAVE area on this CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct XsaveLayout {
    /// Components that are enabled in XCR0.
    pub features: u64,
    /// Bytes of the area.
    pub size: usize,
}

/// Where the extended state of the thread is that makes a system call: in a vCPU, as a rule.
pub trait StateHolder {
    /// Bases of FS and GS.
    fn bases(&self) -> Result<(u64, u64), VmmError>;

    /// Changes the bases of FS and GS, those that are given.
    fn set_bases(&mut self, fs: Option<u64>, gs: Option<u64>) -> Result<(), VmmError>;

    /// The XSAVE area.
    fn xsave(&self) -> Result<Xsave, VmmError>;

    /// Replaces the XSAVE area. A guest's own must have been through [`Xsave::sanitise`].
    fn set_xsave(&mut self, area: &Xsave) -> Result<(), VmmError>;

    /// Layout of the XSAVE area.
    fn xsave_layout(&self) -> XsaveLayout;
}

/// Components that a guest may use: x87, SSE, AVX, AVX-512. Others (memory protection keys, AMX tiles) need more than a
/// place in the area.
const SUPPORTED: u64 = 0xe7;
/// Bytes of the legacy region and header.
const HEADER: usize = 576;

impl XsaveLayout {
    /// The layout for the components that are in both `offered` and this table.
    pub(super) fn of_cpu(offered: u64) -> XsaveLayout {
        let features = offered & SUPPORTED | 3;
        let size = (2..63).filter(|i| features >> i & 1 != 0).fold(HEADER, |size, component| {
            let leaf = __cpuid_count(0xd, component);
            size.max((leaf.eax + leaf.ebx) as usize)
        });
        XsaveLayout { features, size }
    }
}

/// Offset of XSTATE_BV, the bitmap of components that are not in their initial state.
const XSTATE_BV: usize = 512;
/// Offset of MXCSR, and the bits that may be set in it.
const MXCSR: usize = 24;
const MXCSR_MASK: u32 = 0xffff;

impl Xsave {
    /// The state of a new program: x87 and SSE control words at their defaults, all else zero.
    pub fn initial(layout: XsaveLayout) -> Xsave {
        let mut bytes = vec![0; layout.size];
        bytes[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
        bytes[XSTATE_BV] = 3;
        Xsave(bytes)
    }

    /// Makes an area that a guest wrote one that the CPU will load: unknown components and reserved bits are dropped.
    pub fn sanitise(&mut self, layout: XsaveLayout) {
        self.0.resize(layout.size, 0);
        let word = |b: &[u8], at: usize| {
            u64::from_le_bytes([
                b[at],
                b[at + 1],
                b[at + 2],
                b[at + 3],
                b[at + 4],
                b[at + 5],
                b[at + 6],
                b[at + 7],
            ])
        };
        let present = word(&self.0, XSTATE_BV) & layout.features;
        self.0[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&present.to_le_bytes());
        self.0[XSTATE_BV + 8..HEADER].fill(0);
        let mxcsr = u32::from_le_bytes([self.0[MXCSR], self.0[25], self.0[26], self.0[27]]) & MXCSR_MASK;
        self.0[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_area_is_made_loadable() {
        let layout = XsaveLayout::of_cpu(u64::MAX);
        let mut area = Xsave(vec![0xff; layout.size]);
        area.sanitise(layout);
        assert_eq!(u64::from_le_bytes(area.0[512..520].try_into().expect("8 bytes")), layout.features);
        assert!(area.0[520..576].iter().all(|b| *b == 0));
        assert_eq!(area.0[26..28], [0, 0]);
    }

    #[test]
    fn privileged_flags_never_reach_ring_3() {
        let regs = UserRegs { rflags: u64::MAX, ..UserRegs::default() };
        assert_eq!(regs.user_flags() & 0x3000, 0, "I/O privilege level");
        assert_eq!(regs.user_flags() & 0x2_4000, 0, "virtual-8086 mode, nested task");
        assert_eq!(regs.user_flags() & 0x202, 0x202);
    }
}
