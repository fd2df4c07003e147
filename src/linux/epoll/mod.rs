//! `epoll`.

mod set;

use std::sync::{Arc, Mutex};

use super::context::{Args, Ctx, OnSignal};
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::time::Timespec;
use crate::sync::lock;
use set::{DEEPEST, MOST_ITEMS};
pub use set::{Epoll, SavedItem};

const WAKEUP: u32 = 1 << 29;

/// Held while a set is added to another, so that two additions cannot make a circle or a chain that neither sees.
static NESTING: Mutex<()> = Mutex::new(());

pub fn create(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.i32(0) <= 0 {
        return Err(Errno::EINVAL);
    }
    make(ctx, 0)
}

pub fn create1(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.i32(0) & !libc::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    make(ctx, args.u32(0))
}

fn make(ctx: &Ctx<'_>, flags: u32) -> SysResult {
    let kind = Kind::Epoll(Epoll::default());
    let file = ctx.kernel.new_file(kind, "anon_inode:[eventpoll]".into(), libc::O_RDWR as u32);
    ctx.kernel.install(file, flags)
}

pub fn ctl(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (operation, fd) = (args.i32(1), args.i32(2));
    let (events, data) = if operation == libc::EPOLL_CTL_DEL {
        (0, 0)
    } else {
        // `struct epoll_event` is packed: 4 and 8 bytes.
        let bytes = ctx.kernel.read::<[u8; 12]>(args.u64(3))?;
        let (events, data) = bytes.split_at(4);
        let word = |b: &[u8]| b.iter().rev().fold(0u64, |w, byte| w << 8 | u64::from(*byte));
        (word(events) as u32, word(data))
    };
    let (set, file) = (ctx.kernel.file(args.i32(0))?, ctx.kernel.file(fd)?);
    let Kind::Epoll(epoll) = &set.kind else { return Err(Errno::EINVAL) };
    if set.id == file.id {
        return Err(Errno::EINVAL);
    }
    let mut nesting = None;
    match &file.kind {
        Kind::Host(host) if !host.is_stream() => return Err(Errno::EPERM),
        Kind::Tmpfs(_) | Kind::Directory(_) | Kind::Text(_) => return Err(Errno::EPERM),
        Kind::Epoll(inner) if operation == libc::EPOLL_CTL_ADD => {
            nesting = Some(lock(&NESTING));
            let (depth, circle) = inner.survey(set.id);
            if circle || depth >= DEEPEST {
                return Err(Errno::ELOOP);
            }
        }
        _ => {}
    }
    epoll.change(&ctx.kernel.budget, operation, (fd, &file), (events & !WAKEUP, data))?;
    drop(nesting);
    if let Some(fd) = file.object().host()
        && operation != libc::EPOLL_CTL_DEL
    {
        // Edges count from now, so the host descriptor must be watched from now.
        ctx.kernel.reactor.watch(&file, fd)?;
        ctx.kernel.start_reactor();
    }
    // Those who wait on the set must look at its new content.
    ctx.kernel.changed(&set);
    Ok(0)
}

pub fn wait(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let timeout = milliseconds(args.i32(3));
    wait_events(ctx, args, timeout)
}

pub fn pwait(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let timeout = milliseconds(args.i32(3));
    with_mask(ctx, args.u64(4), args.size(5), |ctx| wait_events(ctx, args, timeout))
}

pub fn pwait2(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let timeout = match args.u64(3) {
        0 => None,
        pointer => Some(ctx.kernel.read::<Timespec>(pointer)?.nanos()?),
    };
    with_mask(ctx, args.u64(4), args.size(5), |ctx| wait_events(ctx, args, timeout))
}

/// Nanoseconds of a timeout in milliseconds; negative is forever.
pub fn milliseconds(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| ms * 1_000_000)
}

/// Runs a call with the signal mask at `pointer`, if that is not null.
pub fn with_mask(
    ctx: &mut Ctx<'_>,
    pointer: u64,
    size: usize,
    call: impl FnOnce(&mut Ctx<'_>) -> SysResult,
) -> SysResult {
    if pointer != 0 {
        if size != 8 {
            return Err(Errno::EINVAL);
        }
        let mask = ctx.kernel.read::<u64>(pointer)?;
        ctx.swap_mask(mask);
    }
    let outcome = call(ctx);
    // After a signal the mask comes back with the handler's return.
    if !matches!(outcome, Err(Errno::BLOCKED | Errno::INTERRUPTED)) {
        ctx.restore_mask();
    }
    outcome
}

fn wait_events(ctx: &mut Ctx<'_>, args: Args, timeout: Option<u64>) -> SysResult {
    let most = usize::try_from(args.i32(2)).ok().filter(|m| *m > 0).ok_or(Errno::EINVAL)?.min(MOST_ITEMS);
    let set = ctx.kernel.file(args.i32(0))?;
    let Kind::Epoll(epoll) = &set.kind else { return Err(Errno::EINVAL) };
    let events = epoll.collect(ctx.kernel, most);
    if !events.is_empty() {
        let mut bytes = Vec::with_capacity(12 * events.len());
        for (ready, data) in &events {
            bytes.extend_from_slice(&ready.to_le_bytes());
            bytes.extend_from_slice(&data.to_le_bytes());
        }
        ctx.kernel.write_bytes(args.u64(1), &bytes)?;
        return Ok(events.len() as u64);
    }
    let deadline = timeout.map(|timeout| ctx.deadline(timeout));
    if ctx.is_past(deadline) {
        return Ok(0);
    }
    let mut sources = epoll.sources();
    sources.push(Arc::clone(&set));
    Err(ctx.wait_for(&sources, deadline, OnSignal::Interrupt))
}
