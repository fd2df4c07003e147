//! Directories: listing them, and the working directory.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind, Object, Ready};
use super::host_fd::HostFd;
use super::host_io;
use super::kernel::Kernel;
use super::listing::Listing;
use super::namespace::Namespace;
use super::stat::Attributes;
use super::tmpfs::OpenDirectory;
use vm_memory::VolatileSlice;

/// An open directory.
pub enum Directory {
    /// Of the host.
    Host(HostFd),
    /// Of `/proc` or `/dev`: what is in it, and the position from which it is listed next.
    Listed(Listing, AtomicU64),
    /// Of a tmpfs.
    Tmpfs(OpenDirectory),
}

/// Appends an entry as `getdents64` has it; false if there is no room.
fn append(bytes: &mut Vec<u8>, room: usize, ino: u64, next: u64, kind: u8, name: &[u8]) -> bool {
    let len = (19 + name.len() + 1).next_multiple_of(8);
    if bytes.len() + len > room {
        return false;
    }
    let start = bytes.len();
    bytes.extend_from_slice(&ino.to_le_bytes());
    bytes.extend_from_slice(&next.to_le_bytes());
    bytes.extend_from_slice(&(len as u16).to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(name);
    bytes.resize(start + len, 0);
    true
}

impl Directory {
    /// A host directory.
    pub fn new(fd: HostFd) -> Directory {
        Directory::Host(fd)
    }

    /// The path at which it can be found now; it was opened as `path`. `ENOENT` if it was removed.
    pub fn path(&self, namespace: &Namespace, path: &Path) -> Result<PathBuf, Errno> {
        match self {
            Directory::Host(fd) => namespace.path_of_directory(fd.as_fd(), path),
            Directory::Listed(..) => Ok(path.to_owned()),
            Directory::Tmpfs(open) => namespace.path_in_tmpfs(open.fs(), &open.path()?),
        }
    }

    fn entries(&self, kernel: &Kernel, room: usize) -> Result<Vec<u8>, Errno> {
        match self {
            Directory::Host(fd) => {
                let mut bytes = vec![0; room];
                let n = host_io::getdents(fd, &mut bytes)?;
                bytes.truncate(n);
                Ok(bytes)
            }
            Directory::Listed(listing, position) => {
                let mut at = position.load(Ordering::Relaxed);
                let (mut bytes, mut full) = (Vec::new(), false);
                listing.list(kernel, at, |next, name, kind| {
                    full = !append(&mut bytes, room, next, next, kind, name);
                    at = if full { at } else { next };
                    !full
                });
                position.store(at, Ordering::Relaxed);
                if bytes.is_empty() && full { Err(Errno::EINVAL) } else { Ok(bytes) }
            }
            Directory::Tmpfs(open) => {
                let (mut bytes, mut full) = (Vec::new(), false);
                open.list(|next, name, ino, kind| {
                    full = !append(&mut bytes, room, ino, next, kind, name);
                    !full
                })?;
                if bytes.is_empty() && full { Err(Errno::EINVAL) } else { Ok(bytes) }
            }
        }
    }
}

impl Object for Directory {
    fn read(&self, _: &Kernel, _: &File, _: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn read_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        match self {
            Directory::Host(fd) => {
                let position = match whence {
                    libc::SEEK_SET => {
                        rustix::fs::SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::EINVAL)?)
                    }
                    libc::SEEK_CUR => rustix::fs::SeekFrom::Current(offset),
                    libc::SEEK_END => rustix::fs::SeekFrom::End(offset),
                    _ => return Err(Errno::EINVAL),
                };
                Ok(rustix::fs::seek(fd, position)?)
            }
            Directory::Listed(_, position) if whence == libc::SEEK_SET && offset >= 0 => {
                position.store(offset as u64, Ordering::Relaxed);
                Ok(offset as u64)
            }
            Directory::Listed(..) => Err(Errno::EINVAL),
            Directory::Tmpfs(open) => open.seek(offset, whence),
        }
    }

    fn ready(&self, _: &Kernel) -> Ready {
        Ready::ALWAYS
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        match self {
            Directory::Host(fd) => Ok(Attributes::from_host(&rustix::fs::fstat(fd)?)),
            Directory::Listed(..) => Ok(Attributes::synthetic(libc::S_IFDIR | 0o555)),
            Directory::Tmpfs(open) => open.attributes(),
        }
    }
}

pub fn getdents64(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const MOST: usize = 64 << 10;
    let file = ctx.kernel.file(args.i32(0))?;
    file.check_readable()?;
    let Kind::Directory(directory) = &file.kind else { return Err(Errno::ENOTDIR) };
    let bytes = directory.entries(ctx.kernel, args.u32(2).min(MOST as u32) as usize)?;
    ctx.kernel.write_bytes(args.u64(1), &bytes)?;
    Ok(bytes.len() as u64)
}

pub fn getcwd(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.working_directory();
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    bytes.push(0);
    if bytes.len() > args.size(1) {
        return Err(Errno::ERANGE);
    }
    ctx.kernel.write_bytes(args.u64(0), &bytes)?;
    Ok(bytes.len() as u64)
}

pub fn chdir(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let place = ctx.walk(libc::AT_FDCWD, &ctx.kernel.read_path(args.u64(0))?, true)?;
    if !place.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    place.check_access(libc::X_OK as u32)?;
    ctx.kernel.set_working_directory(place.path);
    Ok(0)
}

pub fn fchdir(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let path = ctx.kernel.path_of_directory(&file)?;
    let place = ctx.walk(libc::AT_FDCWD, path.as_os_str().as_bytes(), true)?;
    place.check_access(libc::X_OK as u32)?;
    ctx.kernel.set_working_directory(place.path);
    Ok(0)
}
