//! Control messages: what comes with a message beside its bytes.

use std::sync::Arc;

use super::super::context::Ctx;
use super::super::errno::Errno;
use super::super::file::File;
use super::super::kernel::PID;
use super::Received;

/// Bytes of `struct cmsghdr`; each message begins at a multiple of eight.
const HEADER: usize = 16;
/// Most descriptors in one message, as on Linux.
const MOST_FILES: usize = 253;
/// Most bytes that are sent: Linux's bound is `optmem_max`.
const MOST_SENT: u64 = 20_480;
/// Most bytes that the host may give.
const MOST_RECEIVED: u64 = 4096;

/// What a program sends along.
#[derive(Default)]
pub struct Control {
    /// Open files.
    pub files: Vec<Arc<File>>,
    /// Process, user and group as whom it sends.
    pub credentials: Option<[u32; 3]>,
    /// Messages of the internet protocols, in the host's form.
    pub internet: Vec<u8>,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Reads what a program passes to `sendmsg`.
pub fn read(ctx: &Ctx<'_>, pointer: u64, len: u64) -> Result<Control, Errno> {
    let mut control = Control::default();
    if pointer == 0 || len == 0 {
        return Ok(control);
    }
    if len > MOST_SENT {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = vec![0; len as usize];
    ctx.kernel.read_bytes(pointer, &mut bytes)?;
    let mut rest = &bytes[..];
    while rest.len() >= HEADER {
        let message_len = word(rest, 0).map_or(0, usize::from_ne_bytes);
        let (level, kind) = (word(rest, 8).map(i32::from_ne_bytes), word(rest, 12).map(i32::from_ne_bytes));
        if message_len < HEADER || message_len > rest.len() {
            return Err(Errno::EINVAL);
        }
        let data = &rest[HEADER..message_len];
        match (level, kind) {
            (Some(libc::SOL_SOCKET), Some(libc::SCM_RIGHTS)) => {
                for fd in data.chunks_exact(4) {
                    let fd = word(fd, 0).map_or(-1, i32::from_ne_bytes);
                    control.files.push(ctx.kernel.file(fd)?);
                }
                if control.files.len() > MOST_FILES {
                    return Err(Errno::EINVAL);
                }
            }
            (Some(libc::SOL_SOCKET), Some(libc::SCM_CREDENTIALS)) => {
                let named = [word(data, 0), word(data, 4), word(data, 8)];
                let [Some(process), Some(user), Some(group)] = named else { return Err(Errno::EINVAL) };
                control.credentials = Some([process, user, group].map(u32::from_ne_bytes));
            }
            (Some(libc::SOL_SOCKET), _) => return Err(Errno::EINVAL),
            // What chooses the way of a packet is the host's to check, in the network that the socket is in.
            (Some(libc::IPPROTO_IP | libc::IPPROTO_IPV6), _) => {
                control.internet.extend_from_slice(&rest[..message_len]);
                control.internet.resize(control.internet.len().next_multiple_of(8), 0);
            }
            // A Unix socket overlooks what it does not know, and so do the others.
            _ => {}
        }
        rest = rest.get(message_len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Ok(control)
}

/// How many bytes of control messages the host may give for a program with this much room.
pub fn host_room(pointer: u64, len: u64) -> usize {
    if pointer == 0 { 0 } else { len.min(MOST_RECEIVED) as usize }
}

/// Gives the program what came with a message; returns how many bytes, and sets `MSG_CTRUNC` where its room is too small.
pub fn write(
    ctx: &Ctx<'_>,
    received: &mut Received,
    pointer: u64,
    len: u64,
    flags: i32,
) -> Result<u64, Errno> {
    let room = if pointer == 0 { 0 } else { len as usize };
    let mut bytes = std::mem::take(&mut received.control);
    if received.with_credentials {
        let own =
            [PID as u32, ctx.kernel.identity.uid, ctx.kernel.identity.gid].map(u32::to_ne_bytes).concat();
        append(&mut bytes, received, room, libc::SCM_CREDENTIALS, &own);
    }
    let files = std::mem::take(&mut received.files);
    if !files.is_empty() {
        let fitting = room.saturating_sub(bytes.len() + HEADER) / 4;
        let mut numbers = Vec::new();
        let close_on_exec = if flags & libc::MSG_CMSG_CLOEXEC != 0 { libc::O_CLOEXEC as u32 } else { 0 };
        for file in files.iter().take(fitting) {
            let Ok(fd) = ctx.kernel.install(Arc::clone(file), close_on_exec) else { break };
            numbers.extend_from_slice(&(fd as i32).to_ne_bytes());
        }
        if numbers.len() < 4 * files.len() {
            received.flags |= libc::MSG_CTRUNC;
        }
        if !numbers.is_empty() {
            append(&mut bytes, received, room, libc::SCM_RIGHTS, &numbers);
        }
    }
    if room > 0 {
        ctx.kernel.write_bytes(pointer, &bytes)?;
    }
    Ok(bytes.len() as u64)
}

/// Appends a message of the socket level, cut to the room that there is.
fn append(bytes: &mut Vec<u8>, received: &mut Received, room: usize, kind: i32, data: &[u8]) {
    let left = room.saturating_sub(bytes.len());
    if left < HEADER {
        received.flags |= libc::MSG_CTRUNC;
        return;
    }
    let fitting = data.len().min(left - HEADER);
    if fitting < data.len() {
        received.flags |= libc::MSG_CTRUNC;
    }
    bytes.extend_from_slice(&(HEADER + fitting).to_ne_bytes());
    bytes.extend_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&data[..fitting]);
    let padded = bytes.len().next_multiple_of(8).min(room);
    bytes.resize(padded.max(bytes.len()), 0);
}
