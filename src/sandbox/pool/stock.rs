//! How a pool comes to its sandboxes, and lets them go.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::time::Instant;

use super::super::lease::Lease;
use super::super::{Error, Sandbox};
use super::queue::{Grant, Place};
use super::{Idle, Pool, State};

impl Idle {
    fn now(sandbox: Box<dyn Sandbox>) -> Idle {
        Idle { sandbox, since: Instant::now() }
    }
}

impl Pool {
    /// Starts a sandbox for one request, in its place, which is given back if there is none.
    pub(super) async fn start_fresh(
        self: &Arc<Pool>,
        place: Place,
    ) -> Result<(Lease, Option<Duration>), Error> {
        let pool = self.clone();
        let mut start = Box::pin(async move {
            let begun = Instant::now();
            let sandbox = pool.in_time(pool.starter.start_fresh(pool.function.clone())).await?;
            place.take();
            Ok((Lease::fresh(pool, sandbox), Some(begun.elapsed())))
        });
        match poll_immediate(&mut start).await {
            Some(started) => started,
            // A start that nobody waits for any more goes on: what loads in the middle of a language host could be ended with that alone.
            None => tokio::spawn(start).await.unwrap_or_else(|error| Err(Error::Start(error.to_string()))),
        }
    }

    /// Adds a sandbox, for whoever waits when it is there.
    pub(super) fn add(self: &Arc<Pool>, state: &mut State) {
        state.starting += 1;
        let pool = self.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let started = pool.in_time(pool.starter.start(pool.function.clone())).await;
            let mut state = pool.state();
            state.starting -= 1;
            match started {
                Ok(sandbox) => {
                    state.busy += 1;
                    pool.hand_over(state, Idle::now(sandbox), Some(begun.elapsed()));
                }
                Err(error) => {
                    tracing::warn!(function = pool.function.spec.name, %error, "a sandbox was not started");
                    if state.alive() > 0 {
                        pool.advance(&mut state);
                        return;
                    }
                    let waiting = std::mem::take(&mut state.waiting);
                    drop(state);
                    for waiter in waiting {
                        waiter.refuse(error.clone());
                    }
                }
            }
        });
    }

    /// Waits for a start, but not for ever: who waits is to hear of it, and the place is to serve for another.
    async fn in_time(
        &self,
        start: impl Future<Output = Result<Box<dyn Sandbox>, Error>>,
    ) -> Result<Box<dyn Sandbox>, Error> {
        let limit = self.settings.start_time;
        match tokio::time::timeout(limit, start).await {
            Ok(started) => started,
            Err(_) => Err(Error::Start(format!("it was not ready within {limit:?}"))),
        }
    }

    /// Takes back a sandbox that is ready for another request.
    pub(in crate::sandbox) fn put_back(self: &Arc<Pool>, sandbox: Box<dyn Sandbox>) {
        self.hand_over(self.state(), Idle::now(sandbox), None);
    }

    /// Has a sandbox that is idle rest now, and waits until it has: see [`Sandbox::rest`].
    pub async fn rest_one(self: &Arc<Pool>) {
        if self.status().idle > 0
            && let Ok((mut lease, _)) = self.acquire(false).await
        {
            lease.rest().await;
        }
    }

    /// Gives a sandbox that counts as busy, and was `started` just now or has served others, to the first request that waits, else makes it idle.
    fn hand_over(
        self: &Arc<Pool>,
        mut state: MutexGuard<'_, State>,
        Idle { sandbox, since }: Idle,
        started: Option<Duration>,
    ) {
        let mut grant = Grant::Sandbox(Lease::new(self.clone(), sandbox), started);
        while let Some(waiter) = state.waiting.pop_front() {
            match waiter.give(grant) {
                Ok(()) => return self.advance(&mut state),
                Err(back) => grant = back,
            }
        }
        state.busy -= 1;
        // Not by dropping the lease: that would give it back to this very pool.
        let sandbox = match grant {
            Grant::Sandbox(lease, _) => lease.into_sandbox(),
            Grant::Place(_) => None,
        };
        if state.closed {
            drop(state);
            drop(sandbox);
        } else {
            state.idle.extend(sandbox.map(|sandbox| Idle { sandbox, since }));
        }
    }

    /// Notes that a sandbox that counted as busy is gone.
    pub(in crate::sandbox) fn lost(self: &Arc<Pool>) {
        let mut state = self.state();
        state.busy -= 1;
        self.advance(&mut state);
    }

    /// Lets go sandboxes that were idle for too long, those that ended meanwhile and, where memory is `scarce`, what is only kept ready. To be
    /// called now and then.
    pub fn sweep(self: &Arc<Pool>, scarce: bool) {
        let count = self.state().idle.len();
        for _ in 0..count {
            let mut state = self.state();
            let Some(mut idle) = state.idle.pop_front() else { break };
            state.inspected += 1;
            // Neither looking at a sandbox, which may have printed much, nor ending it is done under the lock.
            drop(state);
            let stays = idle.since.elapsed() < self.settings.idle_time && idle.sandbox.channel().is_idle();
            let stays = stays.then_some(idle);
            let mut state = self.state();
            state.inspected -= 1;
            state.busy += 1;
            match stays {
                Some(idle) => self.hand_over(state, idle, None),
                None => {
                    drop(state);
                    self.lost();
                }
            }
        }
        self.starter.sweep(self.settings.idle_time, scarce);
    }

    /// Ends all sandboxes that are idle now, and the others when their invocation ends; requests that wait get an error.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let gone = (std::mem::take(&mut state.idle), std::mem::take(&mut state.waiting));
        drop(state);
        drop(gone);
        self.starter.close(&self.function);
    }
}
