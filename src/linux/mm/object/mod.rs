//! Memory that belongs to a file rather than to an address range.
//!
//! An [`Object`] is a sparse row of pages, each a frame of guest RAM. A file of a tmpfs keeps its content in one. A shared mapping of such a
//! file maps the object's own frames, so reads, writes and all mappings agree by construction, and a checkpoint
//! saves them with the rest of the RAM.
//!
//! The pages of all files of one file system count against its [`Pool`].

mod content;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::space::AddressSpace;
use crate::vmm::{FRAME_SIZE, Frame};

/// Largest size of an object: what a signed offset can reach, in whole pages.
pub const LARGEST: u64 = i64::MAX as u64 & !(FRAME_SIZE - 1);

/// Number of an object, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ObjectId(u64);

/// Number of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolId(u32);

/// How many pages the objects of one owner may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Most pages.
    pub limit: u64,
    /// Pages in use.
    pub used: u64,
}

/// A sparse row of pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Object {
    /// Bytes. Pages from its end on hold nothing, and what follows it in its last page is zero.
    size: u64,
    pages: BTreeMap<u64, Frame>,
    pool: PoolId,
    /// Its file still exists; otherwise it lives until its last mapping goes.
    owned: bool,
}

/// All objects of an address space.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Objects {
    all: BTreeMap<ObjectId, Object>,
    pools: Vec<Pool>,
    next: u64,
}

impl Objects {
    fn get(&self, id: ObjectId) -> Result<&Object, Errno> {
        self.all.get(&id).ok_or(Errno::EIO)
    }

    fn get_mut(&mut self, id: ObjectId) -> Result<&mut Object, Errno> {
        self.all.get_mut(&id).ok_or(Errno::EIO)
    }

    /// Whether saved objects make sense in RAM of so many frames: each has a pool that counts its pages, and no two
    /// share a frame, or have one of the `taken`.
    pub(super) fn is_sound(&self, frames: usize, taken: BTreeSet<Frame>) -> bool {
        let mut used = vec![0; self.pools.len()];
        let mut seen = taken;
        for (id, object) in &self.all {
            let Some(count) = used.get_mut(object.pool.0 as usize) else { return false };
            *count += object.pages.len() as u64;
            let fits = |frame: &Frame| (frame.0 as usize) < frames && seen.insert(*frame);
            if id.0 >= self.next || object.size > LARGEST || !object.pages.values().all(fits) {
                return false;
            }
        }
        self.pools.iter().map(|pool| pool.used).eq(used)
    }

    /// Whether there is such an object.
    pub(super) fn has(&self, id: ObjectId) -> bool {
        self.all.contains_key(&id)
    }

    /// Whether there is such a pool.
    pub(super) fn has_pool(&self, id: PoolId) -> bool {
        (id.0 as usize) < self.pools.len()
    }

    fn pool_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.pools.get_mut(id.0 as usize)
    }
}

impl AddressSpace {
    /// A new pool of `bytes`, rounded up to pages.
    pub fn new_pool(&mut self, bytes: u64) -> PoolId {
        self.objects.pools.push(Pool { limit: bytes.div_ceil(FRAME_SIZE), used: 0 });
        PoolId(self.objects.pools.len() as u32 - 1)
    }

    /// A pool's limit and use.
    pub fn pool(&self, id: PoolId) -> Pool {
        self.objects.pools.get(id.0 as usize).copied().unwrap_or(Pool { limit: 0, used: 0 })
    }

    /// Whether there is such a pool: one that a saved file system names may be missing.
    pub fn has_pool(&self, id: PoolId) -> bool {
        self.objects.has_pool(id)
    }

    /// A new object without content.
    pub fn new_object(&mut self, pool: PoolId) -> ObjectId {
        let id = ObjectId(self.objects.next);
        self.objects.next += 1;
        self.objects.all.insert(id, Object { size: 0, pages: BTreeMap::new(), pool, owned: true });
        id
    }

    /// Size in bytes, and pages that hold something.
    pub fn object_size(&self, id: ObjectId) -> (u64, u64) {
        self.objects.get(id).map_or((0, 0), |object| (object.size, object.pages.len() as u64))
    }

    /// Says that the object's file is gone. It is freed now or with its last mapping.
    pub fn release_object(&mut self, id: ObjectId) {
        if let Ok(object) = self.objects.get_mut(id) {
            object.owned = false;
            self.free_unused(&[id].into());
        }
    }

    /// Whether a shared mapping through which the program can store maps the object.
    pub fn is_mapped_writable(&self, id: ObjectId) -> bool {
        self.regions.values().any(|region| region.shared && region.may_write && region.object() == Some(id))
    }

    /// Frees those of the objects that neither a file nor a region uses.
    pub(super) fn free_unused(&mut self, candidates: &BTreeSet<ObjectId>) {
        let orphans: BTreeSet<_> = candidates
            .iter()
            .copied()
            .filter(|id| self.objects.get(*id).is_ok_and(|object| !object.owned))
            .collect();
        if orphans.is_empty() {
            return;
        }
        let used: BTreeSet<_> = self.regions.values().filter_map(|region| region.object()).collect();
        for id in orphans.difference(&used) {
            if let Some(object) = self.objects.all.remove(id) {
                if let Some(pool) = self.objects.pool_mut(object.pool) {
                    pool.used -= object.pages.len() as u64;
                }
                object.pages.into_values().for_each(|frame| self.frames.release(frame));
            }
        }
    }

    /// The frame of a page, if it has one.
    pub(super) fn object_frame(&self, id: ObjectId, page: u64) -> Option<Frame> {
        self.objects.get(id).ok()?.pages.get(&page).copied()
    }

