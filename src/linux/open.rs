//! Opening by path.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use super::context::{Args, Ctx};
use super::directory::Directory;
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};
use super::kernel::Kernel;
use super::namespace::{Entry, Found, Node, Place, open_again};
use super::proc::Special;
use super::tmpfs::{Content, Ino, OpenDirectory, OpenFile, Tmpfs, now};

/// Set by 64-bit programs that are built for large files; it means nothing.
const LARGEFILE: u32 = 0o100_000;
/// Bits of `O_TMPFILE` that are not `O_DIRECTORY`.
const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// All that Linux knows.
const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | UNNAMED
    | LARGEFILE as i32;

/// How a file is to be opened.
#[derive(Clone, Copy)]
struct How {
    flags: i32,
    /// Mode of a file that is made, less the mask.
    mode: u32,
}

impl How {
    fn has(self, flag: i32) -> bool {
        self.flags & flag == flag
    }

    /// Whether it reads, and writes.
    fn access(self) -> (bool, bool) {
        let writes = self.flags & libc::O_ACCMODE != libc::O_RDONLY;
        (self.flags & libc::O_ACCMODE != libc::O_WRONLY, writes)
    }

    /// Whether it may change what is on the disk.
    fn changes(self) -> bool {
        !self.has(libc::O_PATH) && (self.access().1 || self.flags & (libc::O_TRUNC | UNNAMED) != 0)
    }

    /// What `F_GETFL` shows: not the flags that only steer the opening.
    fn kept(self) -> u32 {
        const STEERING: i32 = libc::O_CREAT
            | libc::O_EXCL
            | libc::O_NOCTTY
            | libc::O_TRUNC
            | libc::O_CLOEXEC
            | libc::O_NOFOLLOW;
        if self.has(libc::O_PATH) {
            return (self.flags & (libc::O_PATH | libc::O_DIRECTORY)) as u32;
        }
        (self.flags & !STEERING) as u32 | LARGEFILE
    }

    /// As the host is asked. It never waits: a FIFO's other end may never come.
    fn host_flags(self) -> OFlags {
        let flags = self.flags & !(LARGEFILE as i32 | libc::O_ASYNC);
        OFlags::from_bits_retain(flags as u32) | OFlags::NONBLOCK
    }
}

pub fn open(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    open_at(ctx, libc::AT_FDCWD, args.u64(0), args.i32(1) & KNOWN, args.u32(2))
}

pub fn openat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    open_at(ctx, args.i32(0), args.u64(1), args.i32(2) & KNOWN, args.u32(3))
}

pub fn creat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    open_at(ctx, libc::AT_FDCWD, args.u64(0), libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, args.u32(1))
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
    if flags & !(KNOWN as u64) != 0 || mode & !0o7777 != 0 {
        return Err(Errno::EINVAL);
    }
    open_at(ctx, args.i32(0), args.u64(1), flags as i32, mode as u32)
}

fn open_at(ctx: &mut Ctx<'_>, directory: i32, address: u64, flags: i32, mode: u32) -> SysResult {
    let path = ctx.kernel.read_path(address)?;
    let how = How { flags, mode: mode & 0o7777 & !ctx.kernel.umask() };
    if how.has(libc::O_TMPFILE) && (!how.access().1 || how.has(libc::O_CREAT)) {
        return Err(Errno::EINVAL);
    }
    let file = open_path(ctx, directory, &path, how)?;
    ctx.kernel.install(file, flags as u32)
}

