//! What waits to be delivered, and which thread is woken for it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::super::sched::State;
use super::super::thread::Tid;
use super::{Set, SigInfo, bit};

/// From this number on every signal is queued, also when one of its number waits already.
const FIRST_REAL_TIME: i32 = 32;

/// Signals that wait to be delivered.
#[derive(Default, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pending {
    queues: BTreeMap<i32, VecDeque<SigInfo>>,
}

impl Pending {
    /// The numbers that wait.
    pub fn set(&self) -> Set {
        self.queues.keys().fold(0, |set, signal| set | bit(*signal))
    }

    /// How many wait.
    fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Adds a signal. Classic ones wait once, real-time ones each.
    pub fn push(&mut self, info: SigInfo) {
        let queue = self.queues.entry(info.signal).or_default();
        if queue.is_empty() || info.signal >= FIRST_REAL_TIME {
            queue.push_back(info);
        }
    }

    /// Takes the lowest-numbered signal in `set`.
    pub fn take(&mut self, set: Set) -> Option<SigInfo> {
        // A fault comes before all others: its frame must show the instruction that caused it.
        let fault = |i: &SigInfo| i.trap.0 != 0;
        let pick = |q: &&i32| bit(**q) & set != 0;
        let number = self
            .queues
            .iter()
            .find(|(n, q)| pick(n) && q.front().is_some_and(fault))
            .map(|(n, _)| *n)
            .or_else(|| self.queues.keys().find(pick).copied())?;
        let queue = self.queues.get_mut(&number)?;
        let info = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&number);
        }
        info
    }

    /// Drops a signal that has come to be ignored.
    pub fn discard(&mut self, signal: i32) {
        self.queues.remove(&signal);
    }
}

/// What the default action of these is, to stop the process, a `SIGCONT` takes back, and the other way round.
const STOPS: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What became of a signal that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queued {
    /// Whether it waits now. If not it was ignored.
    pub waits: bool,
    /// The thread to wake for it.
    pub wake: Option<Tid>,
}

/// Queues a signal for a thread or the process. `most`: queued real-time signals of the whole process beyond which no more are taken.
pub fn queue(state: &mut State, target: Option<Tid>, info: SigInfo, most: usize) -> Result<Queued, Errno> {
    const SI_USER: i32 = 0;
    let number = bit(info.signal);
    let mask = |state: &State, tid: Tid| state.threads.get(&tid).map(|slot| slot.signals.mask & number);
    let is_blocked = |state: &State, tid: Tid| mask(state, tid) != Some(0);
    let is_awaited = |state: &State, tid: Tid| {
        state.threads.get(&tid).is_some_and(|slot| slot.signals.awaited & number != 0)
    };
    let taker = match target {
        Some(tid) => {
            mask(state, tid).ok_or(Errno::ESRCH)?;
            (is_awaited(state, tid) || !is_blocked(state, tid)).then_some(tid)
        }
        None => {
            let mut tids = state.threads.keys().copied();
            let awaiting = tids.clone().find(|tid| is_awaited(state, *tid));
            awaiting.or_else(|| tids.find(|tid| !is_blocked(state, *tid)))
        }
    };
    match info.signal {
        libc::SIGCONT => STOPS.into_iter().for_each(|stop| discard(state, stop)),
        stop if STOPS.contains(&stop) => discard(state, libc::SIGCONT),
        _ => {}
    }
    if state.signals.is_ignored(info.signal) && taker.is_some_and(|tid| !is_awaited(state, tid)) {
        return Ok(Queued { waits: false, wake: None });
    }
    if info.signal >= FIRST_REAL_TIME {
        let threads = state.threads.values().map(|slot| slot.signals.pending.len());
        let full = threads.sum::<usize>() + state.signals.pending.len() >= most;
        let pending = match target.and_then(|tid| state.threads.get(&tid)) {
            Some(slot) => &slot.signals.pending,
            None => &state.signals.pending,
        };
        // `kill` never fails for want of room, as on Linux, but does not queue a second one then.
        let waits = pending.set() & number != 0;
        match info.code {
            _ if !full => {}
            SI_USER if waits => return Ok(Queued { waits, wake: taker }),
            SI_USER => {}
            _ => return Err(Errno::EAGAIN),
        }
    }
    match target.and_then(|tid| state.threads.get_mut(&tid)) {
        Some(slot) => slot.signals.pending.push(info),
        None => state.signals.pending.push(info),
    }
    Ok(Queued { waits: true, wake: taker })
}

/// Drops a signal that waits for the process or any of its threads.
pub fn discard(state: &mut State, signal: i32) {
    state.signals.pending.discard(signal);
    state.threads.values_mut().for_each(|slot| slot.signals.pending.discard(signal));
}

/// Threads to wake because signals of the process in `set`, for which another thread was woken, are not to be taken by that one
/// any more: it blocks them now, or ends.
pub fn retarget(state: &State, set: Set, except: Tid) -> Vec<Tid> {
    let mut left = state.signals.pending.set() & set;
    let mut takers = Vec::new();
    for (tid, slot) in &state.threads {
        if left == 0 {
            break;
        }
        if *tid != except && left & !slot.signals.mask != 0 {
            left &= slot.signals.mask;
            takers.push(*tid);
        }
    }
    takers
}
