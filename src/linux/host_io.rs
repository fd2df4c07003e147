//! Transfers between host descriptors and guest RAM. The module's `unsafe` is the passing of slices to the host's kernel.

use std::cell::Cell;
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

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(true) };
}

/// From now on the calling thread waits for no stream: [`read_now`] and [`write_now`] fail with [`Errno::ELSEWHERE`] where others wait.
pub fn never_wait() {
    MAY_WAIT.set(false);
}

/// What came of a call that does not wait, or of one that may where the host does not know such calls for this descriptor.
fn or_waiting(
    moved: Result<usize, Errno>,
    waiting: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    match moved {
        Err(errno) if is_unsupported(errno) && MAY_WAIT.get() => waiting(),
        Err(errno) if is_unsupported(errno) => Err(Errno::ELSEWHERE),
        moved => moved,
    }
}

/// Whether a call that does not wait failed because the host knows none for this descriptor.
fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS)
}

/// Reads what a stream has; `EAGAIN` if that is nothing, also where it had something a moment ago: another reader may have been
/// faster. Streams of which the host cannot tell are waited for: terminals, and all before Linux 6.4.
pub fn read_now(fd: impl AsFd, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let raw = fd.as_fd().as_raw_fd();
    let moved = all(into, |parts, count, _| {
        // SAFETY: as `read`.
        unsafe { libc::preadv2(raw, parts, count, -1, libc::RWF_NOWAIT) }
    });
    or_waiting(moved, || read(fd, into))
}

/// Writes what a stream has room for; `EAGAIN` if it has none. For the rest as [`read_now`].
pub fn write_now(fd: impl AsFd, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let raw = fd.as_fd().as_raw_fd();
    let moved = all(from, |parts, count, _| {
        // SAFETY: as `write`.
        unsafe { libc::pwritev2(raw, parts, count, -1, libc::RWF_NOWAIT) }
    });
    or_waiting(moved, || write(fd, from))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_reader_or_writer_that_comes_too_late_does_not_wait() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut byte = [0u8];
        let part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        // SAFETY: the vector describes a byte of ours.
        let moved = unsafe { libc::preadv2(reader.as_raw_fd(), &part, 1, -1, libc::RWF_NOWAIT) };
        if moved < 0 && is_unsupported(Errno::last()) {
            return eprintln!("skipped: this Linux cannot tell whether a read of a pipe would wait");
        }
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut bytes = [0u8; 8192];
        let slices = [VolatileSlice::from(&mut bytes[..])];
        writer.write_all(b"one").expect("written");
        theirs.write_all(b"one").expect("written");
        for fd in [reader.as_fd(), ours.as_fd()] {
            assert_eq!(read_now(fd, &slices), Ok(3));
            assert_eq!(read_now(fd, &slices), Err(Errno::EAGAIN));
        }
        for fd in [writer.as_fd(), ours.as_fd()] {
            while write_now(fd, &slices).is_ok() {}
            assert_eq!(write_now(fd, &slices), Err(Errno::EAGAIN));
        }
        drop((writer, theirs));
        while read_now(&reader, &slices).expect("what was written, and the end") > 0 {}
    }

    #[test]
    fn a_thread_that_never_waits_does_not_read_from_a_terminal() {
        let Ok(terminal) = std::fs::File::options().read(true).write(true).open("/dev/ptmx") else {
            return eprintln!("skipped: no terminal can be made here");
        };
        let read = move || {
            never_wait();
            let mut byte = [0u8];
            read_now(&terminal, &[VolatileSlice::from(&mut byte[..])])
        };
        assert_eq!(std::thread::spawn(read).join().expect("no panic"), Err(Errno::ELSEWHERE));
    }
}
