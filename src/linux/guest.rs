//! Starting a program in a microVM, and waiting for its end.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::file::Inherited;
use super::identity::Identity;
use super::kernel::{Kernel, PID, Parts, Program, processors, workers_limit};
use super::limits::Limits;
use super::loader::{self, Image, LoadError};
use super::mm::AddressSpace;
use super::namespace::{Mount, Namespace};
use super::net::Policy;
use super::rights::Rights;
use super::sched::{ExitStatus, Sched};
use super::thread::Thread;
use super::time::Clock;
use super::timer::Timers;
use super::tmpfs::Caller;
use crate::sync::lock;
use crate::vmm::{ExtendedState, GuestMemory, Hypervisor, UserRegs, Vm, VmmError, xsave_layout};

/// So many looks in a row find all threads waiting where a program is at rest; a thread that waits for a moment goes on between two.
const QUIET_LOOKS: u32 = 4;

/// The time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// What to run, and in what.
pub struct Config {
    /// Guest RAM in bytes; a multiple of the page size, at least 4 MiB.
    pub memory: u64,
    /// What the program sees of files. One mount is at `/`.
    pub mounts: Vec<Mount>,
    /// Absolute path of the program in the guest.
    pub program: PathBuf,
    /// Its arguments, its name first.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Absolute path of its working directory in the guest.
    pub working_directory: PathBuf,
    /// Descriptors 0, 1, …
    pub descriptors: Vec<Inherited>,
    /// Its file mode creation mask.
    pub umask: u32,
    /// As whom it believes to run.
    pub identity: Identity,
    /// Whom it may talk to.
    pub network: Policy,
    /// With whose rights it uses the host.
    pub rights: Rights,
    /// Print its system calls to standard error.
    pub trace: bool,
    /// Where what it does is counted.
    pub counters: Arc<Counters>,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A mount's source cannot be opened.
    #[error("cannot open the source of a mount: {0}")]
    Mounts(#[source] std::io::Error),
    /// A descriptor that it should inherit is not usable.
    #[error("cannot hand descriptor {0} to the program")]
    Descriptor(usize),
}

/// A program that runs in a microVM of its own. It ends when this is dropped.
pub struct Guest {
    kernel: Arc<Kernel>,
}

impl Guest {
    /// Makes a microVM, loads the program and lets it run.
    pub fn start(config: Config) -> Result<Guest, StartError> {
        Hypervisor::get_ahead();
        let vm = Arc::new(Vm::new(GuestMemory::new(config.memory)?)?);
        vm.prepare_vcpu()?;
        // While its thread makes it.
        vm.add_memory()?;
        vm.memory().touch_ahead();
        let xsave = xsave_layout()?;
        let space = Arc::new(Mutex::new(AddressSpace::new(Arc::clone(vm.memory()))));
        let caller = Caller { uid: config.identity.uid, gid: config.identity.gid };
        let namespace = Namespace::new(&config.mounts, caller, &space).map_err(StartError::Mounts)?;
        let image = Image {
            path: &config.program,
            arguments: &config.arguments,
            environment: &config.environment,
            identity: &config.identity,
            signal_frame: xsave.size as u64 + SIGNAL_FRAME,
        };
        // As `/proc/self/exe` shows it: programs look beside it for their libraries.
        let real =
            namespace.open_to_read(&config.program).map_or_else(|_| config.program.clone(), |found| found.1);
        let start = loader::load(&mut lock(&space), &namespace, &image)?;
        let kernel = Kernel::new(Parts {
            memory: Arc::clone(vm.memory()),
            vm: Some(vm),
            sched: Sched::new(PID + 1, workers_limit()),
            clock: Clock::default(),
            namespace,
            identity: config.identity,
            program: Program { path: real, arguments: config.arguments, environment: config.environment },
            network: config.network,
            rights: config.rights,
            cpus: processors(),
            trace: config.trace,
            counters: config.counters,
            mm: space,
            limits: Limits::default(),
            timers: Timers::default(),
            working_directory: config.working_directory,
            umask: config.umask,
        })?;
        for (i, given) in config.descriptors.into_iter().enumerate() {
            let file = kernel.inherited_file(given, i as u32);
            file.and_then(|file| kernel.install(file, 0)).map_err(|_| StartError::Descriptor(i))?;
        }
        let regs = UserRegs { rip: start.rip, rsp: start.rsp, ..UserRegs::default() };
        let extended = ExtendedState::initial(xsave);
        let mut thread = Thread::new(PID, regs, extended);
        thread.set_name(kernel.program.path.file_name().unwrap_or_default().as_encoded_bytes());
        if let Some(vm) = &kernel.vm {
            vm.wait_until_idle();
        }
        kernel.add_thread(thread, 0);
        Ok(Guest::of(kernel))
    }

    /// The program that `kernel` serves.
    pub(super) fn of(kernel: Arc<Kernel>) -> Guest {
        Guest { kernel }
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Waits until the program has ended. Its descriptors are closed then. A failure of the machine is reported once.
    pub fn wait(&self) -> Result<ExitStatus, VmmError> {
        let (status, failure) = self.kernel.sched.wait_for_end();
        self.kernel.reactor.stop();
        let regions: Vec<_> =
            self.kernel.mm().regions().map(|(start, region)| (start, region.clone())).collect();
        for (start, region) in regions.iter().filter(|(_, region)| region.shared) {
            self.kernel.mm().write_back(*start, region.end, *start, region);
        }
        // Dropped without the table's lock: the end of a pipe looks for its peer.
        let open = std::mem::take(&mut *self.kernel.descriptors());
        drop(open);
        failure.map_or(Ok(status), Err)
    }

    /// Whether the program was ended because it needed more memory than its microVM has.
    pub fn ran_out_of_memory(&self) -> bool {
        self.kernel.out_of_memory.load(Ordering::Acquire)
    }

    /// Shows the program a file or directory of the host, read-only, at an absolute path where it has seen another until now. There can be
    /// one such mount; a checkpoint does not keep it: whoever restores the program gives it as one of the mounts.
    ///
    /// # Errors
    /// The source cannot be opened, or there is such a mount already.
    pub fn mount(&self, source: &Path, target: &Path) -> std::io::Result<()> {
        self.kernel.namespace.add(source, target, true)
    }

    /// Waits, at most for `patience`, until all threads of the program wait for something: it has nothing more to do by itself.
    pub fn settle(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut quiet = 0;
        while quiet < QUIET_LOOKS && Instant::now() < end {
            quiet = if self.kernel.sched.is_quiet() { quiet + 1 } else { 0 };
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Ends the program as `SIGKILL` would.
    pub fn kill(&self) {
        self.kernel.sched.exit(ExitStatus::Signal(libc::SIGKILL as u8));
    }
}

/// Ends the program if it runs. Its threads leave soon; the last one closes its files and frees its RAM.
impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
        self.kernel.reactor.stop();
    }
}

/// Bytes of a signal frame beside the XSAVE area, with room for alignment.
const SIGNAL_FRAME: u64 = 440 + 128 + 64 + 24;
