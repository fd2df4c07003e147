//! The memory that a function writes its result to: as large as the largest result allowed, but
//! committed page by page as it is written. One of the crate's modules with `unsafe`: a mapping and its bounds.

use std::io;
use std::ptr::NonNull;

/// Bytes of a previous result that are zeroed by hand; pages of a larger one go back to the kernel.
const ZEROED_BY_HAND: usize = 64 << 10;

/// A mapping of zeroes with a guard page behind it, so that a function that writes beyond the length it was told dies
/// rather than corrupts the agent.
pub struct ResultBuffer {
    start: NonNull<u8>,
    capacity: usize,
    mapped: usize,
}

impl ResultBuffer {
    /// A buffer for results of at most `max_result` bytes and their terminating NUL.
    pub fn new(max_result: usize) -> io::Result<Self> {
        // SAFETY: sysconf touches no memory.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let capacity = max_result.checked_add(1).ok_or_else(too_large)?;
        let usable = capacity.checked_next_multiple_of(page).ok_or_else(too_large)?;
        let mapped = usable.checked_add(page).ok_or_else(too_large)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(too_large)?;
        let buffer = ResultBuffer { start, capacity, mapped };
        // SAFETY: `usable` is less than the mapping just made, which nothing else knows yet.
        let protected =
            unsafe { libc::mprotect(start.as_ptr().cast(), usable, libc::PROT_READ | libc::PROT_WRITE) };
        if protected == -1 { Err(io::Error::last_os_error()) } else { Ok(buffer) }
    }

    /// Where the function writes, and how many bytes, terminating NUL included.
    pub fn for_function(&mut self) -> (*mut libc::c_char, libc::c_ulong) {
        (self.start.as_ptr().cast(), self.capacity as libc::c_ulong)
    }

    /// What the function wrote, up to its NUL, or `None` if it filled the buffer without one.
    pub fn written(&self) -> Option<&[u8]> {
        // SAFETY: `capacity` bytes from `start` are readable for as long as `self` lives, and zero or written.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) };
        // SAFETY: strnlen reads at most `capacity` of those bytes.
        let length = unsafe { libc::strnlen(self.start.as_ptr().cast(), self.capacity) };
        (length < self.capacity).then(|| &bytes[..length])
    }

    /// Makes the buffer empty: no function sees an earlier result again by leaving its own unterminated.
    pub fn clear(&mut self) {
        let used = self.written().map_or(self.capacity, <[u8]>::len);
        if used <= ZEROED_BY_HAND {
            // SAFETY: `used` bytes from `start` are writable, and `&mut self` makes this their only user.
            unsafe { self.start.as_ptr().write_bytes(0, used) };
        } else {
            // SAFETY: the range lies in the private anonymous mapping, whose pages read as zero afterwards;
            // the kernel rounds it up to whole pages, all of them before the guard page.
            unsafe { libc::madvise(self.start.as_ptr().cast(), used, libc::MADV_DONTNEED) };
        }
    }
}

impl Drop for ResultBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and is not used after it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut ResultBuffer, byte: u8, count: usize) {
        let (start, capacity) = buffer.for_function();
        assert!(count <= capacity as usize);
        // SAFETY: `count` is within what the buffer said.
        unsafe { start.cast::<u8>().write_bytes(byte, count) };
    }

    #[test]
    fn ends_at_the_nul() {
        let mut buffer = ResultBuffer::new(100).unwrap();
        assert_eq!(buffer.written(), Some(&b""[..]));
        fill(&mut buffer, b'x', 100);
        assert_eq!(buffer.written().map(<[u8]>::len), Some(100));
        fill(&mut buffer, b'x', 101);
        assert_eq!(buffer.written(), None);
    }

    #[test]
    fn forgets_small_and_large_results() {
        let mut buffer = ResultBuffer::new(1 << 20).unwrap();
        for count in [10, ZEROED_BY_HAND, ZEROED_BY_HAND + 1, (1 << 20) + 1] {
            fill(&mut buffer, b'x', count);
            buffer.clear();
            fill(&mut buffer, b'y', 1);
            assert_eq!(buffer.written(), Some(&b"y"[..]), "after {count} bytes");
            buffer.clear();
        }
    }

    #[test]
    fn a_large_buffer_costs_nothing_before_it_is_written() {
        let buffer = ResultBuffer::new(1 << 40).unwrap();
        assert_eq!(buffer.written(), Some(&b""[..]));
    }

    #[test]
    fn a_size_that_overflows_is_an_error() {
        assert!(ResultBuffer::new(usize::MAX).is_err());
        assert!(ResultBuffer::new(usize::MAX - 5000).is_err());
    }
}
