//! Which guest thread runs where, and what wakes it.
//!
//! A guest thread is a record ([`Thread`]). *Workers* (a host thread with a vCPU each) run the ready ones. A thread that waits keeps
//! its state in the vCPU where it ran last, as long as no other thread needs that vCPU, so that the usual wait and wake
//! moves no registers; but nothing of it is on a host stack, and [`Sched::pause`] turns all threads into plain records.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | what workers, calls and events ask of the scheduler |
//! | `state.rs` | what its lock protects, and the choice of the vCPU for a thread |
//! | `ending.rs` | stopping all threads: for good, or for a while |
//! | `saved.rs` | what a checkpoint keeps |

mod ending;
mod saved;
mod state;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::cpu_time::HostClock;
use super::errno::Errno;
use super::futex::Futexes;
use super::signal::{ProcessSignals, SigInfo, ThreadSignals};
use super::thread::{FileId, Thread, Tid, Wait};
use crate::sync::{lock, wait};
use crate::vmm::{Kick, Vcpu, VmmError};
pub use saved::SavedSched;
use state::Phase;
pub use state::{Slot, State};

/// Most guest threads of a VM.
pub const MAX_THREADS: usize = 4096;

/// How the program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitStatus {
    /// By `exit` with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// Something that happens at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Alarm {
    /// The wait of a thread ends.
    Thread(Tid),
    /// A timer descriptor becomes ready.
    File(FileId),
    /// A timer of `setitimer` or `timer_create` expires.
    Timer(i32),
}

/// The scheduler: one lock over threads, futexes, signals and alarms.
pub struct Sched {
    state: Mutex<State>,
    /// Signalled when a worker has ended, and when the program has.
    ended: Condvar,
    /// Signalled during a pause when a worker has gone idle or ended.
    quiet: Condvar,
    workers_limit: usize,
}

/// What a thread that became ready needs, and gets when the scheduler's lock is free again.
#[derive(Clone, Debug)]
pub enum Need {
    /// That its worker is woken, which waits here.
    Wake(Arc<Condvar>),
    /// A new worker with this number.
    Worker(usize),
    /// That a running thread gives its vCPU up after its time slice.
    Turn,
}

/// What a worker is to do next.
pub enum Next {
    /// Run this thread; its extended state is in the vCPU, or in the record and must be loaded.
    Run(Box<Thread>, Arc<AtomicBool>),
    /// End.
    Stop,
}

impl Sched {
    /// A scheduler with no threads.
    pub fn new(first_tid: Tid, workers_limit: usize) -> Sched {
        let state = State {
            threads: BTreeMap::new(),
            futexes: Futexes::default(),
            signals: ProcessSignals::default(),
            alarms: BTreeSet::new(),
            file_waiters: BTreeSet::new(),
            ready: VecDeque::new(),
            workers: Vec::new(),
            next_tid: first_tid,
            ended_cpu_time: 0,
            exit: None,
            failure: None,
            pauses: 0,
        };
        Sched {
            state: Mutex::new(state),
            ended: Condvar::new(),
            quiet: Condvar::new(),
            workers_limit: workers_limit.max(1),
        }
    }

