//! The descriptor table, and the calls that change it.

use std::sync::Arc;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind};
use super::kernel::Kernel;
use super::lock::PROCESS;

/// Most descriptors that a program can ask for.
pub const MOST: usize = 131_072;

/// The table. Index is the descriptor.
#[derive(Default)]
pub struct Descriptors {
    slots: Vec<Option<Descriptor>>,
    /// None below is free.
    used_below: usize,
}

/// An entry.
#[derive(Clone)]
pub struct Descriptor {
    /// What it stands for.
    pub file: Arc<File>,
    /// `FD_CLOEXEC`: kept for `fcntl` to show; nothing is executed.
    pub close_on_exec: bool,
}

impl Descriptors {
    /// The entry of a descriptor.
    pub fn get(&self, fd: i32) -> Result<&Descriptor, Errno> {
        usize::try_from(fd).ok().and_then(|i| self.slots.get(i)?.as_ref()).ok_or(Errno::EBADF)
    }

    /// Puts a file at the lowest free descriptor from `from` on, below `limit`.
    pub fn insert(
        &mut self,
        file: Arc<File>,
        close_on_exec: bool,
        from: usize,
        limit: usize,
    ) -> Result<i32, Errno> {
        let free = self.find_free(from, limit)?;
        self.put(free, Descriptor { file, close_on_exec });
        Ok(free as i32)
    }

    /// The lowest free descriptor from `from` on; `EMFILE` if it is not below `limit`.
    fn find_free(&mut self, from: usize, limit: usize) -> Result<usize, Errno> {
        let start = from.max(self.used_below);
        let free = (start..self.slots.len())
            .find(|i| self.slots[*i].is_none())
            .unwrap_or(self.slots.len().max(start));
        if from <= self.used_below {
            self.used_below = free;
        }
        if free < limit { Ok(free) } else { Err(Errno::EMFILE) }
    }

    /// Sets an entry; returns what it held, which the caller drops without the lock.
    #[must_use = "a file must not be dropped under the table's lock"]
    fn replace(&mut self, at: usize, entry: Descriptor) -> Option<Descriptor> {
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at].replace(entry)
    }

    /// Puts a file of a restored program where it was; `None` if the place is beyond all limits or taken.
    pub fn restore(&mut self, fd: i32, file: Arc<File>, close_on_exec: bool) -> Option<()> {
        let at = usize::try_from(fd).ok().filter(|at| *at < MOST)?;
        if self.get(fd).is_ok() {
            return None;
        }
        self.put(at, Descriptor { file, close_on_exec });
        Some(())
    }

    fn put(&mut self, at: usize, entry: Descriptor) {
        let old = self.replace(at, entry);
        debug_assert!(old.is_none(), "put() is for free descriptors");
    }

    /// Removes an entry.
    pub fn remove(&mut self, fd: i32) -> Result<Descriptor, Errno> {
        let at = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let removed = self.slots.get_mut(at).and_then(Option::take).ok_or(Errno::EBADF)?;
        self.used_below = self.used_below.min(at);
        Ok(removed)
    }

    /// All open descriptors.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Descriptor)> {
        self.iter_from(0)
    }

    /// Those from a number on.
    pub fn iter_from(&self, first: u64) -> impl Iterator<Item = (i32, &Descriptor)> {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let slots = self.slots.iter().enumerate().skip(first);
        slots.filter_map(|(i, slot)| Some((i as i32, slot.as_ref()?)))
    }
}

impl Kernel {
    /// The file of a descriptor.
    pub fn file(&self, fd: i32) -> Result<Arc<File>, Errno> {
        Ok(Arc::clone(&self.descriptors().get(fd)?.file))
    }

