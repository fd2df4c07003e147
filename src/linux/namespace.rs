//! The composed root: which host directory shows where, and opening what is below.
//!
//! A path is resolved by the host's kernel below the mount that its lexical form selects (`openat2` with `RESOLVE_IN_ROOT`), so neither `..` nor
//! a symbolic link leads out of it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno as HostErrno;

use super::errno::Errno;

/// A host directory or file shown at a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the guest: absolute.
    pub target: PathBuf,
    /// Nothing below can be changed.
    pub read_only: bool,
}

struct Mounted {
    target: PathBuf,
    root: OwnedFd,
    directory: bool,
    read_only: bool,
}

/// All mounts, the deepest first.
pub struct Namespace(Vec<Mounted>);

/// The parent of a path that is to be created, removed or renamed, and the last component.
pub struct Entry {
    /// The directory.
    pub parent: OwnedFd,
    /// The name in it.
    pub name: PathBuf,
}

impl Namespace {
    /// Opens the sources. One of the mounts must be at `/`.
    pub fn new(mounts: &[Mount]) -> std::io::Result<Namespace> {
        let mut mounted = Vec::new();
        for mount in mounts {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, &mount.source, flags, Mode::empty())?;
            let directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&root)?.st_mode).is_dir();
            mounted.push(Mounted {
                target: mount.target.clone(),
                root,
                directory,
                read_only: mount.read_only,
            });
        }
        mounted.sort_by_key(|m| std::cmp::Reverse(m.target.components().count()));
        Ok(Namespace(mounted))
    }

    /// The mount of an absolute, normalised path, and the rest of the path.
    fn locate<'p>(&self, path: &'p Path) -> Result<(&Mounted, &'p Path), Errno> {
        self.0
            .iter()
            .find_map(|mount| Some((mount, path.strip_prefix(&mount.target).ok()?)))
            .ok_or(Errno::ENOENT)
    }

    /// Opens a path. With `O_CREAT` the file gets `mode`.
    pub fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let (mount, rest) = self.locate(path)?;
        let writes = flags.intersects(OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::RDWR)
            || flags.contains(OFlags::TMPFILE);
        if mount.read_only && writes {
            // An existing file gives EROFS, and so does one that would be created.
            return Err(Errno::EROFS);
        }
        if !mount.directory {
            return reopen(mount.root.as_fd(), flags);
        }
        open_below(mount.root.as_fd(), rest, flags, mode)
    }

    /// A descriptor that only stands for the path.
    pub fn find(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH;
        flags.set(OFlags::NOFOLLOW, !follow);
        let (mount, rest) = self.locate(path)?;
        if !mount.directory {
            return Ok(rustix::io::fcntl_dupfd_cloexec(&mount.root, 3)?);
        }
        open_below(mount.root.as_fd(), rest, flags, Mode::empty())
    }

    /// The same, for a change of what is there.
    pub fn find_to_change(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let found = self.find(path, follow)?;
        if self.locate(path)?.0.read_only { Err(Errno::EROFS) } else { Ok(found) }
    }

    /// The path without symbolic links by which the guest knows what `fd`, opened by `path`, stands for now.
    pub fn real_path(&self, fd: BorrowedFd<'_>, path: &Path) -> PathBuf {
        let host = |fd: BorrowedFd<'_>| {
            let magic = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::readlink(magic, Vec::new())
                .ok()
                .map(|p| PathBuf::from(OsStr::from_bytes(p.as_bytes())))
        };
        let found = || {
            let (mount, _) = self.locate(path).ok()?;
            let below = host(fd)?.strip_prefix(host(mount.root.as_fd())?).ok()?.to_owned();
            Some(mount.target.components().chain(below.components()).collect())
        };
        found().unwrap_or_else(|| path.to_owned())
    }

    /// The directory entry of a path that is to be created, removed or renamed.
    pub fn entry(&self, path: &Path) -> Result<Entry, Errno> {
        let bytes = path.as_os_str().as_bytes();
        let trimmed = bytes.iter().rposition(|b| *b != b'/').map_or(&bytes[..0], |last| &bytes[..=last]);
        let trailing_slash = trimmed.len() < bytes.len();
        let whole = Path::new(OsStr::from_bytes(trimmed));
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(Errno::EBUSY);
        };
        let (mount, rest) = self.locate(parent)?;
        if self.0.iter().any(|m| m.target == whole) {
            return Err(Errno::EBUSY);
        }
        if !mount.directory {
            return Err(Errno::ENOTDIR);
        }
        let opened = open_below(mount.root.as_fd(), rest, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        if mount.read_only {
            return Err(Errno::EROFS);
        }
        let mut name = name.to_owned();
        if trailing_slash {
            name.push("/");
        }
        Ok(Entry { parent: opened, name: name.into() })
    }
}

fn open_below(root: BorrowedFd<'_>, rest: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    // The host refuses flags that mean nothing together with O_PATH.
    let flags = match flags.contains(OFlags::PATH) {
        true => flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW) | OFlags::CLOEXEC,
        false => flags | OFlags::CLOEXEC | OFlags::NOCTTY,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, rest, flags, mode, resolve) {
            // A rename elsewhere on the host raced with the resolution.
            Err(HostErrno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => continue,
            opened => return Ok(opened?),
        }
    }
}

/// Opens what a descriptor stands for.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = (flags - OFlags::CREATE - OFlags::EXCL - OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// `path` as an absolute path without `.` and `..`, seen from `base`. A trailing slash stays: it asks for a directory.
pub fn absolute(base: &Path, path: &[u8]) -> PathBuf {
    let mut parts: Vec<&[u8]> = Vec::new();
    let all = [if path.starts_with(b"/") { &b""[..] } else { base.as_os_str().as_bytes() }, path];
    for part in all.iter().flat_map(|piece| piece.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let mut bytes = Vec::new();
    for part in &parts {
        bytes.push(b'/');
        bytes.extend_from_slice(part);
    }
    let asks_for_directory = path.ends_with(b"/") || path.ends_with(b"/.");
    if bytes.is_empty() || asks_for_directory {
        bytes.push(b'/');
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute() {
        let from = |path: &str| absolute(Path::new("/home/user"), path.as_bytes());
        for (given, expected) in [
            ("file", "/home/user/file"),
            ("/a//b/./c", "/a/b/c"),
            ("../x", "/home/x"),
            ("../../../../etc", "/etc"),
            ("/", "/"),
            (".", "/home/user"),
            ("dir/", "/home/user/dir/"),
        ] {
            assert_eq!(from(given).as_os_str(), expected, "{given}");
        }
    }

    #[test]
    fn nothing_leads_out_of_a_mount() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inside, outside) = (dir.path().join("in"), dir.path().join("secret"));
        std::fs::create_dir(&inside).expect("a directory");
        std::fs::write(&outside, "x").expect("a file");
        std::os::unix::fs::symlink("../secret", inside.join("up")).expect("a link");
        std::os::unix::fs::symlink(&outside, inside.join("absolute")).expect("a link");
        let mount = Mount { source: inside, target: "/".into(), read_only: true };
        let namespace = Namespace::new(&[mount]).expect("a namespace");
        for path in ["/up", "/absolute", "/../secret"] {
            let opened = namespace.open(Path::new(path), OFlags::RDONLY, Mode::empty());
            assert_eq!(opened.map(drop), Err(Errno::ENOENT), "{path}");
        }
        let created = namespace.open(Path::new("/new"), OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
        assert_eq!(created.map(drop), Err(Errno::EROFS));
        assert_eq!(namespace.entry(Path::new("/up")).map(|e| e.name), Err(Errno::EROFS));
    }
}
