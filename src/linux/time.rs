//! The guest's clocks, and sleeping.

use std::sync::atomic::{AtomicI64, Ordering};

use rustix::time::{ClockId, clock_gettime as host_clock};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::context::{Args, Ctx, OnSignal};
use super::cpu_time::CpuClock;
use super::errno::{Errno, SysResult};
use super::thread::Wait;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// `struct timespec`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below a second.
    pub nanoseconds: i64,
}

impl Timespec {
    /// From nanoseconds.
    pub fn from_nanos(nanos: u64) -> Timespec {
        Timespec { seconds: (nanos / SECOND) as i64, nanoseconds: (nanos % SECOND) as i64 }
    }

    /// Nanoseconds of a time that a guest passed; `EINVAL` if it is negative or malformed.
    pub fn nanos(self) -> Result<u64, Errno> {
        if self.seconds < 0 || !(0..SECOND as i64).contains(&self.nanoseconds) {
            return Err(Errno::EINVAL);
        }
        Ok((self.seconds as u64).saturating_mul(SECOND).saturating_add(self.nanoseconds as u64))
    }
}

/// The clocks. The monotonic one goes on where it stood at the checkpoint when a VM is restored; the wall clock is the host's.
#[derive(Default, Debug)]
pub struct Clock {
    /// Guest's monotonic time less the host's, in nanoseconds.
    offset: AtomicI64,
}

impl Clock {
    /// A clock whose monotonic time goes on from `monotonic`.
    pub fn resumed_at(monotonic: u64) -> Clock {
        Clock { offset: AtomicI64::new(monotonic as i64 - host(ClockId::Monotonic) as i64) }
    }

    /// Nanoseconds of the guest's monotonic clock, from which all deadlines count.
    pub fn monotonic(&self) -> u64 {
        self.to_guest(host(ClockId::Monotonic))
    }

    /// Guest's monotonic time for the host's.
    pub fn to_guest(&self, host: u64) -> u64 {
        host.saturating_add_signed(self.offset.load(Ordering::Relaxed))
    }

    /// Host's monotonic time for the guest's.
    pub fn to_host(&self, guest: u64) -> u64 {
        guest.saturating_add_signed(-self.offset.load(Ordering::Relaxed))
    }

    /// Nanoseconds since 1970.
    pub fn realtime(&self) -> u64 {
        host(ClockId::Realtime)
    }

    /// The monotonic time at which the wall clock will show `realtime`, if nobody sets it.
    pub fn monotonic_at_realtime(&self, realtime: u64) -> u64 {
        self.monotonic().saturating_add(realtime.saturating_sub(self.realtime()))
    }
}

impl Ctx<'_> {
    /// Nanoseconds that a clock of the guest shows.
    fn read_clock(&self, clock: i32) -> Result<u64, Errno> {
        Ok(match clock {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => self.kernel.clock.realtime(),
            libc::CLOCK_MONOTONIC
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_BOOTTIME => self.kernel.clock.monotonic(),
            libc::CLOCK_TAI => self.kernel.clock.realtime().saturating_add(37 * SECOND),
            clock => {
                let clock = CpuClock::from_number(clock, self.thread.tid).ok_or(Errno::EINVAL)?;
                return clock.read(&self.kernel.sched);
            }
        })
    }
}

fn host(clock: ClockId) -> u64 {
    let now = host_clock(clock);
    (now.tv_sec as u64) * SECOND + now.tv_nsec as u64
}

pub fn clock_gettime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let now = ctx.read_clock(args.i32(0))?;
    ctx.kernel.write(args.u64(1), &Timespec::from_nanos(now))?;
    Ok(0)
}

pub fn clock_getres(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    ctx.read_clock(args.i32(0))?;
    let coarse = matches!(args.i32(0), libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE);
    ctx.kernel.write_optional(args.u64(1), &Timespec::from_nanos(if coarse { 4_000_000 } else { 1 }))?;
    Ok(0)
}

pub fn gettimeofday(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let now = ctx.kernel.clock.realtime();
    ctx.kernel.write_optional(args.u64(0), &[now / SECOND, now % SECOND / 1000])?;
    ctx.kernel.write_optional(args.u64(1), &[0u32; 2])?;
    Ok(0)
}

pub fn time(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let seconds = ctx.kernel.clock.realtime() / SECOND;
    ctx.kernel.write_optional(args.u64(0), &seconds)?;
    Ok(seconds)
}

pub fn nanosleep(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let time = ctx.kernel.read::<Timespec>(args.u64(0))?.nanos()?;
    let deadline = ctx.deadline(time);
    sleep(ctx, deadline, args.u64(1))
}

pub fn clock_nanosleep(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const ABSTIME: i32 = 1;
    let clock = args.i32(0);
    if clock == libc::CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL);
    }
    ctx.read_clock(clock)?;
    let time = ctx.kernel.read::<Timespec>(args.u64(2))?.nanos()?;
    if args.i32(1) & ABSTIME == 0 {
        let deadline = ctx.deadline(time);
        return sleep(ctx, deadline, args.u64(3));
    }
    let deadline = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_TAI => ctx.kernel.clock.monotonic_at_realtime(time),
        _ => time,
    };
    sleep(ctx, deadline, 0)
}

/// Sleeps until `deadline`; an interrupted sleep says at `remainder` how much was left.
fn sleep(ctx: &mut Ctx<'_>, deadline: u64, remainder: u64) -> SysResult {
    if ctx.is_past(Some(deadline)) {
        return Ok(0);
    }
    let errno = ctx.block(Wait { deadline: Some(deadline), ..Wait::default() }, OnSignal::Interrupt);
    if errno == Errno::INTERRUPTED {
        let left = deadline.saturating_sub(ctx.kernel.clock.monotonic());
        ctx.kernel.write_optional(remainder, &Timespec::from_nanos(left))?;
    }
    Err(errno)
}

