//! CPU time of the guest's threads: what their workers' host threads used while they ran them, in the guest, serving their calls, and
//! waiting in the guest for a call that is served without an exit.

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::kernel::PID;
use super::sched::Sched;
use super::thread::Tid;
use super::time::SECOND;

/// A CPU clock of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuClock {
    /// Of all threads, those that have ended included.
    Process,
    /// Of one thread.
    Thread(Tid),
}

impl CpuClock {
    /// The clock with this number, for thread `caller`. Negative ones hold the inverted number of a process or thread, as
    /// `pthread_getcpuclockid` makes them.
    pub fn from_number(clock: i32, caller: Tid) -> Option<CpuClock> {
        const OF_THREAD: i32 = 4;
        const KIND: i32 = 3;
        const DESCRIPTOR: i32 = 3;
        match clock {
            libc::CLOCK_PROCESS_CPUTIME_ID => Some(CpuClock::Process),
            libc::CLOCK_THREAD_CPUTIME_ID => Some(CpuClock::Thread(caller)),
            clock if clock >= 0 || clock & KIND == DESCRIPTOR => None,
            clock => match (!(clock >> 3), clock & OF_THREAD != 0) {
                (0, true) => Some(CpuClock::Thread(caller)),
                (tid, true) => Some(CpuClock::Thread(tid)),
                (0 | PID, false) => Some(CpuClock::Process),
                _ => None,
            },
        }
    }

    /// Nanoseconds that it shows; `EINVAL` if there is no such thread.
    pub fn read(self, sched: &Sched) -> Result<u64, Errno> {
        match self {
            CpuClock::Process => Ok(sched.cpu_time()),
            CpuClock::Thread(tid) => sched.thread_cpu_time(tid).ok_or(Errno::EINVAL),
        }
    }
}

/// The CPU clock of a host thread, which other threads of this process can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostClock(libc::clockid_t);

impl HostClock {
    /// That of the calling thread.
    pub fn of_this_thread() -> HostClock {
        const SCHEDULED_TIME_OF_THREAD: libc::clockid_t = 6;
        HostClock(!rustix::thread::gettid().as_raw_nonzero().get() << 3 | SCHEDULED_TIME_OF_THREAD)
    }

    /// Nanoseconds; 0 once the thread has ended.
    pub fn read(self) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills the structure, or fails and leaves it.
        unsafe { libc::clock_gettime(self.0, &mut time) };
        time.tv_sec as u64 * SECOND + time.tv_nsec as u64
    }
}

/// All time counts as the program's own: what its calls take is not told apart. There are no children.
pub fn times(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const TICK: u64 = SECOND / 100;
    let used = ctx.kernel.sched.cpu_time() / TICK;
    ctx.kernel.write_optional(args.u64(0), &[used, 0, 0, 0])?;
    Ok(ctx.kernel.clock.monotonic() / TICK)
}

/// See [`times`].
pub fn getrusage(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let mut words = [0u64; 18];
    let used = match args.i32(0) {
        libc::RUSAGE_SELF => ctx.kernel.sched.cpu_time(),
        libc::RUSAGE_THREAD => CpuClock::Thread(ctx.thread.tid).read(&ctx.kernel.sched)?,
        libc::RUSAGE_CHILDREN => 0,
        _ => return Err(Errno::EINVAL),
    };
    if args.i32(0) != libc::RUSAGE_CHILDREN {
        let (total, free) = ctx.kernel.mm().ram();
        (words[0], words[1]) = (used / SECOND, used % SECOND / 1000);
        // Kilobytes.
        words[4] = (total - free) / 1024;
    }
    ctx.kernel.write(args.u64(1), &words)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_numbers_are_those_of_the_c_library() {
        let of_thread = |tid: i32| !tid << 3 | 6;
        assert_eq!(CpuClock::from_number(of_thread(123), 7), Some(CpuClock::Thread(123)));
        assert_eq!(CpuClock::from_number(of_thread(0), 7), Some(CpuClock::Thread(7)));
        assert_eq!(CpuClock::from_number(!PID << 3 | 2, 7), Some(CpuClock::Process));
        assert_eq!(CpuClock::from_number(!(PID + 1) << 3 | 2, 7), None);
        assert_eq!(CpuClock::from_number(libc::CLOCK_REALTIME, 7), None);
    }

    #[test]
    fn the_clock_of_a_host_thread_is_read_from_another() {
        let (mine, before) = (HostClock::of_this_thread(), HostClock::of_this_thread().read());
        while mine.read() < before + 1_000_000 {
            std::hint::spin_loop();
        }
        let seen = std::thread::spawn(move || (mine.read(), HostClock::of_this_thread().read())).join();
        let (mine, other) = seen.expect("the thread ended");
        assert!(mine >= before + 1_000_000 && other < mine, "{mine} and {other}");
    }
}
