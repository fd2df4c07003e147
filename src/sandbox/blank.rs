//! Agents in jails that have no function yet: started ahead of need, so that a process sandbox does not wait for a
//! process to start.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use super::Error;
use super::memory::MemoryWatch;
use super::spares::Spares;
use crate::agent::log::Stream;
use crate::agent::runtime::Mode;
use crate::agent::spawn::forward;
use crate::agent::{Agent, Channel, LogSink, Runtimes};
use crate::config::{Config, NetworkPolicy};
use crate::jail::{Jail, Jailed, Network};

/// How long an agent may take until its `HELLO`.
const START_TIME: Duration = Duration::from_secs(20);

/// Starts agents in jails, and keeps one of each language that is in use.
pub struct BlankAgents {
    runtimes: Arc<Runtimes>,
    scratch: PathBuf,
    code_store: PathBuf,
    network: Network,
    tmp_mib: u32,
    /// The memory of a function that says nothing of it: what the agents that are kept are started for.
    usual_memory: u32,
    /// Those that are kept.
    spares: [Arc<Spares<Blank>>; Agent::ALL.len()],
    pub(super) watch: Arc<MemoryWatch>,
}

/// An agent that has said `HELLO`.
pub struct Blank {
    pub(super) jailed: Jailed,
    pub(super) channel: Channel,
    output: (OwnedFd, OwnedFd),
}

impl Blank {
    /// From now on what it writes to its descriptors 1 and 2 is logged as the output of `function`.
    pub(super) fn into_parts(self, function: &str) -> std::io::Result<(Jailed, Channel)> {
        let (stdout, stderr) = self.output;
        tokio::spawn(forward(Receiver::from_owned_fd(stdout)?, Stream::Stdout, LogSink::new(function)));
        tokio::spawn(forward(Receiver::from_owned_fd(stderr)?, Stream::Stderr, LogSink::new(function)));
        Ok((self.jailed, self.channel))
    }
}

impl BlankAgents {
    /// None yet. Jails see code in `code_store`; where they cannot have a `/tmp` of their own it is in `scratch`.
    pub fn new(
        runtimes: Arc<Runtimes>,
        scratch: PathBuf,
        code_store: PathBuf,
        config: &Config,
        watch: Arc<MemoryWatch>,
    ) -> Arc<BlankAgents> {
        Arc::new(BlankAgents {
            runtimes,
            scratch,
            code_store,
            network: match config.network {
                NetworkPolicy::Host => Network::Host,
                NetworkPolicy::None => Network::None,
            },
            tmp_mib: config.tmp_size,
            usual_memory: config.default_memory,
            spares: std::array::from_fn(|_| Spares::new(config.ahead.into())),
            watch,
        })
    }

    /// Starts an agent ahead of need, unless there is one or none is to be kept.
    pub fn prepare(self: &Arc<Self>, agent: Agent) {
        let spares = &self.spares[agent as usize];
        spares.expect_one();
        let Some(place) = spares.claim() else { return };
        let blanks = self.clone();
        tokio::spawn(async move {
            match blanks.start(agent, blanks.usual_memory).await {
                Ok(blank) => place.fill(blank),
                Err(error) => {
                    tracing::warn!(language = %agent, %error, "an agent could not be started ahead of need");
                }
            }
        });
    }

    /// An agent for a function that may use `memory` MiB: the one that is kept, if it will do, else a new one.
    ///
    /// # Errors
    /// When there is no such language here, or its agent or jail does not start.
    pub async fn take(self: &Arc<Self>, agent: Agent, memory: u32) -> Result<Blank, Error> {
        if memory == self.usual_memory || !self.is_bound_to_memory(agent) {
            let kept = self.spares[agent as usize].take_ready();
            self.prepare(agent);
            if let Some(mut blank) = kept
                && blank.channel.is_idle()
            {
                return Ok(blank);
            }
        }
        self.start(agent, memory).await
    }

    /// Ends the agents that are kept.
    pub async fn stop(&self) {
        for mut blank in self.spares.iter().flat_map(|spares| spares.close()) {
            blank.jailed.kill();
            let _ = blank.jailed.wait().await;
        }
    }

    /// Whether the memory is told to the agent when it is started.
    fn is_bound_to_memory(&self, agent: Agent) -> bool {
        matches!(agent, Agent::JavaScript | Agent::Java)
    }

    async fn start(&self, agent: Agent, memory: u32) -> Result<Blank, Error> {
        let jail = self.jail(agent, Mode::Function { memory })?;
        let jailed = jail.spawn(&self.scratch).await.map_err(|cause| agent_error(agent, &cause))?;
        Blank::greet(jailed, agent).await
    }

    /// The folder for what is temporary.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The jail of an agent.
    ///
    /// # Errors
    /// When there is no such language here.
    pub(super) fn jail(&self, agent: Agent, mode: Mode) -> Result<Jail, Error> {
        let runtime = self
            .runtimes
            .get(agent)
            .map_err(|reason| Error::Unavailable(format!("{agent} functions cannot run here: {reason}")))?;
        let mut jail = Jail::new(&runtime.program, &self.code_store);
        jail.arguments = runtime.arguments(mode);
        jail.readable = runtime.readable();
        jail.network = self.network;
        jail.tmp_mib = self.tmp_mib;
        Ok(jail)
    }
}

impl Blank {
    /// An agent that was just started in a jail, once it has said `HELLO`.
    ///
    /// # Errors
    /// When it does not, with what it wrote instead.
    pub(super) async fn greet(mut jailed: Jailed, agent: Agent) -> Result<Blank, Error> {
        let mut channel = channel(&mut jailed, |stream| Channel::new(stream, LogSink::new(agent.name())))
            .map_err(|cause| agent_error(agent, &cause))?;
        let output = jailed.take_output();
        match tokio::time::timeout(START_TIME, channel.hello()).await {
            Ok(Ok(_)) => Ok(Blank { jailed, channel, output }),
            Ok(Err(cause)) => {
                Err(agent_error(agent, &format!("{cause}; it wrote: {}", read_available(output.1))))
            }
            Err(_) => Err(agent_error(agent, &"it said nothing in time")),
        }
    }

    /// An agent that goes on in a jail from a dump, with `function` loaded, whose results have at most `max_result` bytes.
    ///
    /// # Errors
    /// When its channel cannot be watched.
    pub(super) fn restored(mut jailed: Jailed, function: &str, max_result: usize) -> io::Result<Blank> {
        let channel =
            channel(&mut jailed, |stream| Channel::restored(stream, LogSink::new(function), max_result))?;
        let output = jailed.take_output();
        Ok(Blank { jailed, channel, output })
    }
}

fn channel(jailed: &mut Jailed, make: impl FnOnce(UnixStream) -> Channel) -> io::Result<Channel> {
    let stream = std::os::unix::net::UnixStream::from(jailed.take_channel());
    stream.set_nonblocking(true)?;
    Ok(make(UnixStream::from_std(stream)?))
}

fn agent_error(agent: Agent, error: &dyn std::fmt::Display) -> Error {
    Error::Start(format!("the {agent} agent: {error}"))
}

/// What is in a pipe now, at most 2,000 characters, in one line.
fn read_available(pipe: OwnedFd) -> String {
    let mut bytes = vec![0; 8192];
    let read = Receiver::from_owned_fd(pipe).and_then(|pipe| pipe.try_read(&mut bytes)).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read])
        .chars()
        .take(2000)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
