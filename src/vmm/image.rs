//! The RAM that copies begin with: files, mapped privately by each of them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

use super::difference::joined;
use super::error::VmmError;
use super::frames::FRAME_SIZE;
use super::memory::{GuestMemory, address_space};
use super::sparse::next_data;
use crate::sync::lock;

/// The first content of the RAM of any number of VMs. All of them share its pages until they write to them.
///
/// It is made of layers: a file with all of it, and files with runs of pages that lie over those below. Images that have layers in
/// common share those pages too.
///
/// Nobody may shorten the files while they are mapped: whoever touches what is gone is ended.
pub struct Image {
    /// The lowest first; that one has one run, of all RAM.
    layers: Vec<Arc<Layer>>,
    bytes: u64,
    reference: OnceLock<Reference>,
    /// All of it in one piece, while copies have it so.
    flat: Mutex<Weak<Layer>>,
}

/// So many copies of an image of several layers are mapped layer by layer, and share their pages with copies of other images. Those beyond
/// have a file in memory instead, which holds all of the image and takes one mapping: a process may have 65,530 of these by default,
/// and the more it has the longer it takes to make a VM.
const MOST_IN_LAYERS: usize = 32;
/// Bytes that are copied into that file at a time.
const PIECE: u64 = 256 << 10;

/// Pages of one file.
pub(super) struct Layer {
    /// Each byte lies at its guest-physical address.
    pub file: File,
    /// Guest-physical ranges of whole pages, in order.
    pub runs: Vec<Range<u64>>,
}

/// A mapping of an image's content that is only read. Writing to it ends the process.
pub struct Reference {
    region: MmapRegion,
}

impl Image {
    /// The image of RAM of `bytes` that is the content of `file`, each byte at its guest-physical address.
    ///
    /// # Errors
    /// The file is shorter than the RAM, or cannot be looked at.
    pub fn new(file: File, bytes: u64) -> Result<Image, VmmError> {
        let whole = 0..bytes;
        Image::layered(Vec::new(), Layer { file, runs: vec![whole] }, bytes)
    }

    /// The image that is as `below`, but for the pages of `runs`: guest-physical ranges in order, whose content is that of `file`, each byte
    /// at its guest-physical address.
    ///
    /// # Errors
    /// The runs are not in order, not of whole pages or outside of RAM; the file is shorter than the RAM, or cannot be looked at.
    pub fn over(below: &Image, file: File, runs: Vec<Range<u64>>) -> Result<Image, VmmError> {
        let mut from = 0;
        for run in &runs {
            let aligned = run.start % FRAME_SIZE == 0 && run.end % FRAME_SIZE == 0;
            if !aligned || run.start < from || run.is_empty() || run.end > below.bytes {
                return Err(below.failed("layer an image of", io::ErrorKind::InvalidInput.into()));
            }
            from = run.end;
        }
        Image::layered(below.layers.clone(), Layer { file, runs }, below.bytes)
    }

    fn layered(mut layers: Vec<Arc<Layer>>, top: Layer, bytes: u64) -> Result<Image, VmmError> {
        let length = top.file.metadata().map(|metadata| metadata.len());
        layers.push(Arc::new(top));
        let image = Image { layers, bytes, reference: OnceLock::new(), flat: Mutex::default() };
        match length {
            Ok(length) if length < bytes => {
                Err(image.failed("map the image of", io::ErrorKind::UnexpectedEof.into()))
            }
            Ok(_) => Ok(image),
            Err(error) => Err(image.failed("look at the image of", error)),
        }
    }

    /// Size of the RAM in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file of the uppermost layer.
    pub fn file(&self) -> &File {
        &self.top().file
    }

    /// The uppermost layer. There is one from the beginning.
    fn top(&self) -> &Arc<Layer> {
        &self.layers[self.layers.len() - 1]
    }

