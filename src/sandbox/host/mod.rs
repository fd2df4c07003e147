//! Language hosts: one long-lived process per language, with many isolates in it.

mod handle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use super::host_memory::{HostMemory, Usage};
use super::memory::MemoryWatch;
use super::rendezvous::Rendezvous;
use super::spares::Spares;
use super::{Error, Health};
use crate::agent::channel::{Hello, json, json_frame};
use crate::agent::frame::{self, Kind};
use crate::agent::runtime::Mode;
use crate::agent::transport::write_all;
use crate::agent::{Agent, Channel, Runtime, Runtimes, spawn};
use crate::config::Config;
use crate::sync::lock;

pub use handle::IsolateHandle;
use handle::QUIET_TIME;

/// How long a language host may take until its `HELLO`.
const START_TIME: Duration = Duration::from_secs(20);
/// How long an isolate may take until it has connected.
const OPEN_TIME: Duration = Duration::from_secs(20);

/// The language hosts of a Hydra; each is started when it is first needed, and again when it ended.
pub struct LanguageHosts {
    runtimes: Arc<Runtimes>,
    rendezvous: Rendezvous,
    watch: Arc<MemoryWatch>,
    /// The memory of a function that says nothing of it: what the isolates that are kept are made for.
    usual_memory: u32,
    /// Those that are kept.
    spares: [Arc<Spares<Opened>>; Agent::ALL.len()],
    hosts: [tokio::sync::Mutex<Option<Arc<LanguageHost>>>; Agent::ALL.len()],
}

/// One language host.
pub struct LanguageHost {
    agent: Agent,
    pid: u32,
    /// None once it was reaped.
    child: Mutex<Option<Child>>,
    alive: AtomicBool,
    control: mpsc::UnboundedSender<Bytes>,
    next: AtomicU64,
    isolates: Mutex<HashMap<u64, Arc<Health>>>,
    memory: Arc<HostMemory>,
    /// Isolates that are being ended in the middle of an invocation: while there are any, the host may have to be killed.
    ending: watch::Sender<u32>,
}

/// An isolate that has connected.
pub struct Opened {
    /// Its function channel.
    pub channel: Channel,
    /// What is known of its end.
    pub health: Arc<Health>,
    /// Its account with the host's memory.
    pub usage: Arc<Usage>,
    /// Ends it.
    pub handle: IsolateHandle,
}

#[derive(Serialize)]
struct Open<'a> {
    isolate: u64,
    socket: &'a Path,
    token: &'a str,
    memory: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Closed {
    isolate: u64,
    reason: String,
    #[serde(default)]
    out_of_memory: bool,
}

