//! What a sandbox that has served nobody costs, by each way to have one: measured, because hosts differ. Where KVM shadows page tables in
//! software, a new microVM pays microseconds for each page that it touches first; where the CPU walks two tables it hardly does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::super::Start;

/// In so many decisions, one goes against what the measurements say: hosts and functions change.
const TRIAL: u32 = 32;

/// Weight of what was measured before against what is measured now.
const MEMORY: u64 = 7;

/// Moving averages of one function, in nanoseconds; 0 where nothing was measured yet.
#[derive(Debug, Default)]
pub struct Costs {
    restored: AtomicU64,
    reset: AtomicU64,
    decisions: AtomicU32,
}

impl Costs {
    /// A sandbox that came about by `start` took so long to be made and to give its first answer.
    pub fn note(&self, start: Start, time: Duration) {
        let average = match start {
            Start::Restore => &self.restored,
            Start::Reset => &self.reset,
            Start::Cold | Start::Template | Start::Warm => return,
        };
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).clamp(1, 1 << 50);
        // Of two that are noted at once one may be lost: the average hardly changes.
        let before = average.load(Ordering::Relaxed);
        let after = if before == 0 { time } else { (MEMORY * before + time) / (MEMORY + 1) };
        average.store(after, Ordering::Relaxed);
    }

    /// Whether a microVM that has served is to be put back, rather than replaced by a new one.
    pub fn prefers_reset(&self) -> bool {
        let (restored, reset) = (self.restored.load(Ordering::Relaxed), self.reset.load(Ordering::Relaxed));
        // What is not known is tried.
        let cheaper = reset <= restored || restored == 0;
        let trial =
            restored > 0 && reset > 0 && self.decisions.fetch_add(1, Ordering::Relaxed) % TRIAL == TRIAL - 1;
        cheaper != trial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 320 decisions are for a reset.
    fn resets(costs: &Costs) -> usize {
        (0..320).filter(|_| costs.prefers_reset()).count()
    }

    #[test]
    fn the_cheaper_way_is_taken_and_the_other_tried_now_and_then() {
        let costs = Costs::default();
        assert_eq!(resets(&costs), 320, "nothing is known yet");
        costs.note(Start::Restore, Duration::from_millis(9));
        assert_eq!(resets(&costs), 320, "a reset was not tried yet");
        costs.note(Start::Reset, Duration::from_millis(1));
        assert_eq!(resets(&costs), 310);
        for _ in 0..40 {
            costs.note(Start::Reset, Duration::from_millis(20));
        }
        assert_eq!(resets(&costs), 10);
        costs.note(Start::Warm, Duration::from_secs(1000));
        costs.note(Start::Cold, Duration::ZERO);
        assert_eq!(resets(&costs), 10);
    }
}
