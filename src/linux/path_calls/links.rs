//! Renaming and linking.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, RenameFlags};

use super::super::context::{Args, Ctx};
use super::super::errno::{Errno, SysResult};
use super::super::file::{File, Kind};
use super::super::namespace::{Entry, Node};
use super::super::proc::Special;
use super::super::tmpfs::{Content, Replace, now};
use super::AT_FDCWD;

pub fn rename(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    rename_paths(ctx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

pub fn renameat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    rename_paths(ctx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), 0)
}

pub fn renameat2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    rename_paths(ctx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4))
}

fn rename_paths(ctx: &Ctx<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> SysResult {
    let replace = match flags {
        0 => Replace::Yes,
        libc::RENAME_NOREPLACE => Replace::No,
        libc::RENAME_EXCHANGE => Replace::Exchange,
        _ => return Err(Errno::EINVAL),
    };
    let old = ctx.entry(from.0, &ctx.kernel.read_path(from.1)?, Errno::EBUSY)?;
    let new = ctx.entry(to.0, &ctx.kernel.read_path(to.1)?, Errno::EBUSY)?;
    match (&old.parent.node, &new.parent.node) {
        (Node::Host(one), Node::Host(two)) => {
            check_rename(ctx, &old, &new)?;
            let flags = RenameFlags::from_bits_truncate(flags);
            rustix::fs::renameat_with(&one.fd, old.host_name(), &two.fd, new.host_name(), flags)?;
        }
        (Node::Tmpfs(fs, at), Node::Tmpfs(other, to)) if Arc::ptr_eq(fs, other) => {
            check_rename(ctx, &old, &new)?;
            fs.with(|tree| {
                let moved = tree.get(tree.lookup(*at, &old.name, fs.caller)?)?;
                if (old.wants_directory || new.wants_directory) && moved.entries().is_err() {
                    return Err(Errno::ENOTDIR);
                }
                tree.rename((*at, &old.name), (*to, &new.name), (fs.caller, now()), replace)
            })?;
        }
        _ => return Err(Errno::EXDEV),
    }
    Ok(0)
}

fn check_rename(ctx: &Ctx<'_>, old: &Entry, new: &Entry) -> Result<(), Errno> {
    for entry in [old, new] {
        entry.parent.check_changeable()?;
        ctx.kernel.check_not_mounted(entry, Errno::EBUSY)?;
    }
    Ok(())
}

pub fn link(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_link(ctx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

pub fn linkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_link(ctx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.i32(4))
}

fn make_link(ctx: &Ctx<'_>, from: (i32, u64), to: (i32, u64), flags: i32) -> SysResult {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = ctx.kernel.read_path(from.1)?;
    let source = if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        return link_open_file(ctx, &*ctx.kernel.file(from.0)?, to);
    } else {
        ctx.walk(from.0, &path, flags & libc::AT_SYMLINK_FOLLOW != 0)?
    };
    if let Node::Special(Special::Descriptor(fd)) = source.node {
        return link_open_file(ctx, &*ctx.kernel.file(fd)?, to);
    }
    let entry = ctx.new_entry(to.0, &ctx.kernel.read_path(to.1)?)?;
    match (&source.node, &entry.parent.node) {
        (Node::Host(node), Node::Host(parent)) => {
            source.check_changeable()?;
            rustix::fs::linkat(CWD, node.magic(), &parent.fd, entry.host_name(), AtFlags::SYMLINK_FOLLOW)?;
        }
        (Node::Tmpfs(fs, ino), Node::Tmpfs(other, at)) if Arc::ptr_eq(fs, other) => {
            if entry.wants_directory {
                return Err(Errno::ENOENT);
            }
            fs.with(|tree| tree.link(*ino, *at, &entry.name, (fs.caller, now()), false))?;
        }
        _ => return Err(Errno::EXDEV),
    }
    Ok(0)
}

/// Gives a file a name that may have none: one of `O_TMPFILE`.
fn link_open_file(ctx: &Ctx<'_>, file: &File, to: (i32, u64)) -> SysResult {
    let entry = ctx.new_entry(to.0, &ctx.kernel.read_path(to.1)?)?;
    match (&file.kind, &entry.parent.node) {
        (Kind::Host(host), Node::Host(parent)) if host.is_changeable() => {
            let magic = format!("/proc/self/fd/{}", host.fd().as_raw_fd());
            rustix::fs::linkat(CWD, magic, &parent.fd, entry.host_name(), AtFlags::SYMLINK_FOLLOW)?;
        }
        (Kind::Tmpfs(file), Node::Tmpfs(fs, at)) if Arc::ptr_eq(fs, file.fs()) => {
            let unnamed = file.may_be_named();
            fs.with(|tree| tree.link(file.ino(), *at, &entry.name, (fs.caller, now()), unnamed))?;
        }
        _ => return Err(Errno::EXDEV),
    }
    Ok(0)
}

pub fn symlink(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_symlink(ctx, args.u64(0), AT_FDCWD, args.u64(1))
}

pub fn symlinkat(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make_symlink(ctx, args.u64(0), args.i32(1), args.u64(2))
}

fn make_symlink(ctx: &Ctx<'_>, target: u64, directory: i32, address: u64) -> SysResult {
    const EVERYTHING: u32 = 0o777;
    let target = ctx.kernel.read_path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let entry = ctx.new_entry(directory, &ctx.kernel.read_path(address)?)?;
    if entry.wants_directory {
        return Err(Errno::ENOENT);
    }
    match &entry.parent.node {
        Node::Host(parent) => {
            rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent.fd, entry.host_name())?
        }
        Node::Tmpfs(fs, at) => {
            let by = (fs.caller, EVERYTHING, now());
            fs.with(|tree| tree.create(*at, &entry.name, by, || Content::Link(target)))?;
        }
        Node::Special(_) => return Err(Errno::EPERM),
    }
    Ok(0)
}
