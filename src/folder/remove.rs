//! Removing a folder with all that it holds, whoever has filled it.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Removes a folder with all that it holds, folders without write permission included. That it, or a part of it, is not
/// there (any more) is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    present(remove_present(path)).map(drop)
}

fn remove_present(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let top = open(CWD, path)?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            return fs::remove_dir(path);
        }
    }
}

/// How deep folders are followed. Whoever fills a folder can nest more of them than a thread has stack for, or a path has room.
const MOST_NESTED: u32 = 100;

/// Removes what is in `folder`, `depth` below `top`. Folders that are too deep are `moved` to the top instead, and counted.
fn empty(folder: &OwnedFd, top: &OwnedFd, depth: u32, moved: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_gone = match unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) if depth < MOST_NESTED => {
                let Some(inner) = present(open(folder.as_fd(), name).map_err(io::Error::from))? else {
                    continue;
                };
                empty(&inner, top, depth + 1, moved)?;
                unlinkat(folder, name, AtFlags::REMOVEDIR)
            }
            Err(Errno::ISDIR) => move_up(folder, name, top, moved),
            removed => removed,
        };
        present(is_gone.map_err(io::Error::from))?;
    }
    Ok(())
}

/// Moves a folder to the first of the places in `top` where nothing is that stands against it.
fn move_up(folder: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    // Without write permission it could not be moved.
    drop(open(folder.as_fd(), name)?);
    loop {
        *moved += 1;
        match renameat(folder, name, top, format!(".too-deep-{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            done => return done,
        }
    }
}

/// Opens a folder, and gives it all permissions; never what a link in its place leads to.
fn open(at: BorrowedFd<'_>, path: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(at, path, OFlags::PATH | flags, Mode::empty())?;
    chmodat(CWD, format!("/proc/self/fd/{}", place.as_raw_fd()), Mode::RWXU, AtFlags::empty())?;
    openat(&place, c".", OFlags::RDONLY | flags, Mode::empty())
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tree_goes_however_deep_it_is_and_without_what_it_points_to() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        fs::write(&kept, "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        // More than a path has room for.
        let mut at = open(CWD, &tree).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, c"in", Mode::RWXU).unwrap();
            at = open(at.as_fd(), c"in").unwrap();
        }
        rustix::fs::symlinkat(outside.path(), &at, c"link").unwrap();
        for name in [".too-deep-1", "b", "c"] {
            let closed = tree.join(name);
            fs::create_dir(&closed).unwrap();
            fs::write(closed.join("file"), "").unwrap();
            fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && kept.exists());
        remove_tree(&tree).unwrap();
    }
}
