//! Which pages of a private mapping were touched, and which were written to, and so are the mapping's own. The same call of the kernel's
//! makes KVM forget pages.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::frames::FRAME_SIZE;

/// Pages of this process' memory, by the kernel's account in `/proc/self/pagemap`.
pub(super) struct Pagemap {
    file: File,
}

/// What is known of a page of a private mapping of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touched {
    /// It is present and shows the file.
    Read,
    /// It is the mapping's own: written to since it was mapped, or anonymous and touched.
    Written,
}

/// `struct page_region` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`; since Linux 6.7.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
/// `PM_SCAN_WP_MATCHING` of `linux/fs.h`.
const WRITE_PROTECT: u64 = 1 << 0;
/// `PAGE_IS_FILE`, `PAGE_IS_PRESENT` and `PAGE_IS_SWAPPED` of `linux/fs.h`.
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;

/// Bits of an entry of `/proc/PID/pagemap`, from the kernel's `Documentation/admin-guide/mm/pagemap.rst`.
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_FILE: u64 = 1 << 61;

/// Regions or entries that are asked for at a time.
const BATCH: usize = 512;

const _: () = assert!(size_of::<ScanArguments>() == 96 && size_of::<PageRegion>() == 24);

impl Pagemap {
    /// Opens it.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn open() -> io::Result<Pagemap> {
        Ok(Pagemap { file: File::open("/proc/self/pagemap")? })
    }

    /// Calls `found` for each run of pages in the page-aligned range of addresses that was touched so.
    ///
    /// # Errors
    /// The operating system refuses the look.
    pub fn pages(
        &self,
        touched: Touched,
        range: Range<u64>,
        mut found: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        static HAS_SCAN: OnceLock<bool> = OnceLock::new();
        if *HAS_SCAN.get_or_init(|| self.scan(touched, 0..0, &mut |_| {}).is_ok()) {
            self.scan(touched, range, &mut found)
        } else {
            self.read(touched, range, &mut found)
        }
    }

    /// Has whoever keeps translations to the page-aligned range of addresses of its own, as KVM does, forget them.
    ///
    /// The scan is to protect what it finds from writes where that is asked for by `userfaultfd`, which it is nowhere here: it only announces
    /// a change, which nobody sees to. That costs less than a change, and concerns no page but those of the range.
    ///
    /// # Errors
    /// The kernel has no `PAGEMAP_SCAN`.
    pub fn announce_change(&self, range: Range<u64>) -> io::Result<()> {
        let (flags, start, end) = (WRITE_PROTECT, range.start, range.end);
        self.call(&mut ScanArguments { flags, start, end, ..ScanArguments::default() }, &mut []).map(drop)
    }

    fn scan(&self, touched: Touched, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        // Either those that are a file's, or those that are not.
        let (inverted, any_of) = match touched {
            Touched::Read => (0, IS_PRESENT),
            Touched::Written => (IS_FILE, IS_PRESENT | IS_SWAPPED),
        };
        let mut regions = [PageRegion::default(); BATCH];
        let mut start = range.start;
        loop {
            let mut arguments = ScanArguments {
                start,
                end: range.end,
                category_inverted: inverted,
                category_mask: IS_FILE,
                category_any_of: any_of,
                return_mask: IS_FILE,
                ..ScanArguments::default()
            };
            let count = self.call(&mut arguments, &mut regions)?;
            for region in regions.iter().take(count) {
                found(region.start..region.end);
            }
            if arguments.walk_end >= range.end || arguments.walk_end <= start {
                return Ok(());
            }
            start = arguments.walk_end;
        }
    }

    /// Scans as the arguments say, which become the kernel's answer, and says how many regions were found.
    fn call(&self, arguments: &mut ScanArguments, regions: &mut [PageRegion]) -> io::Result<usize> {
        arguments.size = size_of::<ScanArguments>() as u64;
        if !regions.is_empty() {
            (arguments.regions, arguments.regions_len) = (regions.as_mut_ptr() as u64, regions.len() as u64);
        }
        // SAFETY: the kernel reads and writes the structure, and writes at most `regions_len` regions where `regions` points to, none where
        // that is 0; both outlive the call.
        let count = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, arguments) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// [`Pagemap::scan`] for kernels without `PAGEMAP_SCAN`.
    fn read(&self, touched: Touched, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        let mut bytes = [0; 8 * BATCH];
        let mut run: Option<Range<u64>> = None;
        let mut at = range.start;
        while at < range.end {
            let pages = (((range.end - at) / FRAME_SIZE) as usize).min(BATCH);
            self.file.read_exact_at(&mut bytes[..8 * pages], at / FRAME_SIZE * 8)?;
            for entry in bytes[..8 * pages].chunks_exact(8) {
                let entry = entry.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
                let counts = match touched {
                    Touched::Read => entry & ENTRY_PRESENT != 0 && entry & ENTRY_FILE != 0,
                    Touched::Written => {
                        entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0
                    }
                };
                match &mut run {
                    Some(run) if counts => run.end = at + FRAME_SIZE,
                    None if counts => run = Some(at..at + FRAME_SIZE),
                    _ => run.take().into_iter().for_each(&mut *found),
                }
                at += FRAME_SIZE;
            }
        }
        run.into_iter().for_each(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use super::super::image::Image;

    #[test]
    fn what_was_written_is_found_by_both_ways() {
        let mut image = tempfile::tempfile().expect("a file");
        image.write_all(&vec![7; 4 << 20]).expect("room for it");
        let memory = Image::new(image, 4 << 20).expect("an image").map().expect("a mapping");
        let base = memory.host_address();
        let mut expected = Vec::new();
        for (first, count) in [(3, 1), (5, 2), (600, 3), (1023, 1)] {
            memory.write(first * FRAME_SIZE, &vec![1; (count * FRAME_SIZE) as usize]);
            expected.push(base + first * FRAME_SIZE..base + (first + count) * FRAME_SIZE);
        }
        // Only read: it stays the file's.
        assert_eq!(memory.load(100 * FRAME_SIZE), u64::from_ne_bytes([7; 8]));
        let pagemap = Pagemap::open().expect("a page map");
        let whole = base..base + memory.size();
        let read_at = base + 100 * FRAME_SIZE;
        for touched in [Touched::Written, Touched::Read] {
            let mut read = Vec::new();
            pagemap.read(touched, whole.clone(), &mut |run| read.push(run)).expect("a look");
            match touched {
                Touched::Written => assert_eq!(read, expected),
                // The kernel brings in more around what is read.
                Touched::Read => assert!(read.iter().any(|run| run.contains(&read_at)), "{read:x?}"),
            }
            let mut scanned = Vec::new();
            match pagemap.scan(touched, whole.clone(), &mut |run| scanned.push(run)) {
                Ok(()) => assert_eq!(scanned, read),
                Err(error) => eprintln!("skipped: this kernel has no PAGEMAP_SCAN: {error}"),
            }
        }
    }
}
