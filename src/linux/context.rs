//! What a system-call handler is given.

use super::errno::Errno;
use super::kernel::Kernel;
use super::thread::{Thread, Wait};
use crate::vmm::StateHolder;

/// The six arguments, unchecked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// An address or another whole register.
    pub fn u64(&self, i: usize) -> u64 {
        self.0[i]
    }

    /// A signed 64-bit argument, such as a file offset.
    pub fn i64(&self, i: usize) -> i64 {
        self.0[i] as i64
    }

    /// An `int`: the upper half of the register is ignored, as Linux does.
    pub fn i32(&self, i: usize) -> i32 {
        self.0[i] as i32
    }

    /// An `unsigned int`.
    pub fn u32(&self, i: usize) -> u32 {
        self.0[i] as u32
    }

    /// A length in bytes or a count.
    pub fn size(&self, i: usize) -> usize {
        self.0[i] as usize
    }
}

/// What a handler works with: the kernel that all threads share, and the thread that made the call.
pub struct Ctx<'a> {
    /// The shared state.
    pub kernel: &'a Kernel,
    /// The caller.
    pub thread: &'a mut Thread,
    /// Where the caller's extended state is.
    pub vcpu: &'a mut dyn StateHolder,
}

/// What becomes of a call that waits when a signal handler must run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnSignal {
    /// It begins again if the handler was installed with `SA_RESTART`, else it fails with `EINTR`.
    Restart,
    /// It fails with `EINTR`, whatever the handler was installed with.
    Interrupt,
}

impl Ctx<'_> {
    /// Ends this attempt of the call because it must wait; the handler returns the value as its error, and is called again when
    /// one of the things in `wait` happened. A signal comes first; if no handler runs for it after all (another thread took it), the
    /// handler is called again with the deadline and progress of this attempt.
    ///
    /// The caller of the handler registers `wait` and calls the handler once more before it puts the thread to sleep,
    /// so a handler need not care for events between its look and its return.
    #[must_use]
    pub fn block(&mut self, wait: Wait, on_signal: OnSignal) -> Errno {
        if self.kernel.sched.signal_is_due(self.thread.tid) {
            return match on_signal {
                OnSignal::Restart => Errno::RESTART,
                OnSignal::Interrupt => Errno::INTERRUPTED,
            };
        }
        self.thread.wait = Some(wait);
        Errno::BLOCKED
    }

    /// The time, in nanoseconds of the monotonic clock, at which this call gives up: `timeout` after its *first* attempt.
    pub fn deadline(&mut self, timeout: u64) -> u64 {
        let now = self.kernel.clock.monotonic();
        *self.thread.deadline.get_or_insert(now.saturating_add(timeout))
    }

    /// Whether the time has come.
    pub fn is_past(&self, deadline: Option<u64>) -> bool {
        deadline.is_some_and(|at| self.kernel.clock.monotonic() >= at)
    }
}
