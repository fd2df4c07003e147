//! Running a signal handler: Linux's `struct rt_sigframe` for x86-64 on the program's stack, and the way back.
//!
//! Layout from the frame's address: the return address (8 bytes), `ucontext_t` (304 bytes: flags, link, stack, 256 bytes of
//! `sigcontext`, mask), `siginfo_t` (128 bytes). The XSAVE area lies above it, aligned to 64 bytes, with its size in the bytes that the
//! CPU leaves to software and a closing magic number.

use super::super::context::{Args, Ctx};
use super::super::errno::{Errno, SysResult};
use super::super::kernel::Kernel;
use super::super::thread::{AlternateStack, Thread};
use super::{Action, Set, SigInfo, UNBLOCKABLE};
use crate::vmm::{StateHolder, UserRegs, VmmError, Xsave, layout};

const CONTEXT: usize = 8;
const STACK: usize = CONTEXT + 16;
const REGISTERS: usize = CONTEXT + 40;
const AFTER_REGISTERS: usize = REGISTERS + 18 * 8;
const STATE_POINTER: usize = REGISTERS + 184;
const MASK: usize = CONTEXT + 296;
const INFO: usize = 312;
const FRAME: usize = INFO + 128;
/// The part of the legacy XSAVE region that the CPU ignores.
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// The area is an XSAVE image; the segments are saved; strict about the stack segment.
const FLAGS: u64 = 7;
/// Bytes below the stack pointer that a function may use without moving it.
const RED_ZONE: u64 = 128;

const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTORER: u64 = 0x0400_0000;
const SS_DISABLE: u32 = 2;
const SS_ONSTACK: u32 = 1;
const SS_AUTODISARM: u32 = 1 << 31;

/// The order of `sigcontext`.
fn to_words(r: &UserRegs) -> [u64; 18] {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip, r.rflags,
    ]
}

fn from_words(w: &[u64; 18]) -> UserRegs {
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags] = *w;
    UserRegs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

impl AlternateStack {
    /// Whether `sp` lies on it.
    pub fn holds(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && sp > self.base && sp - self.base <= self.size
    }

    /// `stack_t` as the guest sees it while its stack pointer is `sp`.
    pub fn to_words(self, sp: u64) -> [u64; 3] {
        let state = if self.size == 0 {
            SS_DISABLE
        } else if self.holds(sp) {
            SS_ONSTACK
        } else {
            0
        };
        [self.base, u64::from(state | self.flags), self.size]
    }
}

/// Makes the thread run the handler when it enters the guest next. The inner error: the stack has no room.
pub fn push(
    kernel: &Kernel,
    vcpu: &mut dyn StateHolder,
    thread: &mut Thread,
    info: &SigInfo,
    action: &Action,
    old_mask: Set,
) -> Result<Result<(), Errno>, VmmError> {
    let area = vcpu.xsave()?;
    Ok(write(kernel, vcpu, thread, info, action, old_mask, area))
}

