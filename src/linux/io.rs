//! Reading and writing.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::context::{Args, Ctx, OnSignal};
use super::directory::Directory;
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};
use super::kernel::Kernel;
use super::net::Direction;
use super::user::MAX_TRANSFER;
use crate::vmm::Access;

/// Makes attempts until one does not say `EAGAIN`, unless the file is non-blocking, or a socket that has waited for as long as it is to.
pub fn until_ready(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    direction: Direction,
    attempt: impl FnOnce(&mut Ctx<'_>) -> SysResult,
) -> SysResult {
    match attempt(ctx) {
        Err(Errno::EAGAIN) if !file.is_nonblocking() => Err(wait_until_ready(ctx, file, direction)),
        outcome => outcome,
    }
}

/// Waits for a file; `EAGAIN` when the time is over that a socket waits.
#[must_use]
pub fn wait_until_ready(ctx: &mut Ctx<'_>, file: &Arc<File>, direction: Direction) -> Errno {
    let deadline = file.timeout(ctx.kernel, direction).map(|timeout| ctx.deadline(timeout));
    if ctx.is_past(deadline) {
        return Errno::EAGAIN;
    }
    // With a timeout Linux does not begin the call again.
    let on_signal = if deadline.is_some() { OnSignal::Interrupt } else { OnSignal::Restart };
    ctx.wait_for(std::slice::from_ref(file), deadline, on_signal)
}

/// Bytes of what is read to that are brought in at a time. No packet is larger.
pub const WINDOW: usize = 1 << 20;

/// The next window of the parts, after `done` bytes.
pub fn window(parts: &[(u64, usize)], done: usize) -> Vec<(u64, usize)> {
    let (mut before, mut room) = (done, WINDOW);
    let cut = |(address, len): &(u64, usize)| {
        let skipped = before.min(*len);
        let taken = room.min(len - skipped);
        (before, room) = (before - skipped, room - taken);
        (address.wrapping_add(skipped as u64), taken)
    };
    parts.iter().map(cut).collect()
}

/// Fills the parts a window at a time, as long as `read` fills each: as on Linux, a program needs no memory for what it has room for and does not
/// get. `read` is told how much came before.
fn fill(
    kernel: &Kernel,
    parts: &[(u64, usize)],
    mut read: impl FnMut(&[VolatileSlice<'_>], usize) -> Result<usize, Errno>,
) -> SysResult {
    let total: usize = parts.iter().map(|(_, len)| len).sum();
    let mut done = 0;
    loop {
        let slices = kernel.user_vector(&window(parts, done), Access::WRITE);
        match slices.and_then(|slices| read(&slices, done)) {
            Ok(n) => {
                done += n;
                if n < WINDOW || done >= total {
                    return Ok(done as u64);
                }
            }
            Err(_) if done > 0 => return Ok(done as u64),
            Err(error) => return Err(error),
        }
    }
}

fn read_parts(ctx: &mut Ctx<'_>, fd: i32, parts: &[(u64, usize)]) -> SysResult {
    let file = ctx.kernel.file(fd)?;
    file.check_readable()?;
    until_ready(ctx, &file, Direction::Receive, |ctx| {
        fill(ctx.kernel, parts, |slices, _| {
            before_read(ctx.kernel, &file, None, slices);
            file.object().read(ctx.kernel, &file, slices)
        })
    })
}

fn write_parts(ctx: &mut Ctx<'_>, fd: i32, parts: &[(u64, usize)]) -> SysResult {
    let file = ctx.kernel.file(fd)?;
    file.check_writable()?;
    let kernel = ctx.kernel;
    let slices = kernel.user_vector(parts, Access::READ)?;
    let total: usize = slices.iter().map(VolatileSlice::len).sum();
    // Earlier attempts of this call may have written a part already.
    let rest = skip(&slices, ctx.thread.progress as usize)?;
    let wrote = file.object().write(kernel, &file, &rest);
    after_write(kernel, &file, None, &wrote);
    if wrote == Err(Errno::EPIPE) {
        kernel.send_own(ctx.thread.tid, libc::SIGPIPE);
    }
    match wrote {
        Ok(n) => ctx.thread.progress += n as u64,
        Err(Errno::EAGAIN) if !file.is_nonblocking() => {}
        Err(_) if ctx.thread.progress > 0 => return Ok(ctx.thread.progress),
        Err(error) => return Err(error),
    }
    let done = ctx.thread.progress;
    if done as usize >= total || file.is_nonblocking() || !waits_for_room(&file) {
        return Ok(done);
    }
    match wait_until_ready(ctx, &file, Direction::Send) {
        Errno::BLOCKED => Err(Errno::BLOCKED),
        _ if done > 0 => Ok(done),
        given_up => Err(given_up),
    }
}

/// Lets a read of a file see what was stored into shared mappings of it.
pub fn before_read(kernel: &Kernel, file: &File, offset: Option<u64>, into: &[VolatileSlice<'_>]) {
    if let Ok(fd) = file.mappable() {
        kernel.mm().before_read(fd, offset, into.iter().map(VolatileSlice::len).sum());
    }
}

/// Lets shared mappings of a file see what was written to it.
pub fn after_write(kernel: &Kernel, file: &File, offset: Option<u64>, wrote: &Result<usize, Errno>) {
    if let (Ok(fd), Ok(len)) = (file.mappable(), wrote) {
        let appended = file.flags() & libc::O_APPEND as u32 != 0;
        let end = || rustix::fs::fstat(fd).map_or(0, |stat| stat.st_size as u64);
        // Appended bytes are not where the program said.
        let offset = offset.map(|at| if appended { end().saturating_sub(*len as u64) } else { at });
        kernel.mm().after_write(fd, offset, *len);
    }
}

/// Whether a short write means that the reader is slow, rather than that the file is full.
fn waits_for_room(file: &File) -> bool {
    match &file.kind {
        Kind::Host(host) => host.is_stream(),
        Kind::Pipe(_) | Kind::Socket(_) | Kind::Unix(_) | Kind::Stream(_) => true,
        _ => false,
    }
}

/// The slices without their first `n` bytes.
fn skip<'a>(slices: &[VolatileSlice<'a>], n: usize) -> Result<Vec<VolatileSlice<'a>>, Errno> {
    let mut left = n;
    let mut rest = Vec::with_capacity(slices.len());
    for slice in slices {
        let cut = left.min(slice.len());
        left -= cut;
        if cut < slice.len() {
            rest.push(slice.offset(cut).map_err(|_| Errno::EFAULT)?);
        }
    }
    Ok(rest)
}

pub fn read(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    read_parts(ctx, args.i32(0), &[(args.u64(1), args.size(2).min(MAX_TRANSFER))])
}

pub fn write(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    write_parts(ctx, args.i32(0), &[(args.u64(1), args.size(2).min(MAX_TRANSFER))])
}

pub fn readv(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let parts = ctx.kernel.read_iovecs(args.u64(1), args.size(2))?;
    read_parts(ctx, args.i32(0), &parts)
}

pub fn writev(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let parts = ctx.kernel.read_iovecs(args.u64(1), args.size(2))?;
    write_parts(ctx, args.i32(0), &parts)
}

fn offset(args: Args, i: usize) -> Result<u64, Errno> {
    u64::try_from(args.i64(i)).map_err(|_| Errno::EINVAL)
}

fn read_at(ctx: &Ctx<'_>, fd: i32, parts: &[(u64, usize)], offset: u64) -> SysResult {
    let file = ctx.kernel.file(fd)?;
    file.check_readable()?;
    fill(ctx.kernel, parts, |slices, done| {
        let offset = offset.checked_add(done as u64).ok_or(Errno::EOVERFLOW)?;
        before_read(ctx.kernel, &file, Some(offset), slices);
        file.object().read_at(slices, offset)
    })
}

fn write_at(ctx: &Ctx<'_>, fd: i32, parts: &[(u64, usize)], offset: u64) -> SysResult {
    let file = ctx.kernel.file(fd)?;
    file.check_writable()?;
    let slices = ctx.kernel.user_vector(parts, Access::READ)?;
    let wrote = match &file.kind {
        // As on Linux, for all that the program says.
        Kind::Tmpfs(open) if file.flags() & libc::O_APPEND as u32 != 0 => open.append(&slices),
        _ => file.object().write_at(&slices, offset),
    };
    after_write(ctx.kernel, &file, Some(offset), &wrote);
    Ok(wrote? as u64)
}

pub fn pread(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    read_at(ctx, args.i32(0), &[(args.u64(1), args.size(2).min(MAX_TRANSFER))], offset(args, 3)?)
}

pub fn pwrite(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    write_at(ctx, args.i32(0), &[(args.u64(1), args.size(2).min(MAX_TRANSFER))], offset(args, 3)?)
}

pub fn preadv(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let parts = ctx.kernel.read_iovecs(args.u64(1), args.size(2))?;
    read_at(ctx, args.i32(0), &parts, offset(args, 3)?)
}

pub fn pwritev(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let parts = ctx.kernel.read_iovecs(args.u64(1), args.size(2))?;
    write_at(ctx, args.i32(0), &parts, offset(args, 3)?)
}

/// Flags only hint at how; offset -1 is the current position.
pub fn preadv2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_transfer_flags(args)?;
    if args.i64(3) == -1 { readv(ctx, args) } else { preadv(ctx, args) }
}

