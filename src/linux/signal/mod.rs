//! Signals: what is queued for whom, and which comes next.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | queues, masks and actions; the choice of the next signal |
//! | `frame.rs` | running a handler: the frame on the program's stack, and `rt_sigreturn` |
//! | `calls.rs` | the system calls |

pub mod calls;
pub mod frame;

use std::collections::{BTreeMap, VecDeque};

use super::errno::Errno;
use super::kernel::Kernel;
use super::sched::State;
use super::thread::{Thread, Tid};
use crate::vmm::{Vcpu, VmmError};

/// Highest signal number.
pub const LAST: i32 = 64;
/// Most queued signals of one number, for a thread or for the process.
const MOST_QUEUED: usize = 1024;

/// A set of signals; bit `n - 1` is signal `n`.
pub type Set = u64;

/// The bit of a signal, 0 for a number that is none.
pub fn bit(signal: i32) -> Set {
    if (1..=LAST).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

/// Signals that can be neither blocked nor handled.
pub const UNBLOCKABLE: Set = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// `siginfo_t`, less its padding, and the trap that caused the signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SigInfo {
    /// Signal number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// The union after `si_code`, from byte 16: pid and uid, or an address, or a timer and its overrun, then a value.
    pub fields: [u64; 3],
    /// Trap number and error code of an exception, for the frame.
    pub trap: (u64, u64),
}

impl SigInfo {
    /// A signal caused by the instruction under way.
    pub fn fault(signal: i32, code: i32, address: u64) -> SigInfo {
        SigInfo { signal, code, fields: [address, 0, 0], trap: (0, 0) }
    }

    /// A signal from a process of the guest.
    pub fn from_process(signal: i32, code: i32, pid: i32, uid: u32) -> SigInfo {
        SigInfo { signal, code, fields: [u64::from(pid as u32) | u64::from(uid) << 32, 0, 0], trap: (0, 0) }
    }

    /// Adds the exception that caused it.
    pub fn with_trap(self, number: u64, error: u64) -> SigInfo {
        SigInfo { trap: (number, error), ..self }
    }

    /// As the guest sees it.
    pub fn to_bytes(self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&self.signal.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        for (i, field) in self.fields.iter().enumerate() {
            bytes[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// From what a guest passed.
    pub fn from_bytes(signal: i32, bytes: &[u8; 128]) -> SigInfo {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        SigInfo { signal, code: (word(8) & 0xffff_ffff) as i32, fields: [word(16), word(24), word(32)], trap: (0, 0) }
    }

    /// The address of the fault, for the frame's `cr2`.
    fn address(&self) -> u64 {
        if self.trap.0 == 14 { self.fields[0] } else { 0 }
    }
}

/// The signal of an exception other than a page fault.
pub fn exception(vector: u8, error: u64, rip: u64) -> SigInfo {
    const KERNEL: i32 = 0x80;
    let (signal, code, address) = match vector {
        0 => (libc::SIGFPE, 1, rip),
        1 => (libc::SIGTRAP, 2, rip),
        3 => (libc::SIGTRAP, KERNEL, 0),
        6 => (libc::SIGILL, 2, rip),
        16 | 19 => (libc::SIGFPE, 3, rip),
        17 => (libc::SIGBUS, 1, 0),
        _ => (libc::SIGSEGV, KERNEL, 0),
    };
    SigInfo::fault(signal, code, address).with_trap(u64::from(vector), error)
}

/// What is to be done for a signal.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Action {
    /// 0 for the default, 1 to ignore, else the handler's address.
    pub handler: u64,
    /// `SA_…`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: Set,
}

/// The default action.
pub const DEFAULT: u64 = 0;
/// Do nothing.
pub const IGNORE: u64 = 1;

/// Whether the default action of a signal is to do nothing. Stopping is not supported, and counts as nothing.
fn ignored_by_default(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGCONT
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}

/// Signals that wait to be delivered.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    queues: BTreeMap<i32, VecDeque<SigInfo>>,
}

impl Pending {
    /// The numbers that wait.
    pub fn set(&self) -> Set {
        self.queues.keys().fold(0, |set, signal| set | bit(*signal))
    }

    /// Adds a signal. Classic ones wait once, real-time ones each.
    pub fn push(&mut self, info: SigInfo) {
        const FIRST_REAL_TIME: i32 = 32;
        let queue = self.queues.entry(info.signal).or_default();
        let most = if info.signal < FIRST_REAL_TIME { 1 } else { MOST_QUEUED };
        if queue.len() < most {
            queue.push_back(info);
        }
    }

    /// Takes the lowest-numbered signal in `set`.
    pub fn take(&mut self, set: Set) -> Option<SigInfo> {
        // A fault comes before all others: its frame must show the instruction that caused it.
        let fault = |i: &SigInfo| i.trap.0 != 0;
        let pick = |q: &&i32| bit(**q) & set != 0;
        let number = self
            .queues
            .iter()
            .find(|(n, q)| pick(n) && q.front().is_some_and(fault))
            .map(|(n, _)| *n)
            .or_else(|| self.queues.keys().find(pick).copied())?;
        let queue = self.queues.get_mut(&number)?;
        let info = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&number);
        }
        info
    }

    /// Drops a signal that has come to be ignored.
    pub fn discard(&mut self, signal: i32) {
        self.queues.remove(&signal);
    }
}

