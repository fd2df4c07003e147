//! The set of an epoll file: what is watched, and what of it is due.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use serde::{Deserialize, Serialize};

use super::super::budget::Budget;
use super::super::descriptor;
use super::super::errno::Errno;
use super::super::file::{File, Kind, Object, Ready};
use super::super::kernel::Kernel;
use super::super::stat::Attributes;
use super::super::thread::FileId;
use crate::sync::lock;

const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
const EXCLUSIVE: u32 = 1 << 28;
/// Deepest nesting of epoll files, as on Linux.
pub const DEEPEST: u32 = 5;

/// Most files in a set.
pub const MOST_ITEMS: usize = descriptor::MOST;
/// Host memory that is held for one, in bytes: the item, and the file's record, which stays for it when the file is closed.
const ITEM: usize = 112 + size_of::<File>();

/// Descriptor and file of an item.
type Key = (i32, FileId);
/// Before every item.
const START: Key = (-1, 0);

/// A set of files with the events that are wanted of each.
pub struct Epoll {
    items: Mutex<BTreeMap<Key, Item>>,
    /// The item that was reported last where not all could be: the next report begins after it.
    last: Mutex<Key>,
}

impl Default for Epoll {
    fn default() -> Epoll {
        Epoll { items: Mutex::default(), last: Mutex::new(START) }
    }
}

#[derive(Clone)]
struct Item {
    file: Weak<File>,
    events: u32,
    data: u64,
    /// [`Look::edge`] when the item was reported last; edge-triggered ones wait for another.
    reported: Option<u64>,
    /// A one-shot item that was reported.
    disarmed: bool,
}

/// One look at sets, which may be in each other: what was found out of those below is kept.
#[derive(Default)]
struct Look {
    due: HashMap<FileId, bool>,
    edges: HashMap<FileId, u64>,
}

impl Look {
    /// A number that is another after every change of the file's readiness, looking at most `depth` sets down.
    fn edge(&mut self, kernel: &Kernel, file: &File, depth: u32) -> u64 {
        match &file.kind {
            Kind::Timer(timer) => file.changes().wrapping_add(timer.expirations(kernel)),
            Kind::Epoll(inner) if depth > 0 => {
                if let Some(edge) = self.edges.get(&file.id) {
                    return *edge;
                }
                // The same in every run: a checkpoint keeps it.
                let mut hasher = DefaultHasher::new();
                file.changes().hash(&mut hasher);
                for below in inner.files() {
                    (below.id, self.edge(kernel, &below, depth - 1)).hash(&mut hasher);
                }
                *self.edges.entry(file.id).or_insert(hasher.finish())
            }
            _ => file.changes(),
        }
    }
}

impl Item {
    /// The events to report now, and the edge to report them with.
    fn due(&self, kernel: &Kernel, file: &File, depth: u32, look: &mut Look) -> (u32, Option<u64>) {
        // Before the readiness is looked at: a change in between is seen once more.
        let edge = (self.events & EDGE != 0).then(|| look.edge(kernel, file, depth));
        if self.disarmed || (edge.is_some() && self.reported == edge) {
            return (0, edge);
        }
        let wanted = Ready::from_bits_truncate(self.events) | Ready::ERR | Ready::HUP;
        let ready = match &file.kind {
            Kind::Epoll(_) if depth == 0 => Ready::empty(),
            Kind::Epoll(inner) => {
                let due = match look.due.get(&file.id) {
                    Some(due) => *due,
                    None => inner.is_due(kernel, depth - 1, look),
                };
                look.due.insert(file.id, due);
                if due { Ready::IN | Ready::RDNORM } else { Ready::empty() }
            }
            _ => file.object().ready(kernel),
        };
        ((ready & wanted).bits(), edge)
    }
}

/// What a checkpoint keeps of a file in a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedItem {
    fd: i32,
    file: FileId,
    events: u32,
    data: u64,
    reported: Option<u64>,
    disarmed: bool,
}

impl Epoll {
    /// What a checkpoint keeps: the files that are still open.
    pub fn save(&self, is_open: impl Fn(FileId) -> bool) -> Vec<SavedItem> {
        let items = self.lock();
        let open = items.iter().filter(|((_, file), _)| is_open(*file));
        open.map(|((fd, file), item)| {
            let Item { events, data, reported, disarmed, .. } = *item;
            SavedItem { fd: *fd, file: *file, events, data, reported, disarmed }
        })
        .collect()
    }

