//! What Hydra and a VMM process say to each other, as [messages](crate::messages). A microVM and a snapshot have numbers that Hydra gives.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::Runtime;
use crate::linux::counters::Counts;
use crate::linux::net::Policy;
use crate::snapshot::Copied;

/// What all microVMs of the process have in common.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setting {
    /// What runs their agent.
    pub runtime: Runtime,
    /// A folder that the process may write.
    pub scratch: PathBuf,
    /// MiB of each microVM.
    pub memory: u32,
    /// Most bytes of the `/tmp` of each.
    pub tmp_bytes: u64,
    /// Whom programs may talk to.
    pub network: Policy,
}

/// How a microVM is come by.
#[derive(Debug, Serialize, Deserialize)]
pub enum Origin {
    /// Its agent is started.
    Cold,
    /// It is a copy of a snapshot.
    Snapshot(u64),
    /// It is another one, put back to its snapshot.
    Reset {
        /// The other, which is no more.
        vm: u64,
        /// What that was a copy of.
        snapshot: u64,
    },
}

/// What Hydra asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first one. With a descriptor of `/dev/kvm`.
    Begin(Box<Setting>),
    /// There is a function now: show its code to the microVM that there may be, and to all that will be. Answered by [`Reply::Assigned`].
    Assign {
        /// Its name.
        function: String,
        /// Where its code is.
        code: PathBuf,
    },
    /// Know a snapshot, of which there will be copies. With the descriptors of [`Snapshot::hand_over`](crate::snapshot::Snapshot::hand_over), and that of
    /// a file for [`Reply::Touched`].
    Know {
        /// Its number from now on.
        snapshot: u64,
        /// That of what it builds upon.
        parent: Option<u64>,
    },
    /// There will be no more copies of a snapshot.
    Forget {
        /// Its number.
        snapshot: u64,
    },
    /// Make a microVM. With the program's end of the channel, a stream. Answered by [`Reply::Made`] or [`Reply::NotMade`].
    Make {
        /// Its number from now on.
        vm: u64,
        /// How.
        origin: Origin,
    },
    /// Copy the program, whose agent is ready. With files for its memory and for its state. Answered by [`Reply::Copied`] or [`Reply::NotCopied`].
    Copy {
        /// Whose.
        vm: u64,
        /// What the copy builds upon.
        upon: Option<u64>,
        /// Bytes of its memory.
        bytes: u64,
    },
    /// Look what the program has touched of its snapshot. If `briefly`, for it is in the middle of its first request.
    Look {
        /// Which.
        vm: u64,
        /// See above.
        briefly: bool,
    },
    /// End a program.
    End {
        /// Which.
        vm: u64,
    },
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It cannot do anything, for this reason.
    Useless(String),
    /// The function's code is there, or why it is not.
    Assigned(Result<(), String>),
    /// The program runs.
    Made {
        /// Which.
        vm: u64,
        /// How long it took.
        time: Duration,
    },
    /// The program does not run.
    NotMade {
        /// Which.
        vm: u64,
        /// Why.
        reason: String,
        /// Its snapshot is of no more use.
        snapshot_is_useless: bool,
    },
    /// The program is copied, and goes on.
    Copied {
        /// Which.
        vm: u64,
        /// The copy.
        copied: Copied,
        /// How long it took since the program was at rest.
        time: Duration,
    },
    /// The program is not copied.
    NotCopied {
        /// Which.
        vm: u64,
        /// Why.
        reason: String,
    },
    /// The program has ended.
    Ended {
        /// Which.
        vm: u64,
        /// It needed more memory than it has.
        out_of_memory: bool,
    },
    /// It is known what programs touch first of a snapshot: the text for
    /// [`Snapshot::learn_working_set`](crate::snapshot::Snapshot::learn_working_set) is in its file.
    Touched {
        /// Which.
        snapshot: u64,
    },
    /// What all programs did until now.
    Counted(Counts),
}
