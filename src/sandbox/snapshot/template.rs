//! Templates: snapshots of agents that have no function yet. What a function's first sandbox is a copy of, and what its snapshot builds upon.
//!
//! There is one for each language and size of memory, made when the first function of that sort is registered, in the background. An
//! invocation that comes before it is there waits for it rather than starting cold: it is under way already, a cold start at its side
//! would slow both down, and a function that begins in a copy has a snapshot that shares nearly all of its pages with the others.
//!
//! Before it is taken the agent *rehearses*: it loads and runs a function of its own, so that what is slow for the first time (a JVM's first
//! string put together takes 40 ms) is done for all that will ever be loaded.
//!
//! One copy of each waits ready made, so that the first invocation of a function has but to load it. It has rehearsed once more, and was put back in
//! place since. So KVM has translations of the pages that this takes, which a copy that has never run pays for one by one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::spares::Spares;
use super::super::{Error, LOAD_TIME};
use super::boot::{hello, make_ready};
use super::output::{Output, Unnamed};
use super::root::AGENT;
use super::slot::{Making, Slot};
use super::starter::{NotRestored, SETTLE_TIME};
use super::svmid::template_svmid;
use super::vmm_process::{TemplateCopy, VmmProcess, WaitingProcess};
use super::{MicroVms, blocking, start_error};
use crate::agent::{Agent, Channel, ChannelError, Load, LogSink, Outcome};
use crate::jail::view::{CODE, TMP};
use crate::linux::counters::Counters;
use crate::linux::{self, Guest, Surroundings};
use crate::snapshot::{Expected, Snapshot};
use crate::sync::lock;

/// What a template's manifest has in the place of a function's name. No function can have it.
pub const NAME: &str = "(template)";

/// How often an agent rehearses before its template is taken: until compilers have seen to what loading a function takes.
const REHEARSALS: u32 = 3;

/// Copies of each template that wait at most.
const SPARES: usize = 1;

/// The template of one language and size of memory.
pub struct Template {
    agent: Agent,
    /// In MiB.
    memory: u32,
    expected: Expected,
    slot: Arc<Slot<Snapshot>>,
    spares: Arc<Spares<Waiting>>,
    /// VMM processes with a copy in each.
    processes: Arc<Spares<WaitingProcess>>,
}

/// A copy of a template: an agent that waits for its function.
pub struct Waiting {
    /// The template.
    snapshot: Arc<Snapshot>,
    guest: Guest,
    channel: Channel,
    output: Unnamed,
    counters: Arc<Counters>,
}

