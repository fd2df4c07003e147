//! Calls on paths: opening, making, removing, renaming, linking.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::kernel::Kernel;
use super::namespace::absolute;
use super::proc::{self, Special};

const AT_FDCWD: i32 = libc::AT_FDCWD;
/// Most symbolic links of `/proc` followed for one path.
const MOST_LINKS: u32 = 8;

impl Kernel {
    /// The absolute path that a directory descriptor and a path name. Empty paths are `ENOENT`.
    pub fn path_at(&self, directory: i32, path: &[u8]) -> Result<PathBuf, Errno> {
        if path.starts_with(b"/") {
            return Ok(absolute(Path::new("/"), path));
        }
        let base = match directory {
            AT_FDCWD => self.working_directory(),
            fd => {
                let file = self.file(fd)?;
                match &file.kind {
                    Kind::Directory(_) => file.path.clone(),
                    _ => return Err(Errno::ENOTDIR),
                }
            }
        };
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        Ok(absolute(&base, path))
    }

    /// The absolute path at a guest address, relative to the working directory.
    pub fn path_from(&self, address: u64) -> Result<PathBuf, Errno> {
        self.path_at(AT_FDCWD, &self.read_path(address)?)
    }

    /// The same, relative to a directory descriptor.
    fn path_from_at(&self, directory: i32, address: u64) -> Result<PathBuf, Errno> {
        self.path_at(directory, &self.read_path(address)?)
    }
}

pub fn open(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.path_from(args.u64(0))?;
    open_path(ctx, path, args.u32(1), args.u32(2), 0)
}

pub fn openat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.path_from_at(args.i32(0), args.u64(1))?;
    open_path(ctx, path, args.u32(2), args.u32(3), 0)
}

pub fn creat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.path_from(args.u64(0))?;
    open_path(ctx, path, (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32, args.u32(1), 0)
}

/// Only plain opens: rules of resolution are refused, as by an older kernel.
pub fn openat2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.size(3) < 24 {
        return Err(Errno::EINVAL);
    }
    let [flags, mode, resolve] = ctx.kernel.read::<[u64; 3]>(args.u64(2))?;
    if resolve != 0 || args.size(3) > 24 {
        return Err(Errno::ENOSYS);
    }
    let path = ctx.kernel.path_from_at(args.i32(0), args.u64(1))?;
    open_path(ctx, path, flags as u32, mode as u32, 0)
}

fn open_path(ctx: &mut Ctx<'_>, path: PathBuf, flags: u32, mode: u32, depth: u32) -> SysResult {
    /// Set by 64-bit programs that are built for large files; it means nothing.
    const LARGEFILE: u32 = 0o100_000;
    /// What `F_GETFL` shows: not the flags that only steer the opening.
    const STEERING: i32 =
        libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let kept = flags & !(STEERING as u32) | LARGEFILE;
    match proc::lookup(ctx.kernel, ctx.thread.tid, &path) {
        Some(Special::Link(_)) if flags & libc::O_NOFOLLOW as u32 != 0 => return Err(Errno::ELOOP),
        Some(Special::Link(_)) if depth >= MOST_LINKS => return Err(Errno::ELOOP),
        Some(Special::Link(target)) => return open_path(ctx, target, flags, mode, depth + 1),
        Some(Special::Descriptor(fd)) => {
            let file = proc::open_descriptor(ctx.kernel, fd, flags)?;
            return ctx.kernel.install(file, flags);
        }
        Some(special) => {
            let file = special.open(ctx.kernel, path, flags, kept)?;
            return ctx.kernel.install(file, flags);
        }
        None => {}
    }
    let host_flags = OFlags::from_bits_retain(flags & !(LARGEFILE | libc::O_ASYNC as u32));
    let mode = Mode::from_raw_mode(mode & 0o7777 & !ctx.kernel.umask());
    let creates = host_flags.contains(OFlags::CREATE) || host_flags.contains(OFlags::TMPFILE);
    // A FIFO is opened without waiting for its other end.
    let host_flags = host_flags | OFlags::NONBLOCK;
    let fd = ctx.kernel.namespace.open(&path, host_flags, if creates { mode } else { Mode::empty() })?;
    let changeable = !ctx.kernel.namespace.is_read_only(&path);
    let path = ctx.kernel.namespace.real_path(std::os::fd::AsFd::as_fd(&fd), &path);
    let file = ctx.kernel.new_host_file(fd, path, kept, changeable)?;
    ctx.kernel.install(file, flags)
}

