//! A function's microVMs: started cold, or made from the function's snapshot.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::super::spares::{Place, Spares};
use super::super::{Error, Sandbox, SnapshotFigures, SnapshotStatus, Snapshots, Start, Starter};
use super::costs::Costs;
use super::loaded::Loaded;
use super::machine::Machine;
use super::output::Output;
use super::slot::Slot;
use super::tally::Tally;
use super::template::Template;
use super::vm::FunctionVm;
use super::vmm_process::{VmmProcess, VmmProcesses};
use super::{MicroVms, blocking, start_error, svmid};
use crate::agent::transport::Transport;
use crate::agent::{Channel, LogSink};
use crate::function::{Function, SandboxKind};
use crate::jail::view::CODE;
use crate::linux::{self, GuestStream, RestoreError, Surroundings};
use crate::snapshot::{Expected, Snapshot};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// How long a program may go on by itself before it is checkpointed all the same: compilers that run beside the function finish what it was
/// that they were at, one that goes on for ever is stopped in the middle of it.
pub(super) const SETTLE_TIME: Duration = Duration::from_secs(1);

/// How long a microVM that has answered waits to be put back, if nobody waits for it: about what its answer takes to reach the client, which would
/// come behind that where one processor is left for both.
const GIVE_WAY: Duration = Duration::from_micros(200);

/// Starts one function's microVMs.
pub struct SnapshotStarter(Arc<Inner>);

pub(super) struct Inner {
    pub(super) vms: Arc<MicroVms>,
    pub(super) function: Arc<Function>,
    output: Output,
    /// What a snapshot of the function is.
    pub(super) expected: Expected,
    pub(super) slot: Arc<Slot<Snapshot>>,
    /// Copies of the snapshot, ahead of requests.
    pub(super) spares: Arc<Spares<Loaded>>,
    /// Microseconds that the snapshot took; 0 where this Hydra made none.
    pub(super) made_us: AtomicU64,
    pub(super) costs: Costs,
    /// What all of its microVMs did.
    pub(super) counters: Tally,
    /// Where they are, if they are not in Hydra.
    pub(super) processes: Option<VmmProcesses>,
    /// What the first of them are copies of: kept for as long as the function is registered.
    _template: Option<Arc<Template>>,
}

/// Why a microVM was not made from a snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRestored {
    /// The snapshot cannot be used any more.
    #[error("{0}")]
    Useless(String),
    /// The host did not give what was needed.
    #[error(transparent)]
    Host(Error),
}

impl From<Error> for NotRestored {
    fn from(error: Error) -> NotRestored {
        NotRestored::Host(error)
    }
}

impl From<RestoreError> for NotRestored {
    fn from(error: RestoreError) -> NotRestored {
        match &error {
            RestoreError::Gone { source, .. } if source.kind() != io::ErrorKind::NotFound => {
                NotRestored::Host(start_error(error))
            }
            RestoreError::Cpu(_)
            | RestoreError::Memory { .. }
            | RestoreError::Gone { .. }
            | RestoreError::Changed(_)
            | RestoreError::Descriptor(_)
            | RestoreError::Damaged(_) => NotRestored::Useless(error.to_string()),
            _ => NotRestored::Host(start_error(error)),
        }
    }
}

impl SnapshotStarter {
    /// A starter for `function`, whose snapshot is to be as `expected` says, and builds upon `template`. Must be called in the async runtime.
    pub(super) fn new(
        vms: Arc<MicroVms>,
        function: Arc<Function>,
        expected: Expected,
        found: Option<Arc<Snapshot>>,
        template: Option<Arc<Template>>,
    ) -> std::io::Result<SnapshotStarter> {
        let output = Output::new(&function.spec.name)?;
        let is_jailed = function.spec.sandbox == SandboxKind::SnapshotProcess;
        let spares = Spares::new(if vms.ahead { function.spec.concurrency as usize } else { 0 });
        let starter = Arc::new(Inner {
            vms,
            function,
            output,
            expected,
            slot: Slot::new(found),
            spares,
            made_us: AtomicU64::new(0),
            costs: Costs::default(),
            counters: Tally::default(),
            processes: is_jailed.then(VmmProcesses::default),
            _template: template,
        });
        if is_jailed {
            let starter = starter.clone();
            // Ahead of need; whoever needs it is told why there is none.
            tokio::spawn(async move { starter.process().await.map(drop) });
        }
        Ok(SnapshotStarter(starter))
    }
}

impl Starter for SnapshotStarter {
    fn start(&self, _: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let starter = self.0.clone();
        async move {
            let loaded = starter.clone().start().await?;
            starter.replenish();
            Ok(Box::new(loaded) as Box<dyn Sandbox>)
        }
        .boxed()
    }

