//! The jail of the `process` sandbox, and of VMM processes: an agent in its own namespaces, on a composed read-only root, with a
//! system-call filter, Landlock, resource limits and no privileges.
//!
//! A [`Jail`] describes one; [`Jail::spawn`] starts an agent in it that has no function yet; [`Jailed::assign`] shows
//! it a function's code. What a host cannot give is left out, and [`probe`] says what and why; a layer that the
//! probe found available and that then fails makes `spawn` fail.

mod calls;
mod cgroup;
mod control;
pub mod criu;
mod identity;
mod init;
mod jailed;
mod layers;
mod mounts;
mod namespaces;
mod planning;
mod probing;
mod process_tree;
mod reaper;
mod restrict;
mod root;
mod seccomp;
pub mod view;

pub use criu::Criu;
pub use identity::{INSIDE, is_sandbox_user, sandbox_user};
pub use init::init_main;
pub use jailed::{Assigned, Jailed, Killer};
pub use layers::{Finding, Layer, Layers, probe, report};

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// A jail and the agent to start in it.
#[derive(Clone, Debug)]
pub struct Jail {
    /// The agent's executable, below `/usr` or a `readable` path.
    pub program: PathBuf,
    /// Its arguments; one that is `{fd}` becomes the number of the channel's descriptor.
    pub arguments: Vec<OsString>,
    /// Its environment, beside `PATH`, `HOME`, `TMPDIR`, `LANG` and `TZ`, which have defaults.
    pub environment: Vec<(OsString, OsString)>,
    /// Host paths that it may read besides the defaults (`/usr`, `/lib*`, some of `/etc`), at the same paths: its own
    /// folder, a JDK. What is in them must be readable by everyone.
    pub readable: Vec<PathBuf>,
    /// The directory below which the code of all functions lies.
    pub code_store: PathBuf,
    /// What network it has.
    pub network: Network,
    /// Size of its `/tmp` in MiB. Counts as memory.
    pub tmp_mib: u32,
    /// Most processes and threads at a time.
    pub processes: u32,
    /// Most open descriptors of one process.
    pub open_files: u32,
    /// How long its init may take each time until it answers; CRIU's work is in that.
    pub patience: Duration,
    /// Whether its channel keeps [messages](crate::messages) apart, rather than being a stream.
    pub has_messages: bool,
    /// Whether it is to be checkpointed, or comes from a checkpoint.
    pub criu: Option<Criu>,
    /// Layers to leave out though the host has them: to test, or to find out what a function stumbles over.
    pub without: Vec<Layer>,
}

/// What network a jail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The host's.
    Host,
    /// A network namespace of its own with nothing but loopback.
    None,
}

/// What bounds a function once it is assigned.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory in MiB: of all processes together where there is a cgroup. Elsewhere the caller watches
    /// [`Jailed::memory`], and each process is kept from mapping more than twice this and 1 GiB, so that it
    /// cannot run away between two looks.
    pub memory_mib: u32,
}

/// Why a jail could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Hydra could not start the jail's init.
    #[error("cannot start the jail's init {program}: {cause}")]
    Start {
        /// What was executed.
        program: PathBuf,
        /// What failed.
        cause: io::Error,
    },
    /// The init could not build the jail or start the agent.
    #[error("cannot make the jail: {0}")]
    Setup(String),
    /// The function's code cannot be shown in the jail.
    #[error("cannot show the code {path} in the jail: {reason}")]
    Code {
        /// The code's directory on the host.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer that was asked for is not there.
    #[error("the jail needs the layer {layer:?}, which this host does not give: {reason}")]
    Missing {
        /// The layer.
        layer: Layer,
        /// Why there is none.
        reason: String,
    },
    /// The jail ended while Hydra spoke with its init.
    #[error("the jail ended before it answered")]
    Ended,
    /// The init is there, and says nothing.
    #[error("the jail's init did not answer in time")]
    Late,
    /// Talking to the init failed.
    #[error("cannot talk to the jail's init: {0}")]
    Io(#[from] io::Error),
}

static INIT_PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Has jails start `program` (with the argument `jail-init`) instead of this process's own executable, which is
/// right unless this process is not Hydra: a test. To be called before anything else here.
pub fn use_init_program(program: &Path) {
    INIT_PROGRAM.get_or_init(|| program.to_owned());
}

fn init_program() -> &'static Path {
    INIT_PROGRAM.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path)
}

impl Jail {
    /// A jail for `program` with no network, 64 MiB of `/tmp`, 512 processes and threads, 4096 open files; a minute of patience.
    pub fn new(program: impl Into<PathBuf>, code_store: impl Into<PathBuf>) -> Jail {
        Jail {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            readable: Vec::new(),
            code_store: code_store.into(),
            network: Network::None,
            tmp_mib: 64,
            processes: 512,
            open_files: 4096,
            patience: criu::PATIENCE,
            has_messages: false,
            criu: None,
            without: Vec::new(),
        }
    }

    /// Starts the agent in a new jail, or makes it go on there; returns when it was executed. Where there is no mount namespace its
    /// temporary directory is made in `scratch`. Must be called in a Tokio runtime.
    pub async fn spawn(&self, scratch: &Path) -> Result<Jailed, JailError> {
        jailed::spawn(self, scratch, None).await
    }

    /// Makes an agent go on in a new jail, from a [dump](Criu::Restored), with its function's code in `code_root` as [`Jailed::assign`] shows
    /// it.
    pub async fn spawn_assigned(
        &self,
        scratch: &Path,
        code_root: &Path,
        limits: &Limits,
    ) -> Result<Jailed, JailError> {
        jailed::spawn(self, scratch, Some((code_root, limits))).await
    }
}
