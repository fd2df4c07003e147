//! An agent in this process, for tests of what is around a sandbox: it answers an invocation with its arguments, one per permit.

use std::sync::Arc;
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
pub struct Starter {
    /// Answers that may be given.
    pub answers: Arc<Semaphore>,
}

struct InProcess {
    channel: Channel,
    health: Arc<Health>,
}

/// A function with at most one sandbox.
pub fn function() -> Arc<Function> {
    let spec = Spec {
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
    Arc::new(Function { spec, code: Code::without_files() })
}

impl super::Starter for Starter {
    fn start(&self, _function: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let answers = self.answers.clone();
        async move {
            let (ours, agents) = UnixStream::pair().map_err(|error| Error::Start(error.to_string()))?;
            tokio::spawn(serve(agents, answers));
            let mut channel = Channel::new(ours, LogSink::new("test"));
            super::load(&mut channel, &function(), "/f".as_ref(), "/t".as_ref(), 1000).await?;
            let health = Arc::new(Health::default());
            health.judge();
            Ok(Box::new(InProcess { channel, health }) as Box<dyn Sandbox>)
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
            frame::encode(Kind::Result, &payload, &mut answer);
        }
        stream.write_all(&answer).await?;
    }
}

impl Sandbox for InProcess {
    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    fn health(&self) -> &Arc<Health> {
        &self.health
    }

    fn kill(&mut self) {}
}
