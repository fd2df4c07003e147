//! Making, naming, connecting and configuring sockets.

use std::sync::Arc;

use super::super::context::{Args, Ctx, OnSignal};
use super::super::errno::{Errno, SysResult};
use super::super::file::{File, Kind, Object, Ready};
use super::super::io::until_ready;
use super::address::{self, Use};
use super::{Names, Socket, host};

/// The file and its socket.
macro_rules! with_socket {
    ($ctx:expr, $fd:expr, $file:ident, $socket:ident) => {
        let $file = $ctx.kernel.file($fd)?;
        let Kind::Socket($socket) = &$file.kind else { return Err(Errno::ENOTSOCK) };
    };
}
pub(super) use with_socket;

const KIND: i32 = 0xf;

fn check_kind(domain: i32, kind: i32) -> Result<(i32, u32), Errno> {
    let flags = kind & !KIND;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    match (domain, kind & KIND) {
        (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET)
        | (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_DGRAM) => Ok((kind & KIND, flags as u32)),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => Err(Errno::EPERM),
        (libc::AF_UNIX | libc::AF_INET | libc::AF_INET6, _) => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

fn check_protocol(domain: i32, kind: i32, protocol: i32) -> Result<(), Errno> {
    match (domain, kind, protocol) {
        (_, _, 0) | (libc::AF_UNIX, _, libc::AF_UNIX) => Ok(()),
        (libc::AF_UNIX, ..) => Err(Errno::EPROTONOSUPPORT),
        (_, libc::SOCK_STREAM, libc::IPPROTO_TCP) | (_, libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => Ok(()),
        _ => Err(Errno::EPROTONOSUPPORT),
    }
}

fn install(ctx: &Ctx<'_>, socket: Socket, flags: u32) -> SysResult {
    let status = libc::O_RDWR as u32 | flags & libc::SOCK_NONBLOCK as u32;
    let inode = rustix::fs::fstat(&socket.fd)?.st_ino;
    let file = ctx.kernel.new_file(Kind::Socket(socket), format!("socket:[{inode}]").into(), status);
    ctx.kernel.install(file, flags)
}

pub fn socket(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (domain, protocol) = (args.i32(0), args.i32(2));
    let (kind, flags) = check_kind(domain, args.i32(1))?;
    check_protocol(domain, kind, protocol)?;
    let fd = host::socket(domain, kind, protocol)?;
    install(ctx, Socket::new(fd, domain, kind), flags)
}

pub fn socketpair(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (domain, protocol) = (args.i32(0), args.i32(2));
    let (kind, flags) = check_kind(domain, args.i32(1))?;
    check_protocol(domain, kind, protocol)?;
    if domain != libc::AF_UNIX {
        return Err(Errno::EOPNOTSUPP);
    }
    let (first, second) = host::pair(domain, kind, protocol)?;
    let first = install(ctx, Socket::new(first, domain, kind), flags)?;
    let second = match install(ctx, Socket::new(second, domain, kind), flags) {
        Ok(second) => second,
        Err(error) => {
            let closed = ctx.kernel.descriptors().remove(first as i32);
            drop(closed);
            return Err(error);
        }
    };
    ctx.kernel.write(args.u64(3), &[first as i32, second as i32]).map(|()| 0)
}

pub fn connect(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    if ctx.thread.progress == 0 {
        let address = address::read(ctx, socket, args.u64(1), args.u32(2), Use::Reach)?;
        let outcome = host::connect(socket.fd(), &address.bytes);
        socket.names().peer = address.name;
        match outcome {
            // A Unix socket whose listener's queue is full says EAGAIN.
            Err(Errno::EINPROGRESS | Errno::EAGAIN) if !file.is_nonblocking() => ctx.thread.progress = 1,
            outcome => return outcome.map(|()| 0),
        }
    }
    if !socket.ready(ctx.kernel).intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
        let deadline = timeout(socket, libc::SO_SNDTIMEO).map(|t| ctx.deadline(t));
        if ctx.is_past(deadline) {
            return Err(Errno::EINPROGRESS);
        }
        return Err(ctx.wait_for(std::slice::from_ref(&file), deadline, OnSignal::Restart));
    }
    let error = host::option(socket.fd(), libc::SOL_SOCKET, libc::SO_ERROR, 4)?;
    match error.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)) {
        0 => Ok(0),
        number => Err(Errno::from_host(number)),
    }
}

/// Nanoseconds of `SO_RCVTIMEO` or `SO_SNDTIMEO`, if one is set.
pub(super) fn timeout(socket: &Socket, name: i32) -> Option<u64> {
    let bytes = host::option(socket.fd(), libc::SOL_SOCKET, name, 16).ok()?;
    let (seconds, micros) = (bytes.first_chunk::<8>()?, bytes.last_chunk::<8>()?);
    let (seconds, micros) = (u64::from_ne_bytes(*seconds), u64::from_ne_bytes(*micros));
    let nanos = seconds.saturating_mul(1_000_000_000).saturating_add(micros.saturating_mul(1000));
    (nanos > 0).then_some(nanos)
}

pub fn bind(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let address = address::read(ctx, socket, args.u64(1), args.u32(2), Use::Bind)?;
    host::bind(socket.fd(), &address.bytes)?;
    socket.names().local = address.name;
    Ok(0)
}

