//! Checksums of what a snapshot holds: XXH3, 64 bits. They find damage; who may write to the store can do worse than
//! forge one.

use std::fmt;
use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twox_hash::XxHash3_64;

use crate::vmm::next_data;

/// A checksum; as text `xxh3:` and 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum(u64);

/// Bytes that are read at a time.
const READ: usize = 256 << 10;
/// Bytes that are summed at a time. A part of the format: the checksum of a memory is made of those of its chunks.
const CHUNK: usize = 64 << 10;
const PREFIX: &str = "xxh3:";

impl Checksum {
    /// Of some bytes.
    pub fn of_bytes(bytes: &[u8]) -> Checksum {
        Checksum(XxHash3_64::oneshot(bytes))
    }

    /// Of a file from its start to its end.
    pub fn of_file(file: &File) -> io::Result<Checksum> {
        let mut hasher = XxHash3_64::new();
        let mut buffer = vec![0; READ];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at) {
                Ok(0) => return Ok(Checksum(hasher.finish())),
                Ok(read) => {
                    hasher.write(&buffer[..read]);
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Of a sparse file: of the place and content of each chunk that is not all zeros. Holes are not read, and a hole that
    /// is filled with zeros makes no difference: file systems differ in where they keep holes.
    pub fn of_sparse_file(file: &File) -> io::Result<Checksum> {
        let size = file.metadata()?.len();
        let mut hasher = XxHash3_64::new();
        let mut buffer = vec![0; READ];
        let mut done = 0;
        while let Some(Range { start, end }) = next_data(file, done)?.filter(|data| data.start < size) {
            let mut at = (start - start % CHUNK as u64).max(done);
            let end = end.next_multiple_of(CHUNK as u64).min(size);
            while at < end {
                let piece = &mut buffer[..READ.min((end - at) as usize)];
                file.read_exact_at(piece, at)?;
                for (i, chunk) in piece.chunks(CHUNK).enumerate().filter(|(_, chunk)| !is_zero(chunk)) {
                    hasher.write(&(at + (i * CHUNK) as u64).to_le_bytes());
                    hasher.write(&XxHash3_64::oneshot(chunk).to_le_bytes());
                }
                at += piece.len() as u64;
            }
            done = at;
        }
        Ok(Checksum(hasher.finish()))
    }
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| piece == &ZEROS[..piece.len()])
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:016x}", self.0)
    }
}

/// The text is no checksum.
#[derive(Debug, thiserror::Error)]
#[error("a checksum is `{PREFIX}` and 16 hexadecimal digits in lower case")]
pub struct NoChecksum;

impl std::str::FromStr for Checksum {
    type Err = NoChecksum;

    fn from_str(text: &str) -> Result<Checksum, NoChecksum> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 16).ok_or(NoChecksum)?;
        let checksum = u64::from_str_radix(digits, 16).map(Checksum).map_err(|_| NoChecksum)?;
        // There is one text for each checksum, so that no bit of it can flip unseen.
        if checksum.to_string() == text { Ok(checksum) } else { Err(NoChecksum) }
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checksum, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn sparse(size: u64, pieces: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn holes_and_zeros_are_the_same() {
        let size = 3 * CHUNK as u64 + 100;
        let content: [(u64, &[u8]); 3] = [(5, b"a"), (2 * CHUNK as u64 - 1, b"bc"), (size - 1, b"d")];
        let checksum = Checksum::of_sparse_file(&sparse(size, &content)).unwrap();
        let mut filled = vec![0; size as usize];
        for (at, bytes) in content {
            filled[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(Checksum::of_sparse_file(&sparse(size, &[(0, &filled)])).unwrap(), checksum);
    }

    #[test]
    fn what_moves_is_seen() {
        let of = |at: u64| Checksum::of_sparse_file(&sparse(1 << 20, &[(at, b"x")])).unwrap();
        assert_ne!(of(0), of(CHUNK as u64));
        assert_ne!(of(0), of(1));
        assert_eq!(of(7), of(7));
        assert_ne!(of(0), Checksum::of_sparse_file(&sparse(1 << 20, &[])).unwrap());
    }

    #[test]
    fn a_file_is_its_bytes() {
        let bytes = vec![7; 3 * READ / 2];
        assert_eq!(Checksum::of_file(&sparse(0, &[(0, &bytes)])).unwrap(), Checksum::of_bytes(&bytes));
    }

    #[test]
    fn there_is_one_text_for_each() {
        let text = Checksum(0xab).to_string();
        assert_eq!(
            (text.as_str(), text.parse::<Checksum>().unwrap()),
            ("xxh3:00000000000000ab", Checksum(0xab))
        );
        for wrong in ["", "xxh3:", "xxh3:00000000000000AB", "xxh3:+0000000000000ab", "00000000000000ab"] {
            assert!(wrong.parse::<Checksum>().is_err(), "{wrong}");
        }
    }
}
