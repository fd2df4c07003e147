//! How a template is made: an agent is started, *rehearses*, and is kept as it waits for its function.
//!
//! To rehearse is to load and run a function of its own, so that what is slow for the first time (a JVM's first string put together takes
//! 40 ms) is done for all that will ever be loaded.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::super::{Error, LOAD_TIME};
use super::super::boot::{hello, make_ready};
use super::super::output::Output;
use super::super::root::AGENT;
use super::super::slot::Making;
use super::super::starter::SETTLE_TIME;
use super::super::{MicroVms, blocking, start_error};
use super::Template;
use crate::agent::{Agent, Channel, ChannelError, Load, LogSink, Outcome};
use crate::jail::view::TMP;
use crate::linux;
use crate::snapshot::Snapshot;

/// How often an agent rehearses before its template is taken: until compilers have seen to what loading a function takes.
const REHEARSALS: u32 = 3;

impl Template {
    pub(super) async fn find_or_make(
        self: &Arc<Self>,
        vms: &Arc<MicroVms>,
        making: Making<Snapshot>,
    ) -> Result<(), Error> {
        let found = if self.is_stale.load(Ordering::Relaxed) { None } else { self.find(vms).await? };
        let snapshot = match found {
            Some(snapshot) => snapshot,
            None => self.make(vms).await?,
        };
        self.is_stale.store(false, Ordering::Relaxed);
        making.done(snapshot);
        Ok(())
    }

    /// The snapshot that an earlier Hydra has made, if it is of use.
    async fn find(&self, vms: &Arc<MicroVms>) -> Result<Option<Arc<Snapshot>>, Error> {
        let (store, expected) = (vms.store()?, self.expected.clone());
        let found = blocking(move || store.find(&expected)).await?;
        Ok(found.unwrap_or_else(|refusal| {
            tracing::warn!(language = %self.agent, "{refusal}; it will be made anew");
            None
        }))
    }

    /// Starts an agent, and keeps it as it waits for its function.
    async fn make(self: &Arc<Self>, vms: &Arc<MicroVms>) -> Result<Arc<Snapshot>, Error> {
        let (ours, theirs) = linux::stream();
        let output = Output::new(self.agent.name()).map_err(start_error)?;
        let (template, maker) = (self.clone(), vms.clone());
        let guest = blocking(move || {
            let outside =
                maker.programs.surroundings(template.agent, None, &output, theirs, Arc::default())?;
            maker.programs.boot(template.agent, template.memory, outside)
        })
        .await??;
        let mut channel = Channel::new(ours, LogSink::new(self.agent.name()));
        hello(&mut channel, self.agent).await?;
        for _ in 0..REHEARSALS {
            if !self.rehearse(vms, &mut channel).await? {
                break;
            }
        }
        make_ready(&mut channel).await.map_err(start_error)?;
        let (store, expected) = (vms.store()?, self.expected.clone());
        let snapshot = blocking(move || {
            guest.settle(SETTLE_TIME);
            let staging = store.stage(&expected, None).map_err(start_error)?;
            let checkpoint = guest.checkpoint().map_err(start_error)?;
            let draft = staging.write(&checkpoint).map_err(start_error)?;
            drop(checkpoint);
            drop(guest);
            draft.commit().map_err(start_error)
        })
        .await??;
        let manifest = snapshot.manifest();
        tracing::info!(
            language = %self.agent,
            svmid = manifest.svmid,
            memory_mib = self.memory,
            bytes = manifest.memory.stored,
            "template made"
        );
        Ok(snapshot)
    }

    /// Has an agent load and run the function that it has for that; false if it has none.
    ///
    /// # Errors
    /// It has one, and that fails.
    pub(super) async fn rehearse(&self, vms: &MicroVms, channel: &mut Channel) -> Result<bool, Error> {
        let folder = &vms.programs.runtime(self.agent)?.folder;
        let Some((code, entry_point)) = rehearsal(self.agent).filter(|(code, _)| folder.join(code).exists())
        else {
            return Ok(false);
        };
        let code = Path::new(AGENT).join(code);
        let load = Load {
            name: self.agent.name(),
            code: &code,
            entry_point: Some(entry_point),
            tmp_dir: Path::new(TMP),
            max_result: 1 << 10,
        };
        let work = async {
            if let Err(failure) = channel.load(&load).await? {
                return Ok(Outcome::Raised(failure));
            }
            channel.invoke(b"{}").await?;
            channel.answer().await
        };
        let failed = |why: String| Error::Start(format!("the {} agent's rehearsal: {why}", self.agent));
        match tokio::time::timeout(LOAD_TIME, work).await {
            Ok(Ok(Outcome::Returned(_))) => Ok(true),
            Ok(Ok(Outcome::Raised(failure))) => Err(failed(failure.to_string())),
            Ok(Err::<_, ChannelError>(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("it took too long".into())),
        }
    }
}

/// The function in the agent's folder that copies rehearse with: its code, a folder as that of most functions, and the entry point.
fn rehearsal(agent: Agent) -> Option<(&'static str, &'static str)> {
    match agent {
        Agent::Python => Some(("rehearsal", "main.main")),
        Agent::JavaScript => Some(("rehearsal", "index.main")),
        Agent::Java => Some(("rehearsal.jar", "Rehearsal")),
        Agent::Native => None,
    }
}
