//! With whose rights a program uses what it sees of the host: its files, its sockets.
//!
//! What a program may do with a file of the host, to which port it may bind a socket, and as whom others see it at their end of one, is for the
//! host's kernel to say. It says it of the thread that asks. So threads that serve calls do it as a user of the host who owns nothing there,
//! as processes in jails do.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// With whose rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Those of this process: it is its user's own program.
    Own,
    /// Those of a user of the host to whom nothing belongs, and of the group of the same number. Without one, those of this process, which
    /// cannot be another user; sockets that have no place among the files are out of reach all the same.
    Sandbox(Option<u32>),
}

thread_local! {
    /// With whose rights this thread acts.
    static ASSUMED: Cell<Option<Rights>> = const { Cell::new(None) };
}

impl Rights {
    /// From now on the calling thread acts with these rights, and so do threads that it starts. The process's other threads do not.
    ///
    /// # Errors
    /// The host does not let this process act as that user.
    pub fn assume(self) -> io::Result<()> {
        if ASSUMED.get() == Some(self) {
            return Ok(());
        }
        // The first thread that gets here is as the process is.
        static PROCESS: OnceLock<(Uid, Gid)> = OnceLock::new();
        let (own, own_group) = *PROCESS.get_or_init(|| (geteuid(), getegid()));
        match self {
            Rights::Sandbox(Some(user)) if geteuid().as_raw() != user => {
                let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
                // Only as itself it can become another.
                set_thread_res_uid(None, own, None)?;
                set_thread_groups(&[])?;
                set_thread_res_gid(None, group, None)?;
                // Its capabilities go with the effective user.
                set_thread_res_uid(None, user, None)?;
            }
            Rights::Sandbox(Some(_)) => {}
            Rights::Own | Rights::Sandbox(None) if geteuid() != own => {
                set_thread_res_uid(None, own, None)?;
                set_thread_res_gid(None, own_group, None)?;
            }
            Rights::Own | Rights::Sandbox(None) => {}
        }
        ASSUMED.set(Some(self));
        Ok(())
    }

    /// Whether the program is somebody else's.
    pub fn is_sandbox(self) -> bool {
        matches!(self, Rights::Sandbox(_))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_acts_as_another_user_and_as_itself_again() {
        const NOBODY: u32 = 65534;
        if !geteuid().is_root() {
            return eprintln!("skipped: only root can act as another");
        }
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(folder.path(), 0o755);
        let [secret, open, hidden, socket] =
            ["secret", "open", "folder", "socket"].map(|name| folder.path().join(name));
        std::fs::write(&secret, "x").unwrap();
        std::fs::write(&open, "x").unwrap();
        std::fs::create_dir(&hidden).unwrap();
        std::fs::write(hidden.join("inner"), "x").unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        for (path, bits) in [(&secret, 0o640), (&open, 0o644), (&hidden, 0o700), (&socket, 0o777)] {
            mode(path, bits);
        }
        let denied = |path: &std::path::Path| {
            std::fs::File::open(path).map_err(|error| error.kind()).err()
                == Some(io::ErrorKind::PermissionDenied)
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let look = || [&secret, &open, &hidden.join("inner")].map(|path| denied(path));
                assert_eq!(look(), [false; 3]);
                Rights::Sandbox(Some(NOBODY)).assume().unwrap();
                assert_eq!(look(), [true, false, true]);
                // Another thread of it too.
                assert!(scope.spawn(|| denied(&secret)).join().unwrap());
                let port = std::net::TcpListener::bind("127.0.0.1:1").err().map(|error| error.kind());
                let low: u32 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                    .map_or(1024, |text| text.trim().parse().unwrap());
                assert!(low <= 1 || port == Some(io::ErrorKind::PermissionDenied), "{port:?}");
                let _client = UnixStream::connect(&socket).unwrap();
                let (peer, _) = listener.accept().unwrap();
                let seen = rustix::net::sockopt::socket_peercred(&peer).unwrap();
                assert_eq!((seen.uid.as_raw(), seen.gid.as_raw()), (NOBODY, NOBODY));
                Rights::Own.assume().unwrap();
                assert_eq!(look(), [false; 3]);
            });
        });
        assert!(!denied(&secret));
    }
}
