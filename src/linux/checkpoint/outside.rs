//! Files of the host that a program has open or mapped: found again by their paths after a restore. Those that have no path any more are
//! carried along with their content.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, OFlags, Stat};
use serde::{Deserialize, Serialize};

use super::super::namespace::{self, Namespace};
use super::super::shared_files::{Identity, MAPPED, identity};
use super::{CheckpointError, RestoreError};

/// Most bytes that a checkpoint carries of files without a path.
pub const MOST_CARRIED: u64 = 64 << 20;

/// Where a file of the host is found after a restore.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// At a path of the guest.
    Path {
        /// Absolute, without symbolic links.
        #[serde(with = "super::path_bytes")]
        path: PathBuf,
        /// What the file was then.
        version: Version,
    },
    /// Among the files that the checkpoint carries.
    Carried(u32),
}

/// Tells whether a file was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Bytes.
    size: i64,
    /// Seconds and nanoseconds of its last change.
    modified: (i64, u64),
}

impl Version {
    fn of(stat: &Stat) -> Version {
        Version { size: stat.st_size, modified: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

/// Notes where files are, while a checkpoint is made.
pub struct Keeper<'a> {
    namespace: &'a Namespace,
    carried: Vec<Vec<u8>>,
    /// Carried files.
    known: HashMap<Identity, u32>,
    bytes: u64,
}

impl<'a> Keeper<'a> {
    /// Has noted nothing.
    pub fn new(namespace: &'a Namespace) -> Keeper<'a> {
        Keeper { namespace, carried: Vec::new(), known: HashMap::new(), bytes: 0 }
    }

    /// Notes the regular file or directory that `fd`, opened by `path`, stands for.
    pub fn note(&mut self, fd: BorrowedFd<'_>, path: &Path) -> Result<Place, CheckpointError> {
        let failed =
            |source: rustix::io::Errno| CheckpointError::File { path: path.into(), source: source.into() };
        let stat = rustix::fs::fstat(fd).map_err(failed)?;
        let now = self.namespace.path_of(fd, path);
        if stat.st_nlink > 0 && self.leads_to(&now, &stat) {
            return Ok(Place::Path { path: now, version: Version::of(&stat) });
        }
        if let Some(index) = self.known.get(&identity(&stat)) {
            return Ok(Place::Carried(*index));
        }
        let size = stat.st_size as u64;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            // One that was removed is empty, and can be replaced by none.
            return Err(CheckpointError::File { path: path.into(), source: io::ErrorKind::NotFound.into() });
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_CARRIED {
            return Err(CheckpointError::TooLarge);
        }
        let content = read_all(fd, size as usize)
            .map_err(|source| CheckpointError::File { path: path.into(), source })?;
        let index = self.carried.len() as u32;
        self.carried.push(content);
        self.known.insert(identity(&stat), index);
        Ok(Place::Carried(index))
    }

    fn leads_to(&self, path: &Path, stat: &Stat) -> bool {
        let found = self.namespace.find_on_host(path).ok();
        let found = found.and_then(|(found, _)| rustix::fs::fstat(found).ok());
        found.is_some_and(|found| identity(&found) == identity(stat))
    }

    /// The files to carry.
    pub fn carried(self) -> Vec<Vec<u8>> {
        self.carried
    }
}

fn read_all(fd: BorrowedFd<'_>, size: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; size];
    let mut done = 0;
    while done < size {
        match rustix::io::pread(fd, &mut content[done..], done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    content.truncate(done);
    Ok(content)
}

/// Makes the files that a checkpoint carried.
pub fn unpack(carried: &[Vec<u8>]) -> Result<Vec<OwnedFd>, RestoreError> {
    let make = |content: &Vec<u8>| -> io::Result<OwnedFd> {
        let mut file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file.into())
    };
    carried.iter().map(make).collect::<io::Result<_>>().map_err(RestoreError::Carried)
}

/// Finds noted files again, while a program is restored.
#[derive(Clone, Copy)]
pub struct Finder<'a> {
    namespace: &'a Namespace,
    carried: &'a [OwnedFd],
}

impl<'a> Finder<'a> {
    /// Looks below `namespace` and among the `carried` files.
    pub fn new(namespace: &'a Namespace, carried: &'a [OwnedFd]) -> Finder<'a> {
        Finder { namespace, carried }
    }

    /// Opens the file anew. What is there must be of the same kind: a directory, or a regular file.
    pub fn open(&self, place: &Place, flags: OFlags, directory: bool) -> Result<OwnedFd, RestoreError> {
        self.find(place, directory)?.open(flags)
    }

    /// Opens a regular file that must be what it was, for reading and writing.
    pub fn open_unchanged(&self, place: &Place) -> Result<(OwnedFd, Identity), RestoreError> {
        let found = self.find_unchanged(place)?;
        let identity = identity(&found.stat);
        Ok((found.open(OFlags::RDWR)?, identity))
    }

    /// Opens a regular file that must be what it was, to be read only: programs share the descriptor.
    pub fn open_shared(&self, place: &Place) -> Result<(Arc<OwnedFd>, Identity), RestoreError> {
        let found = self.find_unchanged(place)?;
        let identity = identity(&found.stat);
        Ok((MAPPED.get(identity, || found.open(OFlags::RDONLY))?, identity))
    }

    fn find_unchanged<'p>(&self, place: &'p Place) -> Result<Found<'p>, RestoreError> {
        let found = self.find(place, false)?;
        match place {
            Place::Path { path, version } if *version != Version::of(&found.stat) => {
                Err(RestoreError::Changed(path.clone()))
            }
            _ => Ok(found),
        }
    }

    fn find<'p>(&self, place: &'p Place, directory: bool) -> Result<Found<'p>, RestoreError> {
        let (path, fd, read_only) = match place {
            Place::Path { path, .. } => {
                let failed = |errno| RestoreError::gone(path, errno);
                let (found, read_only) = self.namespace.find_on_host(path).map_err(failed)?;
                (path.as_path(), found, read_only)
            }
            Place::Carried(index) => {
                let fd = self.carried.get(*index as usize).ok_or(RestoreError::Damaged("a carried file"))?;
                let fd =
                    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|e| RestoreError::Carried(e.into()))?;
                (Path::new("(without a name)"), fd, false)
            }
        };
        // Looked at before it is opened: something else in its place could make the opening wait.
        let stat = rustix::fs::fstat(&fd).map_err(|e| RestoreError::gone(path, e.into()))?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if !(if directory { kind.is_dir() } else { kind.is_file() }) {
            return Err(RestoreError::Changed(path.into()));
        }
        Ok(Found { path, fd, read_only, stat })
    }
}

/// A file that is there, and not opened yet.
struct Found<'p> {
    path: &'p Path,
    fd: OwnedFd,
    read_only: bool,
    stat: Stat,
}

impl Found<'_> {
    fn open(self, flags: OFlags) -> Result<OwnedFd, RestoreError> {
        if flags.contains(OFlags::PATH) {
            return Ok(self.fd);
        }
        let failed = |errno| RestoreError::gone(self.path, errno);
        if self.read_only && flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(failed(super::Errno::EROFS));
        }
        namespace::reopen(self.fd.as_fd(), flags - OFlags::TRUNC - OFlags::TMPFILE).map_err(failed)
    }
}
