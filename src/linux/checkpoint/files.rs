//! Open files: one record for each open file description, whoever has it open, so that what was shared stays shared.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, OFlags, SeekFrom};
use serde::{Deserialize, Serialize};

use super::super::directory::Directory;
use super::super::epoll::{Epoll, SavedItem};
use super::super::eventfd::{EventFd, SavedEvent};
use super::super::file::{File, Inherited, Kind, Known, path_cost};
use super::super::host_file::HostFile;
use super::super::kernel::Kernel;
use super::super::listing::Listing;
use super::super::lock::{Key, Lock};
use super::super::net::SavedSocket;
use super::super::net::unix::{SavedUnix, SavedUnixSocket, UnixSocket};
use super::super::pipe::{PipeEnd, SavedPipe, SavedPipes};
use super::super::proc;
use super::super::text::Text;
use super::super::thread::FileId;
use super::super::timerfd::{SavedTimer, TimerFd};
use super::super::tmpfs::{Ino, OpenDirectory, OpenFile};
use super::{CheckpointError, Finder, Keeper, Place, RestoreError};

/// Everything that descriptors stand for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedFiles {
    files: Vec<SavedFile>,
    /// Descriptor, its file, and whether it is closed on exec.
    descriptors: Vec<(i32, FileId, bool)>,
    unix: SavedUnix,
    /// On files in guest RAM.
    locks: Vec<(Key, Lock)>,
    next: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedFile {
    known: Known,
    kind: SavedKind,
}

/// What a file is, as plain data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum SavedKind {
    /// A regular file, with the position in it.
    Regular {
        place: Place,
        position: u64,
        changeable: bool,
    },
    /// A directory of the host, with the position in its list.
    Directory {
        place: Place,
        position: u64,
    },
    /// A directory of `/proc` or `/dev`, found again by its path, with the position in its list.
    Listed {
        position: u64,
    },
    /// A file of a tmpfs: where that shows, and which file.
    Tmpfs {
        #[serde(with = "super::path_bytes")]
        fs: PathBuf,
        ino: Ino,
        position: u64,
        may_be_named: bool,
    },
    /// A directory of one.
    TmpfsDirectory {
        #[serde(with = "super::path_bytes")]
        fs: PathBuf,
        ino: Ino,
        position: u64,
    },
    /// One that the program was started with; of a stream to Hydra, what Hydra had not read.
    Inherited {
        unread: Vec<u8>,
    },
    /// A device, found again by its path.
    Device,
    /// A stream of the host whose other end will not be there.
    Cut,
    Pipe(SavedPipe),
    Event(SavedEvent),
    Timer(SavedTimer),
    Epoll(Vec<SavedItem>),
    Socket(SavedSocket),
    Unix(SavedUnixSocket),
    Text {
        bytes: Vec<u8>,
        position: u64,
    },
}

impl SavedFiles {
    /// Records all open files. No thread of the program runs meanwhile.
    pub fn take(kernel: &Kernel, keeper: &mut Keeper<'_>) -> Result<SavedFiles, CheckpointError> {
        let mut open: BTreeMap<FileId, Arc<File>> = BTreeMap::new();
        let mut descriptors = Vec::new();
        for (fd, entry) in kernel.descriptors().iter() {
            descriptors.push((fd, entry.file.id, entry.close_on_exec));
            open.insert(entry.file.id, Arc::clone(&entry.file));
        }
        open.extend(kernel.files_in_sockets().into_iter().map(|file| (file.id, file)));
        let save = |file: &Arc<File>| -> Result<SavedFile, CheckpointError> {
            Ok(SavedFile { known: file.known(), kind: save_kind(kernel, file, &open, keeper)? })
        };
        let files = open.values().map(save).collect::<Result<_, _>>()?;
        Ok(SavedFiles {
            files,
            descriptors,
            unix: kernel.save_unix(),
            locks: kernel.locks.save(),
            next: kernel.files_made(),
        })
    }

