//! The root directory of a jail, composed on a small read-only tmpfs.

use super::control::Plan;
use super::criu;
use super::layers::Layer;
use super::mounts;
use super::view::{self, CODE, Entry, TMP, View, add};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Device files of every jail.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];

/// A root as it is to be made: what the host has was looked up, mounts were copied where that was permitted.
pub struct Sources {
    entries: View,
    store: PathBuf,
    trees: Option<Vec<OwnedFd>>,
}

/// What is left of a root after [`enter`]: handles that only the init has.
pub struct Root {
    /// The tmpfs that is the root.
    pub base: OwnedFd,
    /// The code store, mounted where [`CODE`] will be, beneath a cover.
    pub store: OwnedFd,
    /// The jail's `/tmp`.
    pub tmp: OwnedFd,
}

/// Looks up what the root of `plan` consists of, with the authority of the caller, and copies the mounts if the
/// caller may. Where it may not (it is an ordinary user), [`Sources::open`] does, in the jail's user namespace.
pub fn look_up(plan: &Plan) -> io::Result<Sources> {
    let mut entries = view::look_up(&plan.readable)?;
    for name in DEVICES {
        let from = Path::new("/dev").join(name);
        add(&mut entries, from.clone(), Entry::Mount { from, file: true });
    }
    let links =
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("shm", TMP)];
    for (name, target) in links {
        add(&mut entries, Path::new("/dev").join(name), Entry::Link(target.into()));
    }
    for path in ["/proc", CODE] {
        add(&mut entries, path, Entry::Directory);
    }
    if plan.criu.is_some()
        && let Ok(known) = fs::read(criu::KERNEL_DATA)
    {
        add(&mut entries, criu::KERNEL_DATA, Entry::File(known));
    }
    let mut sources = Sources { entries, store: plan.code_store.clone(), trees: None };
    match sources.copy() {
        Ok(trees) => sources.trees = Some(trees),
        Err((_, error)) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err((path, error)) => return Err(said(format!("mount {}", path.display()), error)),
    }
    Ok(sources)
}

impl Sources {
    /// Copies the mounts, unless that was done already. To be called in the jail's mount namespace, before the
    /// caller gives up Hydra's user.
    pub fn open(&mut self) -> io::Result<()> {
        if self.trees.is_none() {
            let trees = self.copy();
            self.trees =
                Some(trees.map_err(|(path, error)| said(format!("mount {}", path.display()), error))?);
        }
        Ok(())
    }

    fn copy(&self) -> Result<Vec<OwnedFd>, (PathBuf, io::Error)> {
        let mounted = self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::Mount { from, .. } => Some((from, path.starts_with("/dev"))),
            _ => None,
        });
        mounted
            .chain([(&self.store, false)])
            .map(|(from, device)| mounts::copy(from, attributes(device)).map_err(|e| (from.clone(), e)))
            .collect()
    }
}

/// Builds the root and makes it the root of the calling process, which is alone in its mount namespace.
pub fn enter(plan: &Plan, sources: Sources) -> io::Result<Root> {
    let trees = sources.trees.ok_or_else(|| io::Error::other("the mounts of the root were not opened"))?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(|e| said("make the mounts private".into(), e.into()))?;
    let nothing = MountAttrFlags::empty();
    let base = mounts::new("tmpfs", &[("size", "4m"), ("nr_inodes", "4096"), ("mode", "755")], nothing)?;
    // The root is built at a mount that hides the host's, then becomes the root: pivot_root(2).
    mounts::attach(base.as_fd(), rustix::fs::CWD, Path::new("/"))?;
    rustix::process::fchdir(base.as_fd())?;
    // First, for a readable path may lie below the host's /tmp.
    let tmp = make_tmp(plan.tmp_mib)?;
    fs::create_dir("tmp")?;
    mounts::attach(tmp.as_fd(), base.as_fd(), Path::new("tmp"))?;
    let mut trees = trees.into_iter();
    let too_few = || io::Error::other("a mount of the root was not opened");
    for (path, entry) in &sources.entries {
        let here = path.strip_prefix("/").unwrap_or(path);
        place(entry, here, base.as_fd(), &mut || trees.next().ok_or_else(too_few))
            .map_err(|e| said(format!("make {} in the jail's root", path.display()), e))?;
    }
    let store = trees.next().ok_or_else(too_few)?;
    let code = Path::new(CODE).strip_prefix("/").unwrap_or(Path::new(CODE));
    mounts::attach(store.as_fd(), base.as_fd(), code)?;
    // Nothing of the store shows: until the code is assigned, an empty directory covers it.
    let cover =
        mounts::new("tmpfs", &[("size", "4k"), ("nr_inodes", "2"), ("mode", "555")], attributes(false))?;
    mounts::attach(cover.as_fd(), base.as_fd(), code)?;
    if plan.layers.contains(&Layer::Proc) {
        let mut flags = attributes(false) | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        if plan.criu.is_some() {
            // Until the agent runs: see `criu.rs`.
            flags -= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        let proc = mounts::new("proc", &[], flags).map_err(|e| said("mount /proc".into(), e))?;
        mounts::attach(proc.as_fd(), base.as_fd(), Path::new("proc"))?;
    }
    mounts::set(base.as_fd(), attributes(false), false)?;
    pivot(base.as_fd())?;
    Ok(Root { base, store, tmp })
}

/// Makes the directory `code`, relative to the code store, the jail's [`CODE`], and lets go of the store.
pub fn reveal(root: Root, code: &Path) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let place = openat2(&root.store, code, flags, Mode::empty(), resolve)?;
    let tree = mounts::copy_at(place.as_fd(), attributes(false))?;
    rustix::process::fchdir(&root.store)?;
    // Takes the cover, which is mounted upon it, along.
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    mounts::attach(
        tree.as_fd(),
        root.base.as_fd(),
        Path::new(CODE).strip_prefix("/").unwrap_or(Path::new(CODE)),
    )
}

