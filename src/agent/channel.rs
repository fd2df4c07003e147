//! A function channel: the stream over which Hydra and an agent exchange frames.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::frame::{self, Frame, FrameError, Kind};
use super::log::{LogSink, Stream};
use super::transport::Transport;
use crate::linux::STREAM_ROOM;

/// The version of the protocol that Hydra speaks.
const PROTOCOL: u32 = 1;

/// Most bytes of a frame that is JSON of the agent's own (`HELLO`, `RAISED`, …): message and stack are bounded by the protocol.
const MAX_JSON: usize = 1 << 20;

/// Most bytes that an agent may have printed between invocations and still be quiet.
const MOST_PRINTED: usize = 1 << 20;

/// Most bytes behind `READY` that are given back to the stream: twice what it holds. They come by one read, at most what it held.
const MOST_GIVEN_BACK: usize = 2 * STREAM_ROOM;

/// Hydra's end of a function channel. At most one invocation is under way on it.
pub struct Channel {
    stream: Transport,
    received: BytesMut,
    sending: Vec<u8>,
    log: LogSink,
    max_result: usize,
    /// The agent goes on from a checkpoint and was not told yet.
    restored: bool,
}

/// What an agent says of itself in its first frame.
#[derive(Debug, Deserialize)]
pub struct Hello {
    /// The protocol's version.
    pub protocol: u32,
    /// `python`, `javascript`, `java` or `native`.
    pub language: String,
    /// What runs it, e.g. `CPython 3.11.2`.
    pub runtime: String,
    /// The token of the `OPEN` that an isolate answers.
    pub token: Option<String>,
}

/// What an agent is to load.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Load<'a> {
    /// The function's name.
    pub name: &'a str,
    /// The code, as the agent sees it.
    pub code: &'a std::path::Path,
    /// The entry point, as registered.
    pub entry_point: Option<&'a str>,
    /// A directory that the function may write, as the agent sees it.
    pub tmp_dir: &'a std::path::Path,
    /// Most bytes of a result.
    pub max_result: usize,
}

/// What an agent is told that goes on from a snapshot.
#[derive(Serialize)]
struct Restored {
    /// Random bytes that no other program gets, in hexadecimal.
    entropy: String,
    /// The wall time, in milliseconds since 1970.
    time: u64,
}

impl Restored {
    fn now() -> io::Result<Restored> {
        let mut entropy = [0; 32];
        rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Ok(Restored { entropy: hex::encode(entropy), time })
    }
}

/// The language's own account of what went wrong: an exception, a syntax error.
#[derive(Clone, Debug, Deserialize, thiserror::Error)]
#[error("{kind}{}{message}", if kind.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// Its message.
    pub message: String,
    /// Its type, e.g. `ValueError`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The function's own frames, as the language prints them.
    #[serde(default)]
    pub stack: String,
}

impl Failure {
    /// Whether the runtime had no memory left to give.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.kind.as_str(), "java.lang.OutOfMemoryError" | "MemoryError")
    }
}

/// How an invocation ended, if its sandbox did not.
#[derive(Debug)]
pub enum Outcome {
    /// What the function returned.
    Returned(String),
    /// What it raised.
    Raised(Failure),
}

/// Why a channel is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The agent ended. `unread` when it had not read the last frame that it was sent: an `INVOKE` of that frame has not begun.
    #[error("its agent ended")]
    Ended {
        /// See above.
        unread: bool,
    },
    /// The agent, or a function that got at its channel, sent what is no frame.
    #[error("its agent broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The agent sent a frame that has no place there, or whose payload is not what it should be.
    #[error("its agent broke the protocol: {0}")]
    Protocol(String),
    /// The descriptor failed.
    #[error("the channel to its agent failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> ChannelError {
        match error.kind() {
            // A Unix socket whose peer closes with bytes unread gives ECONNRESET; a write after the close gives EPIPE.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                ChannelError::Ended { unread: true }
            }
            _ => ChannelError::Io(error),
        }
    }
}

