//! `timerfd`: a timer that is read.

use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use vm_memory::VolatileSlice;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind, Object, Ready};
use super::kernel::Kernel;
use super::sched::Alarm;
use super::stat::Attributes;
use super::time::Timespec;
use super::user::scatter;
use crate::sync::lock;

/// A timer, in nanoseconds of the guest's monotonic clock.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timer {
    /// When it expires next.
    next: Option<u64>,
    /// Between later expirations; 0 for a single one.
    interval: u64,
    /// How often it was found to have expired.
    expired: u64,
}

impl Timer {
    /// Counts the expirations up to `now` and moves on.
    fn advance(&mut self, now: u64) -> u64 {
        let Some(next) = self.next.filter(|next| *next <= now) else { return 0 };
        self.expired = self.expired.wrapping_add(1);
        if self.interval == 0 {
            self.next = None;
            return 1;
        }
        let count = 1 + (now - next) / self.interval;
        self.next = Some(next.saturating_add(count.saturating_mul(self.interval)));
        count
    }

    fn is_due(&self, now: u64) -> bool {
        self.next.is_some_and(|next| next <= now)
    }
}

/// A timer descriptor.
pub struct TimerFd {
    timer: Mutex<Timer>,
    realtime: bool,
}

/// What a checkpoint keeps of a timer descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedTimer {
    timer: Timer,
    realtime: bool,
}

impl TimerFd {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedTimer {
        SavedTimer { timer: *self.lock(), realtime: self.realtime }
    }

    /// The timer as it was; its alarm is the scheduler's.
    pub fn restore(saved: SavedTimer) -> TimerFd {
        TimerFd { timer: Mutex::new(saved.timer), realtime: saved.realtime }
    }

    /// How often it has become ready: once for all that expire until it is read.
    pub fn expirations(&self, kernel: &Kernel) -> u64 {
        let timer = self.lock();
        timer.expired.wrapping_add(u64::from(timer.is_due(kernel.clock.monotonic())))
    }

    fn lock(&self) -> MutexGuard<'_, Timer> {
        lock(&self.timer)
    }
}

impl Object for TimerFd {
    fn read(&self, kernel: &Kernel, file: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        if into.iter().map(VolatileSlice::len).sum::<usize>() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut timer = self.lock();
        let before = timer.next;
        let count = timer.advance(kernel.clock.monotonic());
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        kernel.move_file_alarm(file, before, timer.next);
        drop(timer);
        scatter(into, &count.to_ne_bytes());
        Ok(8)
    }

    fn ready(&self, kernel: &Kernel) -> Ready {
        let due = self.lock().is_due(kernel.clock.monotonic());
        if due { Ready::IN | Ready::RDNORM } else { Ready::empty() }
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(0o600))
    }
}

impl Kernel {
    /// Tells those who wait for the file at `to`, and no longer at `from`, when its timer would have expired before. Called with the timer
    /// locked, so that both agree.
    fn move_file_alarm(&self, file: &File, from: Option<u64>, to: Option<u64>) {
        let alarm = |at| (at, Alarm::File(file.id));
        let mut state = self.sched.lock();
        from.map(|at| state.alarms.remove(&alarm(at)));
        state.alarms.extend(to.map(alarm));
        drop(state);
        if let Some(at) = to {
            self.arm(at);
        }
    }
}

impl TimerFd {
    /// The file is closed: nobody is told any more.
    pub(super) fn disarm(&self, kernel: &Kernel, file: &File) {
        let mut timer = self.lock();
        kernel.move_file_alarm(file, timer.next.take(), None);
    }
}

pub fn create(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (clock, flags) = (args.i32(0), args.i32(1));
    if flags & !(libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let realtime = match clock {
        libc::CLOCK_REALTIME => true,
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME => false,
        _ => return Err(Errno::EINVAL),
    };
    let timer = TimerFd { timer: Mutex::default(), realtime };
    let status = libc::O_RDWR | flags & libc::TFD_NONBLOCK;
    let file = ctx.kernel.new_file(Kind::Timer(timer), "anon_inode:[timerfd]".into(), status as u32);
    ctx.kernel.install(file, flags as u32)
}

/// Interval and time left.
fn show(timer: Timer, now: u64) -> [Timespec; 2] {
    let left = timer.next.map_or(0, |next| next.saturating_sub(now).max(1));
    [Timespec::from_nanos(timer.interval), Timespec::from_nanos(left)]
}

pub fn settime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const CANCEL_ON_SET: i32 = 2;
    let flags = args.i32(1);
    if flags & !(libc::TFD_TIMER_ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let [interval, first] = ctx.kernel.read::<[Timespec; 2]>(args.u64(2))?;
    let (interval, first) = (interval.nanos()?, first.nanos()?);
    let file = ctx.kernel.file(args.i32(0))?;
    let Kind::Timer(timer) = &file.kind else { return Err(Errno::EINVAL) };
    let now = ctx.kernel.clock.monotonic();
    let next = match first {
        0 => None,
        first if flags & libc::TFD_TIMER_ABSTIME == 0 => Some(now.saturating_add(first)),
        first if timer.realtime => Some(ctx.kernel.clock.monotonic_at_realtime(first)),
        first => Some(first),
    };
    let mut held = timer.lock();
    let before = held.next;
    held.advance(now);
    let old = show(*held, now);
    (held.next, held.interval) = (next, interval);
    ctx.kernel.move_file_alarm(&file, before, next);
    drop(held);
    ctx.kernel.write_optional(args.u64(3), &old)?;
    Ok(0)
}

pub fn gettime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let Kind::Timer(timer) = &file.kind else { return Err(Errno::EINVAL) };
    let shown = show(*timer.lock(), ctx.kernel.clock.monotonic());
    ctx.kernel.write(args.u64(1), &shown).map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_counted_and_kept_in_phase() {
        let mut timer = Timer { next: Some(100), interval: 10, expired: 0 };
        assert_eq!(timer.advance(99), 0);
        assert_eq!(timer.advance(125), 3);
        assert_eq!(timer.next, Some(130));
        let mut single = Timer { next: Some(5), interval: 0, expired: 0 };
        assert_eq!((single.advance(9), single.advance(10)), (1, 0));
    }
}
