//! Starting an agent in a new microVM, and what all microVMs of an agent find outside of themselves.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::Error;
use super::machine::CHANNEL;
use super::output::Output;
use super::root::AGENT;
use super::{MicroVms, start_error};
use crate::agent::runtime::Mode;
use crate::agent::{Agent, Channel, spawn};
use crate::jail::INSIDE;
use crate::jail::view::TMP;
use crate::linux::counters::Counters;
use crate::linux::identity::Identity;
use crate::linux::{self, Guest, GuestStream, Inherited, Surroundings};

/// How long an agent may take until its `HELLO`.
const START_TIME: Duration = Duration::from_secs(20);

/// How long an agent may take to make ready for a checkpoint.
const PREPARE_TIME: Duration = Duration::from_secs(30);

impl MicroVms {
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
        let Surroundings { mounts, descriptors, network, trace, counters } = outside;
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
        Ok(Surroundings { mounts, descriptors, network: self.network, trace: false, counters })
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
pub(super) enum Obstacle {
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
pub(super) async fn make_ready(channel: &mut Channel) -> Result<(), Obstacle> {
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
