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

    /// As they lie in memory.
    pub fn to_bytes(self) -> Vec<u8> {
        let words = [self.counter, self.scale, self.monotonic, self.realtime];
        let head = [self.sequence.to_le_bytes(), self.usable.to_le_bytes()];
        head.into_iter().flatten().chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
    }
}
