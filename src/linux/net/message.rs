//! Sending and receiving on sockets.

use std::sync::Arc;

use super::super::context::{Args, Ctx};
use super::super::errno::{Errno, SysResult};
use super::super::file::File;
use super::super::io::{WINDOW, until_ready, window};
use super::super::time::Timespec;
use super::super::user::MAX_TRANSFER;
use super::control::{self, Control};
use super::{Direction, Received, address};
use crate::vmm::Access;

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
    if (name_len as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let count = usize::try_from(count).ok().filter(|c| *c <= 1024).ok_or(Errno::EMSGSIZE)?;
    let parts = ctx.kernel.read_iovecs(parts, count)?;
    Ok(Header { name, name_len: name_len.min(128), parts, control, control_len })
}

/// Waits as the socket and the flags say.
fn wait_unless(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    flags: i32,
    direction: Direction,
    attempt: impl FnOnce(&mut Ctx<'_>) -> SysResult,
) -> SysResult {
    if flags & libc::MSG_DONTWAIT != 0 {
        return attempt(ctx);
    }
    until_ready(ctx, file, direction, attempt)
}

fn waits(file: &File, flags: i32) -> bool {
    !file.is_nonblocking() && flags & libc::MSG_DONTWAIT == 0
}

fn send(
    ctx: &mut Ctx<'_>,
    file: &Arc<File>,
    parts: &[(u64, usize)],
    to: Option<Vec<u8>>,
    mut control: Control,
    flags: i32,
) -> SysResult {
    let socket = file.endpoint()?;
    let total: usize = parts.iter().map(|p| p.1).sum();
    let stream = socket.is_stream();
    let outcome = wait_unless(ctx, file, flags, Direction::Send, |ctx| {
        let kernel = ctx.kernel;
        loop {
            // A stream takes what it has room for; the rest follows in later attempts, without what went along with the first.
            let done = ctx.thread.progress as usize;
            let slices = kernel.user_vector(&after(parts, done), Access::READ)?;
            let along = if done == 0 { std::mem::take(&mut control) } else { Control::default() };
            let sent = socket.send(kernel, &slices, to.as_deref(), along, flags)?;
            if !stream || !waits(file, flags) || sent == 0 || done + sent >= total {
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

/// Receives one message; of a stream, with `MSG_WAITALL`, all that was asked for unless something ends it early.
fn receive(ctx: &mut Ctx<'_>, file: &Arc<File>, header: &Header, flags: i32) -> Result<Received, Errno> {
    let socket = file.endpoint()?;
    let total: usize = header.parts.iter().map(|p| p.1).sum();
    let all = flags & libc::MSG_WAITALL != 0
        && flags & (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_ERRQUEUE) == 0
        && waits(file, flags)
        && socket.is_stream();
    let control_room = control::host_room(header.control, header.control_len);
    let mut received = None;
    // A stream may have more than a window.
    let goes_on = socket.is_stream() && flags & (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_ERRQUEUE) == 0;
    let outcome = wait_unless(ctx, file, flags, Direction::Receive, |ctx| {
        loop {
            let done = ctx.thread.progress as usize;
            let slices = ctx.kernel.user_vector(&window(&header.parts, done), Access::WRITE);
            let received_now =
                slices.and_then(|slices| socket.receive(ctx.kernel, &slices, flags, control_room));
            let mut got = match received_now {
                Err(_) if done > 0 && !all => Received::default(),
                got => got?,
            };
            let ends = got.bytes == 0 || !got.files.is_empty() || !got.control.is_empty();
            let continues = all || goes_on && got.bytes == WINDOW;
            got.bytes += done;
            if !continues || ends || got.bytes >= total {
                received = Some(got);
                return Ok(0);
            }
            ctx.thread.progress = got.bytes as u64;
        }
    });
    match outcome {
        Err(error) if error != Errno::BLOCKED && all && ctx.thread.progress > 0 => {
            Ok(Received { bytes: ctx.thread.progress as usize, ..Received::default() })
        }
        Err(error) => Err(error),
        Ok(_) => received.ok_or(Errno::EIO),
    }
}

pub fn sendto(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    file.endpoint()?;
    let parts = [(args.u64(1), args.size(2).min(MAX_TRANSFER))];
    let to = address::read_optional(ctx, args.u64(4), args.u32(5))?;
    send(ctx, &file, &parts, to, Control::default(), args.i32(3))
}

pub fn recvfrom(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    let parts = vec![(args.u64(1), args.size(2).min(MAX_TRANSFER))];
    let header = Header { name: args.u64(4), name_len: 128, parts, control: 0, control_len: 0 };
    let got = receive(ctx, &file, &header, args.i32(3))?;
    address::write(ctx, &got.address, args.u64(4), args.u64(5))?;
    Ok(got.bytes as u64)
}

pub fn sendmsg(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    send_message(ctx, args.i32(0), args.u64(1), args.i32(2))
}

fn send_message(ctx: &mut Ctx<'_>, fd: i32, pointer: u64, flags: i32) -> SysResult {
    let file = ctx.kernel.file(fd)?;
    file.endpoint()?;
    let header = read_header(ctx, pointer)?;
    let control = control::read(ctx, header.control, header.control_len)?;
    let to = address::read_optional(ctx, header.name, header.name_len)?;
    send(ctx, &file, &header.parts, to, control, flags)
}

pub fn recvmsg(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    receive_message(ctx, args.i32(0), args.u64(1), args.i32(2))
}

fn receive_message(ctx: &mut Ctx<'_>, fd: i32, pointer: u64, flags: i32) -> SysResult {
    let file = ctx.kernel.file(fd)?;
    let header = read_header(ctx, pointer)?;
    let mut got = receive(ctx, &file, &header, flags)?;
    if header.name != 0 {
        let n = got.address.len().min(header.name_len as usize);
        ctx.kernel.write_bytes(header.name, &got.address[..n])?;
        ctx.kernel.write(pointer + 8, &(got.address.len() as u32))?;
    }
    let control = control::write(ctx, &mut got, header.control, header.control_len, flags)?;
    ctx.kernel.write(pointer + 40, &control)?;
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
