//! The scheduler's part of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::super::futex::{Futexes, SavedFutexes};
use super::super::signal::{ProcessSignals, SavedSignals, ThreadSignals, UNBLOCKABLE};
use super::super::thread::{Thread, Tid, Wait};
use super::state::{Phase, Slot};
use super::{Alarm, MAX_THREADS, Need, Sched};
use crate::vmm::XsaveLayout;

/// All threads as plain records, the queues that they wait in, and the signals that wait for them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedSched {
    threads: Vec<SavedThread>,
    futexes: SavedFutexes,
    signals: SavedSignals,
    /// Alarms of files and timers. Those of threads are in their records.
    alarms: Vec<(u64, Alarm)>,
    next_tid: Tid,
    /// CPU time of the threads that have ended, in nanoseconds.
    ended_cpu_time: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedThread {
    record: Thread,
    /// It waits for nothing: it runs as soon as it has a vCPU.
    ready: bool,
    woken: bool,
    signals: ThreadSignals,
    /// In nanoseconds.
    cpu_time: u64,
}

impl SavedSched {
    /// Host memory that is held for what the threads wait for, in bytes.
    pub fn cost(&self) -> usize {
        let waiting = self.threads.iter().filter(|thread| !thread.ready);
        waiting.filter_map(|thread| thread.record.wait.as_ref()).map(Wait::cost).sum()
    }
}

impl Sched {
    /// What a checkpoint keeps. `None` unless all threads are records, which [`Sched::pause`] brings about while the program lives.
    pub fn save(&self) -> Option<SavedSched> {
        let state = self.lock();
        if state.exit.is_some() {
            return None;
        }
        let save = |slot: &Slot| {
            let record = slot.record.as_deref().filter(|record| record.extended.is_some())?.clone();
            let ready = slot.phase != Phase::Blocked;
            Some(SavedThread {
                record,
                ready,
                woken: slot.woken,
                signals: slot.signals.clone(),
                cpu_time: slot.cpu_time,
            })
        };
        Some(SavedSched {
            threads: state.threads.values().map(save).collect::<Option<_>>()?,
            futexes: state.futexes.save(),
            signals: state.signals.save(),
            alarms: state.alarms.iter().filter(|(_, a)| !matches!(a, Alarm::Thread(_))).copied().collect(),
            next_tid: state.next_tid,
            ended_cpu_time: state.ended_cpu_time,
        })
    }

    /// A scheduler whose threads are records of `saved`; they run after [`Sched::launch`]. `None` if `saved` contradicts itself.
    pub fn restore(saved: SavedSched, xsave: XsaveLayout, workers_limit: usize) -> Option<Sched> {
        let sched = Sched::new(saved.next_tid.max(1), workers_limit);
        if !(1..=MAX_THREADS).contains(&saved.threads.len()) {
            return None;
        }
        let mut state = sched.lock();
        let (mut threads, mut alarms) = (BTreeMap::new(), BTreeSet::from_iter(saved.alarms));
        for SavedThread { mut record, ready, woken, mut signals, cpu_time } in saved.threads {
            let tid = record.tid;
            record.extended.as_mut()?.xsave.sanitise(xsave);
            signals.mask &= !UNBLOCKABLE;
            if ready {
                // It looks anew at what it waited for.
                record.wait = None;
                state.ready.push_back(tid);
            } else if let Some(wait) = &record.wait {
                state.file_waiters.extend(wait.files.iter().map(|file| (*file, tid)));
                alarms.extend(wait.deadline.map(|at| (at, Alarm::Thread(tid))));
            }
            let slot = Slot {
                phase: if ready { Phase::Ready } else { Phase::Blocked },
                record: Some(Box::new(record)),
                home: None,
                woken,
                signals,
                cpu_time,
                attention: Arc::new(AtomicBool::new(true)),
                turn_over: false,
            };
            if tid <= 0 || threads.insert(tid, slot).is_some() {
                return None;
            }
        }
        state.futexes = Futexes::restore(saved.futexes, |tid| threads.contains_key(&tid))?;
        state.signals = ProcessSignals::restore(saved.signals)?;
        state.alarms = alarms;
        state.ended_cpu_time = saved.ended_cpu_time;
        state.threads = threads;
        drop(state);
        Some(sched)
    }

    /// Lets the ready threads of a restored scheduler run.
    pub fn launch(&self, serve: impl FnMut(Need)) {
        let mut state = self.lock();
        let ready = std::mem::take(&mut state.ready);
        let needs: Vec<_> =
            ready.into_iter().filter_map(|tid| state.dispatch(tid, self.workers_limit)).collect();
        drop(state);
        needs.into_iter().for_each(serve);
    }
}
