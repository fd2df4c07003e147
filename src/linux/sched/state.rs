//! What the scheduler's lock protects, and the choice of the vCPU for a thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar};

use super::super::cpu_time::HostClock;
use super::super::futex::Futexes;
use super::super::signal::{ProcessSignals, ThreadSignals};
use super::super::thread::{FileId, Thread, Tid};
use super::{Alarm, ExitStatus, Need};
use crate::vmm::{Kick, Vcpu, VmmError};

/// What the lock protects.
pub struct State {
    pub(in crate::linux) threads: BTreeMap<Tid, Slot>,
    pub(in crate::linux) futexes: Futexes,
    pub(in crate::linux) signals: ProcessSignals,
    pub(in crate::linux) alarms: BTreeSet<(u64, Alarm)>,
    pub(super) file_waiters: BTreeSet<(FileId, Tid)>,
    pub(super) ready: VecDeque<Tid>,
    pub(super) workers: Vec<Worker>,
    pub(super) next_tid: Tid,
    /// CPU time of the threads that have ended, in nanoseconds.
    pub(super) ended_cpu_time: u64,
    pub(super) exit: Option<ExitStatus>,
    pub(super) failure: Option<VmmError>,
    /// How many times it was paused and not resumed yet.
    pub(super) pauses: usize,
}

/// A thread as the scheduler sees it.
pub struct Slot {
    pub(super) phase: Phase,
    /// The record, while no worker runs the thread.
    pub(super) record: Option<Box<Thread>>,
    /// The worker whose vCPU holds the thread's extended state.
    pub(super) home: Option<usize>,
    /// Something that the thread waits for happened since it registered.
    pub(super) woken: bool,
    pub(in crate::linux) signals: ThreadSignals,
    /// Tells the worker to look at signals and orders before it enters the guest again.
    pub(super) attention: Arc<AtomicBool>,
    /// CPU time of its earlier runs, in nanoseconds.
    pub(super) cpu_time: u64,
    /// Others wait for its vCPU, and its time slice is over.
    pub(super) turn_over: bool,
}

impl Slot {
    /// Makes the thread look for signals and orders before it enters the guest. For the thread's own worker.
    pub(in crate::linux) fn attend(&self) {
        self.attention.store(true, Ordering::Release);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Running(usize),
    Ready,
    Blocked,
}

pub(super) struct Worker {
    pub(super) wake: Arc<Condvar>,
    pub(super) idle: bool,
    pub(super) assigned: Option<Tid>,
    pub(super) loaded: Option<Tid>,
    pub(super) kick: Option<Kick>,
    /// CPU clock of its host thread, and what that showed when the run of its thread began.
    pub(super) clock: Option<HostClock>,
    pub(super) run_began: u64,
    pub(super) gone: bool,
}

impl State {
    /// Has threads that do not run go on elsewhere, if `to` says so of where they stand.
    pub(in crate::linux) fn move_threads(&mut self, mut to: impl FnMut(u64) -> Option<u64>) {
        for thread in self.threads.values_mut().filter_map(|slot| slot.record.as_mut()) {
            thread.regs.rip = to(thread.regs.rip).unwrap_or(thread.regs.rip);
        }
    }

    /// How many threads run on a vCPU, or are served there.
    pub(in crate::linux) fn running(&self) -> usize {
        self.threads.values().filter(|slot| matches!(slot.phase, Phase::Running(_))).count()
    }

    /// The next thread for worker `id`: the one assigned to it, else a ready one.
    pub(super) fn take_for(&mut self, id: usize) -> Option<Tid> {
        if let Some(tid) = self.workers[id].assigned.take() {
            return Some(tid);
        }
        let threads = &self.threads;
        let takable = |tid: &Tid| threads.get(tid).is_some_and(|s| s.home.is_none() || s.home == Some(id));
        let at = self.ready.iter().position(takable)?;
        self.ready.remove(at)
    }

    /// Hands ready threads that no vCPU holds any more to idle workers.
    pub(super) fn offer_ready(&mut self) {
        while let Some(worker) = self.workers.iter().position(|w| w.idle && w.assigned.is_none())
            && let Some(at) =
                self.ready.iter().position(|tid| self.threads.get(tid).is_some_and(|s| s.home.is_none()))
        {
            self.workers[worker].assigned = self.ready.remove(at);
            self.workers[worker].wake.notify_one();
        }
    }

