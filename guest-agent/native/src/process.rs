//! The process's own descriptors. One of the crate's modules with `unsafe`: plain calls of libc.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

unsafe extern "C" {
    /// The C library's standard output, which the functions of this process print to.
    static mut stdout: *mut libc::FILE;
}

/// Takes the descriptor inherited from Hydra, and closes it to programs that a function starts.
pub fn adopt_descriptor(descriptor: i32) -> io::Result<File> {
    // SAFETY: fcntl with integer arguments touches no memory; a descriptor that is not open is its error.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, as fcntl just showed, and the command line made this process its owner.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// Makes C's standard output line-buffered: into a pipe it would keep up to 4 KiB of a function's lines.
/// To be called before anything was printed.
pub fn line_buffer_stdout() {
    // SAFETY: `stdout` is initialised by the C library and nothing was printed yet; a null buffer lets the
    // library allocate one.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, libc::BUFSIZ as usize) };
}

/// Writes out what a function printed without ending its line.
pub fn flush_stdout() {
    // SAFETY: `stdout` is valid for the life of the process, and fflush takes the stream's lock. A function
    // that closed it has broken its own process.
    unsafe { libc::fflush(stdout) };
}

/// Seeds the C library's generator, that of `rand` and of `random`, with the first digits of `entropy`, which is hexadecimal. OpenSSL and
/// the like are the function's own: see its hook.
pub fn seed_random(entropy: &str) {
    let digits = entropy.get(..8).unwrap_or(entropy);
    let seed = u32::from_str_radix(digits, 16).unwrap_or_default();
    // SAFETY: it takes the library's lock and a number.
    unsafe { libc::srand(seed) };
}

/// Gives back to the system what the C library keeps of freed memory.
pub fn trim_heap() {
    // SAFETY: it takes the library's locks and a number.
    unsafe { libc::malloc_trim(0) };
}

/// Ends the process at once with status 0.
pub fn exit_now() -> ! {
    // SAFETY: _exit runs no code of this process any more.
    unsafe { libc::_exit(0) }
}
