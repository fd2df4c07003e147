//! The host's socket calls. The module's `unsafe` is the passing of addresses, options and guest RAM to the host's kernel.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use vm_memory::VolatileSlice;

use super::super::errno::Errno;

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

/// `socketpair`.
pub fn pair(domain: i32, kind: i32, protocol: i32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut pair = [0; 2];
    // SAFETY: the array has room for two descriptors.
    check(unsafe { libc::socketpair(domain, kind | FLAGS, protocol, pair.as_mut_ptr()) })?;
    Ok((own(pair[0])?, own(pair[1])?))
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
    let part = |s: &VolatileSlice<'_>| libc::iovec { iov_base: s.ptr_guard_mut().as_ptr().cast(), iov_len: s.len() };
    slices.iter().take(PARTS).map(part).collect()
}

/// What was received.
pub struct Received {
    /// Bytes of data.
    pub bytes: usize,
    /// The sender's address, if it was asked for.
    pub address: Vec<u8>,
    /// Control messages.
    pub control: Vec<u8>,
    /// `MSG_…` flags of the message.
    pub flags: i32,
}

/// `recvmsg` without waiting. `address_room` and `control_room` are how much of these is wanted.
pub fn receive(
    fd: BorrowedFd<'_>,
    into: &[VolatileSlice<'_>],
    flags: i32,
    address_room: usize,
    control_room: usize,
) -> Result<Received, Errno> {
    let mut parts = vectors(into);
    let mut address = vec![0u8; address_room.min(ADDRESS)];
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
    control.truncate(header.msg_controllen);
    Ok(Received { bytes, address, control, flags: header.msg_flags })
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
