//! The sandbox `snapshot-process` where microVMs cannot run: a process sandbox that CRIU checkpoints and restores.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | starting a function's sandboxes: cold, or from its dump; and the making of that |
//! | `dumps.rs` | dumps on the disk |
//!
//! As with microVMs, the first sandbox is checkpointed when it has answered its first invocation, and every later one goes on from there. The memory of
//! one is not shared with others, and none is put back: a fresh sandbox is a new one.

mod dumps;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::dumps::{Dumps, Expected, KeptDump};
use super::blank::{Blank, BlankAgents};
use super::process::Process;
use super::snapshot::{MicroVms, Obstacle, Slot, make_ready, svmid};
use super::{Error, Health, Sandbox, SnapshotFigures, SnapshotStatus, Snapshots, Start, Starter};
use crate::agent::Channel;
use crate::agent::runtime::Mode;
use crate::child;
use crate::config::Config;
use crate::function::Function;
use crate::jail::criu::{self, Criu, Dump, Dumper};
use crate::jail::{Jail, Limits};
use crate::linux::counters::Counts;

/// What all functions whose processes are checkpointed have in common.
pub struct CriuProcesses {
    blanks: Arc<BlankAgents>,
    vms: Arc<MicroVms>,
    dumps: Dumps,
    tmp_mib: u32,
    max_result: usize,
}

/// Starts one function's sandboxes.
pub struct CriuStarter(Arc<Inner>);

struct Inner {
    all: Arc<CriuProcesses>,
    function: Arc<Function>,
    expected: Expected,
    slot: Arc<Slot<KeptDump>>,
    /// Microseconds that the dump took; 0 where this Hydra made none.
    made_us: AtomicU64,
}

impl CriuProcesses {
    /// None yet. Agents are started as those of process sandboxes; dumps will be in the app folder.
    pub fn new(blanks: Arc<BlankAgents>, vms: Arc<MicroVms>, config: &Config) -> Arc<CriuProcesses> {
        Arc::new(CriuProcesses {
            blanks,
            vms,
            dumps: Dumps::new(config.app_dir.join("dumps")),
            tmp_mib: config.tmp_size,
            max_result: config.max_result,
        })
    }

    /// Whether this host can checkpoint processes.
    ///
    /// # Errors
    /// The reason why not.
    pub async fn check(&self) -> Result<(), String> {
        criu::probe(self.blanks.scratch()).await
    }

    /// A starter of the function's sandboxes, with its dump if there is one that will do.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no such language here, or dumps cannot be kept.
    pub async fn starter(self: &Arc<Self>, function: Arc<Function>) -> Result<Arc<CriuStarter>, Error> {
        let (all, of) = (self.clone(), function.clone());
        let (expected, found) =
            tokio::task::spawn_blocking(move || all.find(&of)).await.map_err(start_error)??;
        let slot = Slot::new(found.map(Arc::new));
        let (all, made_us) = (self.clone(), AtomicU64::new(0));
        Ok(Arc::new(CriuStarter(Arc::new(Inner { all, function, expected, slot, made_us }))))
    }

    /// What a dump of the function must be of, for which all of its runtime is read once, and the one that there is.
    fn find(&self, function: &Function) -> Result<(Expected, Option<KeptDump>), Error> {
        let (spec, agent) = (&function.spec, function.agent());
        let expected = Expected {
            svmid: svmid(spec),
            function: spec.name.clone(),
            entry_point: spec.entry_point.clone(),
            code: function.code.digest.clone(),
            runtime: self.vms.runtime_digest(agent)?,
            memory: spec.memory,
            tmp_mib: self.tmp_mib,
            max_result: self.max_result,
            time_zone: child::time_zone().map(|zone| zone.to_string_lossy().into_owned()),
            criu: criu::version().unwrap_or_default().to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            hydra: crate::snapshot::BUILD.into(),
        };
        let found = self
            .dumps
            .find(&expected)
            .map_err(|error| Error::Unavailable(format!("dumps of processes cannot be kept: {error}")))?;
        Ok((expected, found))
    }
}

