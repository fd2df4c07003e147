//! Calls on names: making, removing, renaming, linking.

mod links;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};
use super::kernel::Kernel;
use super::namespace::{Entry, Found, Node, Place};
use super::proc;
use super::thread::Tid;
use super::tmpfs::{Content, now};
pub use links::{link, linkat, rename, renameat, renameat2, symlink, symlinkat};

const AT_FDCWD: i32 = libc::AT_FDCWD;

impl Kernel {
    /// The directory that relative paths start from: the working directory for `AT_FDCWD`, else that of a descriptor.
    fn base(&self, directory: i32, path: &[u8]) -> Result<PathBuf, Errno> {
        match directory {
            _ if path.starts_with(b"/") => Ok(PathBuf::from("/")),
            AT_FDCWD if path.is_empty() => Err(Errno::ENOENT),
            AT_FDCWD => Ok(self.working_directory()),
            fd => {
                let file = self.file(fd)?;
                if path.is_empty() { Err(Errno::ENOENT) } else { self.path_of_directory(&file) }
            }
        }
    }

    /// The path at which a directory that is open can be found now.
    pub fn path_of_directory(&self, file: &File) -> Result<PathBuf, Errno> {
        match &file.kind {
            Kind::Directory(directory) => directory.path(&self.namespace, &file.path),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What a directory descriptor and a path lead to. `tid`: the thread that asks, for `/proc/thread-self`.
    pub fn walk(&self, tid: Tid, directory: i32, path: &[u8], follow: bool) -> Result<Place, Errno> {
        let base = self.base(directory, path)?;
        self.namespace.walk(&|path| proc::lookup(self, tid, path), &base, path, follow)
    }

    /// The directory entry of a path that is to be made, removed or renamed; `special` is the error for `.`, `..` and the root.
    pub fn entry(&self, tid: Tid, directory: i32, path: &[u8], special: Errno) -> Result<Entry, Errno> {
        let base = self.base(directory, path)?;
        self.namespace.walk_to_entry(&|path| proc::lookup(self, tid, path), &base, path, special)
    }

    /// The entry of a name that is to be made: `EEXIST` if there is something, `EROFS` where nothing can be made.
    fn new_entry(&self, tid: Tid, directory: i32, path: &[u8]) -> Result<Entry, Errno> {
        let entry = self.entry(tid, directory, path, Errno::EEXIST)?;
        if entry.parent.read_only {
            let exists = self.walk(tid, AT_FDCWD, entry.path().as_os_str().as_bytes(), false).is_ok();
            return Err(if exists { Errno::EEXIST } else { Errno::EROFS });
        }
        self.check_not_mounted(&entry, Errno::EEXIST)?;
        Ok(entry)
    }

    /// `error` if something is mounted at the entry.
    fn check_not_mounted(&self, entry: &Entry, error: Errno) -> Result<(), Errno> {
        if self.namespace.is_mount_point(&entry.path()) { Err(error) } else { Ok(()) }
    }

    /// Makes a node of this type (`S_IFREG`, `S_IFIFO` or `S_IFSOCK`) where nothing is.
    pub fn make_node(
        &self,
        tid: Tid,
        directory: i32,
        path: &[u8],
        kind: u32,
        mode: u32,
    ) -> Result<Place, Errno> {
        let entry = self.new_entry(tid, directory, path)?;
        if entry.wants_directory {
            return Err(Errno::ENOENT);
        }
        let mode = mode & 0o7777 & !self.umask();
        match &entry.parent.node {
            Node::Host(parent) => {
                let (kind, mode) = (FileType::from_raw_mode(kind), Mode::from_raw_mode(mode & 0o1777));
                rustix::fs::mknodat(&parent.fd, OsStr::from_bytes(&entry.name), kind, mode, 0)?;
            }
            Node::Tmpfs(fs, at) => {
                let content = || match kind {
                    libc::S_IFREG => fs.new_content(),
                    libc::S_IFIFO => Content::Fifo,
                    _ => Content::Socket,
                };
                fs.with(|tree| tree.create(*at, &entry.name, (fs.caller, mode, now()), content))?;
            }
            Node::Special(_) => return Err(Errno::EPERM),
        }
        self.walk(tid, AT_FDCWD, entry.path().as_os_str().as_bytes(), false)
    }
}

impl Ctx<'_> {
    /// See [`Kernel::walk`].
    pub fn walk(&self, directory: i32, path: &[u8], follow: bool) -> Result<Place, Errno> {
        self.kernel.walk(self.thread.tid, directory, path, follow)
    }

    /// The same where the last name may be missing.
    pub fn walk_or_missing(&self, directory: i32, path: &[u8], follow: bool) -> Result<Found, Errno> {
        let (kernel, tid) = (self.kernel, self.thread.tid);
        let base = kernel.base(directory, path)?;
        kernel.namespace.walk_or_missing(&|path| proc::lookup(kernel, tid, path), &base, path, follow)
    }

    fn entry(&self, directory: i32, path: &[u8], special: Errno) -> Result<Entry, Errno> {
        self.kernel.entry(self.thread.tid, directory, path, special)
    }

    fn new_entry(&self, directory: i32, path: &[u8]) -> Result<Entry, Errno> {
        self.kernel.new_entry(self.thread.tid, directory, path)
    }
}

impl Entry {
    /// The name as the host is told it: a slash after it asks for a directory.
    pub fn host_name(&self) -> PathBuf {
        let mut name = self.name.clone();
        if self.wants_directory {
            name.push(b'/');
        }
        PathBuf::from(OsStr::from_bytes(&name))
    }
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
    let path = ctx.kernel.read_path(address)?;
    if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 && directory != AT_FDCWD {
        ctx.kernel.file(directory)?;
        return Ok(0);
    }
    let place = ctx.walk(directory, &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
    if !matches!(place.node, Node::Special(proc::Special::Descriptor(_))) {
        place.check_access(mode as u32)?;
    }
    Ok(0)
}

pub fn readlink(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    read_link(ctx, AT_FDCWD, args.u64(0), args.u64(1), args.i64(2))
}

pub fn readlinkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    read_link(ctx, args.i32(0), args.u64(1), args.u64(2), args.i64(3))
}

fn read_link(ctx: &Ctx<'_>, directory: i32, address: u64, buffer: u64, size: i64) -> SysResult {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = ctx.kernel.read_path(address)?;
    let target = if path.is_empty() && directory != AT_FDCWD {
        // A link that was opened by O_PATH.
        match &ctx.kernel.file(directory)?.kind {
            Kind::Host(host) => rustix::fs::readlinkat(host.fd(), "", Vec::new())?.into_bytes(),
            Kind::Tmpfs(file) => file.fs().with(|tree| match &tree.get(file.ino())?.content {
                Content::Link(target) => Ok(target.clone()),
                _ => Err(Errno::ENOENT),
            })?,
            _ => return Err(Errno::ENOENT),
        }
    } else {
        let place = ctx.walk(directory, &path, false)?;
        match place.node {
            Node::Special(proc::Special::Descriptor(fd)) => {
                ctx.kernel.file(fd)?.path.as_os_str().as_bytes().to_vec()
            }
            _ => place.target()?,
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
    let entry = ctx.new_entry(directory, &ctx.kernel.read_path(address)?)?;
    let mode = mode & 0o1777 & !ctx.kernel.umask();
    match &entry.parent.node {
        Node::Host(parent) => {
            rustix::fs::mkdirat(&parent.fd, OsStr::from_bytes(&entry.name), Mode::from_raw_mode(mode))?;
        }
        Node::Tmpfs(fs, at) => {
            fs.with(|tree| tree.make_directory(*at, &entry.name, (fs.caller, mode, now())))?;
        }
        Node::Special(_) => return Err(Errno::EPERM),
    }
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
        0 => libc::S_IFREG,
        kind if matches!(kind, libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK) => kind,
        libc::S_IFDIR | libc::S_IFLNK => return Err(Errno::EINVAL),
        _ => return Err(Errno::EPERM),
    };
    let path = ctx.kernel.read_path(address)?;
    ctx.kernel.make_node(ctx.thread.tid, directory, &path, kind, mode).map(|_| 0)
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
    let is_directory = match flags {
        0 => false,
        libc::AT_REMOVEDIR => true,
        _ => return Err(Errno::EINVAL),
    };
    let path = ctx.kernel.read_path(address)?;
    let last = path.split(|b| *b == b'/').rfind(|name| !name.is_empty());
    let special = match (is_directory, last) {
        (false, _) => Errno::EISDIR,
        (true, Some(b".")) => Errno::EINVAL,
        (true, Some(b"..")) => Errno::ENOTEMPTY,
        (true, _) => Errno::EBUSY,
    };
    let entry = ctx.entry(directory, &path, special)?;
    if entry.parent.read_only {
        let exists = ctx.walk(AT_FDCWD, entry.path().as_os_str().as_bytes(), false);
        return Err(exists.err().unwrap_or(Errno::EROFS));
    }
    ctx.kernel.check_not_mounted(&entry, Errno::EBUSY)?;
    match &entry.parent.node {
        Node::Host(parent) => {
            let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            rustix::fs::unlinkat(&parent.fd, entry.host_name(), flags)?;
        }
        Node::Tmpfs(fs, at) => fs.with(|tree| {
            let is_other = || {
                tree.lookup(*at, &entry.name, fs.caller)
                    .and_then(|ino| tree.get(ino))
                    .is_ok_and(|inode| inode.entries().is_err())
            };
            if entry.wants_directory && is_other() {
                return Err(Errno::ENOTDIR);
            }
            tree.unlink(*at, &entry.name, (fs.caller, now()), is_directory)
        })?,
        Node::Special(_) => return Err(Errno::EPERM),
    }
    Ok(0)
}
