//! Timers that send signals: `setitimer`, `alarm`, `timer_create`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::context::{Args, Ctx};
use super::cpu_time::CpuClock;
use super::errno::{Errno, SysResult};
use super::kernel::Kernel;
use super::sched::Alarm;
use super::signal::{LAST, SigInfo};
use super::thread::Tid;
use super::time::{SECOND, Timespec};

/// The interval timers among the timers by number, in the order of `ITIMER_REAL`, `ITIMER_VIRTUAL` and `ITIMER_PROF`; those of
/// `timer_create` count from 0.
const INTERVAL_TIMERS: [(i32, i32, TimerClock); 3] = [
    (-1, libc::SIGALRM, TimerClock::Monotonic),
    (-2, libc::SIGVTALRM, TimerClock::Process),
    (-3, libc::SIGPROF, TimerClock::Process),
];
/// Most timers of `timer_create`.
const MOST: usize = 256;
/// How often the CPU time that a timer waits for is looked at, and shortest interval of a timer whose signal nobody takes, in
/// nanoseconds.
const TICK: u64 = 4_000_000;
/// `si_code` of a timer's signal.
const SI_TIMER: i32 = -2;

/// What a timer counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum TimerClock {
    Monotonic,
    /// Monotonic too, but absolute times are of the wall clock.
    Realtime,
    /// CPU time of all threads.
    Process,
    /// CPU time of one.
    Thread(Tid),
}

/// A timer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timer {
    /// 0: it sends none.
    signal: i32,
    /// One thread, or the process.
    target: Option<Tid>,
    /// Passed to the handler.
    value: u64,
    clock: TimerClock,
    /// Nanoseconds between expirations, 0 for a single one.
    interval: u64,
    /// When it expires next; for a timer whose signal waits, when it did.
    next: Option<u64>,
    /// Its signal waits. It goes on when that is taken: what expires until then is counted, not sent.
    waits: bool,
    /// Expirations that the last signal stood for, beside its own.
    overrun: i32,
}

/// All timers by number.
pub type Timers = BTreeMap<i32, Timer>;

impl Timer {
    fn new(signal: i32, target: Option<Tid>, value: u64, clock: TimerClock) -> Timer {
        Timer { signal, target, value, clock, interval: 0, next: None, waits: false, overrun: 0 }
    }

    /// Moves an interval timer that expired past `now`; returns how many more expirations that skips.
    fn advance(&mut self, now: u64) -> u64 {
        let Some(due) = self.next.filter(|next| *next <= now) else { return 0 };
        let Some(missed) = (now - due).checked_div(self.interval) else {
            self.next = None;
            return 0;
        };
        self.next = Some(due.saturating_add((missed + 1).saturating_mul(self.interval)));
        missed
    }

    /// Time left at `now`, never shown as none while the timer runs.
    fn left(&self, now: u64) -> u64 {
        let mut ahead = self.clone();
        if ahead.interval > 0 {
            ahead.advance(now);
        }
        ahead.next.map_or(0, |next| next.saturating_sub(now).max(1))
    }

    fn info(&self, id: i32) -> SigInfo {
        const SI_KERNEL: i32 = 0x80;
        if id < 0 {
            return SigInfo { signal: self.signal, code: SI_KERNEL, ..SigInfo::default() };
        }
        let fields = [u64::from(id as u32), self.value, 0];
        SigInfo { signal: self.signal, code: SI_TIMER, fields, trap: (0, 0) }
    }
}

impl Kernel {
    /// An alarm of a timer rang: sends its signal if the time has come.
    pub fn timer_expired(&self, id: i32) {
        let mut timers = self.timers();
        let Some(timer) = timers.get_mut(&id) else { return };
        let now = self.timer_now(timer.clock);
        if timer.next.is_none_or(|next| next > now) {
            return self.set_alarm(id, timer);
        }
        // Sent under the lock: whoever takes the signal finds the timer as it is left here.
        timer.waits = true;
        match self.send_signal(timer.target, timer.info(id)) {
            Ok(true) if timer.interval > 0 => {}
            Ok(true) => (timer.waits, timer.next, timer.overrun) = (false, None, 0),
            // Nobody will take it.
            Ok(false) => {
                timer.waits = false;
                timer.advance(now);
                timer.next = timer.next.map(|next| next.max(now + TICK));
                self.set_alarm(id, timer);
            }
            // No room for one more signal: try again.
            Err(Errno::EAGAIN) => {
                timer.waits = false;
                timer.next = Some(now + TICK);
                self.set_alarm(id, timer);
            }
            // Its thread has ended.
            Err(_) => (timer.waits, timer.next) = (false, None),
        }
    }

