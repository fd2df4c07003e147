//! Threads: starting, ending, and what they ask of the scheduler.

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::kernel::Kernel;
use super::sched::ExitStatus;
use super::thread::{Thread, Tid};
use crate::vmm::{ExtendedState, layout};

const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
/// What a thread shares with its process.
const THREAD: u64 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

/// `clone`, as the C libraries start threads with it. A new process is refused.
pub fn clone(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (flags, stack, parent_tid, child_tid, tls) =
        (args.u64(0), args.u64(1), args.u64(2), args.u64(3), args.u64(4));
    const OTHERS: u64 = CLONE_SYSVSEM
        | CLONE_SETTLS
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_CLEARTID
        | CLONE_DETACHED
        | CLONE_CHILD_SETTID;
    if flags & THREAD != THREAD {
        ctx.kernel.log_refusal(libc::SYS_clone as u64, "clone of a process", Errno::ENOSYS);
        return Err(Errno::ENOSYS);
    }
    if flags & !(THREAD | OTHERS | 0xff) != 0 || stack == 0 || tls >= layout::USER_END {
        return Err(Errno::EINVAL);
    }
    let xsave = ctx.vcpu.xsave().map_err(|_| Errno::EAGAIN)?;
    let (fs_base, gs_base) = ctx.vcpu.bases().map_err(|_| Errno::EAGAIN)?;
    let fs_base = if flags & CLONE_SETTLS != 0 { tls } else { fs_base };
    let tid = ctx.kernel.sched.allocate_tid().ok_or(Errno::EAGAIN)?;
    let mut regs = ctx.thread.regs;
    regs.rax = 0;
    regs.rsp = stack;
    let mut thread = Thread::new(tid, regs, ExtendedState { fs_base, gs_base, xsave });
    thread.name = ctx.thread.name;
    if flags & CLONE_CHILD_CLEARTID != 0 {
        thread.clear_child_tid = child_tid;
    }
    if flags & CLONE_PARENT_SETTID != 0 {
        ctx.kernel.write(parent_tid, &tid)?;
    }
    if flags & CLONE_CHILD_SETTID != 0 {
        ctx.kernel.write(child_tid, &tid)?;
    }
    let mask = ctx.kernel.mask(ctx.thread.tid);
    ctx.kernel.add_thread(thread, mask);
    Ok(tid as u64)
}

/// Ends the calling thread, and with the last one the program.
pub fn exit(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (tid, kernel) = (ctx.thread.tid, ctx.kernel);
    if ctx.thread.robust_list != 0 {
        kernel.release_robust_list(ctx.thread.robust_list, tid);
    }
    if ctx.thread.clear_child_tid != 0 && kernel.write(ctx.thread.clear_child_tid, &0u32).is_ok() {
        kernel.futex_wake(ctx.thread.clear_child_tid, 1, u32::MAX);
    }
    if kernel.sched.remove(tid, |need| kernel.serve(need)) {
        kernel.sched.exit(ExitStatus::Code(args.u64(0) as u8));
    }
    Ok(0)
}

pub fn exit_group(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    ctx.kernel.sched.exit(ExitStatus::Code(args.u64(0) as u8));
    ctx.kernel.attend(ctx.thread.tid);
    Ok(0)
}

pub fn gettid(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(ctx.thread.tid as u64)
}

pub fn set_tid_address(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    ctx.thread.clear_child_tid = args.u64(0);
    Ok(ctx.thread.tid as u64)
}

pub fn set_robust_list(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.size(1) != 24 {
        return Err(Errno::EINVAL);
    }
    ctx.thread.robust_list = args.u64(0);
    Ok(0)
}

pub fn get_robust_list(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_own(ctx, args.i32(0))?;
    ctx.kernel.write(args.u64(1), &ctx.thread.robust_list)?;
    ctx.kernel.write(args.u64(2), &24u64)?;
    Ok(0)
}

/// Whether `tid` (0 is the caller) is a thread of the program; negative numbers are none.
fn check_found(ctx: &Ctx<'_>, tid: Tid) -> Result<(), Errno> {
    check_known(ctx, tid).map_err(|_| Errno::ESRCH)
}

/// The same, where Linux refuses negative numbers as such.
fn check_known(ctx: &Ctx<'_>, tid: Tid) -> Result<(), Errno> {
    if tid < 0 {
        return Err(Errno::EINVAL);
    }
    if tid == 0 || !ctx.kernel.sched.is_gone(tid) { Ok(()) } else { Err(Errno::ESRCH) }
}

fn check_own(ctx: &Ctx<'_>, tid: Tid) -> Result<(), Errno> {
    if tid == 0 || tid == ctx.thread.tid { Ok(()) } else { Err(Errno::EPERM) }
}

pub fn sched_yield(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    ctx.kernel.sched.end_turn(ctx.thread.tid);
    Ok(0)
}