/// A thread's mask and queue.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub struct ThreadSignals {
    /// Blocked signals.
    pub mask: Set,
    /// Signals that `sigtimedwait` waits for: they wake the thread though they are blocked.
    pub awaited: Set,
    /// Sent to this thread.
    pub pending: Pending,
}

impl ThreadSignals {
    /// Signals that wait and that this thread does not block.
    pub fn deliverable(&self, process: &ProcessSignals) -> Set {
        (self.pending.set() | process.pending.set()) & (!self.mask | self.awaited)
    }
}

/// The process's actions and queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProcessSignals {
    /// By number, less one.
    pub actions: [Action; LAST as usize],
    /// Sent to the process: any thread that does not block them takes them.
    pub pending: Pending,
}

impl Default for ProcessSignals {
    fn default() -> ProcessSignals {
        ProcessSignals { actions: [Action::default(); LAST as usize], pending: Pending::default() }
    }
}

impl ProcessSignals {
    /// The action for a signal number that was checked.
    pub fn action(&self, signal: i32) -> Action {
        self.actions.get((signal - 1) as usize).copied().unwrap_or_default()
    }

    /// Whether a signal would do nothing.
    pub fn is_ignored(&self, signal: i32) -> bool {
        match self.action(signal).handler {
            IGNORE => true,
            DEFAULT => ignored_by_default(signal),
            _ => false,
        }
    }
}

/// Queues a signal for a thread or the process. Returns the thread to wake, if any; `None` when the target does not exist.
pub(super) fn queue(state: &mut State, target: Option<Tid>, info: SigInfo) -> Option<Option<Tid>> {
    let blocked = |state: &State, tid: Tid| {
        state.threads.get(&tid).is_some_and(|slot| slot.signals.mask & bit(info.signal) != 0)
    };
    let awaited = |state: &State, tid: Tid| {
        state.threads.get(&tid).is_some_and(|slot| slot.signals.awaited & bit(info.signal) != 0)
    };
    let ignored = state.signals.is_ignored(info.signal);
    match target {
        Some(tid) => {
            let is_blocked = blocked(state, tid);
            let slot = state.threads.get_mut(&tid)?;
            if ignored && !is_blocked {
                return Some(None);
            }
            slot.signals.pending.push(info);
            Some((!is_blocked || awaited(state, tid)).then_some(tid))
        }
        None => {
            let tids: Vec<Tid> = state.threads.keys().copied().collect();
            let taker = tids
                .iter()
                .find(|tid| awaited(state, **tid))
                .or_else(|| tids.iter().find(|tid| !blocked(state, **tid)))
                .copied();
            if ignored && taker.is_some_and(|tid| !awaited(state, tid)) {
                return Some(None);
            }
            state.signals.pending.push(info);
            Some(taker)
        }
    }
}

/// What came of looking for signals.
pub enum Delivery {
    /// The thread may go on, perhaps in a handler.
    Done,
    /// No signal after all: the interrupted call goes on.
    Resume,
    /// This signal ends the program.
    Fatal(u8),
}

/// Delivers every signal that is due to a thread that is about to enter the guest. `restart`: its last system call was interrupted
/// and may begin again.
pub fn deliver(
    kernel: &Kernel,
    vcpu: &mut Vcpu,
    thread: &mut Thread,
    restart: bool,
) -> Result<Delivery, VmmError> {
    const SA_RESTART: u64 = 0x1000_0000;
    const SA_RESETHAND: u64 = 0x8000_0000;
    const SA_NODEFER: u64 = 0x4000_0000;
    let mut restart = restart;
    loop {
        let mut state = kernel.sched.lock();
        let State { threads, signals: process, .. } = &mut *state;
        let Some(slot) = threads.get_mut(&thread.tid) else { return Ok(Delivery::Done) };
        let due = !slot.signals.mask;
        let Some(info) = slot.signals.pending.take(due).or_else(|| process.pending.take(due)) else {
            // No handler whose frame would put the mask back.
            if let Some(mask) = thread.saved_mask.take() {
                slot.signals.mask = mask;
                continue;
            }
            return Ok(if restart { Delivery::Resume } else { Delivery::Done });
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
        drop(state);
        if let Some(trace) = &kernel.trace {
            trace.signal(thread.tid, &info);
        }
        if restart {
            restart = false;
            if action.flags & SA_RESTART != 0 {
                // The `syscall` instruction again, with the number still in rax.
                thread.regs.rip = thread.regs.rip.wrapping_sub(2);
            } else {
                thread.regs.rax = Errno::EINTR.to_rax();
            }
        }
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
