//! Changing what is known of files: mode, owner, times, length.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timestamps, Uid};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::time::Timespec;

const NOW: i64 = libc::UTIME_NOW;
const OMIT: i64 = libc::UTIME_OMIT;

/// A path by which the host's kernel reaches what `fd` stands for.
fn magic(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What a directory descriptor and a path name, for a change.
fn find(ctx: &Ctx<'_>, directory: i32, address: u64, follow: bool) -> Result<OwnedFd, Errno> {
    let path = ctx.kernel.path_at(directory, &ctx.kernel.read_path(address)?)?;
    ctx.kernel.namespace.find_to_change(&path, follow)
}

/// What a descriptor stands for.
fn of_descriptor(ctx: &Ctx<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    let file = ctx.kernel.file(fd)?;
    match &file.kind {
        Kind::Host(host) if host.is_changeable() => Ok(rustix::io::fcntl_dupfd_cloexec(host.fd(), 3)?),
        Kind::Directory(directory) if !ctx.kernel.namespace.is_read_only(&file.path) => {
            Ok(rustix::io::fcntl_dupfd_cloexec(directory.fd().map_err(|_| Errno::EPERM)?, 3)?)
        }
        Kind::Host(_) | Kind::Directory(_) => Err(Errno::EROFS),
        _ => Err(Errno::EPERM),
    }
}

fn change_mode(found: &OwnedFd, mode: u32) -> SysResult {
    rustix::fs::chmodat(CWD, magic(found), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    Ok(0)
}

pub fn chmod(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    change_mode(&find(ctx, libc::AT_FDCWD, args.u64(0), true)?, args.u32(1))
}

pub fn fchmodat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    change_mode(&find(ctx, args.i32(0), args.u64(1), true)?, args.u32(2))
}

pub fn fchmod(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    change_mode(&of_descriptor(ctx, args.i32(0))?, args.u32(1))
}

fn change_owner(found: &OwnedFd, uid: u32, gid: u32) -> SysResult {
    let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
    let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
    rustix::fs::chownat(found, "", uid, gid, AtFlags::EMPTY_PATH)?;
    Ok(0)
}

pub fn chown(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    change_owner(&find(ctx, libc::AT_FDCWD, args.u64(0), true)?, args.u32(1), args.u32(2))
}

pub fn lchown(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    change_owner(&find(ctx, libc::AT_FDCWD, args.u64(0), false)?, args.u32(1), args.u32(2))
}

pub fn fchown(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    change_owner(&of_descriptor(ctx, args.i32(0))?, args.u32(1), args.u32(2))
}

pub fn fchownat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const KNOWN: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let flags = args.i32(4);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let found = if flags & libc::AT_EMPTY_PATH != 0 && ctx.kernel.read_path(args.u64(1))?.is_empty() {
        of_descriptor(ctx, args.i32(0))?
    } else {
        find(ctx, args.i32(0), args.u64(1), flags & libc::AT_SYMLINK_NOFOLLOW == 0)?
    };
    change_owner(&found, args.u32(2), args.u32(3))
}

/// The two times of `utimensat`; a null pointer means now.
fn times(ctx: &Ctx<'_>, pointer: u64) -> Result<[Timespec; 2], Errno> {
    let now = Timespec { seconds: 0, nanoseconds: NOW };
    if pointer == 0 {
        return Ok([now, now]);
    }
    let times = ctx.kernel.read::<[Timespec; 2]>(pointer)?;
    let valid = |t: &Timespec| matches!(t.nanoseconds, NOW | OMIT) || (0..1_000_000_000).contains(&t.nanoseconds);
    if times.iter().all(valid) { Ok(times) } else { Err(Errno::EINVAL) }
}

fn change_times(found: &OwnedFd, [access, modification]: [Timespec; 2]) -> SysResult {
    let host = |t: Timespec| rustix::time::Timespec { tv_sec: t.seconds, tv_nsec: t.nanoseconds as _ };
    let stamps = Timestamps { last_access: host(access), last_modification: host(modification) };
    let is_link = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode).is_symlink();
    if is_link {
        // A link's own times can only be set by its descriptor.
        rustix::fs::utimensat(found, "", &stamps, AtFlags::EMPTY_PATH)?;
    } else {
        rustix::fs::utimensat(CWD, magic(found), &stamps, AtFlags::empty())?;
    }
    Ok(0)
}

pub fn utimensat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let times = times(ctx, args.u64(2))?;
    if args.u64(1) == 0 {
        return change_times(&of_descriptor(ctx, args.i32(0))?, times);
    }
    let follow = args.i32(3) & libc::AT_SYMLINK_NOFOLLOW == 0;
    change_times(&find(ctx, args.i32(0), args.u64(1), follow)?, times)
}

/// Seconds and microseconds.
fn micro_times(ctx: &Ctx<'_>, pointer: u64) -> Result<[Timespec; 2], Errno> {
    if pointer == 0 {
        return times(ctx, 0);
    }
    let [a, a_micro, m, m_micro] = ctx.kernel.read::<[i64; 4]>(pointer)?;
    if !(0..1_000_000).contains(&a_micro) || !(0..1_000_000).contains(&m_micro) {
        return Err(Errno::EINVAL);
    }
    Ok([(a, a_micro), (m, m_micro)].map(|(seconds, micro)| Timespec { seconds, nanoseconds: micro * 1000 }))
}

pub fn utimes(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let times = micro_times(ctx, args.u64(1))?;
    change_times(&find(ctx, libc::AT_FDCWD, args.u64(0), true)?, times)
}

pub fn futimesat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let times = micro_times(ctx, args.u64(2))?;
    change_times(&find(ctx, args.i32(0), args.u64(1), true)?, times)
}

pub fn utime(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let times = match args.u64(1) {
        0 => times(ctx, 0)?,
        pointer => ctx.kernel.read::<[i64; 2]>(pointer)?.map(|seconds| Timespec { seconds, nanoseconds: 0 }),
    };
    change_times(&find(ctx, libc::AT_FDCWD, args.u64(0), true)?, times)
}

pub fn truncate(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let len = u64::try_from(args.i64(1)).map_err(|_| Errno::EINVAL)?;
    let path = ctx.kernel.path_from(args.u64(0))?;
    let opened = ctx.kernel.namespace.open(&path, rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK, Mode::empty())?;
    rustix::fs::ftruncate(&opened, len)?;
    Ok(0)
}

pub fn umask(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    Ok(u64::from(ctx.kernel.set_umask(args.u32(0) & 0o777)))
}