impl Starter for CriuStarter {
    fn start(&self, _: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let starter = self.0.clone();
        async move { Ok(Box::new(starter.start().await?) as Box<dyn Sandbox>) }.boxed()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for CriuStarter {
    fn begin_warm_up(&self) {
        self.0.slot.begin_warm_up();
    }

    fn end_warm_up(&self, complete: bool) {
        self.0.slot.end_warm_up(complete);
    }

    fn status(&self) -> SnapshotStatus {
        let (dump, state) = self.0.slot.status();
        SnapshotStatus {
            svmid: self.0.expected.svmid,
            spares: 0,
            state,
            ready: dump.map(|dump| SnapshotFigures {
                memory_bytes: dump.memory_bytes,
                state_bytes: dump.other_bytes,
                created: dump.manifest.created,
                pause_us: dump.manifest.pause_us,
                made_us: Some(self.0.made_us.load(Ordering::Relaxed)).filter(|us| *us > 0),
            }),
            guest: Counts::default(),
        }
    }
}

impl Inner {
    /// A sandbox that has served nobody: one that goes on from the dump, if there is one.
    async fn start(self: Arc<Self>) -> Result<CriuProcess, Error> {
        if let Some(dump) = self.slot.get().await {
            match self.restore(&dump).await {
                Ok(process) => {
                    return Ok(CriuProcess { process, start: Start::Restore, starter: self });
                }
                Err(error) => {
                    let name = &self.function.spec.name;
                    tracing::warn!(function = name, %error, "its dump is not used: it is made anew");
                    self.slot.discard(&dump);
                }
            }
        }
        let process = self.start_cold().await?;
        Ok(CriuProcess { process, start: Start::Cold, starter: self })
    }

    async fn start_cold(&self) -> Result<Process, Error> {
        let (all, spec, agent) = (&self.all, &self.function.spec, self.function.agent());
        let jail = self.jail(Criu::Dumpable(self.expected.svmid))?;
        let jailed = jail.spawn(all.blanks.scratch()).await.map_err(start_error)?;
        let blank = Blank::greet(jailed, agent).await?;
        let (mut jailed, channel) = blank.into_parts(&spec.name).map_err(start_error)?;
        let assigned = jailed.assign(&self.function.code.root, &self.limits()).await.map_err(start_error)?;
        let mut process = Process::new(jailed, channel, spec.memory, &all.blanks.watch);
        process.load(&self.function, &assigned, all.max_result).await?;
        Ok(process)
    }

    async fn restore(&self, dump: &KeptDump) -> Result<Process, Error> {
        let (all, spec) = (&self.all, &self.function.spec);
        let agent = dump.manifest.agent.clone();
        let jail = self.jail(Criu::Restored(Dump { folder: dump.folder.clone(), agent }))?;
        let (code, limits) = (&self.function.code.root, self.limits());
        let jailed = jail.spawn_assigned(all.blanks.scratch(), code, &limits).await.map_err(start_error)?;
        let blank = Blank::restored(jailed, &spec.name, all.max_result);
        let (jailed, channel) = blank.and_then(|blank| blank.into_parts(&spec.name)).map_err(start_error)?;
        let mut process = Process::new(jailed, channel, spec.memory, &all.blanks.watch);
        process.busy(false);
        Ok(process)
    }

    fn jail(&self, criu: Criu) -> Result<Jail, Error> {
        let spec = &self.function.spec;
        let mut jail = self.all.blanks.jail(self.function.agent(), Mode::MicroVm { memory: spec.memory })?;
        // All of them have one user, whose processes are counted together.
        jail.processes = jail.processes.saturating_mul(spec.concurrency);
        jail.criu = Some(criu);
        Ok(jail)
    }

    fn limits(&self) -> Limits {
        Limits { memory_mib: self.function.spec.memory }
    }

    /// Dumps an agent that waits for its next frame.
    async fn dump(&self, dumper: Dumper) -> Result<KeptDump, String> {
        let staged = self.all.dumps.stage().map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let agent = dumper.dump(staged.path()).await.map_err(|error| error.to_string())?;
        let pause = begun.elapsed();
        let (dumps, expected) = (self.all.clone(), self.expected.clone());
        tokio::task::spawn_blocking(move || dumps.dumps.keep(staged, expected, agent, pause))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }
}

fn start_error(error: impl std::fmt::Display) -> Error {
    Error::Start(error.to_string())
}

/// A process that can be, or was, checkpointed.
struct CriuProcess {
    process: Process,
    start: Start,
    starter: Arc<Inner>,
}

impl CriuProcess {
    async fn checkpoint(&mut self) -> Option<()> {
        let starter = self.starter.clone();
        // What goes on from a dump has other numbers than one that was started: it is not dumped again.
        let making = starter.slot.claim()?;
        let name = &starter.function.spec.name;
        if let Err(obstacle) = make_ready(self.process.channel()).await {
            tracing::warn!(function = name, "no dump was made: {obstacle}");
            if matches!(obstacle, Obstacle::Silence) {
                self.process.kill();
            }
            return None;
        }
        let begun = Instant::now();
        match starter.dump(self.process.dumper()).await {
            Ok(dump) => {
                starter.made_us.store(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                let bytes = dump.memory_bytes;
                tracing::info!(function = name, svmid = starter.expected.svmid, bytes, "dump made");
                making.done(Arc::new(dump));
            }
            Err(error) => tracing::warn!(function = name, error, "no dump was made"),
        }
        Some(())
    }
}

impl Sandbox for CriuProcess {
    fn channel(&mut self) -> &mut Channel {
        self.process.channel()
    }

    fn health(&self) -> &Arc<Health> {
        self.process.health()
    }

    fn start(&self) -> Start {
        self.start
    }

    fn busy(&mut self, busy: bool) {
        self.process.busy(busy);
    }

    fn is_rest_due(&self) -> bool {
        self.start == Start::Cold && self.starter.slot.is_due()
    }

    fn rest(&mut self) -> BoxFuture<'_, ()> {
        self.checkpoint().map(drop).boxed()
    }

    fn kill(&mut self) {
        self.process.kill();
    }
}
