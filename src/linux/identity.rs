//! Who and where the program is: numbers of process and user, the system's name and size, random bytes.

use serde::{Deserialize, Serialize};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::kernel::{PID, PPID};

/// The user and group as whom the program believes to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name of the machine.
    pub host_name: String,
}

impl Identity {
    /// The user of this process, whose rights the files are opened with.
    pub fn of_this_process() -> Identity {
        Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            host_name: "hydra".into(),
        }
    }
}

pub fn getpid(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(PID as u64)
}

pub fn getppid(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(PPID as u64)
}

pub fn getpgrp(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(PID as u64)
}

pub fn getpgid(_: &mut Ctx<'_>, args: Args) -> SysResult {
    own_process(args.i32(0))
}

pub fn getsid(_: &mut Ctx<'_>, args: Args) -> SysResult {
    own_process(args.i32(0))
}

fn own_process(pid: i32) -> SysResult {
    if matches!(pid, 0 | PID) { Ok(PID as u64) } else { Err(Errno::ESRCH) }
}

/// The process leads its group and session: neither call can change that.
pub fn setpgid(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Err(Errno::EPERM)
}

/// See [`setpgid`].
pub fn setsid(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Err(Errno::EPERM)
}

pub fn getuid(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(u64::from(ctx.kernel.identity.uid))
}

pub fn geteuid(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(u64::from(ctx.kernel.identity.uid))
}

pub fn getgid(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(u64::from(ctx.kernel.identity.gid))
}

pub fn getegid(ctx: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(u64::from(ctx.kernel.identity.gid))
}

pub fn getresuid(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    (0..3).try_for_each(|i| ctx.kernel.write(args.u64(i), &ctx.kernel.identity.uid))?;
    Ok(0)
}

pub fn getresgid(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    (0..3).try_for_each(|i| ctx.kernel.write(args.u64(i), &ctx.kernel.identity.gid))?;
    Ok(0)
}

pub fn getgroups(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    match args.i32(0) {
        0 => Ok(1),
        room if room < 0 => Err(Errno::EINVAL),
        _ => ctx.kernel.write(args.u64(1), &ctx.kernel.identity.gid).map(|()| 1),
    }
}

/// Release that the guest is told: features are probed by calls, versions only compared with minima.
pub const RELEASE: &str = "6.1.0-hydra";
/// Build that the guest is told.
pub const VERSION: &str = "#1 SMP Hydra";

pub fn uname(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const FIELD: usize = 65;
    let fields = ["Linux", &ctx.kernel.identity.host_name, RELEASE, VERSION, "x86_64", "(none)"];
    let mut bytes = [0u8; FIELD * 6];
    for (i, text) in fields.into_iter().enumerate() {
        let n = text.len().min(FIELD - 1);
        bytes[FIELD * i..FIELD * i + n].copy_from_slice(&text.as_bytes()[..n]);
    }
    ctx.kernel.write_bytes(args.u64(0), &bytes)?;
    Ok(0)
}

pub fn sysinfo(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (total, free) = ctx.kernel.mm().ram();
    let mut words = [0u64; 14];
    words[0] = ctx.kernel.clock.monotonic() / super::time::SECOND;
    words[4] = total;
    words[5] = free;
    // Processes (16 bits), then high memory, then the unit of the memory numbers.
    words[10] = 1;
    words[13] = 1;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    ctx.kernel.write_bytes(args.u64(0), &bytes)?;
    Ok(0)
}

/// No capabilities.
pub fn capget(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const VERSION_1: u32 = 0x1998_0330;
    const VERSION_2: u32 = 0x2007_1026;
    const VERSION_3: u32 = 0x2008_0522;
    let [version, pid] = ctx.kernel.read::<[u32; 2]>(args.u64(0))?;
    let words = match version {
        VERSION_1 => 3,
        VERSION_2 | VERSION_3 => 6,
        _ => {
            ctx.kernel.write(args.u64(0), &VERSION_3)?;
            return if args.u64(1) == 0 { Ok(0) } else { Err(Errno::EINVAL) };
        }
    };
    own_process(pid as i32)?;
    if args.u64(1) != 0 {
        ctx.kernel.write_bytes(args.u64(1), &vec![0; words * 4])?;
    }
    Ok(0)
}

pub fn getrandom(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const PART: usize = 4096;
    const KNOWN_FLAGS: u32 = 7;
    if args.u32(2) & !KNOWN_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let len = args.size(1).min(super::user::MAX_TRANSFER);
    let mut bytes = [0u8; PART];
    let mut done = 0;
    while done < len {
        let n = PART.min(len - done);
        let got = rustix::rand::getrandom(&mut bytes[..n], rustix::rand::GetRandomFlags::empty())?;
        match ctx.kernel.write_bytes(args.u64(0) + done as u64, &bytes[..got]) {
            Ok(()) => done += got,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done as u64)
}

pub fn personality(_: &mut Ctx<'_>, args: Args) -> SysResult {
    const QUERY: u32 = u32::MAX;
    if matches!(args.u32(0), 0 | QUERY) { Ok(0) } else { Err(Errno::EINVAL) }
}
