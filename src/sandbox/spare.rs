//! One of something that takes long to make: made ahead of need, and kept for whoever comes next.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::sync::lock;

/// A place for one of them.
pub struct Spare<T>(Mutex<State<T>>);

enum State<T> {
    Empty,
    /// It is being made, for the first who came for one in the meantime.
    Making(Option<oneshot::Sender<T>>),
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
        *state = State::Making(None);
        let spare = self.clone();
        tokio::spawn(async move {
            let made = make.await;
            let mut state = lock(&spare.0);
            let State::Making(waiting) = &mut *state else { return }; // closed in the meantime
            let left = match (made, waiting.take()) {
                (Some(made), Some(waiting)) => waiting.send(made).err(),
                (made, _) => made,
            };
            *state = left.map_or(State::Empty, State::Kept);
        });
    }

    /// The one that is kept, or that is being made, if nobody waits for that yet.
    pub async fn take(&self) -> Option<T> {
        let made = {
            let mut state = lock(&self.0);
            match &mut *state {
                State::Kept(_) => match std::mem::replace(&mut *state, State::Empty) {
                    State::Kept(spare) => return Some(spare),
                    _ => return None,
                },
                State::Making(waiting) if waiting.as_ref().is_none_or(oneshot::Sender::is_closed) => {
                    let (sender, made) = oneshot::channel();
                    *waiting = Some(sender);
                    made
                }
                _ => return None,
            }
        };
        made.await.ok()
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
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_is_kept_and_taken_once() {
        let spare = Arc::new(Spare::default());
        assert_eq!(spare.take().await, None);
        for value in [1, 2] {
            spare.fill(async move { Some(value) });
            while !matches!(*lock(&spare.0), State::Kept(_)) {
                tokio::task::yield_now().await;
            }
            spare.fill(async { Some(9) });
            assert_eq!(spare.take().await, Some(value));
            assert_eq!(spare.take().await, None);
        }
    }

    #[tokio::test]
    async fn the_first_who_comes_while_it_is_made_gets_it() {
        let spare = Arc::new(Spare::default());
        let (send, made) = oneshot::channel();
        spare.fill(async move { made.await.ok() });
        let mut given_up = Box::pin(spare.take());
        assert_eq!((&mut given_up).now_or_never(), None);
        drop(given_up);
        let mut first = Box::pin(spare.take());
        assert_eq!((&mut first).now_or_never(), None);
        assert_eq!(spare.take().await, None);
        send.send(7).unwrap();
        assert_eq!(first.await, Some(7));
    }

    #[tokio::test]
    async fn what_could_not_be_made_is_tried_again() {
        let spare = Arc::new(Spare::default());
        spare.fill(async { None });
        assert_eq!(spare.take().await, None);
        spare.fill(async { Some(3) });
        assert_eq!(spare.take().await, Some(3));
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
        assert_eq!(spare.take().await, None);
    }
}