/// See [`preadv2`].
pub fn pwritev2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    check_transfer_flags(args)?;
    if args.i64(3) == -1 { writev(ctx, args) } else { pwritev(ctx, args) }
}

fn check_transfer_flags(args: Args) -> Result<(), Errno> {
    const HIGH_PRIORITY_OR_SYNC: i32 = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC;
    if args.i32(5) & !HIGH_PRIORITY_OR_SYNC != 0 { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

pub fn lseek(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    ctx.kernel.file(args.i32(0))?.object().seek(args.i64(1), args.i32(2))
}

pub fn fsync(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    flush(ctx, args, |fd| rustix::fs::fsync(fd))
}

pub fn fdatasync(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    flush(ctx, args, |fd| rustix::fs::fdatasync(fd))
}

/// What lies in guest RAM has no disk to reach.
fn flush(ctx: &Ctx<'_>, args: Args, host: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    match &file.kind {
        _ if file.flags() & libc::O_PATH as u32 != 0 => return Err(Errno::EBADF),
        Kind::Host(open) => host(open.fd())?,
        Kind::Directory(Directory::Host(fd)) => host(fd.as_fd())?,
        Kind::Tmpfs(_) | Kind::Directory(_) => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// What the program wrote is in the host's page cache already; when it reaches the disk is the host's affair.
pub fn sync(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(0)
}

/// See [`sync`].
pub fn syncfs(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    ctx.kernel.file(args.i32(0)).map(|_| 0)
}

pub fn ftruncate(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let len = offset(args, 1)?;
    let file = ctx.kernel.file(args.i32(0))?;
    match &file.kind {
        _ if file.flags() & libc::O_PATH as u32 != 0 => return Err(Errno::EBADF),
        _ if !file.access_mode().1 => return Err(Errno::EINVAL),
        Kind::Host(host) => {
            rustix::fs::ftruncate(host.fd(), len)?;
            ctx.kernel.mm().after_resize(host.fd(), len)?;
        }
        Kind::Tmpfs(open) => open.resize(len)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub fn fallocate(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    file.check_writable()?;
    match &file.kind {
        Kind::Host(host) => {
            let mode = rustix::fs::FallocateFlags::from_bits(args.u32(1)).ok_or(Errno::EOPNOTSUPP)?;
            rustix::fs::fallocate(host.fd(), mode, offset(args, 2)?, offset(args, 3)?)?;
        }
        Kind::Tmpfs(open) => open.allocate(args.i32(1), offset(args, 2)?, offset(args, 3)?)?,
        Kind::Pipe(_) => return Err(Errno::ESPIPE),
        _ => return Err(Errno::ENODEV),
    }
    Ok(0)
}

/// Advice is not needed.
pub fn fadvise(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    match (&file.kind, args.i32(3)) {
        (Kind::Pipe(_) | Kind::Socket(_) | Kind::Unix(_) | Kind::Stream(_), _) => Err(Errno::ESPIPE),
        (_, 0..=5) => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_to_the_end() {
        let parts = [(10, 5), (100, 0), (1000, 2 * WINDOW)];
        assert_eq!(window(&parts, 0), [(10, 5), (100, 0), (1000, WINDOW - 5)]);
        assert_eq!(window(&parts, 3), [(13, 2), (100, 0), (1000, WINDOW - 2)]);
        let second = 1000 + WINDOW as u64 - 5;
        assert_eq!(window(&parts, WINDOW), [(15, 0), (100, 0), (second, WINDOW)]);
        assert_eq!(window(&parts, 2 * WINDOW)[2], (second + WINDOW as u64, 5));
        assert_eq!(window(&parts, 3 * WINDOW)[2].1, 0);
    }
}
