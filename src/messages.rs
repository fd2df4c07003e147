//! Messages between Hydra and processes of its own: one JSON value a packet of a Unix socket, with descriptors.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, socketpair,
};
use rustix::fs::MemfdFlags;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::sync::lock;

/// Bytes of the longest message.
const LONGEST: usize = 64 * 1024;
/// Most descriptors that come with one.
pub const MOST_DESCRIPTORS: usize = 4;

/// A connected pair of sockets, both close-on-exec and blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends `message` with `descriptors`.
pub fn send(socket: BorrowedFd, message: &impl Serialize, descriptors: &[RawFd]) -> io::Result<()> {
    send_bytes(socket, &encode(message)?, descriptors)
}

/// Receives a message and its descriptors, which are close-on-exec; `None` at the end of file.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    receive_into(socket, &mut vec![0; LONGEST])
}

fn receive_into<T: DeserializeOwned>(
    socket: BorrowedFd,
    bytes: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel made these descriptors for this call; nothing else owns them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = received.bytes;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, descriptors)))
}

/// A file in memory without a name that holds `bytes`: what is too long for a message goes along with it.
pub fn unnamed_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?;
    File::from(file.try_clone()?).write_all(bytes)?;
    Ok(file)
}

/// The content of such a file, if it has at most `most` bytes.
pub fn content(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Receives a message from a peer that is not trusted; `None` at the end of file. Descriptors that come with it are closed unseen.
fn receive_alone<T: DeserializeOwned>(socket: BorrowedFd, bytes: &mut [u8]) -> io::Result<Option<T>> {
    let mut parts = [IoSliceMut::new(bytes)];
    let length = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty())?.bytes;
    if length == 0 { Ok(None) } else { Ok(Some(serde_json::from_slice(&bytes[..length])?)) }
}

/// Has the kernel let nobody send descriptors to this Unix socket: to close one can take as long as its owner likes (`SO_LINGER`), and what came with
/// bytes that are read is closed by the reader. False where the kernel cannot (before Linux 6.16): jails refuse `SO_LINGER` there.
pub fn refuse_descriptors(socket: BorrowedFd) -> bool {
    // include/uapi/asm-generic/socket.h.
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    let length = size_of_val(&no) as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes of `no` as it has.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const no).cast(), length)
    };
    set == 0
}

/// Whether the kernel can do that.
pub fn can_refuse_descriptors() -> bool {
    pair().is_ok_and(|(one, _)| refuse_descriptors(one.as_fd()))
}

/// Registers `descriptor` with Tokio.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns an open descriptor, and nothing here replaces or closes it while it is registered.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Reads and writes that would wait fail from now on.
pub fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Messages that a [`Connection`] keeps at most.
const MOST_KEPT: usize = 1024;

/// One end of a pair in the async runtime. Sending never waits: what the peer does not take yet is kept, and goes out while somebody
/// [receives](Connection::receive) here.
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
    unsent: Mutex<VecDeque<(Vec<u8>, Vec<OwnedFd>)>>,
    /// Where messages are received.
    buffer: Mutex<Vec<u8>>,
    /// Something is kept.
    kept: Notify,
}

impl Connection {
    /// Takes charge of a socket of a [`pair`]. Must be called in the async runtime.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Connection> {
        set_nonblocking(&socket)?;
        let (unsent, buffer) = (Mutex::default(), Mutex::new(vec![0; LONGEST]));
        Ok(Connection { socket: watch(socket)?, unsent, buffer, kept: Notify::new() })
    }

    /// Sends `message` with `descriptors`, of which there are at most [`MOST_DESCRIPTORS`].
    ///
    /// # Errors
    /// The peer is gone, or has not taken what it was sent for long; or the message is too long.
    pub fn send(&self, message: &impl Serialize, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = encode(message)?;
        {
            let mut unsent = lock(&self.unsent);
            if unsent.len() >= MOST_KEPT {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            unsent.push_back((bytes, descriptors));
        }
        self.flush()?;
        if self.keeps() {
            self.kept.notify_one();
        }
        Ok(())
    }

    /// The peer's next message and the descriptors that come with it; `None` when it is gone. One task at a time waits here.
    ///
    /// # Errors
    /// The socket fails, or what came is no message.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_by(receive_into).await
    }

    /// The same of a peer that is not trusted, and has no descriptors to send.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub async fn receive_alone<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.receive_by(receive_alone).await
    }

    async fn receive_by<T>(
        &self,
        receive: fn(BorrowedFd, &mut [u8]) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        // A peer that never stops sending would else never let another task run.
        tokio::task::coop::consume_budget().await;
        let receive = |socket: BorrowedFd| receive(socket, &mut lock(&self.buffer));
        loop {
            tokio::select! {
                ready = self.socket.readable() => {
                    if let Ok(received) = ready?.try_io(|socket| receive(socket.get_ref().as_fd())) {
                        return received;
                    }
                }
                ready = self.socket.writable(), if self.keeps() => {
                    ready?.clear_ready();
                    // One that is gone may have said something before.
                    let _ = self.flush();
                }
                () = self.kept.notified() => {}
            }
        }
    }

    fn keeps(&self) -> bool {
        !lock(&self.unsent).is_empty()
    }

    /// Sends what the peer takes now.
    fn flush(&self) -> io::Result<()> {
        let mut unsent = lock(&self.unsent);
        while let Some((bytes, descriptors)) = unsent.front() {
            let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            match send_bytes(self.socket.get_ref().as_fd(), bytes, &raw) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    unsent.clear();
                    return Err(error);
                }
                Ok(()) => drop(unsent.pop_front()),
            }
        }
        Ok(())
    }
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::other(format!("a message of {} bytes is longer than {LONGEST}", bytes.len())));
    }
    Ok(bytes)
}

