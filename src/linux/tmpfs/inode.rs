//! What a tmpfs keeps of a file: plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::super::mm::ObjectId;

/// Number of an inode in its file system, never used twice.
pub type Ino = u64;
/// Seconds and nanoseconds since 1970.
pub type Time = (i64, i64);

/// The user as whom the program's calls are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// User; 0 may do everything.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// Rights to a file, as in its mode: execute or search, write, read.
pub const EXECUTE: u32 = 1;
/// See [`EXECUTE`].
pub const WRITE: u32 = 2;
/// See [`EXECUTE`].
pub const READ: u32 = 4;

impl Caller {
    /// Whether a file of this mode and owner may be used so.
    pub fn may(self, mode: u32, uid: u32, gid: u32, wanted: u32) -> bool {
        if self.uid == 0 {
            // Even the superuser executes only what somebody may execute.
            let is_directory = mode & libc::S_IFMT == libc::S_IFDIR;
            return wanted & EXECUTE == 0 || is_directory || mode & 0o111 != 0;
        }
        let allowed = match () {
            () if uid == self.uid => mode >> 6,
            () if gid == self.gid => mode >> 3,
            () => mode,
        };
        wanted & !allowed & 7 == 0
    }
}

/// What a file is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Content {
    /// A regular file.
    File(ObjectId),
    /// A directory.
    Directory(Entries),
    /// A symbolic link to this.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// The name of a Unix socket.
    Socket,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// What it is.
    pub content: Content,
    /// Permission bits, with the three special ones.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that it has; of a directory two, and one for each directory in it.
    pub links: u32,
    /// Open files of it.
    pub open: u32,
    /// Access, modification, change.
    pub times: [Time; 3],
    /// When it was made.
    pub birth: Time,
    /// Extended attributes.
    pub extended: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What may not be done to a memory file any more: `F_SEAL_…`. Other files can be given none.
    pub seals: u32,
}

impl Inode {
    /// The type bits of `st_mode`.
    pub fn kind(&self) -> u32 {
        match self.content {
            Content::File(_) => libc::S_IFREG,
            Content::Directory(_) => libc::S_IFDIR,
            Content::Link(_) => libc::S_IFLNK,
            Content::Fifo => libc::S_IFIFO,
            Content::Socket => libc::S_IFSOCK,
        }
    }

    /// `EACCES` unless `caller` may use it so.
    pub fn check(&self, caller: Caller, wanted: u32) -> Result<(), Errno> {
        let mode = self.mode | self.kind();
        if caller.may(mode, self.uid, self.gid, wanted) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// `EPERM` unless `caller` owns it.
    pub fn check_owner(&self, caller: Caller) -> Result<(), Errno> {
        if caller.uid == 0 || caller.uid == self.uid { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The entries of a directory.
    pub fn entries(&self) -> Result<&Entries, Errno> {
        match &self.content {
            Content::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The same, to be changed.
    pub fn entries_mut(&mut self) -> Result<&mut Entries, Errno> {
        match &mut self.content {
            Content::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Its content changed.
    pub fn modified(&mut self, now: Time) {
        (self.times[1], self.times[2]) = (now, now);
    }
}

/// The entries of a directory. Each has a position that stays while others come and go, so that a listing can go on where it stood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entries {
    /// The directory that holds this one; the root's is the root.
    pub parent: Ino,
    names: BTreeMap<Vec<u8>, (Ino, u64)>,
    order: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Entries {
    /// Those of an empty directory.
    pub fn new(parent: Ino) -> Entries {
        // The first two positions are those of `.` and `..`.
        Entries { parent, names: BTreeMap::new(), order: BTreeMap::new(), next: 2 }
    }

    /// The inode of a name.
    pub fn get(&self, name: &[u8]) -> Option<Ino> {
        self.names.get(name).map(|(ino, _)| *ino)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds a name, or gives it another inode; returns the old one.
    pub fn insert(&mut self, name: &[u8], ino: Ino) -> Option<Ino> {
        if let Some(entry) = self.names.get_mut(name) {
            return Some(std::mem::replace(&mut entry.0, ino));
        }
        self.names.insert(name.to_vec(), (ino, self.next));
        self.order.insert(self.next, name.to_vec());
        self.next += 1;
        None
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &[u8]) -> Option<Ino> {
        let (ino, position) = self.names.remove(name)?;
        self.order.remove(&position);
        Some(ino)
    }

    /// Entries from a position on: position, name, inode.
    pub fn from(&self, position: u64) -> impl Iterator<Item = (u64, &[u8], Ino)> {
        self.order
            .range(position..)
            .filter_map(|(at, name)| Some((*at, name.as_slice(), self.names.get(name)?.0)))
    }

    /// The name of an inode, if it is here.
    pub fn name_of(&self, ino: Ino) -> Option<&[u8]> {
        self.names.iter().find(|(_, (there, _))| *there == ino).map(|(name, _)| name.as_slice())
    }
}
