//! `eventfd`: a counter.

use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use vm_memory::VolatileSlice;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind, Object, Ready};
use super::kernel::Kernel;
use super::stat::Attributes;
use super::user::{gather, scatter};
use crate::sync::lock;

/// Highest value of the counter.
const MOST: u64 = u64::MAX - 1;

/// A counter.
pub struct EventFd {
    count: Mutex<u64>,
    /// Reads take one, not all.
    semaphore: bool,
}

/// What a checkpoint keeps of a counter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedEvent {
    count: u64,
    semaphore: bool,
}

impl EventFd {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedEvent {
        SavedEvent { count: *self.lock(), semaphore: self.semaphore }
    }

    /// The counter as it was.
    pub fn restore(saved: SavedEvent) -> EventFd {
        EventFd { count: Mutex::new(saved.count.min(MOST)), semaphore: saved.semaphore }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        lock(&self.count)
    }
}

impl Object for EventFd {
    fn read(&self, kernel: &Kernel, file: &File, into: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        if into.iter().map(VolatileSlice::len).sum::<usize>() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut count = self.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.semaphore { 1 } else { *count };
        *count -= taken;
        drop(count);
        scatter(into, &taken.to_ne_bytes());
        kernel.changed(file);
        Ok(8)
    }

    fn write(&self, kernel: &Kernel, file: &File, from: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
        let bytes = gather(from, 8);
        let added = u64::from_ne_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?);
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.lock();
        *count = count.checked_add(added).filter(|sum| *sum <= MOST).ok_or(Errno::EAGAIN)?;
        drop(count);
        kernel.changed(file);
        Ok(8)
    }

    fn ready(&self, _: &Kernel) -> Ready {
        let count = *self.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::IN | Ready::RDNORM, count > 0);
        ready.set(Ready::OUT | Ready::WRNORM, count < MOST);
        ready
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(0o600))
    }
}

pub fn eventfd(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make(ctx, args.u32(0), 0)
}

pub fn eventfd2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    make(ctx, args.u32(0), args.i32(1))
}

fn make(ctx: &Ctx<'_>, count: u32, flags: i32) -> SysResult {
    if flags & !(libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let event = EventFd { count: Mutex::new(u64::from(count)), semaphore: flags & libc::EFD_SEMAPHORE != 0 };
    let status = libc::O_RDWR | flags & libc::EFD_NONBLOCK;
    let file = ctx.kernel.new_file(Kind::Event(event), "anon_inode:[eventfd]".into(), status as u32);
    ctx.kernel.install(file, flags as u32)
}
