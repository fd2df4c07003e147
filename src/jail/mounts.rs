//! Mounts by descriptor: thin, safe forms of the mount calls of Linux 5.2 to 5.12.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen,
};
use std::io;
use std::path::Path;

/// A new file system of `kind` ("tmpfs", "proc") that is mounted nowhere yet.
pub fn new(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of the mounts at `path`, mounted nowhere yet, which hears nothing from the mounts it is a copy of.
pub fn copy(path: &Path, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    set(tree.as_fd(), attributes, true)?;
    Ok(tree)
}

/// As [`copy`], of the mount at `path` without what is mounted below it.
pub fn copy_alone(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// As [`copy`], of what the open descriptor `place` refers to. `place` must be in the caller's mount namespace.
pub fn copy_at(place: BorrowedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(place, "", flags)?;
    set(tree.as_fd(), attributes, true)?;
    Ok(tree)
}

/// Mounts `tree` at `path`, which is relative to the directory `at`. `tree` stays a handle on the mount.
pub fn attach(tree: BorrowedFd, at: BorrowedFd, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Adds `attributes` to the mount `tree`, with all below it if `recursive`, and makes it private.
pub fn set(tree: BorrowedFd, attributes: MountAttrFlags, recursive: bool) -> io::Result<()> {
    change(tree, attributes, MountAttrFlags::empty(), recursive)
}

/// Takes `attributes` from the mount `tree`.
pub fn clear(tree: BorrowedFd, attributes: MountAttrFlags) -> io::Result<()> {
    change(tree, MountAttrFlags::empty(), attributes, false)
}

fn change(tree: BorrowedFd, added: MountAttrFlags, taken: MountAttrFlags, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: added.bits().into(),
        attr_clr: taken.bits().into(),
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` and the empty path live across the call, and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