pub fn access(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_access(ctx, AT_FDCWD, args.u64(0), args.i32(1), 0)
}

pub fn faccessat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_access(ctx, args.i32(0), args.u64(1), args.i32(2), 0)
}

pub fn faccessat2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_access(ctx, args.i32(0), args.u64(1), args.i32(2), args.i32(3))
}

fn check_access(ctx: &Ctx<'_>, directory: i32, address: u64, mode: i32, flags: i32) -> SysResult {
    const KNOWN: i32 = libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    if mode & !7 != 0 || flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let path = ctx.kernel.path_from_at(directory, address)?;
    match proc::lookup(ctx.kernel, ctx.thread.tid, &path) {
        Some(Special::Link(target)) => {
            ctx.kernel.namespace.find(&target, true)?;
            return Ok(0);
        }
        Some(special) => {
            let allowed = special.attributes()?.mode >> 6 & 7;
            return if mode as u32 & !allowed == 0 { Ok(0) } else { Err(Errno::EACCES) };
        }
        None => {}
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    let found = if mode & libc::W_OK != 0 {
        ctx.kernel.namespace.find_to_change(&path, follow)?
    } else {
        ctx.kernel.namespace.find(&path, follow)?
    };
    let access = rustix::fs::Access::from_bits_truncate(mode as u32);
    let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    rustix::fs::accessat(rustix::fs::CWD, magic, access, AtFlags::EACCESS)?;
    Ok(0)
}

pub fn readlink(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.path_from(args.u64(0))?;
    read_link(ctx, &path, args.u64(1), args.i64(2))
}

pub fn readlinkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.path_from_at(args.i32(0), args.u64(1))?;
    read_link(ctx, &path, args.u64(2), args.i64(3))
}

fn read_link(ctx: &Ctx<'_>, path: &Path, buffer: u64, size: i64) -> SysResult {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let target = match proc::lookup(ctx.kernel, ctx.thread.tid, path) {
        Some(Special::Link(target)) => target.into_os_string().into_encoded_bytes(),
        Some(Special::Descriptor(fd)) => ctx.kernel.file(fd)?.path.as_os_str().as_bytes().to_vec(),
        Some(_) => return Err(Errno::EINVAL),
        None => {
            let found = ctx.kernel.namespace.find(path, false)?;
            if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_symlink() {
                return Err(Errno::EINVAL);
            }
            rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes()
        }
    };
    let n = target.len().min(size as usize);
    ctx.kernel.write_bytes(buffer, &target[..n])?;
    Ok(n as u64)
}

pub fn mkdir(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_directory(ctx, AT_FDCWD, args.u64(0), args.u32(1))
}

pub fn mkdirat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_directory(ctx, args.i32(0), args.u64(1), args.u32(2))
}

fn make_directory(ctx: &Ctx<'_>, directory: i32, address: u64, mode: u32) -> SysResult {
    let path = ctx.kernel.path_from_at(directory, address)?;
    if path == Path::new("/") {
        return Err(Errno::EEXIST);
    }
    let entry = ctx.kernel.namespace.entry(&path)?;
    let mode = Mode::from_raw_mode(mode & 0o1777 & !ctx.kernel.umask());
    rustix::fs::mkdirat(&entry.parent, &entry.name, mode)?;
    Ok(0)
}

pub fn mknod(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_node(ctx, AT_FDCWD, args.u64(0), args.u32(1))
}

pub fn mknodat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_node(ctx, args.i32(0), args.u64(1), args.u32(2))
}

