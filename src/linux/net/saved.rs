//! What becomes of a host socket by a checkpoint: see the rules in the module's description.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::super::kernel::Kernel;
use super::stack::inside;
use super::{Socket, host};

/// What a checkpoint keeps of a host socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedSocket {
    domain: i32,
    kind: i32,
    protocol: i32,
    /// The host's name of it.
    name: Vec<u8>,
    /// Options that matter for the same use: level, name, value.
    options: Vec<(i32, i32, Vec<u8>)>,
    state: SavedState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum SavedState {
    Unconnected,
    Listening,
    Connected,
}

/// Options that are kept, with the bytes of their values.
const OPTIONS: [(i32, i32, usize); 8] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR, 4),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT, 4),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 4),
    (libc::SOL_SOCKET, libc::SO_BROADCAST, 4),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO, 16),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO, 16),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, 4),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 4),
];

impl SavedSocket {
    /// What a checkpoint keeps of `socket`.
    pub fn of(socket: &Socket) -> SavedSocket {
        let number = |name| {
            let value = host::option(socket.fd(), libc::SOL_SOCKET, name, 4).unwrap_or_default();
            value.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
        };
        let state = if number(libc::SO_ACCEPTCONN) != 0 {
            SavedState::Listening
        } else if host::peer_address(socket.fd()).is_ok() {
            SavedState::Connected
        } else {
            SavedState::Unconnected
        };
        let kept =
            |(level, name, size)| Some((level, name, host::option(socket.fd(), level, name, size).ok()?));
        SavedSocket {
            domain: number(libc::SO_DOMAIN),
            kind: number(libc::SO_TYPE),
            protocol: number(libc::SO_PROTOCOL),
            name: host::local_address(socket.fd()).unwrap_or_default(),
            options: OPTIONS.into_iter().filter_map(kept).collect(),
            state,
        }
    }

    /// The socket as a restored program finds it; one that cannot be had reads as reset.
    pub fn restore(self, kernel: &Kernel) -> Result<Socket, Errno> {
        let anew = match self.state {
            SavedState::Connected if self.kind != libc::SOCK_DGRAM => Err(Errno::ECONNRESET),
            // It is the program's, as if one of its threads made it.
            _ => inside(|| Ok(kernel.rights.assume()?), || self.reopen(kernel)),
        };
        let fd = anew.or_else(|_| cut(self.kind))?;
        Ok(Socket::new(kernel.host_fds.hold_again(fd), self.domain, self.kind))
    }

    fn reopen(&self, kernel: &Kernel) -> Result<OwnedFd, Errno> {
        use std::os::fd::AsFd;
        let fd = kernel.network.socket(self.domain, self.kind, self.protocol)?;
        for (level, name, value) in &self.options {
            if OPTIONS.iter().any(|known| (known.0, known.1, known.2) == (*level, *name, value.len())) {
                // One that does not belong to this sort of socket was not set on it either.
                let _ = host::set_option(fd.as_fd(), *level, *name, value);
            }
        }
        if matches!(self.domain, libc::AF_INET | libc::AF_INET6) && has_port(&self.name) {
            host::bind(fd.as_fd(), &self.name)?;
        }
        if self.state == SavedState::Listening {
            host::listen(fd.as_fd(), libc::SOMAXCONN)?;
        }
        Ok(fd)
    }
}

/// Whether an internet address is of a socket that was bound.
fn has_port(address: &[u8]) -> bool {
    address.get(2..4).is_some_and(|port| port != [0, 0])
}

/// An end of a connection whose other end was closed before it had read everything: the next read says `ECONNRESET`, later ones that it
/// is over, and writes fail with `EPIPE`.
pub(super) fn cut(kind: i32) -> Result<OwnedFd, Errno> {
    let kind = if kind == libc::SOCK_SEQPACKET { SocketType::SEQPACKET } else { SocketType::STREAM };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
    rustix::io::write(&ours, &[0])?;
    drop(theirs);
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::super::super::host_fd::HostFd;
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_cut_connection_reads_as_reset_and_then_as_over() {
        for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
            let end = cut(kind).expect("a pair of sockets");
            let mut byte = [0];
            assert_eq!(rustix::io::read(&end, &mut byte), Err(rustix::io::Errno::CONNRESET));
            assert_eq!(rustix::io::read(&end, &mut byte), Ok(0));
            let sent = rustix::net::send(&end, &[1], rustix::net::SendFlags::NOSIGNAL);
            assert_eq!(sent, Err(rustix::io::Errno::PIPE));
        }
    }

    #[test]
    fn what_a_listener_needs_to_listen_again_is_kept() {
        let fd = host::socket(libc::AF_INET, libc::SOCK_STREAM, 0).expect("a socket");
        host::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32.to_ne_bytes())
            .expect("an option");
        host::bind(fd.as_fd(), &[2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).expect("a free port");
        host::listen(fd.as_fd(), 1).expect("it listens");
        let saved = SavedSocket::of(&Socket::new(HostFd::given(fd), libc::AF_INET, libc::SOCK_STREAM));
        assert_eq!(
            (saved.domain, saved.kind, saved.state),
            (libc::AF_INET, libc::SOCK_STREAM, SavedState::Listening)
        );
        assert!(has_port(&saved.name));
        assert!(saved.options.contains(&(libc::SOL_SOCKET, libc::SO_REUSEADDR, vec![1, 0, 0, 0])));
    }
}