fn write(
    kernel: &Kernel,
    vcpu: &dyn StateHolder,
    thread: &mut Thread,
    info: &SigInfo,
    action: &Action,
    old_mask: Set,
    mut area: Xsave,
) -> Result<(), Errno> {
    let alternate = thread.alternate_stack;
    let mut sp = thread.regs.rsp.wrapping_sub(RED_ZONE);
    let switch = action.flags & SA_ONSTACK != 0 && alternate.size != 0 && !alternate.holds(thread.regs.rsp);
    if switch {
        sp = alternate.base.wrapping_add(alternate.size);
    }
    let size = area.0.len();
    let state_at = sp.wrapping_sub(size as u64 + 4) & !63;
    let frame_at = (state_at.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
    // A handler nested too deeply must not leave the alternate stack at its lower end, and come back at its upper one.
    let nested = alternate.size != 0 && alternate.holds(thread.regs.rsp);
    if frame_at >= layout::USER_END || (nested || switch) && frame_at < alternate.base {
        return Err(Errno::EFAULT);
    }

    let layout = vcpu.xsave_layout();
    let software = &mut area.0[SOFTWARE..SOFTWARE + 48];
    software.fill(0);
    software[..4].copy_from_slice(&MAGIC1.to_le_bytes());
    software[4..8].copy_from_slice(&(size as u32 + 4).to_le_bytes());
    software[8..16].copy_from_slice(&layout.features.to_le_bytes());
    software[16..20].copy_from_slice(&(size as u32).to_le_bytes());
    area.0.extend_from_slice(&MAGIC2.to_le_bytes());

    let mut frame = [0u8; FRAME];
    let mut put = |at: usize, word: u64| frame[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(0, action.restorer);
    put(CONTEXT, FLAGS);
    for (i, word) in alternate.to_words(thread.regs.rsp).into_iter().enumerate() {
        put(STACK + 8 * i, word);
    }
    for (i, word) in to_words(&thread.regs).into_iter().enumerate() {
        put(REGISTERS + 8 * i, word);
    }
    let segments = u64::from(layout::selector::USER_CODE) | u64::from(layout::selector::USER_DATA) << 48;
    let (trap, error) = info.trap;
    for (i, word) in [segments, error, trap, old_mask, info.address(), state_at].into_iter().enumerate() {
        put(AFTER_REGISTERS + 8 * i, word);
    }
    put(MASK, old_mask);
    frame[INFO..].copy_from_slice(&info.to_bytes());

    kernel.write_bytes(state_at, &area.0)?;
    kernel.write_bytes(frame_at, &frame)?;
    if action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    if alternate.flags & SS_AUTODISARM != 0 && switch {
        thread.alternate_stack = AlternateStack::default();
    }
    let regs = &mut thread.regs;
    regs.rdi = info.signal as u64;
    regs.rsi = frame_at + INFO as u64;
    regs.rdx = frame_at + CONTEXT as u64;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = frame_at;
    // Trap, direction and resume flags are off in a handler.
    regs.rflags &= !0x1_0500;
    Ok(())
}

/// `rt_sigreturn`: everything as the frame says. The stack pointer is just above the return address.
pub fn rt_sigreturn(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    match restore(ctx) {
        Ok(()) => Ok(ctx.thread.regs.rax),
        Err(_) => {
            ctx.kernel.force_signal(ctx.thread.tid, SigInfo::fault(libc::SIGSEGV, 0x80, 0));
            ctx.kernel.attend(ctx.thread.tid);
            Ok(0)
        }
    }
}

fn restore(ctx: &mut Ctx<'_>) -> Result<(), Errno> {
    let frame_at = ctx.thread.regs.rsp.wrapping_sub(8);
    let mut frame = [0u8; INFO];
    ctx.kernel.read_bytes(frame_at, &mut frame)?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&frame[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let mut words = [0; 18];
    for (i, to) in words.iter_mut().enumerate() {
        *to = word(REGISTERS + 8 * i);
    }
    let state_at = word(STATE_POINTER);
    if state_at != 0 {
        let layout = ctx.vcpu.xsave_layout();
        let mut area = Xsave(vec![0; layout.size]);
        ctx.kernel.read_bytes(state_at, &mut area.0)?;
        let magic = u32::from_le_bytes([
            area.0[SOFTWARE],
            area.0[SOFTWARE + 1],
            area.0[SOFTWARE + 2],
            area.0[SOFTWARE + 3],
        ]);
        if magic != MAGIC1 {
            // Only the legacy region: x87 and SSE.
            area.0[512..].fill(0);
            area.0[512] = 3;
        }
        area.0[SOFTWARE..SOFTWARE + 48].fill(0);
        area.sanitise(layout);
        ctx.vcpu.set_xsave(&area).map_err(|_| Errno::EFAULT)?;
    }
    ctx.thread.regs = from_words(&words);
    ctx.kernel.set_mask(ctx.thread.tid, word(MASK) & !UNBLOCKABLE);
    let stack = AlternateStack {
        base: word(STACK),
        size: word(STACK + 16),
        flags: word(STACK + 8) as u32 & SS_AUTODISARM,
    };
    if word(STACK + 8) as u32 & SS_DISABLE == 0 && !ctx.thread.alternate_stack.holds(ctx.thread.regs.rsp) {
        ctx.thread.alternate_stack = stack;
    }
    Ok(())
}
