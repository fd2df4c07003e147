//! A sandbox in the hands of one request.

use std::sync::Arc;

use super::pool::{Place, Pool};
use super::{Health, Sandbox, Start};
use crate::agent::{ChannelError, Outcome};

/// Holds a busy sandbox of a pool. However it is dropped, the pool's count stays right: a sandbox whose invocation is under way is
/// left to finish it, one that may be half-way through a frame is ended.
pub struct Lease {
    pool: Arc<Pool>,
    sandbox: Option<Box<dyn Sandbox>>,
    fresh: bool,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Sending,
    Running,
}

impl Lease {
    /// A lease on a sandbox that goes back to `pool` afterwards.
    pub fn new(pool: Arc<Pool>, sandbox: Box<dyn Sandbox>) -> Lease {
        Lease { pool, sandbox: Some(sandbox), fresh: false, phase: Phase::Quiet }
    }

    /// A lease on a sandbox that serves nobody else as it is.
    pub fn fresh(pool: Arc<Pool>, sandbox: Box<dyn Sandbox>) -> Lease {
        Lease { pool, sandbox: Some(sandbox), fresh: true, phase: Phase::Quiet }
    }

    /// Runs an invocation to its end.
    ///
    /// # Errors
    /// [`ChannelError`] when the sandbox ended.
    pub async fn run(&mut self, arguments: &[u8]) -> Result<Outcome, ChannelError> {
        let Some(sandbox) = &mut self.sandbox else { return Err(ChannelError::Ended { unread: true }) };
        sandbox.busy(true);
        self.phase = Phase::Sending;
        sandbox.channel().invoke(arguments).await?;
        self.phase = Phase::Running;
        let outcome = sandbox.channel().answer().await?;
        self.phase = Phase::Quiet;
        sandbox.busy(false);
        Ok(outcome)
    }

    /// What is known of the sandbox's end.
    pub fn health(&self) -> Arc<Health> {
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
    pub fn start(&self) -> Start {
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
    pub fn give_back(mut self, returned: bool) {
        let due = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_rest_due());
        if due
            && returned
            && self.phase == Phase::Quiet
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { self.rest().await });
        }
    }

    /// Ends the sandbox.
    pub fn end(mut self) {
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
            (Phase::Running, Ok(runtime)) => {
                let (pool, fresh) = (self.pool.clone(), self.fresh);
                runtime.spawn(finish(pool, sandbox, fresh));
            }
            _ => {
                sandbox.kill();
                drop(sandbox);
                self.pool.lost();
            }
        }
    }
}

/// Waits for the end of an invocation whose client has gone.
async fn finish(pool: Arc<Pool>, mut sandbox: Box<dyn Sandbox>, fresh: bool) {
    let timeout = pool.function().spec.timeout;
    match tokio::time::timeout(timeout, sandbox.channel().answer()).await {
        Ok(Ok(_)) if !fresh => {
            sandbox.busy(false);
            pool.put_back(sandbox);
        }
        _ => {
            sandbox.kill();
            drop(sandbox);
            pool.lost();
        }
    }
}
