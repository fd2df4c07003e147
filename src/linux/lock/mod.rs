//! File locks: `fcntl` and `flock`.
//!
//! On files in guest RAM they are what `table.rs` says. On the host's files they are the host's, so that they keep others out. Record locks
//! are the process's there, as on Linux: whichever descriptor they are taken through, they stand against nobody in the guest, and go when the
//! process closes any descriptor of the file. As many guests share a process of the host, those of each are held through an open file of ours.

mod table;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::context::{Args, Ctx, OnSignal};
use super::directory::Directory;
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};
use super::host_fd::HostFd;
use super::kernel::{Kernel, PID};
use super::namespace::reopen;
use super::shared_files::{Identity, identity};
use super::thread::{FileId, Wait};
use crate::sync::lock;
pub use table::{Key, Lock, PROCESS};
use table::{LAST, LockTable, Sort};

/// Most files of the host on which a program has record locks at a time.
const MOST_HOLDERS: usize = 1024;

/// The locks of a program.
#[derive(Default)]
pub struct Locks {
    table: Mutex<LockTable>,
    /// The open files of ours that hold the process's record locks on files of the host.
    holders: Mutex<HashMap<Identity, Arc<HostFd>>>,
}

impl Locks {
    /// What a checkpoint keeps: the locks on files in guest RAM.
    pub fn save(&self) -> Vec<(Key, Lock)> {
        lock(&self.table).save()
    }

    /// Those of a restored program.
    pub fn restore(&self, saved: Vec<(Key, Lock)>) {
        *lock(&self.table) = LockTable::restore(saved);
    }

    /// The open file that holds the process's record locks on a file of the host, which is made where there is none if `make`.
    fn holder(
        &self,
        kernel: &Kernel,
        file: &File,
        fd: BorrowedFd<'_>,
        make: bool,
    ) -> Result<Option<Arc<HostFd>>, Errno> {
        let key = identity(&rustix::fs::fstat(fd)?);
        let known = lock(&self.holders).get(&key).cloned();
        if known.is_some() || !make {
            return Ok(known);
        }
        let own = match file.access_mode() {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        // For locks of both kinds, whichever comes first. A file that is lent has none but those of its descriptor.
        let all =
            if matches!(&file.kind, Kind::Host(host) if host.is_changeable()) { OFlags::RDWR } else { own };
        let room = kernel.host_fds.room().map_err(|_| Errno::ENOLCK)?;
        let opened = Arc::new(room.hold(reopen(fd, all).or_else(|_| reopen(fd, own))?));
        let mut holders = lock(&self.holders);
        if holders.len() >= MOST_HOLDERS && !holders.contains_key(&key) {
            return Err(Errno::ENOLCK);
        }
        Ok(Some(Arc::clone(holders.entry(key).or_insert(opened))))
    }
}

/// Where the locks of a file are kept.
enum Keeper<'a> {
    /// In the table, by device and inode.
    Table(u64, u64),
    /// By the host.
    Host(BorrowedFd<'a>),
    /// Nowhere: no two open files are the same.
    Nobody,
}

fn keeper(file: &File) -> Keeper<'_> {
    match &file.kind {
        Kind::Tmpfs(open) => Keeper::Table(open.fs().device, open.ino()),
        Kind::Directory(Directory::Tmpfs(open)) => Keeper::Table(open.fs().device, open.ino()),
        Kind::Host(host) => Keeper::Host(host.fd()),
        Kind::Directory(Directory::Host(fd)) => Keeper::Host(fd.as_fd()),
        _ => Keeper::Nobody,
    }
}

impl Kernel {
    /// Gives back what the owner has locked of a file: an open file that goes, or [`PROCESS`], which closes a descriptor of it.
    pub fn release_locks(&self, file: &File, owner: FileId) {
        match keeper(file) {
            // Such a descriptor has nothing to do with locks.
            _ if file.flags() & libc::O_PATH as u32 != 0 => {}
            Keeper::Table(device, inode) => {
                let all = Lock { owner, first: 0, last: LAST, exclusive: true };
                let mut table = lock(&self.locks.table);
                let sorts = [Sort::Record, Sort::Whole];
                let had = sorts.map(|sort| table.release((device, inode, sort), &all));
                drop(table);
                if had.contains(&true) {
                    self.wake_file(owner);
                }
            }
            Keeper::Host(fd) if owner == PROCESS => {
                let mut holders = lock(&self.locks.holders);
                let stat = if holders.is_empty() { None } else { rustix::fs::fstat(fd).ok() };
                let gone = stat.and_then(|stat| holders.remove(&identity(&stat)));
                drop(holders);
                drop(gone);
            }
            // With the host's descriptor go its locks.
            Keeper::Host(_) | Keeper::Nobody => {}
        }
    }
}

