//! The file `working-set` of a snapshot: what the first program that went on from it touched, so that a Hydra that is started anew need not
//! find out again.
//!
//! It may be missing, and it may be damaged: then pages come when they are touched, until the next program that goes on is looked at.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::checksum::Checksum;
use super::page_runs::PageRuns;
use super::shelf::open_at;
use crate::vmm::WorkingSet;

/// Its name in the snapshot's folder.
const FILE: &str = "working-set";
/// Most bytes of it.
const MOST_BYTES: u64 = 256 << 10;

/// What the folder `home` has, if that is as it was written.
pub(super) fn read(home: &OwnedFd) -> Option<WorkingSet> {
    let mut text = String::new();
    open_at(home, FILE).ok()?.take(MOST_BYTES + 1).read_to_string(&mut text).ok()?;
    parse(&text)
}

/// Writes it in the place of what is there.
///
/// # Errors
/// The disk is full or fails, or there are more runs than are of use. What is left of the attempt is not read.
pub(super) fn write(home: &OwnedFd, set: &WorkingSet) -> io::Result<()> {
    let text = to_text(set);
    if text.len() as u64 > MOST_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    match rustix::fs::unlinkat(home, FILE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(home, FILE, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(text.as_bytes())
}

/// As it is in the file.
pub(super) fn to_text(set: &WorkingSet) -> String {
    let runs = |runs: &[Range<u64>]| PageRuns::new(runs.to_vec());
    let body = format!("read {}\nwritten {}\n", runs(set.read()), runs(set.written()));
    let checksum = Checksum::of_bytes(body.as_bytes());
    format!("{body}checksum {checksum}\n")
}

/// What is in the file, if it is as it was written.
pub(super) fn parse(text: &str) -> Option<WorkingSet> {
    let (body, checksum) = text.strip_suffix('\n')?.rsplit_once("checksum ")?;
    if checksum.parse::<Checksum>().ok()? != Checksum::of_bytes(body.as_bytes()) {
        return None;
    }
    let (read, written) = body.strip_prefix("read ")?.strip_suffix('\n')?.split_once("\nwritten ")?;
    let runs = |text: &str| Some(text.parse::<PageRuns>().ok()?.ranges().to_vec());
    Some(WorkingSet::new(runs(read)?, runs(written)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = WorkingSet> {
        let runs = || {
            let run =
                (0..1u64 << 30, 1..100u64).prop_map(|(first, count)| first << 12..(first + count) << 12);
            proptest::collection::vec(run, 0..50)
        };
        (runs(), runs()).prop_map(|(read, written)| WorkingSet::new(read, written))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(set in sets()) {
            let folder = tempfile::tempdir().unwrap();
            let home = File::open(folder.path()).unwrap().into();
            prop_assert_eq!(read(&home), None);
            write(&home, &WorkingSet::default()).unwrap();
            write(&home, &set).unwrap();
            prop_assert_eq!(read(&home), Some(set));
        }

        #[test]
        fn any_text_is_refused(text in ".{0,300}") {
            prop_assert_eq!(parse(&text), None);
        }
    }

    #[test]
    fn damage_is_found() {
        let set = WorkingSet::new(vec![0x1000..0x3000, 0x7000..0x8000], vec![]);
        let text = to_text(&set);
        assert_eq!(parse(&text), Some(set));
        for at in 0..text.len() {
            assert_eq!(parse(&text[..at]), None, "cut to {at} bytes");
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert_eq!(parse(std::str::from_utf8(&damaged).unwrap()), None, "byte {at}");
        }
    }
}