    /// New RAM with this content. What is written to it is its own.
    ///
    /// # Errors
    /// The host has no address space or descriptors left.
    pub fn map(&self) -> Result<GuestMemory, VmmError> {
        let layers = self.layers_of_copy();
        let region = self.region(&layers, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(GuestMemory::private(region, layers))
    }

    /// Gives existing RAM this content, whatever it holds; its address stays. VMs that have it see the new content.
    ///
    /// # Errors
    /// It is of another size, or the host refuses the mapping, after which parts of it may be new and others old.
    pub fn remap(&self, memory: &GuestMemory) -> Result<(), VmmError> {
        if memory.size() != self.bytes {
            return Err(self.failed("map an image over", io::ErrorKind::InvalidInput.into()));
        }
        // Should it fail half-way, nothing is known of what there is.
        memory.begin_as(Vec::new());
        let layers = self.layers_of_copy();
        for layer in &layers {
            // SAFETY: `memory` owns a private mapping of just this size and protection, of which whole parts are replaced.
            unsafe { self.lay(layer, memory.host_address() as *mut u8, libc::PROT_READ | libc::PROT_WRITE)? };
        }
        memory.begin_as(layers);
        Ok(())
    }

    /// The content itself, as copies had it when they began.
    ///
    /// # Errors
    /// As [`Image::map`].
    pub fn reference(&self) -> Result<&Reference, VmmError> {
        if let Some(reference) = self.reference.get() {
            return Ok(reference);
        }
        let region = self.region(&self.layers, libc::PROT_READ)?;
        Ok(self.reference.get_or_init(|| Reference { region }))
    }

    /// The layers that the next copy is to have.
    fn layers_of_copy(&self) -> Vec<Arc<Layer>> {
        // This image holds its uppermost layer, and each copy.
        if self.layers.len() == 1 || Arc::strong_count(self.top()) <= MOST_IN_LAYERS {
            return self.layers.clone();
        }
        let mut flat = lock(&self.flat);
        if let Some(flat) = flat.upgrade() {
            return vec![flat];
        }
        match self.flatten().map(Arc::new) {
            Ok(made) => {
                *flat = Arc::downgrade(&made);
                vec![made]
            }
            Err(error) => {
                tracing::debug!(%error, "an image is not put together in one piece");
                self.layers.clone()
            }
        }
    }

    /// A layer that holds all of the image.
    fn flatten(&self) -> Result<Layer, VmmError> {
        let reference = self.reference()?;
        let failed = |source| self.failed("put together the image of", source);
        let file = memfd_create(c"image", MFdFlags::MFD_CLOEXEC).map_err(|error| failed(error.into()))?;
        let file = File::from(file);
        file.set_len(self.bytes).map_err(failed)?;
        let mut buffer = vec![0; PIECE as usize];
        for run in joined(self.data().map_err(failed)?) {
            for start in run.clone().step_by(PIECE as usize) {
                let piece = &mut buffer[..PIECE.min(run.end - start) as usize];
                let slice = reference.slice(start, piece.len());
                slice.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?.copy_to(piece);
                file.write_all_at(piece, start).map_err(failed)?;
            }
        }
        let whole = 0..self.bytes;
        Ok(Layer { file, runs: vec![whole] })
    }

    fn region(&self, layers: &[Arc<Layer>], protection: i32) -> Result<MmapRegion, VmmError> {
        let lowest = &layers[0].file;
        let file = lowest.try_clone().map_err(|source| self.failed("open the image of", source))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let size = address_space(self.bytes)?;
        let region = MmapRegion::build(Some(FileOffset::new(file, 0)), size, protection, flags)
            .map_err(|error| self.failed("map the image of", io::Error::other(error)))?;
        for layer in &layers[1..] {
            // SAFETY: the region is ours alone, of the size of the RAM, and private.
            unsafe { self.lay(layer, region.as_ptr(), protection)? };
        }
        Ok(region)
    }

    /// Maps the runs of a layer into a mapping of the RAM that begins at `base`.
    ///
    /// # Safety
    /// At `base` lies a private mapping of [`Image::bytes`] with that protection, which whoever uses it takes for one that changes.
    unsafe fn lay(&self, layer: &Layer, base: *mut u8, protection: i32) -> Result<(), VmmError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
        for run in &layer.runs {
            let (start, len) = (address_space(run.start)?, address_space(run.end - run.start)?);
            let offset = libc::off_t::try_from(run.start)
                .map_err(|_| self.failed("map an image over", io::ErrorKind::InvalidInput.into()))?;
            // SAFETY: runs lie within the RAM, and so within the caller's mapping; that may be replaced there.
            let mapped = unsafe {
                libc::mmap(base.add(start).cast(), len, protection, flags, layer.file.as_raw_fd(), offset)
            };
            if mapped == libc::MAP_FAILED {
                return Err(self.failed("map an image over", io::Error::last_os_error()));
            }
        }
        Ok(())
    }