    /// Called for each signal that a thread takes: one of an interval timer tells how many expirations it stands for, and the timer
    /// goes on. A program that makes such a signal up only hurries its own timer.
    pub fn timer_taken(&self, info: &mut SigInfo) {
        let id = match info.code {
            SI_TIMER => info.fields[0] as i32,
            _ => match INTERVAL_TIMERS.into_iter().find(|(_, signal, _)| *signal == info.signal) {
                Some((id, ..)) => id,
                None => return,
            },
        };
        let mut timers = self.timers();
        if let Some(timer) = timers.get_mut(&id).filter(|timer| timer.waits && timer.signal == info.signal) {
            timer.waits = false;
            let missed = timer.advance(self.timer_now(timer.clock));
            timer.overrun = missed.min(i32::MAX as u64) as i32;
            if info.code == SI_TIMER {
                info.fields[0] |= (timer.overrun as u64) << 32;
            }
            self.set_alarm(id, timer);
        }
    }

    fn timer_now(&self, clock: TimerClock) -> u64 {
        match clock {
            TimerClock::Monotonic | TimerClock::Realtime => self.clock.monotonic(),
            TimerClock::Process => self.sched.cpu_time(),
            TimerClock::Thread(tid) => self.sched.thread_cpu_time(tid).unwrap_or(0),
        }
    }

    /// Called with the lock of the timers held, so that a timer and its alarm agree.
    fn set_alarm(&self, id: i32, timer: &Timer) {
        let at = timer.next.filter(|_| timer.signal != 0 && !timer.waits).map(|next| match timer.clock {
            TimerClock::Monotonic | TimerClock::Realtime => next,
            clock => {
                // It cannot be sooner than if all CPUs work on it.
                let left = next.saturating_sub(self.timer_now(clock)) / self.cpus.max(1) as u64;
                self.clock.monotonic().saturating_add(left.max(TICK))
            }
        });
        let mut state = self.sched.lock();
        state.alarms.retain(|(_, alarm)| *alarm != Alarm::Timer(id));
        if let Some(at) = at {
            state.alarms.insert((at, Alarm::Timer(id)));
        }
        drop(state);
        if let Some(at) = at {
            self.arm(at);
        }
    }

    /// Sets a timer; returns its old interval and time left.
    fn set_timer(&self, id: i32, interval: u64, next: Option<u64>) -> Result<(u64, u64), Errno> {
        let mut timers = self.timers();
        let timer = timers.get_mut(&id).ok_or(Errno::EINVAL)?;
        let old = (timer.interval, timer.left(self.timer_now(timer.clock)));
        (timer.interval, timer.next, timer.waits, timer.overrun) = (interval, next, false, 0);
        self.set_alarm(id, timer);
        Ok(old)
    }
}

/// `struct itimerval`: interval and first, in seconds and microseconds.
fn to_micros((interval, left): (u64, u64)) -> [u64; 4] {
    // A time that is left is never shown as none.
    let left = left.div_ceil(1000);
    [interval / SECOND, interval % SECOND / 1000, left / 1_000_000, left % 1_000_000]
}

fn micros(seconds: i64, micros: i64) -> Result<u64, Errno> {
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EINVAL);
    }
    Timespec { seconds, nanoseconds: micros * 1000 }.nanos()
}

fn set_interval_timer(ctx: &Ctx<'_>, which: i32, interval: u64, first: u64) -> Result<(u64, u64), Errno> {
    let (id, signal, clock) = interval_timer(which)?;
    ctx.kernel.timers().entry(id).or_insert_with(|| Timer::new(signal, None, 0, clock));
    let next = (first > 0).then(|| ctx.kernel.timer_now(clock).saturating_add(first));
    ctx.kernel.set_timer(id, interval, next)
}

fn interval_timer(which: i32) -> Result<(i32, i32, TimerClock), Errno> {
    usize::try_from(which).ok().and_then(|which| INTERVAL_TIMERS.get(which)).copied().ok_or(Errno::EINVAL)
}

pub fn setitimer(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    interval_timer(args.i32(0))?;
    let [a, b, c, d] = match args.u64(1) {
        0 => [0; 4],
        pointer => ctx.kernel.read::<[i64; 4]>(pointer)?,
    };
    let old = set_interval_timer(ctx, args.i32(0), micros(a, b)?, micros(c, d)?)?;
    ctx.kernel.write_optional(args.u64(2), &to_micros(old))?;
    Ok(0)
}