    /// Opens all files of a restored program anew and fills its descriptor table.
    pub fn restore(
        self,
        kernel: &Kernel,
        finder: Finder<'_>,
        inherited: Vec<Inherited>,
    ) -> Result<Vec<Arc<File>>, RestoreError> {
        let mut files: HashMap<FileId, Arc<File>> = HashMap::new();
        let (mut sets, mut peers, mut sockets, mut order) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut inherited: Vec<_> = inherited.into_iter().map(Some).collect();
        let mut pipes = SavedPipes::new();
        for SavedFile { known, kind } in self.files {
            let Known { id, flags, .. } = known;
            let kind = match kind {
                SavedKind::Regular { place, position, changeable } => {
                    let fd = finder.open(&place, OFlags::from_bits_retain(flags), false)?;
                    seek(&fd, position);
                    let fd = kernel.host_fds.hold_again(fd);
                    Kind::Host(HostFile::new(fd, FileType::RegularFile, changeable))
                }
                SavedKind::Directory { place, position } => {
                    let fd = finder.open(&place, OFlags::from_bits_retain(flags), true)?;
                    seek(&fd, position);
                    Kind::Directory(Directory::new(kernel.host_fds.hold_again(fd)))
                }
                SavedKind::Listed { position } => {
                    let listing = Listing::at(kernel, &known.path);
                    Kind::Directory(Directory::Listed(listing, position.into()))
                }
                SavedKind::Tmpfs { fs, ino, position, may_be_named } => {
                    let fs = kernel.namespace.tmpfs_named(&fs).ok_or(RestoreError::Damaged("a tmpfs"))?;
                    let open = OpenFile::restore(fs, ino, position, may_be_named);
                    Kind::Tmpfs(open.map_err(|_| RestoreError::Damaged("a file of a tmpfs"))?)
                }
                SavedKind::TmpfsDirectory { fs, ino, position } => {
                    let fs = kernel.namespace.tmpfs_named(&fs).ok_or(RestoreError::Damaged("a tmpfs"))?;
                    let open = OpenDirectory::restore(fs, ino, position);
                    let open = open.map_err(|_| RestoreError::Damaged("a directory of a tmpfs"))?;
                    Kind::Directory(Directory::Tmpfs(open))
                }
                SavedKind::Inherited { unread } => {
                    let number = known.inherited.unwrap_or(u32::MAX);
                    let given = inherited.get_mut(number as usize).and_then(Option::take);
                    let kind = given.and_then(|given| given.kind().ok());
                    let kind = kind.ok_or(RestoreError::Descriptor(number))?;
                    if let Kind::Stream(stream) = &kind {
                        stream.take_over(&unread);
                    }
                    kind
                }
                SavedKind::Device => match proc::open_device(&known.path, flags) {
                    Ok(fd) => {
                        let fd = kernel.host_fds.hold_again(fd);
                        Kind::Host(HostFile::new(fd, FileType::CharacterDevice, false))
                    }
                    Err(_) => Kind::Pipe(PipeEnd::cut(flags)),
                },
                SavedKind::Cut => Kind::Pipe(PipeEnd::cut(flags)),
                SavedKind::Pipe(saved) => {
                    peers.extend(saved.peer().map(|peer| (id, peer)));
                    Kind::Pipe(PipeEnd::restore(id, &saved, &mut pipes, &kernel.budget))
                }
                SavedKind::Event(saved) => Kind::Event(EventFd::restore(saved)),
                SavedKind::Timer(saved) => Kind::Timer(TimerFd::restore(saved)),
                SavedKind::Epoll(items) => {
                    sets.push((id, items));
                    Kind::Epoll(Epoll::default())
                }
                SavedKind::Socket(saved) => {
                    Kind::Socket(saved.restore(kernel).map_err(RestoreError::Socket)?)
                }
                SavedKind::Unix(saved) => {
                    let socket = UnixSocket::restore(kernel, saved).map_err(RestoreError::Socket)?;
                    sockets.push((socket.id(), id));
                    Kind::Unix(socket)
                }
                SavedKind::Text { bytes, position } => {
                    Kind::Text(Text::restore(&kernel.budget, bytes, position))
                }
            };
            kernel.budget.take_restored(path_cost(&known.path));
            let file = kernel.open_file(kind, known);
            if files.insert(id, Arc::clone(&file)).is_some() {
                return Err(RestoreError::Damaged("the open files"));
            }
            order.push(file);
        }
        for (id, items) in sets {
            if let Some(Kind::Epoll(set)) = files.get(&id).map(|file| &file.kind) {
                set.refill(&kernel.budget, items, |id| files.get(&id));
            }
        }
        for (id, peer) in peers {
            if let (Some(Kind::Pipe(end)), Some(peer)) =
                (files.get(&id).map(|file| &file.kind), files.get(&peer))
            {
                end.join(peer);
            }
        }
        let shown = sockets.iter().filter_map(|(socket, id)| Some((*socket, files.get(id)?)));
        kernel.restore_unix(self.unix, shown, |id| files.get(&id));
        kernel.locks.restore(self.locks);
        kernel.set_files_made(self.next);
        for (fd, id, close_on_exec) in self.descriptors {
            let file = files.get(&id).cloned();
            let placed = file.and_then(|file| kernel.descriptors().restore(fd, file, close_on_exec));
            placed.ok_or(RestoreError::Damaged("the descriptors"))?;
        }
        Ok(order)
    }
}

