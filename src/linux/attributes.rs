//! Changing what is known of files: mode, owner, times, length.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timestamps};

use super::context::{Args, Ctx};
use super::directory::Directory;
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::namespace::Node;
use super::proc::Special;
use super::time::Timespec;
use super::tmpfs::{Ino, OpenFile, Tmpfs, now};

const NOW: i64 = libc::UTIME_NOW;
const OMIT: i64 = libc::UTIME_OMIT;

/// A file whose attributes are to be changed.
enum Target {
    /// Of the host.
    Host(OwnedFd),
    /// Of a tmpfs.
    Tmpfs(Arc<Tmpfs>, Ino),
}

/// A path by which the host's kernel reaches what `fd` stands for.
fn magic(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What a directory descriptor and a path name, for a change.
fn find(ctx: &Ctx<'_>, directory: i32, address: u64, follow: bool) -> Result<Target, Errno> {
    let place = ctx.walk(directory, &ctx.kernel.read_path(address)?, follow)?;
    match place.node {
        Node::Special(Special::Descriptor(fd)) => of_descriptor(ctx, fd),
        Node::Special(_) => Err(Errno::EPERM),
        _ if place.read_only => Err(Errno::EROFS),
        Node::Host(node) => Ok(Target::Host(node.fd)),
        Node::Tmpfs(fs, ino) => Ok(Target::Tmpfs(fs, ino)),
    }
}

/// What a descriptor stands for.
fn of_descriptor(ctx: &Ctx<'_>, fd: i32) -> Result<Target, Errno> {
    let file = ctx.kernel.file(fd)?;
    if file.flags() & libc::O_PATH as u32 != 0 {
        return Err(Errno::EBADF);
    }
    let read_only = || ctx.kernel.namespace.is_read_only(&file.path);
    match &file.kind {
        Kind::Host(host) if host.is_changeable() => {
            Ok(Target::Host(rustix::io::fcntl_dupfd_cloexec(host.fd(), 3)?))
        }
        Kind::Directory(Directory::Host(fd)) if !read_only() => {
            Ok(Target::Host(rustix::io::fcntl_dupfd_cloexec(fd, 3)?))
        }
        Kind::Tmpfs(open) => Ok(Target::Tmpfs(Arc::clone(open.fs()), open.ino())),
        Kind::Directory(Directory::Tmpfs(open)) if !read_only() => {
            Ok(Target::Tmpfs(Arc::clone(open.fs()), open.ino()))
        }
        Kind::Host(_) | Kind::Directory(_) => Err(Errno::EROFS),
        _ => Err(Errno::EPERM),
    }
}

/// On the host no file gets the set-user-ID or set-group-ID bit: it would be of use to others there.
fn change_mode(found: &Target, mode: u32) -> SysResult {
    match found {
        Target::Host(_) if mode & (libc::S_ISUID | libc::S_ISGID) != 0 => return Err(Errno::EPERM),
        Target::Host(fd) => {
            rustix::fs::chmodat(CWD, magic(fd), Mode::from_raw_mode(mode & 0o1777), AtFlags::empty())?;
        }
        Target::Tmpfs(fs, ino) => fs.set_mode(*ino, mode & 0o7777)?,
    }
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

/// On the host files keep their owner: the program has no privilege there.
fn change_owner(found: &Target, uid: u32, gid: u32) -> SysResult {
    let uid = (uid != u32::MAX).then_some(uid);
    let gid = (gid != u32::MAX).then_some(gid);
    match found {
        Target::Host(fd) => {
            let stat = rustix::fs::fstat(fd)?;
            if uid.is_some_and(|uid| uid != stat.st_uid) || gid.is_some_and(|gid| gid != stat.st_gid) {
                return Err(Errno::EPERM);
            }
        }
        Target::Tmpfs(fs, ino) => fs.set_owner(*ino, uid, gid)?,
    }
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
    let valid =
        |t: &Timespec| matches!(t.nanoseconds, NOW | OMIT) || (0..1_000_000_000).contains(&t.nanoseconds);
    if times.iter().all(valid) { Ok(times) } else { Err(Errno::EINVAL) }
}

fn change_times(found: &Target, [access, modification]: [Timespec; 2]) -> SysResult {
    let fd = match found {
        Target::Host(fd) => fd,
        Target::Tmpfs(fs, ino) => {
            let now = now();
            let time = |t: Timespec| match t.nanoseconds {
                OMIT => None,
                NOW => Some(now),
                nanoseconds => Some((t.seconds, nanoseconds)),
            };
            let to_now = access.nanoseconds == NOW && modification.nanoseconds == NOW;
            if access.nanoseconds != OMIT || modification.nanoseconds != OMIT {
                fs.set_times(*ino, [time(access), time(modification)], to_now)?;
            }
            return Ok(0);
        }
    };
    let host = |t: Timespec| rustix::time::Timespec { tv_sec: t.seconds, tv_nsec: t.nanoseconds as _ };
    let stamps = Timestamps { last_access: host(access), last_modification: host(modification) };
    let is_link = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_symlink();
    if is_link {
        // A link's own times can only be set by its descriptor.
        rustix::fs::utimensat(fd, "", &stamps, AtFlags::EMPTY_PATH)?;
    } else {
        rustix::fs::utimensat(CWD, magic(fd), &stamps, AtFlags::empty())?;
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
    let place = ctx.walk(libc::AT_FDCWD, &ctx.kernel.read_path(args.u64(0))?, true)?;
    if place.is_directory() {
        return Err(Errno::EISDIR);
    }
    place.check_access(libc::W_OK as u32)?;
    match &place.node {
        Node::Host(node) if node.kind() == rustix::fs::FileType::RegularFile => {
            let fd = node.open(OFlags::WRONLY)?;
            rustix::fs::ftruncate(&fd, len)?;
            ctx.kernel.mm().after_resize(fd.as_fd(), len)?;
        }
        Node::Tmpfs(fs, ino) => OpenFile::new(fs, *ino)?.resize(len)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub fn umask(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    Ok(u64::from(ctx.kernel.set_umask(args.u32(0) & 0o777)))
}
