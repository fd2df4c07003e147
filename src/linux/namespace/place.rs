//! What a path leads to.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType};

use super::super::errno::Errno;
use super::super::proc::Special;
use super::super::stat::Attributes;
use super::super::tmpfs::{Content, Ino, Tmpfs};
use super::host::HostNode;

/// Something that exists.
pub struct Place {
    /// Its absolute path without links and `..`.
    pub path: PathBuf,
    /// What it is.
    pub node: Node,
    /// It and what is below cannot be changed.
    pub read_only: bool,
}

/// Something in one of the kinds of file system.
pub enum Node {
    /// Of the host.
    Host(HostNode),
    /// In guest RAM.
    Tmpfs(Arc<Tmpfs>, Ino),
    /// In `/proc` or `/dev`.
    Special(Special),
}

impl Place {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        match &self.node {
            Node::Host(node) => node.kind().is_dir(),
            Node::Tmpfs(fs, ino) => fs.with(|tree| tree.get(*ino).is_ok_and(|inode| inode.entries().is_ok())),
            Node::Special(special) => matches!(special, Special::Directory(_)),
        }
    }

    /// Whether it is a symbolic link, other than those to descriptors in `/proc`.
    pub fn is_link(&self) -> bool {
        match &self.node {
            Node::Host(node) => node.kind().is_symlink(),
            Node::Tmpfs(fs, ino) => {
                fs.with(|tree| tree.get(*ino).is_ok_and(|inode| matches!(inode.content, Content::Link(_))))
            }
            Node::Special(special) => matches!(special, Special::Link(_)),
        }
    }

    /// Where the link leads; `EINVAL` if it is none.
    pub fn target(&self) -> Result<Vec<u8>, Errno> {
        match &self.node {
            Node::Host(node) if node.kind().is_symlink() => {
                Ok(rustix::fs::readlinkat(&node.fd, "", Vec::new())?.into_bytes())
            }
            Node::Tmpfs(fs, ino) => fs.with(|tree| match &tree.get(*ino)?.content {
                Content::Link(target) => Ok(target.clone()),
                _ => Err(Errno::EINVAL),
            }),
            Node::Special(Special::Link(target)) => Ok(target.as_os_str().as_bytes().to_vec()),
            Node::Host(_) | Node::Special(_) => Err(Errno::EINVAL),
        }
    }

    /// What `stat` shows.
    pub fn attributes(&self) -> Result<Attributes, Errno> {
        match &self.node {
            Node::Host(node) => Ok(Attributes::from_host(&node.stat)),
            Node::Tmpfs(fs, ino) => fs.attributes(*ino),
            Node::Special(special) => special.attributes(),
        }
    }

    /// `EROFS` if it cannot be changed.
    pub fn check_changeable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Whether the program may use it so: bits of `access`.
    pub fn check_access(&self, wanted: u32) -> Result<(), Errno> {
        match &self.node {
            Node::Host(node) => {
                if wanted & libc::W_OK as u32 != 0 && !matches!(node.kind(), FileType::CharacterDevice) {
                    self.check_changeable()?;
                }
                let access = rustix::fs::Access::from_bits_truncate(wanted);
                if node.kind().is_symlink() {
                    return Ok(());
                }
                Ok(rustix::fs::accessat(CWD, node.magic(), access, AtFlags::EACCESS)?)
            }
            Node::Tmpfs(fs, ino) => {
                fs.with(|tree| tree.get(*ino)?.check(fs.caller, wanted))?;
                if wanted & libc::W_OK as u32 != 0 { self.check_changeable() } else { Ok(()) }
            }
            Node::Special(special) => {
                let allowed = special.attributes()?.mode >> 6 & 7;
                if wanted & !allowed == 0 { Ok(()) } else { Err(Errno::EACCES) }
            }
        }
    }

    /// A file system other than the host's, and the number of the inode; `EXDEV` otherwise.
    pub fn tmpfs(&self) -> Result<(&Arc<Tmpfs>, Ino), Errno> {
        match &self.node {
            Node::Tmpfs(fs, ino) => Ok((fs, *ino)),
            _ => Err(Errno::EXDEV),
        }
    }
}
