//! A file system in guest RAM: `/tmp` of a function, `/dev/shm`, memory files.
//!
//! | file | holds |
//! |---|---|
//! | `inode.rs` | what is kept of a file, and who may do what with it |
//! | `tree/` | names and inodes: making, linking, renaming, removing |
//! | `file.rs` | open files |
//! | `directory.rs` | open directories |
//!
//! The content of files lies in guest RAM as objects of the address space (`mm/object/`), so it is bounded by the file system's size and by
//! the RAM, shared mappings are the file itself, and a checkpoint saves it like all RAM. Names, modes, times, links and attributes are
//! plain data in host memory, counted and bounded too: see [`NAMES_SHARE`].
//!
//! Between the look at a path and the operation on what was found the file may go: the number of an inode is never used
//! twice, so the operation then fails with `ENOENT`, as it would had it come later.

mod directory;
mod file;
mod inode;
mod tree;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::errno::Errno;
use super::mm::{AddressSpace, PoolId};
use super::stat::Attributes;

use crate::sync::lock;
pub use directory::OpenDirectory;
pub use file::OpenFile;
pub use inode::{Caller, Content, EXECUTE, Ino, Time, WRITE};
pub use tree::{NAME_MAX, ROOT, Replace, Tree};

/// Host memory for names and the like is at most this share of the file system's size…
const NAMES_SHARE: u64 = 8;
/// … and within these bounds.
const NAMES_BOUNDS: (u64, u64) = (256 << 10, 32 << 20);
const FRAME: u64 = crate::vmm::FRAME_SIZE;

/// A file system. Its lock comes before that of the address space.
pub struct Tmpfs {
    /// `st_dev` of its files.
    pub device: u64,
    /// As whom the program is checked.
    pub caller: Caller,
    pool: PoolId,
    space: Arc<Mutex<AddressSpace>>,
    tree: Mutex<Tree>,
}

/// A file system in a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedTmpfs {
    pool: PoolId,
    tree: Tree,
}

/// The time now, as files have it.
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec, now.tv_nsec)
}

impl Tmpfs {
    /// An empty one for `size` bytes of content, whose root has this mode and belongs to `caller`. `number` tells it from others in the VM.
    pub fn new(
        number: u32,
        size: u64,
        mode: u32,
        caller: Caller,
        space: &Arc<Mutex<AddressSpace>>,
    ) -> Arc<Tmpfs> {
        let most_held = (size / NAMES_SHARE).clamp(NAMES_BOUNDS.0, NAMES_BOUNDS.1);
        let pool = lock(space).new_pool(size);
        let tree = Tree::new(mode, caller, most_held, now());
        let device = rustix::fs::makedev(0, 64 + number);
        Arc::new(Tmpfs { device, caller, pool, space: Arc::clone(space), tree: tree.into() })
    }

    /// The file system that was saved, over an address space that was restored. Nothing in it is open; `None` if its pool is missing.
    pub fn restore(
        number: u32,
        saved: SavedTmpfs,
        caller: Caller,
        space: &Arc<Mutex<AddressSpace>>,
    ) -> Option<Arc<Tmpfs>> {
        if !lock(space).has_pool(saved.pool) {
            return None;
        }
        let SavedTmpfs { pool, mut tree } = saved;
        tree.forget_open();
        let device = rustix::fs::makedev(0, 64 + number);
        Some(Arc::new(Tmpfs { device, caller, pool, space: Arc::clone(space), tree: tree.into() }))
    }

    /// What a checkpoint keeps. The content of files is in guest RAM.
    pub fn save(&self) -> SavedTmpfs {
        SavedTmpfs { pool: self.pool, tree: self.with(|tree| tree.clone()) }
    }

