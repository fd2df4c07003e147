//! A process in new namespaces.

use super::identity::INSIDE;
use super::layers::Layer;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which side of [`make`] the caller is on.
pub enum Side {
    /// The process that called.
    Parent {
        /// The new process, as the caller sees it.
        pid: u32,
    },
    /// The new process.
    Child,
}

/// The namespaces that `layers` name.
pub fn flags(layers: &BTreeSet<Layer>) -> CloneFlags {
    let known = [
        (Layer::User, CloneFlags::CLONE_NEWUSER),
        (Layer::Mount, CloneFlags::CLONE_NEWNS),
        (Layer::Pid, CloneFlags::CLONE_NEWPID),
        (Layer::Ipc, CloneFlags::CLONE_NEWIPC),
        (Layer::Hostname, CloneFlags::CLONE_NEWUTS),
        (Layer::Network, CloneFlags::CLONE_NEWNET),
    ];
    known.into_iter().filter(|(layer, _)| layers.contains(layer)).map(|(_, flag)| flag).collect()
}

/// Forks the calling process, which must have one thread, into new namespaces. In a user namespace, [`INSIDE`] is
/// mapped to `host_id`, or to the caller's own ID. With `CLONE_PARENT` the new process is the caller's sibling.
/// The new process does not go on before `announce` was called with its ID and a descriptor of it.
pub fn make(
    flags: CloneFlags,
    host_id: Option<u32>,
    announce: impl FnOnce(u32, BorrowedFd) -> io::Result<()>,
) -> io::Result<Side> {
    let (gate, mut opener) = io::pipe()?;
    let mut descriptor: libc::c_int = -1;
    let raw = flags.bits() | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork: the child runs on a copy of this stack. The process has one thread,
    // so no lock is held by another. `descriptor` lives across the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, raw as libc::c_long, 0, &raw mut descriptor, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(opener);
            await_maps(gate)?;
            Ok(Side::Child)
        }
        pid => {
            // SAFETY: CLONE_PIDFD made this descriptor (close-on-exec) for this call.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            announce(pid as u32, descriptor.as_fd())?;
            if flags.contains(CloneFlags::CLONE_NEWUSER) {
                map(pid, host_id)?;
            }
            opener.write_all(&[1])?;
            Ok(Side::Parent { pid: pid as u32 })
        }
    }
}

fn await_maps(mut gate: PipeReader) -> io::Result<()> {
    let mut byte = [0];
    gate.read_exact(&mut byte)
        .map_err(|_| io::Error::other("the process that was to map the user namespace's IDs went away"))
}

fn map(pid: i64, host_id: Option<u32>) -> io::Result<()> {
    let own = (geteuid().as_raw(), getegid().as_raw());
    let (uid, gid) = host_id.map_or(own, |id| (id, id));
    if host_id.is_none() {
        // Without privilege the kernel wants this first: user_namespaces(7).
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{pid}/gid_map"), format!("{INSIDE} {gid} 1"))?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{INSIDE} {uid} 1"))
}

/// In a new user namespace: become its mapped user, keeping the namespace's capabilities. With `other` that user
/// is not Hydra's own on the host.
pub fn become_inside(other: bool) -> io::Result<()> {
    if other {
        become_user(INSIDE)?;
    }
    if geteuid().as_raw() != INSIDE {
        return Err(io::Error::other("the user namespace's IDs are not mapped"));
    }
    Ok(())
}

/// Becomes the user and group `id`, with no other groups.
pub fn become_user(id: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Makes this process's memory and `/proc` entries unreadable to others with the same user.
pub fn hide_memory() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// Brings up `lo` in the calling process's network namespace.
pub fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
