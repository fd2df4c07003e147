//! `epoll`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::context::{Args, Ctx, OnSignal};
use super::errno::{Errno, SysResult};
use super::file::{File, Kind, Object, Ready};
use super::kernel::Kernel;
use super::stat::Attributes;
use super::thread::FileId;
use super::time::Timespec;

const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
/// Deepest nesting of epoll files, as on Linux.
const DEEPEST: u32 = 5;

/// A set of files with the events that are wanted of each.
#[derive(Default)]
pub struct Epoll {
    items: Mutex<BTreeMap<(i32, FileId), Item>>,
}

struct Item {
    file: Weak<File>,
    events: u32,
    data: u64,
    /// [`File::changes`] when the item was reported last; edge-triggered ones wait for the next.
    reported: Option<u64>,
    /// A one-shot item that was reported.
    disarmed: bool,
}

impl Item {
    /// The events to report now.
    fn due(&self, kernel: &Kernel, file: &File) -> u32 {
        if self.disarmed || (self.events & EDGE != 0 && self.reported == Some(file.changes())) {
            return 0;
        }
        let wanted = Ready::from_bits_truncate(self.events) | Ready::ERR | Ready::HUP;
        (file.object().ready(kernel) & wanted).bits()
    }
}

impl Epoll {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(i32, FileId), Item>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files that are in the set and still open.
    fn files(&self) -> Vec<Arc<File>> {
        self.lock().values().filter_map(|item| item.file.upgrade()).collect()
    }

    /// Takes up to `most` events that are due.
    fn collect(&self, kernel: &Kernel, most: usize) -> Vec<(u32, u64)> {
        let mut items = self.lock();
        let mut events = Vec::new();
        let mut gone = Vec::new();
        let mut reported = Vec::new();
        for (key, item) in items.iter_mut() {
            let Some(file) = item.file.upgrade() else {
                gone.push(*key);
                continue;
            };
            let changes = file.changes();
            let due = item.due(kernel, &file);
            if due != 0 && events.len() < most {
                events.push((due, item.data));
                item.reported = Some(changes);
                item.disarmed = item.events & ONESHOT != 0;
                reported.push(file);
            }
        }
        for key in gone {
            items.remove(&key);
        }
        drop(items);
        // Files are released without the lock: the last of a pipe end tells its peer.
        drop(reported);
        events
    }

    /// How many epoll files are below this one, itself included.
    fn depth(&self) -> u32 {
        let depth = |file: &Arc<File>| match &file.kind {
            Kind::Epoll(inner) => inner.depth(),
            _ => 0,
        };
        1 + self.files().iter().map(depth).max().unwrap_or(0)
    }

    /// Whether `target` is this set or in it, at any depth.
    fn reaches(&self, target: FileId) -> bool {
        self.files().iter().any(|file| {
            file.id == target || matches!(&file.kind, Kind::Epoll(inner) if inner.reaches(target))
        })
    }

    /// All files whose changes matter to a waiter, at any depth.
    fn sources(&self, into: &mut Vec<Arc<File>>) {
        for file in self.files() {
            if let Kind::Epoll(inner) = &file.kind {
                inner.sources(into);
            }
            into.push(file);
        }
    }
}

impl Object for Epoll {
    fn ready(&self, kernel: &Kernel) -> Ready {
        // The files outlive the lock: the last of a pipe end tells its peer when it goes.
        let files = self.files();
        let due = self.lock().values().any(|item| {
            let file = files.iter().find(|file| Arc::as_ptr(file) == item.file.as_ptr());
            file.is_some_and(|file| item.due(kernel, file) != 0)
        });
        if due { Ready::IN | Ready::RDNORM } else { Ready::empty() }
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(0o600))
    }
}

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
    match &file.kind {
        Kind::Host(host) if !host.is_stream() => return Err(Errno::EPERM),
        Kind::Directory(_) | Kind::Text(_) => return Err(Errno::EPERM),
        Kind::Epoll(inner) if operation == libc::EPOLL_CTL_ADD
            && (inner.reaches(set.id) || inner.depth() >= DEEPEST) => {
                return Err(Errno::ELOOP);
            }
        _ => {}
    }
    let key = (fd, file.id);
    let mut items = epoll.lock();
    match operation {
        libc::EPOLL_CTL_ADD if items.contains_key(&key) => return Err(Errno::EEXIST),
        libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL if !items.contains_key(&key) => return Err(Errno::ENOENT),
        libc::EPOLL_CTL_MOD if events & EXCLUSIVE != 0 => return Err(Errno::EINVAL),
        libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD => {
            let item = Item {
                file: Arc::downgrade(&file),
                events: events & !(WAKEUP | EXCLUSIVE),
                data,
                reported: None,
                disarmed: false,
            };
            items.insert(key, item);
        }
        libc::EPOLL_CTL_DEL => {
            items.remove(&key);
        }
        _ => return Err(Errno::EINVAL),
    }
    drop(items);
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
    if !matches!(outcome, Err(Errno::BLOCKED | Errno::EINTR)) {
        ctx.restore_mask();
    }
    outcome
}

fn wait_events(ctx: &mut Ctx<'_>, args: Args, timeout: Option<u64>) -> SysResult {
    /// Most events of one call; programs that offer room for more get the rest next time.
    const MOST: usize = 4096;
    let most = usize::try_from(args.i32(2)).ok().filter(|m| *m > 0).ok_or(Errno::EINVAL)?.min(MOST);
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
    let mut sources = Vec::new();
    epoll.sources(&mut sources);
    sources.push(Arc::clone(&set));
    Err(ctx.wait_for(&sources, deadline, OnSignal::Interrupt))
}
