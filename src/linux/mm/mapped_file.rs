//! Files behind mappings: one record for each file, which owns the frames of the pages that shared mappings show.
//!
//! All mappings of a file share its record, so the host descriptors that a program makes Hydra hold are bounded by the number of
//! different files, not of mappings. A page of a shared mapping has one frame, whichever mapping it was first touched through; its page-table
//! entries are read-only until the first store, which marks it to be written back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::fs::OFlags;

use super::super::errno::Errno;
use super::super::host_fd::Room;
use super::super::namespace::reopen;
use super::super::shared_files::{Identity, identity};
use super::space::{AddressSpace, Backing, Region};
use crate::sync::lock;
use crate::vmm::{FRAME_SIZE, Frame};

/// Most different files that are mapped at a time.
const MOST_FILES: usize = 4096;

/// A file behind mappings.
pub struct MappedFile {
    /// Never the guest's own, which it may close. Other programs may have it too.
    fd: Arc<OwnedFd>,
    _room: Option<Room>,
    writer: OnceLock<OwnedFd>,
    /// Path as the guest knows it.
    pub path: String,
    /// Device and inode.
    pub identity: Identity,
    /// By number of the page in the file. Locked only under the address space's lock.
    shared: Mutex<BTreeMap<u64, SharedPage>>,
}

/// A page of a shared mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedPage {
    /// Its frame, in every mapping.
    pub frame: Frame,
    /// Whether the program may have stored to it.
    pub stored: bool,
}

impl MappedFile {
    /// A record of a readable descriptor; `writable`: it can be written to as well.
    pub fn new(
        fd: Arc<OwnedFd>,
        writable: bool,
        path: String,
        identity: Identity,
    ) -> Result<MappedFile, Errno> {
        let file =
            MappedFile { fd, _room: None, writer: OnceLock::new(), path, identity, shared: Mutex::default() };
        if writable {
            file.allow_writes(file.fd.as_fd())?;
        }
        Ok(file)
    }

    /// Reads the file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Writes to it, if the program opened it so when it made a shared mapping.
    pub fn writer(&self) -> Option<BorrowedFd<'_>> {
        self.writer.get().map(AsFd::as_fd)
    }

    /// Keeps a descriptor that can be written to, of the file that `fd` can write to. Of its own: the program may have its writes appended.
    fn allow_writes(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.writer.get().is_none() {
            let own = reopen(fd, OFlags::RDWR).or_else(|refused| {
                // One that is lent, or whose mode has changed.
                let appends = rustix::fs::fcntl_getfl(fd)?.contains(OFlags::APPEND);
                if appends { Err(refused) } else { Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?) }
            })?;
            let _ = self.writer.set(own);
        }
        Ok(())
    }

    /// The pages that shared mappings show.
    pub fn shared(&self) -> MutexGuard<'_, BTreeMap<u64, SharedPage>> {
        lock(&self.shared)
    }

    /// Those among `pages` that the program may have stored to.
    pub fn stored(&self, pages: Range<u64>) -> Vec<(u64, Frame)> {
        let shared = self.shared();
        shared
            .range(pages)
            .filter(|(_, page)| page.stored)
            .map(|(index, page)| (*index, page.frame))
            .collect()
    }
}

