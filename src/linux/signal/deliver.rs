//! What becomes of a thread's signals before it enters the guest.

use super::super::errno::Errno;
use super::super::kernel::Kernel;
use super::super::sched::State;
use super::super::thread::{Thread, Tid};
use super::{DEFAULT, IGNORE, SigInfo, UNBLOCKABLE, bit, frame, retarget};
use crate::vmm::{StateHolder, VmmError};

/// What came of looking for signals.
pub enum Delivery {
    /// The thread may go on, perhaps in a handler.
    Done,
    /// No signal after all: the interrupted call goes on.
    Resume,
    /// This signal ends the program.
    Fatal(u8),
}

/// Delivers every signal that is due to a thread that is about to enter the guest. `interrupted`: its system call was interrupted; it
/// begins again if no handler runs, and after one with `SA_RESTART` if it is `Some(true)`.
pub fn deliver(
    kernel: &Kernel,
    vcpu: &mut dyn StateHolder,
    thread: &mut Thread,
    interrupted: Option<bool>,
) -> Result<Delivery, VmmError> {
    const SA_RESTART: u64 = 0x1000_0000;
    const SA_RESETHAND: u64 = 0x8000_0000;
    const SA_NODEFER: u64 = 0x4000_0000;
    let mut interrupted = interrupted;
    loop {
        let mut state = kernel.sched.lock();
        let State { threads, signals: process, .. } = &mut *state;
        let Some(slot) = threads.get_mut(&thread.tid) else { return Ok(Delivery::Done) };
        let due = !slot.signals.mask;
        let Some(mut info) = slot.signals.pending.take(due).or_else(|| process.pending.take(due)) else {
            // No handler whose frame would put the mask back.
            if let Some(mask) = thread.saved_mask.take() {
                slot.signals.mask = mask;
                continue;
            }
            return Ok(if interrupted.is_some() { Delivery::Resume } else { Delivery::Done });
        };
        if process.is_ignored(info.signal) && info.trap.0 == 0 {
            continue;
        }
        let action = process.action(info.signal);
        if matches!(action.handler, DEFAULT | IGNORE) {
            return Ok(Delivery::Fatal(info.signal as u8));
        }
        if action.flags & SA_RESETHAND != 0 {
            process.actions[(info.signal - 1) as usize].handler = DEFAULT;
        }
        let old_mask = thread.saved_mask.take().unwrap_or(slot.signals.mask);
        slot.signals.mask |= action.mask & !UNBLOCKABLE;
        if action.flags & SA_NODEFER == 0 {
            slot.signals.mask |= bit(info.signal);
        }
        let blocked = slot.signals.mask & !old_mask;
        let takers = retarget(&state, blocked, thread.tid);
        kernel.wake_locked(state, takers);
        kernel.timer_taken(&mut info);
        if let Some(trace) = &kernel.trace {
            trace.signal(thread.tid, &info);
        }
        if let Some(restart) = interrupted.take() {
            thread.in_call = false;
            if restart && action.flags & SA_RESTART != 0 {
                // The `syscall` instruction again, with the number still in rax.
                thread.regs.rip = thread.regs.rip.wrapping_sub(2);
            } else {
                thread.regs.rax = Errno::EINTR.to_rax();
            }
        }
        thread.regs.rip = kernel.mm().origin(thread.regs.rip);
        if frame::push(kernel, vcpu, thread, &info, &action, old_mask)?.is_err() {
            // No room for the frame: as Linux, which then forces a SIGSEGV that cannot be handled.
            return Ok(Delivery::Fatal(libc::SIGSEGV as u8));
        }
    }
}

impl Kernel {
    /// Sends a signal that the thread's own instruction caused. If it is blocked or ignored, it ends the program.
    pub fn force_signal(&self, tid: Tid, info: SigInfo) {
        let mut state = self.sched.lock();
        let State { threads, signals: process, .. } = &mut *state;
        if let Some(slot) = threads.get_mut(&tid) {
            let number = bit(info.signal);
            if slot.signals.mask & number != 0 || process.action(info.signal).handler == IGNORE {
                slot.signals.mask &= !number;
                process.actions[(info.signal - 1) as usize].handler = DEFAULT;
            }
            slot.signals.pending.push(info);
        }
    }
}
