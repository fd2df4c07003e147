//! The thread that polls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::super::host_io;
use super::{Place, all_processors_run};
use crate::sync::{lock, wait};

/// Looks of a waiting vCPU: some 60 µs, what it takes to read ahead a part of a file, and then to answer.
const SPINS: u32 = 1200;
/// How long a program does not ask before it is let go.
const PATIENCE: Duration = Duration::from_millis(1);
/// For how long guests may have work for all processors before it counts whether polling is worth one.
const CROWDED: Duration = Duration::from_micros(100);
/// What an answer saves: the cost of an exit, about.
const SAVED: Duration = Duration::from_micros(30);

/// The thread that answers.
#[derive(Default)]
pub struct Poller {
    /// The thread, and the processors that it may use; known once it runs.
    thread: OnceLock<(Pid, CpuSet)>,
    /// Those that were taken on since it last looked. Not held: a program's RAM goes when the program does.
    new: Mutex<Vec<Weak<Place>>>,
    is_new: AtomicBool,
    woken: Condvar,
}

impl Poller {
    /// Starts the thread at the first call. `None` if the host has no room for it: all calls leave then.
    pub fn get() -> Option<&'static Poller> {
        static ONE: OnceLock<Poller> = OnceLock::new();
        static STARTED: OnceLock<bool> = OnceLock::new();
        let poller = ONE.get_or_init(Poller::default);
        let start = || thread::Builder::new().name("exitless".into()).spawn(|| poller.run()).is_ok();
        STARTED.get_or_init(start).then_some(poller)
    }

    /// From soon on the thread looks at the place.
    pub fn take_on(&self, place: &Arc<Place>) {
        place.taken_on.store(true, Ordering::Relaxed);
        let mut new = lock(&self.new);
        new.push(Arc::downgrade(place));
        if !self.is_new.swap(true, Ordering::AcqRel) {
            self.make_way();
        }
        drop(new);
        self.woken.notify_one();
    }

    /// Keeps the thread off the processor on which this one runs, which is the vCPU's: there one would wait for the other. The host would part
    /// them too, but later than a short program ends.
    fn make_way(&self) {
        let Some((thread, mut others)) = self.thread.get().copied() else { return };
        let kept_off = sched_getcpu().and_then(|here| others.unset(here));
        if kept_off.is_ok() {
            // There may be no other.
            let _ = sched_setaffinity(thread, &others);
        }
    }

    fn run(&self) {
        host_io::never_wait();
        let processors = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let (thread, processors) = self.thread.get_or_init(|| (gettid(), processors));
        let mut taken_on: Vec<TakenOn> = Vec::new();
        loop {
            let mut new = lock(&self.new);
            while new.is_empty() {
                new = wait(&self.woken, new);
            }
            drop(new);
            self.poll(&mut taken_on);
            taken_on.drain(..).for_each(TakenOn::let_go);
            let _ = sched_setaffinity(*thread, processors);
        }
    }

    /// Answers until nobody has asked for a while, or the processor is needed.
    fn poll(&self, taken_on: &mut Vec<TakenOn>) {
        /// Looks between two at the clock.
        const LOOKS: u64 = 64;
        let mut crowded: Option<(Instant, u32)> = None;
        let mut in_vain = 0u64;
        for look in 1u64.. {
            if self.is_new.swap(false, Ordering::AcqRel) {
                taken_on.extend(lock(&self.new).drain(..).map(TakenOn::new));
            }
            let answered = taken_on.iter_mut().map(|one| u32::from(one.answer())).sum::<u32>();
            crowded = crowded.map(|(since, answers)| (since, answers.saturating_add(answered)));
            if look.is_multiple_of(LOOKS) {
                let now = Instant::now();
                taken_on.extract_if(.., |one| one.is_over(now)).for_each(TakenOn::let_go);
                crowded = all_processors_run().then(|| crowded.unwrap_or((now, 0)));
                let is_a_loss = |(since, answers)| now - since > CROWDED.max(SAVED * answers);
                if taken_on.is_empty() || crowded.is_some_and(is_a_loss) {
                    return;
                }
            }
            if answered > 0 {
                in_vain = 0;
                continue;
            }
            std::hint::spin_loop();
            in_vain += 1;
            if in_vain.is_multiple_of(LOOKS) {
                // Whoever else is to run on this processor, not least upon what was just answered, goes first.
                thread::yield_now();
            }
        }
    }
}

/// A place that the thread looks at.
struct TakenOn {
    place: Weak<Place>,
    /// When it was last seen to have asked.
    last: Instant,
    /// It has asked since.
    asked: bool,
    /// Where it had a page fault, and there may be more to fill.
    ahead: Option<u64>,
}

impl TakenOn {
    fn new(place: Weak<Place>) -> TakenOn {
        if let Some(place) = place.upgrade() {
            place.slot.offer(SPINS);
        }
        TakenOn { place, last: Instant::now(), asked: false, ahead: None }
    }

    fn answer(&mut self) -> bool {
        let Some(place) = self.place.upgrade() else { return false };
        let answered = place.answer(&mut self.ahead);
        self.asked |= answered;
        if !answered {
            self.ahead = self.ahead.filter(|address| place.fill_ahead(*address));
        }
        answered
    }

    /// Whether it is gone, rests, or has not asked for a while.
    fn is_over(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.asked) {
            self.last = now;
        }
        now.duration_since(self.last) > PATIENCE
            || self.place.upgrade().is_none_or(|place| !place.slot.is_offered())
    }

    fn let_go(self) {
        if let Some(place) = self.place.upgrade() {
            place.slot.retract();
            place.taken_on.store(false, Ordering::Relaxed);
        }
    }
}
