//! Which VMM process a function has, and those that wait for a function.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::super::Error;
use super::super::MicroVms;
use super::{JailedVm, VmmProcess};
use crate::agent::Channel;
use crate::function::Function;
use crate::linux::counters::Counters;
use crate::snapshot::Snapshot;
use crate::sync::lock;

/// A VMM process that waits for a function, with a microVM in it: a copy of a template that has rehearsed.
pub struct WaitingProcess {
    /// The process.
    pub process: Arc<VmmProcess>,
    /// The copy.
    pub copy: TemplateCopy,
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
pub struct VmmProcesses {
    current: tokio::sync::Mutex<Option<Arc<VmmProcess>>>,
    /// The copy of the template that the current one came with.
    copy: Mutex<Option<TemplateCopy>>,
    /// How many there were.
    count: AtomicU64,
    used: Mutex<Instant>,
    is_closed: AtomicBool,
}

impl Default for VmmProcesses {
    fn default() -> VmmProcesses {
        VmmProcesses {
            current: tokio::sync::Mutex::default(),
            copy: Mutex::default(),
            count: AtomicU64::new(0),
            used: Mutex::new(Instant::now()),
            is_closed: AtomicBool::new(false),
        }
    }
}

impl VmmProcesses {
    /// The one that there is, or one that waits with a copy of the template, or a new one.
    ///
    /// # Errors
    /// As [`VmmProcess::start`].
    pub async fn get(
        &self,
        vms: &Arc<MicroVms>,
        function: &Function,
        counters: &Arc<Counters>,
    ) -> Result<Arc<VmmProcess>, Error> {
        *lock(&self.used) = Instant::now();
        let mut current = self.current.lock().await;
        if let Some(process) = current.as_ref().filter(|process| process.is_alive()) {
            return Ok(process.clone());
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        *lock(&self.copy) = None;
        let (agent, memory) = (function.agent(), function.spec.memory);
        let template = vms.ahead.then(|| vms.template(agent, memory).ok()).flatten();
        let waiting = template.and_then(|template| template.waiting_process());
        let process = match waiting {
            Some(WaitingProcess { process, copy })
                if process.assign(function, counters.clone()).await.is_ok() =>
            {
                *lock(&self.copy) = Some(copy);
                process
            }
            _ => {
                let process = VmmProcess::start(vms, agent, memory).await?;
                process.assign(function, counters.clone()).await?;
                process
            }
        };
        if self.is_closed.load(Ordering::Acquire) {
            *lock(&self.copy) = None;
            return Ok(process);
        }
        Ok(current.insert(process).clone())
    }

    /// The copy of the template `snapshot` that the process came with, for the first who asks.
    pub fn template_copy(&self, snapshot: &Arc<Snapshot>) -> Option<TemplateCopy> {
        let mut copy = lock(&self.copy).take()?;
        (Arc::ptr_eq(&copy.snapshot, snapshot) && copy.channel.is_idle()).then_some(copy)
    }

    /// Lets go of that copy: the function has a snapshot of its own. Gives the template, of which the next function is to find another copy.
    pub fn needs_no_template(&self) -> Option<Arc<Snapshot>> {
        lock(&self.copy).take().map(|copy| copy.snapshot.clone())
    }

    /// How many processes there were until now.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether the one that there was has ended.
    pub async fn has_ended(&self) -> bool {
        self.current.lock().await.as_ref().is_some_and(|process| !process.is_alive())
    }

    /// Lets go of the process if nothing runs in it and it was not used for `idle_time`, or if memory is `scarce`.
    pub fn sweep(&self, idle_time: Duration, scarce: bool) {
        if !scarce && lock(&self.used).elapsed() < idle_time {
            return;
        }
        drop(self.needs_no_template());
        // Who holds it uses the process.
        if let Ok(mut current) = self.current.try_lock()
            && current.as_ref().is_some_and(|process| Arc::strong_count(process) == 1)
        {
            *current = None;
        }
    }

    /// Lets go of it: it ends with its last microVM.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        drop(self.needs_no_template());
        // Who holds it lets go of it.
        if let Ok(mut current) = self.current.try_lock() {
            *current = None;
        }
    }
}