impl Waiting {
    /// Gives the agent the code in the host's folder `code`, and what it prints to the log of `function`; returns what it counts in, too.
    ///
    /// # Errors
    /// The code cannot be opened.
    pub fn take_up(self, code: &Path, function: &str) -> Result<(Guest, Channel, Arc<Counters>), Error> {
        self.guest.mount(code, Path::new(CODE)).map_err(start_error)?;
        self.output.forward(function);
        Ok((self.guest, self.channel, self.counters))
    }
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
                    slot: Slot::new(None),
                    spares: Spares::new(most),
                    processes: Spares::new(most),
                });
                lock(&self.templates).entry((agent, memory)).or_insert(template).clone()
            }
        };
        template.prepare(self);
        Ok(template)
    }

    fn expected_template(&self, agent: Agent, memory: u32) -> Result<Expected, Error> {
        Ok(Expected {
            svmid: template_svmid(agent.name(), memory),
            function: NAME.into(),
            language: agent.name().into(),
            settings: BTreeMap::from([self.tmp_setting()]),
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
        self.discard(&snapshot);
        self.prepare(vms);
        self.slot.get().await
    }

    /// A copy of the template: the one that waits, or a new one. Once its function is there, the next is to be [made](Template::replenish).
    ///
    /// # Errors
    /// The snapshot or the host does not do.
    pub async fn copy(
        self: &Arc<Self>,
        vms: &Arc<MicroVms>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Waiting, NotRestored> {
        // One that is being made would have to rehearse first.
        let spare = self.spares.take_ready();
        if let Some(mut spare) = spare
            && Arc::ptr_eq(&spare.snapshot, snapshot)
            && spare.channel.is_idle()
        {
            return Ok(spare);
        }
        self.restore(vms.clone(), snapshot.clone()).await
    }

    /// Lets go of a snapshot that turned out to be of no use.
    pub fn discard(&self, useless: &Arc<Snapshot>) {
        self.slot.discard(useless);
        self.spares.retain(|spare| !Arc::ptr_eq(&spare.snapshot, useless));
        self.processes.retain(|spare| !Arc::ptr_eq(&spare.copy.snapshot, useless));
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

    async fn find_or_make(
        self: &Arc<Self>,
        vms: &Arc<MicroVms>,
        making: Making<Snapshot>,
    ) -> Result<(), Error> {
        let (store, expected) = (vms.store()?, self.expected.clone());
        let found = blocking(move || store.find(&expected)).await?.unwrap_or_else(|refusal| {
            tracing::warn!(language = %self.agent, "{refusal}; it will be made anew");
            None
        });
        let snapshot = match found {
            Some(snapshot) => snapshot,
            None => self.make(vms).await?,
        };
        making.done(snapshot);
        Ok(())
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

    /// Makes what is to wait, in the background, unless it is there: a copy in Hydra, and one in a VMM process.
    pub fn replenish(self: &Arc<Self>, vms: &Arc<MicroVms>, snapshot: &Arc<Snapshot>) {
        while let Some(place) = self.spares.claim() {
            let (template, vms, snapshot) = (self.clone(), vms.clone(), snapshot.clone());
            tokio::spawn(async move {
                match template.rehearsed(vms, snapshot).await {
                    Ok(copy) => place.fill(copy),
                    Err(error) => {
                        tracing::debug!(language = %template.agent, %error, "no copy of the template was made ahead");
                    }
                }
            });
        }
        while let Some(place) = self.processes.claim() {
            let (template, vms, snapshot) = (self.clone(), vms.clone(), snapshot.clone());
            tokio::spawn(async move {
                match template.process(vms, snapshot).await {
                    Ok(process) => place.fill(process),
                    Err(error) => {
                        tracing::debug!(language = %template.agent, %error, "no VMM process was started ahead");
                    }
                }
            });
        }
    }

    /// A VMM process with a copy that has rehearsed.
    async fn process(
        self: &Arc<Self>,
        vms: Arc<MicroVms>,
        snapshot: Arc<Snapshot>,
    ) -> Result<WaitingProcess, NotRestored> {
        let process = VmmProcess::start(&vms, self.agent, self.memory).await?;
        let channel = |stream| Channel::restored(stream, LogSink::new(self.agent.name()), 0);
        let (mut vm, stream, _) = process.restore(&snapshot).await?;
        let mut to_agent = channel(stream);
        to_agent.tell_restored().await.map_err(start_error)?;
        if self.rehearse(&vms, &mut to_agent).await? {
            let stream;
            (vm, stream, _) = vm.reset(&snapshot).await?;
            to_agent = channel(stream);
            to_agent.tell_restored().await.map_err(start_error)?;
        }
        let copy = TemplateCopy { snapshot, vm, channel: to_agent };
        Ok(WaitingProcess { process, copy })
    }

    /// A copy that has rehearsed, where the agent has a function for that.
    async fn rehearsed(
        self: &Arc<Self>,
        vms: Arc<MicroVms>,
        snapshot: Arc<Snapshot>,
    ) -> Result<Waiting, NotRestored> {
        let mut copy = self.restore(vms.clone(), snapshot).await?;
        if self.rehearse(&vms, &mut copy.channel).await? { self.put_back(vms, copy).await } else { Ok(copy) }
    }

    /// Has an agent load and run the function that it has for that; false if it has none.
    ///
    /// # Errors
    /// It has one, and that fails.
    async fn rehearse(&self, vms: &MicroVms, channel: &mut Channel) -> Result<bool, Error> {
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

    /// Makes a copy that has rehearsed wait as it did before.
    async fn put_back(
        self: &Arc<Self>,
        vms: Arc<MicroVms>,
        Waiting { snapshot, guest, .. }: Waiting,
    ) -> Result<Waiting, NotRestored> {
        let of = snapshot.clone();
        self.waiting(vms, snapshot, move |outside| Ok(of.reset(&guest, outside)?.0)).await
    }

    /// A copy that has never run.
    async fn restore(
        self: &Arc<Self>,
        vms: Arc<MicroVms>,
        snapshot: Arc<Snapshot>,
    ) -> Result<Waiting, NotRestored> {
        let of = snapshot.clone();
        self.waiting(vms, snapshot, move |outside| Ok(of.restore(outside)?)).await
    }

    /// A copy whose guest is made by `make` from what it is to find outside of itself.
    async fn waiting(
        self: &Arc<Self>,
        vms: Arc<MicroVms>,
        snapshot: Arc<Snapshot>,
        make: impl FnOnce(Surroundings) -> Result<Guest, NotRestored> + Send + 'static,
    ) -> Result<Waiting, NotRestored> {
        let (stream, theirs) = linux::stream();
        let (sending, output) = Unnamed::new().map_err(start_error)?;
        let (agent, counters) = (self.agent, Arc::<Counters>::default());
        let counting = counters.clone();
        let guest =
            blocking(move || make(vms.programs.surroundings(agent, None, &sending, theirs, counting)?))
                .await??;
        let mut channel = Channel::restored(stream, LogSink::new(self.agent.name()), 0);
        channel.tell_restored().await.map_err(start_error)?;
        Ok(Waiting { snapshot, guest, channel, output, counters })
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
