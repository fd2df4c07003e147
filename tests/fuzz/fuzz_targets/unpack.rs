//! Any bytes as an archive: no panic, nothing outside the folder, only plain files and folders, no more bytes than
//! allowed.
#![no_main]
use hydra::function::store::{Limits, unpack};
use libfuzzer_sys::fuzz_target;
use std::{fs, io::Cursor, os::unix::fs::MetadataExt, path::Path};

fuzz_target!(|archive: &[u8]| {
    let limits = Limits { unpacked_bytes: 64 << 10, entries: 64, ..Limits::default() };
    let around = tempfile::tempdir().expect("a folder to work in");
    let folder = around.path().join("inner");
    fs::create_dir(&folder).expect("a new folder");
    let result = unpack::unpack(Cursor::new(archive), &folder, &limits);
    assert_eq!(fs::read_dir(around.path()).expect("our own folder").count(), 1, "something left the folder");
    let bytes = plain_bytes(&folder);
    match result {
        Ok(unpacked) => assert_eq!(bytes, unpacked),
        Err(_) => assert!(bytes <= limits.unpacked_bytes),
    }
    let _ = unpack::check(Cursor::new(archive), &limits);
});

/// The bytes in a folder's files; there may be nothing but files and folders.
fn plain_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder that was unpacked");
    entries
        .map(|entry| {
            let path = entry.expect("an entry that was unpacked").path();
            let metadata = fs::symlink_metadata(&path).expect("an entry that was unpacked");
            assert!(metadata.is_dir() || metadata.is_file() && metadata.nlink() == 1, "{path:?}");
            assert_eq!(metadata.mode() & 0o7000, 0, "{path:?}");
            if metadata.is_dir() { plain_bytes(&path) } else { metadata.len() }
        })
        .sum()
}
