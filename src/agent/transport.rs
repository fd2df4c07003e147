//! What frames travel over: the bytes between Hydra and an agent.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::linux::HostStream;
use crate::messages::refuse_descriptors;

/// Hydra's end of the stream to an agent.
pub enum Transport {
    /// To a process.
    Process(UnixStream),
    /// Into a microVM.
    MicroVm(HostStream),
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Transport {
        // Frames have none.
        refuse_descriptors(stream.as_fd());
        Transport::Process(stream)
    }
}

impl From<HostStream> for Transport {
    fn from(stream: HostStream) -> Transport {
        Transport::MicroVm(stream)
    }
}

impl Transport {
    /// Adds what has come to `into`, at least a byte: how many, 0 at the end of the stream. May be dropped and called again.
    ///
    /// # Errors
    /// `ConnectionReset` when the agent ended with bytes unread.
    pub async fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Process(stream) => stream.read_buf(into).await,
            Transport::MicroVm(stream) => poll_fn(|cx| in_turn(cx, |cx| stream.poll_read(cx, into))).await,
        }
    }

    /// As [`read`](Self::read), of what is there now; `WouldBlock` if that is nothing.
    ///
    /// # Errors
    /// As above.
    pub fn try_read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Process(stream) => stream.try_read_buf(into),
            Transport::MicroVm(stream) => {
                match stream.poll_read(&mut Context::from_waker(Waker::noop()), into) {
                    Poll::Ready(read) => read,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Gives back what was read last and not used, where that goes into a checkpoint: it is read again, here and in each copy.
    pub fn give_back(&mut self, bytes: &mut BytesMut) {
        match self {
            Transport::Process(_) => {}
            Transport::MicroVm(stream) => stream.give_back(bytes),
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// `BrokenPipe` when the agent ended.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Transport::Process(stream) => write_all(stream, bytes).await,
            Transport::MicroVm(stream) => {
                let mut left = bytes;
                while !left.is_empty() {
                    let written = poll_fn(|cx| in_turn(cx, |cx| stream.poll_write(cx, left))).await?;
                    left = &left[written..];
                }
                Ok(())
            }
        }
    }
}

/// Polls as tokio's own streams do: after many successes the task gives way, so that a program which never stops sending keeps neither other
/// tasks nor this one's timeouts waiting.
fn in_turn<T>(cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let turn = ready!(tokio::task::coop::poll_proceed(cx));
    let polled = poll(cx);
    if polled.is_ready() {
        turn.made_progress();
    }
    polled
}

/// Writes all of `bytes`, first without waiting for the stream to be writable.
pub(crate) async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        match stream.try_write(bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
}
