//! What was made ahead and waits for its first request: copies of snapshots, and isolates and agents that have no function yet.
//!
//! How many there are follows the demand. A request that finds none, or has to wait for one that is being made, raises the number by one;
//! a copy that nobody wanted for a while is let go, and lowers it. A copy that is lent to one request counts: it comes back.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::sync::lock;

/// Copies `C` of one thing.
pub struct Spares<C> {
    state: Mutex<State<C>>,
    /// Counts what those who wait are to look at.
    changes: watch::Sender<u64>,
    /// Most that may wait.
    most: usize,
}

struct State<C> {
    ready: Vec<(C, Instant)>,
    /// Being made, by whoever holds a [`Place`].
    making: usize,
    /// Lent: as many as there are [`Loan`]s.
    lent: usize,
    /// Requests that wait for one of those.
    waiting: usize,
    /// As many as there should be.
    target: usize,
    closed: bool,
}

/// The right, and the duty, to make a copy for the others. Dropped without one, it says that there will be none.
pub struct Place<C> {
    spares: Arc<Spares<C>>,
    done: bool,
}

impl<C> Spares<C> {
    /// None yet, and never more than `most`.
    pub fn new(most: usize) -> Arc<Spares<C>> {
        let state = State { ready: Vec::new(), making: 0, lent: 0, waiting: 0, target: 0, closed: false };
        Arc::new(Spares { state: Mutex::new(state), changes: watch::Sender::new(0), most })
    }

    /// A copy that waits, or one that is being made as soon as it is there. `None` if the caller has to make its own.
    pub async fn take(&self) -> Option<C> {
        let mut changes = self.changes.subscribe();
        let mut waits = None;
        loop {
            {
                let mut state = self.lock();
                if let Some((copy, _)) = state.ready.pop() {
                    return Some(copy);
                }
                if waits.is_none() {
                    state.target = (state.target + 1).min(self.most);
                }
                let promised = state.waiting - usize::from(waits.is_some());
                if state.closed || state.making <= promised {
                    return None;
                }
                if waits.is_none() {
                    state.waiting += 1;
                    waits = Some(Waits(self));
                }
            }
            // The sender is this value's own.
            changes.changed().await.ok()?;
        }
    }

    /// Says that a copy is used for one request, and comes back then.
    pub fn lend(self: &Arc<Self>) -> Loan<C> {
        self.lock().lent += 1;
        Loan(self.clone())
    }

    /// Says that one should be there though nobody has asked yet.
    pub fn expect_one(&self) {
        let mut state = self.lock();
        state.target = state.target.max(1.min(self.most));
    }

    /// A copy that waits, if there is one: for those to whom one that is being made would come later than their own.
    pub fn take_ready(&self) -> Option<C> {
        let mut state = self.lock();
        let ready = state.ready.pop();
        if ready.is_none() {
            state.target = (state.target + 1).min(self.most);
        }
        ready.map(|(copy, _)| copy)
    }

    /// The right to make one more, if there should be.
    pub fn claim(self: &Arc<Self>) -> Option<Place<C>> {
        let mut state = self.lock();
        let wanted = !state.closed && state.ready.len() + state.making + state.lent < state.target;
        state.making += usize::from(wanted);
        wanted.then(|| Place { spares: self.clone(), done: false })
    }

    /// Lets go those that are of no more `use`.
    pub fn retain(&self, mut useful: impl FnMut(&mut C) -> bool) {
        let gone: Vec<_> = self.lock().ready.extract_if(.., |(copy, _)| !useful(copy)).collect();
        // Not under the lock: ending a copy takes a while.
        drop(gone);
    }

    /// Lets go those that have waited for `idle_time` or, where memory is `scarce`, all of them.
    pub fn sweep(&self, idle_time: Duration, scarce: bool) {
        let mut state = self.lock();
        let gone: Vec<_> =
            state.ready.extract_if(.., |(_, since)| scarce || since.elapsed() >= idle_time).collect();
        state.target -= gone.len().min(state.target);
        drop(state);
        drop(gone);
    }

    /// Gives away those that wait, to be let go; there will be no more.
    pub fn close(&self) -> Vec<C> {
        let mut state = self.lock();
        state.closed = true;
        let gone = std::mem::take(&mut state.ready);
        drop(state);
        self.changed();
        gone.into_iter().map(|(copy, _)| copy).collect()
    }

    /// Whether requests wait for a copy that is being made.
    pub fn is_awaited(&self) -> bool {
        self.lock().waiting > 0
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.lock().ready.len()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        // No code that holds the lock panics half-way through a change.
        lock(&self.state)
    }
}

