//! Sandboxes: where functions run. One trait, a starter per kind, and a pool per function that scales them.

mod blank;
mod criu;
mod host;
mod host_memory;
mod isolate;
mod lease;
mod memory;
mod pool;
mod process;
mod rendezvous;
mod snapshot;
mod spares;
#[cfg(test)]
pub(crate) mod test_agent;

pub use blank::BlankAgents;
pub use criu::CriuProcesses;
pub use host::LanguageHosts;
pub use isolate::IsolateStarter;
pub use memory::{MemoryWatch, is_scarce, resident};
pub use pool::{Ended, Invocation, Pool, PoolSettings, PoolStatus, Start};
pub use process::ProcessStarter;
pub use snapshot::{MicroVms, svmid, vmm_process_main};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::agent::{Channel, ChannelError, Failure};
use crate::function::Function;
use crate::linux::counters::Counts;

/// A place where one function runs, loaded and ready. Dropping it ends it.
pub trait Sandbox: Send {
    /// The channel to its agent.
    fn channel(&mut self) -> &mut Channel;

    /// What is known of its end and of its memory.
    fn health(&self) -> &Arc<Health>;

    /// How it came to be.
    fn start(&self) -> Start {
        Start::Cold
    }

    /// Tells it that an invocation begins (`true`) or ended, for those kinds that watch what runs.
    fn busy(&mut self, _busy: bool) {}

    /// Whether it has something to do for itself after an invocation that returned, before it serves another.
    fn is_rest_due(&self) -> bool {
        false
    }

    /// Does that. It counts as busy meanwhile; when this is given up half-way, the sandbox is of no more use.
    fn rest(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Is told that it has served the one request that it was for. Ends it, or makes another of it that has served none.
    fn retire(self: Box<Self>) {}

    /// Ends it now, whatever it does.
    fn kill(&mut self);
}

/// What others learn of a sandbox while it is in use elsewhere.
#[derive(Debug, Default)]
pub struct Health {
    out_of_memory: AtomicBool,
    judged: AtomicBool,
    verdict: Notify,
}

impl Health {
    /// Notes that it is ended because it used more memory than it may.
    pub fn ran_out_of_memory(&self) {
        self.out_of_memory.store(true, Ordering::Release);
        self.judge();
    }

    /// Notes that nothing more will be learnt of its end.
    pub fn judge(&self) {
        self.judged.store(true, Ordering::Release);
        self.verdict.notify_waiters();
    }

    /// Waits until nothing more will be learnt of its end.
    pub async fn verdict(&self) {
        let notified = self.verdict.notified();
        if !self.judged.load(Ordering::Acquire) {
            notified.await;
        }
    }

    /// Whether it ended because it used more memory than it may.
    pub fn is_out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Acquire)
    }
}

/// Starts sandboxes of one kind.
pub trait Starter: Send + Sync {
    /// Starts a sandbox with `function` loaded in it.
    fn start(&self, function: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>>;

    /// The same for one request alone, after which the sandbox [retires](Sandbox::retire).
    fn start_fresh(&self, function: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        self.start(function)
    }

    /// Lets go what it keeps ready and nobody used for `idle_time` or, where memory is `scarce`, all of it. Called now and then.
    fn sweep(&self, _idle_time: Duration, _scarce: bool) {}

    /// Lets go what it keeps ready for `function`, which starts no more.
    fn close(&self, _function: &Function) {}

    /// The snapshot that it starts them from, for those kinds that have one.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }
}

/// What a starter knows of its function's snapshot.
pub trait Snapshots: Sync {
    /// From now on no sandbox is checkpointed, until [`Snapshots::end_warm_up`] is called as often as this.
    fn begin_warm_up(&self);

    /// A warm-up is over. If it was `complete`, the next sandbox that rests is checkpointed, even if there is a snapshot.
    fn end_warm_up(&self, complete: bool);

    /// What there is, for people.
    fn status(&self) -> SnapshotStatus;
}

/// A function's snapshot, as `GET /functions/NAME` shows it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Its number.
    pub svmid: u64,
    /// `none`, `being made` or `ready`.
    pub state: &'static str,
    /// Copies that were made ahead and wait for a request.
    pub spares: usize,
    /// What is known of one that is ready.
    #[serde(flatten)]
    pub ready: Option<SnapshotFigures>,
    /// What the function's microVMs did, all together.
    pub guest: Counts,
}

/// The figures of a snapshot that is ready.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotFigures {
    /// Bytes of guest RAM that are kept.
    pub memory_bytes: u64,
    /// Bytes of all else.
    pub state_bytes: u64,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// How long the program stood still for it, in microseconds.
    pub pause_us: u64,
    /// How long making it took until it was on the disk, in microseconds; not known of one that an earlier Hydra made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_us: Option<u64>,
}

/// Why an invocation has no result. Each is one sentence for the client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The language cannot load the code.
    #[error("the code cannot be loaded: {0}")]
    Load(Failure),
    /// The function raised.
    #[error("{0}")]
    Raised(Failure),
    /// The sandbox ended in the middle of the invocation.
    #[error("the sandbox ended before it answered: {0}")]
    Died(Arc<ChannelError>),
    /// The sandbox used more than the function's memory.
    #[error(
        "the function used more than its memory of {limit_mib} MiB and was stopped; register it with a larger 'memory'"
    )]
    OutOfMemory {
        /// What it may use, in MiB.
        limit_mib: u32,
    },
    /// The invocation took too long.
    #[error("the function took longer than its timeout of {} ms and was stopped; register it with a larger 'timeout'", .0.as_millis())]
    Timeout(Duration),
    /// Loading took too long.
    #[error("the code was not loaded within {} ms", .0.as_millis())]
    LoadTimeout(Duration),
    /// All sandboxes are busy and enough requests wait.
    #[error(
        "all sandboxes of the function are busy; try again later, or register it with a larger 'concurrency'"
    )]
    NoCapacity,
    /// This host cannot run such a sandbox.
    #[error("{0}")]
    Unavailable(String),
    /// The sandbox could not be started.
    #[error("a sandbox could not be started: {0}")]
    Start(String),
}

/// The most that loading a function's code may take.
pub const LOAD_TIME: Duration = Duration::from_secs(30);

/// How long the agent's host may take to say why a sandbox ended.
const VERDICT_TIME: Duration = Duration::from_millis(200);

/// The type of the failure where loading code ended the sandbox.
const DIED: &str = "SandboxDied";

/// Has the agent at the other end of `channel` load `function`, whose code and temporary folder it sees at `code` and `tmp`.
async fn load(
    channel: &mut Channel,
    function: &Function,
    code: &std::path::Path,
    tmp: &std::path::Path,
    max_result: usize,
) -> Result<(), Error> {
    let load = crate::agent::Load {
        name: &function.spec.name,
        code,
        entry_point: function.spec.entry_point.as_deref(),
        tmp_dir: tmp,
        max_result,
    };
    match tokio::time::timeout(LOAD_TIME, channel.load(&load)).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(failure))) => Err(Error::Load(failure)),
        // Not the code's doing: it was not loaded yet.
        Ok(Err(ChannelError::Ended { unread: true })) => {
            Err(Error::Start("its agent ended before it had read what to load".into()))
        }
        Ok(Err(error)) => Err(Error::Load(Failure {
            message: format!("its code ended the sandbox while it was loaded ({error})"),
            kind: DIED.into(),
            stack: String::new(),
        })),
        Err(_) => Err(Error::LoadTimeout(LOAD_TIME)),
    }
}