    /// Gives two files the lowest free descriptors, and tells the program at `pointer` which. It gets both or none.
    pub fn install_pair(&self, files: [Arc<File>; 2], flags: u32, pointer: u64) -> SysResult {
        let [first, second] = files.map(|file| self.install(file, flags));
        let told = match (first, second) {
            (Ok(first), Ok(second)) => self.write(pointer, &[first as i32, second as i32]),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if told.is_err() {
            for fd in [first, second].into_iter().flatten() {
                let closed = self.descriptors().remove(fd as i32);
                drop(closed);
            }
        }
        told.map(|()| 0)
    }

    /// Lets go of what was in the table, without its lock.
    pub fn release(&self, closed: impl IntoIterator<Item = Descriptor>) {
        let mut sockets = false;
        for descriptor in closed {
            self.release_locks(&descriptor.file, PROCESS);
            sockets |= matches!(descriptor.file.kind, Kind::Unix(_));
        }
        // Once: it looks at all sockets.
        if sockets {
            self.collect_sockets();
        }
    }

    /// `EMFILE` if a file would get no descriptor now.
    pub fn check_free_descriptor(&self) -> Result<(), Errno> {
        let limit = self.limits().open_files();
        self.descriptors().find_free(0, limit).map(drop)
    }

    /// Gives a file the lowest free descriptor. `O_CLOEXEC` in `flags` is heeded.
    pub fn install(&self, file: Arc<File>, flags: u32) -> SysResult {
        let limit = self.limits().open_files();
        let close_on_exec = flags & libc::O_CLOEXEC as u32 != 0;
        Ok(self.descriptors().insert(file, close_on_exec, 0, limit)? as u64)
    }
}

pub fn close(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let closed = ctx.kernel.descriptors().remove(args.i32(0))?;
    ctx.kernel.release([closed]);
    Ok(0)
}

pub fn close_range(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (args.u32(0), args.u32(1), args.u32(2));
    if first > last || flags & !(CLOEXEC | 2) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut table = ctx.kernel.descriptors();
    let end = (last as usize).saturating_add(1).min(table.slots.len());
    let mut closed = Vec::new();
    table.used_below = table.used_below.min(first as usize);
    for slot in table.slots.get_mut(first as usize..end).unwrap_or(&mut []) {
        if flags & CLOEXEC != 0 {
            slot.iter_mut().for_each(|entry| entry.close_on_exec = true);
        } else {
            closed.extend(slot.take());
        }
    }
    drop(table);
    ctx.kernel.release(closed);
    Ok(0)
}

pub fn dup(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let file = ctx.kernel.file(args.i32(0))?;
    ctx.kernel.install(file, 0)
}

pub fn dup2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.i32(0) == args.i32(1) {
        ctx.kernel.file(args.i32(0))?;
        return Ok(args.i32(0) as u64);
    }
    duplicate_to(ctx, args.i32(0), args.i32(1), false)
}

pub fn dup3(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let flags = args.i32(2);
    if args.i32(0) == args.i32(1) || flags & !libc::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    duplicate_to(ctx, args.i32(0), args.i32(1), flags != 0)
}

fn duplicate_to(ctx: &Ctx<'_>, from: i32, to: i32, close_on_exec: bool) -> SysResult {
    let limit = ctx.kernel.limits().open_files();
    let at = usize::try_from(to).ok().filter(|at| *at < limit).ok_or(Errno::EBADF)?;
    let file = ctx.kernel.file(from)?;
    let old = ctx.kernel.descriptors().replace(at, Descriptor { file, close_on_exec });
    ctx.kernel.release(old);
    Ok(to as u64)
}

pub fn fcntl(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    let (fd, value) = (args.i32(0), args.u64(2));
    let file = ctx.kernel.file(fd)?;
    match args.i32(1) {
        command @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
            let limit = ctx.kernel.limits().open_files();
            let from = usize::try_from(value as i32).ok().filter(|f| *f < limit).ok_or(Errno::EINVAL)?;
            let close_on_exec = command == libc::F_DUPFD_CLOEXEC;
            Ok(ctx.kernel.descriptors().insert(file, close_on_exec, from, limit)? as u64)
        }
        libc::F_GETFD => Ok(u64::from(ctx.kernel.descriptors().get(fd)?.close_on_exec)),
        libc::F_SETFD => {
            let mut table = ctx.kernel.descriptors();
            if let Some(Some(entry)) = table.slots.get_mut(fd as usize) {
                entry.close_on_exec = value & libc::FD_CLOEXEC as u64 != 0;
            }
            Ok(0)
        }
        libc::F_GETFL => Ok(u64::from(file.flags())),
        libc::F_SETFL => {
            file.set_flags(value as u32);
            if let Kind::Host(host) = &file.kind
                && !host.is_stream()
            {
                // Appending is done by the host's kernel.
                let mut flags = rustix::fs::fcntl_getfl(host.fd())?;
                flags.set(rustix::fs::OFlags::APPEND, value as i32 & libc::O_APPEND != 0);
                rustix::fs::fcntl_setfl(host.fd(), flags)?;
            }
            Ok(0)
        }
        libc::F_GETOWN | libc::F_SETOWN | F_GETSIG | F_SETSIG => Ok(0),
        command @ (libc::F_GETLK
        | libc::F_SETLK
        | libc::F_SETLKW
        | libc::F_OFD_GETLK
        | libc::F_OFD_SETLK
        | libc::F_OFD_SETLKW) => super::lock::record_lock(ctx, fd, &file, command, value),
        libc::F_GETPIPE_SZ => match &file.kind {
            Kind::Pipe(pipe) => Ok(pipe.capacity() as u64),
            _ => Err(Errno::EBADF),
        },
        libc::F_SETPIPE_SZ => match &file.kind {
            Kind::Pipe(pipe) => Ok(pipe.set_capacity(ctx.kernel, value as u32 as usize)? as u64),
            _ => Err(Errno::EBADF),
        },
        libc::F_GET_SEALS => match &file.kind {
            Kind::Tmpfs(file) => Ok(u64::from(file.seals()?)),
            _ => Err(Errno::EINVAL),
        },
        libc::F_ADD_SEALS => match &file.kind {
            Kind::Tmpfs(open) => {
                if !file.access_mode().1 {
                    return Err(Errno::EPERM);
                }
                open.add_seals(value as u32).map(|()| 0)
            }
            _ => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}
