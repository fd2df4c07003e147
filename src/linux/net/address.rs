//! Socket addresses: from the guest to the host, checked; and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::super::context::Ctx;
use super::super::errno::{Errno, SysResult};
use super::Socket;

/// Bytes of `struct sockaddr_storage`, the largest address.
const LARGEST: usize = 128;
/// Bytes of the path in `struct sockaddr_un`, and of the structure.
const UNIX_PATH: usize = 108;

/// An address as the host takes it.
pub struct HostAddress {
    /// `struct sockaddr` of its family.
    pub bytes: Vec<u8>,
    /// Keeps the directory open through which a Unix socket's path is reached.
    _directory: Option<OwnedFd>,
    /// A Unix socket's path as the guest wrote it.
    pub name: Option<Vec<u8>>,
}

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To listen on, or to be seen as.
    Bind,
    /// To connect or send to.
    Reach,
}

/// Reads and checks an address that the guest passed.
pub fn read(ctx: &Ctx<'_>, socket: &Socket, pointer: u64, len: u32, purpose: Use) -> Result<HostAddress, Errno> {
    let len = len as usize;
    if !(2..=LARGEST).contains(&len) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    ctx.kernel.read_bytes(pointer, &mut bytes)?;
    let family = i32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    if let Some(address) = ip(family, &bytes)? {
        match purpose {
            Use::Bind => ctx.kernel.network.check_local(address)?,
            Use::Reach => ctx.kernel.network.check_remote(address)?,
        }
        return Ok(HostAddress { bytes, _directory: None, name: None });
    }
    match family {
        libc::AF_UNSPEC if purpose == Use::Reach => Ok(HostAddress { bytes, _directory: None, name: None }),
        libc::AF_UNIX if socket.domain == libc::AF_UNIX => unix(ctx, bytes, purpose),
        libc::AF_UNIX | libc::AF_UNSPEC => Err(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The internet address in an address of the host's, if it is one.
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let family = u16::from_le_bytes(*bytes.first_chunk()?);
    ip(i32::from(family), bytes).ok().flatten()
}

fn ip(family: i32, bytes: &[u8]) -> Result<Option<IpAddr>, Errno> {
    match family {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
            Ok(Some(Ipv4Addr::from(octets).into()))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
            Ok(Some(Ipv6Addr::from(octets).into()))
        }
        _ => Ok(None),
    }
}

/// A Unix socket's path leads the host through a descriptor of its directory, resolved below the guest's root.
fn unix(ctx: &Ctx<'_>, bytes: Vec<u8>, purpose: Use) -> Result<HostAddress, Errno> {
    let path = &bytes[2..];
    if path.is_empty() || path[0] == 0 {
        // Without a name, or with an abstract one.
        if !path.is_empty() && !ctx.kernel.network.allows_abstract_names() {
            return Err(Errno::EACCES);
        }
        return Ok(HostAddress { bytes, _directory: None, name: None });
    }
    let path = path.split(|b| *b == 0).next().unwrap_or_default();
    let absolute = ctx.kernel.path_at(libc::AT_FDCWD, path)?;
    let (directory, host) = if purpose == Use::Bind {
        let entry = ctx.kernel.namespace.entry(&absolute).map_err(|e| match e {
            Errno::EBUSY => Errno::EADDRINUSE,
            other => other,
        })?;
        let host = format!("/proc/self/fd/{}/", entry.parent.as_raw_fd()).into_bytes();
        (entry.parent, [&host, entry.name.as_os_str().as_bytes()].concat())
    } else {
        // What listens below a read-only mount is the host's, not a peer of the program's own making.
        if ctx.kernel.namespace.is_read_only(&absolute) && ctx.kernel.network != super::Policy::Open {
            return Err(Errno::EACCES);
        }
        let found = ctx.kernel.namespace.find(&absolute, true)?;
        let host = format!("/proc/self/fd/{}", found.as_raw_fd()).into_bytes();
        (found, host)
    };
    if host.len() >= UNIX_PATH {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut address = (libc::AF_UNIX as u16).to_le_bytes().to_vec();
    address.extend_from_slice(&host);
    address.push(0);
    Ok(HostAddress { bytes: address, _directory: Some(directory), name: Some(path.to_vec()) })
}

/// Gives an address to the guest: as much as its buffer holds, and the true length.
pub fn write(ctx: &Ctx<'_>, address: &[u8], pointer: u64, len_pointer: u64) -> SysResult {
    if pointer == 0 || len_pointer == 0 {
        return Ok(0);
    }
    let room = ctx.kernel.read::<i32>(len_pointer)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    ctx.kernel.write_bytes(pointer, &address[..address.len().min(room)])?;
    ctx.kernel.write(len_pointer, &(address.len() as u32))?;
    Ok(0)
}

/// The address that the host gave, with a Unix socket's path replaced by the guest's name of it.
pub fn shown(host: Vec<u8>, name: Option<Vec<u8>>) -> Vec<u8> {
    match name {
        Some(name) if host.starts_with(&(libc::AF_UNIX as u16).to_le_bytes()) => {
            let mut bytes = (libc::AF_UNIX as u16).to_le_bytes().to_vec();
            bytes.extend_from_slice(&name);
            bytes.push(0);
            bytes
        }
        _ => host,
    }
}