pub fn getitimer(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (id, _, clock) = interval_timer(args.i32(0))?;
    let now = ctx.kernel.timer_now(clock);
    let shown = ctx.kernel.timers().get(&id).map_or((0, 0), |timer| (timer.interval, timer.left(now)));
    ctx.kernel.write(args.u64(1), &to_micros(shown)).map(|()| 0)
}

pub fn alarm(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (_, left) = set_interval_timer(ctx, libc::ITIMER_REAL, 0, u64::from(args.u32(0)) * SECOND)?;
    Ok(left.div_ceil(SECOND))
}

pub fn timer_create(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD_ID: i32 = 4;
    let clock = match args.i32(0) {
        libc::CLOCK_REALTIME | libc::CLOCK_TAI => TimerClock::Realtime,
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME => TimerClock::Monotonic,
        number => match CpuClock::from_number(number, ctx.thread.tid).ok_or(Errno::EINVAL)? {
            CpuClock::Process => TimerClock::Process,
            CpuClock::Thread(tid) if ctx.kernel.sched.is_gone(tid) => return Err(Errno::EINVAL),
            CpuClock::Thread(tid) => TimerClock::Thread(tid),
        },
    };
    let (value, signal, target) = match args.u64(1) {
        0 => (None, libc::SIGALRM, None),
        pointer => {
            // sigev_value, sigev_signo and sigev_notify, the thread.
            let [value, how, thread] = ctx.kernel.read::<[u64; 3]>(pointer)?;
            let (signal, notify, thread) = (how as i32, (how >> 32) as i32, thread as i32);
            let valid = (1..=LAST).contains(&signal);
            match notify {
                SIGEV_NONE => (Some(value), 0, None),
                SIGEV_SIGNAL if valid => (Some(value), signal, None),
                SIGEV_THREAD_ID if valid && !ctx.kernel.sched.is_gone(thread) => {
                    (Some(value), signal, Some(thread))
                }
                _ => return Err(Errno::EINVAL),
            }
        }
    };
    let mut timers = ctx.kernel.timers();
    let id = (0..MOST as i32).find(|id| !timers.contains_key(id)).ok_or(Errno::EAGAIN)?;
    let value = value.unwrap_or(id as u64);
    timers.insert(id, Timer::new(signal, target, value, clock));
    drop(timers);
    ctx.kernel.write(args.u64(2), &id).map(|()| 0)
}

fn check_id(args: Args) -> Result<i32, Errno> {
    if args.i32(0) >= 0 { Ok(args.i32(0)) } else { Err(Errno::EINVAL) }
}

pub fn timer_settime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const ABSTIME: i32 = 1;
    let id = check_id(args)?;
    let [interval, first] = ctx.kernel.read::<[Timespec; 2]>(args.u64(2))?;
    let (interval, first) = (interval.nanos()?, first.nanos()?);
    let clock = ctx.kernel.timers().get(&id).ok_or(Errno::EINVAL)?.clock;
    let next = match first {
        0 => None,
        first if args.i32(1) & ABSTIME == 0 => Some(ctx.kernel.timer_now(clock).saturating_add(first)),
        first if clock == TimerClock::Realtime => Some(ctx.kernel.clock.monotonic_at_realtime(first)),
        first => Some(first),
    };
    let (interval, left) = ctx.kernel.set_timer(id, interval, next)?;
    ctx.kernel.write_optional(args.u64(3), &[Timespec::from_nanos(interval), Timespec::from_nanos(left)])?;
    Ok(0)
}

pub fn timer_gettime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let id = check_id(args)?;
    let timers = ctx.kernel.timers();
    let timer = timers.get(&id).ok_or(Errno::EINVAL)?;
    let left = timer.left(ctx.kernel.timer_now(timer.clock));
    let shown = [Timespec::from_nanos(timer.interval), Timespec::from_nanos(left)];
    drop(timers);
    ctx.kernel.write(args.u64(1), &shown).map(|()| 0)
}

pub fn timer_getoverrun(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let id = check_id(args)?;
    ctx.kernel.timers().get(&id).map(|timer| timer.overrun as u64).ok_or(Errno::EINVAL)
}

pub fn timer_delete(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let id = check_id(args)?;
    let mut timers = ctx.kernel.timers();
    let mut timer = timers.remove(&id).ok_or(Errno::EINVAL)?;
    timer.next = None;
    ctx.kernel.set_alarm(id, &timer);
    Ok(0)
}