    /// What happened so far is not what the thread will wait for.
    pub(in crate::linux) fn forget_wake(&mut self, tid: Tid) {
        if let Some(slot) = self.threads.get_mut(&tid) {
            slot.woken = false;
        }
    }

    /// Moves the state of the thread that worker `id` holds from its vCPU to the record.
    pub(super) fn evict(&mut self, id: usize, vcpu: &mut Vcpu) -> Result<(), VmmError> {
        let Some(tid) = self.workers[id].loaded.take() else { return Ok(()) };
        if let Some(slot) = self.threads.get_mut(&tid) {
            slot.home = None;
            if let Some(record) = &mut slot.record {
                record.extended = Some(vcpu.save()?);
            }
        }
        Ok(())
    }

    /// Makes a thread run if it sleeps, and remembers the wake if it is about to. What it waited for stays registered until it takes
    /// that back itself: it may be much, and the lock is needed by all.
    pub(super) fn wake(&mut self, tid: Tid, limit: usize) -> Option<Need> {
        let slot = self.threads.get_mut(&tid)?;
        slot.woken = true;
        match slot.phase {
            Phase::Blocked => {
                slot.phase = Phase::Ready;
                self.dispatch(tid, limit)
            }
            Phase::Running(_) => {
                self.threads.get(&tid).into_iter().for_each(|slot| self.alert(slot));
                None
            }
            Phase::Ready => None,
        }
    }

    /// Finds a worker for a ready thread.
    pub(super) fn dispatch(&mut self, tid: Tid, limit: usize) -> Option<Need> {
        let home = self.threads.get(&tid).and_then(|slot| slot.home);
        let free = |w: &Worker| w.idle && w.assigned.is_none();
        let worker = match home {
            Some(home) => free(&self.workers[home]).then_some(home),
            None => self.workers.iter().position(|w| free(w) && w.loaded.is_none()),
        };
        if worker.is_none() && home.is_none() && self.workers.len() < limit {
            self.workers.push(Worker {
                wake: Arc::new(Condvar::new()),
                idle: false,
                assigned: Some(tid),
                loaded: None,
                kick: None,
                clock: None,
                run_began: 0,
                gone: false,
            });
            return Some(Need::Worker(self.workers.len() - 1));
        }
        let worker = worker.or_else(|| home.is_none().then(|| self.workers.iter().position(free)).flatten());
        match worker {
            Some(worker) => {
                self.workers[worker].assigned = Some(tid);
                Some(Need::Wake(Arc::clone(&self.workers[worker].wake)))
            }
            None => {
                self.ready.push_back(tid);
                Some(Need::Turn)
            }
        }
    }

    /// CPU time of the run that is under way on a worker.
    pub(super) fn run_time(&self, worker: usize) -> u64 {
        let worker = &self.workers[worker];
        worker.clock.map_or(0, |clock| clock.read().saturating_sub(worker.run_began))
    }

    /// The run of a thread is over: counts its CPU time.
    pub(super) fn count_run(&mut self, tid: Tid) {
        if let Some(Phase::Running(worker)) = self.threads.get(&tid).map(|slot| slot.phase) {
            let used = self.run_time(worker);
            if let Some(slot) = self.threads.get_mut(&tid) {
                slot.cpu_time = slot.cpu_time.saturating_add(used);
            }
        }
    }

    /// CPU time of a thread.
    pub(super) fn cpu_time(&self, slot: &Slot) -> u64 {
        let running = match slot.phase {
            Phase::Running(worker) => self.run_time(worker),
            _ => 0,
        };
        slot.cpu_time.saturating_add(running)
    }

    /// Makes the worker of a running thread look for orders.
    pub(super) fn alert(&self, slot: &Slot) {
        slot.attention.store(true, Ordering::Release);
        if let Phase::Running(worker) = slot.phase
            && let Some(kick) = &self.workers[worker].kick
        {
            kick.kick();
        }
    }

    pub(in crate::linux) fn signal_is_due(&self, tid: Tid) -> bool {
        self.threads.get(&tid).is_some_and(|slot| slot.signals.deliverable(&self.signals) != 0)
    }
}
