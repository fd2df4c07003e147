//! An agent in this process, for tests of what is around a sandbox: it answers an invocation with its arguments, one per permit,
//! or raises them if they are a failure.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::{Error, Health, Sandbox};
use crate::agent::frame::{self, Kind};
use crate::agent::{Channel, LogSink};
use crate::function::{Code, Function, Language, SandboxKind, Spec};

/// Starts such agents.
#[derive(Clone)]
pub struct Starter {
    /// Answers that may be given.
    pub answers: Arc<Semaphore>,
    /// Starts that may be made.
    pub starts: Arc<Semaphore>,
    /// How many were made.
    pub started: Arc<AtomicU32>,
    /// What is done whenever somebody turns to the channel of one.
    pub on_channel: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

struct InProcess {
    channel: Channel,
    health: Arc<Health>,
    on_channel: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

impl Default for Starter {
    fn default() -> Starter {
        Starter {
            answers: Arc::new(Semaphore::new(0)),
            starts: Arc::new(Semaphore::new(1000)),
            started: Arc::default(),
            on_channel: Arc::default(),
        }
    }
}

/// A function with at most one sandbox.
pub fn function() -> Arc<Function> {
    function_with(|_| {})
}

/// Such a function with a `change` to its specification.
pub fn function_with(change: impl FnOnce(&mut Spec)) -> Arc<Function> {
    let mut spec = Spec {
        name: "test".into(),
        url: "http://localhost/test.py".into(),
        entry_point: None,
        language: Language::Python,
        sandbox: SandboxKind::Isolate,
        svmid: 0,
        isolation: Default::default(),
        memory: 64,
        timeout: Duration::from_secs(20),
        concurrency: 1,
    };
    change(&mut spec);
    Arc::new(Function { spec, code: Code::without_files() })
}

impl super::Starter for Starter {
    fn start(&self, _function: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let Starter { answers, starts, started, on_channel } = self.clone();
        async move {
            starts.acquire().await.map_err(|error| Error::Start(error.to_string()))?.forget();
            started.fetch_add(1, Ordering::Relaxed);
            let (ours, agents) = UnixStream::pair().map_err(|error| Error::Start(error.to_string()))?;
            tokio::spawn(serve(agents, answers));
            let mut channel = Channel::new(ours, LogSink::new("test"));
            super::load(&mut channel, &function(), "/f".as_ref(), "/t".as_ref(), 1000).await?;
            let health = Arc::new(Health::default());
            health.judge();
            Ok(Box::new(InProcess { channel, health, on_channel }) as Box<dyn Sandbox>)
        }
        .boxed()
    }
}

async fn serve(mut stream: UnixStream, answers: Arc<Semaphore>) -> std::io::Result<()> {
    loop {
        let mut header = [0; frame::HEADER];
        stream.read_exact(&mut header).await?;
        let [l0, l1, l2, l3, kind, ..] = header;
        let mut payload = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
        stream.read_exact(&mut payload).await?;
        let mut answer = Vec::new();
        if kind == Kind::Load as u8 {
            frame::encode(Kind::Loaded, b"", &mut answer);
        } else {
            answers.acquire().await.map_err(std::io::Error::other)?.forget();
            let is_failure = payload.starts_with(br#"{"message""#);
            let kind = if is_failure { Kind::Raised } else { Kind::Result };
            frame::encode(kind, &payload, &mut answer);
        }
        stream.write_all(&answer).await?;
    }
}

impl Sandbox for InProcess {
    fn channel(&mut self) -> &mut Channel {
        if let Some(act) = self.on_channel.get() {
            act();
        }
        &mut self.channel
    }

    fn health(&self) -> &Arc<Health> {
        &self.health
    }

    fn kill(&mut self) {}
}
