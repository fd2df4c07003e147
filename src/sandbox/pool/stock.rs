//! How a pool comes to its sandboxes, and lets them go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::lease::Lease;
use super::super::{Error, Sandbox};
use super::{Idle, Pool, Ready, State};

impl Pool {
    /// Starts a sandbox for one request, in the place among the busy ones that the caller has taken.
    pub(super) async fn start_fresh(self: &Arc<Pool>) -> Result<(Lease, Option<Duration>), Error> {
        let begun = Instant::now();
        // A request that is given up in the middle of this must give its place back too.
        let place = Place(self);
        let sandbox = self.starter.start_fresh(self.function.clone()).await?;
        std::mem::forget(place);
        Ok((Lease::fresh(self.clone(), sandbox), Some(begun.elapsed())))
    }

    /// Adds a sandbox if requests wait and there is room.
    pub(super) fn grow(self: &Arc<Pool>) {
        let mut state = self.state();
        let wanted = state.waiting.iter().filter(|waiter| !waiter.is_closed()).count() as u32;
        // More starts at a time than CPUs would only delay each other.
        if state.starting < wanted.min(self.settings.parallel_starts)
            && state.alive() < self.function.spec.concurrency
        {
            self.add(&mut state);
        }
    }

    pub(super) fn add(self: &Arc<Pool>, state: &mut State) {
        state.starting += 1;
        let pool = self.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let started = pool.starter.start(pool.function.clone()).await;
            let mut state = pool.state();
            state.starting -= 1;
            match started {
                Ok(sandbox) => {
                    state.busy += 1;
                    drop(state);
                    pool.hand_over(Ready { sandbox, started: Some(begun.elapsed()) });
                }
                Err(error) => {
                    tracing::warn!(function = pool.function.spec.name, %error, "a sandbox was not started");
                    if state.alive() == 0 {
                        let waiting = std::mem::take(&mut state.waiting);
                        drop(state);
                        for waiter in waiting {
                            let _ = waiter.send(Err(error.clone()));
                        }
                    }
                }
            }
        });
    }

    /// Takes back a sandbox that is ready for another request.
    pub(in crate::sandbox) fn put_back(self: &Arc<Pool>, sandbox: Box<dyn Sandbox>) {
        self.hand_over(Ready { sandbox, started: None });
    }

    /// Has a sandbox that is idle rest now, and waits until it has: see [`Sandbox::rest`].
    pub async fn rest_one(self: &Arc<Pool>) {
        let idle = {
            let mut state = self.state();
            let idle = state.idle.pop();
            state.busy += u32::from(idle.is_some());
            idle
        };
        if let Some(Idle { sandbox, .. }) = idle {
            Lease::new(self.clone(), sandbox).rest().await;
        }
    }

    /// Gives a sandbox that counts as busy to the first request that waits, else makes it idle.
    fn hand_over(self: &Arc<Pool>, Ready { sandbox, started }: Ready) {
        let mut leased = (Lease::new(self.clone(), sandbox), started);
        let mut state = self.state();
        while !state.closed
            && let Some(waiter) = state.waiting.pop_front()
        {
            match waiter.send(Ok(leased)) {
                Ok(()) | Err(Err(_)) => return,
                Err(Ok(back)) => leased = back,
            }
        }
        state.busy -= 1;
        // Not by dropping the lease: that would give it back to this very pool.
        let sandbox = leased.0.into_sandbox();
        if state.closed {
            drop(state);
            drop(sandbox);
        } else {
            state.idle.extend(sandbox.map(|sandbox| Idle { sandbox, since: Instant::now() }));
        }
    }

    /// Notes that a sandbox that counted as busy is gone.
    pub(in crate::sandbox) fn lost(self: &Arc<Pool>) {
        let mut state = self.state();
        state.busy -= 1;
        if !state.closed && !state.waiting.is_empty() && state.alive() == 0 {
            self.add(&mut state);
        }
    }

    /// Lets go sandboxes that were idle for too long, and those that ended meanwhile. To be called now and then.
    pub fn sweep(&self) {
        let mut state = self.state();
        let gone: Vec<Idle> = state
            .idle
            .extract_if(.., |idle| {
                idle.since.elapsed() >= self.settings.idle_time || !idle.sandbox.channel().is_idle()
            })
            .collect();
        // Ending a sandbox may take a while: not under the lock.
        drop(state);
        drop(gone);
        self.starter.sweep(self.settings.idle_time);
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

/// A place among the busy sandboxes, given back when dropped.
struct Place<'a>(&'a Arc<Pool>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lost();
    }
}
