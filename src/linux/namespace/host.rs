//! Files of the host below a mount.
//!
//! What is found is looked at before it is opened, because opening alone may do something: a guest never opens a device but those that every
//! program may have, and nothing of the host's `/proc` and its like, by whatever path they are found.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno as HostErrno;

use super::super::errno::Errno;
use super::mount::Namespace;
use crate::sync::lock;

/// Something of the host, found and not opened.
pub struct HostNode {
    /// Stands for it (`O_PATH`).
    pub fd: OwnedFd,
    /// What the host says of it.
    pub stat: Stat,
}

impl HostNode {
    /// What it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// A path by which the host's kernel reaches it.
    pub fn magic(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Opens it; `EACCES` for devices that are not harmless.
    pub fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        check_openable(&self.stat)?;
        reopen(self.fd.as_fd(), flags)
    }
}

fn check_openable(stat: &Stat) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory | FileType::Fifo => Ok(()),
        FileType::CharacterDevice if is_harmless(stat.st_rdev) => Ok(()),
        FileType::Symlink => Err(Errno::ELOOP),
        FileType::Socket => Err(Errno::ENXIO),
        _ => Err(Errno::EACCES),
    }
}

/// Opens what a descriptor of the program's stands for, as [`HostNode::open`] does: it may have been opened as a place only (`O_PATH`).
pub fn open_again(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    if !flags.contains(OFlags::PATH) {
        check_openable(&rustix::fs::fstat(fd)?)?;
    }
    reopen(fd, flags)
}

/// `/dev/null`, `zero`, `full`, `random`, `urandom`.
fn is_harmless(device: u64) -> bool {
    const MEMORY: u32 = 1;
    rustix::fs::major(device) == MEMORY && matches!(rustix::fs::minor(device), 3 | 5 | 7 | 8 | 9)
}

/// Opens what a descriptor stands for.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = (flags - OFlags::CREATE - OFlags::EXCL - OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Finds what is below a directory without following symbolic links: one before the last name is `ELOOP`.
pub(super) fn find_below(root: BorrowedFd<'_>, rest: &Path) -> Result<OwnedFd, Errno> {
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    /// A rename elsewhere on the host that races with the resolution is seldom.
    const ATTEMPTS: u32 = 64;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, rest, flags, Mode::empty(), resolve) {
            Err(HostErrno::AGAIN) => continue,
            found => return Ok(found?),
        }
    }
    Err(Errno::EAGAIN)
}

/// File systems that show or steer the host's kernel, by `statfs` type: a guest has nothing of them.
const KERNELS_OWN: [u32; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6e73_6673, // nsfs
    0x1cd1,      // devpts
];

impl Namespace {
    /// What was found, if the guest may have it.
    pub(super) fn checked(&self, fd: OwnedFd) -> Result<HostNode, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        if !self.is_allowed(stat.st_dev, &fd)? {
            return Err(Errno::EACCES);
        }
        Ok(HostNode { fd, stat })
    }

    fn is_allowed(&self, device: u64, fd: &OwnedFd) -> Result<bool, Errno> {
        // There are as many entries as the host has file systems.
        if let Some(known) = lock(&self.devices).get(&device) {
            return Ok(*known);
        }
        let kind = rustix::fs::fstatfs(fd)?.f_type as u32;
        let allowed = !KERNELS_OWN.contains(&kind);
        lock(&self.devices).insert(device, allowed);
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_opened_by_its_name_is_not_opened_by_a_descriptor() {
        let place = |path: &str| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
        let again = |fd: &OwnedFd, flags| open_again(fd.as_fd(), flags | OFlags::NONBLOCK).map(drop);
        let null = place("/dev/null").expect("it is everywhere");
        assert_eq!(again(&null, OFlags::RDWR), Ok(()));
        for device in ["/dev/ptmx", "/dev/kvm", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/loop0"] {
            if let Some(fd) = place(device) {
                assert_eq!(again(&fd, OFlags::RDONLY), Err(Errno::EACCES), "{device}");
                assert_eq!(again(&fd, OFlags::PATH), Ok(()), "{device}");
            }
        }
    }
}
