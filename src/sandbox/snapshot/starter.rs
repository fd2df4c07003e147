//! A function's microVMs: started cold, or made from the function's snapshot.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::{
    Error, Health, Sandbox, SnapshotFigures, SnapshotStatus, Snapshots, Start, Starter, VERDICT_TIME, load,
};
use super::machine::{self, CHANNEL, Machine};
use super::output::Output;
use super::root::AGENT;
use super::slot::{Making, Slot};
use super::{MicroVms, blocking, start_error, svmid};
use crate::agent::runtime::Mode;
use crate::agent::{Channel, LogSink, spawn};
use crate::function::Function;
use crate::jail::INSIDE;
use crate::jail::view::{CODE, TMP};
use crate::linux::identity::Identity;
use crate::linux::{self, Guest, RestoreError, Surroundings};
use crate::snapshot::{Expected, Snapshot};

/// How long an agent may take until its `HELLO`.
const START_TIME: Duration = Duration::from_secs(20);

/// Starts one function's microVMs.
pub struct SnapshotStarter(Arc<Inner>);

struct Inner {
    vms: Arc<MicroVms>,
    function: Arc<Function>,
    output: Output,
    /// What a snapshot of the function is; none where it has none.
    expected: Option<Expected>,
    slot: Arc<Slot<Snapshot>>,
}

/// Why a microVM was not made from a snapshot.
enum NotRestored {
    /// The snapshot cannot be used any more.
    Useless(RestoreError),
    /// The host did not give what was needed.
    Host(Error),
}

impl From<Error> for NotRestored {
    fn from(error: Error) -> NotRestored {
        NotRestored::Host(error)
    }
}

impl From<RestoreError> for NotRestored {
    fn from(error: RestoreError) -> NotRestored {
        match &error {
            RestoreError::Gone { source, .. } if source.kind() != io::ErrorKind::NotFound => {
                NotRestored::Host(start_error(error))
            }
            RestoreError::Cpu(_)
            | RestoreError::Memory { .. }
            | RestoreError::Gone { .. }
            | RestoreError::Changed(_)
            | RestoreError::Descriptor(_)
            | RestoreError::Damaged(_) => NotRestored::Useless(error),
            _ => NotRestored::Host(start_error(error)),
        }
    }
}

/// A microVM with the function loaded.
struct Loaded {
    channel: Channel,
    machine: Machine,
    start: Start,
    starter: Arc<Inner>,
}

impl SnapshotStarter {
    /// A starter for `function`, whose snapshot is to be as `expected` says. Must be called in the async runtime.
    pub(super) fn new(
        vms: Arc<MicroVms>,
        function: Arc<Function>,
        expected: Option<Expected>,
        found: Option<Arc<Snapshot>>,
    ) -> std::io::Result<SnapshotStarter> {
        let output = Output::new(&function.spec.name)?;
        Ok(SnapshotStarter(Arc::new(Inner { vms, function, output, expected, slot: Slot::new(found) })))
    }
}

