//! Templates: snapshots of agents that have no function yet. What a function's first sandbox is a copy of, and what its snapshot builds upon.
//!
//! There is one for each language and size of memory, made when the first function of that sort is registered, in the background. An
//! invocation that comes before it is there waits for it rather than starting cold: it is under way already, a cold start at its side
//! would slow both down, and a function that begins in a copy has a snapshot that shares nearly all of its pages with the others.

mod ahead;
mod make;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::Error;
use super::super::spares::Spares;
use super::MicroVms;
use super::slot::Slot;
use super::svmid::template_svmid;
use super::vmm_process::WaitingProcess;
use crate::agent::Agent;
use crate::snapshot::{Expected, Snapshot};
use crate::sync::lock;

use ahead::Waiting;

/// What a template's manifest has in the place of a function's name. No function can have it.
pub const NAME: &str = "(template)";

/// Copies of each template that wait at most.
const SPARES: usize = 1;

/// The template of one language and size of memory.
pub struct Template {
    agent: Agent,
    /// In MiB.
    memory: u32,
    expected: Expected,
    /// When it was last asked for.
    used: Mutex<Instant>,
    slot: Arc<Slot<Snapshot>>,
    /// The snapshot on the disk is of no use.
    is_stale: AtomicBool,
    spares: Arc<Spares<Waiting>>,
    /// VMM processes with a copy in each.
    processes: Arc<Spares<WaitingProcess>>,
}

impl MicroVms {
    /// The template of such functions, which is made in the background if there is none.
    ///
    /// # Errors
    /// When there is no such language here.
    pub(super) fn template(self: &Arc<Self>, agent: Agent, memory: u32) -> Result<Arc<Template>, Error> {
        let known = lock(&self.templates).get(&(agent, memory)).cloned();
        let template = match known {
            Some(template) => template,
            None => {
                let most = if self.ahead { SPARES } else { 0 };
                let template = Arc::new(Template {
                    agent,
                    memory,
                    expected: self.expected_template(agent, memory)?,
                    used: Mutex::new(Instant::now()),
                    slot: Slot::new(None),
                    is_stale: AtomicBool::new(false),
                    spares: Spares::new(most),
                    processes: Spares::new(most),
                });
                lock(&self.templates).entry((agent, memory)).or_insert(template).clone()
            }
        };
        *lock(&template.used) = Instant::now();
        template.prepare(self);
        Ok(template)
    }

    fn expected_template(&self, agent: Agent, memory: u32) -> Result<Expected, Error> {
        Ok(Expected {
            svmid: template_svmid(agent.name(), memory),
            function: NAME.into(),
            language: agent.name().into(),
            settings: self.common_settings().collect(),
            code: String::new(),
            runtime: self.runtime_digest(agent)?,
            memory: u64::from(memory) << 20,
        })
    }
}

impl Template {
    /// The template's snapshot, as soon as it is there; `None` if it cannot be made now.
    pub async fn snapshot(self: &Arc<Self>, vms: &Arc<MicroVms>) -> Option<Arc<Snapshot>> {
        let snapshot = self.slot.get().await?;
        // Functions' snapshots are to build upon what is on the disk.
        if vms.store().is_ok_and(|store| store.has(&snapshot)) {
            return Some(snapshot);
        }
        self.let_go(&snapshot);
        self.prepare(vms);
        self.slot.get().await
    }

    /// Lets go of a snapshot that turned out to be of no use. What is on the disk is not taken again: the next is made anew.
    pub fn discard(&self, useless: &Arc<Snapshot>, error: &str) {
        if self.let_go(useless) {
            tracing::warn!(language = %self.agent, error, "the template is not used: it is made anew");
            self.is_stale.store(true, Ordering::Relaxed);
        }
    }

    /// False if another has its place already.
    fn let_go(&self, snapshot: &Arc<Snapshot>) -> bool {
        let was_there = self.slot.discard(snapshot);
        self.spares.retain(|spare| !spare.is_of(snapshot));
        self.processes.retain(|spare| !Arc::ptr_eq(&spare.copy.snapshot, snapshot));
        was_there
    }

    /// Whether nobody has asked for it for `idle_time`.
    pub fn was_unused_for(&self, idle_time: Duration) -> bool {
        lock(&self.used).elapsed() >= idle_time
    }

    /// Lets go the copies that have waited for `idle_time` or, where memory is `scarce`, all; they are made anew when a function comes.
    pub fn sweep(&self, idle_time: Duration, scarce: bool) {
        self.spares.sweep(idle_time, scarce);
        self.processes.sweep(idle_time, scarce);
    }

    /// Lets go of the copies, and makes no more.
    pub fn close(&self) {
        drop(self.spares.close());
        drop(self.processes.close());
    }

    /// A function is there that will begin as a copy: has one wait for it. The first of all is made with the template.
    pub fn expect_function(self: &Arc<Self>, vms: &Arc<MicroVms>, is_jailed: bool) {
        match is_jailed {
            false => self.spares.expect_one(),
            true => self.processes.expect_one(),
        }
        if let (Some(snapshot), false) = self.slot.look() {
            self.replenish(vms, &snapshot);
        }
    }

    /// A VMM process that waits for a function with a copy, if there is one.
    pub fn waiting_process(&self) -> Option<WaitingProcess> {
        self.processes.take_ready()
    }

    /// Finds or makes the snapshot in the background, if there is none.
    fn prepare(self: &Arc<Self>, vms: &Arc<MicroVms>) {
        let Some(making) = self.slot.claim() else { return };
        let (template, vms) = (self.clone(), vms.clone());
        tokio::spawn(async move {
            match template.find_or_make(&vms, making).await {
                Ok(()) => {
                    if let (Some(snapshot), _) = template.slot.look() {
                        template.replenish(&vms, &snapshot);
                    }
                }
                Err(error) => {
                    tracing::warn!(language = %template.agent, %error, "a template could not be made");
                }
            }
        });
    }
}
