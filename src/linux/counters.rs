//! What the guests of one owner did, counted: where the time of an answer goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)*) => {
        /// Sums over all guests that share it. They are counted without an order between them: read together they need not agree to the last one.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: AtomicU64,)*
        }

        /// The sums at one time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct Counts {
            $($(#[doc = $help])+ pub $name: u64,)*
        }

        impl Counters {
            /// Notes that a guest was made from a checkpoint.
            pub fn restored_in(&self, time: Duration) {
                count(&self.restores);
                add_time(&self.restore_ns, time);
            }

            /// Notes that a guest was put back to its checkpoint.
            pub fn reset_in(&self, time: Duration) {
                count(&self.resets);
                add_time(&self.reset_ns, time);
            }

            /// The sums now.
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }

            /// Adds what others counted.
            pub fn add(&self, counts: &Counts) {
                $(self.$name.fetch_add(counts.$name, Ordering::Relaxed);)*
            }
        }

        impl Counts {
            /// What was counted since the sums were as they are `before`.
            pub fn since(&self, before: &Counts) -> Counts {
                Counts { $($name: self.$name.saturating_sub(before.$name),)* }
            }

            /// Each by its name; times, in nanoseconds, are those whose name ends with `_ns`.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Guests that were made from a checkpoint.
    restores,
    /// Nanoseconds that this took: RAM mapped, state decoded, files opened.
    restore_ns,
    /// Guests that were put back to their checkpoint.
    resets,
    /// Nanoseconds that this took, from the end of the one before.
    reset_ns,
    /// Nanoseconds in which threads' registers were loaded into vCPUs that did not have them.
    register_ns,
    /// Entries into ring 3.
    entries,
    /// Nanoseconds in there. What KVM does by itself is part of it: faults that it serves from its own page tables, and the way in and out.
    guest_ns,
    /// System calls that threads made.
    system_calls,
    /// Nanoseconds in which they were served.
    system_call_ns,
    /// System calls, of those above, that were answered while the vCPU stayed in the guest.
    exitless_calls,
    /// Page faults, of those below, that were answered while the vCPU stayed in the guest.
    exitless_faults,
    /// Nanoseconds in which calls and page faults were served while the vCPU stayed in the guest; part of the time in there.
    exitless_ns,
    /// Page faults of pages that were not in the guest's page tables.
    pages_filled,
    /// Page faults of pages that were there with fewer rights.
    rights_raised,
    /// Nanoseconds in which page faults were served.
    fault_ns,
    /// Other exceptions. Each became a signal.
    exceptions,
    /// Times that a vCPU was called back from the guest.
    kicks,
    /// Times that a thread went to sleep in a system call.
    waits,
}

impl Counters {
    /// The counter of page faults with the CPU's error code `error`.
    pub(super) fn of_fault(&self, error: u64) -> &AtomicU64 {
        const PRESENT: u64 = 1 << 0;
        if error & PRESENT == 0 { &self.pages_filled } else { &self.rights_raised }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Adds the time since `begun`, and says what time it is: the beginning of what comes next.
pub(super) fn spend(nanoseconds: &AtomicU64, begun: Instant) -> Instant {
    let now = Instant::now();
    add_time(nanoseconds, now - begun);
    now
}

/// Adds a time.
pub(super) fn add_time(nanoseconds: &AtomicU64, time: Duration) {
    // 584 years fit.
    nanoseconds.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_by_name() {
        let counters = Counters::default();
        count(&counters.system_calls);
        count(&counters.system_calls);
        add_time(&counters.guest_ns, Duration::from_micros(3));
        let counts = counters.read();
        assert_eq!((counts.system_calls, counts.guest_ns, counts.kicks), (2, 3000, 0));
        assert!(counts.each().any(|sum| sum == ("system_calls", 2)));
        assert_eq!(serde_json::to_value(counts).unwrap()["systemCalls"], 2);
    }
}
