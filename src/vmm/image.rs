//! The RAM that copies begin with: files, mapped privately by each of them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

use super::error::VmmError;
use super::memory::{GuestMemory, address_space};

/// The first content of the RAM of any number of VMs. All of them share its pages until they write to them.
///
/// Nobody may shorten the files while they are mapped: whoever touches what is gone is ended.
pub struct Image {
    file: File,
    bytes: u64,
    reference: OnceLock<Reference>,
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
        let image = Image { file, bytes, reference: OnceLock::new() };
        let short = || image.failed("map", io::ErrorKind::UnexpectedEof.into());
        match image.file.metadata() {
            Ok(metadata) if metadata.len() < bytes => Err(short()),
            Ok(_) => Ok(image),
            Err(error) => Err(image.failed("look at the image of", error)),
        }
    }

    /// Size of the RAM in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file of the image.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// New RAM with this content. What is written to it is its own.
    ///
    /// # Errors
    /// The host has no address space or descriptors left.
    pub fn map(&self) -> Result<GuestMemory, VmmError> {
        Ok(GuestMemory::private(self.region(libc::PROT_READ | libc::PROT_WRITE)?))
    }

    /// Gives existing RAM this content, whatever it holds; its address stays. VMs that have it see the new content.
    ///
    /// # Errors
    /// It is of another size, or RAM of a file of its own ([`GuestMemory::new`]); or the host refuses the mapping, after which
    /// parts of it may be new and others old.
    pub fn remap(&self, memory: &GuestMemory) -> Result<(), VmmError> {
        if memory.size() != self.bytes || !memory.is_private() {
            return Err(self.failed("map an image over", io::ErrorKind::InvalidInput.into()));
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = memory.host_address() as *mut libc::c_void;
        // SAFETY: replaces the whole of a private mapping that `memory` owns by one of the same size and protection.
        let mapped = unsafe {
            libc::mmap(at, address_space(self.bytes)?, protection, flags, self.file.as_raw_fd(), 0)
        };
        match mapped {
            libc::MAP_FAILED => Err(self.failed("map an image over", io::Error::last_os_error())),
            _ => Ok(()),
        }
    }

    /// The content itself, as copies had it when they began.
    ///
    /// # Errors
    /// As [`Image::map`].
    pub fn reference(&self) -> Result<&Reference, VmmError> {
        if let Some(reference) = self.reference.get() {
            return Ok(reference);
        }
        let region = self.region(libc::PROT_READ)?;
        Ok(self.reference.get_or_init(|| Reference { region }))
    }

    fn region(&self, protection: i32) -> Result<MmapRegion, VmmError> {
        let file = self.file.try_clone().map_err(|source| self.failed("open the image of", source))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        MmapRegion::build(Some(FileOffset::new(file, 0)), address_space(self.bytes)?, protection, flags)
            .map_err(|error| self.failed("map the image of", io::Error::other(error)))
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
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

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
    fn what_cannot_be_remapped_is_refused_and_stays() {
        for memory in [GuestMemory::new(RAM).unwrap(), GuestMemory::reserve(2 * RAM).unwrap()] {
            memory.write(0x5000, b"kept");
            assert!(image(b'a').remap(&memory).is_err());
            assert_eq!(byte(memory.slice(0x5000, 1)), b'k');
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        assert!(Image::new(tempfile::tempfile().unwrap(), RAM).is_err());
    }
}
