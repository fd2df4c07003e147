//! Mounts.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::super::errno::Errno;
use super::super::mm::AddressSpace;
use super::super::shared_files::{MOUNTED, identity};
use super::super::tmpfs::{Caller, ROOT, SavedTmpfs, Tmpfs, now};
use super::host;
use super::place::{Node, Place};
use crate::sync::lock;

/// Something shown at a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is shown.
    pub source: Source,
    /// Where: absolute.
    pub target: PathBuf,
    /// Nothing below can be changed.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory or file of the host.
    Host(PathBuf),
    /// A new file system in guest RAM.
    Tmpfs {
        /// Bytes of content that it can hold.
        size: u64,
        /// Mode of its root directory.
        mode: u32,
    },
}

impl Source {
    /// A tmpfs of `size` bytes in which everybody may make files.
    pub fn tmpfs(size: u64) -> Source {
        Source::Tmpfs { size, mode: 0o1777 }
    }
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Source {
        Source::Host(path.into())
    }
}

/// The file systems in guest RAM of a checkpoint, by the paths where they show; that of memory files shows nowhere.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SavedMounts(Vec<(Vec<u8>, SavedTmpfs)>);

pub(super) enum Root {
    Host { root: Arc<OwnedFd>, directory: bool },
    Tmpfs(Arc<Tmpfs>),
}

impl Root {
    fn of_host(source: &Path) -> std::io::Result<Root> {
        let root = rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        let key = (source.to_owned(), identity(&stat));
        Ok(Root::Host { root: MOUNTED.get(key, || Ok::<_, std::io::Error>(root))?, directory })
    }
}

pub(super) struct Mounted {
    pub target: PathBuf,
    pub root: Root,
    pub read_only: bool,
}

/// All mounts.
pub struct Namespace {
    /// Those that there are from the beginning, the deepest first.
    mounts: Vec<Mounted>,
    /// The one that came later.
    added: OnceLock<Mounted>,
    /// As whom the program is checked.
    pub caller: Caller,
    /// Whether the guest may have files of a host device: see `host::is_allowed`.
    pub(super) devices: Mutex<HashMap<u64, bool>>,
    /// Where files without a name live: those of `memfd_create`.
    pub memory_files: Arc<Tmpfs>,
}

impl Namespace {
    /// Opens the sources. One of the mounts must be at `/`. `/dev/shm` is a tmpfs unless one is given.
    pub fn new(
        mounts: &[Mount],
        caller: Caller,
        space: &Arc<Mutex<AddressSpace>>,
    ) -> std::io::Result<Namespace> {
        Namespace::with(mounts, caller, space, SavedMounts::default())
    }

    /// The same where file systems in guest RAM are those of a restored program.
    pub fn with(
        mounts: &[Mount],
        caller: Caller,
        space: &Arc<Mutex<AddressSpace>>,
        mut saved: SavedMounts,
    ) -> std::io::Result<Namespace> {
        let ram = lock(space).ram().0;
        let mut tmpfs = |number: u32, target: &Path, size, mode| {
            let index = saved.0.iter().position(|(at, _)| at == target.as_os_str().as_bytes());
            let known = index.map(|index| saved.0.swap_remove(index).1);
            known
                .and_then(|known| Tmpfs::restore(number, known, caller, space))
                .unwrap_or_else(|| Tmpfs::new(number, size, mode, caller, space))
        };
        let memory_files = tmpfs(0, Path::new(""), ram, 0o700);
        let shm = Mount { source: Source::tmpfs(ram / 2), target: "/dev/shm".into(), read_only: false };
        let shm = (!mounts.iter().any(|m| m.target == shm.target)).then_some(shm);
        let mut mounted = Vec::new();
        for (number, mount) in mounts.iter().chain(&shm).enumerate() {
            let root = match &mount.source {
                Source::Host(source) => Root::of_host(source)?,
                Source::Tmpfs { size, mode } => {
                    Root::Tmpfs(tmpfs(number as u32 + 1, &mount.target, *size, *mode))
                }
            };
            mounted.push(Mounted { target: mount.target.clone(), root, read_only: mount.read_only });
        }
        mounted.sort_by_cached_key(|m| std::cmp::Reverse(m.target.components().count()));
        let namespace = Namespace {
            mounts: mounted,
            added: OnceLock::new(),
            caller,
            devices: Mutex::default(),
            memory_files,
        };
        namespace.make_mount_points();
        Ok(namespace)
    }

