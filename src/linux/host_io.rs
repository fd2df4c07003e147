//! Transfers between host descriptors and guest RAM. The module's `unsafe` is the passing of slices to the host's kernel.

use std::os::fd::{AsFd, AsRawFd};

use vm_memory::VolatileSlice;

use super::errno::Errno;

/// Most parts that the host takes in one call.
const PARTS: usize = 1024;

fn vectors(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let part =
        |s: &VolatileSlice<'_>| libc::iovec { iov_base: s.ptr_guard_mut().as_ptr().cast(), iov_len: s.len() };
    slices.iter().take(PARTS).map(part).collect()
}

/// Runs one vectored host call over the slices, `PARTS` at a time while each is filled whole.
fn all(
    slices: &[VolatileSlice<'_>],
    mut call: impl FnMut(*const libc::iovec, i32, u64) -> isize,
) -> Result<usize, Errno> {
    let mut done = 0;
    for chunk in slices.chunks(PARTS) {
        let vectors = vectors(chunk);
        let wanted: usize = chunk.iter().map(VolatileSlice::len).sum();
        let moved = loop {
            let moved = call(vectors.as_ptr(), vectors.len() as i32, done as u64);
            if moved >= 0 || Errno::last() != Errno::EINTR {
                break moved;
            }
        };
        match usize::try_from(moved) {
            Ok(moved) => done += moved,
            Err(_) if done > 0 => break,
            Err(_) => return Err(Errno::last()),
        }
        if (moved as usize) < wanted {
            break;
        }
    }
    Ok(done)
}

/// Reads at the descriptor's position.
pub fn read(fd: impl AsFd, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the vectors describe live guest RAM, which tolerates any content.
    all(into, |parts, count, _| unsafe { libc::readv(fd, parts, count) })
}

/// Writes at the descriptor's position.
pub fn write(fd: impl AsFd, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the vectors describe live guest RAM, which the kernel only reads.
    all(from, |parts, count, _| unsafe { libc::writev(fd, parts, count) })
}

/// Reads from `offset`.
pub fn pread(fd: impl AsFd, into: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as `read`.
    all(into, |parts, count, done| unsafe { libc::preadv(fd, parts, count, (offset + done) as i64) })
}

/// Writes at `offset`.
pub fn pwrite(fd: impl AsFd, from: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as `write`.
    all(from, |parts, count, done| unsafe { libc::pwritev(fd, parts, count, (offset + done) as i64) })
}

/// Reads directory entries in the form of `getdents64`, which is the guest's too.
pub fn getdents(fd: impl AsFd, into: &mut [u8]) -> Result<usize, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most the buffer's length.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, into.as_mut_ptr(), into.len()) };
    usize::try_from(got).map_err(|_| Errno::last())
}
