//! Copies of a template that are made before anybody asks: one in Hydra, and one in a VMM process.
//!
//! So the first invocation of a function has but to load it. Each has rehearsed once more, and was put back in place since: KVM has
//! translations of the pages that this takes, which a copy that has never run pays for one by one.

use std::path::Path;
use std::sync::Arc;

use super::super::super::Error;
use super::super::super::spares::Spares;
use super::super::output::Unnamed;
use super::super::starter::NotRestored;
use super::super::vmm_process::{TemplateCopy, VmmProcess, WaitingProcess};
use super::super::{MicroVms, blocking, start_error};
use super::Template;
use crate::agent::{Channel, LogSink};
use crate::jail::view::CODE;
use crate::linux::counters::Counters;
use crate::linux::{self, Guest, Surroundings};
use crate::snapshot::Snapshot;

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
    /// Whether it is a copy of this very snapshot.
    pub fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot, snapshot)
    }

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

impl Template {
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
            && spare.is_of(snapshot)
            && spare.channel.is_idle()
        {
            return Ok(spare);
        }
        self.restore(vms.clone(), snapshot.clone()).await
    }

    /// Finds out whether the snapshot is of use, which somebody doubts who is not to be believed.
    pub async fn look_at(self: &Arc<Self>, vms: &Arc<MicroVms>, snapshot: &Arc<Snapshot>) {
        if let Err(NotRestored::Useless(error)) = self.restore(vms.clone(), snapshot.clone()).await {
            self.discard(snapshot, &error);
        }
    }

    /// Makes what is to wait, in the background, unless it is there: a copy in Hydra, and one in a VMM process.
    pub fn replenish(self: &Arc<Self>, vms: &Arc<MicroVms>, snapshot: &Arc<Snapshot>) {
        let with = || (self.clone(), vms.clone(), snapshot.clone());
        self.make_ahead(&self.spares, || {
            let (template, vms, snapshot) = with();
            async move { template.rehearsed(vms, snapshot).await }
        });
        self.make_ahead(&self.processes, || {
            let (template, vms, snapshot) = with();
            async move { template.process(vms, snapshot).await }
        });
    }

    /// Has `make` make as many as there are to wait and are not there, in the background.
    fn make_ahead<C, M>(&self, spares: &Arc<Spares<C>>, make: impl Fn() -> M)
    where
        C: Send + 'static,
        M: Future<Output = Result<C, NotRestored>> + Send + 'static,
    {
        while let Some(place) = spares.claim() {
            let (agent, making) = (self.agent, make());
            tokio::spawn(async move {
                match making.await {
                    Ok(copy) => place.fill(copy),
                    Err(error) => {
                        tracing::debug!(language = %agent, %error, "no copy of the template was made ahead");
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
