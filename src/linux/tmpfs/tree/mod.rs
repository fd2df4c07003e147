//! The inodes of a tmpfs and the names that lead to them. Plain data without locks: what the calls mean.

mod rename;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::super::mm::ObjectId;
use super::inode::{Caller, Content, EXECUTE, Entries, Ino, Inode, READ, Time, WRITE};
pub use rename::Replace;

/// Number of the root directory.
pub const ROOT: Ino = 1;
/// Most bytes of a name.
pub const NAME_MAX: usize = 255;
/// Bytes of host memory that an inode is counted with, and an entry beside its name.
const INODE_COST: u64 = 320;
const ENTRY_COST: u64 = 160;
/// Most links to one file, as on ext4.
const MOST_LINKS: u32 = 65_000;
/// Most bytes of names and values of the extended attributes of one file.
const MOST_EXTENDED: usize = 64 << 10;

/// Inodes and names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    next: Ino,
    /// Bytes of host memory that all but the files' content takes, and the most that it may.
    held: u64,
    most_held: u64,
    /// Content of files that are gone, for the owner of the tree to give back.
    #[serde(skip)]
    pub freed: Vec<ObjectId>,
}

fn entry_cost(name: &[u8]) -> u64 {
    ENTRY_COST + 2 * name.len() as u64
}

fn inode(content: Content, mode: u32, owner: Caller, links: u32, now: Time) -> Inode {
    Inode {
        content,
        mode: mode & 0o7777,
        uid: owner.uid,
        gid: owner.gid,
        links,
        open: 0,
        times: [now; 3],
        birth: now,
        extended: BTreeMap::new(),
        seals: libc::F_SEAL_SEAL as u32,
    }
}

impl Tree {
    /// A tree with an empty root directory of this mode. `most_held`: bytes that names and attributes may take.
    pub fn new(mode: u32, owner: Caller, most_held: u64, now: Time) -> Tree {
        let root = inode(Content::Directory(Entries::new(ROOT)), mode, owner, 2, now);
        let inodes = [(ROOT, root)].into();
        Tree { inodes, next: ROOT + 1, held: INODE_COST, most_held, freed: Vec::new() }
    }

