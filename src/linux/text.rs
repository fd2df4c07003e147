//! Read-only files whose text is made when they are opened: those of `/proc`.

use std::sync::Mutex;

use vm_memory::VolatileSlice;

use super::budget::Budget;
use super::errno::Errno;
use super::file::{File, Object, Ready};
use super::kernel::Kernel;
use super::stat::Attributes;
use super::user::scatter;
use crate::sync::lock;

/// A text and the position in it.
pub struct Text {
    bytes: Vec<u8>,
    position: Mutex<u64>,
}

impl Text {
    /// A file that reads as `bytes`; `ENOMEM` if too much is held for the program already.
    pub fn new(budget: &Budget, bytes: Vec<u8>) -> Result<Text, Errno> {
        budget.take(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        Ok(Text { bytes, position: Mutex::new(0) })
    }

    /// One of a restored program, at a position.
    pub fn restore(budget: &Budget, bytes: Vec<u8>, position: u64) -> Text {
        budget.take_restored(bytes.len());
        Text { bytes, position: Mutex::new(position) }
    }

    /// The text and the position, for a checkpoint.
    pub fn save(&self) -> (Vec<u8>, u64) {
        (self.bytes.clone(), *lock(&self.position))
    }
}

impl Object for Text {
    fn read(&self, _: &Kernel, _: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let mut position = lock(&self.position);
        let n = self.read_at(into, *position)?;
        *position += n as u64;
        Ok(n)
    }

    fn read_at(&self, into: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..)).unwrap_or(&[]);
        Ok(scatter(into, rest))
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        let mut position = lock(&self.position);
        let base = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => *position,
            libc::SEEK_END => self.bytes.len() as u64,
            _ => return Err(Errno::EINVAL),
        };
        *position = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
        Ok(*position)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        Ready::ALWAYS
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(libc::S_IFREG | 0o444))
    }

    fn closed(&self, kernel: &Kernel) {
        kernel.budget.give(self.bytes.len());
    }
}
