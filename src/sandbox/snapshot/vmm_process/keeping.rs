//! Which VMM process a function has, and those that wait for a function.

use std::sync::{Arc, Mutex};

use super::super::super::Error;
use super::super::MicroVms;
use super::super::template::Template;
use super::{JailedVm, VmmProcess};
use crate::agent::Channel;
use crate::function::Function;
use crate::linux::counters::Counters;
use crate::snapshot::Snapshot;
use crate::sync::lock;

/// A VMM process that waits for a function, with a microVM in it: a copy of a template that has rehearsed.
pub struct WaitingProcess {
    pub(in super::super) process: Arc<VmmProcess>,
    pub(in super::super) copy: TemplateCopy,
}

/// A copy of a template in a VMM process: an agent that waits for its function.
pub struct TemplateCopy {
    /// The template.
    pub snapshot: Arc<Snapshot>,
    /// The microVM.
    pub vm: JailedVm,
    /// The channel to the agent.
    pub channel: Channel,
}

/// The VMM process of a function: had when it is needed, and again when it has ended.
#[derive(Default)]
pub struct VmmProcesses {
    current: tokio::sync::Mutex<Option<Arc<VmmProcess>>>,
    /// The copy of the template that the current one came with.
    copy: Mutex<Option<TemplateCopy>>,
}

impl VmmProcesses {
    /// The one that there is, or one that waits with a copy of `template`, or a new one.
    ///
    /// # Errors
    /// As [`VmmProcess::start`].
    pub async fn get(
        &self,
        vms: &MicroVms,
        function: &Function,
        template: Option<&Template>,
        counters: &Arc<Counters>,
    ) -> Result<Arc<VmmProcess>, Error> {
        let mut current = self.current.lock().await;
        if let Some(process) = current.as_ref().filter(|process| process.is_alive()) {
            return Ok(process.clone());
        }
        let waiting = template.and_then(Template::waiting_process);
        if let Some(WaitingProcess { process, copy }) = waiting
            && process.assign(function, counters.clone()).await.is_ok()
        {
            *lock(&self.copy) = Some(copy);
            return Ok(current.insert(process).clone());
        }
        let process = VmmProcess::start(vms, function.agent(), function.spec.memory).await?;
        process.assign(function, counters.clone()).await?;
        *lock(&self.copy) = None;
        Ok(current.insert(process).clone())
    }

    /// The copy of the template `snapshot` that the process came with, for the first who asks.
    pub fn template_copy(&self, snapshot: &Arc<Snapshot>) -> Option<TemplateCopy> {
        let mut copy = lock(&self.copy).take()?;
        (Arc::ptr_eq(&copy.snapshot, snapshot) && copy.channel.is_idle()).then_some(copy)
    }

    /// Lets go of that copy: the function has a snapshot of its own.
    pub fn needs_no_template(&self) {
        *lock(&self.copy) = None;
    }

    /// Whether the one that there was has ended.
    pub async fn has_ended(&self) -> bool {
        self.current.lock().await.as_ref().is_some_and(|process| !process.is_alive())
    }

    /// Lets go of it: it ends with its last microVM.
    pub fn close(&self) {
        self.needs_no_template();
        // Who is starting one uses it at once.
        if let Ok(mut current) = self.current.try_lock() {
            *current = None;
        }
    }
}