    /// The runs of the layers that lie over this image's in RAM that began as `layers`; `None` if it began otherwise.
    pub(super) fn runs_above(&self, layers: &[Arc<Layer>]) -> Option<Vec<Range<u64>>> {
        let same = |(one, other): (&Arc<Layer>, &Arc<Layer>)| Arc::ptr_eq(one, other);
        let above = layers.get(self.layers.len()..)?;
        let begins = layers.iter().zip(&self.layers).all(same);
        begins.then(|| above.iter().flat_map(|layer| layer.runs.iter().cloned()).collect())
    }

    /// Guest-physical ranges of whole pages outside of which all is zero, in no order.
    pub(super) fn data(&self) -> io::Result<Vec<Range<u64>>> {
        let mut data = Vec::new();
        for layer in &self.layers {
            for run in &layer.runs {
                let mut at = run.start;
                while let Some(found) = next_data(&layer.file, at)?.filter(|found| found.start < run.end) {
                    // File systems have blocks of other sizes too.
                    let start = (found.start - found.start % FRAME_SIZE).max(run.start);
                    at = found.end.next_multiple_of(FRAME_SIZE).min(run.end);
                    data.push(start..at);
                }
            }
        }
        Ok(data)
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> VmmError {
        VmmError::Memory { doing, bytes: self.bytes, source }
    }
}

impl Reference {
    /// The bytes at guest-physical `[address, address + len)`, to be read only; `None` outside of RAM.
    pub fn slice(&self, address: u64, len: usize) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(usize::try_from(address).ok()?, len).ok()
    }

