//! Signal system calls.

use super::super::context::{Args, Ctx, OnSignal};
use super::super::errno::{Errno, SysResult};
use super::super::kernel::{Kernel, PID};
use super::super::sched::State;
use super::super::thread::{AlternateStack, Tid, Wait};
use super::super::time::Timespec;
use super::{Action, LAST, Set, SigInfo, UNBLOCKABLE, bit, queue, retarget};

const SI_USER: i32 = 0;
const SI_TKILL: i32 = -6;
const SET_SIZE: usize = 8;
const MIN_STACK: u64 = 2048;

fn check_set_size(size: usize) -> Result<(), Errno> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

fn check_signal(signal: i32) -> Result<i32, Errno> {
    if (1..=LAST).contains(&signal) { Ok(signal) } else { Err(Errno::EINVAL) }
}

impl Kernel {
    /// Replaces a thread's mask; signals that it lets through now are looked for before it enters the guest.
    pub fn set_mask(&self, tid: Tid, mask: Set) {
        let mut state = self.sched.lock();
        let Some(slot) = state.threads.get_mut(&tid) else { return };
        let blocked = mask & !slot.signals.mask;
        slot.signals.mask = mask & !UNBLOCKABLE;
        slot.attend();
        let takers = retarget(&state, blocked, tid);
        self.wake_locked(state, takers);
    }

    /// Makes a thread look for signals before it enters the guest.
    pub fn attend(&self, tid: Tid) {
        if let Some(slot) = self.sched.lock().threads.get(&tid) {
            slot.attend();
        }
    }

    /// A thread's mask.
    pub fn mask(&self, tid: Tid) -> Set {
        self.sched.lock().threads.get(&tid).map_or(0, |slot| slot.signals.mask)
    }
}

pub fn rt_sigaction(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let signal = check_signal(args.i32(0))?;
    check_set_size(args.size(3))?;
    let new = match args.u64(1) {
        0 => None,
        pointer => {
            let [handler, flags, restorer, mask] = ctx.kernel.read::<[u64; 4]>(pointer)?;
            if bit(signal) & UNBLOCKABLE != 0 {
                return Err(Errno::EINVAL);
            }
            Some(Action { handler, flags, restorer, mask: mask & !UNBLOCKABLE })
        }
    };
    let mut state = ctx.kernel.sched.lock();
    let old = state.signals.action(signal);
    if let Some(new) = new {
        state.signals.actions[(signal - 1) as usize] = new;
        if state.signals.is_ignored(signal) {
            queue::discard(&mut state, signal);
        }
    }
    drop(state);
    ctx.kernel.write_optional(args.u64(2), &[old.handler, old.flags, old.restorer, old.mask])?;
    Ok(0)
}

pub fn rt_sigprocmask(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_set_size(args.size(3))?;
    let tid = ctx.thread.tid;
    let old = ctx.kernel.mask(tid);
    if args.u64(1) != 0 {
        let set = ctx.kernel.read::<u64>(args.u64(1))?;
        let new = match args.i32(0) {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        ctx.kernel.set_mask(tid, new);
    }
    ctx.kernel.write_optional(args.u64(2), &old)?;
    Ok(0)
}

pub fn sigaltstack(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const ALLOWED: u32 = 1 << 31 | 3;
    let (sp, old) = (ctx.thread.regs.rsp, ctx.thread.alternate_stack);
    if args.u64(0) != 0 {
        let [base, flags, size] = ctx.kernel.read::<[u64; 3]>(args.u64(0))?;
        let flags = flags as u32;
        if old.size != 0 && old.holds(sp) {
            return Err(Errno::EPERM);
        }
        if flags & !ALLOWED != 0 || flags & 3 == 3 {
            return Err(Errno::EINVAL);
        }
        ctx.thread.alternate_stack = if flags & 2 != 0 {
            AlternateStack::default()
        } else if size < MIN_STACK {
            return Err(Errno::ENOMEM);
        } else {
            AlternateStack { base, size, flags: flags & 1 << 31 }
        };
    }
    ctx.kernel.write_optional(args.u64(1), &old.to_words(sp))?;
    Ok(0)
}

pub fn rt_sigpending(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.size(1) > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let state = ctx.kernel.sched.lock();
    let own = state.threads.get(&ctx.thread.tid).map_or(0, |s| s.signals.pending.set() & s.signals.mask);
    let all =
        own | state.signals.pending.set() & state.threads.get(&ctx.thread.tid).map_or(0, |s| s.signals.mask);
    drop(state);
    ctx.kernel.write_bytes(args.u64(0), &all.to_le_bytes()[..args.size(1)])?;
    Ok(0)
}

/// Waits with another mask until a handler has run.
pub fn rt_sigsuspend(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_set_size(args.size(1))?;
    let mask = ctx.kernel.read::<u64>(args.u64(0))?;
    ctx.swap_mask(mask);
    Err(ctx.block(Wait::default(), OnSignal::Interrupt))
}

pub fn pause(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    Err(ctx.block(Wait::default(), OnSignal::Interrupt))
}

impl Ctx<'_> {
    /// Sets the mask for the time of this call, as `ppoll` and its like do. The old one comes back with the handler's return, or when
    /// [`Ctx::restore_mask`] is called.
    pub fn swap_mask(&mut self, mask: Set) {
        let tid = self.thread.tid;
        if self.thread.saved_mask.is_none() {
            self.thread.saved_mask = Some(self.kernel.mask(tid));
        }
        self.kernel.set_mask(tid, mask);
    }

    /// Puts the mask back because the call ends without a signal.
    pub fn restore_mask(&mut self) {
        if let Some(mask) = self.thread.saved_mask.take() {
            self.kernel.set_mask(self.thread.tid, mask);
        }
    }
}

