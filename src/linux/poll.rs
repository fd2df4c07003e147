//! `poll` and `select`.

use std::sync::Arc;

use vm_memory::Bytes;
use zerocopy::IntoBytes;

use super::context::{Args, Ctx, OnSignal};
use super::descriptor;
use super::epoll::{milliseconds, with_mask};
use super::errno::{Errno, SysResult};
use super::file::{File, Ready};
use super::time::Timespec;
use crate::vmm::Access;

/// `struct pollfd` as words: descriptor; wanted and found events.
type PollFd = [u32; 2];

pub fn poll(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    poll_files(ctx, args.u64(0), args.size(1), milliseconds(args.i32(2)))
}

pub fn ppoll(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let timeout = timeout(ctx, args.u64(2))?;
    with_mask(ctx, args.u64(3), args.size(4), |ctx| poll_files(ctx, args.u64(0), args.size(1), timeout))
}

fn timeout(ctx: &Ctx<'_>, pointer: u64) -> Result<Option<u64>, Errno> {
    match pointer {
        0 => Ok(None),
        pointer => ctx.kernel.read::<Timespec>(pointer)?.nanos().map(Some),
    }
}

fn poll_files(ctx: &mut Ctx<'_>, pointer: u64, count: usize, timeout: Option<u64>) -> SysResult {
    let most = ctx.kernel.limits().open_files();
    let mut polled: Vec<PollFd> = ctx.kernel.read_array(pointer, count, most)?;
    let mut files = Vec::new();
    let mut found = 0;
    for [fd, events] in &mut polled {
        let wanted = Ready::from_bits_truncate(*events & 0xffff) | Ready::ERR | Ready::HUP;
        let ready = match ctx.kernel.file(*fd as i32) {
            _ if (*fd as i32) < 0 => Ready::empty(),
            Err(_) => Ready::NVAL,
            Ok(file) => {
                let ready = file.object().ready(ctx.kernel) & wanted;
                files.push(file);
                ready
            }
        };
        *events = *events & 0xffff | ready.bits() << 16;
        found += u64::from(!ready.is_empty());
    }
    if found == 0 {
        let deadline = timeout.map(|timeout| ctx.deadline(timeout));
        if !ctx.is_past(deadline) {
            return Err(ctx.wait_for(&files, deadline, OnSignal::Interrupt));
        }
    }
    // Only what was found is written: other threads may use the rest.
    let (bytes, mut start) = (polled.as_bytes(), 0);
    for slice in ctx.kernel.user_slices(pointer, bytes.len(), Access::WRITE)? {
        let end = start + slice.len();
        for at in (start..end).filter(|at| at % size_of::<PollFd>() >= 6) {
            slice.write_obj(bytes[at], at - start).map_err(|_| Errno::EFAULT)?;
        }
        start = end;
    }
    Ok(found)
}

pub fn select(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let timeout = match args.u64(4) {
        0 => None,
        pointer => {
            let [seconds, micros] = ctx.kernel.read::<[i64; 2]>(pointer)?;
            let carried = seconds.checked_add(micros / 1_000_000).ok_or(Errno::EINVAL)?;
            if micros < 0 {
                return Err(Errno::EINVAL);
            }
            Some(Timespec { seconds: carried, nanoseconds: micros % 1_000_000 * 1000 }.nanos()?)
        }
    };
    let outcome = select_files(ctx, args, timeout);
    // Linux tells how much of the time was left.
    if let (Ok(_), Some(deadline), pointer) = (outcome, ctx.thread.deadline, args.u64(4))
        && pointer != 0
    {
        let left = deadline.saturating_sub(ctx.kernel.clock.monotonic()) / 1000;
        ctx.kernel.write(pointer, &[left / 1_000_000, left % 1_000_000])?;
    }
    outcome
}

pub fn pselect6(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let timeout = timeout(ctx, args.u64(4))?;
    let [mask, size] = match args.u64(5) {
        0 => [0, 0],
        pointer => ctx.kernel.read::<[u64; 2]>(pointer)?,
    };
    with_mask(ctx, mask, size as usize, |ctx| select_files(ctx, args, timeout))
}

fn select_files(ctx: &mut Ctx<'_>, args: Args, timeout: Option<u64>) -> SysResult {
    let readable = Ready::IN | Ready::RDNORM | Ready::HUP | Ready::ERR;
    let writable = Ready::OUT | Ready::WRNORM | Ready::ERR;
    let sorts = [readable, writable, Ready::PRI];
    let count = usize::try_from(args.i32(0)).map_err(|_| Errno::EINVAL)?.min(descriptor::MOST);
    let bytes = count.div_ceil(64) * 8;
    let mut sets = [const { Vec::new() }; 3];
    for (i, set) in sets.iter_mut().enumerate() {
        if args.u64(1 + i) != 0 {
            set.resize(bytes, 0u8);
            ctx.kernel.read_bytes(args.u64(1 + i), set)?;
        }
    }
    let mut files: Vec<Arc<File>> = Vec::new();
    let mut found = 0;
    for fd in 0..count {
        let (byte, bit) = (fd / 8, 1u8 << (fd % 8));
        if !sets.iter().any(|set| set.get(byte).is_some_and(|b| b & bit != 0)) {
            continue;
        }
        let file = ctx.kernel.file(fd as i32)?;
        let ready = file.object().ready(ctx.kernel);
        files.push(file);
        for (set, sort) in sets.iter_mut().zip(sorts) {
            if let Some(b) = set.get_mut(byte).filter(|b| **b & bit != 0) {
                if ready.intersects(sort) {
                    found += 1;
                } else {
                    *b &= !bit;
                }
            }
        }
    }
    if found == 0 {
        let deadline = timeout.map(|timeout| ctx.deadline(timeout));
        if !ctx.is_past(deadline) {
            return Err(ctx.wait_for(&files, deadline, OnSignal::Interrupt));
        }
    }
    for (i, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
        ctx.kernel.write_bytes(args.u64(1 + i), set)?;
    }
    Ok(found)
}