fn open_path(ctx: &Ctx<'_>, directory: i32, path: &[u8], how: How) -> Result<Arc<File>, Errno> {
    /// How often a file may be removed or made by others between the look and the act.
    const ATTEMPTS: u32 = 64;
    let creates = how.has(libc::O_CREAT) && !how.has(libc::O_PATH);
    let exclusive = creates && how.has(libc::O_EXCL);
    let follow = !how.has(libc::O_NOFOLLOW) && !exclusive;
    for _ in 0..ATTEMPTS {
        let place = if creates {
            match ctx.walk_or_missing(directory, path, follow)? {
                Found::Place(_) if exclusive => return Err(Errno::EEXIST),
                Found::Place(place) if place.is_directory() => return Err(Errno::EISDIR),
                Found::Place(place) => place,
                Found::Missing(entry) => match create(ctx, &entry, how) {
                    Err(Errno::EEXIST) if !exclusive => continue,
                    made => return made,
                },
            }
        } else {
            ctx.walk(directory, path, follow)?
        };
        match open_place(ctx, place, how) {
            Err(Errno::ENOENT) if creates => continue,
            opened => return opened,
        }
    }
    Err(Errno::EAGAIN)
}

/// Makes a file that does not exist; `EEXIST` if it does by now.
fn create(ctx: &Ctx<'_>, entry: &Entry, how: How) -> Result<Arc<File>, Errno> {
    if entry.wants_directory {
        return Err(Errno::EISDIR);
    }
    let path = entry.path();
    match &entry.parent.node {
        Node::Special(_) => Err(Errno::EACCES),
        _ if entry.parent.read_only => Err(Errno::EROFS),
        Node::Host(parent) => {
            let flags = how.host_flags() | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOCTTY;
            let mode = Mode::from_raw_mode(how.mode & 0o1777);
            let fd = rustix::fs::openat(&parent.fd, OsStr::from_bytes(&entry.name), flags, mode)?;
            ctx.kernel.new_host_file(fd, path, how.kept(), true)
        }
        Node::Tmpfs(fs, at) => {
            let by = (fs.caller, how.mode, now());
            let ino = fs.with(|tree| tree.create(*at, &entry.name, by, || fs.new_content()))?;
            // Whoever makes a file may use it as asked, whatever its mode says.
            let kind = Kind::Tmpfs(OpenFile::new(fs, ino)?);
            ctx.kernel.new_file_at(kind, path, how.kept())
        }
    }
}

fn open_place(ctx: &Ctx<'_>, place: Place, how: How) -> Result<Arc<File>, Errno> {
    let is_directory = place.is_directory();
    if how.has(libc::O_TMPFILE) {
        return if is_directory { unnamed(ctx, place, how) } else { Err(Errno::ENOTDIR) };
    }
    if how.has(libc::O_DIRECTORY) && !is_directory {
        return Err(Errno::ENOTDIR);
    }
    if place.is_link() && !how.has(libc::O_PATH) {
        return Err(Errno::ELOOP);
    }
    if is_directory && how.changes() {
        return Err(Errno::EISDIR);
    }
    match place.node {
        Node::Special(Special::Descriptor(fd)) => open_descriptor(ctx.kernel, fd, how),
        Node::Special(special) => special.open(ctx.kernel, place.path, how.flags as u32, how.kept()),
        Node::Tmpfs(ref fs, ino) => {
            if how.changes() && regular(fs, ino)? {
                place.check_changeable()?;
            }
            open_tmpfs(ctx, fs, ino, place.path, how)
        }
        Node::Host(node) => {
            let regular = node.kind() == FileType::RegularFile;
            if how.changes() && regular && place.read_only {
                return Err(Errno::EROFS);
            }
            let fd = if how.has(libc::O_PATH) { node.fd } else { node.open(how.host_flags())? };
            if how.has(libc::O_TRUNC) && !how.has(libc::O_PATH) && regular {
                ctx.kernel.mm().after_resize(fd.as_fd(), 0)?;
            }
            ctx.kernel.new_host_file(fd, place.path, how.kept(), !place.read_only)
        }
    }
}