impl Channel {
    /// A channel over `stream`, whose function's output goes to `log`.
    pub fn new(stream: impl Into<Transport>, log: LogSink) -> Channel {
        Channel {
            stream: stream.into(),
            received: BytesMut::with_capacity(16 << 10),
            sending: Vec::new(),
            log,
            max_result: 0,
            restored: false,
        }
    }

    /// A channel to an agent that goes on from a snapshot, with a function loaded whose results have at most `max_result` bytes. It is told of
    /// the restore together with the next order: the first invocation, or what to load.
    pub fn restored(stream: impl Into<Transport>, log: LogSink, max_result: usize) -> Channel {
        Channel { max_result, restored: true, ..Channel::new(stream, log) }
    }

    /// Waits for the agent's `HELLO`.
    ///
    /// # Errors
    /// [`ChannelError`] also when it speaks another version of the protocol.
    pub async fn hello(&mut self) -> Result<Hello, ChannelError> {
        let frame = self.next(MAX_JSON).await?;
        let hello: Hello = json(&frame, Kind::Hello)?;
        if hello.protocol != PROTOCOL {
            return Err(ChannelError::Protocol(format!(
                "it speaks version {} of the protocol, not {PROTOCOL}",
                hello.protocol
            )));
        }
        Ok(hello)
    }

    /// Has the agent load a function. Inner error: the language's own word on why it cannot.
    ///
    /// # Errors
    /// [`ChannelError`] when the agent ended or broke the protocol meanwhile.
    pub async fn load(&mut self, load: &Load<'_>) -> Result<Result<(), Failure>, ChannelError> {
        self.log.rename(load.name);
        self.max_result = load.max_result;
        let payload = serde_json::to_vec(load).map_err(|error| ChannelError::Io(error.into()))?;
        self.begin()?;
        self.send_after(Kind::Load, &payload).await?;
        let frame = self.next(MAX_JSON).await?;
        match frame.kind {
            Kind::Loaded => Ok(Ok(())),
            _ => Ok(Err(json(&frame, Kind::LoadFailed)?)),
        }
    }

    /// Tells an agent that goes on from a snapshot so ahead of its first invocation, which would do it else.
    ///
    /// # Errors
    /// [`ChannelError`] when the agent ended.
    pub async fn tell_restored(&mut self) -> Result<(), ChannelError> {
        self.sending.clear();
        self.encode_restored()?;
        Ok(self.stream.write_all(&self.sending).await?)
    }

    fn encode_restored(&mut self) -> Result<(), ChannelError> {
        if std::mem::take(&mut self.restored) {
            let restored =
                serde_json::to_vec(&Restored::now()?).map_err(|error| ChannelError::Io(error.into()))?;
            frame::encode(Kind::Restored, &restored, &mut self.sending);
        }
        Ok(())
    }

    /// Sends an invocation. It is answered by [`Channel::answer`]. When this is dropped half-way, the channel is of no more use.
    ///
    /// # Errors
    /// [`ChannelError`] when the agent ended.
    pub async fn invoke(&mut self, arguments: &[u8]) -> Result<(), ChannelError> {
        self.begin()?;
        self.send_after(Kind::Invoke, arguments).await
    }

    /// Begins what is to be sent with the news that the agent was restored, if it was not told yet.
    fn begin(&mut self) -> Result<(), ChannelError> {
        self.sending.clear();
        self.encode_restored()?;
        Ok(())
    }

    /// Has the agent make ready for a checkpoint, of which it is to be told by the next invocation in whichever program goes on. Inner error:
    /// what the function or the agent says against a checkpoint.
    ///
    /// # Errors
    /// [`ChannelError`] when the agent ended or broke the protocol.
    pub async fn prepare_checkpoint(&mut self) -> Result<Result<(), Failure>, ChannelError> {
        self.restored = true;
        self.send(Kind::Checkpoint, b"").await?;
        let frame = self.next(MAX_JSON).await?;
        match frame.kind {
            Kind::Ready if self.received.len() > MOST_GIVEN_BACK => {
                Err(ChannelError::Protocol("too much behind Ready".into()))
            }
            Kind::Ready => {
                // Other threads may print meanwhile: the end of a message makes no sense to who has not its beginning.
                self.stream.give_back(&mut self.received);
                Ok(Ok(()))
            }
            _ => Ok(Err(json(&frame, Kind::Raised)?)),
        }
    }

