//! Host sockets behind the guest's descriptors: internet sockets, netlink sockets, and what a Unix socket of the host becomes.

use std::os::fd::{AsFd, BorrowedFd};

use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::super::file::{File, Kind, Object, Ready};
use super::super::host_fd::HostFd;
use super::super::host_file::host_ready;
use super::super::kernel::Kernel;
use super::super::stat::Attributes;
use super::super::user::gather;
use super::control::Control;
use super::{Direction, Endpoint, Received, host, netlink};

/// Flags that are the host's to heed.
const SEND_FLAGS: i32 =
    libc::MSG_OOB | libc::MSG_DONTROUTE | libc::MSG_EOR | libc::MSG_MORE | libc::MSG_CONFIRM;
/// The same for receiving.
const RECEIVE_FLAGS: i32 = libc::MSG_OOB | libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_ERRQUEUE;

/// A host socket. Every call on it says that it must not wait.
pub struct Socket {
    fd: HostFd,
    /// `AF_…` and `SOCK_…`.
    domain: i32,
    kind: i32,
    /// Handed to the program at its start: it is used as it is, with the peer that it has.
    lent: bool,
}

impl Socket {
    /// A socket of the program's own; non-blocking on the host.
    pub(super) fn new(fd: HostFd, domain: i32, kind: i32) -> Socket {
        Socket { fd, domain, kind, lent: false }
    }

    /// One that the program is handed at its start.
    pub fn lent(fd: HostFd) -> Result<Socket, Errno> {
        let number = |name| -> Result<i32, Errno> {
            let value = host::option(fd.as_fd(), libc::SOL_SOCKET, name, 4)?;
            value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::EIO)
        };
        let (domain, kind) = (number(libc::SO_DOMAIN)?, number(libc::SO_TYPE)?);
        Ok(Socket { fd, domain, kind, lent: true })
    }

    /// The host's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// `EPERM` for a socket that was lent: it may be used with its peer, and for nothing else.
    fn check_own(&self) -> Result<(), Errno> {
        if self.lent { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn pending_error(&self) -> Result<(), Errno> {
        let error = host::option(self.fd(), libc::SOL_SOCKET, libc::SO_ERROR, 4)?;
        match error.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)) {
            0 => Ok(()),
            number => Err(Errno::from_host(number)),
        }
    }
}

impl Endpoint for Socket {
    fn is_stream(&self) -> bool {
        self.kind == libc::SOCK_STREAM
    }

    fn bind(&self, _: &Kernel, address: &[u8]) -> Result<(), Errno> {
        self.check_own()?;
        if self.domain == libc::AF_NETLINK {
            netlink::check_address(address)?;
        }
        host::bind(self.fd(), address)
    }

    fn connect(&self, kernel: &Kernel, address: &[u8], again: bool) -> Result<(), Errno> {
        if !again {
            self.check_own()?;
            if self.domain == libc::AF_NETLINK {
                netlink::check_address(address)?;
            }
            return host::connect(self.fd(), address);
        }
        if !self.ready(kernel).intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
            return Err(Errno::EINPROGRESS);
        }
        self.pending_error()
    }

    fn listen(&self, _: &Kernel, backlog: i32) -> Result<(), Errno> {
        self.check_own()?;
        host::listen(self.fd(), backlog)
    }

    fn accept(&self, kernel: &Kernel) -> Result<(Kind, Vec<u8>), Errno> {
        // The host's descriptor of a lent one may be one that waits.
        self.check_own()?;
        let room = kernel.host_fds.room()?;
        let (fd, peer) = host::accept(self.fd())?;
        Ok((Kind::Socket(Socket::new(room.hold(fd), self.domain, self.kind)), peer))
    }

    fn local_address(&self, _: &Kernel) -> Result<Vec<u8>, Errno> {
        host::local_address(self.fd())
    }

    fn peer_address(&self, _: &Kernel) -> Result<Vec<u8>, Errno> {
        host::peer_address(self.fd())
    }

    fn shutdown(&self, _: &Kernel, how: i32) -> Result<(), Errno> {
        host::shutdown(self.fd(), how)
    }

    fn option(&self, _: &Kernel, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno> {
        if !is_known_option(level, name, false) {
            return Err(Errno::ENOPROTOOPT);
        }
        host::option(self.fd(), level, name, room)
    }

    fn set_option(&self, _: &Kernel, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if !is_known_option(level, name, true) {
            return Err(Errno::ENOPROTOOPT);
        }
        host::set_option(self.fd(), level, name, value)
    }

    fn timeout(&self, _: &Kernel, direction: Direction) -> Option<u64> {
        let name = match direction {
            Direction::Receive => libc::SO_RCVTIMEO,
            Direction::Send => libc::SO_SNDTIMEO,
        };
        let bytes = host::option(self.fd(), libc::SOL_SOCKET, name, 16).ok()?;
        let (seconds, micros) = (bytes.first_chunk()?, bytes.last_chunk()?);
        let (seconds, micros) = (u64::from_ne_bytes(*seconds), u64::from_ne_bytes(*micros));
        let nanos = seconds.saturating_mul(1_000_000_000).saturating_add(micros.saturating_mul(1000));
        (nanos > 0).then_some(nanos)
    }

    fn send(
        &self,
        _: &Kernel,
        from: &[VolatileSlice<'_>],
        to: Option<&[u8]>,
        control: Control,
        flags: i32,
    ) -> Result<usize, Errno> {
        if to.is_some() {
            self.check_own()?;
        }
        if self.domain == libc::AF_UNIX {
            if to.is_some() {
                return Err(Errno::EISCONN);
            }
            // The program's files are not files of the host.
            if !control.files.is_empty() {
                return Err(Errno::EOPNOTSUPP);
            }
        }
        if self.domain == libc::AF_NETLINK {
            // What was checked is sent, whatever the program does to its memory meanwhile.
            let mut request = gather(from, netlink::LONGEST_REQUEST);
            netlink::check_request(&request)?;
            to.map_or(Ok(()), netlink::check_address)?;
            let request = VolatileSlice::from(request.as_mut_slice());
            return host::send(self.fd(), &[request], to, &[], 0);
        }
        host::send(self.fd(), from, to, &control.internet, flags & SEND_FLAGS)
    }

    fn receive(
        &self,
        _: &Kernel,
        into: &[VolatileSlice<'_>],
        flags: i32,
        control_room: usize,
    ) -> Result<Received, Errno> {
        host::receive(self.fd(), into, flags & RECEIVE_FLAGS, control_room)
    }

    fn waiting(&self, _: &Kernel) -> Result<usize, Errno> {
        Ok(rustix::io::ioctl_fionread(&self.fd)? as usize)
    }
}

impl Object for Socket {
    fn read(&self, _: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Ok(host::receive(self.fd(), into, 0, 0)?.bytes)
    }

    fn write(&self, kernel: &Kernel, _: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Endpoint::send(self, kernel, from, None, Control::default(), 0)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        host_ready(self.fd())
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::from_host(&rustix::fs::fstat(&self.fd)?))
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd())
    }
}

