//! From a path to what it leads to.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::super::errno::Errno;
use super::super::proc::Special;
use super::mount::Namespace;
use super::place::{Node, Place};

/// Most symbolic links followed for one path.
const MOST_LINKS: u32 = 40;
/// Most bytes of the names still to come after links were put in.
const LONGEST: usize = 64 << 10;
/// An absolute path without links and `..` is shorter than this. Linux bounds only what a call passes; here the path from the root is what
/// a place is known by, so directories can be no deeper than that.
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// What a path leads to.
pub enum Found {
    /// Something that exists.
    Place(Place),
    /// Nothing: the last name is missing in a directory that exists.
    Missing(Entry),
}

/// A name in a directory, which may exist or not.
pub struct Entry {
    /// The directory.
    pub parent: Place,
    /// The name.
    pub name: Vec<u8>,
    /// The path ended with a slash: only a directory will do.
    pub wants_directory: bool,
}

impl Entry {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.parent.path.join(OsStr::from_bytes(&self.name))
    }
}

/// What the guest's own directories (`/proc`, `/dev`) have at a path; `None` outside of them.
pub type Specials<'a> = &'a dyn Fn(&Path) -> Option<Special>;

/// A path being walked.
struct Walk<'a> {
    namespace: &'a Namespace,
    specials: Specials<'a>,
    /// Where it stands: absolute, without links and `..`; empty for the root.
    here: Vec<u8>,
    /// Names to come, the next last.
    rest: Vec<Vec<u8>>,
    wants_directory: bool,
    links: u32,
}

impl Namespace {
    /// Follows `path` from the directory `base`. The last name's symbolic link is followed if `follow` says so, or a slash comes after it.
    pub fn walk(
        &self,
        specials: Specials<'_>,
        base: &Path,
        path: &[u8],
        follow: bool,
    ) -> Result<Place, Errno> {
        match self.walk_to(specials, base, path, follow, false)? {
            Found::Place(place) => Ok(place),
            Found::Missing(_) => Err(Errno::ENOENT),
        }
    }

    /// The same where the last name may be missing.
    pub fn walk_or_missing(
        &self,
        specials: Specials<'_>,
        base: &Path,
        path: &[u8],
        follow: bool,
    ) -> Result<Found, Errno> {
        self.walk_to(specials, base, path, follow, true)
    }

    fn walk_to(
        &self,
        specials: Specials<'_>,
        base: &Path,
        path: &[u8],
        follow: bool,
        may_miss: bool,
    ) -> Result<Found, Errno> {
        let here = if path.starts_with(b"/") { Vec::new() } else { trimmed(base) };
        let mut walk =
            Walk { namespace: self, specials, here, rest: Vec::new(), wants_directory: false, links: 0 };
        walk.push(path)?;
        walk.run(follow, may_miss)
    }

    /// The directory of a path and its last name, which must not be `.`, `..` or the root: those give `special`.
    pub fn walk_to_entry(
        &self,
        specials: Specials<'_>,
        base: &Path,
        path: &[u8],
        special: Errno,
    ) -> Result<Entry, Errno> {
        let end = path.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
        let whole = &path[..end];
        let name = whole.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let before = &whole[..end - name.len()];
        let before = if before.is_empty() { b"." } else { before };
        let parent = self.walk(specials, base, before, true)?;
        if !parent.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if matches!(name, b"" | b"." | b"..") {
            return Err(special);
        }
        let whole = parent.path.as_os_str().len() + 1 + name.len();
        if name.len() > super::super::tmpfs::NAME_MAX || whole >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(Entry { parent, name: name.to_vec(), wants_directory: end < path.len() })
    }
}

fn trimmed(base: &Path) -> Vec<u8> {
    let bytes = base.as_os_str().as_bytes();
    bytes.strip_suffix(b"/").unwrap_or(bytes).to_vec()
}

