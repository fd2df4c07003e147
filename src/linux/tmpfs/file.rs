//! Open files of a tmpfs.

use std::sync::{Arc, Mutex, MutexGuard};

use vm_memory::VolatileSlice;

use super::super::errno::Errno;
use super::super::file::{File, Object, Ready};
use super::super::kernel::Kernel;
use super::super::mm::{AddressSpace, LARGEST, ObjectId};
use super::super::stat::Attributes;
use super::{Content, Ino, Tmpfs, Tree, now};
use crate::sync::lock;

/// Bytes that are copied without giving others a turn at the address space.
const PART: usize = 1 << 20;

/// An open file: regular, or anything else by `O_PATH`.
pub struct OpenFile {
    fs: Arc<Tmpfs>,
    ino: Ino,
    position: Mutex<u64>,
    /// It was made without a name and may be given one.
    may_be_named: bool,
}

impl OpenFile {
    /// Opens an inode.
    pub fn new(fs: &Arc<Tmpfs>, ino: Ino) -> Result<OpenFile, Errno> {
        fs.with(|tree| tree.get_mut(ino).map(|inode| inode.open += 1))?;
        Ok(OpenFile { fs: Arc::clone(fs), ino, position: Mutex::new(0), may_be_named: false })
    }

    /// Opens one again for a restored program. `may_be_named`: see [`OpenFile::may_be_named`].
    pub fn restore(fs: &Arc<Tmpfs>, ino: Ino, position: u64, may_be_named: bool) -> Result<OpenFile, Errno> {
        let mut open = OpenFile::new(fs, ino)?;
        (open.position, open.may_be_named) = (position.into(), may_be_named);
        Ok(open)
    }

    /// The position in it.
    pub fn offset(&self) -> u64 {
        *self.position()
    }

    /// A new file without a name, which it may be given later if `may_be_named`.
    pub fn unnamed(fs: &Arc<Tmpfs>, mode: u32, may_be_named: bool) -> Result<OpenFile, Errno> {
        let object = fs.space().new_object(fs.pool);
        let made = fs.with(|tree| tree.create_unnamed((fs.caller, mode, now()), object));
        let ino = made.inspect_err(|_| fs.space().release_object(object))?;
        Ok(OpenFile { fs: Arc::clone(fs), ino, position: Mutex::new(0), may_be_named })
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<Tmpfs> {
        &self.fs
    }

    /// Whether `linkat` may give a file that has no name one.
    pub fn may_be_named(&self) -> bool {
        self.may_be_named
    }

    /// Its inode.
    pub fn ino(&self) -> Ino {
        self.ino
    }

    fn position(&self) -> MutexGuard<'_, u64> {
        lock(&self.position)
    }

    /// Its content; `EINVAL` if it is not a regular file.
    pub fn object(&self) -> Result<ObjectId, Errno> {
        self.fs.with(|tree| match tree.get(self.ino)?.content {
            Content::File(object) => Ok(object),
            _ => Err(Errno::EINVAL),
        })
    }

    fn size(&self) -> Result<u64, Errno> {
        let object = self.object()?;
        Ok(self.fs.space().object_size(object).0)
    }

