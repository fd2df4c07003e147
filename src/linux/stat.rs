//! What is known of files: stat and its like.

use std::os::fd::AsFd;

use super::context::{Args, Ctx};
use super::directory::Directory;
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::namespace::Node;
use super::proc::Special;

/// What `stat` and `statx` show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)] // The names are those of `struct stat`.
pub struct Attributes {
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub special_device: u64,
    pub size: i64,
    pub block_size: i64,
    pub blocks: i64,
    /// Access, modification, change: seconds and nanoseconds.
    pub times: [(i64, i64); 3],
    /// Birth, where it is known.
    pub birth: Option<(i64, i64)>,
}

impl Attributes {
    /// From the host's.
    pub fn from_host(s: &rustix::fs::Stat) -> Attributes {
        Attributes {
            device: s.st_dev,
            inode: s.st_ino,
            links: s.st_nlink,
            mode: s.st_mode,
            uid: s.st_uid,
            gid: s.st_gid,
            special_device: s.st_rdev,
            size: s.st_size,
            block_size: s.st_blksize,
            blocks: s.st_blocks,
            times: [
                (s.st_atime, s.st_atime_nsec as i64),
                (s.st_mtime, s.st_mtime_nsec as i64),
                (s.st_ctime, s.st_ctime_nsec as i64),
            ],
            birth: None,
        }
    }

    /// Of an object that is not on a disk.
    pub fn synthetic(mode: u32) -> Attributes {
        Attributes { inode: 1, links: 1, mode, block_size: 4096, ..Attributes::default() }
    }

    /// `struct stat`.
    fn to_words(self) -> [u64; 18] {
        let [access, modification, change] = self.times;
        [
            self.device,
            self.inode,
            self.links,
            u64::from(self.mode) | u64::from(self.uid) << 32,
            u64::from(self.gid),
            self.special_device,
            self.size as u64,
            self.block_size as u64,
            self.blocks as u64,
            access.0 as u64,
            access.1 as u64,
            modification.0 as u64,
            modification.1 as u64,
            change.0 as u64,
            change.1 as u64,
            0,
            0,
            0,
        ]
    }

    /// `struct statx`.
    fn to_extended(self) -> [u8; 256] {
        const BASIC: u32 = 0x7ff;
        const BIRTH: u32 = 0x800;
        let mut bytes = [0; 256];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &(BASIC | if self.birth.is_some() { BIRTH } else { 0 }).to_le_bytes());
        put(4, &(self.block_size as u32).to_le_bytes());
        put(16, &(self.links as u32).to_le_bytes());
        put(20, &self.uid.to_le_bytes());
        put(24, &self.gid.to_le_bytes());
        put(28, &(self.mode as u16).to_le_bytes());
        put(32, &self.inode.to_le_bytes());
        put(40, &self.size.to_le_bytes());
        put(48, &self.blocks.to_le_bytes());
        let [access, modification, change] = self.times;
        for (at, time) in
            [(64, access), (80, self.birth.unwrap_or_default()), (96, change), (112, modification)]
        {
            put(at, &time.0.to_le_bytes());
            put(at + 8, &(time.1 as u32).to_le_bytes());
        }
        for (at, device) in [(128, self.special_device), (136, self.device)] {
            put(at, &rustix::fs::major(device).to_le_bytes());
            put(at + 4, &rustix::fs::minor(device).to_le_bytes());
        }
        bytes
    }
}

/// The attributes of what a directory descriptor and a path name.
fn at(ctx: &Ctx<'_>, directory: i32, path: &[u8], flags: i32) -> Result<Attributes, Errno> {
    const IGNORED: i32 = libc::AT_NO_AUTOMOUNT | libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | IGNORED) != 0 {
        return Err(Errno::EINVAL);
    }
    if path.is_empty() {
        if flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        if directory != libc::AT_FDCWD {
            return ctx.kernel.file(directory)?.object().attributes();
        }
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    let place = ctx.walk(directory, if path.is_empty() { b"." } else { path }, follow)?;
    match place.node {
        Node::Special(Special::Descriptor(fd)) if follow => ctx.kernel.file(fd)?.object().attributes(),
        _ => place.attributes(),
    }
}

pub fn stat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.read_path(args.u64(0))?;
    let found = at(ctx, libc::AT_FDCWD, &path, 0)?;
    ctx.kernel.write(args.u64(1), &found.to_words()).map(|()| 0)
}

pub fn lstat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.read_path(args.u64(0))?;
    let found = at(ctx, libc::AT_FDCWD, &path, libc::AT_SYMLINK_NOFOLLOW)?;
    ctx.kernel.write(args.u64(1), &found.to_words()).map(|()| 0)
}

pub fn fstat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let found = ctx.kernel.file(args.i32(0))?.object().attributes()?;
    ctx.kernel.write(args.u64(1), &found.to_words()).map(|()| 0)
}

pub fn newfstatat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let path = ctx.kernel.read_path(args.u64(1))?;
    let found = at(ctx, args.i32(0), &path, args.i32(3))?;
    ctx.kernel.write(args.u64(2), &found.to_words()).map(|()| 0)
}

pub fn statx(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const RESERVED: u32 = 0x8000_0000;
    if args.u32(3) & RESERVED != 0 {
        return Err(Errno::EINVAL);
    }
    let path = match args.u64(1) {
        0 if args.i32(2) & libc::AT_EMPTY_PATH != 0 => Vec::new(),
        pointer => ctx.kernel.read_path(pointer)?,
    };
    let found = at(ctx, args.i32(0), &path, args.i32(2))?;
    ctx.kernel.write(args.u64(4), &found.to_extended()).map(|()| 0)
}

pub fn statfs(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let place = ctx.walk(libc::AT_FDCWD, &ctx.kernel.read_path(args.u64(0))?, true)?;
    match place.node {
        Node::Special(_) => proc_statfs(ctx, args.u64(1)),
        Node::Host(node) => host_statfs(ctx, node.fd, args.u64(1)),
        Node::Tmpfs(fs, _) => ctx.kernel.write(args.u64(1), &fs.statistics()).map(|()| 0),
    }
}

pub fn fstatfs(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let fs = match &file.kind {
        Kind::Host(host) => return host_statfs(ctx, host.fd(), args.u64(1)),
        Kind::Directory(Directory::Host(fd)) => return host_statfs(ctx, fd, args.u64(1)),
        Kind::Directory(Directory::Tmpfs(open)) => open.fs(),
        Kind::Tmpfs(open) => open.fs(),
        _ => return proc_statfs(ctx, args.u64(1)),
    };
    ctx.kernel.write(args.u64(1), &fs.statistics()).map(|()| 0)
}

fn host_statfs(ctx: &Ctx<'_>, fd: impl AsFd, pointer: u64) -> SysResult {
    let s = rustix::fs::fstatvfs(&fd)?;
    let kind = rustix::fs::fstatfs(&fd)?.f_type as u64;
    let words = [
        kind,
        s.f_bsize,
        s.f_blocks,
        s.f_bfree,
        s.f_bavail,
        s.f_files,
        s.f_ffree,
        s.f_fsid,
        s.f_namemax,
        s.f_frsize,
        0,
        0,
        0,
        0,
        0,
    ];
    ctx.kernel.write(pointer, &words).map(|()| 0)
}

fn proc_statfs(ctx: &Ctx<'_>, pointer: u64) -> SysResult {
    const PROC: u64 = 0x9fa0;
    let mut words = [0u64; 15];
    (words[0], words[1], words[8], words[9]) = (PROC, 4096, 255, 4096);
    ctx.kernel.write(pointer, &words).map(|()| 0)
}
