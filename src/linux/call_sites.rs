//! Where the program makes its system calls from, and which of these places are worth rewriting, so that a call needs no exit to begin (see
//! [`CallSite`](crate::vmm::CallSite)).
//!
//! What is rewritten after a checkpoint every copy has to rewrite anew, and to be put back from. So a place is rewritten once it has made some calls,
//! and before a checkpoint all are that have made one.

use std::collections::HashMap;

use super::kernel::Kernel;
use super::mm::{Others, Rewritten};
use crate::vmm::Hypervisor;

/// Calls from a place until it is rewritten.
const DUE: u32 = 2;
/// Most places that are counted. Programs have some dozens; one with more is making them.
const MOST: usize = 1024;

/// The places, by the address after their `syscall`.
#[derive(Default)]
pub struct CallSites(HashMap<u64, Calls>);

/// What is known of a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Calls {
    /// So many calls were made, by `syscall`, the last of them with this number.
    Made(u32, u64),
    /// It was rewritten, or cannot be.
    Settled,
}

impl CallSites {
    /// The places that may still be rewritten, and the number of the last call from each.
    fn unsettled(&self) -> Vec<(u64, u64)> {
        let last = |(end, calls): (&u64, &Calls)| match calls {
            Calls::Made(_, number) => Some((*end, *number)),
            Calls::Settled => None,
        };
        self.0.iter().filter_map(last).collect()
    }

    /// Counts the call of that `number` from `end`; whether the place is due.
    fn is_due(&mut self, end: u64, number: u64) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(&end) {
            return false;
        }
        match self.0.entry(end).or_insert(Calls::Made(0, number)) {
            Calls::Settled => false,
            Calls::Made(calls, last) => {
                (*calls, *last) = (calls.saturating_add(1), number);
                *calls >= DUE
            }
        }
    }
}

impl Kernel {
    /// A thread has made the call of that `number`, which comes back to `end`, and is in it. Where it is to come back to instead.
    pub fn called_from(&self, end: u64, number: u64) -> u64 {
        if !takes_direct_calls() || !self.call_sites().is_due(end, number) {
            return end;
        }
        // No thread begins to run meanwhile.
        let state = self.sched.lock();
        let others = if state.running() > 1 { Others::Running } else { Others::Away };
        let rewritten = self.mm().rewrite_call(end, number, others);
        if rewritten != Rewritten::NotNow {
            self.call_sites().0.insert(end, Calls::Settled);
        }
        match rewritten {
            Rewritten::Done(next) => next,
            Rewritten::Never | Rewritten::NotNow => end,
        }
    }

    /// Rewrites all places that calls were made from. No thread runs.
    pub fn rewrite_all_calls(&self) {
        if !takes_direct_calls() {
            return;
        }
        let mut state = self.sched.lock();
        let sites = self.call_sites().unsettled();
        for (end, number) in sites {
            self.mm().rewrite_call(end, number, Others::Away);
        }
        // Threads that were in a call from a place when it was rewritten.
        let mut space = self.mm();
        state.move_threads(|rip| space.after_trap(rip));
    }
}

/// Whether the KVM that runs the program, which is known by then, is one where that pays.
fn takes_direct_calls() -> bool {
    Hypervisor::get().is_ok_and(Hypervisor::takes_direct_calls)
}