impl LanguageHosts {
    /// No host yet; isolates will connect to a socket in `folder`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(
        runtimes: Arc<Runtimes>,
        folder: &Path,
        config: &Config,
        watch: Arc<MemoryWatch>,
    ) -> std::io::Result<Arc<LanguageHosts>> {
        let rendezvous = Rendezvous::listen(folder)?;
        Ok(Arc::new(LanguageHosts {
            runtimes,
            rendezvous,
            watch,
            usual_memory: config.default_memory,
            spares: std::array::from_fn(|_| Spares::new(config.ahead.into())),
            hosts: Default::default(),
        }))
    }

    /// Starts the host of `agent` ahead of need, and makes an isolate in it, unless there is one or none is to be kept.
    pub fn prepare(self: &Arc<Self>, agent: Agent) {
        let spares = &self.spares[agent as usize];
        spares.expect_one();
        let (hosts, place) = (self.clone(), spares.claim());
        tokio::spawn(async move {
            let Some(place) = place else {
                // Why there is none is told to whoever needs it.
                let _ = hosts.host(agent).await;
                return;
            };
            match hosts.make(agent, hosts.usual_memory).await {
                Ok(isolate) => place.fill(isolate),
                Err(error) => {
                    tracing::warn!(language = %agent, %error, "an isolate could not be made ahead of need");
                }
            }
        });
    }

    /// An isolate for a function that may use `memory` MiB: the one that is kept, if it will do, else a new one.
    /// Another is kept from [`LanguageHosts::prepare`] on: once the function is loaded, for which the host is to have its time.
    ///
    /// # Errors
    /// When the language is not to be had here, or its host or the isolate did not start.
    pub async fn open(self: &Arc<Self>, agent: Agent, memory: u32) -> Result<Opened, Error> {
        if memory == self.usual_memory
            && let Some(mut kept) = self.spares[agent as usize].take_ready()
            && kept.handle.host().is_to_stay().await
            && kept.channel.is_idle()
        {
            return Ok(kept);
        }
        self.make(agent, memory).await
    }

    async fn make(&self, agent: Agent, memory: u32) -> Result<Opened, Error> {
        let mut host = self.host(agent).await?;
        if !host.is_to_stay().await {
            host = self.host(agent).await?;
        }
        let mut expectation = self.rendezvous.expect().map_err(start_error)?;
        let id = host.next.fetch_add(1, Ordering::Relaxed);
        let health = Arc::new(Health::default());
        let usage = host.memory.open(memory, health.clone());
        lock(&host.isolates).insert(id, health.clone());
        let handle = IsolateHandle::new(host.clone(), id);
        let open = Open { isolate: id, socket: self.rendezvous.path(), token: expectation.token(), memory };
        host.send(Kind::Open, &open)?;
        let connected = async {
            tokio::select! {
                channel = expectation.channel() => channel,
                () = health.verdict() => None,
            }
        };
        match tokio::time::timeout(OPEN_TIME, connected).await {
            Ok(Some(channel)) => Ok(Opened { channel, health, usage, handle }),
            Ok(None) => Err(Error::Start(format!("the {agent} host could not make an isolate"))),
            Err(_) => {
                drop(handle);
                // A host that makes no isolates ends none either, and is killed for that: who tries again is to find another.
                let _ = tokio::time::timeout(2 * QUIET_TIME, health.verdict()).await;
                Err(Error::Start(format!("an isolate of the {agent} host did not connect in time")))
            }
        }
    }

    /// Resident memory of the host of `agent` in bytes, if it runs.
    pub fn resident(&self, agent: Agent) -> Option<u64> {
        // Whoever has it locked starts one, which may take long.
        let host = self.hosts[agent as usize].try_lock().ok()?;
        host.as_ref().filter(|host| host.is_alive()).map(|host| super::memory::resident(host.pid))
    }

    /// Kills every host and waits until they are gone.
    pub async fn stop(&self) {
        self.spares.iter().for_each(|spares| drop(spares.close()));
        for slot in &self.hosts {
            let Some(host) = slot.lock().await.take() else { continue };
            host.kill();
            let child = lock(&host.child).take();
            if let Some(mut child) = child {
                let _ = child.wait().await;
            }
        }
    }

    async fn host(&self, agent: Agent) -> Result<Arc<LanguageHost>, Error> {
        let mut slot = self.hosts[agent as usize].lock().await;
        if let Some(host) = slot.as_ref().filter(|host| host.is_alive()) {
            return Ok(host.clone());
        }
        let runtime = self
            .runtimes
            .get(agent)
            .map_err(|reason| Error::Unavailable(format!("{agent} functions cannot run here: {reason}")))?;
        let host = LanguageHost::start(runtime, &self.watch).await?;
        *slot = Some(host.clone());
        Ok(host)
    }
}

