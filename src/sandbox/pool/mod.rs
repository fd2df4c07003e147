//! A function's pool of sandboxes: reused, added while requests wait, retired when idle, replaced when they end.

mod queue;
mod stock;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::queue::Place;
use self::queue::{Grant, Waiter};
use super::lease::Lease;
use super::{Error, Sandbox, Snapshots, Starter};
use crate::agent::ChannelError;
use crate::function::Function;
use crate::sync::lock;

/// What all pools have in common.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Most requests that may wait for one function's sandboxes, beside those for which there are sandboxes, or may be.
    pub max_waiting: usize,
    /// How long a sandbox may be idle before it is let go.
    pub idle_time: Duration,
    /// The most that the start of a sandbox may take, with all that it waits for.
    pub start_time: Duration,
    /// Most sandboxes of one function that are being started at a time.
    pub parallel_starts: u32,
}

/// One function's sandboxes.
pub struct Pool {
    function: Arc<Function>,
    starter: Arc<dyn Starter>,
    settings: PoolSettings,
    ended: Ended,
    state: Mutex<State>,
}

/// Is told how each invocation ended, also of one whose client had gone while it ran; an error is of one for which there was no sandbox.
pub type Ended = Box<dyn Fn(&Result<Invocation, Error>) + Send + Sync>;

#[derive(Default)]
struct State {
    /// The one that was used last is at the back. There are none while requests wait.
    idle: VecDeque<Idle>,
    /// Idle ones that are being looked at.
    inspected: u32,
    waiting: VecDeque<Waiter>,
    busy: u32,
    starting: u32,
    /// Whether a task looks after those that wait.
    tended: bool,
    closed: bool,
}

struct Idle {
    sandbox: Box<dyn Sandbox>,
    since: Instant,
}

/// What a request gets at once.
enum Claim {
    /// What it wants; a sandbox was idle until now.
    Granted(Grant),
    /// A place in the queue.
    Wait(oneshot::Receiver<Result<Grant, Error>>),
}

/// How the sandbox of an invocation was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// It was started for it.
    Cold,
    /// It was made for it from a copy of the language's template.
    Template,
    /// It was made from the function's snapshot for it.
    Restore,
    /// It served an earlier request, and was put back to the function's snapshot since.
    Reset,
    /// It was there.
    Warm,
}

impl Start {
    /// Its name, as in `Server-Timing` and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Start::Cold => "cold",
            Start::Template => "template",
            Start::Restore => "restore",
            Start::Reset => "reset",
            Start::Warm => "warm",
        }
    }
}

/// An invocation that has run.
#[derive(Debug)]
pub struct Invocation {
    /// What the function returned, or why it has no result.
    pub result: Result<String, Error>,
    /// How its sandbox was come by.
    pub start: Start,
    /// Time until it began, without the start.
    pub queue_time: Duration,
    /// Time of the start; zero when warm.
    pub start_time: Duration,
    /// Time from the request to the agent until its answer.
    pub run_time: Duration,
}

impl Invocation {
    /// The invocation itself, if it has a result.
    ///
    /// # Errors
    /// Why it has none.
    pub fn returned(self) -> Result<Invocation, Error> {
        match self.result {
            Ok(_) => Ok(self),
            Err(error) => Err(error),
        }
    }
}

/// How many sandboxes a pool has.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PoolStatus {
    /// Ready for a request.
    pub idle: u32,
    /// Serving one.
    pub busy: u32,
    /// Not ready yet.
    pub starting: u32,
    /// Requests that wait for one.
    pub waiting: u32,
}

impl State {
    fn alive(&self) -> u32 {
        self.idle.len() as u32 + self.inspected + self.busy + self.starting
    }
}

impl Pool {
    /// An empty pool for `function`, which tells `ended` how invocations end.
    pub fn new(
        function: Arc<Function>,
        starter: Arc<dyn Starter>,
        settings: PoolSettings,
        ended: Ended,
    ) -> Arc<Pool> {
        Arc::new(Pool { function, starter, settings, ended, state: Mutex::default() })
    }