    /// The frame of a page; a zeroed one if it had none. `ENOSPC` when the pool is used up, `ENOMEM` when the RAM is.
    pub(super) fn object_frame_or_new(&mut self, id: ObjectId, page: u64) -> Result<Frame, Errno> {
        if let Some(frame) = self.object_frame(id, page) {
            return Ok(frame);
        }
        let pool = self.objects.get(id)?.pool;
        let pool = self.objects.pool_mut(pool).filter(|pool| pool.used < pool.limit).ok_or(Errno::ENOSPC)?;
        let (frame, _) = self.frames.allocate(1).ok_or(Errno::ENOMEM)?;
        pool.used += 1;
        self.clear(frame, 1);
        self.objects.get_mut(id)?.pages.insert(page, frame);
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::super::space::Backing;
    use super::super::{Placement, Region};
    use super::*;
    use crate::vmm::{Access, GuestMemory};
    use std::sync::Arc;
    use vm_memory::VolatileSlice;

    const RW: Access = Access::READ.union(Access::WRITE);

    fn space() -> AddressSpace {
        let memory = Arc::new(GuestMemory::new(16 << 20).expect("memory"));
        AddressSpace::new(memory)
    }

    fn write(space: &mut AddressSpace, id: ObjectId, offset: u64, text: &[u8]) -> Result<usize, Errno> {
        let mut bytes = text.to_vec();
        space.write_object(id, offset, &[VolatileSlice::from(bytes.as_mut_slice())])
    }

    fn read(space: &AddressSpace, id: ObjectId, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; len];
        let n =
            space.read_object(id, offset, &[VolatileSlice::from(bytes.as_mut_slice())]).expect("an object");
        bytes.truncate(n);
        bytes
    }

    fn map(space: &mut AddressSpace, id: ObjectId, len: u64, shared: bool) -> u64 {
        let backing = Backing::Object { object: id, offset: 0 };
        let make = |end| Region { end, access: RW, may_write: true, backing, shared, label: "" };
        space.map(Placement::Hint(0), len, make).expect("a mapping")
    }

    #[test]
    fn content_is_sparse_and_counted() {
        let mut space = space();
        let pool = space.new_pool(4 * FRAME_SIZE);
        let id = space.new_object(pool);
        assert_eq!(write(&mut space, id, 2 * FRAME_SIZE - 2, b"abcd"), Ok(4));
        assert_eq!(space.object_size(id), (2 * FRAME_SIZE + 2, 2));
        assert_eq!(read(&space, id, 2 * FRAME_SIZE - 4, 99), b"\0\0abcd");
        assert_eq!(space.seek_object(id, 0, true), Ok(FRAME_SIZE));
        assert_eq!(space.seek_object(id, FRAME_SIZE + 5, false), Ok(2 * FRAME_SIZE + 2));
        assert_eq!(space.seek_object(id, 0, false), Ok(0));
        assert_eq!(space.pool(pool).used, 2);
        // Two pages more fit; the rest of a larger write does not.
        assert_eq!(
            write(&mut space, id, 3 * FRAME_SIZE, &vec![1; 3 * FRAME_SIZE as usize]),
            Ok(2 * FRAME_SIZE as usize)
        );
        assert_eq!(write(&mut space, id, 0, b"x"), Err(Errno::ENOSPC));
        space.punch_object(id, 1..3 * FRAME_SIZE + 1).expect("a hole");
        assert_eq!(space.pool(pool).used, 2);
        assert_eq!(read(&space, id, 3 * FRAME_SIZE, 2), b"\0\x01");
        space.resize_object(id, 1).expect("a size");
        space.resize_object(id, 2 * FRAME_SIZE).expect("a size");
        assert_eq!(read(&space, id, 0, 9999), vec![0; 2 * FRAME_SIZE as usize]);
        let free = space.ram().1;
        space.release_object(id);
        assert_eq!(space.pool(pool).used, 0);
        assert!(space.ram().1 >= free);
    }

    #[test]
    fn shared_mappings_are_the_object_and_private_ones_copies() {
        let mut space = space();
        let pool = space.new_pool(1 << 20);
        let id = space.new_object(pool);
        write(&mut space, id, 0, b"first").expect("written");
        let (one, two) = (map(&mut space, id, FRAME_SIZE, true), map(&mut space, id, FRAME_SIZE, true));
        let private = map(&mut space, id, FRAME_SIZE, false);
        let frames = [one, two, private].map(|at| space.resolve(at, RW).expect("a page"));
        assert_eq!(frames[0], frames[1]);
        assert_ne!(frames[0], frames[2]);
        space.memory.write(frames[0].address(), b"F");
        assert_eq!(read(&space, id, 0, 5), b"First");
        assert!(space.resolve(one + FRAME_SIZE, RW).is_none());
        // Cut away, the pages are gone from every mapping.
        space.resize_object(id, 0).expect("cut");
        assert!(space.resolve(one, RW).is_none() && space.resolve(two, RW).is_none());
    }

    #[test]
    fn an_object_without_a_file_lives_as_long_as_its_mappings() {
        let mut space = space();
        let pool = space.new_pool(1 << 20);
        let id = space.new_object(pool);
        write(&mut space, id, 0, b"kept").expect("written");
        let at = map(&mut space, id, FRAME_SIZE, true);
        space.release_object(id);
        let frame = space.resolve(at, Access::READ).expect("still there");
        assert_eq!(space.object_frame(id, 0), Some(frame));
        space.unmap(at, at + FRAME_SIZE).expect("unmapped");
        assert_eq!(space.object_frame(id, 0), None);
        assert_eq!(space.pool(pool).used, 0);
    }
}