    /// Says that nothing is open, as in a program that is restored until its files are opened anew.
    pub fn forget_open(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.open = 0);
    }

    /// Frees what nothing leads to.
    pub fn reap_all(&mut self) {
        let lost: Vec<Ino> = self
            .inodes
            .iter()
            .filter(|(_, inode)| inode.links == 0 && inode.open == 0)
            .map(|(ino, _)| *ino)
            .collect();
        lost.into_iter().for_each(|ino| self.reap(ino));
    }

    /// An inode; `ENOENT` if it is gone.
    pub fn get(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::ENOENT)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    /// Bytes of host memory in use and allowed, and how many inodes there are.
    pub fn usage(&self) -> (u64, u64, u64) {
        (self.held, self.most_held, self.inodes.len() as u64)
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Errno> {
        if self.most_held.saturating_sub(self.held) < bytes {
            return Err(Errno::ENOSPC);
        }
        self.held += bytes;
        Ok(())
    }

    /// The inode of a name in a directory that `caller` may search.
    pub fn lookup(&self, directory: Ino, name: &[u8], caller: Caller) -> Result<Ino, Errno> {
        let parent = self.get(directory)?;
        let entries = parent.entries()?;
        parent.check(caller, EXECUTE)?;
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        entries.get(name).ok_or(Errno::ENOENT)
    }

    /// Checks that `caller` may add or remove names in a directory that still has one itself.
    fn check_changeable(&self, directory: Ino, caller: Caller) -> Result<(), Errno> {
        let parent = self.get(directory)?;
        parent.entries()?;
        if parent.links == 0 {
            return Err(Errno::ENOENT);
        }
        parent.check(caller, WRITE | EXECUTE)
    }

    /// Checks that `caller` may take the name of `ino` out of a directory: in a sticky one only its owner and the file's may.
    fn check_removable(&self, directory: Ino, ino: Ino, caller: Caller) -> Result<(), Errno> {
        self.check_changeable(directory, caller)?;
        let parent = self.get(directory)?;
        let sticky = parent.mode & libc::S_ISVTX != 0;
        let owns =
            [parent.uid, self.get(ino)?.uid, 0].iter().any(|uid| *uid == caller.uid || caller.uid == 0);
        if sticky && !owns { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Makes a file and its name. `content` is made when everything else is in order.
    pub fn create(
        &mut self,
        directory: Ino,
        name: &[u8],
        (caller, mode, now): (Caller, u32, Time),
        content: impl FnOnce() -> Content,
    ) -> Result<Ino, Errno> {
        match self.lookup(directory, name, caller) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.check_changeable(directory, caller)?;
        let parent = self.get(directory)?;
        // In a directory with the set-group-ID bit, files get its group, and directories the bit as well.
        let inherits = parent.mode & libc::S_ISGID != 0;
        let owner = if inherits { Caller { gid: parent.gid, ..caller } } else { caller };
        self.charge(INODE_COST + entry_cost(name))?;
        let content = content();
        let is_directory = matches!(content, Content::Directory(_));
        if let Content::Link(target) = &content
            && let Err(error) = self.charge(target.len() as u64)
        {
            self.held -= INODE_COST + entry_cost(name);
            return Err(error);
        }
        let mode = if inherits && is_directory { mode | libc::S_ISGID } else { mode };
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, inode(content, mode, owner, if is_directory { 2 } else { 1 }, now));
        let parent = self.get_mut(directory)?;
        parent.links += u32::from(is_directory);
        parent.modified(now);
        parent.entries_mut()?.insert(name, ino);
        Ok(ino)
    }

    /// Makes a directory.
    pub fn make_directory(&mut self, at: Ino, name: &[u8], by: (Caller, u32, Time)) -> Result<Ino, Errno> {
        self.create(at, name, by, || Content::Directory(Entries::new(at)))
    }

    /// Makes an open file without a name.
    pub fn create_unnamed(
        &mut self,
        (caller, mode, now): (Caller, u32, Time),
        object: ObjectId,
    ) -> Result<Ino, Errno> {
        self.charge(INODE_COST)?;
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, Inode { open: 1, ..inode(Content::File(object), mode, caller, 0, now) });
        Ok(ino)
    }

    /// Gives a file another name. `unnamed`: it may have none yet.
    pub fn link(
        &mut self,
        ino: Ino,
        directory: Ino,
        name: &[u8],
        (caller, now): (Caller, Time),
        unnamed: bool,
    ) -> Result<(), Errno> {
        let file = self.get(ino)?;
        match &file.content {
            Content::Directory(_) => return Err(Errno::EPERM),
            _ if file.links == 0 && !unnamed => return Err(Errno::ENOENT),
            _ if file.links >= MOST_LINKS => return Err(Errno::EMLINK),
            _ => {}
        }
        match self.lookup(directory, name, caller) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.check_changeable(directory, caller)?;
        self.charge(entry_cost(name))?;
        let file = self.get_mut(ino)?;
        file.links += 1;
        file.times[2] = now;
        let parent = self.get_mut(directory)?;
        parent.modified(now);
        parent.entries_mut()?.insert(name, ino);
        Ok(())
    }

    /// Removes the name of a file, or of an empty directory.
    pub fn unlink(
        &mut self,
        directory: Ino,
        name: &[u8],
        (caller, now): (Caller, Time),
        is_directory: bool,
    ) -> Result<(), Errno> {
        let ino = self.lookup(directory, name, caller)?;
        self.check_removable(directory, ino, caller)?;
        match (&self.get(ino)?.content, is_directory) {
            (Content::Directory(entries), true) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
            (Content::Directory(_), false) => return Err(Errno::EISDIR),
            (Content::Directory(_), true) | (_, false) => {}
            (_, true) => return Err(Errno::ENOTDIR),
        }
        self.take_name(directory, name, now)
    }

    /// Takes a name away; the file goes with its last name if nobody has it open.
    fn take_name(&mut self, directory: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        let parent = self.get_mut(directory)?;
        parent.modified(now);
        let Some(ino) = parent.entries_mut()?.remove(name) else { return Ok(()) };
        self.held -= entry_cost(name);
        self.lose_name(ino, directory, now)
    }

    /// One name less for `ino`, which was in `directory`.
    fn lose_name(&mut self, ino: Ino, directory: Ino, now: Time) -> Result<(), Errno> {
        let file = self.get_mut(ino)?;
        file.times[2] = now;
        if matches!(file.content, Content::Directory(_)) {
            file.links = 0;
            self.get_mut(directory)?.links -= 1;
        } else {
            file.links -= 1;
        }
        self.reap(ino);
        Ok(())
    }

    /// Frees a file that has no name and is not open.
    pub fn reap(&mut self, ino: Ino) {
        let Some(file) = self.inodes.get(&ino).filter(|file| file.links == 0 && file.open == 0) else {
            return;
        };
        let mut bytes = INODE_COST + extended_size(&file.extended) as u64;
        match &file.content {
            Content::File(object) => self.freed.push(*object),
            Content::Link(target) => bytes += target.len() as u64,
            _ => {}
        }
        self.held = self.held.saturating_sub(bytes);
        self.inodes.remove(&ino);
    }

    /// The path of a directory below the root, without it; `ENOENT` if it was removed.
    pub fn path_of(&self, directory: Ino) -> Result<Vec<u8>, Errno> {
        let mut parts = Vec::new();
        let mut at = directory;
        while at != ROOT {
            let inode = self.get(at)?;
            if inode.links == 0 {
                return Err(Errno::ENOENT);
            }
            let parent = inode.entries()?.parent;
            parts.push(self.get(parent)?.entries()?.name_of(at).ok_or(Errno::ENOENT)?);
            at = parent;
        }
        parts.reverse();
        Ok(parts.join(&b'/'))
    }

    /// Sets an extended attribute. `flags`: `XATTR_CREATE` or `XATTR_REPLACE`.
    pub fn set_extended(&mut self, ino: Ino, name: &[u8], value: Vec<u8>, flags: i32) -> Result<(), Errno> {
        let file = self.get(ino)?;
        let old = file.extended.get(name);
        match flags {
            libc::XATTR_CREATE if old.is_some() => return Err(Errno::EEXIST),
            libc::XATTR_REPLACE if old.is_none() => return Err(Errno::ENODATA),
            _ => {}
        }
        let freed = old.map_or(0, |old| name.len() + old.len());
        let added = name.len() + value.len();
        if extended_size(&file.extended) - freed + added > MOST_EXTENDED {
            return Err(Errno::ENOSPC);
        }
        self.charge(added as u64)?;
        self.held -= freed as u64;
        self.get_mut(ino)?.extended.insert(name.to_vec(), value);
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn remove_extended(&mut self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        let old = self.get_mut(ino)?.extended.remove(name).ok_or(Errno::ENODATA)?;
        self.held -= (name.len() + old.len()) as u64;
        Ok(())
    }

    /// Checks that a file may be opened for reading, and writing.
    pub fn check_open(&self, ino: Ino, caller: Caller, (reads, writes): (bool, bool)) -> Result<(), Errno> {
        let wanted = if reads { READ } else { 0 } | if writes { WRITE } else { 0 };
        self.get(ino)?.check(caller, wanted)
    }
}

fn extended_size(extended: &BTreeMap<Vec<u8>, Vec<u8>>) -> usize {
    extended.iter().map(|(name, value)| name.len() + value.len()).sum()
}
