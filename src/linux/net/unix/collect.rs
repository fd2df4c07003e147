//! Finding sockets that only their own messages still refer to.
//!
//! A socket can be sent over a socket. When the program closes its descriptors, two sockets that wait in each other's queue would
//! keep each other for ever; so would a longer circle. Sockets that can be reached from an open descriptor, or from a call that
//! runs, are in use; what waits in all others can never be received and is dropped.

use std::collections::HashSet;

use super::super::super::budget::Budget;
use super::super::super::file::{File, Kind as FileKind};
use super::table::{Phase, Record, SocketId, Table};

/// The socket that a file is, if it is one of the table's.
fn socket_of(file: &File) -> Option<SocketId> {
    match &file.kind {
        FileKind::Unix(socket) => Some(socket.id()),
        _ => None,
    }
}

/// The connections that wait for a listener to accept them.
fn unaccepted_of(record: &Record) -> impl Iterator<Item = SocketId> {
    let pending = match &record.phase {
        Phase::Listening { pending, .. } => Some(pending),
        _ => None,
    };
    pending.into_iter().flatten().copied()
}

impl Table {
    /// Drops the messages of sockets that nothing can receive from.
    pub fn collect(&mut self, budget: &Budget) {
        if !self.passes_files() {
            return;
        }
        // Without a socket among them, files in messages make no circle.
        let waiting: HashSet<SocketId> =
            self.passed_files().filter_map(|(file, _)| socket_of(file)).collect();
        if waiting.is_empty() {
            return;
        }
        let open: HashSet<SocketId> =
            self.passed_files().filter(|(_, open)| *open).filter_map(|(file, _)| socket_of(file)).collect();
        // A connection that is just being accepted has no file yet, and is in no queue any more.
        let unaccepted: HashSet<SocketId> = self.sockets.values().flat_map(unaccepted_of).collect();
        let is_root =
            |id: &SocketId| !unaccepted.contains(id) && (!waiting.contains(id) || open.contains(id));
        let mut next: Vec<SocketId> = self.sockets.keys().filter(|id| is_root(id)).copied().collect();
        let mut reached: HashSet<SocketId> = next.iter().copied().collect();
        while let Some(id) = next.pop() {
            let Some(record) = self.sockets.get(&id) else { continue };
            let rights: Vec<_> =
                record.queue.iter().flat_map(|message| message.rights.iter().copied()).collect();
            let files = self.passed(&rights);
            let found = files.iter().filter_map(|file| socket_of(file)).chain(unaccepted_of(record));
            next.extend(found.filter(|id| reached.insert(*id)));
        }
        let lost: Vec<SocketId> = self.sockets.keys().filter(|id| !reached.contains(id)).copied().collect();
        for id in lost {
            let Ok(record) = self.get(id) else { continue };
            let queue = std::mem::take(&mut record.queue);
            queue.into_iter().for_each(|message| self.discard(budget, message));
        }
    }
}
