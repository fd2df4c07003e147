//! Where snapshots lie, and what may be done without the store's lock: looking, and taking away.
//!
//! ```text
//! FOLDER/lock                 locked by the one Hydra that makes snapshots here; holds its process id
//! FOLDER/partial/             being written or removed; emptied when the store is opened
//! FOLDER/SVMID/manifest.json  what the snapshot is of, and the checksums of the other two
//! FOLDER/SVMID/memory         the guest's RAM, or what of it differs from that of the snapshot that this one builds upon: sparse, each
//!                             byte at its guest-physical address
//! FOLDER/SVMID/state          threads, files and all else that is not in RAM
//! FOLDER/SVMID/working-set    the pages that programs touch first when they go on; missing until one has
//! ```
//! A snapshot comes to its place, and leaves it, by one rename of its folder. Whoever has opened the folder reads the files of one
//! snapshot, whatever takes its place meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::checksum::Checksum;
use super::error::{Part, Reason, Refusal};
use super::manifest::{MOST_BYTES, Manifest};
use crate::folder::{self, Staged};

/// The snapshots in one folder.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
}

/// A snapshot's files, open, whole and undamaged.
pub(super) struct Files {
    /// The folder they lie in, wherever that is moved.
    pub home: OwnedFd,
    pub manifest: Manifest,
    pub memory: File,
    pub state: Vec<u8>,
}

/// Attempts at something that another process may undo each time.
const ATTEMPTS: usize = 16;

impl Shelf {
    /// The snapshots in `folder`, which need not be there.
    pub fn new(folder: impl Into<PathBuf>) -> Shelf {
        Shelf { folder: folder.into() }
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Their numbers in order.
    ///
    /// # Errors
    /// The folder is there and cannot be read.
    pub fn svmids(&self) -> io::Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
        let number = |name: &str| name.parse().ok().filter(|svmid: &u64| svmid.to_string() == name);
        let mut svmids: Vec<u64> = names?.iter().filter_map(|name| number(name.to_str()?)).collect();
        svmids.sort_unstable();
        Ok(svmids)
    }

    /// What a snapshot is of; `None` if there is none of that number. Its memory and state are not looked at.
    ///
    /// # Errors
    /// It cannot be used: its manifest is missing, damaged or of another Hydra.
    pub fn manifest(&self, svmid: u64) -> Result<Option<Manifest>, Refusal> {
        self.read(svmid, |home| manifest(home, svmid))
    }

    /// Reads a snapshot as a restore would, to the last byte.
    ///
    /// # Errors
    /// It cannot be used, whatever it is wanted for.
    pub fn verify(&self, svmid: u64) -> Result<Option<Manifest>, Refusal> {
        let Some(files) = self.open(svmid, |_| Ok(()))? else { return Ok(None) };
        if files.manifest.parent.is_some() {
            self.open_parent(&files.manifest).map_err(|reason| Refusal { svmid, reason })?;
        }
        Ok(Some(files.manifest))
    }

    /// Opens what the snapshot of `child` builds upon and verifies all of it.
    pub(super) fn open_parent(&self, child: &Manifest) -> Result<Files, Reason> {
        let parent = child.parent.as_ref().ok_or(Reason::NoParent(child.svmid))?;
        let svmid = parent.svmid;
        let opened = self.open(svmid, |manifest| {
            let is_whole = manifest.parent.is_none() && manifest.memory.bytes == child.memory.bytes;
            let is_same = is_whole && manifest.memory.checksum == parent.checksum;
            if is_same { Ok(()) } else { Err(Reason::OtherParent(svmid)) }
        });
        match opened {
            Ok(files) => files.ok_or(Reason::NoParent(svmid)),
            Err(Refusal { reason: other @ Reason::OtherParent(_), .. }) => Err(other),
            Err(refusal) => Err(Reason::Parent { svmid, reason: Box::new(refusal.reason) }),
        }
    }

    /// Opens a snapshot and verifies all of it, if `wanted` does not refuse it first.
    pub(super) fn open(
        &self,
        svmid: u64,
        wanted: impl Fn(&Manifest) -> Result<(), Reason>,
    ) -> Result<Option<Files>, Refusal> {
        self.read(svmid, |home| {
            let manifest = manifest(home, svmid)?;
            wanted(&manifest)?;
            let memory = file(home, Part::Memory, manifest.memory.bytes)?;
            let found = Checksum::of_sparse_file(&memory).map_err(unreadable(Part::Memory))?;
            same(Part::Memory, found, manifest.memory.checksum)?;
            let state_file = file(home, Part::State, manifest.state.bytes)?;
            // Summed before it is read: nothing is reserved for what is not as it was written.
            let found = Checksum::of_file(&state_file).map_err(unreadable(Part::State))?;
            same(Part::State, found, manifest.state.checksum)?;
            let mut state = Vec::new();
            (&state_file)
                .take(manifest.state.bytes)
                .read_to_end(&mut state)
                .map_err(unreadable(Part::State))?;
            same(Part::State, Checksum::of_bytes(&state), manifest.state.checksum)?;
            Ok(Files { home: home.try_clone().map_err(unreadable(Part::Manifest))?, manifest, memory, state })
        })
    }

