//! What a sandbox that has served nobody costs, by each way to have one: measured, because hosts differ. Where KVM shadows page tables in
//! software, a new microVM pays microseconds for each page that it touches first; where the CPU walks two tables it hardly does.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use super::super::Start;
use crate::sync::lock;

/// In so many decisions, one goes against what the measurements say, for hosts and functions change; in as many times more as the other way costs
/// more, so that all trials together cost a thirtieth.
const TRIAL: u32 = 32;
/// Most times more: what was measured may have been no measure.
const MOST_TIMES: u128 = 32;

/// A way is judged by so many measurements, its last: one alone may have met a busy host, or a request that was longer than others.
const SAMPLES: usize = 8;

/// The last measurements of one function, by way.
#[derive(Debug, Default)]
pub struct Costs(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    restored: Samples,
    reset: Samples,
    /// Decisions since one went against what the measurements say.
    decisions: u32,
}

impl Costs {
    /// A sandbox that came about by `start` took so long to be made and to give its first answer.
    pub fn note(&self, start: Start, time: Duration) {
        let mut measured = lock(&self.0);
        match start {
            Start::Restore => measured.restored.add(time),
            Start::Reset => measured.reset.add(time),
            Start::Cold | Start::Template | Start::Warm => {}
        }
    }

    /// Whether a microVM that has served is to be put back, rather than replaced by a new one.
    pub fn prefers_reset(&self) -> bool {
        let mut measured = lock(&self.0);
        // What is not known is tried.
        let Some(reset) = measured.reset.median() else { return true };
        let Some(restored) = measured.restored.median() else { return false };
        let (less, more) = (reset.min(restored), reset.max(restored));
        let times = (more.as_nanos() / less.as_nanos().max(1)).min(MOST_TIMES);
        measured.decisions = measured.decisions.saturating_add(1);
        let is_trial = u128::from(measured.decisions) >= times * u128::from(TRIAL);
        if is_trial {
            measured.decisions = 0;
        }
        (reset <= restored) != is_trial
    }
}

/// No more than [`SAMPLES`], oldest first.
#[derive(Debug, Default)]
struct Samples(VecDeque<Duration>);

impl Samples {
    fn add(&mut self, time: Duration) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    /// The upper one, once there are enough to be judged by.
    fn median(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() == SAMPLES).then(|| sorted[SAMPLES / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 320 decisions are for a reset.
    fn resets(costs: &Costs) -> usize {
        (0..320).filter(|_| costs.prefers_reset()).count()
    }

    /// Notes as many as a way is judged by.
    fn note(costs: &Costs, start: Start, milliseconds: u64) {
        (0..SAMPLES).for_each(|_| costs.note(start, Duration::from_millis(milliseconds)));
    }

    #[test]
    fn the_cheaper_way_is_taken_and_the_other_tried_now_and_then() {
        let costs = Costs::default();
        assert_eq!(resets(&costs), 320, "nothing is known yet");
        note(&costs, Start::Restore, 9);
        assert_eq!(resets(&costs), 320, "a reset was not tried yet");
        note(&costs, Start::Reset, 8);
        assert_eq!(resets(&costs), 310);
        note(&costs, Start::Reset, 10);
        assert_eq!(resets(&costs), 10);
        // The more it costs, the more seldom.
        note(&costs, Start::Reset, 91);
        assert_eq!(resets(&costs), 1);
        note(&costs, Start::Reset, 1_000_000);
        let tried: usize = (0..32).map(|_| resets(&costs)).sum();
        assert!((9..=11).contains(&tried), "{tried} of 10,240");
        note(&costs, Start::Reset, 10);
        note(&costs, Start::Warm, 1_000_000);
        note(&costs, Start::Cold, 0);
        assert_eq!(resets(&costs), 10);
    }

    #[test]
    fn a_way_is_tried_until_enough_is_known_of_it() {
        let costs = Costs::default();
        for _ in 1..SAMPLES {
            costs.note(Start::Reset, Duration::from_micros(1100));
            costs.note(Start::Restore, Duration::from_millis(1));
            assert_eq!(resets(&costs), 320);
        }
        costs.note(Start::Reset, Duration::from_micros(1100));
        assert_eq!(resets(&costs), 0, "one restore is still to be measured");
        costs.note(Start::Restore, Duration::from_millis(1));
        assert_eq!(resets(&costs), 10);
    }

    #[test]
    fn a_few_long_ones_change_nothing() {
        let costs = Costs::default();
        note(&costs, Start::Restore, 9);
        note(&costs, Start::Reset, 8);
        (1..SAMPLES / 2).for_each(|_| costs.note(Start::Reset, Duration::from_secs(100)));
        assert_eq!(resets(&costs), 310);
    }
}
