//! A guest thread: what a checkpoint keeps of it.

use serde::{Deserialize, Serialize};

use crate::vmm::{ExtendedState, UserRegs};

/// Number of a thread inside the guest. The first thread's is also the process's.
pub type Tid = i32;

/// A thread. While it runs or waits with its state in a vCPU, `extended` is `None`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub tid: Tid,
    /// Its registers in ring 3. Inside a system call `rip` is after the instruction and `rax` holds the call's number.
    pub regs: UserRegs,
    /// Segment bases and vector registers, unless a vCPU has them.
    pub extended: Option<ExtendedState>,
    /// The thread is inside a system call that waits, and begins it again when it runs next.
    pub in_call: bool,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// When the call that it is in gives up, in nanoseconds of the monotonic clock.
    pub deadline: Option<u64>,
    /// How much of the call that it is in was done by earlier attempts.
    pub progress: u64,
    /// Set to zero, with a futex wake, when the thread ends.
    pub clear_child_tid: u64,
    /// Head of the list of robust futexes.
    pub robust_list: u64,
    /// The alternate signal stack.
    pub alternate_stack: AlternateStack,
    /// The mask to put back after `sigsuspend` and its like, when no handler's frame does it.
    pub saved_mask: Option<u64>,
    /// Name, as `prctl` sets it: 15 bytes and a zero.
    pub name: [u8; 16],
}

impl Thread {
    /// A thread that begins at `regs`.
    pub fn new(tid: Tid, regs: UserRegs, extended: ExtendedState) -> Thread {
        Thread { regs, extended: Some(extended), ..Thread::bare(tid) }
    }

    /// A thread without registers, for a call that does not look at them.
    pub fn bare(tid: Tid) -> Thread {
        Thread {
            tid,
            regs: UserRegs::default(),
            extended: None,
            in_call: false,
            wait: None,
            deadline: None,
            progress: 0,
            clear_child_tid: 0,
            robust_list: 0,
            alternate_stack: AlternateStack::default(),
            saved_mask: None,
            name: [0; 16],
        }
    }

    /// Sets the name to the first 15 bytes of `name`.
    pub fn set_name(&mut self, name: &[u8]) {
        self.name = [0; 16];
        let n = name.len().min(15);
        self.name[..n].copy_from_slice(&name[..n]);
    }
}

/// An alternate signal stack; absent when `size` is 0.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AlternateStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// `SS_AUTODISARM` or 0.
    pub flags: u32,
}

/// What a thread in a waiting system call waits for; a signal that has a handler always ends the wait.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// Wakes it at this time, in nanoseconds of the monotonic clock.
    pub deadline: Option<u64>,
    /// Wakes it when one of these open files may have become ready.
    pub files: Vec<FileId>,
    /// It is in the queue of a futex (see `futex.rs`, which puts it there before the call is left).
    pub futex: bool,
}

impl Wait {
    /// Host memory that is held while it is registered, in bytes. A few files cost nothing: there are not many threads.
    pub fn cost(&self) -> usize {
        const FREE: usize = 64;
        /// Here, and where a file's waiters are found.
        const FILE: usize = 48;
        self.files.len().saturating_sub(FREE) * FILE
    }
}

/// Number of an open file description, unique in a VM.
pub type FileId = u64;
