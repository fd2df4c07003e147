//! All Unix sockets of a program, as plain records under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};

use super::super::super::budget::Budget;
use super::super::super::errno::Errno;
use super::super::super::file::File;
use super::super::super::kernel::Kernel;
use super::super::super::thread::FileId;
use super::name::{Key, Name};
use super::options::Options;
use crate::sync::lock;

/// Number of a socket, unique in the VM. A connection that was not accepted yet has a number, but no file.
pub type SocketId = u64;

/// What a message costs beside its bytes: its record, and what holds it.
pub const OVERHEAD: usize = 256;
/// Host memory that a socket's record takes, in bytes.
pub(super) const RECORD: usize = 1024;
/// Most files that wait in sockets to be received, as Linux bounds them by `RLIMIT_NOFILE`.
const MOST_PASSED: usize = 4096;

/// The type of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_DGRAM`.
    Datagram,
    /// `SOCK_SEQPACKET`.
    Seqpacket,
}

/// How far a socket has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not connected. A datagram socket always is in this phase; it may have a peer.
    Idle,
    /// Waits for connections.
    Listening {
        /// Most connections that wait.
        backlog: usize,
        /// Those that do.
        pending: VecDeque<SocketId>,
    },
    /// Has, or had, a peer.
    Connected,
}

/// A socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    pub kind: Kind,
    pub phase: Phase,
    pub name: Option<Name>,
    pub peer: Option<SocketId>,
    /// The peer's address when the connection was made, for a peer that is gone.
    pub peer_address: Vec<u8>,
    /// What waits to be received here.
    pub queue: VecDeque<Message>,
    /// Cost of the messages from here that wait elsewhere; bounded by the send buffer.
    pub in_flight: usize,
    /// Nothing more will be received, or sent.
    pub receive_shut: bool,
    pub send_shut: bool,
    /// What `SO_ERROR` shows.
    pub error: Option<i32>,
    /// Sockets that wait for room here.
    pub waiters: BTreeSet<SocketId>,
    pub options: Options,
}

impl Record {
    fn new(kind: Kind) -> Record {
        Record {
            kind,
            phase: Phase::Idle,
            name: None,
            peer: None,
            peer_address: Vec::new(),
            queue: VecDeque::new(),
            in_flight: 0,
            receive_shut: false,
            send_shut: false,
            error: None,
            waiters: BTreeSet::new(),
            options: Options::default(),
        }
    }

    /// A connected stream in no table: one whose data goes elsewhere.
    pub fn connected() -> Record {
        Record { phase: Phase::Connected, peer_address: Name::unnamed(), ..Record::new(Kind::Stream) }
    }

    /// Its address as `getsockname` shows it.
    pub fn address(&self) -> Vec<u8> {
        self.name.as_ref().map_or_else(Name::unnamed, Name::address)
    }
}

/// What was sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    pub bytes: Vec<u8>,
    /// How many of them were received: of a stream's message only.
    pub taken: usize,
    pub sender: SocketId,
    /// The sender's address.
    pub from: Vec<u8>,
    /// Files that come with it, by their numbers.
    pub rights: Vec<FileId>,
    /// The sender named its credentials, so that its bytes must not be joined with others.
    pub credentials: bool,
}

impl Message {
    /// Bytes of the sender's buffer, and of the budget, that it takes.
    pub fn cost(&self) -> usize {
        self.bytes.len() - self.taken + OVERHEAD
    }
}

/// A file that waits in sockets to be received.
pub(super) struct Passed {
    pub(super) file: Arc<File>,
    /// In how many messages.
    pub(super) count: usize,
}

/// The sockets.
#[derive(Default)]
pub struct Table {
    pub(super) sockets: BTreeMap<SocketId, Record>,
    /// Who is bound to a name.
    pub(super) names: HashMap<Key, SocketId>,
    /// The files of the sockets that have one.
    pub(super) files: HashMap<SocketId, Weak<File>>,
    pub(super) passed: HashMap<FileId, Passed>,
    /// Messages with files in them count once for each file.
    pub(super) passed_count: usize,
    pub(super) next: SocketId,
    /// Where the search for a free name begins.
    pub(super) next_name: u32,
    /// To be told of a change when the lock is released.
    wakes: Vec<Weak<File>>,
    /// To be closed when the lock is released.
    discarded: Vec<Arc<File>>,
    /// Somebody is closing them.
    closing: bool,
}

impl Table {
    /// A new socket.
    pub fn add(&mut self, budget: &Budget, kind: Kind) -> Result<SocketId, Errno> {
        budget.take(RECORD).map_err(|_| Errno::ENFILE)?;
        self.next += 1;
        self.sockets.insert(self.next, Record::new(kind));
        Ok(self.next)
    }