    /// Shows something more of the host, at a path where something is already. There can be one such mount. What the program has open
    /// below that path it keeps.
    pub fn add(&self, source: &Path, target: &Path, read_only: bool) -> std::io::Result<()> {
        let root = Root::of_host(source)?;
        let mount = Mounted { target: target.to_owned(), root, read_only };
        self.added.set(mount).map_err(|_| std::io::ErrorKind::AlreadyExists.into())
    }

    fn mounts(&self) -> impl Iterator<Item = &Mounted> {
        self.mounts.iter().chain(self.added.get())
    }

    /// In a tmpfs that others are mounted into, the directories where they show are made.
    fn make_mount_points(&self) {
        let lies_in = |mount: &Mounted, other: &Mounted| {
            mount.target != other.target && mount.target.starts_with(&other.target)
        };
        let in_ram: Vec<_> = self.mounts.iter().filter(|m| matches!(m.root, Root::Tmpfs(_))).collect();
        for mount in &self.mounts {
            // Most lie in none, and that is soon found: this is done for every copy.
            if !in_ram.iter().any(|tmpfs| lies_in(mount, tmpfs)) {
                continue;
            }
            let Some(above) = self.mounts.iter().find(|other| lies_in(mount, other)) else { continue };
            let (Root::Tmpfs(fs), Ok(rest)) = (&above.root, mount.target.strip_prefix(&above.target)) else {
                continue;
            };
            let is_file = matches!(mount.root, Root::Host { directory: false, .. });
            let parts: Vec<_> = rest.components().map(|part| part.as_os_str().as_bytes()).collect();
            let owner = Caller { uid: 0, gid: 0 };
            let content = is_file.then(|| fs.new_content());
            let mut at = ROOT;
            for (i, name) in parts.iter().enumerate() {
                at = fs.with(|tree| match tree.lookup(at, name, owner) {
                    Ok(there) => there,
                    Err(_) if i + 1 == parts.len() && content.is_some() => at,
                    Err(_) => tree.make_directory(at, name, (owner, 0o755, now())).unwrap_or(at),
                });
            }
            if let (Some(content), Some(name)) = (content, parts.last()) {
                // A name that is there already serves as well.
                let _ = fs.with(|tree| tree.create(at, name, (owner, 0o644, now()), || content));
            }
        }
    }