/// Options that are passed on: those that concern the socket alone and need no privilege.
fn is_known_option(level: i32, name: i32, set: bool) -> bool {
    match level {
        libc::SOL_SOCKET => match name {
            libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_KEEPALIVE
            | libc::SO_BROADCAST
            | libc::SO_LINGER => true,
            libc::SO_SNDBUF | libc::SO_RCVBUF | libc::SO_RCVLOWAT | libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => {
                true
            }
            libc::SO_OOBINLINE
            | libc::SO_DONTROUTE
            | libc::SO_TIMESTAMP
            | libc::SO_PASSCRED
            | libc::SO_PRIORITY => true,
            libc::SO_TIMESTAMPNS | libc::SO_INCOMING_CPU => true,
            libc::SO_ERROR | libc::SO_TYPE | libc::SO_DOMAIN | libc::SO_PROTOCOL | libc::SO_ACCEPTCONN => {
                !set
            }
            _ => false,
        },
        libc::IPPROTO_TCP => {
            !matches!(
                name,
                libc::TCP_REPAIR
                    | libc::TCP_REPAIR_QUEUE
                    | libc::TCP_ULP
                    | libc::TCP_MD5SIG
                    | libc::TCP_CONGESTION
            ) || name == libc::TCP_CONGESTION && !set
        }
        libc::IPPROTO_IP => {
            matches!(
                name,
                libc::IP_TOS | libc::IP_TTL | libc::IP_MTU_DISCOVER | libc::IP_RECVERR | libc::IP_PKTINFO
            ) || matches!(
                name,
                libc::IP_MULTICAST_TTL | libc::IP_MULTICAST_LOOP | libc::IP_RECVTOS | libc::IP_MTU
            ) || matches!(name, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP | libc::IP_MULTICAST_IF)
                || matches!(name, libc::IP_RECVTTL | libc::IP_FREEBIND | libc::IP_BIND_ADDRESS_NO_PORT)
        }
        libc::IPPROTO_IPV6 => matches!(
            name,
            libc::IPV6_V6ONLY
                | libc::IPV6_UNICAST_HOPS
                | libc::IPV6_RECVPKTINFO
                | libc::IPV6_TCLASS
                | libc::IPV6_RECVTCLASS
                | libc::IPV6_RECVHOPLIMIT
                | libc::IPV6_MULTICAST_HOPS
                | libc::IPV6_MULTICAST_LOOP
                | libc::IPV6_MULTICAST_IF
                | libc::IPV6_ADD_MEMBERSHIP
                | libc::IPV6_DROP_MEMBERSHIP
                | libc::IPV6_RECVERR
                | libc::IPV6_MTU
                | libc::IPV6_MTU_DISCOVER
        ),
        _ => false,
    }
}
