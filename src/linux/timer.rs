//! Timers that send signals: `setitimer`, `alarm`, `timer_create`.

use std::collections::BTreeMap;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::kernel::Kernel;
use super::sched::Alarm;
use super::signal::{LAST, SigInfo};
use super::thread::Tid;
use super::time::{SECOND, Timespec};

/// Number of the process's real-time interval timer among the timers; those of `timer_create` count from 0.
const ITIMER: i32 = -1;
/// Most timers of `timer_create`.
const MOST: usize = 256;

/// A timer.
#[derive(Clone, Debug)]
pub struct Timer {
    signal: i32,
    /// One thread, or the process.
    target: Option<Tid>,
    /// Passed to the handler.
    value: u64,
    realtime: bool,
    interval: u64,
    next: Option<u64>,
}

/// All timers by number.
pub type Timers = BTreeMap<i32, Timer>;

impl Kernel {
    /// An alarm of a timer rang: sends its signal and sets the next.
    pub fn timer_expired(&self, id: i32) {
        let now = self.clock.monotonic();
        let mut timers = self.timers();
        let Some(timer) = timers.get_mut(&id) else { return };
        let Some(due) = timer.next.filter(|next| *next <= now) else { return };
        let mut missed = 0;
        timer.next = (timer.interval > 0).then(|| {
            missed = (now - due) / timer.interval;
            due.saturating_add((missed + 1).saturating_mul(timer.interval))
        });
        let info = if id == ITIMER {
            SigInfo { signal: timer.signal, code: 0x80, ..SigInfo::default() }
        } else {
            const SI_TIMER: i32 = -2;
            let fields = [u64::from(id as u32) | missed.min(i32::MAX as u64) << 32, timer.value, 0];
            SigInfo { signal: timer.signal, code: SI_TIMER, fields, trap: (0, 0) }
        };
        let (target, next) = (timer.target, timer.next);
        // Before the signal, and under the lock: the program may set the timer anew at once.
        self.set_alarm(id, next);
        drop(timers);
        if info.signal != 0 {
            self.send_signal(target, info);
        }
    }

    /// Called with the lock of the timers held, so that a timer and its alarm agree.
    fn set_alarm(&self, id: i32, at: Option<u64>) {
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
        let old = (timer.interval, left(timer, self.clock.monotonic()));
        (timer.interval, timer.next) = (interval, next);
        self.set_alarm(id, next);
        Ok(old)
    }
}

fn left(timer: &Timer, now: u64) -> u64 {
    timer.next.map_or(0, |next| next.saturating_sub(now).max(1))
}

fn interval_timer() -> Timer {
    Timer { signal: libc::SIGALRM, target: None, value: 0, realtime: false, interval: 0, next: None }
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

/// Only the real-time timer; those of CPU time are refused.
fn check_which(which: i32) -> Result<(), Errno> {
    match which {
        libc::ITIMER_REAL => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

fn set_interval_timer(ctx: &Ctx<'_>, interval: u64, first: u64) -> Result<(u64, u64), Errno> {
    ctx.kernel.timers().entry(ITIMER).or_insert_with(interval_timer);
    let next = (first > 0).then(|| ctx.kernel.clock.monotonic().saturating_add(first));
    ctx.kernel.set_timer(ITIMER, interval, next)
}

pub fn setitimer(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_which(args.i32(0))?;
    let [a, b, c, d] = match args.u64(1) {
        0 => [0; 4],
        pointer => ctx.kernel.read::<[i64; 4]>(pointer)?,
    };
    let old = set_interval_timer(ctx, micros(a, b)?, micros(c, d)?)?;
    ctx.kernel.write_optional(args.u64(2), &to_micros(old))?;
    Ok(0)
}

pub fn getitimer(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_which(args.i32(0))?;
    let now = ctx.kernel.clock.monotonic();
    let shown = ctx.kernel.timers().get(&ITIMER).map_or((0, 0), |timer| (timer.interval, left(timer, now)));
    ctx.kernel.write(args.u64(1), &to_micros(shown)).map(|()| 0)
}

pub fn alarm(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (_, left) = set_interval_timer(ctx, 0, u64::from(args.u32(0)) * SECOND)?;
    Ok(left.div_ceil(SECOND))
}

pub fn timer_create(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD_ID: i32 = 4;
    let realtime = match args.i32(0) {
        libc::CLOCK_REALTIME => true,
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME => false,
        _ => return Err(Errno::EINVAL),
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
                SIGEV_THREAD_ID if valid && !ctx.kernel.sched.is_gone(thread) => (Some(value), signal, Some(thread)),
                _ => return Err(Errno::EINVAL),
            }
        }
    };
    let mut timers = ctx.kernel.timers();
    let id = (0..MOST as i32).find(|id| !timers.contains_key(id)).ok_or(Errno::EAGAIN)?;
    let value = value.unwrap_or(id as u64);
    timers.insert(id, Timer { signal, target, value, realtime, interval: 0, next: None });
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
    let realtime = ctx.kernel.timers().get(&id).ok_or(Errno::EINVAL)?.realtime;
    let next = match first {
        0 => None,
        first if args.i32(1) & ABSTIME == 0 => Some(ctx.kernel.clock.monotonic().saturating_add(first)),
        first if realtime => Some(ctx.kernel.clock.monotonic_at_realtime(first)),
        first => Some(first),
    };
    let (interval, left) = ctx.kernel.set_timer(id, interval, next)?;
    ctx.kernel.write_optional(args.u64(3), &[Timespec::from_nanos(interval), Timespec::from_nanos(left)])?;
    Ok(0)
}

pub fn timer_gettime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let id = check_id(args)?;
    let now = ctx.kernel.clock.monotonic();
    let timers = ctx.kernel.timers();
    let timer = timers.get(&id).ok_or(Errno::EINVAL)?;
    let shown = [Timespec::from_nanos(timer.interval), Timespec::from_nanos(left(timer, now))];
    drop(timers);
    ctx.kernel.write(args.u64(1), &shown).map(|()| 0)
}

pub fn timer_getoverrun(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if ctx.kernel.timers().contains_key(&check_id(args)?) { Ok(0) } else { Err(Errno::EINVAL) }
}

pub fn timer_delete(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let id = check_id(args)?;
    let mut timers = ctx.kernel.timers();
    timers.remove(&id).ok_or(Errno::EINVAL)?;
    ctx.kernel.set_alarm(id, None);
    Ok(0)
}