fn save_kind(
    kernel: &Kernel,
    file: &Arc<File>,
    open: &BTreeMap<FileId, Arc<File>>,
    keeper: &mut Keeper<'_>,
) -> Result<SavedKind, CheckpointError> {
    let position = |fd: BorrowedFd<'_>| rustix::fs::seek(fd, SeekFrom::Current(0)).unwrap_or(0);
    let is_open = |id: FileId| open.contains_key(&id);
    Ok(match &file.kind {
        // Each is inherited.
        Kind::Stream(stream) => SavedKind::Inherited { unread: stream.unread() },
        _ if file.known().inherited.is_some() => SavedKind::Inherited { unread: Vec::new() },
        Kind::Host(_) if proc::is_device(&file.path) => SavedKind::Device,
        Kind::Host(host) if host.is_stream() => SavedKind::Cut,
        Kind::Host(host) => SavedKind::Regular {
            place: keeper.note(host.fd(), &file.path)?,
            position: position(host.fd()),
            changeable: host.is_changeable(),
        },
        Kind::Directory(Directory::Host(fd)) => SavedKind::Directory {
            place: keeper.note(fd.as_fd(), &file.path)?,
            position: position(fd.as_fd()),
        },
        Kind::Directory(Directory::Listed(_, position)) => {
            SavedKind::Listed { position: position.load(Ordering::Relaxed) }
        }
        Kind::Directory(Directory::Tmpfs(open)) => SavedKind::TmpfsDirectory {
            fs: kernel.namespace.name_of(open.fs()),
            ino: open.ino(),
            position: open.position(),
        },
        Kind::Tmpfs(open) => SavedKind::Tmpfs {
            fs: kernel.namespace.name_of(open.fs()),
            ino: open.ino(),
            position: open.offset(),
            may_be_named: open.may_be_named(),
        },
        Kind::Pipe(end) => SavedKind::Pipe(end.save(is_open)),
        Kind::Event(event) => SavedKind::Event(event.save()),
        Kind::Timer(timer) => SavedKind::Timer(timer.save()),
        Kind::Epoll(set) => SavedKind::Epoll(set.save(is_open)),
        Kind::Socket(socket) => SavedKind::Socket(SavedSocket::of(socket)),
        Kind::Unix(socket) => SavedKind::Unix(socket.save()),
        Kind::Text(text) => {
            let (bytes, position) = text.save();
            SavedKind::Text { bytes, position }
        }
    })
}

/// A position that cannot be taken up again (the file is a different one now) leaves the start.
fn seek(fd: impl AsFd, position: u64) {
    let _ = rustix::fs::seek(fd, SeekFrom::Start(position));
}
