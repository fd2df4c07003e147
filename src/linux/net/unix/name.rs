//! Names of Unix sockets: paths, and abstract names that only this program sees.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::super::super::errno::Errno;
use super::super::super::kernel::{Kernel, PID};
use super::super::super::namespace::{Node, Place};
use super::table::Kind;

/// Bytes of the path in `struct sockaddr_un`.
const LONGEST: usize = 108;

/// A socket's node in the file tree, whichever path leads to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId {
    /// The file system's number.
    pub device: u64,
    /// The node's number in it.
    pub inode: u64,
}

/// What tells one name from another.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Key {
    /// A name outside of the file tree: each kind of socket has its own.
    Abstract(Kind, Vec<u8>),
    /// A node of it.
    Node(NodeId),
}

/// The name of a socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Name {
    /// `sun_path` as the program gave it; a path without its end.
    pub path: Vec<u8>,
    /// What it is found by. A connection shows its listener's name, but is not found by it.
    pub key: Option<Key>,
}

impl Name {
    /// The address of a socket without a name.
    pub fn unnamed() -> Vec<u8> {
        (libc::AF_UNIX as u16).to_ne_bytes().to_vec()
    }

    /// `struct sockaddr_un`.
    pub fn address(&self) -> Vec<u8> {
        let mut bytes = Self::unnamed();
        bytes.extend_from_slice(&self.path);
        if self.path.first().is_some_and(|b| *b != 0) {
            bytes.push(0);
        }
        bytes
    }
}

/// What an address that the program passed says.
pub enum Asked {
    /// No name: any will do.
    Any,
    /// A name outside of the file tree, with the zero that it begins with.
    Abstract(Vec<u8>),
    /// A path.
    Path(Vec<u8>),
}

/// Takes `struct sockaddr_un` apart.
pub fn parse(address: &[u8]) -> Result<Asked, Errno> {
    let (family, path) = address.split_first_chunk().ok_or(Errno::EINVAL)?;
    if u16::from_ne_bytes(*family) != libc::AF_UNIX as u16 || path.len() > LONGEST {
        return Err(Errno::EINVAL);
    }
    Ok(match path.first() {
        None => Asked::Any,
        Some(0) => Asked::Abstract(path.to_vec()),
        Some(_) => Asked::Path(path.split(|b| *b == 0).next().unwrap_or_default().to_vec()),
    })
}

/// Makes a node at a path that the program gave.
pub fn make_node(kernel: &Kernel, path: &[u8]) -> Result<NodeId, Errno> {
    const MODE: u32 = 0o777;
    let made = kernel.make_node(PID, libc::AT_FDCWD, path, libc::S_IFSOCK, MODE);
    let place = made.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
    node_of(&place)
}

fn node_of(place: &Place) -> Result<NodeId, Errno> {
    let attributes = place.attributes()?;
    Ok(NodeId { device: attributes.device, inode: attributes.inode })
}

/// Whether there is something at a path already.
pub fn is_taken(kernel: &Kernel, path: &[u8]) -> bool {
    kernel.walk(PID, libc::AT_FDCWD, path, false).is_ok()
}

/// A node that was found.
pub struct Found {
    /// Which one.
    pub node: NodeId,
    /// Stands for it on the host, if it is there.
    pub host: Option<OwnedFd>,
}

/// The node that a path leads to; `ECONNREFUSED` if something else is there.
pub fn find_node(kernel: &Kernel, path: &[u8]) -> Result<Found, Errno> {
    let place = kernel.walk(PID, libc::AT_FDCWD, path, true)?;
    if place.attributes()?.mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(Errno::ECONNREFUSED);
    }
    let node = node_of(&place)?;
    let host = match place.node {
        Node::Host(found) => Some(found.fd),
        _ => None,
    };
    Ok(Found { node, host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        let address = |path: &[u8]| [&1u16.to_ne_bytes(), path].concat();
        assert!(matches!(parse(&address(b"")), Ok(Asked::Any)));
        assert!(matches!(parse(&address(b"\0ab\0")), Ok(Asked::Abstract(name)) if name == b"\0ab\0"));
        assert!(matches!(parse(&address(b"/s\0rest")), Ok(Asked::Path(path)) if path == b"/s"));
        assert!(matches!(parse(&address(&[b'x'; 108])), Ok(Asked::Path(path)) if path.len() == 108));
        for wrong in [&b""[..], b"\x01", b"\x02\0/s", &address(&[b'x'; 109])] {
            assert!(matches!(parse(wrong), Err(Errno::EINVAL)), "{wrong:?}");
        }
        let name = |path: &[u8]| Name { path: path.to_vec(), key: None }.address();
        assert_eq!(name(b"/s"), address(b"/s\0"));
        assert_eq!(name(b"\0s"), address(b"\0s"));
    }
}
