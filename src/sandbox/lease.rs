//! A sandbox in the hands of one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::pool::{Invocation, Place, Pool};
use super::{Error, Health, Sandbox, Start, VERDICT_TIME};
use crate::agent::{ChannelError, Outcome};

/// Holds a busy sandbox of a pool. However it is dropped, the pool's count stays right: a sandbox whose invocation is under way is
/// left to finish it, one that may be half-way through a frame is ended.
pub struct Lease {
    pool: Arc<Pool>,
    sandbox: Option<Box<dyn Sandbox>>,
    fresh: bool,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    Quiet,
    /// Of no more use when it is given up now.
    Sending,
    Running(Run),
    /// Running, and nobody waits for it.
    Abandoned,
}

/// An invocation under way.
#[derive(Clone, Copy)]
struct Run {
    begun: Instant,
    start: Start,
    queue_time: Duration,
    start_time: Duration,
}

/// What an invocation came to, if it came to anything in its time.
type Answered = Result<Result<Outcome, ChannelError>, Elapsed>;

impl Lease {
    /// A lease on a sandbox that goes back to `pool` afterwards.
    pub fn new(pool: Arc<Pool>, sandbox: Box<dyn Sandbox>) -> Lease {
        Lease { pool, sandbox: Some(sandbox), fresh: false, phase: Phase::Quiet }
    }

    /// A lease on a sandbox that serves nobody else as it is.
    pub fn fresh(pool: Arc<Pool>, sandbox: Box<dyn Sandbox>) -> Lease {
        Lease { pool, sandbox: Some(sandbox), fresh: true, phase: Phase::Quiet }
    }

    /// Invokes the function for a request that was `queued` then, and whose sandbox took as long as `started` to start if it did so for it. The
    /// sandbox goes back to the pool, or is ended. When this is dropped, an invocation that is under way still runs to its end (or timeout), of
    /// which the pool is told.
    pub async fn invoke(
        mut self,
        arguments: &[u8],
        queued: Instant,
        started: Option<Duration>,
    ) -> Invocation {
        let (begun, start_time) = (Instant::now(), started.unwrap_or_default());
        let run = Run {
            begun,
            start: if started.is_some() { self.start() } else { Start::Warm },
            queue_time: (begun - queued).saturating_sub(start_time),
            start_time,
        };
        let deadline = begun + self.pool.function().spec.timeout;
        let answered = timeout_at(deadline, self.run(arguments, run)).await;
        self.judge(run, answered).await
    }

    /// Waits for the end of an invocation whose client has gone.
    async fn finish(mut self, run: Run) {
        let pool = self.pool.clone();
        let deadline = run.begun + pool.function().spec.timeout;
        let answered = timeout_at(deadline, self.answer()).await;
        pool.note(&Ok(self.judge(run, answered).await));
    }

    async fn run(&mut self, arguments: &[u8], run: Run) -> Result<Outcome, ChannelError> {
        let Some(sandbox) = &mut self.sandbox else { return Err(ChannelError::Ended { unread: true }) };
        sandbox.busy(true);
        self.phase = Phase::Sending;
        sandbox.channel().invoke(arguments).await?;
        self.phase = Phase::Running(run);
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Outcome, ChannelError> {
        let Some(sandbox) = &mut self.sandbox else { return Err(ChannelError::Ended { unread: true }) };
        let outcome = sandbox.channel().answer().await?;
        self.phase = Phase::Quiet;
        sandbox.busy(false);
        Ok(outcome)
    }

    /// Gives the sandbox back or ends it, as its invocation ended.
    async fn judge(self, run: Run, answered: Answered) -> Invocation {
        let Run { begun, start, queue_time, start_time } = run;
        let run_time = begun.elapsed();
        let (timeout, limit_mib) = {
            let spec = &self.pool.function().spec;
            (spec.timeout, spec.memory)
        };
        let result = match answered {
            // The runtime bounded the memory before Hydra did; what it left half done is not to be used again.
            Ok(Ok(Outcome::Raised(failure))) if failure.is_out_of_memory() => {
                self.end();
                Err(Error::OutOfMemory { limit_mib })
            }
            Ok(Ok(Outcome::Raised(failure))) => {
                self.give_back(false);
                Err(Error::Raised(failure))
            }
            Ok(Ok(Outcome::Returned(result))) => {
                self.give_back(true);
                Ok(result)
            }
            Ok(Err(end)) => {
                let health = self.health();
                self.end();
                let _ = tokio::time::timeout(VERDICT_TIME, health.verdict()).await;
                match health.is_out_of_memory() {
                    true => Err(Error::OutOfMemory { limit_mib }),
                    false => Err(Error::Died(Arc::new(end))),
                }
            }
            Err(_) => {
                self.end();
                Err(Error::Timeout(timeout))
            }
        };
        Invocation { result, start, queue_time, start_time, run_time }
    }

    /// What is known of the sandbox's end.
    fn health(&self) -> Arc<Health> {
        self.sandbox.as_ref().map(|sandbox| sandbox.health().clone()).unwrap_or_default()
    }

    /// Makes it that of a sandbox that serves nobody else as it is.
    pub fn for_one_request(mut self) -> Lease {
        self.fresh = true;
        self
    }

    /// Whether the sandbox is there and quiet, as it is between invocations.
    pub fn is_idle(&mut self) -> bool {
        self.sandbox.as_mut().is_some_and(|sandbox| sandbox.channel().is_idle())
    }

    /// Lets go of the sandbox, and keeps its place.
    pub fn into_place(self) -> Place {
        let pool = self.pool.clone();
        drop(self.into_sandbox());
        Place::new(pool)
    }

    /// The sandbox itself, which still counts as busy.
    pub fn into_sandbox(mut self) -> Option<Box<dyn Sandbox>> {
        self.sandbox.take()
    }

    /// How the sandbox came to be.
    fn start(&self) -> Start {
        self.sandbox.as_ref().map_or(Start::Cold, |sandbox| sandbox.start())
    }

    /// Has the sandbox do what it does for itself: see [`Sandbox::rest`].
    pub async fn rest(&mut self) {
        if let Some(sandbox) = &mut self.sandbox {
            self.phase = Phase::Sending;
            sandbox.rest().await;
            self.phase = Phase::Quiet;
        }
    }

    /// Gives back a sandbox that is ready for another request; where its last one `returned`, after it has rested.
    fn give_back(mut self, returned: bool) {
        let due = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_rest_due());
        if due
            && returned
            && matches!(self.phase, Phase::Quiet)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { self.rest().await });
        }
    }

    /// Ends the sandbox.
    fn end(mut self) {
        if let Some(mut sandbox) = self.sandbox.take() {
            sandbox.kill();
            drop(sandbox);
            self.pool.lost();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut sandbox) = self.sandbox.take() else { return };
        match (self.phase, tokio::runtime::Handle::try_current()) {
            (Phase::Quiet, _) if self.fresh => {
                sandbox.retire();
                self.pool.lost();
            }
            (Phase::Quiet, _) => self.pool.put_back(sandbox),
            (Phase::Running(run), Ok(runtime)) => {
                let (pool, fresh) = (self.pool.clone(), self.fresh);
                let lease = Lease { pool, sandbox: Some(sandbox), fresh, phase: Phase::Abandoned };
                runtime.spawn(lease.finish(run));
            }
            _ => {
                sandbox.kill();
                drop(sandbox);
                self.pool.lost();
            }
        }
    }
}