/// Files and FIFOs; devices need a privilege that no program has.
fn make_node(ctx: &Ctx<'_>, directory: i32, address: u64, mode: u32) -> SysResult {
    let kind = match mode & libc::S_IFMT {
        0 => FileType::RegularFile,
        kind if matches!(kind, libc::S_IFREG | libc::S_IFIFO) => FileType::from_raw_mode(kind),
        _ => return Err(Errno::EPERM),
    };
    let entry = ctx.kernel.namespace.entry(&ctx.kernel.path_from_at(directory, address)?)?;
    let mode = Mode::from_raw_mode(mode & 0o7777 & !ctx.kernel.umask());
    rustix::fs::mknodat(&entry.parent, &entry.name, kind, mode, 0)?;
    Ok(0)
}

pub fn rmdir(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    remove(ctx, AT_FDCWD, args.u64(0), libc::AT_REMOVEDIR)
}

pub fn unlink(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    remove(ctx, AT_FDCWD, args.u64(0), 0)
}

pub fn unlinkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    remove(ctx, args.i32(0), args.u64(1), args.i32(2))
}

fn remove(ctx: &Ctx<'_>, directory: i32, address: u64, flags: i32) -> SysResult {
    let flags = match flags {
        0 => AtFlags::empty(),
        libc::AT_REMOVEDIR => AtFlags::REMOVEDIR,
        _ => return Err(Errno::EINVAL),
    };
    let bytes = ctx.kernel.read_path(address)?;
    if flags == AtFlags::REMOVEDIR {
        // Linux looks at the last component as it is written.
        if bytes == b"." || bytes.ends_with(b"/.") {
            return Err(Errno::EINVAL);
        }
        if bytes == b".." || bytes.ends_with(b"/..") {
            return Err(Errno::ENOTEMPTY);
        }
    }
    let entry = ctx.kernel.namespace.entry(&ctx.kernel.path_at(directory, &bytes)?)?;
    rustix::fs::unlinkat(&entry.parent, &entry.name, flags)?;
    Ok(0)
}

pub fn rename(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    rename_paths(ctx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

pub fn renameat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    rename_paths(ctx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), 0)
}

pub fn renameat2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    rename_paths(ctx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4))
}

fn rename_paths(ctx: &Ctx<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> SysResult {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let old = ctx.kernel.namespace.entry(&ctx.kernel.path_from_at(from.0, from.1)?)?;
    let new = ctx.kernel.namespace.entry(&ctx.kernel.path_from_at(to.0, to.1)?)?;
    rustix::fs::renameat_with(&old.parent, &old.name, &new.parent, &new.name, flags)?;
    Ok(0)
}

pub fn link(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_link(ctx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

pub fn linkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_link(ctx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.i32(4))
}

fn make_link(ctx: &Ctx<'_>, from: (i32, u64), to: (i32, u64), flags: i32) -> SysResult {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let source = ctx.kernel.path_from_at(from.0, from.1)?;
    let found = ctx.kernel.namespace.find_to_change(&source, flags & libc::AT_SYMLINK_FOLLOW != 0)?;
    let entry = ctx.kernel.namespace.entry(&ctx.kernel.path_from_at(to.0, to.1)?)?;
    let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    rustix::fs::linkat(rustix::fs::CWD, magic, &entry.parent, &entry.name, AtFlags::SYMLINK_FOLLOW)?;
    Ok(0)
}

pub fn symlink(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_symlink(ctx, args.u64(0), AT_FDCWD, args.u64(1))
}

pub fn symlinkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_symlink(ctx, args.u64(0), args.i32(1), args.u64(2))
}

fn make_symlink(ctx: &Ctx<'_>, target: u64, directory: i32, address: u64) -> SysResult {
    let target = ctx.kernel.read_path(target)?;
    let entry = ctx.kernel.namespace.entry(&ctx.kernel.path_from_at(directory, address)?)?;
    rustix::fs::symlinkat(OsStr::from_bytes(&target), &entry.parent, &entry.name)?;
    Ok(0)
}