    fn start_fresh(&self, _: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let starter = self.0.clone();
        async move {
            let mut loaded = starter.clone().start().await?;
            loaded.loan = Some(starter.spares.lend());
            starter.replenish();
            Ok(Box::new(loaded) as Box<dyn Sandbox>)
        }
        .boxed()
    }

    fn sweep(&self, idle_time: Duration, scarce: bool) {
        self.0.spares.sweep(idle_time, scarce);
        if let Some(processes) = &self.0.processes {
            processes.sweep(idle_time, scarce);
        }
    }

    fn close(&self, _: &Function) {
        self.0.spares.close();
        if let Some(processes) = &self.0.processes {
            processes.close();
        }
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for SnapshotStarter {
    fn begin_warm_up(&self) {
        self.0.slot.begin_warm_up();
    }

    fn end_warm_up(&self, complete: bool) {
        self.0.slot.end_warm_up(complete);
    }

    fn status(&self) -> SnapshotStatus {
        let (snapshot, state) = self.0.slot.status();
        SnapshotStatus {
            svmid: svmid(&self.0.function.spec),
            spares: self.0.spares.count(),
            state,
            ready: snapshot.map(|snapshot| {
                let manifest = snapshot.manifest();
                SnapshotFigures {
                    memory_bytes: manifest.memory.stored,
                    state_bytes: manifest.state.bytes,
                    created: manifest.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
                        as u64,
                    pause_us: manifest.pause.as_micros() as u64,
                    made_us: Some(self.0.made_us.load(Ordering::Relaxed)).filter(|us| *us > 0),
                }
            }),
            guest: self.0.counters.read(),
        }
    }
}

impl Inner {
    /// A sandbox that has served nobody: a copy of the snapshot, if there is one.
    async fn start(self: Arc<Self>) -> Result<Loaded, Error> {
        let Some(processes) = &self.processes else { return self.try_start().await };
        let count = processes.count();
        let started = self.clone().try_start().await;
        // The VMM process may have ended just then, and another may have started one since.
        let is_over = started.is_err() && (processes.has_ended().await || processes.count() > count + 1);
        if is_over { self.clone().try_start().await } else { started }
    }

    async fn try_start(self: Arc<Self>) -> Result<Loaded, Error> {
        let Some(snapshot) = self.slot.get().await else { return self.start_new().await };
        while let Some(mut spare) = self.spares.take().await {
            let of_this = spare.snapshot.as_ref().is_some_and(|of| Arc::ptr_eq(of, &snapshot));
            if of_this && spare.channel.is_idle() {
                return Ok(spare);
            }
        }
        match self.restore(snapshot.clone()).await {
            Ok(loaded) => Ok(loaded),
            Err(NotRestored::Useless(error)) => {
                tracing::warn!(function = self.name(), %error, "its snapshot is not used: it is made anew");
                self.slot.discard(&snapshot);
                self.start_new().await
            }
            // Whatever it was (no more descriptors, no memory), it is not the snapshot's fault.
            Err(NotRestored::Host(error)) => Err(error),
        }
    }

    /// Makes copies ahead, in the background, as many as are wanted.
    pub(super) fn replenish(self: &Arc<Self>) {
        let (Some(snapshot), _) = self.slot.look() else { return };
        while let Some(place) = self.spares.claim() {
            tokio::spawn(self.clone().make_spare(snapshot.clone(), place));
        }
    }

    async fn make_spare(self: Arc<Self>, snapshot: Arc<Snapshot>, place: Place<Loaded>) {
        let made = async {
            let mut copy = self.restore(snapshot).await?;
            copy.channel.tell_restored().await.map_err(start_error)?;
            Ok::<_, NotRestored>(copy)
        };
        match made.await {
            Ok(copy) => place.fill(copy),
            Err(error) => tracing::debug!(function = self.name(), %error, "no copy was made ahead"),
        }
    }

    /// Puts a microVM that has served a request back to its snapshot.
    pub(super) async fn reset(
        self: Arc<Self>,
        vm: FunctionVm,
        channel: Channel,
        snapshot: Arc<Snapshot>,
    ) -> Result<Loaded, Error> {
        let mut copy = match vm {
            FunctionVm::Within(machine) => self.reset_within(machine, channel, snapshot).await?,
            FunctionVm::Jailed(vm) => {
                if !self.spares.is_awaited() {
                    tokio::time::sleep(GIVE_WAY).await;
                }
                let (vm, stream, time) = vm.reset(&snapshot).await.map_err(start_error)?;
                drop(channel);
                self.copy(stream, FunctionVm::Jailed(vm), snapshot, Start::Reset, time)
            }
        };
        copy.channel.tell_restored().await.map_err(start_error)?;
        Ok(copy)
    }

    async fn reset_within(
        self: &Arc<Self>,
        machine: Machine,
        channel: Channel,
        snapshot: Arc<Snapshot>,
    ) -> Result<Loaded, Error> {
        let (ours, theirs) = linux::stream();
        let (starter, of) = (self.clone(), snapshot.clone());
        let (machine, time) = blocking(move || {
            if !starter.spares.is_awaited() {
                thread::sleep(GIVE_WAY);
            }
            let remains = machine.end();
            // Not before: the program would see the end of it, and clean up behind itself.
            drop(channel);
            let begun = Instant::now();
            let (guest, figures) = of.reset(&remains, starter.surroundings(theirs)?).map_err(start_error)?;
            let time = begun.elapsed();
            starter.counters.own().reset_in(time);
            tracing::trace!(function = starter.name(), ?figures, "put back");
            Machine::new(guest, starter.name()).map(|machine| (machine, time)).map_err(start_error)
        })
        .await??;
        Ok(self.copy(ours, FunctionVm::Within(machine), snapshot, Start::Reset, time))
    }

    fn copy(
        self: &Arc<Self>,
        stream: impl Into<Transport>,
        vm: FunctionVm,
        snapshot: Arc<Snapshot>,
        start: Start,
        made_in: Duration,
    ) -> Loaded {
        let channel = Channel::restored(stream, LogSink::new(self.name()), self.vms.max_result);
        let upon = snapshot.parent().cloned();
        Loaded {
            channel,
            vm,
            start,
            starter: self.clone(),
            snapshot: Some(snapshot),
            upon,
            loan: None,
            made_in: Some(made_in),
            began: None,
            unanswered: None,
        }
    }

    /// Whether new sandboxes are copies of this snapshot.
    pub(super) fn is_current(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.slot.look().0.is_some_and(|current| Arc::ptr_eq(&current, snapshot))
    }

    /// The function's name.
    pub(super) fn name(&self) -> &str {
        &self.function.spec.name
    }

    /// The function's VMM process, if its microVMs are to be in one.
    pub(super) async fn process(&self) -> Result<Option<Arc<VmmProcess>>, Error> {
        let Some(processes) = &self.processes else { return Ok(None) };
        processes.get(&self.vms, &self.function, self.counters.own()).await.map(Some)
    }

    /// Makes a microVM that goes on from the snapshot.
    async fn restore(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Result<Loaded, NotRestored> {
        if let Some(process) = self.process().await? {
            if let Some(template) = self.processes.as_ref().and_then(VmmProcesses::needs_no_template) {
                let of = self.vms.template(self.function.agent(), self.function.spec.memory)?;
                of.replenish(&self.vms, &template);
            }
            let (vm, stream, time) = process.restore(&snapshot).await?;
            return Ok(self.copy(stream, FunctionVm::Jailed(vm), snapshot, Start::Restore, time));
        }
        let (ours, theirs) = linux::stream();
        let (starter, of) = (self.clone(), snapshot.clone());
        let (machine, time) = blocking(move || starter.wake(&of, theirs)).await??;
        Ok(self.copy(ours, FunctionVm::Within(machine), snapshot, Start::Restore, time))
    }

    /// Makes the microVM that goes on. Works for a millisecond in the host.
    fn wake(&self, snapshot: &Snapshot, channel: GuestStream) -> Result<(Machine, Duration), NotRestored> {
        let begun = Instant::now();
        let guest = snapshot.restore(self.surroundings(channel)?)?;
        let time = begun.elapsed();
        self.counters.own().restored_in(time);
        let machine = Machine::new(guest, &self.function.spec.name).map_err(start_error)?;
        Ok((machine, time))
    }

    /// What the program finds outside of itself, with this end of the channel to it.
    pub(super) fn surroundings(&self, channel: GuestStream) -> Result<Surroundings, Error> {
        let (function, counters) = (&self.function, self.counters.own().clone());
        self.vms.programs.surroundings(
            function.agent(),
            Some(&function.code.root),
            &self.output,
            channel,
            counters,
        )
    }
}

/// The function's code as the agent sees it: the same below another root.
pub(super) fn code(function: &Function) -> PathBuf {
    match function.path().strip_prefix(&function.code.root) {
        Ok(inner) if !inner.as_os_str().is_empty() => Path::new(CODE).join(inner),
        _ => CODE.into(),
    }
}
