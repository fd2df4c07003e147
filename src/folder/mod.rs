//! Folders that belong to one Hydra alone: made safely, locked against a second one, removed whole.

mod remove;

pub(crate) use remove::remove_tree;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Something in it could not be made, read or cleaned.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was being done, for example `create`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Another Hydra holds it.
    #[error("`{}` is in use by another Hydra (process {pid}): stop that one or choose another app_dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process, as it wrote itself down; `unknown` if it did not.
        pid: String,
    },
    /// Other users could put content of their own into it.
    #[error("Hydra cannot keep its files in `{}`: {reason}", path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        reason: &'static str,
    },
}

impl FolderError {
    /// For `map_err` on a file operation.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
        let path = path.to_owned();
        move |source| FolderError::Io { doing, path, source }
    }
}

/// Makes a folder, with those above it, in which no other user can rename what is ours; one that is there may stay if
/// that holds for it.
pub(crate) fn shared(path: &Path) -> Result<(), FolderError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FolderError::io("create", path))?;
    let folder = fs::metadata(path).map_err(FolderError::io("read", path))?;
    // A link leads elsewhere as soon as its owner likes; with a slash at its end it would be followed.
    let link = path.components().as_path();
    let link = fs::symlink_metadata(link).map_err(FolderError::io("read", path))?;
    let is_own_group = folder.gid() == nix::unistd::getegid().as_raw();
    match flaw([link.uid(), folder.uid()], folder.mode(), nix::unistd::geteuid().as_raw(), is_own_group) {
        Some(reason) => Err(FolderError::Unsafe { path: path.into(), reason }),
        None => Ok(()),
    }
}

/// Why users other than `user` and root can rename what is in a folder with these `owners`, of itself and of a link to it. The group of `user` is trusted:
/// it has nobody else in it where `umask` lets it write.
fn flaw(owners: [u32; 2], mode: u32, user: u32, is_own_group: bool) -> Option<&'static str> {
    if owners.iter().any(|owner| ![0, user].contains(owner)) {
        return Some(
            "it belongs to another user, who can change it; give it to the user who runs Hydra (chown -h) or choose another app_dir",
        );
    }
    // In a folder with the sticky bit, as /tmp has, only its owner can rename what is another's.
    let others = if is_own_group { 0o002 } else { 0o022 };
    (mode & 0o1000 == 0 && mode & others != 0)
        .then_some("other users can change it; remove that permission (chmod go-w) or choose another app_dir")
}

/// Makes a folder that only we can change, or takes the one that is there.
pub(crate) fn own(path: &Path, mode: u32) -> Result<(), FolderError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(FolderError::io("create", path))?,
    }
    let metadata = fs::symlink_metadata(path).map_err(FolderError::io("create", path))?;
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        let reason =
            "it is not a folder that belongs to the user who runs Hydra; remove it or choose another app_dir";
        return Err(FolderError::Unsafe { path: path.into(), reason });
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(FolderError::io("create", path))
}

/// Makes a folder that only we may enter, or empties the one that is there: what a Hydra that was killed left in it goes.
pub(crate) fn emptied(path: &Path) -> Result<(), FolderError> {
    own(path, 0o700)?;
    let empty = || {
        for entry in fs::read_dir(path)? {
            remove_tree(&entry?.path())?;
        }
        Ok(())
    };
    empty().map_err(FolderError::io("empty", path))
}

/// Takes the lock of `folder`, its file `lock`, for as long as the result lives.
pub(crate) fn lock(folder: &Path) -> Result<Flock<File>, FolderError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .map_err(FolderError::io("lock", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()))
                .map_err(FolderError::io("lock", &path))?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.is_empty() { "unknown".into() } else { pid };
            Err(FolderError::InUse { path: folder.into(), pid })
        }
        Err((_, errno)) => Err(FolderError::io("lock", &path)(errno.into())),
    }
}

/// A new folder for what is temporary, or half-written. What lies there by its name when this value ends is removed.
#[derive(Debug)]
pub(crate) struct Staged(PathBuf);

impl Staged {
    /// A new folder in `partial`, which is on the file system where its content is to go, if it is to go anywhere.
    pub(crate) fn new(partial: &Path) -> io::Result<Staged> {
        Ok(Staged(TempDir::new_in(partial)?.keep()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it now, and says if that fails.
    pub(crate) fn remove(self) -> io::Result<()> {
        // Whoever has a folder of it open may just have put something there.
        remove_tree(&self.0).or_else(|_| remove_tree(&self.0))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove what is not used any more; the next start does");
        }
    }
}

/// Makes what was made, renamed and removed in a folder outlast a failure of the power.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The same for all that is written on the file system of a folder: for one whose files are many, or not Hydra's own.
pub(crate) fn sync_file_system(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn whoever_owns_or_may_write_a_folder_can_rename_what_is_in_it() {
        let refused = |owners, mode| flaw(owners, mode, 1000, false).is_some();
        assert_eq!([0o775, 0o757].map(|mode| flaw([1000; 2], mode, 1000, true).is_some()), [false, true]);
        for (mode, is_refused) in
            [(0o700, false), (0o755, false), (0o1777, false), (0o775, true), (0o757, true)]
        {
            for owner in [0, 1000] {
                assert_eq!(refused([owner; 2], mode), is_refused, "{mode:o} of {owner}");
            }
            for owners in [[1001, 1001], [1001, 1000], [0, 1001]] {
                assert!(refused(owners, mode), "{mode:o} of {owners:?}");
            }
        }
    }

    #[test]
    fn a_folder_or_link_of_another_user_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let above = tempfile::tempdir().unwrap();
        let [ours, theirs, link] = ["ours", "theirs", "link/"].map(|name| above.path().join(name));
        shared(&ours).unwrap();
        shared(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(1000), None).unwrap();
        let error = shared(&theirs).unwrap_err().to_string();
        assert!(error.contains("belongs to another user") && error.contains("chown"), "{error}");
        symlink(&ours, above.path().join("link")).unwrap();
        shared(&link).unwrap();
        std::os::unix::fs::lchown(above.path().join("link"), Some(1000), None).unwrap();
        assert!(matches!(shared(&link), Err(FolderError::Unsafe { .. })));
    }
}
