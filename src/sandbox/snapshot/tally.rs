//! What all microVMs of a function did, those among them that began as copies of a template.

use std::sync::{Arc, Mutex};

use crate::linux::counters::{Counters, Counts};
use crate::sync::lock;

/// The counters of a function.
#[derive(Default)]
pub struct Tally {
    own: Arc<Counters>,
    /// Those of guests that were there before the function was: they count for themselves.
    adopted: Mutex<Vec<Arc<Counters>>>,
}

impl Tally {
    /// What guests that are made for the function count in.
    pub fn own(&self) -> &Arc<Counters> {
        &self.own
    }

    /// Counts with the function's from now on what a guest counts in `counters`.
    pub fn adopt(&self, counters: Arc<Counters>) {
        let mut adopted = lock(&self.adopted);
        // Of those whose guests have ended there is but the sum to keep.
        let ended = adopted.extract_if(.., |counters| Arc::strong_count(counters) == 1);
        ended.for_each(|counters| self.own.add(&counters.read()));
        adopted.push(counters);
    }

    /// The sums now.
    pub fn read(&self) -> Counts {
        let sum = Counters::default();
        let adopted = lock(&self.adopted);
        adopted.iter().chain([&self.own]).for_each(|counters| sum.add(&counters.read()));
        sum.read()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_was_adopted_is_counted_once_while_it_runs_and_afterwards() {
        let tally = Tally::default();
        for runs in 1..=3 {
            let guest = Arc::<Counters>::default();
            tally.adopt(guest.clone());
            guest.entries.fetch_add(10, Ordering::Relaxed);
            tally.own().entries.fetch_add(1, Ordering::Relaxed);
            assert_eq!(tally.read().entries, 11 * runs);
        }
        assert_eq!(lock(&tally.adopted).len(), 1);
    }
}
