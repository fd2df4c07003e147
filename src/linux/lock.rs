//! File locks. Within the guest there is one process, so record locks never conflict there; they are taken on the host's file so that they
//! keep others out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use std::os::fd::AsRawFd;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};

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

/// `F_GETLK`, `F_SETLK` and their like.
pub fn record_lock(ctx: &Ctx<'_>, file: &File, command: i32, pointer: u64) -> SysResult {
    let lock = ctx.kernel.read::<RecordLock>(pointer)?;
    if !(0..=2).contains(&lock.kind) || !(0..=2).contains(&lock.whence) {
        return Err(Errno::EINVAL);
    }
    let Kind::Host(host) = &file.kind else { return Err(Errno::EBADF) };
    let mut raw = libc::flock {
        l_type: lock.kind,
        l_whence: lock.whence,
        l_start: lock.start,
        l_len: lock.len,
        l_pid: 0,
    };
    // Locks of the open file, not of this host process, which many guests share. A lock that is held elsewhere is not waited for.
    let host_command = match command {
        libc::F_GETLK | libc::F_OFD_GETLK => libc::F_OFD_GETLK,
        _ => libc::F_OFD_SETLK,
    };
    // SAFETY: the structure is valid and lives over the call.
    if unsafe { libc::fcntl(host.fd().as_raw_fd(), host_command, &raw mut raw) } != 0 {
        return Err(Errno::last());
    }
    if host_command == libc::F_OFD_GETLK {
        let found =
            RecordLock { kind: raw.l_type, whence: raw.l_whence, start: raw.l_start, len: raw.l_len, ..lock };
        ctx.kernel.write(pointer, &found)?;
    }
    Ok(0)
}

pub fn flock(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let operation = args.i32(1);
    if !matches!(operation & !libc::LOCK_NB, libc::LOCK_SH | libc::LOCK_EX | libc::LOCK_UN) {
        return Err(Errno::EINVAL);
    }
    let Kind::Host(host) = &file.kind else { return Ok(0) };
    // SAFETY: plain system call on a descriptor that we own. It never waits.
    match unsafe { libc::flock(host.fd().as_raw_fd(), operation | libc::LOCK_NB) } {
        0 => Ok(0),
        _ => Err(Errno::last()),
    }
}
