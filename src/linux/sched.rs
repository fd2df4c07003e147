//! Which guest thread runs where, and what wakes it.
//!
//! A guest thread is a record ([`Thread`]). *Workers* (a host thread with a vCPU each) run the ready ones. A thread that waits keeps
//! its state in the vCPU where it ran last, as long as no other thread needs that vCPU, so that the usual wait and wake
//! moves no registers; but nothing of it is on a host stack, and [`Sched::pause`] turns all threads into plain records.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::futex::Futexes;
use super::signal::{ProcessSignals, SigInfo, ThreadSignals};
use super::thread::{FileId, Thread, Tid, Wait};
use crate::vmm::{Kick, Vcpu, VmmError};

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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    /// Signalled when a worker has ended or gone idle.
    quiet: Condvar,
    workers_limit: usize,
}

/// What the lock protects.
pub struct State {
    pub(super) threads: BTreeMap<Tid, Slot>,
    pub(super) futexes: Futexes,
    pub(super) signals: ProcessSignals,
    pub(super) alarms: BTreeSet<(u64, Alarm)>,
    file_waiters: BTreeMap<FileId, Vec<Tid>>,
    ready: VecDeque<Tid>,
    workers: Vec<Worker>,
    next_tid: Tid,
    exit: Option<ExitStatus>,
    failure: Option<VmmError>,
    paused: bool,
}

/// A thread as the scheduler sees it.
pub struct Slot {
    phase: Phase,
    /// The record, while no worker runs the thread.
    record: Option<Box<Thread>>,
    /// The worker whose vCPU holds the thread's extended state.
    home: Option<usize>,
    /// Something that the thread waits for happened since it registered.
    woken: bool,
    pub(super) signals: ThreadSignals,
    /// Tells the worker to look at signals and orders before it enters the guest again.
    attention: Arc<AtomicBool>,
    /// Others wait for its vCPU, and its time slice is over.
    turn_over: bool,
}

