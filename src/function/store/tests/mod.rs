//! The store as a whole, against a real server.
mod crash;
mod keep;
mod server;
mod transfer;

use super::*;
use std::{fs, io::Write};
use zip::{ZipWriter, write::SimpleFileOptions};

const HELLO: &[u8] = b"def main(args): return 'hello'";

/// A store in a folder of its own, which is removed with it.
fn store(limits: Limits) -> (CodeStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (CodeStore::open(folder.path(), limits).unwrap(), folder)
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, data) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The files among the half-written ones.
fn partial(app_dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(app_dir.join("code/partial")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Digests that have a folder.
fn digests(app_dir: &Path) -> usize {
    fs::read_dir(app_dir.join("code"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().len() == 64)
        .count()
}