fn send_bytes(socket: BorrowedFd, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage] = if descriptors.is_empty() { &[] } else { &rights };
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_message_carries_descriptors_and_the_end_is_seen() {
        let (one, other) = pair().expect("a socket pair");
        send(one.as_fd(), &"made", &[0, 1]).expect("sent");
        let (message, descriptors) = receive::<String>(other.as_fd()).expect("received").expect("a message");
        assert_eq!((message.as_str(), descriptors.len()), ("made", 2));
        drop(one);
        assert!(receive::<String>(other.as_fd()).expect("received").is_none());
    }

    #[tokio::test]
    async fn descriptors_are_not_taken_from_whoever_is_not_trusted() {
        let (one, other) = pair().expect("a socket pair");
        let connection = Connection::new(other).expect("watched");
        let before = std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
        send(one.as_fd(), &1, &[0, 1, 2]).expect("sent");
        assert_eq!(connection.receive_alone::<i32>().await.expect("received"), Some(1));
        assert!(std::fs::read_dir("/proc/self/fd").expect("descriptors").count() <= before + 2);
        let refused = refuse_descriptors(connection.socket.get_ref().as_fd());
        assert_eq!(refused, can_refuse_descriptors());
        assert_eq!(send(one.as_fd(), &2, &[0]).is_err(), refused);
        send(one.as_fd(), &3, &[]).expect("sent");
    }

    #[tokio::test]
    async fn a_peer_that_never_stops_sending_keeps_no_other_task_waiting() {
        const SENT: u32 = 1000;
        let (one, other) = pair().expect("a socket pair");
        let (one, other) = (Connection::new(one).expect("watched"), Connection::new(other).expect("watched"));
        // The kernel has room for some hundreds.
        (0..SENT).for_each(|number| one.send(&number, Vec::new()).expect("sent or kept"));
        let received = Arc::new(AtomicU32::new(0));
        let counted = received.clone();
        tokio::spawn(async move {
            while let Ok(Some(_)) = other.receive_alone::<u32>().await {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut before = 0;
        let mut most_at_once = 0;
        while before < SENT {
            one.flush().expect("sent or kept");
            tokio::task::yield_now().await;
            let now = received.load(Ordering::Relaxed);
            most_at_once = most_at_once.max(now - before);
            before = now;
        }
        assert!(most_at_once < 200, "{most_at_once} messages were received at once");
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let (one, _other) = pair().expect("a socket pair");
        assert!(send(one.as_fd(), &"x".repeat(LONGEST), &[]).is_err());
    }

    #[tokio::test]
    async fn what_the_peer_does_not_take_yet_is_kept_in_order() {
        let (one, other) = pair().expect("a socket pair");
        let [one, other] = [one, other].map(|socket| Connection::new(socket).expect("watched"));
        let text = "x".repeat(LONGEST / 2);
        for number in 0..100 {
            other.send(&(number, &text), Vec::new()).expect("kept");
        }
        assert!(other.keeps(), "the kernel has room for all of them");
        let received = async {
            for number in 0..100 {
                let ((next, _), _) =
                    one.receive::<(i32, String)>().await.expect("no error").expect("one more");
                assert_eq!(next, number);
            }
            drop(one);
        };
        let (gone, ()) = tokio::join!(other.receive::<()>(), received);
        assert!(gone.expect("no error").is_none());
    }
}
