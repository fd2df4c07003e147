//! What Hydra and a jail's init say to each other, as [messages](crate::messages) on the control socket.

use super::criu::CriuPlan;
use super::layers::Layer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// What Hydra asks of an init. Never contains anything that a function wrote.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// Build the jail and start the agent. With two descriptors: the agent's channel and the seccomp filters; before them those of
    /// [`Plan::criu`].
    Start(Box<Plan>),
    /// Make this directory, relative to the code store, visible at `/function`.
    Assign {
        /// Relative to [`Plan::code_store`]; nothing but ordinary components.
        code: PathBuf,
        /// Bytes of private writable memory that one process may map from now on.
        data_limit: u64,
    },
}

/// What an init says to Hydra.
#[derive(Serialize, Deserialize)]
pub enum Reply {
    /// The jail's init exists. With a descriptor of the process.
    Made {
        /// Its process ID as Hydra sees it.
        pid: u32,
    },
    /// The agent was executed. With Hydra's end of the channel, if that was made in the jail, and a descriptor of the jail's `/tmp`, where it
    /// has its own.
    Ready,
    /// Something did not work; the jail is of no use.
    Failed(String),
    /// The answer to [`Request::Assign`].
    Assigned,
    /// The agent ended, with this wait status.
    Exited(i32),
}

/// A jail as its init is to build it: everything decided, nothing left to look up.
#[derive(Serialize, Deserialize, Clone)]
pub struct Plan {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub readable: Vec<PathBuf>,
    pub code_store: PathBuf,
    /// The layers to build; each must work.
    pub layers: BTreeSet<Layer>,
    /// A host directory to use as `/tmp` where there is no mount namespace.
    pub host_tmp: Option<PathBuf>,
    pub tmp_mib: u32,
    /// The host's user and group ID that the agent is to have; `None`: those of Hydra.
    pub host_id: Option<u32>,
    /// Most processes and threads; `None`: not limited here.
    pub processes: Option<u32>,
    pub open_files: u32,
    /// What CRIU has to do with it.
    pub criu: Option<CriuPlan>,
    /// The cgroup to join.
    pub cgroup: Option<PathBuf>,
}
