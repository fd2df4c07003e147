//! The state that all threads of a program share.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use serde::{Deserialize, Serialize};
use vm_memory::VolatileMemory;

use super::budget::Budget;
use super::call_sites::CallSites;
use super::counters::Counters;
use super::descriptor::Descriptors;
use super::errno::Errno;
use super::host_fd::HostFds;
use super::identity::Identity;
use super::limits::Limits;
use super::lock::Locks;
use super::mm::AddressSpace;
use super::namespace::Namespace;
use super::net::{Network, Policy};
use super::reactor::{Reactor, TIME_SLICE};
use super::rights::Rights;
use super::sched::{Need, Sched, State};
use super::signal::SigInfo;
use super::thread::{FileId, Tid};
use super::time::Clock;
use super::timer::Timers;
use super::trace::Trace;
use super::worker;
use crate::sync::lock;
use crate::vmm::{Access, GuestMemory, Vm, VmmError};

/// Number of the program's process, and of its first thread.
pub const PID: i32 = 100;
/// Number of its parent.
pub const PPID: i32 = 1;

/// What was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Path of the executable file in the guest.
    #[serde(with = "super::checkpoint::path_bytes")]
    pub path: PathBuf,
    /// Arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
}

/// The shared state. See the module's description for the order of its locks.
pub struct Kernel {
    pub(super) this: Weak<Kernel>,
    /// Guest RAM.
    memory: Arc<GuestMemory>,
    /// The machine; without one no thread of the program runs.
    pub(super) vm: Option<Arc<Vm>>,
    /// Threads, futexes, signals, alarms.
    pub sched: Sched,
    /// Events from outside.
    pub reactor: Reactor,
    /// Clocks.
    pub clock: Clock,
    /// At which count of the time stamp counter the vDSO's are to be put right.
    pub(super) clocks_due: AtomicU64,
    /// The composed root.
    pub namespace: Namespace,
    /// Whom the program believes to run as.
    pub identity: Identity,
    /// The program.
    pub program: Program,
    /// Its sockets, and whom it may talk to.
    pub network: Network,
    /// Host memory that is held for it.
    pub budget: Budget,
    /// Descriptors of the host that are held for it.
    pub host_fds: Arc<HostFds>,
    /// With whose rights it uses the host.
    pub rights: Rights,
    /// Its locks on files.
    pub(super) locks: Locks,
    /// Processors that it sees.
    pub cpus: usize,
    /// Prints system calls.
    pub trace: Option<Trace>,
    /// What it does, counted.
    pub counters: Arc<Counters>,
    pub(super) next_file: AtomicU64,
    pub(super) mm: Arc<Mutex<AddressSpace>>,
    pub(super) descriptors: Mutex<Descriptors>,
    pub(super) limits: Mutex<Limits>,
    pub(super) timers: Mutex<Timers>,
    pub(super) working_directory: Mutex<PathBuf>,
    pub(super) umask: AtomicU32,
    pub(super) refused: Mutex<HashSet<u64>>,
    call_sites: Mutex<CallSites>,
    pub(super) out_of_memory: AtomicBool,
}

/// What a kernel is made of: anew, or from a checkpoint.
#[allow(missing_docs)] // As in `Kernel`.
pub struct Parts {
    pub memory: Arc<GuestMemory>,
    pub vm: Option<Arc<Vm>>,
    pub sched: Sched,
    pub clock: Clock,
    pub namespace: Namespace,
    pub identity: Identity,
    pub program: Program,
    pub network: Policy,
    pub rights: Rights,
    pub cpus: usize,
    pub trace: bool,
    pub counters: Arc<Counters>,
    pub mm: Arc<Mutex<AddressSpace>>,
    pub limits: Limits,
    pub timers: Timers,
    pub working_directory: PathBuf,
    pub umask: u32,
}

/// Most workers of a VM on this machine.
pub fn workers_limit() -> usize {
    (4 * processors()).clamp(16, 64)
}

/// Processors that this process may use, found out once: that reads files of the cgroup.
pub fn processors() -> usize {
    static ALL: OnceLock<usize> = OnceLock::new();
    *ALL.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

impl Kernel {
    /// A kernel without open files.
    pub fn new(parts: Parts) -> Result<Arc<Kernel>, VmmError> {
        let reactor = Reactor::new()?;
        let budget = Budget::for_memory(parts.memory.size());
        let host_fds = HostFds::new(parts.rights);
        lock(&parts.mm).host_fds = Some(Arc::clone(&host_fds));
        Ok(Arc::new_cyclic(|this| Kernel {
            this: this.clone(),
            memory: parts.memory,
            vm: parts.vm,
            sched: parts.sched,
            reactor,
            clock: parts.clock,
            clocks_due: AtomicU64::new(0),
            namespace: parts.namespace,
            identity: parts.identity,
            program: parts.program,
            network: Network::new(parts.network),
            budget,
            host_fds,
            rights: parts.rights,
            locks: Locks::default(),
            cpus: parts.cpus,
            trace: parts.trace.then_some(Trace),
            counters: parts.counters,
            next_file: Default::default(),
            mm: parts.mm,
            descriptors: Descriptors::default().into(),
            limits: parts.limits.into(),
            timers: parts.timers.into(),
            working_directory: parts.working_directory.into(),
            umask: parts.umask.into(),
            refused: Default::default(),
            call_sites: Default::default(),
            out_of_memory: Default::default(),
        }))
    }

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
        &self.memory
    }

    /// Where it makes its system calls from.
    pub(super) fn call_sites(&self) -> MutexGuard<'_, CallSites> {
        lock(&self.call_sites)
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
            Need::Wake(worker) => worker.notify_one(),
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

    /// Sends a signal to a thread or the process; false if it was ignored. `ESRCH`: there is no such thread. `EAGAIN`: too many
    /// real-time signals are queued.
    pub fn send_signal(&self, target: Option<Tid>, info: SigInfo) -> Result<bool, Errno> {
        let most = self.limits().get(libc::RLIMIT_SIGPENDING as i32)?.0;
        self.sched.send(target, info, most.try_into().unwrap_or(usize::MAX), |need| self.serve(need))
    }

    /// Sends a signal to the calling thread, as the kernel does for `SIGPIPE`.
    pub fn send_own(&self, tid: Tid, signal: i32) {
        // A classic signal is always queued, and the caller exists.
        let _ = self.send_signal(Some(tid), SigInfo::from_process(signal, 0, PID, self.identity.uid));
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