/// What the vDSO computes the clocks from, in the order of its code.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Parameters {
    /// Odd while the rest is being changed.
    sequence: u32,
    /// 0: make a system call instead.
    usable: u32,
    /// Time stamp counter at which the clocks showed the bases.
    counter: u64,
    /// Nanoseconds of one count, times 2^32.
    scale: u64,
    /// Monotonic time then.
    monotonic: u64,
    /// Wall time then.
    realtime: u64,
}

impl Parameters {
    /// The parameters for now, of a program whose clock is `clock`; `sequence` is even. Not usable where the guest's counter is not the host's, or not steady.
    pub fn measure(clock: &Clock, sequence: u32) -> Parameters {
        let Some(kilohertz) = crate::vmm::Hypervisor::get().ok().and_then(|h| h.counter_kilohertz()) else {
            return Parameters { sequence, ..Parameters::default() };
        };
        // The pair of readings that were nearest to each other.
        let readings = (0..8).map(|_| {
            let before = crate::vmm::host_counter();
            let (monotonic, realtime) = (host(ClockId::Monotonic), host(ClockId::Realtime));
            let after = crate::vmm::host_counter();
            (after - before, before + (after - before) / 2, monotonic, realtime)
        });
        let (_, counter, monotonic, realtime) = readings.min().unwrap_or_default();
        let scale = ((1_000_000u128 << 32) / u128::from(kilohertz)) as u64;
        let monotonic = clock.to_guest(monotonic);
        Parameters { sequence, usable: 1, counter, scale, monotonic, realtime }
    }

    /// Those in the place of these, which have drifted from the host's clocks since, or were left behind when those were set. The monotonic time goes on from
    /// what these show now if that is ahead of the host's; the counter then counts for less, so that it is not for long.
    pub fn renewed(self, clock: &Clock, sequence: u32) -> Parameters {
        self.followed_by(Parameters::measure(clock, sequence))
    }

    fn followed_by(self, measured: Parameters) -> Parameters {
        /// Most that is caught up with in a second: 500 millionths, as much as Linux slews.
        const MOST: u64 = SECOND / 2000;
        if self.usable == 0 || measured.usable == 0 {
            return measured;
        }
        let counted = measured.counter.saturating_sub(self.counter);
        let passed = ((u128::from(counted) * u128::from(self.scale)) >> 32) as u64;
        let shown = self.monotonic.wrapping_add(passed);
        let ahead = shown.saturating_sub(measured.monotonic);
        let less = u128::from(measured.scale) * u128::from(ahead.min(MOST)) / u128::from(SECOND);
        Parameters {
            monotonic: measured.monotonic.max(shown),
            scale: measured.scale - less as u64,
            ..measured
        }
    }

    /// Those that [`Parameters::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8; size_of::<Parameters>()]) -> Parameters {
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let head = word(0);
        Parameters {
            sequence: head as u32,
            usable: (head >> 32) as u32,
            counter: word(8),
            scale: word(16),
            monotonic: word(24),
            realtime: word(32),
        }
    }

    /// Odd while the rest is being changed.
    pub fn sequence(self) -> u32 {
        self.sequence
    }

    /// As they lie in memory.
    pub fn to_bytes(self) -> Vec<u8> {
        let words = [self.counter, self.scale, self.monotonic, self.realtime];
        let head = [self.sequence.to_le_bytes(), self.usable.to_le_bytes()];
        head.into_iter().flatten().chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: u64 = 1 << 31;

    /// What the clocks show at the counter, as the code of the vDSO computes it.
    fn shown(parameters: Parameters, counter: u64) -> u64 {
        let counted = u128::from(counter.saturating_sub(parameters.counter));
        parameters.monotonic + ((counted * u128::from(parameters.scale)) >> 32) as u64
    }

    /// The parameters of a counter that counts half nanoseconds, for a host whose clock shows `monotonic`.
    fn measured(counter: u64, monotonic: u64) -> Parameters {
        Parameters {
            sequence: 2,
            usable: 1,
            counter,
            scale: SCALE,
            monotonic,
            realtime: monotonic.wrapping_add(7),
        }
    }

    #[test]
    fn a_clock_that_lags_is_put_right_at_once_and_one_that_is_ahead_soon() {
        let second = 2 * SECOND;
        for millionths in [-300i64, -50, 0, 50, 300] {
            let host = |counter: u64| {
                (counter / 2).saturating_add_signed(counter as i64 / 2 * millionths / 1_000_000)
            };
            let mut now = measured(0, 0);
            for counter in (1..100).map(|i| i * second) {
                let before = shown(now, counter);
                now = now.followed_by(measured(counter, host(counter)));
                let (after, real) = (shown(now, counter), host(counter));
                assert!(after >= before && after >= real, "{millionths}: {before} {after} {real}");
                // No more than it gained within a second.
                assert!(after - real <= 300_000 + 10, "{millionths}: {after} {real}");
                assert_eq!(now.realtime, real + 7);
            }
        }
    }

    #[test]
    fn parameters_that_make_no_sense_do_no_harm() {
        let all = Parameters::from_bytes(&[0xff; 40]);
        assert_eq!(Parameters::from_bytes(&all.to_bytes().try_into().expect("40 bytes")), all);
        all.followed_by(measured(1, 1));
        measured(u64::MAX, 0).followed_by(measured(0, u64::MAX));
        let unusable = Parameters::default();
        assert_eq!(measured(5, 5).followed_by(unusable), unusable);
        assert_eq!(unusable.followed_by(measured(5, 5)), measured(5, 5));
    }
}