    pub(in crate::linux) fn lock(&self) -> MutexGuard<'_, State> {
        // A worker that panicked is a bug, but the state is consistent between statements that can panic.
        lock(&self.state)
    }

    /// Adds a thread that is ready to run.
    pub fn add(&self, thread: Thread, mask: u64, serve: impl FnOnce(Need)) {
        let tid = thread.tid;
        let mut state = self.lock();
        let slot = Slot {
            phase: Phase::Ready,
            record: Some(Box::new(thread)),
            home: None,
            woken: false,
            signals: ThreadSignals { mask, ..ThreadSignals::default() },
            attention: Arc::new(AtomicBool::new(true)),
            cpu_time: 0,
            turn_over: false,
        };
        state.threads.insert(tid, slot);
        if let Some(need) = state.dispatch(tid, self.workers_limit) {
            drop(state);
            serve(need);
        }
    }

    /// A number for a new thread; `None` when there are too many.
    pub fn allocate_tid(&self) -> Option<Tid> {
        let mut state = self.lock();
        if state.threads.len() >= MAX_THREADS {
            return None;
        }
        loop {
            let tid = state.next_tid;
            state.next_tid = if tid >= 0x3f_ffff { 300 } else { tid + 1 };
            if !state.threads.contains_key(&tid) {
                return Some(tid);
            }
        }
    }

    /// Announces worker `id`, which has made its vCPU, by its host thread.
    pub fn enlist(&self, id: usize, kick: Kick) {
        if let Some(worker) = self.lock().workers.get_mut(id) {
            worker.kick = Some(kick);
            worker.clock = Some(HostClock::of_this_thread());
        }
    }

    /// Strikes worker `id` off: its vCPU is about to go.
    pub fn leave(&self, id: usize) {
        let mut state = self.lock();
        state.workers[id].kick = None;
        state.workers[id].gone = true;
        self.ended.notify_all();
        self.quiet.notify_all();
    }

    /// CPU time of all threads, in nanoseconds.
    pub fn cpu_time(&self) -> u64 {
        let state = self.lock();
        let alive = state.threads.values().map(|slot| state.cpu_time(slot));
        alive.fold(state.ended_cpu_time, u64::saturating_add)
    }

    /// CPU time of one thread, in nanoseconds; `None` if there is no such thread.
    pub fn thread_cpu_time(&self, tid: Tid) -> Option<u64> {
        let state = self.lock();
        state.threads.get(&tid).map(|slot| state.cpu_time(slot))
    }

    /// Whether the thread has ended.
    pub fn is_gone(&self, tid: Tid) -> bool {
        !self.lock().threads.contains_key(&tid)
    }

    /// Waits until there is something for worker `id` to do. Saves the state that is left in its vCPU where another thread takes it.
    pub fn next(&self, id: usize, vcpu: &mut Vcpu) -> Result<Next, VmmError> {
        let mut state = self.lock();
        loop {
            if state.exit.is_some() {
                return Ok(Next::Stop);
            }
            if state.pauses > 0 {
                state.evict(id, vcpu)?;
            } else if let Some(tid) = state.take_for(id) {
                if state.workers[id].loaded != Some(tid) {
                    state.evict(id, vcpu)?;
                    state.workers[id].loaded = Some(tid);
                    state.offer_ready();
                }
                if let Some(slot) = state.threads.get_mut(&tid)
                    && let Some(record) = slot.record.take()
                {
                    slot.phase = Phase::Running(id);
                    slot.home = Some(id);
                    slot.attention.store(true, Ordering::Release);
                    let attention = Arc::clone(&slot.attention);
                    let worker = &mut state.workers[id];
                    worker.run_began = worker.clock.map_or(0, HostClock::read);
                    return Ok(Next::Run(record, attention));
                }
                state.workers[id].loaded = None;
                continue;
            }
            state.workers[id].idle = true;
            if state.pauses > 0 {
                self.quiet.notify_all();
            }
            let wake = Arc::clone(&state.workers[id].wake);
            state = wait(&wake, state);
            state.workers[id].idle = false;
        }
    }

    /// Registers what a thread that still runs is about to wait for. From now on a wake is remembered; for a futex it is since
    /// the thread joined the queue.
    pub fn register(&self, tid: Tid, wait: &Wait) {
        let mut state = self.lock();
        if !wait.futex {
            state.forget_wake(tid);
        }
        if let Some(at) = wait.deadline {
            state.alarms.insert((at, Alarm::Thread(tid)));
        }
        drop(state);
        self.in_parts(&wait.files, |state, file| {
            state.file_waiters.insert((file, tid));
        });
    }

    /// Takes back what [`Sched::register`] did; until then there may be wakes for nothing.
    pub fn unregister(&self, tid: Tid, wait: &Wait) {
        if let Some(at) = wait.deadline {
            self.lock().alarms.remove(&(at, Alarm::Thread(tid)));
        }
        self.in_parts(&wait.files, |state, file| {
            state.file_waiters.remove(&(file, tid));
        });
    }

    /// Does something for each file. There may be very many: others have the lock in between.
    fn in_parts(&self, files: &[FileId], act: impl Fn(&mut State, FileId)) {
        const PART: usize = 1024;
        for part in files.chunks(PART) {
            let mut state = self.lock();
            part.iter().for_each(|file| act(&mut state, *file));
        }
    }

    /// Puts a registered thread to sleep, unless it was woken since: then it is given back, still registered.
    pub fn park(&self, thread: Box<Thread>) -> Option<Box<Thread>> {
        let mut state = self.lock();
        let tid = thread.tid;
        let woken = state.threads.get(&tid).is_none_or(|slot| slot.woken);
        if woken || state.signal_is_due(tid) || state.exit.is_some() {
            return Some(thread);
        }
        state.count_run(tid);
        let slot = state.threads.get_mut(&tid)?;
        slot.phase = Phase::Blocked;
        slot.record = Some(thread);
        None
    }

    /// Gives the vCPU to the next ready thread if there is one and the turn of `thread` is over; it runs again later.
    pub fn yield_to_others(&self, thread: Box<Thread>) -> Option<Box<Thread>> {
        let mut state = self.lock();
        let tid = thread.tid;
        let others = !state.ready.is_empty();
        let stop = state.pauses > 0 || state.exit.is_some();
        let slot = state.threads.get_mut(&tid)?;
        let turn_over = std::mem::take(&mut slot.turn_over);
        if !(stop || others && turn_over) {
            return Some(thread);
        }
        state.count_run(tid);
        let slot = state.threads.get_mut(&tid)?;
        slot.phase = Phase::Ready;
        slot.record = Some(thread);
        state.ready.push_back(tid);
        None
    }

    /// Forgets a thread that ended; true if it was the last.
    pub fn remove(&self, tid: Tid, serve: impl FnMut(Need)) -> bool {
        let mut state = self.lock();
        state.count_run(tid);
        state.futexes.forget(tid);
        if let Some(slot) = state.threads.remove(&tid) {
            state.ended_cpu_time = state.ended_cpu_time.saturating_add(slot.cpu_time);
            if let Phase::Running(worker) = slot.phase {
                state.workers[worker].loaded = None;
            }
        }
        let last = state.threads.is_empty();
        let takers = super::signal::retarget(&state, super::signal::Set::MAX, tid);
        self.wake_all(state, takers, serve);
        last
    }

    /// Says that the file may have become ready for those who wait for it.
    pub fn wake_file(&self, file: FileId, serve: impl FnMut(Need)) {
        let state = self.lock();
        let waiters = state.file_waiters.range((file, Tid::MIN)..=(file, Tid::MAX));
        let tids: Vec<Tid> = waiters.map(|(_, tid)| *tid).collect();
        self.wake_all(state, tids, serve);
    }

    /// Wakes these threads.
    pub(super) fn wake_all(
        &self,
        mut state: MutexGuard<'_, State>,
        tids: Vec<Tid>,
        mut serve: impl FnMut(Need),
    ) {
        let needs: Vec<_> = tids.into_iter().filter_map(|tid| state.wake(tid, self.workers_limit)).collect();
        drop(state);
        needs.into_iter().for_each(&mut serve);
    }

    /// Takes the alarms that are due.
    pub fn expired(&self, now: u64) -> Vec<Alarm> {
        let mut state = self.lock();
        let mut due = Vec::new();
        while let Some((at, alarm)) = state.alarms.first().copied()
            && at <= now
        {
            state.alarms.remove(&(at, alarm));
            due.push(alarm);
        }
        due
    }

    /// When the next alarm is due.
    pub fn next_alarm(&self) -> Option<u64> {
        self.lock().alarms.first().map(|(at, _)| *at)
    }

    /// Ends the turn of every running thread if others wait for a vCPU; false if none does.
    pub fn end_turns(&self) -> bool {
        let mut state = self.lock();
        if state.ready.is_empty() {
            return false;
        }
        for slot in state.threads.values_mut() {
            slot.turn_over = matches!(slot.phase, Phase::Running(_));
        }
        for slot in state.threads.values() {
            state.alert(slot);
        }
        true
    }

    /// Ends the turn of one thread, by its own wish.
    pub fn end_turn(&self, tid: Tid) {
        if let Some(slot) = self.lock().threads.get_mut(&tid) {
            slot.turn_over = true;
            slot.attend();
        }
    }

    /// Whether a signal that is not blocked waits for `tid`.
    pub fn signal_is_due(&self, tid: Tid) -> bool {
        self.lock().signal_is_due(tid)
    }

    /// Queues a signal: for one thread, or for the process. Ignored ones vanish here, as on Linux: false. `most`: see
    /// [`super::signal::queue`].
    pub fn send(
        &self,
        target: Option<Tid>,
        info: SigInfo,
        most: usize,
        serve: impl FnMut(Need),
    ) -> Result<bool, Errno> {
        let mut state = self.lock();
        let queued = super::signal::queue(&mut state, target, info, most)?;
        self.wake_all(state, queued.wake.into_iter().collect(), serve);
        Ok(queued.waits)
    }
}
