//! Unpacking of zip archives that nobody vouches for.
//!
//! No entry leaves its folder, only plain files and folders are made, and every size is counted while inflating
//! rather than believed. The result has no write permission, so that nothing changes it by accident.
pub use super::entry_path::NameFault;
use super::{
    Limits,
    entry_path::{Names, parts},
    limits::readable,
};
use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zip::{
    ZipReadOptions,
    read::{Config, ZipFileEntry},
    result::ZipError,
    // Unlike `ZipArchive` it needs no memory for each entry and keeps duplicates apart. Its crate wants an exact version
    // in Cargo.toml for it.
    unstable::read::ZipIterable,
};

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Not a zip archive, or a damaged one.
    #[error("the archive cannot be read: {0}")]
    Damaged(String),
    /// Nothing in it.
    #[error("the archive is empty")]
    Empty,
    /// A name that is not accepted.
    #[error("the entry `{entry}` is refused: {fault}")]
    Name {
        /// The entry, with special characters escaped.
        entry: String,
        /// What is wrong with its name.
        fault: NameFault,
    },
    /// Something other than a plain file or a folder.
    #[error("the entry `{entry}` is refused: it is {kind}; only plain files and folders are unpacked")]
    Special {
        /// The entry, with special characters escaped.
        entry: String,
        /// What it is.
        kind: &'static str,
    },
    /// An encrypted entry.
    #[error("the entry `{entry}` is encrypted; make the archive without a password")]
    Encrypted {
        /// The entry, with special characters escaped.
        entry: String,
    },
    /// An entry whose data is damaged or compressed by a method that is not supported.
    #[error("the entry `{entry}` cannot be read: {reason}")]
    Entry {
        /// The entry, with special characters escaped.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More files and folders than [`Limits::entries`].
    #[error("the archive holds more than {0} files and folders, the most that is accepted")]
    Entries(usize),
    /// More data than [`Limits::unpacked_bytes`].
    #[error("the archive unpacks to more than {}, the most that is accepted", readable(*.0))]
    Bytes(u64),
    /// The files could not be written: Hydra's trouble, not the archive's.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

/// Unpacks a zip archive into the empty folder `folder`; returns the bytes that its files hold.
///
/// On an error the folder holds what was unpacked until then. Nothing is synced to disk.
pub fn unpack(archive: impl Read + Seek, folder: &Path, limits: &Limits) -> Result<u64, UnpackError> {
    let mut archive = open(archive, limits)?;
    let mut names = Names::default();
    let mut left = limits.unpacked_bytes;
    let files = archive.files().map_err(damaged)?;
    while let Some(entry) = files.next() {
        let entry = entry.map_err(damaged)?;
        let (shown, is_folder, path) = admit(&entry, &mut names, limits)?;
        let target = folder.join(&path);
        if is_folder {
            fs::create_dir_all(&target).map_err(writing(&target))?;
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(writing(parent))?;
        }
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let mut file = File::create_new(&target).map_err(writing(&target))?;
        file.set_permissions(Permissions::from_mode(if executable { 0o555 } else { 0o444 }))
            .map_err(writing(&target))?;
        let mut data = entry
            .with_reader(files.reader_mut(), ZipReadOptions::new())
            .map_err(|error| UnpackError::Entry { entry: shown.clone(), reason: error.to_string() })?;
        let bytes = inflate(&mut data, &mut file, left).map_err(|fault| match fault {
            Fault::Read(error) => UnpackError::Entry { entry: shown, reason: error.to_string() },
            Fault::Write(source) => UnpackError::Write { path: target, source },
            Fault::TooLarge => UnpackError::Bytes(limits.unpacked_bytes),
        })?;
        left -= bytes;
    }
    seal(folder)?;
    Ok(limits.unpacked_bytes - left)
}

/// Checks that a file which stays packed (a jar) is a readable archive. Its data is not inflated.
pub fn check(archive: impl Read + Seek, limits: &Limits) -> Result<(), UnpackError> {
    for entry in open(archive, limits)?.files().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if entry.encrypted() {
            return Err(UnpackError::Encrypted { entry: shown(&entry) });
        }
    }
    Ok(())
}

/// Reads the archive's directory one entry at a time: it is never in memory as a whole.
fn open<R: Read + Seek>(archive: R, limits: &Limits) -> Result<ZipIterable<R>, UnpackError> {
    let archive = ZipIterable::try_new(archive, Config::default()).map_err(damaged)?;
    match archive.len() {
        0 => Err(UnpackError::Empty),
        count if count > limits.entries => Err(UnpackError::Entries(limits.entries)),
        _ => Ok(archive),
    }
}

/// Whether the entry may be unpacked: its name to be shown, whether it is a folder, and its relative path.
fn admit(
    entry: &ZipFileEntry<'_>,
    names: &mut Names,
    limits: &Limits,
) -> Result<(String, bool, PathBuf), UnpackError> {
    let shown = shown(entry);
    let name = entry
        .name()
        .map_err(|error| UnpackError::Entry { entry: shown.clone(), reason: error.to_string() })?;
    let special = |kind| UnpackError::Special { entry: shown.clone(), kind };
    // The type bits of `st_mode`, see inode(7).
    let is_folder = match entry.unix_mode().unwrap_or(0) & 0o170000 {
        0o120000 => return Err(special("a symbolic link")),
        0o020000 | 0o060000 => return Err(special("a device")),
        0o010000 => return Err(special("a pipe")),
        0o140000 => return Err(special("a socket")),
        0o040000 => true,
        _ if entry.is_symlink() => return Err(special("a symbolic link")),
        _ => name.ends_with('/'),
    };
    if entry.encrypted() {
        return Err(UnpackError::Encrypted { entry: shown });
    }
    let refused = |fault| UnpackError::Name { entry: shown.clone(), fault };
    let parts = parts(&name, limits).map_err(refused)?;
    if parts.is_empty() && !is_folder {
        return Err(refused(NameFault::Empty));
    }
    let path = names.add(&parts, is_folder).map_err(refused)?;
    if names.len() > limits.entries {
        return Err(UnpackError::Entries(limits.entries));
    }
    Ok((shown, is_folder, path))
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
    TooLarge,
}

/// Copies at most `left` bytes. Unlike `io::copy`, it tells a fault of the archive from one of the disk.
fn inflate(from: &mut impl Read, to: &mut File, left: u64) -> Result<u64, Fault> {
    let mut buffer = [0; 32 << 10];
    let mut done: u64 = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(done),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::Read(error)),
        };
        done += count as u64;
        if done > left {
            return Err(Fault::TooLarge);
        }
        to.write_all(&buffer[..count]).map_err(Fault::Write)?;
    }
}

/// Takes the write permission from the folder and all folders below. Files have none since they were made.
fn seal(folder: &Path) -> Result<(), UnpackError> {
    for entry in fs::read_dir(folder).map_err(writing(folder))? {
        let entry = entry.map_err(writing(folder))?;
        if entry.file_type().map_err(writing(folder))?.is_dir() {
            seal(&entry.path())?;
        }
    }
    fs::set_permissions(folder, Permissions::from_mode(0o555)).map_err(writing(folder))
}

fn damaged(error: ZipError) -> UnpackError {
    UnpackError::Damaged(error.to_string())
}

fn writing(path: &Path) -> impl Fn(io::Error) -> UnpackError {
    move |source| UnpackError::Write { path: path.to_owned(), source }
}

/// The entry's name for a message: at most 200 characters, control characters escaped.
fn shown(entry: &ZipFileEntry<'_>) -> String {
    String::from_utf8_lossy(entry.name_raw()).escape_debug().take(200).collect()
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