impl Starter for SnapshotStarter {
    fn start(&self, _: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let starter = self.0.clone();
        async move {
            let loaded = match starter.slot.get().await {
                None => starter.start_cold().await?,
                Some(snapshot) => match starter.restore(snapshot.clone()).await {
                    Ok(loaded) => loaded,
                    Err(NotRestored::Useless(error)) => {
                        let name = &starter.function.spec.name;
                        tracing::warn!(function = name, %error, "its snapshot is not used: it is made anew");
                        starter.slot.discard(&snapshot);
                        starter.start_cold().await?
                    }
                    // Whatever it was (no more descriptors, no memory), it is not the snapshot's fault.
                    Err(NotRestored::Host(error)) => return Err(error),
                },
            };
            Ok(Box::new(loaded) as Box<dyn Sandbox>)
        }
        .boxed()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for SnapshotStarter {
    fn begin_warm_up(&self) {
        self.0.slot.begin_warm_up();
    }

    fn end_warm_up(&self, complete: bool) {
        self.0.slot.end_warm_up(complete);
    }

    fn status(&self) -> SnapshotStatus {
        let (snapshot, making) = self.0.slot.look();
        SnapshotStatus {
            svmid: svmid(&self.0.function.spec),
            state: match (&snapshot, making) {
                (_, true) => "being made",
                (Some(_), false) => "ready",
                (None, false) if self.0.expected.is_none() => "never",
                (None, false) => "none",
            },
            ready: snapshot.map(|snapshot| {
                let manifest = snapshot.manifest();
                SnapshotFigures {
                    memory_bytes: manifest.memory.stored,
                    state_bytes: manifest.state.bytes,
                    created: manifest.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
                        as u64,
                    pause_us: manifest.pause.as_micros() as u64,
                }
            }),
        }
    }
}

impl Inner {
    /// Starts the agent in a new microVM and has it load the function.
    async fn start_cold(self: &Arc<Self>) -> Result<Loaded, Error> {
        let (ours, theirs) = machine::channel().map_err(start_error)?;
        let starter = self.clone();
        let machine = blocking(move || starter.boot(theirs)).await??;
        let channel = Channel::new(ours, LogSink::new(self.function.spec.name.as_str()));
        let mut loaded = Loaded { channel, machine, start: Start::Cold, starter: self.clone() };
        match loaded.load().await {
            Ok(()) => Ok(loaded),
            Err(error) => {
                let health = loaded.machine.health();
                if !matches!(error, Error::LoadTimeout(_)) {
                    let _ = tokio::time::timeout(VERDICT_TIME, health.verdict()).await;
                }
                let limit_mib = self.function.spec.memory;
                Err(if health.is_out_of_memory() { Error::OutOfMemory { limit_mib } } else { error })
            }
        }
    }

    /// Makes a microVM that goes on from the snapshot.
    async fn restore(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Result<Loaded, NotRestored> {
        let (ours, theirs) = machine::channel().map_err(start_error)?;
        let starter = self.clone();
        let machine = blocking(move || starter.wake(&snapshot, theirs)).await??;
        let log = LogSink::new(self.function.spec.name.as_str());
        let channel = Channel::restored(ours, log, self.vms.max_result);
        Ok(Loaded { channel, machine, start: Start::Restore, starter: self.clone() })
    }

    /// Makes the microVM in which the agent starts. Works for milliseconds in the host.
    fn boot(&self, channel: OwnedFd) -> Result<Machine, Error> {
        let (function, agent) = (&self.function, self.function.agent());
        let runtime = self.vms.runtime(agent)?;
        let agents = Path::new(AGENT);
        let program = match runtime.program.strip_prefix(&runtime.folder) {
            Ok(inner) => agents.join(inner),
            Err(_) => runtime.program.clone(),
        };
        let memory = function.spec.memory;
        let arguments = runtime.arguments_at(Mode::Function { memory }, agents).into_iter().map(|argument| {
            if argument == "{fd}" { CHANNEL.to_string().into_bytes() } else { argument.into_vec() }
        });
        let Surroundings { mounts, descriptors, network, trace, .. } = self.surroundings(channel)?;
        let config = linux::Config {
            memory: u64::from(memory) << 20,
            mounts,
            program: program.clone(),
            arguments: std::iter::once(program.into_os_string().into_vec()).chain(arguments).collect(),
            environment: environment(),
            working_directory: "/".into(),
            descriptors,
            umask: 0o022,
            identity: Identity { uid: INSIDE, gid: INSIDE, host_name: "function".into() },
            network,
            trace,
        };
        let guest =
            Guest::start(config).map_err(|error| Error::Start(format!("the {agent} agent: {error}")))?;
        Machine::new(guest, &function.spec.name).map_err(start_error)
    }

    /// Makes the microVM that goes on. Works for a millisecond in the host.
    fn wake(&self, snapshot: &Snapshot, channel: OwnedFd) -> Result<Machine, NotRestored> {
        let guest = snapshot.restore(self.surroundings(channel)?)?;
        Ok(Machine::new(guest, &self.function.spec.name).map_err(start_error)?)
    }

    /// What the program finds outside of itself, with this end of the channel to it.
    fn surroundings(&self, channel: OwnedFd) -> Result<Surroundings, Error> {
        let root = self.vms.root(self.vms.runtime(self.function.agent())?)?;
        let mut descriptors = self.output.standard_streams().map_err(start_error)?;
        descriptors.push((channel, nix::libc::O_RDWR as u32));
        Ok(Surroundings {
            mounts: root.mounts(&self.function.code.root, self.vms.tmp_bytes),
            descriptors,
            network: self.vms.network,
            trace: false,
        })
    }

    /// Checkpoints a microVM whose agent waits for its next invocation.
    fn checkpoint(&self, guest: &Guest, expected: &Expected, making: Making<Snapshot>) {
        let name = &self.function.spec.name;
        let kept = self.keep(guest, expected);
        match kept {
            Ok(snapshot) => {
                let manifest = snapshot.manifest();
                tracing::info!(
                    function = name,
                    svmid = expected.svmid,
                    bytes = manifest.memory.stored,
                    pause_us = manifest.pause.as_micros() as u64,
                    "snapshot made"
                );
                making.done(snapshot);
            }
            Err(error) => tracing::warn!(function = name, error, "no snapshot was made"),
        }
    }

    fn keep(&self, guest: &Guest, expected: &Expected) -> Result<Arc<Snapshot>, String> {
        let store = self.vms.store().map_err(|error| error.to_string())?;
        let checkpoint = guest.checkpoint().map_err(|error| error.to_string())?;
        let draft = store.write(expected, None, &checkpoint).map_err(|error| error.to_string())?;
        // The program goes on; the rest needs it no more.
        drop(checkpoint);
        draft.commit().map_err(|error| error.to_string())
    }
}

impl Loaded {
    async fn load(&mut self) -> Result<(), Error> {
        let (function, max_result) = (&self.starter.function, self.starter.vms.max_result);
        let agent = function.agent();
        match tokio::time::timeout(START_TIME, self.channel.hello()).await {
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => return Err(Error::Start(format!("the {agent} agent: {cause}"))),
            Err(_) => return Err(Error::Start(format!("the {agent} agent said nothing in time"))),
        }
        load(&mut self.channel, function, &code(function), Path::new(TMP), max_result).await
    }
}

/// The function's code as the agent sees it: the same below another root.
fn code(function: &Function) -> PathBuf {
    match function.path().strip_prefix(&function.code.root) {
        Ok(inner) if !inner.as_os_str().is_empty() => Path::new(CODE).join(inner),
        _ => CODE.into(),
    }
}

fn environment() -> Vec<Vec<u8>> {
    let own = [(OsString::from("TMPDIR"), OsString::from(TMP))];
    let entry = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    spawn::environment().into_iter().chain(own).map(entry).collect()
}

impl Sandbox for Loaded {
    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    fn health(&self) -> &Arc<Health> {
        self.machine.health()
    }

    fn start(&self) -> Start {
        self.start
    }

    fn rest(&mut self) -> Option<BoxFuture<'static, ()>> {
        let expected = self.starter.expected.clone()?;
        let making = self.starter.slot.claim()?;
        let (starter, guest) = (self.starter.clone(), self.machine.guest().clone());
        Some(blocking(move || starter.checkpoint(&guest, &expected, making)).map(drop).boxed())
    }

    fn kill(&mut self) {
        self.machine.kill();
    }
}
