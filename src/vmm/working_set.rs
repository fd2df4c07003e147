//! The pages that programs touch when they go on from an image: much the same each time, so they can be brought in ahead.

use std::io;
use std::ops::Range;

use super::error::VmmError;
use super::memory::GuestMemory;
use super::pagemap::{Pagemap, Touched};

/// Guest-physical ranges of pages, in order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WorkingSet {
    read: Vec<Range<u64>>,
    written: Vec<Range<u64>>,
}

impl WorkingSet {
    /// Of pages that are read only, and of pages that are written.
    pub fn new(read: Vec<Range<u64>>, written: Vec<Range<u64>>) -> WorkingSet {
        WorkingSet { read, written }
    }

    /// What was read only.
    pub fn read(&self) -> &[Range<u64>] {
        &self.read
    }

    /// What was written.
    pub fn written(&self) -> &[Range<u64>] {
        &self.written
    }

    /// Bytes that were read only, and bytes that were written.
    pub fn bytes(&self) -> (u64, u64) {
        let sum = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum();
        (sum(&self.read), sum(&self.written))
    }
}

impl GuestMemory {
    /// What the program has touched since this RAM began as an image.
    ///
    /// # Errors
    /// The operating system refuses the look.
    pub fn working_set(&self) -> Result<WorkingSet, VmmError> {
        let failed =
            |source| VmmError::Memory { doing: "look for the touched pages of", bytes: self.size(), source };
        let base = self.host_address();
        let pagemap = Pagemap::open().map_err(failed)?;
        let runs = |touched| -> io::Result<Vec<Range<u64>>> {
            let mut runs = Vec::new();
            pagemap.pages(touched, base..base + self.size(), |run| {
                runs.push(run.start - base..run.end - base);
            })?;
            Ok(runs)
        };
        Ok(WorkingSet {
            read: runs(Touched::Read).map_err(failed)?,
            written: runs(Touched::Written).map_err(failed)?,
        })
    }

    /// Brings the pages in, and makes this RAM's own those that will be written to: KVM finds them mapped then, several at a time where
    /// they lie next to each other. What cannot be had ahead comes when it is touched.
    pub fn populate(&self, set: &WorkingSet) {
        // To read a page brings in those around it, and to make one its own that is there is told to every VM of the process.
        for (runs, advice) in
            [(&set.written, libc::MADV_POPULATE_WRITE), (&set.read, libc::MADV_POPULATE_READ)]
        {
            runs.iter().for_each(|run| self.advise(run.clone(), advice));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::image::Image;
    use super::*;

    #[test]
    fn what_one_copy_touched_is_there_in_the_next() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8 << 20).expect("room for it");
        file.write_all_at(&vec![7; 1 << 20], 0).expect("room for it");
        let image = Image::new(file, 8 << 20).expect("an image");
        let (one, two) = (image.map().expect("a mapping"), image.map().expect("a mapping"));
        assert_eq!(one.working_set().expect("a look"), WorkingSet::default());
        one.load(0x10_0000 - 8);
        one.write(0x4000, b"written");
        let set = one.working_set().expect("a look");
        assert_eq!(set.written, vec![0x4000..0x5000]);
        assert!(set.read.iter().any(|run| run.contains(&0xf_f000)), "{set:x?}");
        two.populate(&set);
        assert_eq!(two.working_set().expect("a look").written, set.written);
        assert_eq!(two.load(0x4000), u64::from_ne_bytes([7; 8]));
    }
}
