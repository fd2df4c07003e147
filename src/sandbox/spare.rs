//! One of something that takes long to make: made ahead of need, and kept for whoever comes next.

use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// A place for one of them.
pub struct Spare<T>(Mutex<State<T>>);

enum State<T> {
    Empty,
    /// It is being made.
    Making,
    Kept(T),
    /// Nothing is to be kept any more.
    Closed,
}

impl<T> Default for Spare<T> {
    fn default() -> Spare<T> {
        Spare(Mutex::new(State::Empty))
    }
}

impl<T: Send + 'static> Spare<T> {
    /// Makes one in the background, unless there is one or one is being made. `make` says itself why there is none.
    pub fn fill(self: &Arc<Self>, make: impl Future<Output = Option<T>> + Send + 'static) {
        let mut state = lock(&self.0);
        if !matches!(*state, State::Empty) {
            return;
        }
        *state = State::Making;
        let spare = self.clone();
        tokio::spawn(async move {
            let made = make.await;
            let mut state = lock(&spare.0);
            // Else it was closed in the meantime.
            if matches!(*state, State::Making) {
                *state = made.map_or(State::Empty, State::Kept);
            }
        });
    }

    /// The one that is kept. One that is being made is not waited for: who needs one now makes it beside that, and the next has it.
    pub fn take(&self) -> Option<T> {
        let mut state = lock(&self.0);
        if !matches!(*state, State::Kept(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Empty) {
            State::Kept(spare) => Some(spare),
            _ => None,
        }
    }

    /// The one that is kept; there will not be another.
    pub fn close(&self) -> Option<T> {
        match std::mem::replace(&mut *lock(&self.0), State::Closed) {
            State::Kept(spare) => Some(spare),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    async fn made(spare: &Spare<u32>) {
        while matches!(*lock(&spare.0), State::Making) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_is_kept_and_taken_once() {
        let spare = Arc::new(Spare::default());
        assert_eq!(spare.take(), None);
        for value in [1, 2] {
            spare.fill(async move { Some(value) });
            assert_eq!(spare.take(), None);
            made(&spare).await;
            spare.fill(async { Some(9) });
            assert_eq!(spare.take(), Some(value));
            assert_eq!(spare.take(), None);
        }
    }

    #[tokio::test]
    async fn what_could_not_be_made_is_tried_again() {
        let spare = Arc::new(Spare::default());
        for (outcome, kept) in [(None, None), (Some(3), Some(3))] {
            spare.fill(async move { outcome });
            made(&spare).await;
            assert_eq!(spare.take(), kept);
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_after_it_was_closed() {
        let spare = Arc::new(Spare::default());
        let (send, made) = oneshot::channel::<Arc<()>>();
        let value = Arc::new(());
        spare.fill(async move { made.await.ok() });
        assert_eq!(spare.close(), None);
        send.send(value.clone()).unwrap();
        while Arc::strong_count(&value) > 1 {
            tokio::task::yield_now().await;
        }
        spare.fill(async { Some(Arc::default()) });
        assert_eq!(spare.take(), None);
    }
}
