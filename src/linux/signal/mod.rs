//! Signals: what is queued for whom, and which comes next.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | signals, masks and actions |
//! | `queue.rs` | what waits to be delivered, and which thread is woken for it |
//! | `deliver.rs` | what becomes of a thread's signals before it enters the guest |
//! | `frame.rs` | running a handler: the frame on the program's stack, and `rt_sigreturn` |
//! | `calls.rs` | the system calls |

pub mod calls;
mod deliver;
pub mod frame;
mod queue;

use serde::{Deserialize, Serialize};

pub use deliver::{Delivery, deliver};
pub use queue::Pending;
pub(super) use queue::{queue, retarget};

/// Highest signal number.
pub const LAST: i32 = 64;

/// A set of signals; bit `n - 1` is signal `n`.
pub type Set = u64;

/// The bit of a signal, 0 for a number that is none.
pub fn bit(signal: i32) -> Set {
    if (1..=LAST).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

/// Signals that can be neither blocked nor handled.
pub const UNBLOCKABLE: Set = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// `siginfo_t`, less its padding, and the trap that caused the signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
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
        SigInfo {
            signal,
            code: (word(8) & 0xffff_ffff) as i32,
            fields: [word(16), word(24), word(32)],
            trap: (0, 0),
        }
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
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}

/// A thread's mask and queue.
#[derive(Default, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

/// What a checkpoint keeps of [`ProcessSignals`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedSignals {
    actions: Vec<Action>,
    pending: Pending,
}

impl ProcessSignals {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedSignals {
        SavedSignals { actions: self.actions.to_vec(), pending: self.pending.clone() }
    }

    /// The actions and the queue as they were; `None` if there are not as many actions as signals.
    pub fn restore(saved: SavedSignals) -> Option<ProcessSignals> {
        Some(ProcessSignals { actions: saved.actions.try_into().ok()?, pending: saved.pending })
    }

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
