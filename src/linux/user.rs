//! Access to the program's memory: the one place where a guest address becomes host memory.
//!
//! Every access goes page by page through the guest's own page tables, as the CPU's would: a page that is absent is faulted in, one
//! that the program may not touch gives `EFAULT`. The result is a list of bounds-checked host slices, because
//! neighbouring pages of the guest need not be neighbours in its RAM.

use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::errno::Errno;
use super::kernel::Kernel;
use crate::vmm::{Access, FRAME_SIZE, layout};

/// Most bytes that one transfer moves, as on Linux.
pub const MAX_TRANSFER: usize = 0x7fff_f000;
/// Most bytes of a path, with its end.
pub const PATH_MAX: usize = 4096;
/// Most parts of a vectored transfer.
const IOV_MAX: usize = 1024;

/// Host memory that holds a range of guest memory, in order.
pub type Slices<'a> = Vec<VolatileSlice<'a>>;

impl Kernel {
    /// Host slices for `[address, address + len)`, all of which the program may access so.
    pub fn user_slices(&self, address: u64, len: usize, access: Access) -> Result<Slices<'_>, Errno> {
        let (slices, got) = self.user_prefix(address, len, access)?;
        if got == len { Ok(slices) } else { Err(Errno::EFAULT) }
    }

    /// Host slices for as much of the start of the range as the program may access, at least one byte unless `len` is 0; and how
    /// many bytes they hold. This is what a transfer uses that ends early at a bad page.
    pub fn user_prefix(
        &self,
        address: u64,
        len: usize,
        access: Access,
    ) -> Result<(Slices<'_>, usize), Errno> {
        let len = len.min(MAX_TRANSFER);
        let end =
            address.checked_add(len as u64).filter(|end| *end <= layout::USER_END).ok_or(Errno::EFAULT)?;
        let mut slices: Slices<'_> = Vec::new();
        // The run of frames being gathered: guest-physical start and bytes.
        let mut run: Option<(u64, usize)> = None;
        let mut at = address;
        let mut space = self.mm();
        while at < end {
            let page_end = (at | (FRAME_SIZE - 1)) + 1;
            let n = (page_end.min(end) - at) as usize;
            let Some(frame) = space.resolve(at, access) else { break };
            let physical = frame.address() + at % FRAME_SIZE;
            run = match run {
                Some((start, bytes)) if start + bytes as u64 == physical => Some((start, bytes + n)),
                Some((start, bytes)) => {
                    slices.push(self.memory().slice(start, bytes).ok_or(Errno::EFAULT)?);
                    Some((physical, n))
                }
                None => Some((physical, n)),
            };
            at += n as u64;
        }
        if let Some((start, bytes)) = run {
            slices.push(self.memory().slice(start, bytes).ok_or(Errno::EFAULT)?);
        }
        if at == address && len > 0 { Err(Errno::EFAULT) } else { Ok((slices, (at - address) as usize)) }
    }

    /// Copies from the program.
    pub fn read_bytes(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        for slice in self.user_slices(address, into.len(), Access::READ)? {
            done += slice.copy_to(&mut into[done..]);
        }
        Ok(())
    }

    /// Copies to the program.
    pub fn write_bytes(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        for slice in self.user_slices(address, from.len(), Access::WRITE)? {
            slice.copy_from(&from[done..done + slice.len()]);
            done += slice.len();
        }
        Ok(())
    }

    /// Reads a plain value at any alignment.
    pub fn read<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a plain value at any alignment.
    pub fn write<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), Errno> {
        self.write_bytes(address, value.as_bytes())
    }

    /// Writes a plain value unless the program passed a null pointer.
    pub fn write_optional<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> Result<(), Errno> {
        if address == 0 { Ok(()) } else { self.write(address, value) }
    }

    /// Reads `count` plain values; more than `most` are refused with `EINVAL`.
    pub fn read_array<T: FromBytes + IntoBytes + Clone>(
        &self,
        address: u64,
        count: usize,
        most: usize,
    ) -> Result<Vec<T>, Errno> {
        if count > most {
            return Err(Errno::EINVAL);
        }
        let mut values = vec![T::new_zeroed(); count];
        let mut done = 0;
        for slice in self.user_slices(address, size_of::<T>() * count, Access::READ)? {
            done += slice.copy_to(&mut values.as_mut_slice().as_mut_bytes()[done..]);
        }
        Ok(values)
    }

    /// Reads a string up to its zero, which must come within `most` bytes.
    pub fn read_string(&self, address: u64, most: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < most {
            let n = ((FRAME_SIZE - at % FRAME_SIZE) as usize).min(most - text.len());
            let mut chunk = vec![0; n];
            self.read_bytes(at, &mut chunk)?;
            if let Some(end) = chunk.iter().position(|b| *b == 0) {
                text.extend_from_slice(&chunk[..end]);
                return Ok(text);
            }
            text.extend_from_slice(&chunk);
            at += n as u64;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a path.
    pub fn read_path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        self.read_string(address, PATH_MAX)
    }

    /// Reads an array of `iovec`: addresses and lengths.
    pub fn read_iovecs(&self, address: u64, count: usize) -> Result<Vec<(u64, usize)>, Errno> {
        let raw: Vec<[u64; 2]> = self.read_array(address, count, IOV_MAX)?;
        let mut total = 0usize;
        raw.into_iter()
            .map(|[base, len]| {
                if len > i64::MAX as u64 {
                    return Err(Errno::EINVAL);
                }
                let len = (len as usize).min(MAX_TRANSFER - total);
                total += len;
                Ok((base, len))
            })
            .collect()
    }

    /// Host slices for the parts of a vectored transfer, up to the first byte that the program may not access so.
    pub fn user_vector(&self, parts: &[(u64, usize)], access: Access) -> Result<Slices<'_>, Errno> {
        let mut slices = Vec::new();
        for (address, len) in parts.iter().filter(|p| p.1 > 0) {
            match self.user_prefix(*address, *len, access) {
                Ok((more, got)) => {
                    slices.extend(more);
                    if got < *len {
                        break;
                    }
                }
                Err(_) if !slices.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(slices)
    }
}

/// Copies `bytes` into `slices`; returns how many fitted.
pub fn scatter(slices: &[VolatileSlice<'_>], bytes: &[u8]) -> usize {
    let mut done = 0;
    for slice in slices {
        let n = slice.len().min(bytes.len() - done);
        slice.copy_from(&bytes[done..done + n]);
        done += n;
    }
    done
}

/// Copies up to `most` bytes out of `slices`.
pub fn gather(slices: &[VolatileSlice<'_>], most: usize) -> Vec<u8> {
    let total = slices.iter().map(|s| s.len()).sum::<usize>().min(most);
    let mut bytes = vec![0; total];
    let mut done = 0;
    for slice in slices {
        if done == total {
            break;
        }
        done += slice.copy_to(&mut bytes[done..]);
    }
    bytes
}