impl AddressSpace {
    /// The record of the file behind a readable descriptor. `writable`: it is mapped shared, by a descriptor that can be written
    /// to. `ENFILE` where too many files are mapped.
    pub fn mapped_file(
        &mut self,
        fd: BorrowedFd<'_>,
        path: String,
        writable: bool,
    ) -> Result<Arc<MappedFile>, Errno> {
        let stat = rustix::fs::fstat(fd)?;
        let identity = identity(&stat);
        if let Some(known) = self.files.get(&identity).and_then(std::sync::Weak::upgrade) {
            if writable {
                known.allow_writes(fd)?;
            }
            return Ok(known);
        }
        if self.files.len() >= MOST_FILES {
            self.files.retain(|_, file| file.strong_count() > 0);
            if self.files.len() >= MOST_FILES {
                return Err(Errno::ENFILE);
            }
        }
        let room = self.host_fds.as_ref().map(|fds| fds.room()).transpose()?;
        let own = Arc::new(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
        let file = MappedFile { _room: room, ..MappedFile::new(own, writable, path, identity)? };
        let file = Arc::new(file);
        self.files.insert(identity, Arc::downgrade(&file));
        Ok(file)
    }

    /// Forgets a region that was taken out and has no pages any more; with the last one of a file go the file's shared pages.
    pub(super) fn let_go(&mut self, region: Region) -> Result<(), Errno> {
        let Backing::File { file, .. } = region.backing else { return Ok(()) };
        if Arc::strong_count(&file) > 1 {
            return Ok(());
        }
        self.files.remove(&file.identity);
        let frames = file.shared().values().map(|page| (page.frame, false)).collect();
        self.free_frames(frames)
    }
}

/// Keeping files and shared mappings of them the same.
impl AddressSpace {
    /// The file's record, if shared mappings show pages of it.
    fn shown_file(&self, fd: BorrowedFd<'_>) -> Option<Arc<MappedFile>> {
        if !self.shares_files {
            return None;
        }
        let stat = rustix::fs::fstat(fd).ok()?;
        self.files.get(&identity(&stat)).and_then(std::sync::Weak::upgrade)
    }

    /// Before `len` bytes of a file are read from `offset`, or from the descriptor's position: writes back what was stored there.
    pub fn before_read(&self, fd: BorrowedFd<'_>, offset: Option<u64>, len: usize) {
        let Some(file) = self.shown_file(fd) else { return };
        let Some(start) = offset.or_else(|| rustix::fs::tell(fd).ok()) else { return };
        let end = start.saturating_add(len as u64);
        self.write_back_pages(&file, start / FRAME_SIZE..end.div_ceil(FRAME_SIZE));
    }

    /// After `len` bytes of a file were written at `offset`, or before the descriptor's position: shows them in shared mappings.
    pub fn after_write(&self, fd: BorrowedFd<'_>, offset: Option<u64>, len: usize) {
        let Some(file) = self.shown_file(fd) else { return };
        let Some(end) = offset.map(|o| o.saturating_add(len as u64)).or_else(|| rustix::fs::tell(fd).ok())
        else {
            return;
        };
        let start = end.saturating_sub(len as u64);
        let shared = file.shared();
        for (index, page) in shared.range(start / FRAME_SIZE..end.div_ceil(FRAME_SIZE)) {
            let first = index * FRAME_SIZE;
            let (low, high) = (start.max(first), end.min(first + FRAME_SIZE));
            if let Some(slice) =
                self.memory.slice(page.frame.address() + (low - first), (high - low) as usize)
            {
                // What cannot be read again was not written.
                let _ = super::super::host_io::pread(file.fd(), &[slice], low);
            }
        }
    }

    /// After a file was given a size: what lay behind its end is gone from shared mappings too.
    pub fn after_resize(&mut self, fd: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
        let Some(file) = self.shown_file(fd) else { return Ok(()) };
        let gone = file.shared().split_off(&size.div_ceil(FRAME_SIZE));
        if !size.is_multiple_of(FRAME_SIZE)
            && let Some(page) = file.shared().get(&(size / FRAME_SIZE))
        {
            let kept = size % FRAME_SIZE;
            self.memory.zero(page.frame.address() + kept, (FRAME_SIZE - kept) as usize);
        }
        let (Some((low, _)), Some((high, _))) = (gone.first_key_value(), gone.last_key_value()) else {
            return Ok(());
        };
        let (low, high) = (low * FRAME_SIZE, (high + 1) * FRAME_SIZE);
        let mut ranges = Vec::new();
        for (start, region) in self.regions() {
            if let Some((other, offset)) = region.shared_file()
                && Arc::ptr_eq(other, &file)
            {
                let address = |at: u64| (start + at.saturating_sub(offset)).min(region.end);
                ranges.push((address(low), address(high)));
            }
        }
        for (from, to) in ranges {
            self.clear_pages(from, to);
        }
        self.free_frames(gone.values().map(|page| (page.frame, true)).collect())
    }
}
