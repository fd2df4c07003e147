//! A function's snapshot: whether there is one, who is to make it, and who waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// After a checkpoint that failed, how long none is tried.
const RETRY: Duration = Duration::from_secs(30);

/// The place of a snapshot `S`.
pub struct Slot<S> {
    state: watch::Sender<State<S>>,
}

struct State<S> {
    snapshot: Option<Arc<S>>,
    making: bool,
    /// Warm-ups under way.
    warm_ups: u32,
    /// A warm-up is over: make one though there is one.
    wanted: bool,
    not_before: Option<Instant>,
}

/// The right to make the snapshot, given to one at a time. Dropped without one, it leaves what there was.
pub struct Making<S> {
    slot: Arc<Slot<S>>,
    done: bool,
}

impl<S> Slot<S> {
    /// A place with what was found for it.
    pub fn new(snapshot: Option<Arc<S>>) -> Arc<Slot<S>> {
        let state = State { snapshot, making: false, warm_ups: 0, wanted: false, not_before: None };
        Arc::new(Slot { state: watch::Sender::new(state) })
    }

    /// What there is now, and whether one is being made.
    pub fn look(&self) -> (Option<Arc<S>>, bool) {
        let state = self.state.borrow();
        (state.snapshot.clone(), state.making)
    }

    /// What there is now, and what is to be said of that: `none`, `being made` or `ready`.
    pub fn status(&self) -> (Option<Arc<S>>, &'static str) {
        let (snapshot, making) = self.look();
        let state = match (&snapshot, making) {
            (_, true) => "being made",
            (Some(_), false) => "ready",
            (None, false) => "none",
        };
        (snapshot, state)
    }

    /// The snapshot. Waits for the first one if that is being made.
    pub async fn get(&self) -> Option<Arc<S>> {
        let mut changes = self.state.subscribe();
        // The sender is this slot's own.
        let state = changes.wait_for(|state| state.snapshot.is_some() || !state.making).await.ok()?;
        state.snapshot.clone()
    }

    /// Lets go of a snapshot that turned out to be of no use; false if it was not there any more.
    pub fn discard(&self, useless: &Arc<S>) -> bool {
        self.state.send_if_modified(|state| {
            state.snapshot.take_if(|snapshot| Arc::ptr_eq(snapshot, useless)).is_some()
        })
    }

    /// Whether a snapshot is to be made now.
    pub fn is_due(&self) -> bool {
        self.state.borrow().is_due()
    }

    /// The right to make a snapshot, if one is to be made now.
    pub fn claim(self: &Arc<Self>) -> Option<Making<S>> {
        let mut claimed = false;
        self.state.send_if_modified(|state| {
            claimed = state.is_due();
            state.making |= claimed;
            claimed
        });
        claimed.then(|| Making { slot: self.clone(), done: false })
    }

    /// From now on nobody gets the right, until as many warm-ups are over.
    pub fn begin_warm_up(&self) {
        self.state.send_modify(|state| state.warm_ups += 1);
    }

    /// A warm-up is over; if it was `complete`, its effect is to be kept.
    pub fn end_warm_up(&self, complete: bool) {
        self.state.send_modify(|state| {
            state.warm_ups -= 1;
            if complete {
                (state.wanted, state.not_before) = (true, None);
            }
        });
    }
}

impl<S> State<S> {
    fn is_due(&self) -> bool {
        let due = self.wanted || self.snapshot.is_none();
        let allowed = self.warm_ups == 0 && !self.making;
        due && allowed && self.not_before.is_none_or(|at| Instant::now() >= at)
    }
}

impl<S> Making<S> {
    /// Puts the new snapshot in its place.
    pub fn done(mut self, snapshot: Arc<S>) {
        self.done = true;
        self.slot.state.send_modify(|state| {
            (state.snapshot, state.making, state.wanted) = (Some(snapshot), false, false);
        });
    }
}

impl<S> Drop for Making<S> {
    fn drop(&mut self) {
        if !self.done {
            self.slot.state.send_modify(|state| {
                (state.making, state.not_before) = (false, Some(Instant::now() + RETRY));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_makes_it_and_others_wait_for_it() {
        let slot = Slot::new(None);
        assert!(slot.get().await.is_none());
        let making = slot.claim().unwrap();
        assert!(slot.claim().is_none());
        let mut waiting = Box::pin(slot.get());
        assert!((&mut waiting).now_or_never().is_none());
        making.done(Arc::new(1));
        assert_eq!(waiting.await.as_deref(), Some(&1));
        assert!(slot.claim().is_none());
        slot.discard(&Arc::new(1));
        assert_eq!(slot.get().await.as_deref(), Some(&1));
        slot.discard(&slot.get().await.unwrap());
        assert!(slot.get().await.is_none());
        assert!(slot.claim().is_some());
    }

    #[tokio::test]
    async fn nobody_waits_for_the_next_one() {
        let slot = Slot::new(Some(Arc::new(1)));
        slot.begin_warm_up();
        slot.end_warm_up(true);
        let making = slot.claim().unwrap();
        assert_eq!(slot.get().now_or_never().unwrap().as_deref(), Some(&1));
        making.done(Arc::new(2));
        assert_eq!(slot.get().await.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn a_failure_leaves_what_there_was_and_is_not_repeated_at_once() {
        let slot = Slot::new(None);
        drop(slot.claim().unwrap());
        assert!(slot.claim().is_none());
        assert!(slot.get().now_or_never().unwrap().is_none());
        // Who asks for it by a warm-up has made room on the disk, maybe.
        slot.begin_warm_up();
        slot.end_warm_up(true);
        slot.claim().unwrap().done(Arc::new(1));
        slot.begin_warm_up();
        slot.end_warm_up(true);
        drop(slot.claim().unwrap());
        assert_eq!(slot.get().await.as_deref(), Some(&1));
    }

    #[tokio::test]
    async fn a_warm_up_is_kept_when_it_is_complete() {
        let slot = Slot::new(Some(Arc::new(1)));
        assert!(slot.claim().is_none());
        slot.begin_warm_up();
        slot.begin_warm_up();
        slot.end_warm_up(true);
        assert!(slot.claim().is_none());
        slot.end_warm_up(false);
        slot.claim().unwrap().done(Arc::new(2));
        assert!(slot.claim().is_none());
        slot.begin_warm_up();
        slot.end_warm_up(false);
        assert!(slot.claim().is_none());
    }
}
