//! A cgroup (version 2) for each jail, where Hydra's own cgroup may be written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the names of the jails' cgroups begin with, before the number of Hydra's process and one of the jail.
const PREFIX: &str = "jail-";

/// The cgroup in which those of the jails are made.
#[derive(Debug)]
pub struct Parent {
    path: PathBuf,
    /// Whether the number of processes can be bounded.
    pub pids: bool,
}

/// The cgroup of one jail. Removed when dropped, if its processes have ended.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

/// Hydra's cgroup, prepared to hold those of the jails; or why it cannot. Done once.
///
/// The kernel lets a cgroup hand controllers on only if no process is in it (cgroup v2, "no internal process"), so
/// Hydra moves itself into a cgroup `hydra` beside those of the jails; back again if that was of no use.
pub fn parent() -> &'static Result<Parent, String> {
    static PARENT: OnceLock<Result<Parent, String>> = OnceLock::new();
    PARENT.get_or_init(prepare)
}

impl Parent {
    /// Makes the cgroup of a jail.
    pub fn make(&self, processes: u32) -> io::Result<Cgroup> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = Cgroup(self.path.join(format!("{PREFIX}{}-{number}", std::process::id())));
        fs::create_dir(&cgroup.0)?;
        if self.pids {
            cgroup.set("pids.max", processes.into())?;
        }
        Ok(cgroup)
    }
}

impl Cgroup {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bounds the memory of all processes in it to `bytes`, without swap; what goes beyond is killed together.
    pub fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        self.set("memory.max", bytes)?;
        self.set("memory.oom.group", 1)?;
        // A kernel without swap accounting has no such file, and no swap to bound.
        match self.set("memory.swap.max", 0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes in use by all processes in it, `/tmp` included.
    pub fn memory(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.0.join("memory.current"))?;
        text.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("memory.current holds {text:?}, not a number")))
    }

    /// Kills all processes in it (Linux 5.14).
    pub fn kill(&self) -> io::Result<()> {
        self.set("cgroup.kill", 1)
    }

    /// Removes it; its processes must have ended.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.0)
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.0.join(file), value.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Commonly it was removed already; one that still holds processes stays.
        let _ = self.remove();
    }
}

fn prepare() -> Result<Parent, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path} cannot be read: {e}"));
    let path = own(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
        .ok_or("no cgroup v2 file system is mounted that shows Hydra's own cgroup")?;
    let controllers = list(&path.join("cgroup.controllers"))?;
    if !controllers.iter().any(|name| name == "memory") {
        return Err(format!(
            "the memory controller is not among those of {} ({}); cgroup v1 may hold it",
            path.display(),
            if controllers.is_empty() { "none".to_owned() } else { controllers.join(", ") }
        ));
    }
    let wanted: Vec<&str> =
        ["memory", "pids", "cpu"].into_iter().filter(|w| controllers.iter().any(|c| c == w)).collect();
    let handed_on = list(&path.join("cgroup.subtree_control"))?;
    if !wanted.iter().all(|name| handed_on.iter().any(|other| other == name)) {
        hand_on(&path, &wanted)?;
    }
    remove_left(&path);
    let parent = Parent { path, pids: wanted.contains(&"pids") };
    let trial =
        parent.make(16).map_err(|e| format!("a cgroup cannot be made in {}: {e}", parent.path.display()))?;
    let limited = trial.limit_memory(1 << 30);
    limited.map_err(|e| format!("memory cannot be bounded in {}: {e}", parent.path.display()))?;
    Ok(parent)
}

/// Removes what Hydras left that ended before their jails did. To be called before there is one of this process.
fn remove_left(parent: &Path) {
    let owner = |name: &str| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let Some(owner) = entry.file_name().to_str().and_then(owner) else { continue };
        if owner == std::process::id() || !Path::new("/proc").join(owner.to_string()).exists() {
            // One that still holds processes stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Hands the controllers `names` on to the cgroups below `path`.
fn hand_on(path: &Path, names: &[&str]) -> Result<(), String> {
    let request: String = names.iter().map(|name| format!("+{name} ")).collect();
    let enable = || fs::write(path.join("cgroup.subtree_control"), request.trim_end());
    let Err(error) = enable() else { return Ok(()) };
    if error.raw_os_error() != Some(libc::EBUSY) {
        return Err(format!("controllers cannot be handed on in {}: {error}", path.display()));
    }
    let own = path.join("hydra");
    let moved = fs::create_dir_all(&own)
        .and_then(|()| fs::write(own.join("cgroup.procs"), "0"))
        .and_then(|()| enable());
    moved.map_err(|error| {
        // Back to where Hydra was; if that fails it stays in a cgroup without limits, which does no harm.
        let _ = fs::write(path.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&own);
        format!(
            "other processes share Hydra's cgroup {}, so it cannot hand controllers on: {error}",
            path.display()
        )
    })
}

fn list(file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The directory of the cgroup that `cgroup` (`/proc/self/cgroup`) names, by the mounts of `mountinfo`.
fn own(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let name = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, at) = mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        after.starts_with("cgroup2 ").then_some((fields.next()?, fields.next()?))
    })?;
    // A name with `..` lies outside what is mounted: another cgroup namespace.
    let below = Path::new(name).strip_prefix(root).ok().filter(|below| !below.starts_with(".."))?;
    Some(Path::new(at).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn own_cgroup() {
        let expected = Some(PathBuf::from("/sys/fs/cgroup/system.slice/hydra.service"));
        assert_eq!(own("0::/system.slice/hydra.service\n", MOUNTS), expected);
        assert_eq!(own("4:memory:/x\n0::/\n", MOUNTS), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(own("0::/../other\n", MOUNTS), None);
        assert_eq!(own("4:memory:/x\n", MOUNTS), None);
        assert_eq!(own("0::/\n", "22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn cgroups_of_hydras_that_have_ended_go() {
        let parent = tempfile::tempdir().unwrap();
        // More than the kernel numbers processes up to; there is always a first.
        let gone = ["jail-4194305-0".to_owned(), format!("jail-{}-17", std::process::id())];
        let kept = ["jail-1-0", "jail-4194305", "hydra"].map(str::to_owned);
        for name in gone.iter().chain(&kept) {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        remove_left(parent.path());
        assert!(gone.iter().all(|name| !parent.path().join(name).exists()));
        assert!(kept.iter().all(|name| parent.path().join(name).exists()));
    }
}