    /// Reads something of a snapshot. If that fails, and another snapshot has taken its place meanwhile, reads that.
    fn read<T>(
        &self,
        svmid: u64,
        read: impl Fn(&OwnedFd) -> Result<T, Reason>,
    ) -> Result<Option<T>, Refusal> {
        let refusal = |reason| Refusal { svmid, reason };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let home = match rustix::fs::open(self.home(svmid), flags, Mode::empty()) {
                Ok(home) => home,
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(refusal(unreadable(Part::Manifest)(error.into()))),
            };
            match read(&home) {
                Ok(read) => return Ok(Some(read)),
                Err(_) if attempt < ATTEMPTS && self.is_replaced(&home, svmid) => {}
                Err(reason) => return Err(refusal(reason)),
            }
        }
    }

    /// Whether `home` is not the snapshot's folder any more.
    fn is_replaced(&self, home: &OwnedFd, svmid: u64) -> bool {
        let now = rustix::fs::statat(CWD, self.home(svmid), AtFlags::SYMLINK_NOFOLLOW);
        match (rustix::fs::fstat(home), now) {
            (Ok(opened), Ok(now)) => (opened.st_dev, opened.st_ino) != (now.st_dev, now.st_ino),
            _ => true,
        }
    }

    /// Whether `memory` is that of the snapshot that has its place now.
    pub(super) fn holds(&self, svmid: u64, memory: &File) -> bool {
        let now = std::fs::symlink_metadata(self.home(svmid).join(Part::Memory.file_name()));
        match (memory.metadata(), now) {
            (Ok(opened), Ok(now)) => (opened.dev(), opened.ino()) == (now.dev(), now.ino()),
            _ => false,
        }
    }

    /// Takes a snapshot away; false if there is none. Programs that were restored from it go on: the disk's space is free when the
    /// last of them has ended.
    ///
    /// # Errors
    /// The operating system refuses it.
    pub fn remove(&self, svmid: u64) -> io::Result<bool> {
        match std::fs::symlink_metadata(self.home(svmid)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            metadata => metadata?,
        };
        folder::own(&self.partial(), 0o700).map_err(io::Error::other)?;
        let grave = Staged::new(&self.partial())?;
        match std::fs::rename(self.home(svmid), grave.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed?,
        }
        self.sync()?;
        grave.remove()?;
        Ok(true)
    }

    /// Gives a complete snapshot its place, in one step where the file system can. The one that had it lies in `staged` then.
    pub(super) fn place(&self, staged: &Path, svmid: u64) -> io::Result<()> {
        let home = self.home(svmid);
        for _ in 0..ATTEMPTS {
            match rustix::fs::renameat_with(CWD, staged, CWD, &home, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return self.place_in_steps(staged, svmid);
                }
                result => return Ok(result?),
            }
            match rustix::fs::renameat_with(CWD, staged, CWD, &home, RenameFlags::EXCHANGE) {
                // Somebody removed the old one.
                Err(Errno::NOENT) => {}
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return self.place_in_steps(staged, svmid);
                }
                result => return Ok(result?),
            }
        }
        Err(io::Error::other("another process makes and removes the same snapshot all the time"))
    }

    /// For file systems that cannot exchange two folders: in between there is no snapshot.
    pub(super) fn place_in_steps(&self, staged: &Path, svmid: u64) -> io::Result<()> {
        let old = Staged::new(&self.partial())?;
        match std::fs::rename(self.home(svmid), old.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        std::fs::rename(staged, self.home(svmid))
    }

    /// Makes renames outlast a failure of the power.
    pub(super) fn sync(&self) -> io::Result<()> {
        folder::sync(&self.folder)
    }

    /// The folder of a snapshot.
    pub(super) fn home(&self, svmid: u64) -> PathBuf {
        self.folder.join(svmid.to_string())
    }

    /// Where half-written snapshots lie.
    pub(super) fn partial(&self) -> PathBuf {
        self.folder.join("partial")
    }
}

fn unreadable(part: Part) -> impl FnOnce(io::Error) -> Reason {
    move |source| Reason::Unreadable { part, source }
}

fn same(part: Part, found: Checksum, written: Checksum) -> Result<(), Reason> {
    if found == written {
        return Ok(());
    }
    Err(Reason::Damaged { part, how: format!("its checksum is {found}, and {written} was written") })
}

fn manifest(home: &OwnedFd, svmid: u64) -> Result<Manifest, Reason> {
    let file = open(home, Part::Manifest)?;
    let mut text = Vec::new();
    (&file).take(MOST_BYTES + 1).read_to_end(&mut text).map_err(unreadable(Part::Manifest))?;
    if text.len() as u64 > MOST_BYTES {
        let how = format!("it has more than {MOST_BYTES} bytes");
        return Err(Reason::Damaged { part: Part::Manifest, how });
    }
    let manifest = Manifest::parse(&text)?;
    if manifest.svmid == svmid { Ok(manifest) } else { Err(Reason::Svmid(manifest.svmid)) }
}

/// A file of the snapshot that has as many bytes as it should.
fn file(home: &OwnedFd, part: Part, bytes: u64) -> Result<File, Reason> {
    let file = open(home, part)?;
    let found = file.metadata().map_err(unreadable(part))?.len();
    if found == bytes {
        return Ok(file);
    }
    Err(Reason::Damaged { part, how: format!("it has {found} bytes, and {bytes} were written") })
}

fn open(home: &OwnedFd, part: Part) -> Result<File, Reason> {
    match open_at(home, part.file_name()) {
        Ok(file) => {
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                return Ok(file);
            }
            Err(Reason::Damaged { part, how: "it is not a plain file".into() })
        }
        Err(Errno::NOENT) => Err(Reason::Missing(part)),
        Err(error) => Err(unreadable(part)(error.into())),
    }
}

/// Opens a file in a snapshot's folder to be read. Should it be a pipe, nobody waits for its other end.
pub(super) fn open_at(home: &OwnedFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(home, name, flags, Mode::empty()).map(File::from)
}