    /// The function whose pool this is.
    pub fn function(&self) -> &Arc<Function> {
        &self.function
    }

    /// Invokes the function. With `fresh`, in a sandbox that has served no request and will serve no other.
    ///
    /// An invocation that its sandbox ended without having read is tried once more. When the returned future is dropped, the
    /// invocation still runs to its end (or timeout) and its sandbox goes back to the pool.
    ///
    /// # Errors
    /// [`Error`]: what the function raised, or why it has no result.
    pub async fn invoke(self: &Arc<Pool>, arguments: &[u8], fresh: bool) -> Result<Invocation, Error> {
        let queued = Instant::now();
        let mut ended = self.attempt(arguments, fresh, queued).await;
        if let Ok(Invocation { result: Err(Error::Died(end)), .. }) = &ended
            && matches!(**end, ChannelError::Ended { unread: true })
        {
            ended = self.attempt(arguments, fresh, queued).await;
        }
        self.note(&ended);
        ended
    }

    async fn attempt(
        self: &Arc<Pool>,
        arguments: &[u8],
        fresh: bool,
        queued: Instant,
    ) -> Result<Invocation, Error> {
        let (lease, started) = self.acquire(fresh).await?;
        Ok(lease.invoke(arguments, queued, started).await)
    }

    /// Says how an invocation ended.
    pub(super) fn note(&self, ended: &Result<Invocation, Error>) {
        (self.ended)(ended);
    }

    async fn acquire(self: &Arc<Pool>, fresh: bool) -> Result<(Lease, Option<Duration>), Error> {
        loop {
            let (grant, was_idle) = match self.claim(fresh)? {
                Claim::Granted(grant) => (grant, true),
                Claim::Wait(waiter) => (waiter.await.map_err(|_| closed())??, false),
            };
            let (mut lease, started) = match grant {
                Grant::Place(place) => return self.start_fresh(place).await,
                Grant::Sandbox(lease, started) => (lease, started),
            };
            match started {
                Some(_) if fresh => return Ok((lease.for_one_request(), started)),
                None if fresh => return self.start_fresh(lease.into_place()).await,
                // It may have ended meanwhile.
                _ if was_idle && !lease.is_idle() => drop(lease.into_place()),
                _ => return Ok((lease, started)),
            }
        }
    }

    /// What can be had without waiting: an idle sandbox, a place to start a fresh one, or a place in the queue.
    fn claim(self: &Arc<Pool>, fresh: bool) -> Result<Claim, Error> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        // Nobody passes those that wait.
        if state.head().is_none() {
            if fresh && self.has_room(&state) {
                state.busy += 1;
                return Ok(Claim::Granted(Grant::Place(Place::new(self.clone()))));
            }
            // The one that was used last: its memory is warm, and the others may become old enough to go.
            if let Some(Idle { sandbox, .. }) = state.idle.pop_back() {
                state.busy += 1;
                return Ok(Claim::Granted(Grant::Sandbox(Lease::new(self.clone(), sandbox), None)));
            }
        }
        if self.is_full(&state) {
            // Those whose client has gone do not count.
            state.waiting.retain(|waiter| !waiter.has_left());
        }
        if self.is_full(&state) {
            return Err(Error::NoCapacity);
        }
        let (waiter, receiver) = Waiter::new(fresh);
        state.waiting.push_back(waiter);
        self.advance(&mut state);
        Ok(Claim::Wait(receiver))
    }

    /// What is known of the function's snapshot, where there can be one.
    pub fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.starter.snapshots()
    }

    /// How many sandboxes there are.
    pub fn status(&self) -> PoolStatus {
        let state = self.state();
        PoolStatus {
            idle: state.idle.len() as u32 + state.inspected,
            busy: state.busy,
            starting: state.starting,
            waiting: state.waiting.iter().filter(|waiter| !waiter.has_left()).count() as u32,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics half-way through a change.
        lock(&self.state)
    }
}

fn closed() -> Error {
    Error::Unavailable("the function was deregistered, or Hydra is stopping".into())
}