/// Tries what [`enter`] does, for the probe: a tmpfs that becomes the root.
pub fn try_enter() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags as Propagation;
    rustix::mount::mount_change("/", Propagation::PRIVATE | Propagation::REC)?;
    let base = mounts::new("tmpfs", &[], MountAttrFlags::empty())?;
    let usr = mounts::copy(Path::new("/usr"), attributes(false))?;
    mounts::attach(base.as_fd(), rustix::fs::CWD, Path::new("/"))?;
    rustix::process::fchdir(base.as_fd())?;
    fs::create_dir("usr")?;
    mounts::attach(usr.as_fd(), base.as_fd(), Path::new("usr"))?;
    pivot(base.as_fd())
}

/// Tries to mount a `/proc` of the PID namespace, for the probe.
pub fn try_proc() -> io::Result<()> {
    mounts::new("proc", &[], attributes(false)).map(drop)
}

/// The paths outside `/tmp` that a jail without a mount namespace may read: what [`look_up`] would have mounted.
pub fn host_paths(plan: &Plan) -> Vec<PathBuf> {
    let fixed = ["/proc", "/etc/passwd", "/etc/group"].map(PathBuf::from);
    let given = plan.readable.iter().cloned().chain([plan.code_store.clone()]);
    view::host_paths().chain(fixed).chain(given).filter(|path| path.exists()).collect()
}

/// The device files that a jail without a mount namespace may use.
pub fn host_devices() -> impl Iterator<Item = PathBuf> {
    DEVICES.iter().map(|name| Path::new("/dev").join(name))
}

fn make_tmp(mib: u32) -> io::Result<OwnedFd> {
    let size = format!("{mib}m");
    // An inode costs the kernel memory that the size does not count: one for every 4 KiB is what full pages need.
    let inodes = (u64::from(mib) * 256).max(1024).to_string();
    let options = [("size", size.as_str()), ("nr_inodes", inodes.as_str()), ("mode", "1777")];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    mounts::new("tmpfs", &options, flags).map_err(|e| said("mount /tmp".into(), e))
}

fn pivot(base: BorrowedFd) -> io::Result<()> {
    rustix::process::fchdir(base)?;
    rustix::process::pivot_root(".", ".").map_err(|e| said("pivot_root".into(), e.into()))?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn place(
    entry: &Entry,
    path: &Path,
    base: BorrowedFd,
    next_tree: &mut dyn FnMut() -> io::Result<OwnedFd>,
) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match entry {
        Entry::Directory => fs::create_dir_all(path),
        Entry::Link(target) => symlink(target, path),
        Entry::File(content) => fs::write(path, content),
        Entry::Mount { file, .. } => {
            let tree = next_tree()?;
            if *file {
                fs::write(path, "")?
            } else {
                fs::create_dir_all(path)?
            }
            mounts::attach(tree.as_fd(), base, path)
        }
    }
}

fn attributes(device: bool) -> MountAttrFlags {
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
    // A device file on a read-only mount can still be written to; only the file itself cannot be changed.
    if device { flags } else { flags | MountAttrFlags::MOUNT_ATTR_NODEV }
}

fn said(what: String, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
