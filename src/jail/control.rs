//! The control socket between Hydra and a jail's init: one JSON message a packet, with descriptors.

use super::layers::Layer;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// What Hydra asks of an init. Never contains anything that a function wrote.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// Build the jail and start the agent. With two descriptors: the agent's channel and the seccomp filters.
    Start(Box<Plan>),
    /// Make this directory, relative to the code store, visible at `/function`.
    Assign {
        /// Relative to [`Plan::code_store`]; nothing but ordinary components.
        code: PathBuf,
        /// Bytes of private writable memory that one process may map from now on.
        data_limit: u64,
    },
}

/// What an init says to Hydra.
#[derive(Serialize, Deserialize)]
pub enum Reply {
    /// The jail's init exists. With a descriptor of the process.
    Made {
        /// Its process ID as Hydra sees it.
        pid: u32,
    },
    /// The agent was executed. With a descriptor of the jail's `/tmp`, where it has its own.
    Ready,
    /// Something did not work; the jail is of no use.
    Failed(String),
    /// The answer to [`Request::Assign`].
    Assigned,
    /// The agent ended, with this wait status.
    Exited(i32),
}

/// A jail as its init is to build it: everything decided, nothing left to look up.
#[derive(Serialize, Deserialize, Clone)]
pub struct Plan {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub readable: Vec<PathBuf>,
    pub code_store: PathBuf,
    /// The layers to build; each must work.
    pub layers: BTreeSet<Layer>,
    /// A host directory to use as `/tmp` where there is no mount namespace.
    pub host_tmp: Option<PathBuf>,
    pub tmp_mib: u32,
    /// The host's user and group ID that the agent is to have; `None`: those of Hydra.
    pub host_id: Option<u32>,
    /// Most processes and threads; `None`: not limited here.
    pub processes: Option<u32>,
    pub open_files: u32,
    /// The cgroup to join.
    pub cgroup: Option<PathBuf>,
}

/// Bytes of the longest message.
const LONGEST: usize = 64 * 1024;

/// A connected pair of control sockets, both close-on-exec and blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends `message` with `descriptors`.
pub fn send(socket: BorrowedFd, message: &impl Serialize, descriptors: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::other(format!("a message of {} bytes is longer than {LONGEST}", bytes.len())));
    }
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage] = if descriptors.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)?;
    Ok(())
}

/// Receives a message and its descriptors, which are close-on-exec; `None` at the end of file.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel made these descriptors for this call; nothing else owns them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = received.bytes;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_carries_descriptors_and_the_end_is_seen() {
        let (one, other) = pair().expect("a socket pair");
        send(one.as_fd(), &Reply::Made { pid: 7 }, &[0, 1]).expect("sent");
        let (reply, descriptors) = receive::<Reply>(other.as_fd()).expect("received").expect("a message");
        assert!(matches!(reply, Reply::Made { pid: 7 }));
        assert_eq!(descriptors.len(), 2);
        drop(one);
        assert!(receive::<Reply>(other.as_fd()).expect("received").is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let (one, _other) = pair().expect("a socket pair");
        assert!(send(one.as_fd(), &Reply::Failed("x".repeat(LONGEST)), &[]).is_err());
    }
}