/// `struct flock`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RecordLock {
    kind: i16,
    whence: i16,
    padding: i32,
    start: i64,
    len: i64,
    pid: i32,
    padding2: i32,
}

const SHARED: i32 = libc::F_RDLCK;
const EXCLUSIVE: i32 = libc::F_WRLCK;
const NONE: i32 = libc::F_UNLCK;

impl RecordLock {
    /// First and last byte in `file`.
    fn bytes(&self, file: &File) -> Result<(u64, u64), Errno> {
        let base = match i32::from(self.whence) {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => file.object().seek(0, libc::SEEK_CUR).unwrap_or(0) as i64,
            libc::SEEK_END => file.object().attributes()?.size,
            _ => return Err(Errno::EINVAL),
        };
        let start = base.checked_add(self.start).ok_or(Errno::EOVERFLOW)?;
        let (first, last) = match self.len {
            0 => (start, LAST as i64),
            len @ 1.. => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
            len => (start.checked_add(len).ok_or(Errno::EINVAL)?, start.wrapping_sub(1)),
        };
        if start < 0 || first < 0 {
            return Err(Errno::EINVAL);
        }
        Ok((first as u64, last as u64))
    }

    /// What `F_GETLK` shows of a lock in the way.
    fn of(self, found: Found) -> RecordLock {
        let Found { kind, first, last, pid } = found;
        let len = length(first, last);
        RecordLock { kind: kind as i16, whence: libc::SEEK_SET as i16, start: first as i64, len, pid, ..self }
    }
}

/// How long a lock is, as `struct flock` says it: 0 for one to the end.
fn length(first: u64, last: u64) -> i64 {
    if last == LAST { 0 } else { (last - first + 1) as i64 }
}

/// What is asked for.
struct Request {
    /// Only to know what is in the way.
    asks: bool,
    waits: bool,
    /// Read, write, or none.
    kind: i32,
    lock: Lock,
}

/// A lock in the way.
struct Found {
    kind: i32,
    first: u64,
    last: u64,
    /// Whose: a process's, or -1 for an open file's.
    pid: i32,
}

/// `F_GETLK`, `F_SETLK` and their like.
pub fn record_lock(ctx: &mut Ctx<'_>, fd: i32, file: &File, command: i32, pointer: u64) -> SysResult {
    let asked = ctx.kernel.read::<RecordLock>(pointer)?;
    if file.flags() & libc::O_PATH as u32 != 0 {
        return Err(Errno::EBADF);
    }
    let of_file = matches!(command, libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW);
    let asks = matches!(command, libc::F_GETLK | libc::F_OFD_GETLK);
    let waits = matches!(command, libc::F_SETLKW | libc::F_OFD_SETLKW);
    let (first, last) = asked.bytes(file)?;
    let kind = i32::from(asked.kind);
    match kind {
        _ if of_file && asked.pid != 0 => return Err(Errno::EINVAL),
        SHARED | EXCLUSIVE if asks => {}
        SHARED => file.check_readable()?,
        EXCLUSIVE => file.check_writable()?,
        NONE if !asks => {}
        _ => return Err(Errno::EINVAL),
    }
    let owner = if of_file { file.id } else { PROCESS };
    let request =
        Request { asks, waits, kind, lock: Lock { owner, first, last, exclusive: kind == EXCLUSIVE } };
    let found = match keeper(file) {
        Keeper::Table(device, inode) => in_table(ctx, (device, inode, Sort::Record), &request)?,
        Keeper::Host(host) => on_host(ctx.kernel, file, host, &request)?,
        Keeper::Nobody => None,
    };
    if asks {
        let none = RecordLock { kind: NONE as i16, ..asked };
        ctx.kernel.write(pointer, &found.map_or(none, |found| asked.of(found)))?;
    } else if !of_file && !ctx.kernel.file(fd).is_ok_and(|now| now.id == file.id) {
        // Another thread has closed the descriptor meanwhile, and given back what the process had till then.
        ctx.kernel.release_locks(file, PROCESS);
        return Err(Errno::EBADF);
    }
    Ok(0)
}

