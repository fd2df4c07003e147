//! The host's socket calls. The module's `unsafe` is the passing of addresses, options and guest RAM to the host's kernel.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::Received;

/// Bytes of the largest address.
const ADDRESS: usize = 128;
/// Most parts of a message.
const PARTS: usize = 1024;

fn check(result: i32) -> Result<i32, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

fn own(fd: i32) -> Result<OwnedFd, Errno> {
    let fd = check(fd)?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// `socket`.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes no pointers.
    own(unsafe { libc::socket(domain, kind | FLAGS, protocol) })
}

/// Brings up the loopback interface of the calling thread's network.
pub fn loopback_up() -> Result<(), Errno> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request reads an ifreq, which lives across the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// An `ioctl` that answers with an `int`.
pub fn ask_int(fd: BorrowedFd<'_>, request: libc::c_ulong) -> Result<i32, Errno> {
    let mut answer = 0;
    // SAFETY: the request writes an int, which lives across the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut answer) })?;
    Ok(answer)
}

/// `connect`.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length are those of the slice.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) }).map(drop)
}

/// `bind`.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length are those of the slice.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) }).map(drop)
}

/// `listen`.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// `shutdown`.
pub fn shutdown(fd: BorrowedFd<'_>, how: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// `accept4`: the connection and the peer's address.
pub fn accept(fd: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let mut accepted = -1;
    let address = address_from(|address, len| {
        // SAFETY: the buffer is as long as `len` says.
        accepted = unsafe { libc::accept4(fd.as_raw_fd(), address, len, FLAGS) };
        accepted
    })?;
    Ok((own(accepted)?, address))
}

/// `getsockname`.
pub fn local_address(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    // SAFETY: the buffer is as long as `len` says.
    address_from(|address, len| unsafe { libc::getsockname(fd.as_raw_fd(), address, len) })
}

/// `getpeername`.
pub fn peer_address(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    // SAFETY: the buffer is as long as `len` says.
    address_from(|address, len| unsafe { libc::getpeername(fd.as_raw_fd(), address, len) })
}

fn address_from(call: impl FnOnce(*mut libc::sockaddr, *mut u32) -> i32) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; ADDRESS];
    let mut len = ADDRESS as u32;
    check(call(bytes.as_mut_ptr().cast(), &raw mut len))?;
    bytes.truncate((len as usize).min(ADDRESS));
    Ok(bytes)
}

/// `getsockopt` into at most `room` bytes.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; room];
    let mut len = room as u32;
    // SAFETY: the buffer is as long as `len` says.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, bytes.as_mut_ptr().cast(), &raw mut len) })?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// `setsockopt`.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let len = value.len() as u32;
    // SAFETY: pointer and length are those of the slice.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) }).map(drop)
}

fn vectors(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let part =
        |s: &VolatileSlice<'_>| libc::iovec { iov_base: s.ptr_guard_mut().as_ptr().cast(), iov_len: s.len() };
    slices.iter().take(PARTS).map(part).collect()
}

/// `recvmsg` without waiting, with at most `control_room` bytes of control messages. Descriptors among them are closed.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    into: &[VolatileSlice<'_>],
    flags: i32,
    control_room: usize,
) -> Result<Received, Errno> {
    let mut parts = vectors(into);
    let mut address = vec![0u8; ADDRESS];
    let mut control = vec![0u8; control_room];
    // SAFETY: all zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = address.as_mut_ptr().cast();
    header.msg_namelen = address.len() as u32;
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len();
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header describes live buffers with their lengths; guest RAM tolerates any content.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let bytes = usize::try_from(got).map_err(|_| Errno::last())?;
    address.truncate(header.msg_namelen as usize);
    let (control, closed) = without_files(&header);
    let lost = if closed { libc::MSG_CTRUNC } else { 0 };
    let flags = header.msg_flags & !libc::MSG_CMSG_CLOEXEC | lost;
    Ok(Received { bytes, address, control, flags, ..Received::default() })
}

/// The control messages of a header that `recvmsg` has filled, less those that bring descriptors, which are closed; and whether there
/// were such.
fn without_files(header: &libc::msghdr) -> (Vec<u8>, bool) {
    let (mut kept, mut closed) = (Vec::new(), false);
    // SAFETY: the kernel wrote well-formed messages into the header's buffer, which the caller still owns.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            let message = std::ptr::read_unaligned(at);
            let data = libc::CMSG_DATA(at);
            let len = message.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            if (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                closed = true;
                for i in 0..len / size_of::<i32>() {
                    drop(OwnedFd::from_raw_fd(std::ptr::read_unaligned(data.cast::<i32>().add(i))));
                }
            } else {
                kept.extend_from_slice(std::slice::from_raw_parts(at.cast::<u8>(), message.cmsg_len));
                kept.resize(kept.len().next_multiple_of(size_of::<usize>()), 0);
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    (kept, closed)
}

/// `sendmsg` without waiting and without `SIGPIPE`.
pub fn send(
    fd: BorrowedFd<'_>,
    from: &[VolatileSlice<'_>],
    address: Option<&[u8]>,
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    let mut parts = vectors(from);
    // SAFETY: all zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(address) = address {
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len() as u32;
    }
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len();
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len();
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header describes live buffers with their lengths, which the kernel only reads.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
    usize::try_from(sent).map_err(|_| Errno::last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    };
    use std::io::{IoSlice, Read};
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_that_a_peer_sends_are_closed() {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .expect("a pair of sockets");
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let files = [writer.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        rustix::net::sendmsg(&theirs, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())
            .expect("it is sent");
        drop(writer);
        let mut byte = [0];
        let received =
            receive(ours.as_fd(), &[VolatileSlice::from(&mut byte[..])], 0, 64).expect("it is received");
        assert_eq!((received.bytes, byte, received.control.len()), (1, *b"x", 0));
        assert_ne!(received.flags & libc::MSG_CTRUNC, 0);
        // The end comes only when no copy of the other end is open.
        assert_eq!(reader.read(&mut byte).expect("the pipe is read"), 0);
    }
}
