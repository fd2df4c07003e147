//! What the store accepts.
use std::time::Duration;

/// Bounds on one download, on one archive, and on the store as a whole.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body that is downloaded, in bytes.
    pub download_bytes: u64,
    /// Longest that one download may take in all: connecting, redirects and the whole body.
    pub download_time: Duration,
    /// Longest that a connection may take to come about (DNS, TCP and TLS).
    pub connect_time: Duration,
    /// Most redirects that are followed.
    pub redirects: usize,
    /// Most bytes that one archive may hold once unpacked, counted while inflating.
    pub unpacked_bytes: u64,
    /// Most files and folders in one archive.
    pub entries: usize,
    /// Longest path of an archive's entry, in bytes.
    pub path_bytes: usize,
    /// Most folders above an archive's entry, the entry itself included.
    pub depth: usize,
    /// Size of everything that the store keeps, in bytes. Beyond it, code that nothing uses is removed, the least
    /// recently used first. Code in use is never removed, so the store can be larger than this.
    pub cache_bytes: u64,
    /// Downloads that run at one time; further ones wait.
    pub parallel_downloads: usize,
    /// Archives that are unpacked at one time; further ones wait.
    pub parallel_unpacks: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            download_bytes: 256 << 20,
            download_time: Duration::from_secs(120),
            connect_time: Duration::from_secs(10),
            redirects: 5,
            unpacked_bytes: 1 << 30,
            entries: 65_536,
            path_bytes: 1024,
            depth: 64,
            cache_bytes: 8 << 30,
            parallel_downloads: 16,
            parallel_unpacks: 2,
        }
    }
}

/// A number of bytes as a person reads it: `512 bytes`, `256 MiB`. Rounded down to the unit.
pub(super) fn readable(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
