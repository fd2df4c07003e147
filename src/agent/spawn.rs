//! Starts an agent as a plain child of Hydra, as language hosts are; process sandboxes start theirs in a jail.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::log::{LogSink, Stream};
use super::runtime::{Mode, Runtime};

/// The number that a plain child's channel has.
const CHANNEL: i32 = 3;

/// An agent that was just started, and Hydra's end of its channel.
#[derive(Debug)]
pub struct Spawned {
    /// The process. It is killed when this is dropped, and when Hydra dies.
    pub child: Child,
    /// The channel.
    pub channel: UnixStream,
}

/// The environment that agents and functions see: none of Hydra's own but for the time zone.
pub fn environment() -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> =
        [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/tmp")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
    environment.extend(crate::child::time_zone().map(|zone| ("TZ".into(), zone)));
    environment
}

/// Starts `runtime`'s agent. Must be called on a thread that lives as long as Hydra (a worker of the async runtime, not
/// one of its blocking threads): the kernel ends the child when the thread that made it ends.
///
/// # Errors
/// When the process or its channel cannot be made.
pub fn spawn(runtime: &Runtime, mode: Mode) -> io::Result<Spawned> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let theirs = OwnedFd::from(theirs);
    let arguments = runtime
        .arguments(mode)
        .into_iter()
        .map(|argument| if argument == "{fd}" { CHANNEL.to_string().into() } else { argument });
    let mut command = Command::new(&runtime.program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    crate::child::prepare(&mut command, theirs.as_raw_fd(), CHANNEL);
    let mut child = command.spawn()?;
    drop(theirs);
    let name = format!("{} host", runtime.agent);
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(forward(stdout, Stream::Stdout, LogSink::new(name.as_str())));
    }
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(forward(stderr, Stream::Stderr, LogSink::new(name)));
    }
    Ok(Spawned { child, channel: UnixStream::from_std(ours)? })
}

/// Logs the lines of one of an agent's output pipes until it is closed.
pub async fn forward(pipe: impl AsyncRead + Unpin, stream: Stream, mut log: LogSink) {
    let mut pipe = BufReader::with_capacity(64 << 10, pipe);
    loop {
        // Whole lines where they are in the buffer; a line longer than the buffer is cut there.
        let Ok(bytes) = pipe.fill_buf().await else { return };
        if bytes.is_empty() {
            return;
        }
        let length = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None => bytes.len(),
        };
        log.write(stream, &String::from_utf8_lossy(&bytes[..length]));
        pipe.consume(length);
    }
}
