//! Hydra's side of the agent protocol, for tests: starts a real agent and talks to it in frames.
//!
//! Also used by the conformance test of the root package.
#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

pub const HELLO: u8 = 0x01;
pub const LOADED: u8 = 0x02;
pub const LOAD_FAILED: u8 = 0x03;
pub const RESULT: u8 = 0x04;
pub const RAISED: u8 = 0x05;
pub const LOG: u8 = 0x06;
pub const READY: u8 = 0x07;
pub const CLOSED: u8 = 0x11;
pub const LOAD: u8 = 0x81;
pub const INVOKE: u8 = 0x82;
pub const RESTORED: u8 = 0x83;
pub const CHECKPOINT: u8 = 0x84;
pub const OPEN: u8 = 0x91;
pub const CLOSE: u8 = 0x92;

/// How long an agent may take for anything before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A channel to an agent.
pub struct Channel(pub UnixStream);

impl Channel {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Channel(stream)
    }

    /// Sends a frame; an agent that went away is noticed when its answer is read.
    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        frame.extend([kind, 0, 0, 0]);
        frame.extend(payload);
        match self.0.write_all(&frame) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                panic!("cannot write to the agent: {error}")
            }
            _ => {}
        }
    }

    pub fn send_json(&mut self, kind: u8, payload: &Value) {
        self.send(kind, payload.to_string().as_bytes());
    }

    /// The next frame, or `None` at the end of the channel.
    pub fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 8];
        match self.0.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("cannot read from the agent: {error}"),
        }
        assert_eq!(header[5..], [0; 3], "reserved bytes");
        let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize];
        self.0.read_exact(&mut payload).unwrap();
        Some((header[4], payload))
    }

    /// The next frame's text, which must be of this kind.
    pub fn expect(&mut self, kind: u8) -> String {
        let (received, payload) = self.receive().expect("the agent closed its channel");
        let text = String::from_utf8(payload).expect("payloads are UTF-8");
        assert_eq!(received, kind, "wrong kind of frame, with the payload {text}");
        text
    }

    pub fn expect_json(&mut self, kind: u8) -> Value {
        serde_json::from_str(&self.expect(kind)).expect("the payload is JSON")
    }

    pub fn load(&mut self, code: &Path, entry_point: Option<&str>, tmp_dir: &Path) {
        self.load_with(code, entry_point, tmp_dir, 1 << 20);
    }

    pub fn load_with(&mut self, code: &Path, entry_point: Option<&str>, tmp_dir: &Path, max_result: usize) {
        self.send_json(
            LOAD,
            &json!({"name": "f", "code": code, "entryPoint": entry_point, "tmpDir": tmp_dir,
                    "maxResult": max_result, "unknownKey": true}),
        );
    }

    /// Invokes the function; its answer's kind and text, and what it logged before.
    pub fn invoke_logged(&mut self, arguments: &str) -> (u8, String, Vec<(u8, String)>) {
        self.send(INVOKE, arguments.as_bytes());
        let mut logs = Vec::new();
        loop {
            let (kind, payload) = self.receive().expect("the agent closed its channel");
            if kind != LOG {
                return (kind, String::from_utf8(payload).expect("payloads are UTF-8"), logs);
            }
            logs.push((payload[0], String::from_utf8(payload[1..].to_vec()).expect("logs are UTF-8")));
        }
    }

    /// Invokes the function, which must return.
    pub fn invoke(&mut self, arguments: &str) -> String {
        let (kind, text, _) = self.invoke_logged(arguments);
        assert_eq!(kind, RESULT, "the function did not return: {text}");
        text
    }

    /// Invokes the function, which must fail; what `RAISED` said.
    pub fn invoke_raising(&mut self, arguments: &str) -> Value {
        let (kind, text, _) = self.invoke_logged(arguments);
        assert_eq!(kind, RAISED, "the function returned {text}");
        serde_json::from_str(&text).expect("RAISED holds JSON")
    }
}

/// A running agent.
pub struct Agent {
    pub channel: Channel,
    child: Child,
}

impl Agent {
    /// Starts an agent whose command line ends with a mode and its descriptor.
    pub fn start(command: &[&str], mode: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // The shell moves the socket from standard input to descriptor 3: only this one child inherits it.
        let child = Command::new("/bin/sh")
            .args(["-c", "exec 3<&0 0</dev/null; exec \"$@\" 3", "sh"])
            .args(command)
            .arg(mode)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Agent { channel: Channel::new(ours), child }
    }

    /// Closes the channel and waits for the agent's end: its status, and what it wrote to descriptors 1 and 2.
    pub fn end(self) -> (ExitStatus, String, String) {
        let Agent { channel, mut child } = self;
        channel.0.shutdown(std::net::Shutdown::Write).unwrap_or_default();
        wait_for(&channel);
        drop(channel);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (child.wait().unwrap(), stdout, stderr)
    }

    /// Ends an agent that would not end by itself.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits for the agent to close its end of a channel.
fn wait_for(channel: &Channel) {
    let mut rest = Vec::new();
    match (&channel.0).read_to_end(&mut rest) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            panic!("the agent did not end in {PATIENCE:?}")
        }
        _ => {}
    }
}

/// A language host and the socket that its isolates connect to.
pub struct Host {
    pub agent: Agent,
    pub hello: Value,
    listener: UnixListener,
    directory: tempfile::TempDir,
}

impl Host {
    pub fn start(command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("agents.sock")).unwrap();
        let mut agent = Agent::start(command, "--host");
        let hello = agent.channel.expect_json(HELLO);
        Host { agent, hello, listener, directory }
    }

    /// Asks for an isolate.
    pub fn open(&mut self, isolate: u64) {
        let socket = self.directory.path().join("agents.sock");
        let token = format!("token-{isolate}");
        let open = json!({"isolate": isolate, "socket": socket, "token": token, "memory": 64});
        self.agent.channel.send_json(OPEN, &open);
    }

    /// The next isolate that connects, and its number.
    pub fn accept(&self) -> (u64, Channel) {
        let mut channel = Channel::new(self.accept_stream());
        let hello = channel.expect_json(HELLO);
        let token = hello["token"].as_str().expect("an isolate sends its token");
        (token.strip_prefix("token-").unwrap().parse().unwrap(), channel)
    }

    /// Opens an isolate and waits for its channel.
    pub fn isolate(&mut self, isolate: u64) -> Channel {
        self.open(isolate);
        let (connected, channel) = self.accept();
        assert_eq!(connected, isolate);
        channel
    }

    pub fn close(&mut self, isolate: u64) {
        self.agent.channel.send_json(CLOSE, &json!({ "isolate": isolate }));
    }

    fn accept_stream(&self) -> UnixStream {
        let deadline = std::time::Instant::now() + PATIENCE;
        self.listener.set_nonblocking(true).unwrap();
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return stream;
                }
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock && std::time::Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("no isolate connected: {error}"),
            }
        }
    }
}