/// A copy is in use, and is to come back.
pub struct Loan<C>(Arc<Spares<C>>);

impl<C> Loan<C> {
    /// The copy has been used, and can be made ready again, if it is still wanted.
    pub fn end(self) -> Option<Place<C>> {
        let spares = self.0.clone();
        drop(self);
        spares.claim()
    }
}

impl<C> Drop for Loan<C> {
    fn drop(&mut self) {
        self.0.lock().lent -= 1;
    }
}

/// A request that waits.
struct Waits<'a, C>(&'a Spares<C>);

impl<C> Drop for Waits<'_, C> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl<C> Place<C> {
    /// Puts the copy there.
    pub fn fill(mut self, copy: C) {
        self.done = true;
        let mut state = self.spares.lock();
        state.making -= 1;
        let refused = if state.closed {
            Some(copy)
        } else {
            state.ready.push((copy, Instant::now()));
            None
        };
        drop(state);
        self.spares.changed();
        drop(refused);
    }
}

impl<C> Drop for Place<C> {
    fn drop(&mut self) {
        if !self.done {
            self.spares.lock().making -= 1;
            self.spares.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn demand_raises_the_number_and_idleness_lowers_it() {
        let spares = Spares::new(2);
        assert!(spares.claim().is_none(), "nobody has asked yet");
        assert_eq!(spares.take().await, None::<i32>);
        let place = spares.claim().expect("one is wanted now");
        assert!(spares.claim().is_none());
        // One that is being made is waited for, by one request only.
        let mut waiting = Box::pin(spares.take());
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(spares.take_ready(), None);
        let second = spares.claim().expect("two are wanted now");
        assert!(spares.claim().is_none(), "no more than two");
        place.fill(1);
        assert_eq!(waiting.await, Some(1));
        second.fill(2);
        spares.claim().expect("one was taken").fill(3);
        assert_eq!(spares.count(), 2);
        spares.sweep(LONG, false);
        assert_eq!(spares.count(), 2);
        spares.sweep(LONG, true);
        assert_eq!(spares.count(), 0);
        assert!(spares.claim().is_none(), "nobody wanted them");
    }

    #[tokio::test]
    async fn who_waits_for_a_copy_that_fails_makes_its_own() {
        let spares = Spares::new(4);
        assert_eq!(spares.take().await, None::<i32>);
        let place = spares.claim().expect("one is wanted");
        let mut waiting = Box::pin(spares.take());
        assert!((&mut waiting).now_or_never().is_none());
        drop(place);
        assert_eq!(waiting.now_or_never(), Some(None));
        // One that goes away is not counted any more.
        let place = spares.claim().expect("one is wanted");
        let mut gone = Box::pin(spares.take());
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        let mut next = Box::pin(spares.take());
        assert!((&mut next).now_or_never().is_none());
        place.fill(1);
        assert_eq!(next.now_or_never(), Some(Some(1)));
    }

    #[tokio::test]
    async fn nothing_is_kept_after_the_end() {
        let spares = Spares::new(4);
        spares.take().await;
        let place = spares.claim().expect("one is wanted");
        let mut waiting = Box::pin(spares.take());
        assert!((&mut waiting).now_or_never().is_none());
        spares.close();
        assert_eq!(waiting.now_or_never(), Some(None));
        place.fill(1);
        assert_eq!((spares.count(), spares.claim().is_none()), (0, true));
    }

    #[tokio::test]
    async fn a_lent_copy_comes_back_instead_of_a_new_one() {
        let spares = Spares::<i32>::new(4);
        assert_eq!(spares.take().await, None);
        let loan = spares.lend();
        assert!(spares.claim().is_none());
        loan.end().expect("it is wanted again").fill(1);
        assert_eq!(spares.take().await, Some(1));
        let loan = spares.lend();
        assert_eq!(spares.take().await, None);
        spares.claim().expect("two at a time are wanted now").fill(2);
        assert!(spares.claim().is_none());
        drop(loan);
        spares.claim().expect("the lent one did not come back").fill(3);
        spares.close();
        assert!(spares.lend().end().is_none());
    }

    #[tokio::test]
    async fn useless_copies_go() {
        let spares = Spares::new(4);
        for copy in 0..3 {
            spares.take().await;
            spares.claim().expect("one is wanted").fill(copy);
            if copy < 2 {
                spares.take().await;
            }
        }
        spares.retain(|copy| *copy != 2);
        assert_eq!(spares.count(), 0);
    }
}
