//! A thread that buries jails: waits for killed inits and removes what they leave, so that a drop never blocks.

use super::cgroup::Cgroup;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

/// What is left of a jail whose init was killed or has ended.
pub struct Remains {
    /// The init, a child of this process.
    pub init: OwnedFd,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its temporary directory on the host.
    pub tmp: Option<TempDir>,
}

/// Hands `remains` to the reaper.
pub fn bury(remains: Remains) {
    static REAPER: OnceLock<Option<Sender<Remains>>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        let (sender, receiver) = channel::<Remains>();
        let thread = std::thread::Builder::new().name("jail-reaper".into());
        thread.spawn(move || receiver.into_iter().for_each(lay_down)).ok().map(|_| sender)
    });
    match reaper {
        // The receiver lives as long as the process.
        Some(sender) => drop(sender.send(remains)),
        None => lay_down(remains),
    }
}

fn lay_down(remains: Remains) {
    if let Err(error) = reap(&remains.init)
        && error.raw_os_error() != Some(libc::ECHILD)
    {
        tracing::warn!(%error, "cannot wait for the init of a jail");
    }
    if let Some(cgroup) = remains.cgroup {
        // The last of its processes may still be on their way out, where there is no PID namespace.
        let gone = (0..50).any(|_| {
            let removed = cgroup.remove().is_ok();
            if !removed {
                std::thread::sleep(Duration::from_millis(10));
            }
            removed
        });
        if !gone {
            tracing::warn!(cgroup = %cgroup.path().display(), "cannot remove the cgroup of a jail");
        }
    }
    if let Some(Err(error)) = remains.tmp.map(TempDir::close) {
        tracing::warn!(%error, "cannot remove the temporary directory of a jail");
    }
}

/// Waits for the process `init`, a child of this process, and returns its wait status. The process is gone then.
pub fn reap(init: &OwnedFd) -> io::Result<i32> {
    loop {
        // SAFETY: `siginfo_t` is plain data, for which all zeroes is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = init.as_raw_fd() as libc::id_t;
        // SAFETY: `info` lives across the call.
        if unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: waitid filled in the fields of a child.
        let status = unsafe { info.si_status() };
        // As in wait(2): an exit code in the second byte, a signal in the first.
        return Ok(if info.si_code == libc::CLD_EXITED { status << 8 } else { status });
    }
}