/// Opens `/proc/self/fd/N`: the same file again for files with a path, the same description for others.
fn open_descriptor(kernel: &Kernel, fd: i32, how: How) -> Result<Arc<File>, Errno> {
    let file = kernel.file(fd)?;
    if how.has(libc::O_NOFOLLOW) {
        return Err(Errno::ELOOP);
    }
    let truncates = how.has(libc::O_TRUNC);
    let (reads, writes) = how.access();
    let writes = writes || truncates;
    let flags = how.flags as u32;
    match &file.kind {
        Kind::Host(host) if !host.is_stream() => {
            // The host's kernel checks against the rights of this process: a guest may gain none by opening a file twice.
            let (readable, writable) = file.access_mode();
            let held = file.flags() as i32 & libc::O_PATH != 0;
            if !host.is_changeable() && (writes && !writable || reads && !readable && !held) {
                return Err(Errno::EACCES);
            }
            let fd = open_again(host.fd(), OFlags::from_bits_retain(flags))?;
            if truncates && !how.has(libc::O_PATH) {
                kernel.mm().after_resize(fd.as_fd(), 0)?;
            }
            kernel.new_host_file(fd, file.path.clone(), flags, host.is_changeable())
        }
        Kind::Tmpfs(open) => {
            open.fs().with(|tree| tree.check_open(open.ino(), open.fs().caller, (reads, writes)))?;
            if writes && kernel.namespace.is_read_only(&file.path) {
                return Err(Errno::EROFS);
            }
            let again = OpenFile::new(open.fs(), open.ino())?;
            if truncates {
                again.resize(0)?;
            }
            kernel.new_file_at(Kind::Tmpfs(again), file.path.clone(), flags)
        }
        Kind::Host(_) | Kind::Pipe(_) => Ok(file),
        Kind::Directory(_) => Err(Errno::EISDIR),
        _ => Err(Errno::ENXIO),
    }
}

fn regular(fs: &Tmpfs, ino: Ino) -> Result<bool, Errno> {
    fs.with(|tree| Ok(matches!(tree.get(ino)?.content, Content::File(_))))
}

/// Opens a file or directory of a tmpfs.
fn open_tmpfs(ctx: &Ctx<'_>, fs: &Arc<Tmpfs>, ino: Ino, path: PathBuf, how: How) -> Result<Arc<File>, Errno> {
    let is_path = how.has(libc::O_PATH);
    let (is_directory, usable) = fs.with(|tree| {
        if !is_path {
            tree.check_open(ino, fs.caller, how.access())?;
        }
        let inode = tree.get(ino)?;
        if how.has(libc::O_NOATIME) {
            inode.check_owner(fs.caller)?;
        }
        let usable = matches!(inode.content, Content::File(_) | Content::Directory(_));
        Ok::<_, Errno>((inode.entries().is_ok(), usable))
    })?;
    let kind = if is_directory {
        Kind::Directory(Directory::Tmpfs(OpenDirectory::new(fs, ino)?))
    } else if usable || is_path {
        let file = OpenFile::new(fs, ino)?;
        if how.has(libc::O_TRUNC) && !is_path {
            file.resize(0)?;
        }
        Kind::Tmpfs(file)
    } else {
        return Err(Errno::ENXIO);
    };
    ctx.kernel.new_file_at(kind, path, how.kept())
}

/// `O_TMPFILE`: a file without a name in a directory's file system.
fn unnamed(ctx: &Ctx<'_>, place: Place, how: How) -> Result<Arc<File>, Errno> {
    place.check_changeable()?;
    match &place.node {
        Node::Host(node) => {
            let flags = how.host_flags() | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(how.mode & 0o1777);
            let fd = rustix::fs::openat(rustix::fs::CWD, node.magic(), flags, mode)?;
            ctx.kernel.new_host_file(fd, place.path, how.kept(), true)
        }
        Node::Tmpfs(fs, at) => {
            use super::tmpfs::{EXECUTE, WRITE};
            fs.with(|tree| tree.get(*at)?.check(fs.caller, WRITE | EXECUTE))?;
            let file = OpenFile::unnamed(fs, how.mode, !how.has(libc::O_EXCL))?;
            let path = place.path.join(format!("#{} (deleted)", file.ino()));
            ctx.kernel.new_file_at(Kind::Tmpfs(file), path, how.kept())
        }
        Node::Special(_) => Err(Errno::EOPNOTSUPP),
    }
}
