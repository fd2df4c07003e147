//! What children of Hydra have in common: what each does between `fork` and `exec`, and what it is told of Hydra's environment.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;

use tokio::process::Command;

/// The time zone that Hydra was given, which all that it runs has, too.
pub fn time_zone() -> Option<OsString> {
    std::env::var_os("TZ")
}

/// Has the child find `descriptor` under the number `channel`, gain no privileges, and die when the thread that made it dies.
pub fn prepare(command: &mut Command, descriptor: RawFd, channel: RawFd) {
    // SAFETY: the closure runs in the forked child and calls only async-signal-safe functions, on numbers; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            let prepared = if descriptor == channel {
                // dup2 onto itself would leave close-on-exec set.
                nix::libc::fcntl(channel, nix::libc::F_SETFD, 0)
            } else {
                nix::libc::dup2(descriptor, channel)
            };
            if prepared < 0
                || nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, nix::libc::SIGKILL) != 0
                || nix::libc::prctl(nix::libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