impl LanguageHost {
    async fn start(runtime: &Runtime, watch: &MemoryWatch) -> Result<Arc<LanguageHost>, Error> {
        let spawn::Spawned { child, channel } = spawn::spawn(runtime, Mode::Host).map_err(start_error)?;
        let pid = child.id().unwrap_or_default();
        let (mut reader, hello) = match tokio::time::timeout(START_TIME, ControlReader::open(channel)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(start_error(format!("the {} host: {error}", runtime.agent))),
            Err(_) => return Err(start_error(format!("the {} host said nothing in time", runtime.agent))),
        };
        tracing::info!(language = hello.language, runtime = hello.runtime, pid, "language host started");
        let (control, frames) = mpsc::unbounded_channel();
        let host = Arc::new_cyclic(|host| LanguageHost {
            agent: runtime.agent,
            pid,
            child: Mutex::new(Some(child)),
            alive: AtomicBool::new(true),
            control,
            next: AtomicU64::new(1),
            isolates: Mutex::default(),
            memory: HostMemory::new(pid, host.clone()),
            ending: watch::Sender::new(0),
        });
        let memory: Arc<HostMemory> = host.memory.clone();
        let memory: Arc<dyn super::memory::Watched> = memory;
        watch.add(Arc::downgrade(&memory));
        let running = host.clone();
        tokio::spawn(async move {
            reader.run(&running, frames).await;
            running.ended().await;
        });
        Ok(host)
    }

    /// Whether it was alive when last heard of.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Whether it is alive once no isolate of it is being ended by force any more.
    async fn is_to_stay(&self) -> bool {
        // The sender lives in the host, so this cannot fail.
        let _ = self.ending.subscribe().wait_for(|ending| *ending == 0).await;
        self.is_alive()
    }

    /// Kills it and all its isolates, and what they started.
    pub fn kill(&self) {
        self.alive.store(false, Ordering::Release);
        // While the child is there it was not reaped, so its number is still its own.
        if lock(&self.child).as_ref().is_some_and(|child| child.id().is_some()) {
            let group = nix::unistd::Pid::from_raw(self.pid as i32);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn send<T: Serialize>(&self, kind: Kind, value: &T) -> Result<(), Error> {
        let frame = json_frame(kind, value).map_err(start_error)?;
        self.control.send(frame).map_err(|_| start_error(format!("the {} host has ended", self.agent)))
    }

    fn closed(&self, closed: &Closed) {
        let Some(health) = lock(&self.isolates).remove(&closed.isolate) else { return };
        if closed.out_of_memory {
            health.ran_out_of_memory();
        } else if closed.reason != "closed" {
            tracing::warn!(language = %self.agent, reason = closed.reason, "an isolate ended");
        }
        health.judge();
    }

    async fn ended(&self) {
        self.kill();
        let child = lock(&self.child).take();
        // Without the child it was stopped in order.
        if let Some(mut child) = child {
            let status = child.wait().await.map(|status| status.to_string()).unwrap_or_default();
            tracing::warn!(language = %self.agent, pid = self.pid, status, "language host ended");
        }
        for (_, health) in lock(&self.isolates).drain() {
            health.judge();
        }
    }
}

/// Reads the control channel.
struct ControlReader {
    stream: UnixStream,
    received: BytesMut,
}

/// Most bytes of a frame on the control channel.
const MAX_CONTROL: usize = 1 << 20;

impl ControlReader {
    async fn open(stream: UnixStream) -> Result<(ControlReader, Hello), crate::agent::ChannelError> {
        let mut reader = ControlReader { stream, received: BytesMut::new() };
        let frame = reader.next().await?;
        let hello = json(&frame, Kind::Hello)?;
        Ok((reader, hello))
    }

    async fn next(&mut self) -> Result<frame::Frame, crate::agent::ChannelError> {
        loop {
            if let Some(frame) = frame::decode(&mut self.received, MAX_CONTROL)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(crate::agent::ChannelError::Ended { unread: false });
            }
        }
    }

    /// Serves both directions until the host ends or breaks the protocol.
    async fn run(&mut self, host: &LanguageHost, mut frames: mpsc::UnboundedReceiver<Bytes>) {
        loop {
            let frame = tokio::select! {
                frame = self.next() => frame,
                Some(frame) = frames.recv() => {
                    if write_all(&self.stream, &frame).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            match frame.and_then(|frame| json::<Closed>(&frame, Kind::Closed)) {
                Ok(closed) => host.closed(&closed),
                Err(_) => return,
            }
        }
    }
}

fn start_error(error: impl ToString) -> Error {
    Error::Start(error.to_string())
}