    /// Forgets a record that nothing refers to any more.
    pub(super) fn forget(&mut self, budget: &Budget, id: SocketId) -> Option<Record> {
        let record = self.sockets.remove(&id)?;
        budget.give(RECORD);
        self.files.remove(&id);
        if let Some(key) = record.name.as_ref().and_then(|name| name.key.as_ref())
            && self.names.get(key) == Some(&id)
        {
            self.names.remove(key);
        }
        Some(record)
    }

    /// The record of a socket that has a file.
    pub fn get(&mut self, id: SocketId) -> Result<&mut Record, Errno> {
        self.sockets.get_mut(&id).ok_or(Errno::EBADF)
    }

    /// Says which file shows the socket.
    pub fn attach(&mut self, id: SocketId, file: &Arc<File>) {
        self.files.insert(id, Arc::downgrade(file));
    }

    /// Tells those who wait for the socket to look again.
    pub(super) fn wake(&mut self, id: SocketId) {
        self.wakes.extend(self.files.get(&id).cloned());
    }

    /// Files are put into a message: all or none.
    pub(super) fn pass(&mut self, files: &[Arc<File>]) -> Result<Vec<FileId>, Errno> {
        if self.passed_count + files.len() > MOST_PASSED {
            return Err(Errno::ETOOMANYREFS);
        }
        self.passed_count += files.len();
        for file in files {
            let passed = || Passed { file: Arc::clone(file), count: 0 };
            self.passed.entry(file.id).or_insert_with(passed).count += 1;
        }
        Ok(files.iter().map(|file| file.id).collect())
    }

    /// The files of a message that stays where it is.
    pub(super) fn passed(&self, ids: &[FileId]) -> Vec<Arc<File>> {
        ids.iter().filter_map(|id| Some(Arc::clone(&self.passed.get(id)?.file))).collect()
    }

    /// The files of a message that is no more.
    pub(super) fn unpass(&mut self, ids: &[FileId]) -> Vec<Arc<File>> {
        let mut files = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(passed) = self.passed.get_mut(id) else { continue };
            self.passed_count -= 1;
            passed.count -= 1;
            files.push(Arc::clone(&passed.file));
            if passed.count == 0 {
                let last = self.passed.remove(id);
                self.discarded.extend(last.map(|passed| passed.file));
            }
        }
        files
    }

    /// Throws a message away: its sender has its room again.
    pub(super) fn discard(&mut self, budget: &Budget, message: Message) {
        let files = self.unpass(&message.rights);
        self.discarded.extend(files);
        self.release(budget, message.sender, message.cost());
    }

    /// Gives room back to a sender.
    pub(super) fn release(&mut self, budget: &Budget, sender: SocketId, cost: usize) {
        budget.give(cost);
        if let Some(sender) = self.sockets.get_mut(&sender) {
            sender.in_flight = sender.in_flight.saturating_sub(cost);
        }
        self.wake(sender);
    }

    /// Whether any file waits to be received.
    pub(super) fn passes_files(&self) -> bool {
        self.passed_count > 0
    }

    /// Files that wait to be received, each with whether it is open elsewhere too.
    pub(super) fn passed_files(&self) -> impl Iterator<Item = (&Arc<File>, bool)> {
        self.passed.values().map(|passed| (&passed.file, Arc::strong_count(&passed.file) > 1))
    }
}

/// The table behind its lock.
#[derive(Default)]
pub struct Unix(pub(super) Mutex<Table>);

impl Kernel {
    /// Drops what waits in sockets that nothing can receive from.
    pub fn collect_sockets(&self) {
        self.unix(|table| table.collect(&self.budget));
    }

    /// Runs `work` on the table. Those whom it concerns are told, and files closed, when the lock is released.
    pub(in super::super) fn unix<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = lock(&self.network.unix.0);
        let result = work(&mut table);
        let wakes = std::mem::take(&mut table.wakes);
        // Closing a file may discard others. One caller closes them all, so that a chain of them needs no deep stack.
        let mine = !table.closing && !table.discarded.is_empty();
        table.closing |= mine;
        drop(table);
        for file in wakes.iter().filter_map(Weak::upgrade) {
            self.changed(&file);
        }
        while mine && self.close_discarded() {}
        result
    }

    /// Closes what was discarded so far; false if that is nothing, and closing is over.
    fn close_discarded(&self) -> bool {
        let mut table = lock(&self.network.unix.0);
        let discarded = std::mem::take(&mut table.discarded);
        table.closing = !discarded.is_empty();
        drop(table);
        !discarded.is_empty()
    }
}
