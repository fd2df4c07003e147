//! Unix sockets in a checkpoint: the records as they are. Files that wait to be received are among the program's open files.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::super::super::errno::Errno;
use super::super::super::file::File;
use super::super::super::kernel::Kernel;
use super::super::super::thread::FileId;
use super::super::Socket;
use super::super::saved::cut;
use super::UnixSocket;
use super::table::{Kind, Passed, RECORD, Record, SocketId};
use crate::sync::lock;

/// What a checkpoint keeps of a socket's file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedUnixSocket {
    id: SocketId,
    kind: Kind,
    /// It was connected to a socket of the host.
    to_host: bool,
}

impl UnixSocket {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedUnixSocket {
        SavedUnixSocket { id: self.id, kind: self.kind, to_host: self.bridge.get().is_some() }
    }

    /// The socket as it was; a connection to a socket of the host reads as reset.
    pub fn restore(kernel: &Kernel, saved: SavedUnixSocket) -> Result<UnixSocket, Errno> {
        let bridge = OnceLock::new();
        if saved.to_host {
            let kind = saved.kind.number();
            let fd = kernel.host_fds.hold_again(cut(kind)?);
            let _ = bridge.set(Socket::new(fd, libc::AF_UNIX, kind));
        }
        Ok(UnixSocket { id: saved.id, kind: saved.kind, bridge })
    }
}

/// What a checkpoint keeps of all sockets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedUnix {
    sockets: BTreeMap<SocketId, Record>,
    next: SocketId,
    next_name: u32,
}

impl Kernel {
    /// What a checkpoint keeps of the Unix sockets.
    pub fn save_unix(&self) -> SavedUnix {
        let table = lock(&self.network.unix.0);
        SavedUnix { sockets: table.sockets.clone(), next: table.next, next_name: table.next_name }
    }

    /// Files that wait in Unix sockets to be received.
    pub fn files_in_sockets(&self) -> Vec<Arc<File>> {
        let table = lock(&self.network.unix.0);
        table.passed_files().map(|(file, _)| Arc::clone(file)).collect()
    }

    /// Fills the table of a restored program. `shown` are its files that are Unix sockets, `find` finds those that wait in messages.
    pub fn restore_unix<'f>(
        &self,
        saved: SavedUnix,
        shown: impl Iterator<Item = (SocketId, &'f Arc<File>)>,
        find: impl Fn(FileId) -> Option<&'f Arc<File>>,
    ) {
        let mut table = lock(&self.network.unix.0);
        for (id, mut record) in saved.sockets {
            if let Some(key) = record.name.as_ref().and_then(|name| name.key.clone()) {
                table.names.insert(key, id);
            }
            let mut held = RECORD;
            for message in &mut record.queue {
                message.taken = message.taken.min(message.bytes.len());
                message.rights.retain(|right| find(*right).is_some());
                held = held.saturating_add(message.cost());
                for file in message.rights.iter().filter_map(|right| find(*right)) {
                    let passed = table
                        .passed
                        .entry(file.id)
                        .or_insert_with(|| Passed { file: Arc::clone(file), count: 0 });
                    passed.count += 1;
                    table.passed_count += 1;
                }
            }
            self.budget.take_restored(held);
            table.sockets.insert(id, record);
        }
        (table.next, table.next_name) = (saved.next, saved.next_name);
        for (id, file) in shown {
            table.attach(id, file);
        }
    }
}