/// Every thread may run on every CPU.
pub fn sched_getaffinity(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_found(ctx, args.i32(0))?;
    let cpus = ctx.kernel.cpus;
    let mut mask = vec![0u8; cpus.div_ceil(64) * 8];
    for cpu in 0..cpus {
        mask[cpu / 8] |= 1 << (cpu % 8);
    }
    if args.size(1) < mask.len() || !args.size(1).is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    ctx.kernel.write_bytes(args.u64(2), &mask)?;
    Ok(mask.len() as u64)
}

/// Accepted when it leaves a CPU that there is; the host places threads as it likes.
pub fn sched_setaffinity(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_found(ctx, args.i32(0))?;
    let mut mask = vec![0u8; args.size(1).min(128)];
    ctx.kernel.read_bytes(args.u64(2), &mut mask)?;
    let offered =
        (0..ctx.kernel.cpus).any(|cpu| mask.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 != 0));
    if offered { Ok(0) } else { Err(Errno::EINVAL) }
}

/// All threads have the default policy.
pub fn sched_getscheduler(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_known(ctx, args.i32(0))?;
    Ok(libc::SCHED_OTHER as u64)
}

pub fn sched_getparam(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_known(ctx, args.i32(0))?;
    ctx.kernel.write(args.u64(1), &0i32)?;
    Ok(0)
}

pub fn sched_setscheduler(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_known(ctx, args.i32(0))?;
    let priority = ctx.kernel.read::<i32>(args.u64(2))?;
    match args.i32(1) {
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE if priority == 0 => Ok(0),
        libc::SCHED_FIFO | libc::SCHED_RR => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

pub fn sched_get_priority_max(_: &mut Ctx<'_>, args: Args) -> SysResult {
    priority_bound(args.i32(0), 99)
}

pub fn sched_get_priority_min(_: &mut Ctx<'_>, args: Args) -> SysResult {
    priority_bound(args.i32(0), 1)
}

fn priority_bound(policy: i32, real_time: u64) -> SysResult {
    match policy {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(real_time),
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// Nice values are all 0, which this call returns as 20.
pub fn getpriority(_: &mut Ctx<'_>, args: Args) -> SysResult {
    if (0..=2).contains(&args.i32(0)) { Ok(20) } else { Err(Errno::EINVAL) }
}

pub fn setpriority(_: &mut Ctx<'_>, args: Args) -> SysResult {
    match (args.i32(0), args.i32(2)) {
        (0..=2, nice) if nice >= 0 => Ok(0),
        (0..=2, _) => Err(Errno::EACCES),
        _ => Err(Errno::EINVAL),
    }
}

pub fn getcpu(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    ctx.kernel.write_optional(args.u64(0), &0u32)?;
    ctx.kernel.write_optional(args.u64(1), &0u32)?;
    Ok(0)
}

pub fn arch_prctl(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let value = args.u64(1);
    let bases = ctx.vcpu.bases().map_err(|_| Errno::EINVAL)?;
    match args.u64(0) {
        SET_FS | SET_GS if value >= layout::USER_END => Err(Errno::EPERM),
        SET_FS => ctx.vcpu.set_bases(Some(value), None).map(|()| 0).map_err(|_| Errno::EINVAL),
        SET_GS => ctx.vcpu.set_bases(None, Some(value)).map(|()| 0).map_err(|_| Errno::EINVAL),
        GET_FS => ctx.kernel.write(value, &bases.0).map(|()| 0),
        GET_GS => ctx.kernel.write(value, &bases.1).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

pub fn prctl(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    match args.i32(0) {
        libc::PR_SET_NAME => {
            let name = ctx.kernel.read_string(args.u64(1), 15).or_else(|errno| match errno {
                Errno::ENAMETOOLONG => {
                    let mut name = vec![0; 15];
                    ctx.kernel.read_bytes(args.u64(1), &mut name).map(|()| name)
                }
                errno => Err(errno),
            })?;
            ctx.thread.set_name(&name);
            Ok(0)
        }
        libc::PR_GET_NAME => ctx.kernel.write_bytes(args.u64(1), &ctx.thread.name).map(|()| 0),
        libc::PR_GET_DUMPABLE => Ok(1),
        libc::PR_SET_DUMPABLE if args.u64(1) <= 1 => Ok(0),
        libc::PR_GET_NO_NEW_PRIVS => Ok(1),
        libc::PR_SET_NO_NEW_PRIVS if args.u64(1) == 1 => Ok(0),
        libc::PR_GET_PDEATHSIG => ctx.kernel.write(args.u64(1), &0i32).map(|()| 0),
        libc::PR_SET_PDEATHSIG | libc::PR_SET_THP_DISABLE | libc::PR_SET_TIMERSLACK => Ok(0),
        libc::PR_GET_TIMERSLACK => Ok(50_000),
        libc::PR_CAPBSET_READ => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// There are no children.
pub fn wait4(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Err(Errno::ECHILD)
}

/// There are no children.
pub fn waitid(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Err(Errno::ECHILD)
}

impl Kernel {
    /// Adds a thread that is ready to run.
    pub fn add_thread(&self, thread: Thread, mask: u64) {
        self.sched.add(thread, mask, |need| self.serve(need));
    }
}
