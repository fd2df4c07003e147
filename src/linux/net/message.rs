//! Sending and receiving on sockets.

use std::sync::Arc;

use super::super::context::{Args, Ctx};
use super::super::errno::{Errno, SysResult};
use super::super::file::{File, Kind};
use super::super::time::Timespec;
use super::super::user::MAX_TRANSFER;
use super::address::{self, Use};
use super::calls::{socket_ready, with_socket};
use super::{Socket, host};
use crate::vmm::Access;

/// Flags that are the host's to heed.
const SEND_FLAGS: i32 = libc::MSG_OOB | libc::MSG_DONTROUTE | libc::MSG_EOR | libc::MSG_MORE | libc::MSG_CONFIRM;
/// The same for receiving.
const RECEIVE_FLAGS: i32 = libc::MSG_OOB | libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_ERRQUEUE;
/// Most bytes of control messages.
const CONTROL: usize = 4096;
/// Most messages of one `sendmmsg` or `recvmmsg`.
const MESSAGES: u32 = 1024;
/// Bytes of `struct mmsghdr`.
const MESSAGE_HEADER: u64 = 64;

/// `struct msghdr` as words.
struct Header {
    name: u64,
    name_len: u32,
    parts: Vec<(u64, usize)>,
    control: u64,
    control_len: u64,
}

