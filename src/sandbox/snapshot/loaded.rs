//! A function's sandbox: a microVM with the function loaded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::{Error, Health, Sandbox, Start, load};
use super::blocking;
use super::machine::Machine;
use super::spares::Loan;
use super::starter::{Inner, code};
use crate::agent::Channel;
use crate::jail::view::TMP;
use crate::snapshot::Snapshot;

/// How long an agent may take until its `HELLO`.
const START_TIME: Duration = Duration::from_secs(20);

/// How long an agent may take to make ready for a checkpoint.
const PREPARE_TIME: Duration = Duration::from_secs(30);

/// A microVM with the function loaded.
pub struct Loaded {
    pub(super) channel: Channel,
    pub(super) machine: Machine,
    pub(super) start: Start,
    pub(super) starter: Arc<Inner>,
    /// What it is a copy of, if it is one.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// That it is lent to one request.
    pub(super) loan: Option<Loan<Loaded>>,
}

impl Loaded {
    /// Waits for the agent of a microVM that was started cold, and has it load the function.
    ///
    /// # Errors
    /// The agent does not start, or the code cannot be loaded.
    pub(super) async fn load(&mut self) -> Result<(), Error> {
        let (function, max_result) = (&self.starter.function, self.starter.vms.max_result);
        let agent = function.agent();
        match tokio::time::timeout(START_TIME, self.channel.hello()).await {
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => return Err(Error::Start(format!("the {agent} agent: {cause}"))),
            Err(_) => return Err(Error::Start(format!("the {agent} agent said nothing in time"))),
        }
        load(&mut self.channel, function, &code(function), Path::new(TMP), max_result).await
    }

    /// Checkpoints the microVM, whose agent waits for its next invocation, if that is to be done now.
    async fn checkpoint(&mut self) -> Option<()> {
        let starter = self.starter.clone();
        let making = starter.slot.claim()?;
        let against = match tokio::time::timeout(PREPARE_TIME, self.channel.prepare_checkpoint()).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(failure))) => Some(failure.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                self.machine.kill();
                Some("its agent did not make ready in time".into())
            }
        };
        if let Some(against) = against {
            tracing::warn!(function = starter.name(), "no snapshot was made: {against}");
            return None;
        }
        let guest = self.machine.guest().clone();
        blocking(move || starter.checkpoint(&guest, making)).await.ok()
    }
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

    fn is_rest_due(&self) -> bool {
        self.starter.slot.is_due()
    }

    fn rest(&mut self) -> BoxFuture<'_, ()> {
        self.checkpoint().map(drop).boxed()
    }

    fn retire(mut self: Box<Self>) {
        let (Some(loan), Some(snapshot)) = (self.loan.take(), self.snapshot.take()) else { return };
        let (Ok(runtime), true) = (tokio::runtime::Handle::try_current(), self.starter.is_current(&snapshot))
        else {
            return;
        };
        let Some(place) = loan.end() else { return };
        let (machine, starter) = (self.machine, self.starter);
        runtime.spawn(async move {
            match starter.clone().reset(machine, snapshot).await {
                Ok(copy) => place.fill(copy),
                Err(error) => {
                    tracing::debug!(function = starter.name(), %error, "a microVM was not put back");
                }
            }
        });
    }

    fn kill(&mut self) {
        self.machine.kill();
    }
}