impl Slot {
    /// Makes the thread look for signals and orders before it enters the guest. For the thread's own worker.
    pub(super) fn attend(&self) {
        self.attention.store(true, Ordering::Release);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running(usize),
    Ready,
    Blocked,
}

struct Worker {
    wake: Arc<Condvar>,
    idle: bool,
    assigned: Option<Tid>,
    loaded: Option<Tid>,
    kick: Option<Kick>,
    gone: bool,
}

/// What a thread that became ready needs and the scheduler cannot give it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
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
            file_waiters: BTreeMap::new(),
            ready: VecDeque::new(),
            workers: Vec::new(),
            next_tid: first_tid,
            exit: None,
            failure: None,
            paused: false,
        };
        Sched { state: Mutex::new(state), quiet: Condvar::new(), workers_limit: workers_limit.max(1) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A worker that panicked is a bug, but the state is consistent between statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Announces worker `id`, which has made its vCPU.
    pub fn enlist(&self, id: usize, kick: Kick) {
        if let Some(worker) = self.lock().workers.get_mut(id) {
            worker.kick = Some(kick);
        }
    }

    /// Strikes worker `id` off: its vCPU is about to go.
    pub fn leave(&self, id: usize) {
        let mut state = self.lock();
        state.workers[id].kick = None;
        state.workers[id].gone = true;
        self.quiet.notify_all();
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
            if state.paused {
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
                    return Ok(Next::Run(record, Arc::clone(&slot.attention)));
                }
                state.workers[id].loaded = None;
                continue;
            }
            state.workers[id].idle = true;
            self.quiet.notify_all();
            let wake = Arc::clone(&state.workers[id].wake);
            state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
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
        for file in &wait.files {
            state.file_waiters.entry(*file).or_default().push(tid);
        }
        if let Some(at) = wait.deadline {
            state.alarms.insert((at, Alarm::Thread(tid)));
        }
    }

    /// Takes back what [`Sched::register`] did.
    pub fn unregister(&self, tid: Tid, wait: &Wait) {
        self.lock().unregister(tid, wait);
    }

    /// Puts a registered thread to sleep, unless it was woken since: then it is given back, registered no more.
    pub fn park(&self, mut thread: Box<Thread>) -> Option<Box<Thread>> {
        let mut state = self.lock();
        let tid = thread.tid;
        let woken = state.threads.get(&tid).is_none_or(|slot| slot.woken);
        if woken || state.signal_is_due(tid) || state.exit.is_some() {
            if let Some(wait) = thread.wait.take() {
                state.unregister(tid, &wait);
            }
            return Some(thread);
        }
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
        let stop = state.paused || state.exit.is_some();
        let slot = state.threads.get_mut(&tid)?;
        let turn_over = std::mem::take(&mut slot.turn_over);
        if !(stop || others && turn_over) {
            return Some(thread);
        }
        slot.phase = Phase::Ready;
        slot.record = Some(thread);
        state.ready.push_back(tid);
        None
    }

    /// Forgets a thread that ended; true if it was the last.
    pub fn remove(&self, tid: Tid) -> bool {
        let mut state = self.lock();
        if let Some(slot) = state.threads.remove(&tid)
            && let Phase::Running(worker) = slot.phase
        {
            state.workers[worker].loaded = None;
        }
        state.threads.is_empty()
    }

    /// Says that the file may have become ready for those who wait for it.
    pub fn wake_file(&self, file: FileId, serve: impl FnMut(Need)) {
        let state = self.lock();
        if let Some(tids) = state.file_waiters.get(&file).cloned() {
            self.wake_all(state, tids, serve);
        }
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

    /// Makes every worker leave the guest and look for orders.
    pub fn kick_all(&self) {
        let state = self.lock();
        for slot in state.threads.values() {
            state.alert(slot);
        }
    }

    /// Whether a signal that is not blocked waits for `tid`.
    pub fn signal_is_due(&self, tid: Tid) -> bool {
        self.lock().signal_is_due(tid)
    }

    /// Queues a signal: for one thread, or for the process. Ignored ones vanish here, as on Linux.
    pub fn send(&self, target: Option<Tid>, info: SigInfo, serve: impl FnMut(Need)) -> bool {
        let mut state = self.lock();
        let Some(tid) = super::signal::queue(&mut state, target, info) else { return target.is_none() };
        self.wake_all(state, tid.into_iter().collect(), serve);
        true
    }

    /// Ends the program. The first caller's status counts.
    pub fn exit(&self, status: ExitStatus) {
        let mut state = self.lock();
        state.exit.get_or_insert(status);
        for slot in state.threads.values() {
            state.alert(slot);
        }
        for worker in &state.workers {
            worker.wake.notify_all();
        }
        self.quiet.notify_all();
    }

    /// Ends the program because the machine failed it.
    pub fn fail(&self, error: VmmError) {
        self.lock().failure.get_or_insert(error);
        self.exit(ExitStatus::Signal(libc::SIGKILL as u8));
    }

    /// Whether the program has ended.
    pub fn has_ended(&self) -> bool {
        self.lock().exit.is_some()
    }

    /// Waits until the program has ended and no worker is in the guest.
    pub fn wait_for_end(&self) -> (ExitStatus, Option<VmmError>) {
        let mut state = self.lock();
        loop {
            if let Some(status) = state.exit
                && state.workers.iter().all(|worker| worker.gone)
            {
                return (status, state.failure.take());
            }
            state = self.quiet.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes all threads plain records in no vCPU, and keeps them so until [`Sched::resume`].
    pub fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        for slot in state.threads.values() {
            state.alert(slot);
        }
        for worker in &state.workers {
            worker.wake.notify_all();
        }
        while state.exit.is_none() && state.workers.iter().any(|w| !w.gone && (!w.idle || w.loaded.is_some()))
        {
            state = self.quiet.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a pause.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        for worker in &state.workers {
            worker.wake.notify_all();
        }
    }
}

impl State {
    /// The next thread for worker `id`: the one assigned to it, else a ready one.
    fn take_for(&mut self, id: usize) -> Option<Tid> {
        if let Some(tid) = self.workers[id].assigned.take() {
            return Some(tid);
        }
        let threads = &self.threads;
        let takable = |tid: &Tid| threads.get(tid).is_some_and(|s| s.home.is_none() || s.home == Some(id));
        let at = self.ready.iter().position(takable)?;
        self.ready.remove(at)
    }

    /// Hands ready threads that no vCPU holds any more to idle workers.
    fn offer_ready(&mut self) {
        while let Some(worker) = self.workers.iter().position(|w| w.idle && w.assigned.is_none())
            && let Some(at) =
                self.ready.iter().position(|tid| self.threads.get(tid).is_some_and(|s| s.home.is_none()))
        {
            self.workers[worker].assigned = self.ready.remove(at);
            self.workers[worker].wake.notify_one();
        }
    }

    /// What happened so far is not what the thread will wait for.
    pub(super) fn forget_wake(&mut self, tid: Tid) {
        if let Some(slot) = self.threads.get_mut(&tid) {
            slot.woken = false;
        }
    }

    /// Moves the state of the thread that worker `id` holds from its vCPU to the record.
    fn evict(&mut self, id: usize, vcpu: &mut Vcpu) -> Result<(), VmmError> {
        let Some(tid) = self.workers[id].loaded.take() else { return Ok(()) };
        if let Some(slot) = self.threads.get_mut(&tid) {
            slot.home = None;
            if let Some(record) = &mut slot.record {
                record.extended = Some(vcpu.save()?);
            }
        }
        Ok(())
    }

    /// Makes a thread run if it sleeps, and remembers the wake if it is about to.
    fn wake(&mut self, tid: Tid, limit: usize) -> Option<Need> {
        let slot = self.threads.get_mut(&tid)?;
        slot.woken = true;
        match slot.phase {
            Phase::Blocked => {
                slot.phase = Phase::Ready;
                if let Some(wait) = slot.record.as_mut().and_then(|record| record.wait.take()) {
                    self.unregister(tid, &wait);
                }
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
    fn dispatch(&mut self, tid: Tid, limit: usize) -> Option<Need> {
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
                gone: false,
            });
            return Some(Need::Worker(self.workers.len() - 1));
        }
        let worker = worker.or_else(|| home.is_none().then(|| self.workers.iter().position(free)).flatten());
        match worker {
            Some(worker) => {
                self.workers[worker].assigned = Some(tid);
                self.workers[worker].wake.notify_one();
                None
            }
            None => {
                self.ready.push_back(tid);
                Some(Need::Turn)
            }
        }
    }

    /// Makes the worker of a running thread look for orders.
    fn alert(&self, slot: &Slot) {
        slot.attention.store(true, Ordering::Release);
        if let Phase::Running(worker) = slot.phase
            && let Some(kick) = &self.workers[worker].kick
        {
            kick.kick();
        }
    }

    fn unregister(&mut self, tid: Tid, wait: &Wait) {
        for file in &wait.files {
            if let Some(tids) = self.file_waiters.get_mut(file) {
                tids.retain(|t| *t != tid);
                if tids.is_empty() {
                    self.file_waiters.remove(file);
                }
            }
        }
        if let Some(at) = wait.deadline {
            self.alarms.remove(&(at, Alarm::Thread(tid)));
        }
    }

    pub(super) fn signal_is_due(&self, tid: Tid) -> bool {
        self.threads.get(&tid).is_some_and(|slot| slot.signals.deliverable(&self.signals) != 0)
    }
}