fn read_header(ctx: &Ctx<'_>, pointer: u64) -> Result<Header, Errno> {
    let [name, name_len, parts, count, control, control_len, _] = ctx.kernel.read::<[u64; 7]>(pointer)?;
    let name_len = name_len as u32;
    if name_len as i32 > 128 || (name_len as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let count = usize::try_from(count).ok().filter(|c| *c <= 1024).ok_or(Errno::EMSGSIZE)?;
    Ok(Header { name, name_len, parts: ctx.kernel.read_iovecs(parts, count)?, control, control_len })
}

/// Waits as the socket and the flags say.
fn wait_unless(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    socket: &Socket,
    flags: i32,
    timeout: i32,
    attempt: impl FnOnce(&mut Ctx<'_>) -> SysResult,
) -> SysResult {
    if flags & libc::MSG_DONTWAIT != 0 {
        return attempt(ctx);
    }
    socket_ready(ctx, file, socket, timeout, attempt)
}

fn send(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    socket: &Socket,
    parts: &[(u64, usize)],
    name: (u64, u32),
    flags: i32,
) -> SysResult {
    let to = match name {
        (0, _) | (_, 0) => None,
        (pointer, len) => Some(address::read(ctx, socket, pointer, len, Use::Reach)?),
    };
    let total: usize = parts.iter().map(|p| p.1).sum();
    let stream = socket.kind == libc::SOCK_STREAM;
    let waits = !file.is_nonblocking() && flags & libc::MSG_DONTWAIT == 0;
    let outcome = wait_unless(ctx, file, socket, flags, libc::SO_SNDTIMEO, |ctx| {
        let kernel = ctx.kernel;
        loop {
            // A stream takes what it has room for; the rest follows in later attempts.
            let done = ctx.thread.progress as usize;
            let slices = kernel.user_vector(&after(parts, done), Access::READ)?;
            let bytes = to.as_ref().map(|a| a.bytes.as_slice());
            let sent = host::send(socket.fd(), &slices, bytes, &[], flags & SEND_FLAGS)?;
            if !stream || !waits || done + sent >= total {
                return Ok((done + sent) as u64);
            }
            ctx.thread.progress += sent as u64;
        }
    });
    match outcome {
        Err(error) if error != Errno::BLOCKED && ctx.thread.progress > 0 => Ok(ctx.thread.progress),
        Err(Errno::EPIPE) => {
            if flags & libc::MSG_NOSIGNAL == 0 && stream {
                ctx.kernel.send_own(ctx.thread.tid, libc::SIGPIPE);
            }
            Err(Errno::EPIPE)
        }
        outcome => outcome,
    }
}

/// The parts without their first `n` bytes.
fn after(parts: &[(u64, usize)], n: usize) -> Vec<(u64, usize)> {
    let mut left = n;
    parts
        .iter()
        .map(|(address, len)| {
            let cut = left.min(*len);
            left -= cut;
            (address.wrapping_add(cut as u64), len - cut)
        })
        .collect()
}

fn receive(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    socket: &Socket,
    header: &Header,
    flags: i32,
) -> Result<host::Received, Errno> {
    let mut received = None;
    let parts = &header.parts;
    wait_unless(ctx, file, socket, flags, libc::SO_RCVTIMEO, |ctx| {
        let slices = ctx.kernel.user_vector(parts, Access::WRITE)?;
        let address_room = if header.name == 0 { 0 } else { 128 };
        let control_room = if header.control == 0 { 0 } else { (header.control_len as usize).min(CONTROL) };
        received = Some(host::receive(socket.fd(), &slices, flags & RECEIVE_FLAGS, address_room, control_room)?);
        Ok(0)
    })?;
    received.ok_or(Errno::EIO)
}

pub fn sendto(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let parts = [(args.u64(1), args.size(2).min(MAX_TRANSFER))];
    send(ctx, &file, socket, &parts, (args.u64(4), args.u32(5)), args.i32(3))
}

pub fn recvfrom(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    with_socket!(ctx, args.i32(0), file, socket);
    let parts = vec![(args.u64(1), args.size(2).min(MAX_TRANSFER))];
    let header = Header { name: args.u64(4), name_len: 128, parts, control: 0, control_len: 0 };
    let got = receive(ctx, &file, socket, &header, args.i32(3))?;
    address::write(ctx, &got.address, args.u64(4), args.u64(5))?;
    Ok(got.bytes as u64)
}

pub fn sendmsg(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    send_message(ctx, args.i32(0), args.u64(1), args.i32(2))
}

fn send_message(ctx: &mut Ctx<'_>, fd: i32, pointer: u64, flags: i32) -> SysResult {
    with_socket!(ctx, fd, file, socket);
    let header = read_header(ctx, pointer)?;
    if header.control != 0 && header.control_len > 0 {
        // Descriptors and credentials are not passed.
        return Err(Errno::EOPNOTSUPP);
    }
    send(ctx, &file, socket, &header.parts, (header.name, header.name_len), flags)
}

pub fn recvmsg(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    receive_message(ctx, args.i32(0), args.u64(1), args.i32(2))
}

fn receive_message(ctx: &mut Ctx<'_>, fd: i32, pointer: u64, flags: i32) -> SysResult {
    with_socket!(ctx, fd, file, socket);
    let header = read_header(ctx, pointer)?;
    let got = receive(ctx, &file, socket, &header, flags)?;
    if header.name != 0 {
        let n = got.address.len().min(header.name_len as usize);
        ctx.kernel.write_bytes(header.name, &got.address[..n])?;
        ctx.kernel.write(pointer + 8, &(got.address.len() as u32))?;
    }
    if header.control != 0 {
        ctx.kernel.write_bytes(header.control, &got.control)?;
    }
    ctx.kernel.write(pointer + 40, &(got.control.len() as u64))?;
    ctx.kernel.write(pointer + 48, &got.flags)?;
    Ok(got.bytes as u64)
}

/// Runs `each` for the messages until one fails; the count of those that did not, or the first one's error.
fn for_each_message(
    ctx: &mut Ctx<'_>,
    pointer: u64,
    count: u32,
    mut each: impl FnMut(&mut Ctx<'_>, u64, bool) -> SysResult,
) -> SysResult {
    let mut done = 0;
    for i in 0..u64::from(count.min(MESSAGES)) {
        let at = pointer + i * MESSAGE_HEADER;
        match each(ctx, at, i == 0) {
            Ok(bytes) => ctx.kernel.write(at + 56, &(bytes as u32))?,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        done += 1;
        ctx.thread.progress = 0;
    }
    Ok(done)
}

pub fn sendmmsg(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let flags = args.i32(3);
    for_each_message(ctx, args.u64(1), args.u32(2), |ctx, at, first| {
        send_message(ctx, args.i32(0), at, if first { flags } else { flags | libc::MSG_DONTWAIT })
    })
}

/// Waits for the first message only, as with `MSG_WAITFORONE`.
pub fn recvmmsg(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let flags = args.i32(3);
    if args.u64(4) != 0 {
        let timeout = ctx.kernel.read::<Timespec>(args.u64(4))?.nanos()?;
        let deadline = ctx.deadline(timeout);
        if ctx.is_past(Some(deadline)) {
            return Err(Errno::EAGAIN);
        }
    }
    for_each_message(ctx, args.u64(1), args.u32(2), |ctx, at, first| {
        receive_message(ctx, args.i32(0), at, if first { flags } else { flags | libc::MSG_DONTWAIT })
    })
}
