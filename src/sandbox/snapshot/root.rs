//! What a program in a microVM sees of files: the same as in a jail, as mounts of the guest's own.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::jail::view::{self, CODE, Entry, TMP};
use crate::linux::{Mount, Source};

/// Where the agent's folder is seen: at the same place wherever it is on the host, so that a snapshot does not depend on that.
pub const AGENT: &str = "/agent";

/// A composed root that all microVMs of a language share: a small folder with the files that are made for them and
/// places for the mounts, and the mounts. It has neither code nor `/tmp`.
pub struct GuestRoot {
    mounts: Vec<Mount>,
    no_code: PathBuf,
}

impl GuestRoot {
    /// Composes a root in `folder`, which is made. `agent` is the host folder that it shows at [`AGENT`]; `readable` are host paths that
    /// the runtime needs.
    ///
    /// # Errors
    /// When a `readable` path may not be shown, or the folder cannot be filled.
    pub fn compose(folder: &Path, agent: &Path, readable: &[PathBuf]) -> io::Result<GuestRoot> {
        make_folder(folder, folder)?;
        let mut mounts = vec![read_only(folder, Path::new("/")), read_only(agent, Path::new(AGENT))];
        for (path, entry) in view::look_up(readable)? {
            let place = folder.join(path.strip_prefix("/").unwrap_or(&path));
            if let Some(parent) = place.parent() {
                make_folder(folder, parent)?;
            }
            match entry {
                Entry::Directory => make_folder(folder, &place)?,
                Entry::File(content) => {
                    fs::write(&place, content)?;
                    fs::set_permissions(place, fs::Permissions::from_mode(0o444))?;
                }
                Entry::Mount { from, file } => {
                    if file {
                        fs::write(place, "")?;
                    } else {
                        make_folder(folder, &place)?;
                    }
                    mounts.push(read_only(&from, &path));
                }
                // A mount, not a link: a path of the guest is looked up below one mount.
                Entry::Link(_) if path.is_dir() => {
                    make_folder(folder, &place)?;
                    mounts.push(read_only(&path, &path));
                }
                Entry::Link(target) => std::os::unix::fs::symlink(target, place)?,
            }
        }
        // It leads from one of those mounts to another.
        let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
        if let Ok(real) = loader.canonicalize() {
            mounts.push(read_only(&real, loader));
        }
        for place in [AGENT, CODE, TMP, "/dev", "/proc"] {
            make_folder(folder, &folder.join(&place[1..]))?;
        }
        Ok(GuestRoot { mounts, no_code: folder.join(&CODE[1..]) })
    }

    /// An empty folder of the host, for a program that has no code yet.
    pub fn no_code(&self) -> &Path {
        &self.no_code
    }

    /// The mounts of a program that sees the code in the host folder `code`, and has a `/tmp` of at most `tmp` bytes in its RAM.
    pub fn mounts(&self, code: &Path, tmp: u64) -> Vec<Mount> {
        let own = [
            read_only(code, Path::new(CODE)),
            Mount { source: Source::tmpfs(tmp), target: TMP.into(), read_only: false },
        ];
        self.mounts.iter().cloned().chain(own).collect()
    }
}

/// Makes a folder below `root`, and those that it lies in. Everybody may look into them, whatever Hydra's own files are like.
fn make_folder(root: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    folder
        .ancestors()
        .take_while(|above| above.starts_with(root))
        .try_for_each(|above| fs::set_permissions(above, fs::Permissions::from_mode(0o755)))
}

fn read_only(source: &Path, target: &Path) -> Mount {
    Mount { source: source.into(), target: target.to_owned(), read_only: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_what_is_allowed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tempfile::tempdir().unwrap();
        let root = GuestRoot::compose(
            &folder.path().join("root"),
            Path::new("/an/agent"),
            &[runtime.path().to_owned()],
        )
        .unwrap();
        assert_eq!(fs::read_dir(root.no_code()).unwrap().count(), 0);
        let mounts = root.mounts(Path::new("/code/of/it"), 1 << 20);
        let source = |target: &str| {
            let mount = mounts.iter().find(|mount| mount.target == Path::new(target));
            mount.map(|mount| (mount.source.clone(), mount.read_only))
        };
        assert_eq!(source("/agent"), Some(("/an/agent".into(), true)));
        assert_eq!(source("/usr"), Some(("/usr".into(), true)));
        assert_eq!(source("/function"), Some(("/code/of/it".into(), true)));
        assert_eq!(source("/tmp"), Some((Source::tmpfs(1 << 20), false)));
        assert_eq!(source(runtime.path().to_str().unwrap()), Some((runtime.path().into(), true)));
        assert_eq!(mounts.iter().filter(|mount| !mount.read_only).count(), 1);
        assert_eq!((source("/home"), source("/root"), source("/etc")), (None, None, None));
        let passwd = fs::read_to_string(folder.path().join("root/etc/passwd")).unwrap();
        assert!(passwd.starts_with("function:"), "{passwd}");
        assert!(!folder.path().join("root/etc/shadow").exists());
    }
}
