//! Making, naming, connecting and configuring sockets.

use std::sync::Arc;

use super::super::context::{Args, Ctx};
use super::super::errno::{Errno, SysResult};
use super::super::file::{File, Kind};
use super::super::io::{until_ready, wait_until_ready};
use super::unix::{self, UnixSocket};
use super::{Direction, Socket, address};

const KIND: i32 = 0xf;

/// Takes the flags out of a type.
fn split_kind(kind: i32) -> Result<(i32, u32), Errno> {
    let flags = kind & !KIND;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((kind & KIND, flags as u32))
}

/// Whether the host is asked for such a socket.
fn check_host_kind(domain: i32, kind: i32, protocol: i32) -> Result<(), Errno> {
    match (domain, kind, protocol) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Ok(()),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => {
            Ok(())
        }
        (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_DGRAM, libc::NETLINK_ROUTE) => Ok(()),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW, _) => Err(Errno::EPERM),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => {
            Err(Errno::EPROTONOSUPPORT)
        }
        (libc::AF_INET | libc::AF_INET6, ..) => Err(Errno::ESOCKTNOSUPPORT),
        (libc::AF_NETLINK, ..) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// Gives a socket a file.
fn new_file(ctx: &Ctx<'_>, kind: Kind, flags: u32) -> Arc<File> {
    let status = libc::O_RDWR as u32 | flags & libc::SOCK_NONBLOCK as u32;
    let inode = match &kind {
        Kind::Socket(socket) => rustix::fs::fstat(socket.fd()).map_or(0, |stat| stat.st_ino),
        Kind::Unix(socket) => socket.id(),
        _ => 0,
    };
    let file = ctx.kernel.new_file(kind, format!("socket:[{inode}]").into(), status);
    if let Kind::Unix(socket) = &file.kind {
        ctx.kernel.unix(|table| table.attach(socket.id(), &file));
    }
    file
}

/// Gives a socket a file and a descriptor.
fn install(ctx: &Ctx<'_>, kind: Kind, flags: u32) -> SysResult {
    ctx.kernel.install(new_file(ctx, kind, flags), flags)
}

fn check_unix_protocol(protocol: i32) -> Result<(), Errno> {
    if matches!(protocol, 0 | libc::AF_UNIX) { Ok(()) } else { Err(Errno::EPROTONOSUPPORT) }
}

pub fn socket(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (domain, protocol) = (args.i32(0), args.i32(2));
    let (kind, flags) = split_kind(args.i32(1))?;
    if domain == libc::AF_UNIX {
        check_unix_protocol(protocol)?;
        let socket = UnixSocket::new(ctx.kernel, unix::Kind::from_number(kind)?)?;
        return install(ctx, Kind::Unix(socket), flags);
    }
    check_host_kind(domain, kind, protocol)?;
    let room = ctx.kernel.host_fds.room()?;
    let fd = room.hold(ctx.kernel.network.socket(domain, kind, protocol)?);
    install(ctx, Kind::Socket(Socket::new(fd, domain, kind)), flags)
}

pub fn socketpair(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (domain, protocol) = (args.i32(0), args.i32(2));
    let (kind, flags) = split_kind(args.i32(1))?;
    if domain != libc::AF_UNIX {
        check_host_kind(domain, kind, protocol)?;
        return Err(Errno::EOPNOTSUPP);
    }
    check_unix_protocol(protocol)?;
    let (first, second) = UnixSocket::pair(ctx.kernel, unix::Kind::from_number(kind)?)?;
    let files = [first, second].map(|socket| new_file(ctx, Kind::Unix(socket), flags));
    ctx.kernel.install_pair(files, flags, args.u64(3))
}

pub fn connect(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let socket = file.endpoint()?;
    let address = address::read(ctx, args.u64(1), args.u32(2))?;
    let again = ctx.thread.progress > 0;
    match socket.connect(ctx.kernel, &address, again) {
        // The host says `EALREADY` where the call begins again after a signal.
        Err(error @ (Errno::EINPROGRESS | Errno::EALREADY | Errno::EAGAIN)) if !file.is_nonblocking() => {
            ctx.thread.progress = u64::from(error != Errno::EAGAIN);
            match wait_until_ready(ctx, &file, Direction::Send) {
                Errno::EAGAIN => Err(error),
                waits => Err(waits),
            }
        }
        outcome => outcome.map(|()| 0),
    }
}

pub fn bind(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let socket = file.endpoint()?;
    let address = address::read(ctx, args.u64(1), args.u32(2))?;
    socket.bind(ctx.kernel, &address).map(|()| 0)
}

pub fn listen(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    file.endpoint()?.listen(ctx.kernel, args.i32(1)).map(|()| 0)
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
    let file = ctx.kernel.file(args.i32(0))?;
    let socket = file.endpoint()?;
    until_ready(ctx, &file, Direction::Receive, |ctx| {
        // Before a connection is taken that no descriptor would hold.
        ctx.kernel.check_free_descriptor()?;
        let (connection, peer) = socket.accept(ctx.kernel)?;
        let fd = install(ctx, connection, flags)?;
        match address::write(ctx, &peer, args.u64(1), args.u64(2)) {
            Ok(_) => Ok(fd),
            Err(error) => {
                let closed = ctx.kernel.descriptors().remove(fd as i32);
                drop(closed);
                Err(error)
            }
        }
    })
}

pub fn getsockname(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let shown = file.endpoint()?.local_address(ctx.kernel)?;
    address::write(ctx, &shown, args.u64(1), args.u64(2))
}

pub fn getpeername(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let shown = file.endpoint()?.peer_address(ctx.kernel)?;
    address::write(ctx, &shown, args.u64(1), args.u64(2))
}

pub fn shutdown(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    file.endpoint()?.shutdown(ctx.kernel, args.i32(1)).map(|()| 0)
}

/// Most bytes of an option's value.
const LONGEST_OPTION: u32 = 256;

pub fn setsockopt(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let socket = file.endpoint()?;
    let (level, name, len) = (args.i32(1), args.i32(2), args.i32(4));
    let len = u32::try_from(len).ok().filter(|len| *len <= LONGEST_OPTION).ok_or(Errno::EINVAL)?;
    let mut value = vec![0; len as usize];
    ctx.kernel.read_bytes(args.u64(3), &mut value)?;
    socket.set_option(ctx.kernel, level, name, &value).map(|()| 0)
}

pub fn getsockopt(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let socket = file.endpoint()?;
    let (level, name) = (args.i32(1), args.i32(2));
    let room = ctx.kernel.read::<i32>(args.u64(4))?;
    let room = u32::try_from(room).map_err(|_| Errno::EINVAL)?.min(LONGEST_OPTION);
    let value = socket.option(ctx.kernel, level, name, room as usize)?;
    ctx.kernel.write_bytes(args.u64(3), &value)?;
    ctx.kernel.write(args.u64(4), &(value.len() as u32)).map(|()| 0)
}
