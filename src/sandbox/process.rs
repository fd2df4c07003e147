//! The `process` sandbox: an agent with one function, in a jailed process of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::blank::BlankAgents;
use super::memory::{MemoryWatch, Watched};
use super::{Error, Health, Sandbox, Starter, load};
use crate::agent::Channel;
use crate::function::Function;
use crate::jail::criu::Dumper;
use crate::jail::{Assigned, Jailed, Limits};
use crate::sync::lock;

/// Starts process sandboxes.
pub struct ProcessStarter {
    blanks: Arc<BlankAgents>,
    max_result: usize,
}

/// An agent with one function in a jail.
pub(super) struct Process {
    channel: Channel,
    jail: Arc<WatchedJail>,
}

/// A jail whose memory is watched.
struct WatchedJail {
    jailed: Mutex<Jailed>,
    /// Bytes.
    limit: u64,
    health: Arc<Health>,
    busy: AtomicBool,
    /// Looks that were left out since the last, while it was not busy.
    left_out: AtomicU32,
}

/// One in so many looks is enough while no invocation runs: what is left is what the function does in its own threads.
const IDLE_LOOKS: u32 = 20;

impl ProcessStarter {
    /// A starter of processes that takes its agents from `blanks`, for results of at most `max_result` bytes.
    pub fn new(blanks: Arc<BlankAgents>, max_result: usize) -> ProcessStarter {
        ProcessStarter { blanks, max_result }
    }
}

impl Starter for ProcessStarter {
    fn start(&self, function: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let (blanks, max_result) = (self.blanks.clone(), self.max_result);
        async move {
            let started = match start(&blanks, max_result, &function).await {
                // The agent that was kept may have ended just then.
                Err(Error::Start(_)) => start(&blanks, max_result, &function).await,
                started => started,
            };
            started.map(|process| Box::new(process) as Box<dyn Sandbox>)
        }
        .boxed()
    }
}

async fn start(blanks: &Arc<BlankAgents>, max_result: usize, function: &Function) -> Result<Process, Error> {
    let memory = function.spec.memory;
    let blank = blanks.take(function.agent(), memory).await?;
    let (mut jailed, channel) = blank
        .into_parts(&function.spec.name)
        .map_err(|error| Error::Start(format!("its output: {error}")))?;
    let limits = Limits { memory_mib: memory };
    let assigned =
        jailed.assign(&function.code.root, &limits).await.map_err(|error| Error::Start(error.to_string()))?;
    let mut process = Process::new(jailed, channel, memory, &blanks.watch);
    process.load(function, &assigned, max_result).await?;
    Ok(process)
}

impl Process {
    /// One whose agent is in `jailed`, and may use `memory` MiB.
    pub(super) fn new(jailed: Jailed, channel: Channel, memory: u32, watch: &MemoryWatch) -> Process {
        let health = Arc::new(Health::default());
        // Its end has no other cause than what is seen here.
        health.judge();
        let jail = Arc::new(WatchedJail {
            jailed: Mutex::new(jailed),
            limit: u64::from(memory) << 20,
            health,
            busy: AtomicBool::new(true),
            left_out: AtomicU32::new(0),
        });
        let watched: Arc<dyn Watched> = jail.clone();
        watch.add(Arc::downgrade(&watched));
        Process { channel, jail }
    }

    /// Has the agent load the function, which it was assigned.
    ///
    /// # Errors
    /// The code cannot be loaded.
    pub(super) async fn load(
        &mut self,
        function: &Function,
        assigned: &Assigned,
        max_result: usize,
    ) -> Result<(), Error> {
        // As the agent sees it: the same below another root.
        let code = match function.path().strip_prefix(&function.code.root) {
            Ok(inner) if !inner.as_os_str().is_empty() => assigned.code.join(inner),
            _ => assigned.code.clone(),
        };
        match load(&mut self.channel, function, &code, &assigned.tmp, max_result).await {
            Err(_) if self.jail.health.is_out_of_memory() => {
                Err(Error::OutOfMemory { limit_mib: function.spec.memory })
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.busy(false);
                Ok(())
            }
        }
    }

    /// Dumps its agent, as long as this is there.
    pub(super) fn dumper(&self) -> Dumper {
        lock(&self.jail.jailed).dumper()
    }
}

impl Sandbox for Process {
    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    fn health(&self) -> &Arc<Health> {
        &self.jail.health
    }

    fn busy(&mut self, busy: bool) {
        self.jail.busy.store(busy, Ordering::Relaxed);
    }

    fn kill(&mut self) {
        lock(&self.jail.jailed).kill();
    }
}

impl Watched for WatchedJail {
    fn look(&self) {
        if !self.busy.load(Ordering::Relaxed)
            && !self.left_out.fetch_add(1, Ordering::Relaxed).is_multiple_of(IDLE_LOOKS)
        {
            return;
        }
        let mut jailed = lock(&self.jailed);
        if jailed.memory().is_ok_and(|used| used > self.limit) && !self.health.is_out_of_memory() {
            self.health.ran_out_of_memory();
            jailed.kill();
        }
    }
}