pub fn listen(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    // A socket that was never bound, or to no address in particular, would listen on every one.
    if let Some(local) = address::ip_of(&host::local_address(socket.fd())?) {
        ctx.kernel.network.check_remote(local)?;
        if local.is_unspecified() && ctx.kernel.network != super::Policy::Open {
            return Err(Errno::EACCES);
        }
    }
    host::listen(socket.fd(), args.i32(1)).map(|()| 0)
}

pub fn accept(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    accept_connection(ctx, args, 0)
}

pub fn accept4(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.i32(3) & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    accept_connection(ctx, args, args.u32(3))
}

fn accept_connection(ctx: &mut Ctx<'_>, args: Args, flags: u32) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    socket_ready(ctx, &file, socket, libc::SO_RCVTIMEO, |ctx| {
        let (fd, peer) = host::accept(socket.fd())?;
        let connection = Socket::new(fd, socket.domain, socket.kind);
        *connection.names() = Names { local: socket.names().local.clone(), peer: None };
        let fd = install(ctx, connection, flags)?;
        address::write(ctx, &peer, args.u64(1), args.u64(2))?;
        Ok(fd)
    })
}

/// [`until_ready`], with the timeout that the socket has for this direction.
pub(super) fn socket_ready(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    socket: &Socket,
    timeout_name: i32,
    attempt: impl FnOnce(&mut Ctx<'_>) -> SysResult,
) -> SysResult {
    if file.is_nonblocking() {
        return until_ready(ctx, file, attempt);
    }
    match attempt(ctx) {
        Err(Errno::EAGAIN) => {
            let deadline = timeout(socket, timeout_name).map(|t| ctx.deadline(t));
            if ctx.is_past(deadline) {
                return Err(Errno::EAGAIN);
            }
            // With a timeout Linux does not begin the call again.
            let on_signal = if deadline.is_some() { OnSignal::Interrupt } else { OnSignal::Restart };
            Err(ctx.wait_for(std::slice::from_ref(file), deadline, on_signal))
        }
        outcome => outcome,
    }
}

pub fn getsockname(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let shown = address::shown(host::local_address(socket.fd())?, socket.names().local.clone());
    address::write(ctx, &shown, args.u64(1), args.u64(2))
}

pub fn getpeername(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let shown = address::shown(host::peer_address(socket.fd())?, socket.names().peer.clone());
    address::write(ctx, &shown, args.u64(1), args.u64(2))
}

pub fn shutdown(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    host::shutdown(socket.fd(), args.i32(1)).map(|()| 0)
}

/// Options that are passed on: those that concern the socket alone and need no privilege.
fn is_known_option(level: i32, name: i32, set: bool) -> bool {
    match level {
        libc::SOL_SOCKET => match name {
            libc::SO_REUSEADDR | libc::SO_REUSEPORT | libc::SO_KEEPALIVE | libc::SO_BROADCAST | libc::SO_LINGER => true,
            libc::SO_SNDBUF | libc::SO_RCVBUF | libc::SO_RCVLOWAT | libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => true,
            libc::SO_OOBINLINE | libc::SO_DONTROUTE | libc::SO_TIMESTAMP | libc::SO_PASSCRED | libc::SO_PRIORITY => true,
            libc::SO_ERROR | libc::SO_TYPE | libc::SO_DOMAIN | libc::SO_PROTOCOL | libc::SO_ACCEPTCONN => !set,
            _ => false,
        },
        libc::IPPROTO_TCP => !matches!(
            name,
            libc::TCP_REPAIR | libc::TCP_REPAIR_QUEUE | libc::TCP_ULP | libc::TCP_MD5SIG | libc::TCP_CONGESTION
        ),
        libc::IPPROTO_IP => {
            matches!(name, libc::IP_TOS | libc::IP_TTL | libc::IP_MTU_DISCOVER | libc::IP_RECVERR | libc::IP_PKTINFO)
                || matches!(name, libc::IP_MULTICAST_TTL | libc::IP_MULTICAST_LOOP | libc::IP_RECVTOS | libc::IP_MTU)
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
                | libc::IPV6_RECVERR
        ),
        _ => false,
    }
}

/// Most bytes of an option's value.
const LONGEST_OPTION: u32 = 256;

pub fn setsockopt(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let (level, name, len) = (args.i32(1), args.i32(2), args.u32(4));
    if len > LONGEST_OPTION {
        return Err(Errno::EINVAL);
    }
    let mut value = vec![0; len as usize];
    ctx.kernel.read_bytes(args.u64(3), &mut value)?;
    if !is_known_option(level, name, true) {
        return Err(Errno::ENOPROTOOPT);
    }
    host::set_option(socket.fd(), level, name, &value).map(|()| 0)
}

pub fn getsockopt(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let (level, name) = (args.i32(1), args.i32(2));
    let room = ctx.kernel.read::<i32>(args.u64(4))?;
    let room = u32::try_from(room).map_err(|_| Errno::EINVAL)?.min(LONGEST_OPTION);
    let value = match (level, name) {
        // The peer of a socket in the guest is the guest.
        (libc::SOL_SOCKET, libc::SO_PEERCRED) if socket.domain == libc::AF_UNIX => {
            let identity = &ctx.kernel.identity;
            let words = [super::super::kernel::PID as u32, identity.uid, identity.gid];
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            bytes.truncate(room as usize);
            bytes
        }
        _ if is_known_option(level, name, false) => host::option(socket.fd(), level, name, room as usize)?,
        _ => return Err(Errno::ENOPROTOOPT),
    };
    ctx.kernel.write_bytes(args.u64(3), &value)?;
    ctx.kernel.write(args.u64(4), &(value.len() as u32)).map(|()| 0)
}