    /// The aligned word at `address`; 0 outside of RAM.
    pub(super) fn load(&self, address: u64) -> u64 {
        let mut word = [0; 8];
        self.slice(address, word.len()).into_iter().for_each(|slice| {
            slice.copy_to(&mut word[..]);
        });
        u64::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 1 << 20;

    fn image(mark: u8) -> Image {
        let file = tempfile::tempfile().unwrap();
        file.set_len(RAM).unwrap();
        file.write_all_at(&[mark; 4096], 0x5000).unwrap();
        Image::new(file, RAM).unwrap()
    }

    fn byte(slice: Option<VolatileSlice<'_>>) -> u8 {
        let mut byte = [0];
        slice.expect("within RAM").copy_to(&mut byte);
        byte[0]
    }

    #[test]
    fn copies_begin_alike_and_go_their_own_ways() {
        let image = image(b'a');
        let (one, two) = (image.map().unwrap(), image.map().unwrap());
        one.write(0x5000, b"x");
        one.write(0x9000, b"y");
        assert_eq!((byte(one.slice(0x5000, 1)), byte(two.slice(0x5000, 1))), (b'x', b'a'));
        let reference = image.reference().unwrap();
        assert_eq!((byte(reference.slice(0x5000, 1)), byte(reference.slice(0x9000, 1))), (b'a', 0));
        assert!(reference.slice(RAM, 1).is_none() && reference.slice(u64::MAX, 2).is_none());
        let mut file = [0];
        image.file().read_exact_at(&mut file, 0x5000).unwrap();
        assert_eq!(file, [b'a']);
    }

    #[test]
    fn remapped_memory_has_the_image_alone() {
        let memory = GuestMemory::reserve(RAM).unwrap();
        let address = memory.host_address();
        memory.write(0x9000, b"old");
        for mark in [b'a', b'b'] {
            image(mark).remap(&memory).unwrap();
            assert_eq!((byte(memory.slice(0x5000, 1)), byte(memory.slice(0x9000, 1))), (mark, 0));
            memory.write(0x5000, b"dirty");
            memory.discard(0x5000, 4096).unwrap();
            assert_eq!(byte(memory.slice(0x5000, 1)), 0);
        }
        assert_eq!(memory.host_address(), address);
    }

    #[test]
    fn a_layer_lies_over_the_runs_that_it_says() {
        let below = image(b'a');
        let file = tempfile::tempfile().unwrap();
        file.set_len(RAM).unwrap();
        // One page is another, one becomes zero, one comes into being; what is outside of the runs does not count.
        for page in [0x5000, 0x8000, 0xa000] {
            file.write_all_at(&[b'b'; 4096], page).unwrap();
        }
        below.file().write_all_at(&[b'a'; 0x3000], 0x6000).unwrap();
        let image = Image::over(&below, file, vec![0x5000..0x6000, 0x7000..0x9000]).unwrap();
        let reserved = GuestMemory::reserve(RAM).unwrap();
        image.remap(&reserved).unwrap();
        let content = |read: &dyn Fn(u64) -> u8| [0x5000, 0x6000, 0x7000, 0x8000, 0xa000].map(read);
        let expected = [b'b', b'a', 0, b'b', 0];
        assert_eq!(content(&|at| byte(image.map().unwrap().slice(at, 1))), expected);
        assert_eq!(content(&|at| byte(reserved.slice(at, 1))), expected);
        assert_eq!(content(&|at| byte(image.reference().unwrap().slice(at, 1))), expected);
        assert_eq!(byte(below.map().unwrap().slice(0x5000, 1)), b'a');
        // It keeps what it lies upon.
        drop(below);
        assert_eq!(byte(image.map().unwrap().slice(0x6000, 1)), b'a');
    }

    #[test]
    fn many_copies_share_one_piece() {
        let below = image(b'a');
        let file = tempfile::tempfile().unwrap();
        file.set_len(RAM).unwrap();
        file.write_all_at(&[b'b'; 4096], 0x8000).unwrap();
        let image = Image::over(&below, file, vec![0x5000..0x6000, 0x8000..0x9000]).unwrap();
        let check = |memory: &GuestMemory| {
            let content = [0x4000, 0x5000, 0x8000].map(|at| byte(memory.slice(at, 1)));
            assert_eq!(content, [0, 0, b'b']);
            memory.write(0x8000, b"own");
        };
        let copies: Vec<_> = (0..2 * MOST_IN_LAYERS).map(|_| image.map().unwrap()).collect();
        copies.iter().for_each(check);
        let in_layers = copies.iter().filter(|copy| copy.began_as().len() == 2).count();
        assert_eq!(in_layers, MOST_IN_LAYERS);
        let reserved = GuestMemory::reserve(RAM).unwrap();
        image.remap(&reserved).unwrap();
        check(&reserved);
        assert_eq!(reserved.began_as().len(), 1);
        // Where they are compared with what lies below, all is looked at.
        let mut found = Vec::new();
        reserved
            .difference(&below, std::iter::once(0..RAM), |page, content| {
                found.push((page, content.is_some()))
            })
            .unwrap();
        assert_eq!(found, [(0x5000, false), (0x8000, true)]);
        assert!(lock(&image.flat).upgrade().is_some());
        drop((copies, reserved));
        assert!(lock(&image.flat).upgrade().is_none(), "nobody has it any more");
        assert_eq!(image.map().unwrap().began_as().len(), 2);
    }

    #[test]
    fn runs_that_are_no_runs_are_refused() {
        let below = image(b'a');
        let over = |runs: &[(u64, u64)]| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(RAM).unwrap();
            Image::over(&below, file, runs.iter().map(|(start, end)| *start..*end).collect()).is_ok()
        };
        assert!(over(&[]) && over(&[(0, RAM)]) && over(&[(0, 4096), (4096, 8192)]));
        for wrong in [
            (0, RAM + 4096),
            (RAM, RAM + 4096),
            (17, 4096),
            (0, 100),
            (4096, 4096),
            (8192, 4096),
            (0, u64::MAX),
        ] {
            assert!(!over(&[wrong]), "{wrong:?}");
        }
        assert!(!over(&[(4096, 8192), (0, 4096)]) && !over(&[(0, 8192), (4096, 12288)]));
    }

    #[test]
    fn what_cannot_be_remapped_is_refused_and_stays() {
        let memory = GuestMemory::reserve(2 * RAM).unwrap();
        memory.write(0x5000, b"kept");
        assert!(image(b'a').remap(&memory).is_err());
        assert_eq!(byte(memory.slice(0x5000, 1)), b'k');
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        assert!(Image::new(tempfile::tempfile().unwrap(), RAM).is_err());
    }
}
