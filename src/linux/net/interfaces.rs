//! The older way to ask for network interfaces: `ioctl` on any socket. What is asked is the network that the program's sockets are in.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::super::context::Ctx;
use super::super::errno::{Errno, SysResult};

/// Bytes of `struct ifreq`: a name of 16, and what is asked.
const REQUEST: usize = 40;
/// Most interfaces that are listed.
const MOST: usize = 256;

/// Requests that only ask, each with a `struct ifreq` that is filled in.
const QUESTIONS: [libc::c_ulong; 11] = [
    libc::SIOCGIFNAME,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFADDR,
    libc::SIOCGIFDSTADDR,
    libc::SIOCGIFBRDADDR,
    libc::SIOCGIFNETMASK,
    libc::SIOCGIFMETRIC,
    libc::SIOCGIFMTU,
    libc::SIOCGIFHWADDR,
    libc::SIOCGIFTXQLEN,
];

/// Serves a request on a socket; `None` if it is not about interfaces.
pub fn ioctl(ctx: &Ctx<'_>, request: u32, pointer: u64) -> Option<SysResult> {
    let request = libc::c_ulong::from(request);
    if request == libc::SIOCGIFCONF {
        Some(list(ctx, pointer))
    } else if QUESTIONS.contains(&request) {
        Some(ask(ctx, request, pointer))
    } else {
        None
    }
}

/// A socket of the network that is asked.
fn asking(ctx: &Ctx<'_>) -> Result<OwnedFd, Errno> {
    ctx.kernel.network.socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
}

fn ask(ctx: &Ctx<'_>, request: libc::c_ulong, pointer: u64) -> SysResult {
    let mut bytes: [u8; REQUEST] = ctx.kernel.read(pointer)?;
    let socket = asking(ctx)?;
    call(&socket, request, bytes.as_mut_ptr().cast())?;
    ctx.kernel.write(pointer, &bytes).map(|()| 0)
}

/// `struct ifconf`: a length, and where the list goes; a null pointer asks for the length.
fn list(ctx: &Ctx<'_>, pointer: u64) -> SysResult {
    let [room, buffer] = ctx.kernel.read::<[u64; 2]>(pointer)?;
    let mut found = [0u8; REQUEST * MOST];
    let mut answer = libc::ifconf {
        ifc_len: found.len() as i32,
        ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_buf: found.as_mut_ptr().cast() },
    };
    call(&asking(ctx)?, libc::SIOCGIFCONF, (&raw mut answer).cast())?;
    let mut len = usize::try_from(answer.ifc_len).unwrap_or(0).min(found.len());
    if buffer != 0 {
        let room = usize::try_from(room as u32 as i32).map_err(|_| Errno::EINVAL)?;
        len = len.min(room / REQUEST * REQUEST);
        ctx.kernel.write_bytes(buffer, &found[..len])?;
    }
    ctx.kernel.write(pointer, &(len as u32)).map(|()| 0)
}

fn call(socket: &OwnedFd, request: libc::c_ulong, argument: *mut libc::c_void) -> Result<(), Errno> {
    // SAFETY: the request reads and writes the structure that `argument` points to, which lives across the call, and the buffer that
    // it names with its length.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, argument) };
    if done < 0 { Err(Errno::last()) } else { Ok(()) }
}