    /// Waits for the answer to the invocation under way. May be dropped and called again.
    ///
    /// # Errors
    /// [`ChannelError`] when the agent ended or broke the protocol.
    pub async fn answer(&mut self) -> Result<Outcome, ChannelError> {
        let frame = self.next(self.max_result.max(MAX_JSON)).await?;
        match frame.kind {
            Kind::Result if frame.payload.len() <= self.max_result => {
                let text = String::from_utf8(frame.payload.into())
                    .map_err(|_| ChannelError::Protocol("a result that is not UTF-8".into()))?;
                Ok(Outcome::Returned(text))
            }
            Kind::Result => {
                Err(FrameError::Length { length: frame.payload.len(), limit: self.max_result }.into())
            }
            _ => Ok(Outcome::Raised(json(&frame, Kind::Raised)?)),
        }
    }

    /// Whether the agent is there and quiet, as it is between invocations; what it printed meanwhile is logged.
    pub fn is_idle(&mut self) -> bool {
        let mut printed = 0;
        // One that never stops printing is not quiet.
        while printed <= MOST_PRINTED {
            match self.stream.try_read(&mut self.received) {
                Ok(0) => return false,
                Ok(count) => printed += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            loop {
                match frame::decode(&mut self.received, frame::MAX_LOG) {
                    Ok(Some(frame)) if frame.kind == Kind::Log => self.print(&frame.payload),
                    Ok(None) => break,
                    Ok(Some(_)) | Err(_) => return false,
                }
            }
        }
        false
    }

    async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ChannelError> {
        self.sending.clear();
        self.send_after(kind, payload).await
    }

    /// Sends a frame behind those that were encoded already.
    async fn send_after(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ChannelError> {
        frame::encode(kind, payload, &mut self.sending);
        self.stream.write_all(&self.sending).await?;
        if self.sending.capacity() > 1 << 20 {
            self.sending = Vec::new();
        }
        Ok(())
    }

    /// The next frame that is not a `LOG`.
    async fn next(&mut self, limit: usize) -> Result<Frame, ChannelError> {
        loop {
            while let Some(frame) = frame::decode(&mut self.received, limit.max(frame::MAX_LOG))? {
                if frame.kind != Kind::Log {
                    return Ok(frame);
                }
                self.print(&frame.payload);
            }
            if self.stream.read(&mut self.received).await? == 0 {
                return Err(ChannelError::Ended { unread: false });
            }
        }
    }

    fn print(&mut self, payload: &[u8]) {
        if let Some((stream, text)) = payload.split_first() {
            let stream = if *stream == 2 { Stream::Stderr } else { Stream::Stdout };
            self.log.write(stream, &String::from_utf8_lossy(text));
        }
    }
}

/// The JSON payload of a frame that should be of `kind`.
pub(crate) fn json<T: serde::de::DeserializeOwned>(frame: &Frame, kind: Kind) -> Result<T, ChannelError> {
    if frame.kind != kind {
        return Err(ChannelError::Protocol(format!("{:?} where {kind:?} was due", frame.kind)));
    }
    serde_json::from_slice(&frame.payload).map_err(|error| {
        ChannelError::Protocol(format!("the payload of {kind:?} is not what it should be: {error}"))
    })
}

/// A frame ready to be sent, for channels that are written from several places.
pub(crate) fn json_frame<T: Serialize>(kind: Kind, value: &T) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::new();
    frame::encode(kind, &serde_json::to_vec(value)?, &mut out);
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn pair() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(ours, LogSink::new("test"));
        channel.max_result = 100;
        (channel, theirs)
    }

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(kind, payload, &mut out);
        out
    }

    #[tokio::test]
    async fn an_answer_may_come_in_pieces_among_logs() {
        let (mut channel, mut agent) = pair();
        channel.invoke(b"{}").await.unwrap();
        let mut answer = frame(Kind::Log, b"\x01printed\n");
        answer.extend(frame(Kind::Result, "a result é".as_bytes()));
        let (first, rest) = answer.split_at(20);
        agent.write_all(first).await.unwrap();
        // Dropping the wait loses nothing.
        assert!(futures_util::FutureExt::now_or_never(channel.answer()).is_none());
        agent.write_all(rest).await.unwrap();
        assert!(matches!(channel.answer().await, Ok(Outcome::Returned(text)) if text == "a result é"));
        assert!(channel.is_idle());
    }

    #[tokio::test]
    async fn tells_an_unread_invocation_from_one_that_had_begun() {
        let (mut channel, agent) = pair();
        channel.invoke(b"{}").await.unwrap();
        drop(agent);
        assert!(matches!(channel.answer().await, Err(ChannelError::Ended { unread: true })));

        let (mut channel, mut agent) = pair();
        channel.invoke(b"{}").await.unwrap();
        agent.read_exact(&mut [0; frame::HEADER + 2]).await.unwrap();
        drop(agent);
        assert!(matches!(channel.answer().await, Err(ChannelError::Ended { unread: false })));
        assert!(matches!(channel.invoke(b"{}").await, Err(ChannelError::Ended { unread: true })));
        assert!(!channel.is_idle());
    }

    #[tokio::test]
    async fn a_restored_agent_is_told_so_once_before_its_first_invocation() {
        let received = async |agent: &mut UnixStream| {
            let mut buffer = BytesMut::with_capacity(4096);
            agent.read_buf(&mut buffer).await.unwrap();
            std::iter::from_fn(|| frame::decode(&mut buffer, 1000).unwrap()).collect::<Vec<_>>()
        };
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (ours, mut agent) = UnixStream::pair().unwrap();
            let mut channel = Channel::restored(ours, LogSink::new("test"), 100);
            channel.invoke(b"1").await.unwrap();
            let frames = received(&mut agent).await;
            assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::Restored, Kind::Invoke]);
            let told: serde_json::Value = serde_json::from_slice(&frames[0].payload).unwrap();
            assert_eq!(told["entropy"].as_str().unwrap().len(), 64);
            assert!(told["time"].as_u64().unwrap() > 1_700_000_000_000);
            seen.push(told["entropy"].clone());
            channel.invoke(b"2").await.unwrap();
            assert_eq!(received(&mut agent).await.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::Invoke]);
        }
        assert_ne!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn results_are_bounded_and_utf8() {
        let (mut channel, mut agent) = pair();
        agent.write_all(&frame(Kind::Result, &[b'a'; 101])).await.unwrap();
        assert!(matches!(
            channel.answer().await,
            Err(ChannelError::Frame(FrameError::Length { length: 101, limit: 100 }))
        ));
        let (mut channel, mut agent) = pair();
        agent.write_all(&frame(Kind::Result, &[0xff])).await.unwrap();
        assert!(matches!(channel.answer().await, Err(ChannelError::Protocol(_))));
    }

    #[tokio::test]
    async fn a_load_that_fails_has_the_languages_own_word() {
        let (mut channel, mut agent) = pair();
        agent
            .write_all(&frame(Kind::LoadFailed, br#"{"message":"m","type":"SyntaxError","stack":"s"}"#))
            .await
            .unwrap();
        let load = Load {
            name: "f",
            code: Path::new("/function"),
            entry_point: None,
            tmp_dir: Path::new("/tmp"),
            max_result: 10,
        };
        let failure = channel.load(&load).await.unwrap().unwrap_err();
        assert_eq!((failure.message.as_str(), failure.kind.as_str()), ("m", "SyntaxError"));
    }

    #[tokio::test]
    async fn what_speaks_another_protocol_is_refused() {
        let (mut channel, mut agent) = pair();
        agent
            .write_all(&frame(Kind::Hello, br#"{"protocol":2,"language":"python","runtime":"CPython"}"#))
            .await
            .unwrap();
        assert!(matches!(channel.hello().await, Err(ChannelError::Protocol(_))));
    }
}
