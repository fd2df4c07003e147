//! A thread that buries jails: waits for killed inits and removes what they leave, so that a drop never blocks.

use super::cgroup::Cgroup;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

/// What is left of a jail whose init was killed or has ended.
pub struct Remains {
    /// The number of the init, a child of this process; none where there is nobody to wait for.
    pub init: Option<u32>,
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
    if let Some(Err(error)) = remains.init.map(reap)
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
    if let Some(Err(error)) = remains.tmp.map(|tmp| crate::folder::remove_tree(&tmp.keep())) {
        tracing::warn!(%error, "cannot remove the temporary directory of a jail");
    }
}

/// Waits for the process `init`, a child of this process, and returns its wait status. The process is gone then.
pub fn reap(init: u32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives across the call.
        if unsafe { libc::waitpid(init.cast_signed(), &raw mut status, 0) } >= 0 {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