    /// Puts the files of a restored program back.
    pub fn refill<'f>(
        &self,
        budget: &Budget,
        saved: Vec<SavedItem>,
        find: impl Fn(FileId) -> Option<&'f Arc<File>>,
    ) {
        let mut items = self.lock();
        for SavedItem { fd, file, events, data, reported, disarmed } in saved.into_iter().take(MOST_ITEMS) {
            if let Some(found) = find(file) {
                let file = Arc::downgrade(found);
                items.insert((fd, found.id), Item { file, events, data, reported, disarmed });
            }
        }
        budget.take_restored(items.len() * ITEM);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Item>> {
        lock(&self.items)
    }

    /// Files that are in the set and still open.
    fn files(&self) -> Vec<Arc<File>> {
        self.lock().values().filter_map(|item| item.file.upgrade()).collect()
    }

    /// What `epoll_ctl` does to the set: adds, modifies or removes the file behind a descriptor, for events and with the program's data.
    pub fn change(
        &self,
        budget: &Budget,
        operation: i32,
        (fd, file): (i32, &Arc<File>),
        (events, data): (u32, u64),
    ) -> Result<(), Errno> {
        let key = (fd, file.id);
        let mut items = self.lock();
        match operation {
            libc::EPOLL_CTL_ADD if items.contains_key(&key) => return Err(Errno::EEXIST),
            libc::EPOLL_CTL_ADD if !take_room(budget, &mut items) => return Err(Errno::ENOSPC),
            libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL if !items.contains_key(&key) => {
                return Err(Errno::ENOENT);
            }
            libc::EPOLL_CTL_MOD if events & EXCLUSIVE != 0 => return Err(Errno::EINVAL),
            libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD => {
                let events = events & !EXCLUSIVE;
                let file = Arc::downgrade(file);
                items.insert(key, Item { file, events, data, reported: None, disarmed: false });
            }
            libc::EPOLL_CTL_DEL => {
                items.remove(&key);
                budget.give(ITEM);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Takes up to `most` events that are due. Where there are more, the next call goes on after those.
    pub fn collect(&self, kernel: &Kernel, most: usize) -> Vec<(u32, u64)> {
        let mut items = self.lock();
        let mut last = lock(&self.last);
        let mut events = Vec::new();
        let mut gone = Vec::new();
        let mut seen = Vec::new();
        let mut look = Look::default();
        let from = std::mem::replace(&mut *last, START);
        'full: for part in
            [(Bound::Excluded(from), Bound::Unbounded), (Bound::Unbounded, Bound::Included(from))]
        {
            for (key, item) in items.range_mut(part) {
                let Some(file) = item.file.upgrade() else {
                    gone.push(*key);
                    continue;
                };
                let (due, edge) = item.due(kernel, &file, DEEPEST, &mut look);
                if due != 0 {
                    events.push((due, item.data));
                    item.reported = edge;
                    item.disarmed = item.events & ONESHOT != 0;
                }
                seen.push(file);
                if events.len() == most {
                    *last = *key;
                    break 'full;
                }
            }
        }
        for key in &gone {
            items.remove(key);
        }
        drop((items, last));
        kernel.budget.give(gone.len() * ITEM);
        // Files are released without the locks: the last of a pipe end tells its peer.
        drop(seen);
        events
    }

    /// How many levels of epoll files there are from this one down, at most [`DEEPEST`] and one; and whether `target` is among them.
    /// Level by level, each file once: neither a chain nor a lattice of sets may cost more than its files.
    pub fn survey(&self, target: FileId) -> (u32, bool) {
        let mut level = self.files();
        let mut seen = HashSet::new();
        let mut depth = 1;
        while depth <= DEEPEST {
            let mut below = Vec::new();
            for file in &level {
                if file.id == target {
                    return (depth, true);
                }
                if let Kind::Epoll(inner) = &file.kind
                    && seen.insert((depth, file.id))
                {
                    below.extend(inner.files());
                }
            }
            if !level.iter().any(|file| matches!(file.kind, Kind::Epoll(_))) {
                break;
            }
            depth += 1;
            let mut ids = HashSet::new();
            below.retain(|file| ids.insert(file.id));
            level = below;
        }
        (depth, false)
    }

    /// All files whose changes matter to a waiter, at any depth that can be reported from.
    pub fn sources(&self) -> Vec<Arc<File>> {
        let mut found: Vec<Arc<File>> = Vec::new();
        let mut seen = HashSet::new();
        let mut level = self.files();
        for _ in 0..=DEEPEST {
            let mut below = Vec::new();
            for file in level.into_iter().filter(|file| seen.insert(file.id)) {
                if let Kind::Epoll(inner) = &file.kind {
                    below.extend(inner.files());
                }
                found.push(file);
            }
            level = below;
        }
        found
    }

    /// Whether an event is due, looking at most `depth` levels down and at each set once.
    fn is_due(&self, kernel: &Kernel, depth: u32, look: &mut Look) -> bool {
        // The files outlive the lock: the last of a pipe end tells its peer when it goes.
        let items: Vec<_> =
            self.lock().values().filter_map(|item| Some((item.file.upgrade()?, item.clone()))).collect();
        items.iter().any(|(file, item)| item.due(kernel, file, depth, look).0 != 0)
    }
}

impl Object for Epoll {
    fn ready(&self, kernel: &Kernel) -> Ready {
        let due = self.is_due(kernel, DEEPEST, &mut Look::default());
        if due { Ready::IN | Ready::RDNORM } else { Ready::empty() }
    }

    fn attributes(&self) -> Result<Attributes, Errno> {
        Ok(Attributes::synthetic(0o600))
    }

    fn closed(&self, kernel: &Kernel) {
        kernel.budget.give(self.lock().len() * ITEM);
    }
}

/// Takes room for one more file; false if there is none, not even without files that were closed and not taken out of the set.
fn take_room(budget: &Budget, items: &mut BTreeMap<Key, Item>) -> bool {
    let take = |count| count < MOST_ITEMS && budget.take(ITEM).is_ok();
    if take(items.len()) {
        return true;
    }
    let before = items.len();
    items.retain(|_, item| item.file.strong_count() > 0);
    budget.give((before - items.len()) * ITEM);
    take(items.len())
}