    /// The mount of an absolute path without `..`, and the rest of the path.
    pub(super) fn locate<'p>(&self, path: &'p Path) -> Result<(&Mounted, &'p Path), Errno> {
        let rest = |mount: &Mounted| path.strip_prefix(&mount.target).ok();
        let found = self.mounts.iter().find_map(|mount| Some((mount, rest(mount)?)));
        let added = self.added.get().and_then(|mount| Some((mount, rest(mount)?)));
        // The shorter the rest, the deeper the mount.
        let deepest = [added, found].into_iter().flatten().min_by_key(|(_, rest)| rest.as_os_str().len());
        deepest.ok_or(Errno::ENOENT)
    }

    /// Whether nothing can be changed at the path.
    pub fn is_read_only(&self, path: &Path) -> bool {
        self.locate(path).is_ok_and(|(mount, _)| mount.read_only)
    }

    /// Whether something is mounted at just this path.
    pub fn is_mount_point(&self, path: &Path) -> bool {
        ["/proc", "/dev"].iter().any(|own| path == Path::new(own)) || self.mounts().any(|m| m.target == path)
    }

    /// What is at an absolute path without `..`, if no symbolic link lies before its last name (`ELOOP`).
    pub(super) fn at(&self, path: &Path) -> Result<Place, Errno> {
        let (mount, rest) = self.locate(path)?;
        let node = match &mount.root {
            Root::Tmpfs(fs) => Node::Tmpfs(Arc::clone(fs), fs.find(rest)?),
            Root::Host { root, directory: true } => {
                Node::Host(self.checked(host::find_below(root.as_fd(), rest)?)?)
            }
            Root::Host { root, directory: false } if rest.as_os_str().is_empty() => {
                Node::Host(self.checked(rustix::io::fcntl_dupfd_cloexec(root, 3)?)?)
            }
            Root::Host { .. } => return Err(Errno::ENOTDIR),
        };
        Ok(Place { path: path.to_owned(), node, read_only: mount.read_only })
    }

    /// Opens a file of the host for reading by a path without the guest's own directories, for the loader; with its path without links.
    pub fn open_to_read(&self, path: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
        let place = self.walk(&|_| None, Path::new("/"), path.as_os_str().as_bytes(), true)?;
        match place.node {
            Node::Host(node) => Ok((node.open(OFlags::RDONLY | OFlags::NONBLOCK)?, place.path)),
            _ => Err(Errno::EACCES),
        }
    }

    /// The path of what lies at `below` the root of a tmpfs.
    pub fn path_in_tmpfs(&self, fs: &Arc<Tmpfs>, below: &[u8]) -> Result<PathBuf, Errno> {
        let shows = |mount: &&Mounted| matches!(&mount.root, Root::Tmpfs(shown) if Arc::ptr_eq(shown, fs));
        let mount = self.mounts.iter().find(shows).ok_or(Errno::ENOENT)?;
        Ok(if below.is_empty() { mount.target.clone() } else { mount.target.join(OsStr::from_bytes(below)) })
    }

    /// The path at which the guest finds a host directory now, which it opened as `path`; `ENOENT` if it was removed.
    pub fn path_of_directory(&self, fd: BorrowedFd<'_>, path: &Path) -> Result<PathBuf, Errno> {
        if rustix::fs::fstat(fd)?.st_nlink == 0 { Err(Errno::ENOENT) } else { Ok(self.path_of(fd, path)) }
    }

    /// The path at which the guest finds something of the host now, which it opened as `path`.
    pub fn path_of(&self, fd: BorrowedFd<'_>, path: &Path) -> PathBuf {
        let on_host = |fd: BorrowedFd<'_>| {
            let found = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()).ok()?;
            Some(PathBuf::from(OsString::from_vec(found.into_bytes())))
        };
        let now = || {
            let (mount, _) = self.locate(path).ok()?;
            let Root::Host { root, .. } = &mount.root else { return None };
            let below = on_host(fd)?.strip_prefix(on_host(root.as_fd())?).ok()?.to_owned();
            Some(mount.target.components().chain(below.components()).collect())
        };
        now().unwrap_or_else(|| path.to_owned())
    }

    /// What of the host is at an absolute path without links and `..`, and whether it can only be read there.
    pub fn find_on_host(&self, path: &Path) -> Result<(OwnedFd, bool), Errno> {
        let place = self.at(path)?;
        match place.node {
            Node::Host(node) => Ok((node.fd, place.read_only)),
            _ => Err(Errno::ENOENT),
        }
    }

    fn all_tmpfs(&self) -> impl Iterator<Item = (&Path, &Arc<Tmpfs>)> {
        let mounted = self.mounts.iter().filter_map(|mount| match &mount.root {
            Root::Tmpfs(fs) => Some((mount.target.as_path(), fs)),
            Root::Host { .. } => None,
        });
        std::iter::once((Path::new(""), &self.memory_files)).chain(mounted)
    }

    /// What a checkpoint keeps of the file systems in guest RAM.
    pub fn save(&self) -> SavedMounts {
        SavedMounts(
            self.all_tmpfs()
                .map(|(target, fs)| (target.as_os_str().as_bytes().to_vec(), fs.save()))
                .collect(),
        )
    }

    /// Where a file system in guest RAM shows: how a checkpoint names it.
    pub fn name_of(&self, fs: &Arc<Tmpfs>) -> PathBuf {
        self.all_tmpfs()
            .find(|(_, known)| Arc::ptr_eq(known, fs))
            .map(|(target, _)| target.into())
            .unwrap_or_default()
    }

    /// The file system of such a name.
    pub fn tmpfs_named(&self, name: &Path) -> Option<&Arc<Tmpfs>> {
        self.all_tmpfs().find(|(target, _)| *target == name).map(|(_, fs)| fs)
    }

    /// After all files of a restored program were opened: frees what none of them, and no name, leads to.
    pub fn reap(&self) {
        self.all_tmpfs().for_each(|(_, fs)| fs.with(|tree| tree.reap_all()));
    }
}