impl Walk<'_> {
    /// Puts a path before the names to come.
    fn push(&mut self, path: &[u8]) -> Result<(), Errno> {
        if self.rest.is_empty() {
            self.wants_directory |= path.ends_with(b"/") || path.ends_with(b"/.") || path == b".";
        }
        let names = path.split(|b| *b == b'/').rev().filter(|name| !matches!(*name, b"" | b"."));
        self.rest.extend(names.map(<[u8]>::to_vec));
        if self.rest.iter().map(Vec::len).sum::<usize>() > LONGEST {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(())
    }

    /// The path from here with the names to come.
    fn whole(&self) -> PathBuf {
        let mut bytes = self.here.clone();
        for name in self.rest.iter().rev() {
            bytes.push(b'/');
            bytes.extend_from_slice(name);
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        PathBuf::from(std::ffi::OsString::from_vec(bytes))
    }

    fn at(&self, path: &Path) -> Result<Place, Errno> {
        if path.as_os_str().len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        match (self.specials)(path) {
            Some(Special::Absent) => Err(Errno::ENOENT),
            Some(special) => {
                Ok(Place { path: path.to_owned(), node: Node::Special(special), read_only: true })
            }
            None => self.namespace.at(path),
        }
    }

    fn finished(&self, place: Place) -> Result<Found, Errno> {
        if self.wants_directory && !place.is_directory() {
            Err(Errno::ENOTDIR)
        } else {
            Ok(Found::Place(place))
        }
    }

    fn run(mut self, follow: bool, may_miss: bool) -> Result<Found, Errno> {
        let mut try_whole = true;
        loop {
            if std::mem::take(&mut try_whole) && !self.rest.iter().any(|name| name == b"..") {
                match self.at(&self.whole()) {
                    Ok(place) if place.is_link() && (follow || self.wants_directory) => {}
                    Ok(place) => return self.finished(place),
                    // A link on the way, behind which the path may be shorter; or which name is missing must be found out; or a link of
                    // `/proc` on the way.
                    Err(Errno::ELOOP | Errno::ENAMETOOLONG) => {}
                    Err(Errno::ENOENT) if may_miss || (self.specials)(&self.whole()).is_some() => {}
                    Err(error) => return Err(error),
                }
            }
            let Some(name) = self.rest.pop() else {
                let place = self.at(&self.whole())?;
                return self.finished(place);
            };
            if name == b".." {
                let parent = self.here.iter().rposition(|b| *b == b'/').unwrap_or(0);
                self.here.truncate(parent);
                continue;
            }
            let before = self.here.len();
            self.here.push(b'/');
            self.here.extend_from_slice(&name);
            let last = self.rest.is_empty();
            let place = match self.at(Path::new(OsStr::from_bytes(&self.here))) {
                Err(Errno::ENOENT) if last && may_miss => {
                    self.here.truncate(before);
                    let parent = self.at(&self.whole())?;
                    let wants_directory = self.wants_directory;
                    return Ok(Found::Missing(Entry { parent, name, wants_directory }));
                }
                found => found?,
            };
            if place.is_link() && (!last || follow || self.wants_directory) {
                self.links += 1;
                if self.links > MOST_LINKS {
                    return Err(Errno::ELOOP);
                }
                let target = place.target()?;
                self.here.truncate(before);
                if target.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if target.starts_with(b"/") {
                    self.here.clear();
                }
                self.push(&target)?;
                try_whole = true;
                continue;
            }
            if last {
                return self.finished(place);
            }
            if !place.is_directory() {
                return Err(Errno::ENOTDIR);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::{Arc, Mutex};

    use super::super::{Mount, Source};
    use super::*;
    use crate::linux::mm::AddressSpace;
    use crate::linux::tmpfs::Caller;
    use crate::vmm::GuestMemory;

    fn namespace(mounts: &[Mount]) -> Namespace {
        let memory = Arc::new(GuestMemory::new(16 << 20).expect("memory"));
        let space = Arc::new(Mutex::new(AddressSpace::new(memory)));
        Namespace::new(mounts, Caller { uid: 0, gid: 0 }, &space).expect("a namespace")
    }

    fn mount(source: impl Into<Source>, target: &str, read_only: bool) -> Mount {
        Mount { source: source.into(), target: target.into(), read_only }
    }

    fn walk(namespace: &Namespace, base: &str, path: &str) -> Result<String, Errno> {
        let place = namespace.walk(&|_| None, Path::new(base), path.as_bytes(), true)?;
        Ok(place.path.to_string_lossy().into_owned())
    }

    #[test]
    fn links_and_dots_lead_from_mount_to_mount() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("usr/lib/deep")).expect("directories");
        std::fs::write(dir.path().join("usr/lib/file"), "").expect("a file");
        for (target, link) in
            [("usr/lib", "lib"), ("/tmp", "usr/tmp"), ("loop", "loop"), ("../../lib/file", "usr/lib/up")]
        {
            symlink(target, dir.path().join(link)).expect("a link");
        }
        let namespace =
            namespace(&[mount(dir.path(), "/", true), mount(Source::tmpfs(1 << 20), "/tmp", false)]);
        for (base, path, expected) in [
            ("/", "lib/deep/../file", Ok("/usr/lib/file")),
            // The directory above what a link leads to, not above the link.
            ("/", "/lib/..", Ok("/usr")),
            ("/", "usr/lib/up", Ok("/usr/lib/file")),
            ("/", "usr/tmp", Ok("/tmp")),
            ("/", "usr/tmp/..", Ok("/")),
            ("/tmp", "../lib/file", Ok("/usr/lib/file")),
            ("/", "../../..", Ok("/")),
            ("/", "loop", Err(Errno::ELOOP)),
            ("/", "lib/file/", Err(Errno::ENOTDIR)),
            ("/", "lib/file/..", Err(Errno::ENOTDIR)),
            ("/", "lib/none/../file", Err(Errno::ENOENT)),
            ("/usr/lib", "./deep/.", Ok("/usr/lib/deep")),
        ] {
            assert_eq!(walk(&namespace, base, path), expected.map(str::to_owned), "{base} {path}");
        }
    }

    #[test]
    fn nothing_leads_out_of_a_mount() {
        let dir = tempfile::tempdir().expect("a directory");
        let inside = dir.path().join("in");
        std::fs::create_dir(&inside).expect("a directory");
        std::fs::write(dir.path().join("secret"), "x").expect("a file");
        symlink("../secret", inside.join("up")).expect("a link");
        symlink(dir.path().join("secret"), inside.join("absolute")).expect("a link");
        let namespace = namespace(&[mount(inside, "/", true)]);
        for path in ["/up", "/absolute", "/../secret", "../secret"] {
            assert_eq!(walk(&namespace, "/", path), Err(Errno::ENOENT), "{path}");
        }
    }

    #[test]
    fn no_place_is_deeper_than_a_path_can_say() {
        let namespace = namespace(&[mount(Source::tmpfs(16 << 20), "/", false)]);
        let name = "n".repeat(255);
        let mut here = PathBuf::from("/");
        let made = |here: &Path, name: &str| {
            let entry = namespace.walk_to_entry(&|_| None, here, name.as_bytes(), Errno::EEXIST)?;
            let (fs, at) = entry.parent.tmpfs().expect("it is in RAM");
            let by = (fs.caller, 0o755, crate::linux::tmpfs::now());
            fs.with(|tree| tree.make_directory(at, &entry.name, by)).expect("it is made");
            Ok(entry.path())
        };
        let ended = loop {
            match made(&here, &name) {
                Ok(deeper) => here = deeper,
                Err(error) => break error,
            }
        };
        assert_eq!((ended, here.as_os_str().len()), (Errno::ENAMETOOLONG, 15 * 256));
        // To the last byte.
        let rest = PATH_MAX - 1 - here.as_os_str().len() - 1;
        assert_eq!(made(&here, &"m".repeat(rest + 1)), Err(Errno::ENAMETOOLONG));
        let deepest = made(&here, &"m".repeat(rest)).expect("it is short enough");
        let at = |base: &Path, path: &str| walk(&namespace, base.to_str().unwrap(), path);
        assert_eq!(at(&deepest, "x"), Err(Errno::ENAMETOOLONG));
        assert_eq!(at(&deepest, ".").map(|path| path.len()), Ok(PATH_MAX - 1));
        assert_eq!(at(&deepest, "..").map(PathBuf::from), Ok(here.clone()));
        // What only looks long is none of it.
        let (fs, root) = (namespace.walk(&|_| None, Path::new("/"), b"/", true))
            .unwrap()
            .tmpfs()
            .map(|(fs, ino)| (fs.clone(), ino))
            .unwrap();
        let by = (fs.caller, 0o777, crate::linux::tmpfs::now());
        let link = crate::linux::tmpfs::Content::Link(here.as_os_str().as_bytes().to_vec());
        fs.with(|tree| tree.create(root, b"link", by, || link)).expect("a link");
        assert_eq!(at(Path::new("/"), &format!("link{}", "/..".repeat(15))), Ok("/".into()));
    }

    #[test]
    fn a_tmpfs_has_the_places_where_others_show() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "").expect("a file");
        let root = Source::Tmpfs { size: 1 << 20, mode: 0o755 };
        let namespace = namespace(&[
            mount(root, "/", true),
            mount(dir.path(), "/opt/data", true),
            mount(dir.path().join("file"), "/etc/one", true),
        ]);
        for path in ["/opt/data/file", "/opt", "/etc/one", "/dev/shm"] {
            assert_eq!(walk(&namespace, "/", path).as_deref(), Ok(path));
        }
        assert_eq!(walk(&namespace, "/", "/etc/one/x"), Err(Errno::ENOTDIR));
    }

    #[test]
    fn a_mount_that_is_added_shows_over_what_was_there() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["root/code/old", "root/code/deep/old", "code/new", "code/deep"] {
            std::fs::create_dir_all(dir.path().join(path)).expect("directories");
        }
        let root = dir.path().join("root");
        let namespace = namespace(&[mount(&*root, "/", true), mount(root.join("code"), "/code/deep", true)]);
        assert_eq!(walk(&namespace, "/", "/code/old").as_deref(), Ok("/code/old"));
        let add = |source: &str| namespace.add(&dir.path().join(source), Path::new("/code"), true);
        assert!(add("missing").is_err());
        add("code").expect("it is there");
        for (path, expected) in [
            ("/code/new", Ok("/code/new")),
            ("/code/old", Err(Errno::ENOENT)),
            ("/code/../code/new/..", Ok("/code")),
            // What is mounted deeper stays.
            ("/code/deep/old", Ok("/code/deep/old")),
        ] {
            assert_eq!(walk(&namespace, "/", path), expected.map(str::to_owned), "{path}");
        }
        assert!(
            namespace.is_mount_point(Path::new("/code")) && namespace.is_read_only(Path::new("/code/new"))
        );
        assert!(add("code").is_err(), "there is one already");
    }

    #[test]
    fn the_hosts_kernel_and_devices_are_out_of_reach() {
        // The whole host, under a name that is not special to the guest.
        let namespace = namespace(&[mount("/", "/", false), mount("/", "/host", false)]);
        for path in ["/host/proc/self/mem", "/host/proc/1/root", "/host/sys/kernel", "/host/proc"] {
            let found = walk(&namespace, "/", path);
            assert!(matches!(found, Err(Errno::EACCES | Errno::ELOOP | Errno::ENOENT)), "{path}: {found:?}");
        }
        let open = |path: &str| {
            let place = namespace.walk(&|_| None, Path::new("/"), path.as_bytes(), true)?;
            match place.node {
                Node::Host(node) => {
                    node.open(rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK).map(drop)
                }
                _ => Err(Errno::EIO),
            }
        };
        assert_eq!(open("/host/dev/null"), Ok(()));
        for device in ["/host/dev/kvm", "/host/dev/tty", "/host/dev/ptmx", "/host/dev/kmsg", "/host/dev/mem"]
        {
            if Path::new(device.trim_start_matches("/host")).exists() {
                assert_eq!(open(device), Err(Errno::EACCES), "{device}");
            }
        }
    }
}
