//! What functions see of the host's files: an allowlist, the same in a jail and in a microVM.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::identity::INSIDE;

/// Where a function's code is seen.
pub const CODE: &str = "/function";
/// The directory that a function may write.
pub const TMP: &str = "/tmp";

/// Directories of the host that every function sees, where the host has them.
const DIRECTORIES: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// What every function sees of `/etc`, where the host has it: names, certificates, time zone, the linker's cache.
const CONFIGURATION: &[&str] = &[
    "resolv.conf",
    "hosts",
    "host.conf",
    "gai.conf",
    "nsswitch.conf",
    "services",
    "protocols",
    "localtime",
    "timezone",
    "mime.types",
    "ld.so.cache",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ca-certificates",
    "alternatives",
];
/// Beginnings of names in `/etc` that every function sees: where distributions keep the configuration of runtimes.
const RUNTIMES: &[&str] = &["java", "python3"];
/// Places that a sandbox has of its own, where a `readable` path would lay the host's over it.
const OWN: &[&str] = &["/proc", "/sys", "/dev", CODE];
/// Bytes up to which a file of `/etc` is copied rather than mounted: a mount costs more than a copy.
const COPIED: u64 = 32 * 1024;

/// What lies at a path that a function sees.
pub enum Entry {
    /// An empty directory.
    Directory,
    /// A symbolic link.
    Link(PathBuf),
    /// A file with this content.
    File(Vec<u8>),
    /// What the host has at the path `from`, read-only; `file` if that is not a directory.
    Mount {
        /// On the host.
        from: PathBuf,
        /// It is not a directory.
        file: bool,
    },
}

/// Paths and what lies there; parents are implied.
pub type View = Vec<(PathBuf, Entry)>;

/// Looks up, with the authority of the caller, what a function sees besides devices, `/proc`, [`TMP`] and its code. `readable` are host paths
/// that its runtime needs.
///
/// # Errors
/// When a `readable` path is not there or is none that may be shown.
pub fn look_up(readable: &[PathBuf]) -> io::Result<View> {
    let mut view = View::new();
    for path in DIRECTORIES {
        add_host_path(&mut view, Path::new(path))?;
    }
    for name in configuration() {
        add_configuration(&mut view, &Path::new("/etc").join(name))?;
    }
    let inside = format!("{INSIDE}:{INSIDE}");
    add(
        &mut view,
        "/etc/passwd",
        Entry::File(format!("function:x:{inside}::{TMP}:/usr/sbin/nologin\n").into()),
    );
    add(&mut view, "/etc/group", Entry::File(format!("function:x:{INSIDE}:\n").into()));
    add(&mut view, "/etc/hostname", Entry::File("function\n".into()));
    for path in readable {
        add_readable(&mut view, path)?;
    }
    Ok(view)
}

/// The host paths of [`look_up`], for a sandbox that has no root of its own.
pub fn host_paths() -> impl Iterator<Item = PathBuf> {
    let directories = DIRECTORIES.iter().map(PathBuf::from);
    directories.chain(configuration().into_iter().map(|name| Path::new("/etc").join(name)))
}

fn configuration() -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = CONFIGURATION.iter().map(PathBuf::from).collect();
    for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if RUNTIMES.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            names.push(name.into());
        }
    }
    names
}

pub(super) fn add(entries: &mut View, path: impl Into<PathBuf>, entry: Entry) {
    entries.push((path.into(), entry));
}

/// Whether something that `entries` mount already shows `path`.
fn shown(entries: &[(PathBuf, Entry)], path: &Path) -> bool {
    entries.iter().any(|(at, entry)| match entry {
        Entry::Mount { .. } => path.starts_with(at),
        _ => path == at,
    })
}

/// A top directory: a link where the host has one (`/lib` on a merged `/usr`).
fn add_host_path(entries: &mut View, path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if metadata.is_symlink() {
        add(entries, path, Entry::Link(fs::read_link(path)?));
    } else {
        add(entries, path, Entry::Mount { from: path.to_owned(), file: !metadata.is_dir() });
    }
    Ok(())
}

/// A name in `/etc`; one that is not there, or that everyone may not read, is left out.
fn add_configuration(entries: &mut View, path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    if metadata.is_file() && metadata.len() <= COPIED {
        use std::os::unix::fs::PermissionsExt;
        if metadata.permissions().mode() & 0o004 != 0 {
            add(entries, path, Entry::File(fs::read(path)?));
        }
    } else {
        add(entries, path, Entry::Mount { from: path.to_owned(), file: !metadata.is_dir() });
    }
    Ok(())
}

/// A path that the runtime needs; a symlink is shown as one, and what it leads to as well.
fn add_readable(entries: &mut View, path: &Path) -> io::Result<()> {
    let wrong = |what: &str| io::Error::other(format!("the readable path {} {what}", path.display()));
    let ordinary = path.is_absolute() && path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
    let real = fs::canonicalize(path).map_err(|e| wrong(&format!("cannot be opened: {e}")))?;
    for candidate in [path, &real] {
        if !ordinary
            || candidate.parent().is_none()
            || candidate == Path::new(TMP)
            || OWN.iter().any(|own| candidate.starts_with(own))
        {
            return Err(wrong(
                "must be absolute, without . and .., and not /, /tmp or below /proc, /sys, /dev, /function",
            ));
        }
    }
    if !shown(entries, &real) {
        let file = !fs::metadata(&real)?.is_dir();
        add(entries, real.clone(), Entry::Mount { from: real.clone(), file });
    }
    if path != real && !shown(entries, path) {
        add(entries, path, Entry::Link(real));
    }
    Ok(())
}