    fn space(&self) -> MutexGuard<'_, AddressSpace> {
        lock(&self.space)
    }

    /// Does something with the tree; gives back the content of files that went.
    pub fn with<T>(&self, act: impl FnOnce(&mut Tree) -> T) -> T {
        let mut tree = lock(&self.tree);
        let outcome = act(&mut tree);
        let freed = std::mem::take(&mut tree.freed);
        drop(tree);
        if !freed.is_empty() {
            let mut space = self.space();
            freed.into_iter().for_each(|object| space.release_object(object));
        }
        outcome
    }

    /// The inode of a path below the root, without following links: one before the last name is `ELOOP`.
    pub fn find(&self, path: &Path) -> Result<Ino, Errno> {
        use std::os::unix::ffi::OsStrExt;
        self.with(|tree| {
            path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty()).try_fold(
                ROOT,
                |at, name| match &tree.get(at)?.content {
                    Content::Link(_) => Err(Errno::ELOOP),
                    _ => tree.lookup(at, name, self.caller),
                },
            )
        })
    }

    /// Makes the content of a new file.
    pub fn new_content(&self) -> Content {
        Content::File(self.space().new_object(self.pool))
    }

    /// What `stat` shows of an inode.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        self.with(|tree| {
            let inode = tree.get(ino)?;
            let (size, pages) = match &inode.content {
                Content::File(object) => self.space().object_size(*object),
                Content::Link(target) => (target.len() as u64, 0),
                Content::Directory(_) => (FRAME, 0),
                Content::Fifo | Content::Socket => (0, 0),
            };
            Ok(Attributes {
                device: self.device,
                inode: ino,
                links: u64::from(inode.links),
                mode: inode.kind() | inode.mode,
                uid: inode.uid,
                gid: inode.gid,
                special_device: 0,
                size: size as i64,
                block_size: FRAME as i64,
                blocks: (pages * (FRAME / 512)) as i64,
                times: inode.times,
                birth: Some(inode.birth),
            })
        })
    }

    /// `struct statfs`.
    pub fn statistics(&self) -> [u64; 15] {
        const TMPFS: u64 = 0x0102_1994;
        const SMALLEST_FILE: u64 = 512;
        let pool = self.space().pool(self.pool);
        let (held, most_held, inodes) = self.with(|tree| tree.usage());
        let free = pool.limit.saturating_sub(pool.used);
        let free_inodes = most_held.saturating_sub(held) / SMALLEST_FILE;
        let mut words = [0; 15];
        words[..5].copy_from_slice(&[TMPFS, FRAME, pool.limit, free, free]);
        words[5..7].copy_from_slice(&[inodes + free_inodes, free_inodes]);
        (words[7], words[8], words[9]) = (self.device, NAME_MAX as u64, FRAME);
        words
    }

    /// Changes the mode; a file whose group is not the caller's loses the set-group-ID bit.
    pub fn set_mode(&self, ino: Ino, mode: u32) -> Result<(), Errno> {
        self.with(|tree| {
            let inode = tree.get_mut(ino)?;
            inode.check_owner(self.caller)?;
            let foreign = self.caller.uid != 0 && inode.gid != self.caller.gid;
            inode.mode = mode & if foreign { 0o5777 } else { 0o7777 };
            inode.times[2] = now();
            Ok(())
        })
    }

    /// Changes the owner; only the superuser can give files away.
    pub fn set_owner(&self, ino: Ino, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        self.with(|tree| {
            let caller = self.caller;
            let inode = tree.get_mut(ino)?;
            let own = caller.uid == inode.uid
                && uid.is_none_or(|uid| uid == inode.uid)
                && gid.is_none_or(|gid| gid == inode.gid || gid == caller.gid);
            if caller.uid != 0 && !own {
                return Err(Errno::EPERM);
            }
            (inode.uid, inode.gid) = (uid.unwrap_or(inode.uid), gid.unwrap_or(inode.gid));
            if matches!(inode.content, Content::File(_)) {
                inode.mode &= !(libc::S_ISUID | libc::S_ISGID);
            }
            inode.times[2] = now();
            Ok(())
        })
    }

    /// Sets access and modification time; `None` leaves one as it is. `to_now`: both are the present, which whoever may write can set.
    pub fn set_times(&self, ino: Ino, times: [Option<Time>; 2], to_now: bool) -> Result<(), Errno> {
        self.with(|tree| {
            let inode = tree.get_mut(ino)?;
            if !to_now || inode.check(self.caller, WRITE).is_err() {
                inode.check_owner(self.caller).map_err(|e| if to_now { Errno::EACCES } else { e })?;
            }
            for (time, new) in inode.times.iter_mut().zip(times) {
                *time = new.unwrap_or(*time);
            }
            inode.times[2] = now();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
