//! The state that all threads of a program share.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_memory::VolatileMemory;

use super::descriptor::Descriptors;
use super::errno::Errno;
use super::identity::Identity;
use super::limits::Limits;
use super::mm::AddressSpace;
use super::namespace::Namespace;
use super::net::Policy;
use super::reactor::{Reactor, TIME_SLICE};
use super::sched::{Need, Sched, State};
use super::signal::SigInfo;
use super::thread::{FileId, Tid};
use super::time::Clock;
use super::timer::Timers;
use super::trace::Trace;
use super::worker;
use crate::vmm::{Access, GuestMemory, Vm};

/// Number of the program's process, and of its first thread.
pub const PID: i32 = 100;
/// Number of its parent.
pub const PPID: i32 = 1;

/// What was started.
pub struct Program {
    /// Path of the executable file in the guest.
    pub path: PathBuf,
    /// Arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
}

/// The shared state. See the module's description for the order of its locks.
pub struct Kernel {
    pub(super) this: Weak<Kernel>,
    /// The machine.
    pub vm: Vm,
    /// Threads, futexes, signals, alarms.
    pub sched: Sched,
    /// Events from outside.
    pub reactor: Reactor,
    /// Clocks.
    pub clock: Clock,
    /// The composed root.
    pub namespace: Namespace,
    /// Whom the program believes to run as.
    pub identity: Identity,
    /// The program.
    pub program: Program,
    /// Whom it may talk to.
    pub network: Policy,
    /// Processors that it sees.
    pub cpus: usize,
    /// Prints system calls.
    pub trace: Option<Trace>,
    pub(super) next_file: AtomicU64,
    pub(super) mm: Mutex<AddressSpace>,
    pub(super) descriptors: Mutex<Descriptors>,
    pub(super) limits: Mutex<Limits>,
    pub(super) timers: Mutex<Timers>,
    pub(super) working_directory: Mutex<PathBuf>,
    pub(super) umask: AtomicU32,
    pub(super) refused: Mutex<HashSet<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a bug that ends the VM; until then others may go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    /// A handle that can be kept.
    pub fn weak(&self) -> Weak<Kernel> {
        self.this.clone()
    }

    /// A counted handle, while the program lives.
    pub fn this(&self) -> Option<Arc<Kernel>> {
        self.this.upgrade()
    }

    /// The address space.
    pub fn mm(&self) -> MutexGuard<'_, AddressSpace> {
        lock(&self.mm)
    }

    /// Guest RAM.
    pub fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// The descriptor table.
    pub fn descriptors(&self) -> MutexGuard<'_, Descriptors> {
        lock(&self.descriptors)
    }

    /// Resource limits.
    pub fn limits(&self) -> MutexGuard<'_, Limits> {
        lock(&self.limits)
    }

    /// Timers that send signals.
    pub fn timers(&self) -> MutexGuard<'_, Timers> {
        lock(&self.timers)
    }

    /// The working directory.
    pub fn working_directory(&self) -> PathBuf {
        lock(&self.working_directory).clone()
    }

    /// Changes it.
    pub fn set_working_directory(&self, path: PathBuf) {
        *lock(&self.working_directory) = path;
    }

    /// The file mode creation mask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Changes it; returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask, Ordering::Relaxed)
    }

    /// Gives a thread that became ready what it needs.
    pub(super) fn serve(&self, need: Need) {
        match need {
            Need::Worker(id) => {
                if let Some(this) = self.this() {
                    worker::spawn(&this, id);
                }
            }
            Need::Turn => self.arm(self.clock.monotonic() + TIME_SLICE),
        }
    }

    /// Wakes those who wait for a file.
    pub fn wake_file(&self, id: FileId) {
        self.sched.wake_file(id, |need| self.serve(need));
    }

    /// Wakes threads; gives the scheduler's lock back.
    pub(super) fn wake_locked(&self, state: MutexGuard<'_, State>, tids: Vec<Tid>) {
        self.sched.wake_all(state, tids, |need| self.serve(need));
    }

    /// Sends a signal to a thread or the process; false if there is no such thread.
    pub fn send_signal(&self, target: Option<Tid>, info: SigInfo) -> bool {
        self.sched.send(target, info, |need| self.serve(need))
    }

    /// Sends a signal to the calling thread, as the kernel does for `SIGPIPE`.
    pub fn send_own(&self, tid: Tid, signal: i32) {
        self.send_signal(Some(tid), SigInfo::from_process(signal, 0, PID, self.identity.uid));
    }

    /// Makes every vCPU leave the guest once, which orders all memory accesses before with all after.
    pub fn serialise_vcpus(&self) {
        self.sched.kick_all();
    }

    /// Changes a word of the program's memory in one atomic step; returns the old value, `None` if `change` did not want to.
    pub fn update_word(
        &self,
        address: u64,
        mut change: impl FnMut(u32) -> Option<u32>,
    ) -> Result<Option<u32>, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let slices = self.user_slices(address, 4, Access::WRITE)?;
        let slice = slices.first().ok_or(Errno::EFAULT)?;
        let word = slice.get_atomic_ref::<AtomicU32>(0).map_err(|_| Errno::EFAULT)?;
        Ok(word.fetch_update(Ordering::AcqRel, Ordering::Acquire, &mut change).ok())
    }

    /// Logs, once for each call, that it is not served.
    pub fn log_refusal(&self, number: u64, name: &str, errno: Errno) {
        /// A program can make up numbers.
        const MOST: usize = 1024;
        let mut refused = lock(&self.refused);
        if refused.len() < MOST && refused.insert(number) {
            tracing::info!(
                number,
                name,
                errno = errno.name(),
                "the program made a system call that is not served"
            );
        }
    }
}
