//! Checkpoint and restore: a program that is stopped, kept as plain data and RAM, and continued, perhaps many times.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | making a checkpoint; [`State`], what it keeps beside the RAM |
//! | `restore.rs` | making the program go on |
//! | `files.rs` | open files |
//! | `outside.rs` | files of the host: found again, or carried along |
//!
//! Every area keeps the saved form of its own records beside them.
//!
//! # What a restored program finds
//! Its memory, threads, signals, timers, pipes, events and sets are what they were. Monotonic time goes on from the checkpoint; wall time
//! is right. Files of the host are opened anew by path, at the same position; a *mapped* file must not have changed since, or the restore
//! is refused. Files that have no path any more come along with their content. The streams that the program was started with are replaced
//! by those that the restored one is given; what Hydra had not read of its own waits in the new one. File systems in guest RAM are what
//! they were, with the locks on their files. Connections to the outside read as reset; listeners listen again if their name is free. Locks
//! on files of the host are gone.

mod files;
mod outside;
mod restore;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Guest;
use super::errno::Errno;
use super::identity::Identity;
use super::kernel::{Kernel, Program};
use super::limits::SavedLimits;
use super::mm::SavedSpace;
use super::namespace::SavedMounts;
use super::reactor::Stopped;
use super::sched::SavedSched;
use super::timer::Timers;
use crate::vmm::{Cpu, GuestMemory, Hypervisor, SavedFrames, VmmError, layout};
use files::SavedFiles;
use outside::unpack;
pub use outside::{Finder, Keeper, MOST_CARRIED, Place};
pub use restore::{RestoreError, Surroundings};

/// Everything of a stopped program that is not in its RAM. Plain data, which any format of `serde` takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    cpu: Cpu,
    /// Bytes of guest RAM.
    memory: u64,
    /// The guest's monotonic clock, in nanoseconds.
    monotonic: u64,
    program: Program,
    identity: Identity,
    cpus: u32,
    #[serde(with = "path_bytes")]
    working_directory: PathBuf,
    umask: u32,
    limits: SavedLimits,
    timers: Timers,
    space: SavedSpace,
    mounts: SavedMounts,
    files: SavedFiles,
    /// Content of files without a path.
    carried: Vec<Vec<u8>>,
    sched: SavedSched,
}

impl State {
    /// The CPU that the program was stopped on; a restore needs one that has all of it.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Bytes of guest RAM.
    pub fn memory_size(&self) -> u64 {
        self.memory
    }

    /// The frames of RAM that are in use.
    pub(super) fn frames(&self) -> &SavedFrames {
        &self.space.frames
    }

    /// Guest-physical byte ranges whose content belongs to the checkpoint, in order; all other RAM counts as zero.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        std::iter::once(0..layout::VCPU_AREA).chain(self.space.frames.ranges())
    }
}

/// Why no checkpoint was made.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no program any more.
    #[error("the program has ended")]
    Ended,
    /// More than [`MOST_CARRIED`].
    #[error("the files without a name that the program uses hold more than {} MiB", MOST_CARRIED >> 20)]
    TooLarge,
    /// An open file of the host is in the way.
    #[error("the open file {} cannot be kept: {source}", path.display())]
    File {
        /// Its path in the guest.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The machine.
    #[error(transparent)]
    Vmm(#[from] VmmError),
}

/// A stopped program. It goes on when this is dropped.
pub struct Checkpoint<'a> {
    kernel: &'a Kernel,
    state: State,
    since: Instant,
}

impl Checkpoint<'_> {
    /// All but the RAM.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The RAM, which does not change meanwhile.
    pub fn memory(&self) -> &GuestMemory {
        self.kernel.memory()
    }

    /// When it was stopped.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// See [`State::runs`].
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        self.state.runs()
    }
}

impl Drop for Checkpoint<'_> {
    fn drop(&mut self) {
        self.kernel.sched.resume();
    }
}

impl Guest {
    /// Stops every thread and collects the program's state. It stays stopped until the value is dropped. Waits for no system call of
    /// the program: those that wait begin again afterwards.
    pub fn checkpoint(&self) -> Result<Checkpoint<'_>, CheckpointError> {
        let kernel = self.kernel();
        let cpu = Cpu::of_host(Hypervisor::get()?);
        let since = Instant::now();
        kernel.sched.pause();
        match collect(kernel, cpu) {
            Ok(state) => Ok(Checkpoint { kernel, state, since }),
            Err(error) => {
                kernel.sched.resume();
                Err(error)
            }
        }
    }
}

/// The state of a paused program.
fn collect(kernel: &Kernel, cpu: Cpu) -> Result<State, CheckpointError> {
    // An alarm is served between two locks: none may be on its way.
    let _events: Stopped<'_> = kernel.reactor.stop_events();
    kernel.rewrite_all_calls();
    let mut keeper = Keeper::new(&kernel.namespace);
    let space = kernel.mm().save(&mut keeper)?;
    let files = SavedFiles::take(kernel, &mut keeper)?;
    Ok(State {
        cpu,
        memory: kernel.memory().size(),
        monotonic: kernel.clock.monotonic(),
        program: kernel.program.clone(),
        identity: kernel.identity.clone(),
        cpus: kernel.cpus as u32,
        working_directory: kernel.working_directory(),
        umask: kernel.umask(),
        limits: kernel.limits().save(),
        timers: kernel.timers().clone(),
        space,
        mounts: kernel.namespace.save(),
        files,
        carried: keeper.carried(),
        sched: kernel.sched.save().ok_or(CheckpointError::Ended)?,
    })
}

/// Paths as bytes: those of Linux need not be text.
pub(super) mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}
