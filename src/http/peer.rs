//! Whose a connection is: a function in a jail or a microVM reaches the host's network, and so Hydra, but is not to register functions
//! that run outside of its sandbox.
//!
//! The kernel tells by `sock_diag`(7) whom the other end of a connection within this host belongs to. Sandboxes have users of their own.

use std::io::{self, Error, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::jail::is_sandbox_user;
use crate::sync::lock;

/// A way to ask the kernel whose a socket is.
pub struct Peers {
    /// One question is asked at a time; the kernel has answered when it was sent.
    netlink: Mutex<Netlink>,
    /// This host's addresses, and when they were looked up.
    addresses: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

struct Netlink {
    socket: OwnedFd,
    /// Of the last question.
    sequence: u32,
}

/// How long the addresses of this host are taken to be the same.
const ADDRESSES_HOLD: Duration = Duration::from_secs(1);

/// `struct nlmsghdr` of `linux/netlink.h`.
#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Clone, Copy)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid` of `linux/inet_diag.h`.
#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Clone, Copy)]
struct SocketId {
    source_port: U16,
    destination_port: U16,
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` of `linux/inet_diag.h`, with its header.
#[repr(C)]
#[derive(IntoBytes, Immutable, KnownLayout)]
struct Question {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// The start of `struct inet_diag_msg` of `linux/inet_diag.h`, with its header.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout)]
struct Answer {
    header: Header,
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SocketId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    user: u32,
    inode: u32,
}

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`, and the type of `NLMSG_ERROR`, of `linux/netlink.h`.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// `INET_DIAG_NOCOOKIE` of `linux/inet_diag.h`.
const ANY: [u32; 2] = [u32::MAX; 2];

const _: () =
    assert!(size_of::<SocketId>() == 48 && size_of::<Question>() == 72 && size_of::<Answer>() == 88);

impl Peers {
    /// Opens the way, and tries it out with a connection of its own.
    ///
    /// # Errors
    /// The kernel does not tell (it has no `tcp_diag`).
    pub fn open() -> io::Result<Peers> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket::socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        let netlink = Mutex::new(Netlink { socket, sequence: 0 });
        let peers = Peers { netlink, addresses: Mutex::default() };
        let listener = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        match peers.user_of(client.local_addr()?, client.peer_addr()?)? {
            Some(user) if user == nix::unistd::geteuid().as_raw() => Ok(peers),
            _ => Err(Error::new(ErrorKind::Unsupported, "the kernel knows nothing of connections")),
        }
    }

    /// Whether the client at `client`, which is connected to `here`, is a sandbox. One of this host whose socket the kernel does not find counts
    /// as such: it is gone already, is bound to an interface, or its packets were redirected.
    pub fn is_sandbox(&self, client: SocketAddr, here: SocketAddr) -> bool {
        match self.user_of(client, here) {
            Ok(Some(user)) => is_sandbox_user(user),
            Ok(None) => self.is_of_this_host(client.ip().to_canonical()),
            Err(error) => {
                tracing::warn!(%client, %error, "cannot tell whose a connection is; it is refused");
                true
            }
        }
    }

    /// The user of the socket at `local` that is connected to `remote`; `None` if there is none, or nobody has it any more.
    fn user_of(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
        let mut netlink = lock(&self.netlink);
        netlink.sequence = netlink.sequence.wrapping_add(1);
        let sequence = netlink.sequence;
        let header =
            Header { len: size_of::<Question>() as u32, kind: BY_FAMILY, flags: REQUEST, sequence, port: 0 };
        let (source, destination) = (local.ip().to_canonical(), remote.ip().to_canonical());
        let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let question = Question {
            header,
            family: family as u8,
            protocol: libc::IPPROTO_TCP as u8,
            extensions: 0,
            padding: 0,
            states: u32::MAX,
            id: SocketId {
                source_port: local.port().into(),
                destination_port: remote.port().into(),
                source: octets(source),
                destination: octets(destination),
                interface: interface(local),
                cookie: ANY,
            },
        };
        let socket = netlink.socket.as_raw_fd();
        socket::send(socket, question.as_bytes(), MsgFlags::empty())?;
        let bad = || Error::new(ErrorKind::InvalidData, "the kernel's answer cannot be read");
        let mut buffer = [0; 1024];
        let len = loop {
            let len = socket::recv(socket, &mut buffer, MsgFlags::empty())?.min(buffer.len());
            let (header, _) = Header::read_from_prefix(&buffer[..len]).map_err(|_| bad())?;
            // Another is of a question whose answer was not read.
            if header.sequence == sequence {
                break len;
            }
        };
        let answer = &buffer[..len];
        let (header, rest) = Header::read_from_prefix(answer).map_err(|_| bad())?;
        if header.kind == ERROR {
            let (code, _) = i32::read_from_prefix(rest).map_err(|_| bad())?;
            return match Errno::from_raw(code.saturating_neg()) {
                Errno::ENOENT => Ok(None),
                errno => Err(errno.into()),
            };
        }
        let (answer, _) = Answer::read_from_prefix(answer).map_err(|_| bad())?;
        Ok((answer.inode != 0).then_some(answer.user))
    }

    /// Whether an address is one of this host's. If that cannot be found out, it is.
    fn is_of_this_host(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return true;
        }
        let mut known = lock(&self.addresses);
        if known.as_ref().is_none_or(|(since, _)| since.elapsed() > ADDRESSES_HOLD) {
            let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return true };
            let addresses = interfaces.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
            });
            *known = Some((Instant::now(), addresses.collect()));
        }
        known.as_ref().is_some_and(|(_, addresses)| addresses.contains(&address))
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
    }
}

/// The interface that a link-local address is on.
fn interface(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_whose_a_connection_is() {
        let peers = Peers::open().expect("sock_diag");
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = match TcpListener::bind(address) {
                Ok(listener) => listener,
                Err(error) => {
                    eprintln!("skipped: {address}: {error}");
                    continue;
                }
            };
            let mut to = listener.local_addr().expect("an address");
            if to.ip().is_unspecified() {
                to.set_ip([127, 0, 0, 1].into());
            }
            let client = TcpStream::connect(to).expect("a connection");
            let (stream, peer) = listener.accept().expect("a connection");
            let here = stream.local_addr().expect("an address");
            let own = nix::unistd::geteuid().as_raw();
            assert_eq!(peers.user_of(peer, here).expect("an answer"), Some(own), "{address}");
            assert!(!peers.is_sandbox(peer, here));
            drop(client);
            assert_eq!(peers.user_of(peer, here).expect("an answer"), None);
            assert!(peers.is_sandbox(peer, here), "it is gone");
        }
        // Of another host nothing is known.
        let elsewhere: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        assert!(!peers.is_sandbox(elsewhere, "127.0.0.1:80".parse().expect("an address")));
    }
}