    /// Runs `part` over the slices, giving others a turn in between; ends at the first short one.
    fn in_parts(
        &self,
        slices: &[VolatileSlice<'_>],
        offset: u64,
        mut part: impl FnMut(&mut AddressSpace, u64, VolatileSlice<'_>) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        for slice in slices {
            let mut at = 0;
            while at < slice.len() {
                let wanted = (slice.len() - at).min(PART);
                let piece = slice.subslice(at, wanted).map_err(|_| Errno::EFAULT)?;
                let moved = match part(&mut self.fs.space(), offset + done as u64, piece) {
                    Ok(moved) => moved,
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                };
                (done, at) = (done + moved, at + moved);
                // The end of the file, or of the room for it.
                if moved < wanted {
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }

    fn read_from(&self, into: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
        let object = self.object()?;
        let done = self.in_parts(into, offset, |space, at, piece| space.read_object(object, at, &[piece]))?;
        if done > 0 {
            self.fs.with(|tree| {
                // As with the usual `relatime`: only where it tells something new.
                let inode = tree.get_mut(self.ino)?;
                if inode.times[0] <= inode.times[1].max(inode.times[2]) {
                    inode.times[0] = now();
                }
                Ok::<_, Errno>(())
            })?;
        }
        Ok(done)
    }

    /// Writes at `offset`, or without one at the end. Returns how much, and the position after it.
    fn write_to(&self, from: &[VolatileSlice<'_>], offset: Option<u64>) -> Result<(usize, u64), Errno> {
        let len: u64 = from.iter().map(|slice| slice.len() as u64).sum();
        let start = offset.map_or_else(|| self.size(), Ok)?;
        if len == 0 {
            return Ok((0, start));
        }
        if start >= LARGEST {
            return Err(Errno::EFBIG);
        }
        let object = self.check_seals(start.saturating_add(len))?;
        let mut end = start;
        let done = self.in_parts(from, start, |space, at, piece| {
            // The end is looked up together with the write: two that append do not overwrite each other.
            let at = if offset.is_some() { at } else { space.object_size(object).0 };
            let n = space.write_object(object, at, &[piece])?;
            end = at + n as u64;
            Ok(n)
        })?;
        self.changed()?;
        Ok((done, end))
    }

    /// Writes at the end, wherever the position is.
    pub fn append(&self, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        Ok(self.write_to(from, None)?.0)
    }

    /// After its content changed.
    fn changed(&self) -> Result<(), Errno> {
        self.fs.with(|tree| {
            let uid = self.fs.caller.uid;
            let inode = tree.get_mut(self.ino)?;
            inode.modified(now());
            if uid != 0 {
                inode.mode &= !(libc::S_ISUID | libc::S_ISGID);
            }
            Ok(())
        })
    }

    /// `EPERM` if its seals forbid to write up to `end`; the content otherwise.
    fn check_seals(&self, end: u64) -> Result<ObjectId, Errno> {
        let seals = self.seals()? as i32;
        if seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        if seals & libc::F_SEAL_GROW != 0 && end > self.size()? {
            return Err(Errno::EPERM);
        }
        self.object()
    }

    /// Its seals.
    pub fn seals(&self) -> Result<u32, Errno> {
        self.fs.with(|tree| Ok(tree.get(self.ino)?.seals))
    }

    /// Adds seals, which only a file made for it allows.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        const KNOWN: i32 = libc::F_SEAL_SEAL
            | libc::F_SEAL_SHRINK
            | libc::F_SEAL_GROW
            | libc::F_SEAL_WRITE
            | libc::F_SEAL_FUTURE_WRITE;
        if seals & !(KNOWN as u32) != 0 {
            return Err(Errno::EINVAL);
        }
        let object = self.object()?;
        self.fs.with(|tree| {
            let inode = tree.get_mut(self.ino)?;
            if inode.seals & libc::F_SEAL_SEAL as u32 != 0 {
                return Err(Errno::EPERM);
            }
            if seals & libc::F_SEAL_WRITE as u32 != 0 && self.fs.space().is_mapped_writable(object) {
                return Err(Errno::EBUSY);
            }
            inode.seals |= seals;
            Ok(())
        })
    }

    /// Lets it be sealed, or not: a new memory file says which.
    pub fn allow_seals(&self, allow: bool) -> Result<(), Errno> {
        let seals = if allow { 0 } else { libc::F_SEAL_SEAL as u32 };
        self.fs.with(|tree| tree.get_mut(self.ino).map(|inode| inode.seals = seals))
    }

    /// Changes the length.
    pub fn resize(&self, size: u64) -> Result<(), Errno> {
        let object = self.object()?;
        let seals = self.seals()? as i32;
        let old = self.size()?;
        if seals & libc::F_SEAL_GROW != 0 && size > old || seals & libc::F_SEAL_SHRINK != 0 && size < old {
            return Err(Errno::EPERM);
        }
        self.fs.space().resize_object(object, size)?;
        self.changed()
    }

    /// `fallocate`.
    pub fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let end = offset.checked_add(len).filter(|end| *end <= LARGEST).ok_or(Errno::EFBIG)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let frame = super::FRAME;
        match mode {
            0 | libc::FALLOC_FL_KEEP_SIZE => {
                let keeps = mode != 0;
                let seals = self.seals()? as i32;
                if seals & libc::F_SEAL_GROW != 0 && end > self.size()? {
                    return Err(Errno::EPERM);
                }
                let object = self.object()?;
                let mut space = self.fs.space();
                space.fill_object(object, offset / frame..end.div_ceil(frame))?;
                if !keeps && end > space.object_size(object).0 {
                    space.resize_object(object, end)?;
                }
            }
            PUNCH => {
                let object = self.check_seals(0)?;
                self.fs.space().punch_object(object, offset..end)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        self.changed()
    }

    fn seek_to(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        let mut position = self.position();
        let base = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => *position as i64,
            libc::SEEK_END => self.size()? as i64,
            libc::SEEK_DATA | libc::SEEK_HOLE => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                let object = self.object()?;
                *position = self.fs.space().seek_object(object, from, whence == libc::SEEK_DATA)?;
                return Ok(*position);
            }
            _ => return Err(Errno::EINVAL),
        };
        let target = base.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
        *position = u64::try_from(target).map_err(|_| Errno::EINVAL)?;
        Ok(*position)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.fs.with(|tree| close(tree, self.ino));
    }
}

/// One open file of an inode less.
pub(super) fn close(tree: &mut Tree, ino: Ino) {
    if let Ok(inode) = tree.get_mut(ino) {
        inode.open = inode.open.saturating_sub(1);
    }
    tree.reap(ino);
}

impl Object for OpenFile {
    fn read(&self, _: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let mut position = self.position();
        let done = self.read_from(into, *position)?;
        *position += done as u64;
        Ok(done)
    }

    fn write(&self, _: &Kernel, file: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let mut position = self.position();
        let appends = file.flags() & libc::O_APPEND as u32 != 0;
        let (done, end) = self.write_to(from, (!appends).then_some(*position))?;
        if done > 0 {
            *position = end;
        }
        Ok(done)
    }

    fn read_at(&self, into: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
        self.read_from(into, offset)
    }

    fn write_at(&self, from: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
        Ok(self.write_to(from, Some(offset))?.0)
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        self.seek_to(offset, whence)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        Ready::ALWAYS
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        self.fs.attributes(self.ino)
    }
}
