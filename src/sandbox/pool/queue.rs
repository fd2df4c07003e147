//! Requests that wait for one of a pool's sandboxes, or for a place for one of their own: first come, first served.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::Error;
use super::super::lease::Lease;
use super::{Pool, State};

/// How long a request waits for a sandbox to become free before another sandbox is added.
const GROW_AFTER: Duration = Duration::from_millis(5);

/// What a request gets.
pub(super) enum Grant {
    /// A sandbox, and how long its start took if it has served nobody yet. It is a lease, as the request may be given up on the way: then the
    /// sandbox goes back to the pool.
    Sandbox(Lease, Option<Duration>),
    /// A place, for a sandbox that the request starts itself.
    Place(Place),
}

/// A place among the busy sandboxes, given back when dropped.
pub(in crate::sandbox) struct Place(Option<Arc<Pool>>);

/// A request that waits.
pub(super) struct Waiter {
    /// Whether it wants a sandbox that has served nobody.
    fresh: bool,
    since: Instant,
    sender: oneshot::Sender<Result<Grant, Error>>,
}

impl Place {
    /// A place in `pool`, where it counts as busy already.
    pub(in crate::sandbox) fn new(pool: Arc<Pool>) -> Place {
        Place(Some(pool))
    }

    /// Leaves the place to whatever counts as busy from now on.
    pub(super) fn take(mut self) -> Option<Arc<Pool>> {
        self.0.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.lost();
        }
    }
}

impl Waiter {
    /// One that waits from now on, and where it gets what it waits for; the sender is dropped only by [`Pool::close`].
    pub(super) fn new(fresh: bool) -> (Waiter, oneshot::Receiver<Result<Grant, Error>>) {
        let (sender, receiver) = oneshot::channel();
        (Waiter { fresh, since: Instant::now(), sender }, receiver)
    }

    /// Whether its client has gone.
    pub(super) fn has_left(&self) -> bool {
        self.sender.is_closed()
    }

    /// Gives it what it waits for; or gives that back, if it has left.
    pub(super) fn give(self, grant: Grant) -> Result<(), Grant> {
        match self.sender.send(Ok(grant)) {
            Err(Ok(grant)) => Err(grant),
            _ => Ok(()),
        }
    }

    /// Tells it that it waits in vain.
    pub(super) fn refuse(self, error: Error) {
        let _ = self.sender.send(Err(error));
    }
}

impl State {
    /// The request whose turn it is.
    pub(super) fn head(&mut self) -> Option<&Waiter> {
        while self.waiting.front().is_some_and(Waiter::has_left) {
            self.waiting.pop_front();
        }
        self.waiting.front()
    }
}

impl Pool {
    /// Gives those whose turn it is the places that there are, if that is what they wait for, and has the pool grow for the others. To be
    /// called whenever there may be a place more, or another head of the queue.
    pub(super) fn advance(self: &Arc<Pool>, state: &mut State) {
        while self.has_room(state) && state.head().is_some_and(|head| head.fresh) {
            let Some(waiter) = state.waiting.pop_front() else { return };
            state.busy += 1;
            if let Err(Grant::Place(place)) = waiter.give(Grant::Place(Place::new(self.clone()))) {
                // Not by dropping it, which would lock the state.
                drop(place.take());
                state.busy -= 1;
            }
        }
        if state.head().is_none() || !self.has_room(state) {
            return;
        }
        if state.alive() == 0 {
            self.add(state);
        }
        if !state.tended && self.has_room(state) {
            state.tended = true;
            let pool = self.clone();
            tokio::spawn(async move {
                while let Some(wait) = pool.grow() {
                    tokio::time::sleep(wait).await;
                }
            });
        }
    }

    /// Adds sandboxes if requests have waited for long enough. Returns when to look again; `None` if there is nothing to look after.
    fn grow(self: &Arc<Pool>) -> Option<Duration> {
        let mut state = self.state();
        self.advance(&mut state);
        let waited = state.head().map(|head| head.since.elapsed());
        let Some(waited) = waited.filter(|_| self.has_room(&state)) else {
            state.tended = false;
            return None;
        };
        if let Some(rest) = GROW_AFTER.checked_sub(waited).filter(|rest| !rest.is_zero()) {
            return Some(rest);
        }
        // More starts at a time than CPUs would only delay each other.
        let most = self.settings.parallel_starts as usize;
        let wanted = state.waiting.iter().filter(|waiter| !waiter.fresh && !waiter.has_left()).take(most);
        let wanted = wanted.count() as u32;
        while state.starting < wanted && self.has_room(&state) {
            self.add(&mut state);
        }
        Some(GROW_AFTER)
    }

    /// Whether as many requests run and wait as may.
    pub(super) fn is_full(&self, state: &State) -> bool {
        let sandboxes = self.function.spec.concurrency as usize;
        state.busy as usize + state.waiting.len() >= self.settings.max_waiting.saturating_add(sandboxes)
    }

    /// Whether there may be one more sandbox.
    pub(super) fn has_room(&self, state: &State) -> bool {
        state.alive() < self.function.spec.concurrency
    }
}
