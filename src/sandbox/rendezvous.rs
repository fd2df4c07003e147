//! The socket at which isolates connect their function channels, and the tokens by which they are told apart.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::agent::{Channel, LogSink};
use crate::sync::lock;

/// How long a connection may take to identify itself.
const HELLO_TIME: Duration = Duration::from_secs(5);

type Expected = Arc<Mutex<HashMap<String, oneshot::Sender<Channel>>>>;

/// Listens for isolates.
pub struct Rendezvous {
    path: PathBuf,
    expected: Expected,
    listener: JoinHandle<()>,
}

/// An isolate that should connect. Dropping it forgets the isolate.
pub struct Expectation {
    token: String,
    channel: oneshot::Receiver<Channel>,
    expected: Expected,
}

impl Rendezvous {
    /// Listens on a socket in `folder`, which only Hydra's user may enter.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(folder: &Path) -> io::Result<Rendezvous> {
        let path = folder.join("agents.sock");
        let listener = UnixListener::bind(&path)?;
        let expected = Expected::default();
        let task = tokio::spawn(accept(listener, expected.clone()));
        Ok(Rendezvous { path, expected, listener: task })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Expects an isolate with a new token.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn expect(&self) -> io::Result<Expectation> {
        let mut random = [0; 16];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
        let token = hex::encode(random);
        let (sender, channel) = oneshot::channel();
        lock(&self.expected).insert(token.clone(), sender);
        Ok(Expectation { token, channel, expected: self.expected.clone() })
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Expectation {
    /// What the isolate is to identify itself with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Waits for its channel.
    pub async fn channel(&mut self) -> Option<Channel> {
        (&mut self.channel).await.ok()
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        lock(&self.expected).remove(&self.token);
    }
}

async fn accept(listener: UnixListener, expected: Expected) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(identify(stream, expected.clone()));
            }
            Err(error) => {
                // Out of descriptors: those that are open must be closed first.
                tracing::warn!(%error, "an isolate's connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Hands a connection to whoever expects it; any other is closed.
async fn identify(stream: UnixStream, expected: Expected) {
    let mut channel = Channel::new(stream, LogSink::new("isolate"));
    let Ok(Ok(hello)) = tokio::time::timeout(HELLO_TIME, channel.hello()).await else { return };
    let waiter = hello.token.and_then(|token| lock(&expected).remove(&token));
    if let Some(waiter) = waiter {
        let _ = waiter.send(channel);
    }
}
