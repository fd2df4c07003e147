//! Starting an agent in a new microVM, and what all microVMs of an agent find outside of themselves.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::super::Error;
use super::machine::CHANNEL;
use super::output::Output;
use super::root::{AGENT, GuestRoot};
use super::start_error;
use crate::agent::runtime::Mode;
use crate::agent::{Agent, Channel, Runtime, Runtimes, spawn};
use crate::jail::view::TMP;
use crate::jail::{self, INSIDE, Layer};
use crate::linux::counters::Counters;
use crate::linux::identity::Identity;
use crate::linux::net::Policy;
use crate::linux::{self, Guest, GuestStream, Inherited, Rights, Surroundings};
use crate::sync::lock;

/// How long an agent may take until its `HELLO`.
const START_TIME: Duration = Duration::from_secs(20);

/// How long an agent may take to make ready for a checkpoint.
const PREPARE_TIME: Duration = Duration::from_secs(30);

/// The agents that microVMs run, and what is the same for all of them.
pub(super) struct Programs {
    runtimes: Arc<Runtimes>,
    /// Where roots are composed.
    scratch: PathBuf,
    network: Policy,
    tmp_bytes: u64,
    /// As whom of the host they use its files and sockets, if Hydra can be another user.
    host_user: OnceLock<Option<u32>>,
    roots: Mutex<HashMap<Agent, Arc<GuestRoot>>>,
}

impl Programs {
    /// Those of `runtimes`, with a `/tmp` of at most `tmp_bytes`.
    pub(super) fn new(
        runtimes: Arc<Runtimes>,
        scratch: PathBuf,
        network: Policy,
        tmp_bytes: u64,
    ) -> Programs {
        let (host_user, roots) = (OnceLock::new(), Mutex::default());
        Programs { runtimes, scratch, network, tmp_bytes, host_user, roots }
    }

    /// Whom they may talk to.
    pub(super) fn network(&self) -> Policy {
        self.network
    }

    /// Most bytes of their `/tmp`.
    pub(super) fn tmp_bytes(&self) -> u64 {
        self.tmp_bytes
    }

    /// With whose rights they use the host.
    fn rights(&self) -> Rights {
        let choose = || jail::sandbox_user().filter(|_| jail::probe().has(Layer::Identity));
        Rights::Sandbox(*self.host_user.get_or_init(choose))
    }

    /// The runtime of a language.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn runtime(&self, agent: Agent) -> Result<&Runtime, Error> {
        self.runtimes
            .get(agent)
            .map_err(|reason| Error::Unavailable(format!("{agent} functions cannot run here: {reason}")))
    }

    /// The composed root of a language, made when it is first needed.
    fn root(&self, runtime: &Runtime) -> Result<Arc<GuestRoot>, Error> {
        let mut roots = lock(&self.roots);
        if let Some(root) = roots.get(&runtime.agent) {
            return Ok(root.clone());
        }
        let folder = self.scratch.join(format!("root-{}", runtime.agent));
        let root =
            GuestRoot::compose(&folder, &runtime.folder, runtime.home().as_slice()).map_err(|error| {
                Error::Start(format!("the root directory of {} functions: {error}", runtime.agent))
            })?;
        Ok(roots.entry(runtime.agent).or_insert(Arc::new(root)).clone())
    }

    /// Makes the microVM in which an agent starts, with `memory` MiB. Works for milliseconds in the host.
    ///
    /// # Errors
    /// When there is no such language here, or its agent does not start.
    pub(super) fn boot(&self, agent: Agent, memory: u32, outside: Surroundings) -> Result<Guest, Error> {
        let runtime = self.runtime(agent)?;
        let agents = Path::new(AGENT);
        let program = match runtime.program.strip_prefix(&runtime.folder) {
            Ok(inner) => agents.join(inner),
            Err(_) => runtime.program.clone(),
        };
        let arguments = runtime.arguments_at(Mode::MicroVm { memory }, agents).into_iter().map(|argument| {
            if argument == "{fd}" { CHANNEL.to_string().into_bytes() } else { argument.into_vec() }
        });
        let Surroundings { mounts, descriptors, network, rights, trace, counters } = outside;
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
            rights,
            trace,
            counters,
        };
        Guest::start(config).map_err(|error| Error::Start(format!("the {agent} agent: {error}")))
    }

    /// What an agent finds outside of itself: code of the host's folder `code` (without one, none), streams to `output`, and this end of
    /// the channel to it. What it does is counted in `counters`.
    ///
    /// # Errors
    /// When there is no such language here, its root cannot be composed, or the host gives no more descriptors.
    pub(super) fn surroundings(
        &self,
        agent: Agent,
        code: Option<&Path>,
        output: &Output,
        channel: GuestStream,
        counters: Arc<Counters>,
    ) -> Result<Surroundings, Error> {
        let root = self.root(self.runtime(agent)?)?;
        let mut descriptors = output.standard_streams().map_err(start_error)?;
        descriptors.push(Inherited::Stream(channel));
        let mounts = root.mounts(code.unwrap_or(root.no_code()), self.tmp_bytes);
        Ok(Surroundings {
            mounts,
            descriptors,
            network: self.network,
            rights: self.rights(),
            trace: false,
            counters,
        })
    }
}

/// Waits until an agent that was just started is there.
pub(super) async fn hello(channel: &mut Channel, agent: Agent) -> Result<(), Error> {
    match tokio::time::timeout(START_TIME, channel.hello()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(cause)) => Err(Error::Start(format!("the {agent} agent: {cause}"))),
        Err(_) => Err(Error::Start(format!("the {agent} agent said nothing in time"))),
    }
}

/// What there is against a checkpoint.
pub(in super::super) enum Obstacle {
    /// The function or the agent said so.
    Said(String),
    /// The agent did not answer in time: it is of no more use.
    Silence,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Obstacle::Said(what) => f.write_str(what),
            Obstacle::Silence => f.write_str("its agent did not make ready in time"),
        }
    }
}

/// Has an agent that waits for a frame make ready for a checkpoint.
pub(in super::super) async fn make_ready(channel: &mut Channel) -> Result<(), Obstacle> {
    match tokio::time::timeout(PREPARE_TIME, channel.prepare_checkpoint()).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(failure))) => Err(Obstacle::Said(failure.to_string())),
        Ok(Err(error)) => Err(Obstacle::Said(error.to_string())),
        Err(_) => Err(Obstacle::Silence),
    }
}

fn environment() -> Vec<Vec<u8>> {
    let own = [(OsString::from("TMPDIR"), OsString::from(TMP))];
    let entry = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    spawn::environment().into_iter().chain(own).map(entry).collect()
}
