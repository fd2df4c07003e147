//! Resource limits.

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::kernel::PID;

const COUNT: usize = 16;
const UNLIMITED: u64 = u64::MAX;
/// Bytes of the first thread's stack.
pub const STACK: u64 = 8 << 20;

/// Soft and hard limit of each resource, by Linux's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits([(u64, u64); COUNT]);

impl Default for Limits {
    fn default() -> Limits {
        let mut limits = [(UNLIMITED, UNLIMITED); COUNT];
        limits[libc::RLIMIT_STACK as usize] = (STACK, UNLIMITED);
        limits[libc::RLIMIT_CORE as usize] = (0, UNLIMITED);
        limits[libc::RLIMIT_NOFILE as usize] = (1024, super::descriptor::MOST as u64);
        limits[libc::RLIMIT_NPROC as usize] =
            (super::sched::MAX_THREADS as u64, super::sched::MAX_THREADS as u64);
        limits[libc::RLIMIT_MEMLOCK as usize] = (8 << 20, 8 << 20);
        limits[libc::RLIMIT_SIGPENDING as usize] = (1024, 1024);
        limits[libc::RLIMIT_MSGQUEUE as usize] = (0, 0);
        limits[libc::RLIMIT_NICE as usize] = (0, 0);
        limits[libc::RLIMIT_RTPRIO as usize] = (0, 0);
        Limits(limits)
    }
}

/// What a checkpoint keeps of [`Limits`].
pub type SavedLimits = Vec<(u64, u64)>;

impl Limits {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedLimits {
        self.0.to_vec()
    }

    /// The limits as they were; `None` if they are not as many as there are resources, or beyond what a program can ask for.
    pub fn restore(saved: &SavedLimits) -> Option<Limits> {
        let limits = Limits(saved.as_slice().try_into().ok()?);
        (limits.open_files() <= super::descriptor::MOST).then_some(limits)
    }

    /// Most open descriptors, plus one.
    pub fn open_files(&self) -> usize {
        self.0[libc::RLIMIT_NOFILE as usize].0 as usize
    }

    /// The soft and hard limit.
    pub fn get(&self, resource: i32) -> Result<(u64, u64), Errno> {
        usize::try_from(resource).ok().and_then(|r| self.0.get(r)).copied().ok_or(Errno::EINVAL)
    }

    fn set(&mut self, resource: i32, soft: u64, hard: u64) -> Result<(), Errno> {
        let old = self.get(resource)?;
        if soft > hard {
            return Err(Errno::EINVAL);
        }
        if hard > old.1 {
            return Err(Errno::EPERM);
        }
        self.0[resource as usize] = (soft, hard);
        Ok(())
    }
}

pub fn getrlimit(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (soft, hard) = ctx.kernel.limits().get(args.i32(0))?;
    ctx.kernel.write(args.u64(1), &[soft, hard])?;
    Ok(0)
}

pub fn setrlimit(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let [soft, hard] = ctx.kernel.read::<[u64; 2]>(args.u64(1))?;
    ctx.kernel.limits().set(args.i32(0), soft, hard)?;
    Ok(0)
}

pub fn prlimit64(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if !matches!(args.i32(0), 0 | PID) {
        return Err(Errno::ESRCH);
    }
    let (soft, hard) = ctx.kernel.limits().get(args.i32(1))?;
    if args.u64(2) != 0 {
        let [soft, hard] = ctx.kernel.read::<[u64; 2]>(args.u64(2))?;
        ctx.kernel.limits().set(args.i32(1), soft, hard)?;
    }
    ctx.kernel.write_optional(args.u64(3), &[soft, hard])?;
    Ok(0)
}
