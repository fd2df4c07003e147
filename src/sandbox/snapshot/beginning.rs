//! The microVMs of a function that has no snapshot: copies of its language's template, or started cold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::{Error, Start, VERDICT_TIME};
use super::boot::hello;
use super::loaded::Loaded;
use super::machine::Machine;
use super::starter::{Inner, NotRestored};
use super::template::Template;
use super::vm::FunctionVm;
use super::vmm_process::VmmProcess;
use super::{blocking, start_error};
use crate::agent::{Channel, LogSink};
use crate::linux::{self, GuestStream};
use crate::snapshot::Snapshot;

/// How long the next copy of a template waits for the first answer of the function that was just loaded into the last: the host's processors are for
/// that until then.
const HEAD_START: Duration = Duration::from_millis(20);

impl Inner {
    /// Makes a sandbox of a function that has no snapshot.
    pub(super) async fn start_new(self: &Arc<Self>) -> Result<Loaded, Error> {
        if !self.vms.ahead {
            return self.start_cold().await;
        }
        match self.start_from_template().await? {
            Some(loaded) => Ok(loaded),
            None => self.start_cold().await,
        }
    }

    /// Has a copy of the template load the function; `None` if there can be none.
    async fn start_from_template(self: &Arc<Self>) -> Result<Option<Loaded>, Error> {
        let function = &self.function;
        let template = self.vms.template(function.agent(), function.spec.memory)?;
        let Some(snapshot) = template.snapshot(&self.vms).await else { return Ok(None) };
        let process = self.process().await?;
        let copy = match &process {
            Some(process) => self.copy_in(process, &snapshot).await,
            None => self.copy_within(&template, &snapshot).await,
        };
        let (vm, channel) = match copy {
            Ok(copy) => copy,
            // Its word does not count against what others have, too.
            Err(NotRestored::Useless(_)) if process.is_some() => {
                template.look_at(&self.vms, &snapshot).await;
                return Ok(None);
            }
            Err(NotRestored::Useless(error)) => {
                template.discard(&snapshot, &error);
                return Ok(None);
            }
            Err(NotRestored::Host(error)) => return Err(error),
        };
        let of = snapshot.clone();
        let (start, starter, upon) = (Start::Template, self.clone(), Some(snapshot));
        let mut loaded = Loaded::new(channel, vm, start, starter, upon);
        let (unanswered, first_answer) = oneshot::channel();
        loaded.unanswered = Some(unanswered);
        let loaded = self.load(loaded, Ok(())).await;
        let vms = self.vms.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(HEAD_START, first_answer).await;
            template.replenish(&vms, &of);
        });
        loaded.map(Some)
    }

    /// A copy of the template in Hydra that has the function's code, and the channel to its agent.
    async fn copy_within(
        &self,
        template: &Arc<Template>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(FunctionVm, Channel), NotRestored> {
        let copy = template.copy(&self.vms, snapshot).await?;
        let (guest, channel, counters) = copy.take_up(&self.function.code.root, self.name())?;
        self.counters.adopt(counters);
        let machine = Machine::new(guest, self.name()).map_err(start_error)?;
        Ok((FunctionVm::Within(machine), channel))
    }

    /// The same in the function's VMM process.
    async fn copy_in(
        &self,
        process: &Arc<VmmProcess>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(FunctionVm, Channel), NotRestored> {
        if let Some(copy) = self.processes.as_ref().and_then(|own| own.template_copy(snapshot)) {
            return Ok((FunctionVm::Jailed(copy.vm), copy.channel));
        }
        let (vm, stream, _) = process.restore(snapshot).await?;
        Ok((FunctionVm::Jailed(vm), Channel::restored(stream, LogSink::new(self.name()), 0)))
    }

    /// Starts the agent in a new microVM and has it load the function.
    async fn start_cold(self: &Arc<Self>) -> Result<Loaded, Error> {
        let log = LogSink::new(self.name());
        let (vm, channel) = match self.process().await? {
            Some(process) => {
                let (vm, stream) = process.boot().await.map_err(start_error)?;
                (FunctionVm::Jailed(vm), Channel::new(stream, log))
            }
            None => {
                let (ours, theirs) = linux::stream();
                let starter = self.clone();
                let machine = blocking(move || starter.boot(theirs)).await??;
                (FunctionVm::Within(machine), Channel::new(ours, log))
            }
        };
        let mut loaded = Loaded::new(channel, vm, Start::Cold, self.clone(), None);
        let ready = hello(&mut loaded.channel, self.function.agent()).await;
        self.load(loaded, ready).await
    }

    /// Has the agent load the function, if it is ready.
    async fn load(&self, mut loaded: Loaded, ready: Result<(), Error>) -> Result<Loaded, Error> {
        let outcome = match ready {
            Ok(()) => loaded.load().await,
            failed => failed,
        };
        match outcome {
            Ok(()) => Ok(loaded),
            Err(error) => {
                let health = loaded.vm.health();
                if !matches!(error, Error::LoadTimeout(_)) {
                    let _ = tokio::time::timeout(VERDICT_TIME, health.verdict()).await;
                }
                let limit_mib = self.function.spec.memory;
                Err(if health.is_out_of_memory() { Error::OutOfMemory { limit_mib } } else { error })
            }
        }
    }

    /// Makes the microVM in which the agent starts. Works for milliseconds in the host.
    fn boot(&self, channel: GuestStream) -> Result<Machine, Error> {
        let function = &self.function;
        let guest =
            self.vms.programs.boot(function.agent(), function.spec.memory, self.surroundings(channel)?)?;
        Machine::new(guest, &function.spec.name).map_err(start_error)
    }
}