pub fn rt_sigtimedwait(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_set_size(args.size(3))?;
    let set = ctx.kernel.read::<u64>(args.u64(0))? & !UNBLOCKABLE;
    let deadline = match args.u64(2) {
        0 => None,
        pointer => {
            let timeout = ctx.kernel.read::<Timespec>(pointer)?.nanos()?;
            Some(ctx.deadline(timeout))
        }
    };
    let taken = {
        let mut state = ctx.kernel.sched.lock();
        let State { threads, signals: process, .. } = &mut *state;
        threads.get_mut(&ctx.thread.tid).and_then(|slot| {
            slot.signals.awaited = 0;
            slot.signals.pending.take(set).or_else(|| process.pending.take(set))
        })
    };
    if let Some(mut info) = taken {
        ctx.kernel.timer_taken(&mut info);
        if args.u64(1) != 0 {
            ctx.kernel.write_bytes(args.u64(1), &info.to_bytes())?;
        }
        return Ok(info.signal as u64);
    }
    if ctx.is_past(deadline) {
        return Err(Errno::EAGAIN);
    }
    let blocked = ctx.block(Wait { deadline, ..Wait::default() }, OnSignal::Interrupt);
    if blocked == Errno::BLOCKED
        && let Some(slot) = ctx.kernel.sched.lock().threads.get_mut(&ctx.thread.tid)
    {
        slot.signals.awaited = set;
    }
    Err(blocked)
}

fn send(ctx: &Ctx<'_>, target: Option<Tid>, info: SigInfo) -> SysResult {
    if info.signal == 0 {
        return match target {
            Some(tid) if ctx.kernel.sched.is_gone(tid) => Err(Errno::ESRCH),
            _ => Ok(0),
        };
    }
    check_signal(info.signal)?;
    ctx.kernel.send_signal(target, info).map(|_| 0)
}

/// Whether a `kill` to this process number, 0 or a group reaches the only process there is.
fn is_own_process(pid: i32) -> bool {
    matches!(pid, 0 | PID) || pid == -PID || pid == -1
}

pub fn kill(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (pid, signal) = (args.i32(0), args.i32(1));
    if !(0..=LAST).contains(&signal) {
        return Err(Errno::EINVAL);
    }
    if pid == -1 {
        // All processes but the caller's: there is none.
        return Err(Errno::ESRCH);
    }
    if !is_own_process(pid) {
        return Err(Errno::ESRCH);
    }
    send(ctx, None, SigInfo::from_process(signal, SI_USER, PID, ctx.kernel.identity.uid))
}

pub fn tkill(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    to_thread(ctx, args.i32(0), args.i32(1))
}

pub fn tgkill(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.i32(0) != PID {
        return Err(if args.i32(0) <= 0 { Errno::EINVAL } else { Errno::ESRCH });
    }
    to_thread(ctx, args.i32(1), args.i32(2))
}

fn to_thread(ctx: &Ctx<'_>, tid: Tid, signal: i32) -> SysResult {
    if tid <= 0 || !(0..=LAST).contains(&signal) {
        return Err(Errno::EINVAL);
    }
    send(ctx, Some(tid), SigInfo::from_process(signal, SI_TKILL, PID, ctx.kernel.identity.uid))
}

pub fn rt_sigqueueinfo(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    queue_info(ctx, args.i32(0), None, args.i32(1), args.u64(2))
}

pub fn rt_tgsigqueueinfo(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    queue_info(ctx, args.i32(0), Some(args.i32(1)), args.i32(2), args.u64(3))
}

fn queue_info(ctx: &Ctx<'_>, pid: i32, tid: Option<Tid>, signal: i32, pointer: u64) -> SysResult {
    let bytes = ctx.kernel.read::<[u8; 128]>(pointer)?;
    if pid != PID {
        return Err(Errno::ESRCH);
    }
    send(ctx, tid, SigInfo::from_bytes(signal, &bytes))
}