fn in_table(ctx: &mut Ctx<'_>, key: Key, request: &Request) -> Result<Option<Found>, Errno> {
    let Request { asks, waits, kind, lock: wanted } = request;
    if *asks {
        let obstacle = lock(&ctx.kernel.locks.table).obstacle(key, wanted);
        return Ok(obstacle.map(|held| Found {
            kind: if held.exclusive { EXCLUSIVE } else { SHARED },
            first: held.first,
            last: held.last,
            pid: if held.owner == PROCESS { PID } else { -1 },
        }));
    }
    if *kind == NONE {
        give_back(ctx.kernel, key, wanted)?;
    } else {
        take(ctx, key, *wanted, *waits)?;
    }
    Ok(None)
}

/// Takes a lock of the table, or waits for the owner of what is in the way.
fn take(ctx: &mut Ctx<'_>, key: Key, wanted: Lock, waits: bool) -> Result<(), Errno> {
    let obstacle = lock(&ctx.kernel.locks.table).take(key, wanted)?;
    match obstacle {
        None => {
            // It may have taken the place of one that kept others out.
            ctx.kernel.wake_file(wanted.owner);
            Ok(())
        }
        Some(obstacle) if waits => {
            Err(ctx.block(Wait { files: vec![obstacle.owner], ..Wait::default() }, OnSignal::Restart))
        }
        Some(_) => Err(Errno::EAGAIN),
    }
}

/// Gives a lock of the table back.
fn give_back(kernel: &Kernel, key: Key, gone: &Lock) -> Result<(), Errno> {
    let had = lock(&kernel.locks.table).give_back(key, gone)?;
    if had {
        kernel.wake_file(gone.owner);
    }
    Ok(())
}

/// The host's locks are those of open files, not of its process. One that is held elsewhere is not waited for.
fn on_host(
    kernel: &Kernel,
    file: &File,
    fd: BorrowedFd<'_>,
    request: &Request,
) -> Result<Option<Found>, Errno> {
    let Request { asks, kind, lock: Lock { owner, first, last, .. }, .. } = *request;
    let is_stream = matches!(&file.kind, Kind::Host(host) if host.is_stream());
    let holder = match owner {
        PROCESS if !is_stream => match kernel.locks.holder(kernel, file, fd, kind != NONE) {
            // The file's own does for a question, but for what that file holds itself.
            Err(_) if asks => None,
            holder => holder?,
        },
        _ => None,
    };
    let fd = match &holder {
        Some(holder) => holder.as_fd(),
        // Of the process's there are none. Those of the open file are not meant.
        None if owner == PROCESS && !is_stream && kind == NONE => return Ok(None),
        None => fd,
    };
    let mut raw = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: first as i64,
        l_len: length(first, last),
        l_pid: 0,
    };
    let command = if asks { libc::F_OFD_GETLK } else { libc::F_OFD_SETLK };
    // SAFETY: the structure is valid and lives over the call.
    if unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut raw) } != 0 {
        return Err(Errno::last());
    }
    let first = raw.l_start as u64;
    let last = if raw.l_len == 0 { LAST } else { first + raw.l_len as u64 - 1 };
    // A process of the host is none that the program could know.
    let found = Found { kind: i32::from(raw.l_type), first, last, pid: raw.l_pid.min(0) };
    Ok((asks && found.kind != NONE).then_some(found))
}

pub fn flock(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let operation = args.i32(1);
    let waits = operation & libc::LOCK_NB == 0;
    let wanted = operation & !libc::LOCK_NB;
    if !matches!(wanted, libc::LOCK_SH | libc::LOCK_EX | libc::LOCK_UN) {
        return Err(Errno::EINVAL);
    }
    if file.flags() & libc::O_PATH as u32 != 0 {
        return Err(Errno::EBADF);
    }
    match keeper(&file) {
        Keeper::Table(device, inode) => {
            let key = (device, inode, Sort::Whole);
            let whole = Lock { owner: file.id, first: 0, last: LAST, exclusive: wanted == libc::LOCK_EX };
            let has = lock(&ctx.kernel.locks.table).has(key, &whole);
            if wanted == libc::LOCK_UN || !has {
                // A lock of the other kind is given up before this one is taken.
                give_back(ctx.kernel, key, &whole)?;
            }
            if wanted != libc::LOCK_UN && !has {
                take(ctx, key, whole, waits)?;
            }
            Ok(0)
        }
        // SAFETY: plain system call on a descriptor that we own. It never waits.
        Keeper::Host(fd) => match unsafe { libc::flock(fd.as_raw_fd(), wanted | libc::LOCK_NB) } {
            0 => Ok(0),
            _ => Err(Errno::last()),
        },
        Keeper::Nobody => Ok(0),
    }
}
