//! What objects hold: reading, writing, holes, sizes.

use std::ops::Range;

use vm_memory::VolatileSlice;

use super::super::super::errno::Errno;
use super::super::space::{AddressSpace, Backing};
use super::{LARGEST, ObjectId};
use crate::vmm::{FRAME_SIZE, Frame};

impl AddressSpace {
    /// Reads from `offset`; what has no page reads as zeros. Returns how many bytes there were.
    pub fn read_object(&self, id: ObjectId, offset: u64, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        const ZEROS: [u8; FRAME_SIZE as usize] = [0; FRAME_SIZE as usize];
        let size = self.objects.get(id)?.size;
        let mut done = 0;
        for slice in into {
            let mut at = 0;
            while at < slice.len() && offset + (done as u64) < size {
                let position = offset + done as u64;
                let (page, from) = split(position);
                let n = (slice.len() - at)
                    .min(FRAME_SIZE as usize - from)
                    .min(usize::try_from(size - position).unwrap_or(usize::MAX));
                let target = slice.subslice(at, n).map_err(|_| Errno::EFAULT)?;
                match self.object_frame(id, page) {
                    Some(frame) => self.page_slice(frame, from, n)?.copy_to_volatile_slice(target),
                    None => target.copy_from(&ZEROS[..n]),
                }
                (done, at) = (done + n, at + n);
            }
        }
        Ok(done)
    }

    /// Writes at `offset`, which makes the object longer where needed. Returns how many bytes there was room for, if any.
    pub fn write_object(
        &mut self,
        id: ObjectId,
        offset: u64,
        from: &[VolatileSlice<'_>],
    ) -> Result<usize, Errno> {
        let mut done = 0;
        for slice in from {
            let mut at = 0;
            while at < slice.len() {
                let position = offset + done as u64;
                if position >= LARGEST {
                    return if done > 0 { Ok(done) } else { Err(Errno::EFBIG) };
                }
                let (page, into) = split(position);
                let n = (slice.len() - at).min(FRAME_SIZE as usize - into);
                let frame = match self.object_frame_or_new(id, page) {
                    Ok(frame) => frame,
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                };
                let source = slice.subslice(at, n).map_err(|_| Errno::EFAULT)?;
                source.copy_to_volatile_slice(self.page_slice(frame, into, n)?);
                (done, at) = (done + n, at + n);
                let object = self.objects.get_mut(id)?;
                object.size = object.size.max(position + n as u64);
            }
        }
        Ok(done)
    }

    /// Changes the size; what lies beyond it is freed, and gone from all mappings.
    pub fn resize_object(&mut self, id: ObjectId, size: u64) -> Result<(), Errno> {
        if size > LARGEST {
            return Err(Errno::EFBIG);
        }
        let old = self.objects.get(id)?.size;
        if size < old {
            self.punch_object(id, size..old.next_multiple_of(FRAME_SIZE))?;
        }
        self.objects.get_mut(id)?.size = size;
        Ok(())
    }

    /// Makes the bytes zero; whole pages are freed. The size stays.
    pub fn punch_object(&mut self, id: ObjectId, bytes: Range<u64>) -> Result<(), Errno> {
        let whole = bytes.start.div_ceil(FRAME_SIZE)..bytes.end / FRAME_SIZE;
        for (page, part) in edges(&bytes) {
            if let Some(frame) = self.object_frame(id, page) {
                self.memory.zero(frame.address() + part.start, (part.end - part.start) as usize);
            }
        }
        if whole.is_empty() {
            return Ok(());
        }
        let object = self.objects.get_mut(id)?;
        let pool = object.pool;
        let gone: Vec<u64> = object.pages.range(whole.clone()).map(|(page, _)| *page).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.unmap_object(id, &whole)?;
        for page in gone {
            if let Some(frame) = self.objects.get_mut(id)?.pages.remove(&page) {
                self.frames.release(frame);
                if let Some(pool) = self.objects.pool_mut(pool) {
                    pool.used -= 1;
                }
            }
        }
        Ok(())
    }

    /// Gives every page of the range a frame.
    pub fn fill_object(&mut self, id: ObjectId, pages: Range<u64>) -> Result<(), Errno> {
        let have = self.objects.get(id)?.pages.range(pages.clone()).count() as u64;
        let pool = self.pool(self.objects.get(id)?.pool);
        // Before anything is taken: what cannot be had whole is refused at once, and a huge range is not walked.
        let needed = (pages.end - pages.start) - have;
        if needed > pool.limit - pool.used {
            return Err(Errno::ENOSPC);
        }
        if needed > self.frames.free() as u64 {
            return Err(Errno::ENOMEM);
        }
        pages.into_iter().try_for_each(|page| self.object_frame_or_new(id, page).map(|_| ()))
    }

    /// The first byte from `offset` on that lies in a page (`data`) or in none; the end of the object counts as a hole.
    pub fn seek_object(&self, id: ObjectId, offset: u64, data: bool) -> Result<u64, Errno> {
        let object = self.objects.get(id)?;
        if offset >= object.size {
            return Err(Errno::ENXIO);
        }
        let first = offset / FRAME_SIZE;
        if data {
            let (page, _) = object.pages.range(first..).next().ok_or(Errno::ENXIO)?;
            let at = (page * FRAME_SIZE).max(offset);
            return if at < object.size { Ok(at) } else { Err(Errno::ENXIO) };
        }
        let mut hole = first;
        for (page, _) in object.pages.range(first..) {
            if *page != hole {
                break;
            }
            hole += 1;
        }
        Ok((hole * FRAME_SIZE).max(offset).min(object.size))
    }

    fn page_slice(&self, frame: Frame, from: usize, len: usize) -> Result<VolatileSlice<'_>, Errno> {
        self.memory.slice(frame.address() + from as u64, len).ok_or(Errno::EIO)
    }

    /// Takes the object's pages out of all shared mappings; they fault again when they are touched.
    fn unmap_object(&mut self, id: ObjectId, pages: &Range<u64>) -> Result<(), Errno> {
        let mut mapped = Vec::new();
        for (start, region) in &self.regions {
            let Backing::Object { object, offset } = region.backing else { continue };
            if object != id || !region.shared {
                continue;
            }
            let first = offset / FRAME_SIZE;
            let last = first + (region.end - start) / FRAME_SIZE;
            let (low, high) = (pages.start.max(first), pages.end.min(last));
            if low < high {
                mapped.push((start + (low - first) * FRAME_SIZE, start + (high - first) * FRAME_SIZE));
            }
        }
        mapped.into_iter().try_for_each(|(from, to)| {
            let frames = self.clear_pages(from, to);
            self.flush_seen(frames)
        })
    }
}

/// The page of a byte, and the byte in the page.
fn split(offset: u64) -> (u64, usize) {
    (offset / FRAME_SIZE, (offset % FRAME_SIZE) as usize)
}

/// The parts of a byte range that do not cover their pages: page number and bytes in it.
fn edges(bytes: &Range<u64>) -> Vec<(u64, Range<u64>)> {
    let (first, last) = (bytes.start / FRAME_SIZE, bytes.end / FRAME_SIZE);
    let (from, to) = (bytes.start % FRAME_SIZE, bytes.end % FRAME_SIZE);
    if bytes.is_empty() {
        return Vec::new();
    }
    if first == last {
        return vec![(first, from..to)];
    }
    let mut edges = Vec::new();
    if from != 0 {
        edges.push((first, from..FRAME_SIZE));
    }
    if to != 0 {
        edges.push((last, 0..to));
    }
    edges
}
