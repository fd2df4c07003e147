//! The *VMM process* of a function: a jailed process in which all of its microVMs run, so that a program that breaks out of its microVM is in
//! that jail, with nothing but its own function.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | Hydra's side |
//! | `keeping.rs` | the process of each function, and those that wait for one |
//! | `protocol.rs` | what both say to each other |
//! | `serve.rs` | the process from within |
//! | `relay.rs` | what agents and Hydra say to each other, passed on |
//!
//! The process is given no more than it needs, and by descriptors where that can be: `/dev/kvm`, the files of the function's own snapshot and of the
//! template, to be read, and an empty file when a program is to be copied. Hydra keeps the snapshots, and believes nothing that it says of them:
//! what comes out of a jail is only ever restored in one.

mod keeping;
mod protocol;
mod relay;
mod serve;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

pub use self::keeping::{TemplateCopy, VmmProcesses, WaitingProcess};
use self::protocol::{Origin, Reply, Request, Setting};
pub use self::serve::vmm_process_main;
use super::super::{Error, Health};
use super::output::Unnamed;
use super::starter::NotRestored;
use super::{MicroVms, start_error, template};
use crate::agent::{Agent, Runtime};
use crate::function::Function;
use crate::jail::{self, Jail, Jailed, Layer, Limits, Network};
use crate::linux::counters::{Counters, Counts};
use crate::linux::net::Policy;
use crate::messages::{Connection, content};
use crate::snapshot::{Copied, Snapshot, Staging};
use crate::sync::lock;
use crate::vmm::open_device;

/// MiB of the process's own `/tmp`, where roots are composed.
const TMP: u32 = 16;
/// Most threads and descriptors of the process: for some hundred microVMs.
const THREADS: u32 = 16 << 10;
const DESCRIPTORS: u32 = 64 << 10;
/// MiB that a microVM takes beside its RAM, at most.
const OVERHEAD: u32 = 64;
/// So many microVMs there may be for each sandbox that the function may have: ready ones, and those that are about to end.
const FOR_EACH: u32 = 2;
/// How long the process may take to do what it is asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is said of one that takes longer, and of one that says what makes no sense.
const LATE: &str = "it did not answer in time";
const OTHER: &str = "it gave another's answer";
/// Most bytes of a program's state, and of what is said of the pages that it touched.
const MOST_STATE: u64 = 64 << 20;
const MOST_TOUCHED: u64 = 256 << 10;

/// A running VMM process. It ends, and all of its microVMs, when this is dropped.
pub struct VmmProcess {
    hydra: Arc<Connection>,
    jailed: tokio::sync::Mutex<Jailed>,
    /// What it prints, until it is known of which function that is.
    output: Mutex<Option<Unnamed>>,
    shared: Arc<Shared>,
    next: AtomicU64,
    /// The snapshots that it knows, by the numbers that it knows them by.
    known: Mutex<Vec<(u64, Weak<Snapshot>)>>,
}

/// What its answers come to.
#[derive(Default)]
struct Shared {
    has_ended: AtomicBool,
    /// Nobody needs it any more.
    is_let_go: AtomicBool,
    /// The name of its function, once it has one.
    function: OnceLock<String>,
    /// Why it is of no use.
    useless: Mutex<Option<String>>,
    /// Who waits for an answer, by microVM.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    /// The microVMs that there are.
    vms: Mutex<HashMap<u64, Arc<Health>>>,
    /// What each snapshot is to learn that it knows.
    known: Mutex<HashMap<u64, Weak<Snapshot>>>,
    /// Who waits for the function to be there.
    assigned: Mutex<Option<oneshot::Sender<Result<(), String>>>>,
    counters: Mutex<Arc<Counters>>,
}

enum Answer {
    Made(Duration),
    NotMade { reason: String, snapshot_is_useless: bool },
    Copied(Copied, Duration),
    NotCopied(String),
}

/// A microVM in a VMM process. It ends when this is dropped.
pub struct JailedVm {
    process: Arc<VmmProcess>,
    number: u64,
    health: Arc<Health>,
}

impl VmmProcess {
    /// Starts one for some function in a language, each of whose microVMs has `memory` MiB.
    ///
    /// # Errors
    /// When there is no such language here, or no KVM, or the jail cannot be made.
    pub async fn start(vms: &MicroVms, agent: Agent, memory: u32) -> Result<Arc<VmmProcess>, Error> {
        let runtime = vms.programs.runtime(agent)?;
        let jail = jail(vms, runtime, memory).map_err(failed)?;
        let mut jailed = jail.spawn(&vms.scratch).await.map_err(failed)?;
        let output = Unnamed::of(jailed.take_output()).map_err(failed)?;
        let hydra = Arc::new(Connection::new(jailed.take_channel()).map_err(failed)?);
        let setting = Setting {
            runtime: runtime.clone(),
            scratch: jailed.tmp().to_owned(),
            memory,
            tmp_bytes: vms.programs.tmp_bytes(),
            network: inner_network(&jail, vms.programs.network()),
        };
        let device = open_device().map_err(failed)?;
        hydra.send(&Request::Begin(Box::new(setting)), vec![device]).map_err(failed)?;
        let shared = Arc::<Shared>::default();
        tokio::spawn(listen(hydra.clone(), shared.clone()));
        Ok(Arc::new(VmmProcess {
            hydra,
            jailed: jailed.into(),
            output: Mutex::new(Some(output)),
            shared,
            next: AtomicU64::new(1),
            known: Mutex::default(),
        }))
    }

    /// Gives it its function, once. What its microVMs do is counted in `counters` from now on.
    ///
    /// # Errors
    /// The code cannot be shown in its jail, or the process fails.
    pub async fn assign(&self, function: &Function, counters: Arc<Counters>) -> Result<(), Error> {
        let spec = &function.spec;
        let memory_mib = spec
            .memory
            .saturating_add(OVERHEAD)
            .saturating_mul(spec.concurrency.saturating_mul(FOR_EACH))
            .saturating_add(OVERHEAD);
        let mut jailed = self.jailed.lock().await;
        let assigned = jailed.assign(&function.code.root, &Limits { memory_mib }).await.map_err(failed)?;
        let (sender, answer) = oneshot::channel();
        *lock(&self.shared.assigned) = Some(sender);
        let request = Request::Assign { function: spec.name.clone(), code: assigned.code };
        if !self.is_alive() || self.hydra.send(&request, Vec::new()).is_err() {
            return Err(self.shared.gone());
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(assigned)) => assigned.map_err(failed)?,
            Ok(Err(_)) => return Err(self.shared.gone()),
            Err(_) => return Err(failed(LATE)),
        }
        if let Some(output) = lock(&self.output).take() {
            output.forward(&spec.name);
        }
        *lock(&self.shared.counters) = counters;
        self.shared.function.get_or_init(|| spec.name.clone());
        Ok(())
    }

    /// Whether it was there when last heard of.
    pub fn is_alive(&self) -> bool {
        !self.shared.has_ended.load(Ordering::Acquire)
    }

    /// Makes a microVM in which an agent starts, and the stream to it.
    ///
    /// # Errors
    /// The machine fails, or the process does.
    pub async fn boot(self: &Arc<Self>) -> Result<(JailedVm, UnixStream), NotRestored> {
        let (vm, stream, _) = self.make(Origin::Cold).await?;
        Ok((vm, stream))
    }

    /// Makes a microVM that goes on from the snapshot, the stream to it, and how long that took.
    ///
    /// # Errors
    /// As [`VmmProcess::boot`], or the snapshot will not do.
    pub async fn restore(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(JailedVm, UnixStream, Duration), NotRestored> {
        let snapshot = self.number(snapshot).map_err(start_error)?;
        self.make(Origin::Snapshot(snapshot)).await
    }

    async fn make(self: &Arc<Self>, origin: Origin) -> Result<(JailedVm, UnixStream, Duration), NotRestored> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = net::UnixStream::pair().map_err(start_error)?;
        ours.set_nonblocking(true).map_err(start_error)?;
        let ours = UnixStream::from_std(ours).map_err(start_error)?;
        // Asked before it is there: its end may be heard of first.
        let health = Arc::<Health>::default();
        lock(&self.shared.vms).insert(number, health.clone());
        let vm = JailedVm { process: self.clone(), number, health };
        let request = Request::Make { vm: number, origin };
        match self.ask(number, &request, vec![theirs.into()]).await? {
            Answer::Made(time) => Ok((vm, ours, time)),
            Answer::NotMade { reason, snapshot_is_useless: true } => Err(NotRestored::Useless(reason)),
            Answer::NotMade { reason, .. } => Err(start_error(reason).into()),
            _ => Err(failed(OTHER).into()),
        }
    }

    /// The number by which the process knows the snapshot: what it does not know it is told.
    fn number(&self, snapshot: &Arc<Snapshot>) -> io::Result<u64> {
        let mut known = lock(&self.known);
        self.number_among(&mut known, snapshot)
    }

    fn number_among(
        &self,
        known: &mut Vec<(u64, Weak<Snapshot>)>,
        snapshot: &Arc<Snapshot>,
    ) -> io::Result<u64> {
        let is_it = |(_, known): &&(u64, Weak<Snapshot>)| known.as_ptr() == Arc::as_ptr(snapshot);
        if let Some((number, _)) = known.iter().find(is_it) {
            return Ok(*number);
        }
        for (number, _) in known.extract_if(.., |(_, known)| known.strong_count() == 0) {
            lock(&self.shared.known).remove(&number);
            self.hydra.send(&Request::Forget { snapshot: number }, Vec::new())?;
        }
        let parent = snapshot.parent().map(|parent| self.number_among(known, parent)).transpose()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.hydra.send(&Request::Know { snapshot: number, parent }, snapshot.hand_over()?.into())?;
        known.push((number, Arc::downgrade(snapshot)));
        lock(&self.shared.known).insert(number, Arc::downgrade(snapshot));
        Ok(number)
    }

    /// Asks something of a microVM that is answered, and waits for that.
    async fn ask(&self, vm: u64, request: &Request, descriptors: Vec<OwnedFd>) -> Result<Answer, Error> {
        let (sender, answer) = oneshot::channel();
        lock(&self.shared.waiting).insert(vm, sender);
        if !self.is_alive() || self.hydra.send(request, descriptors).is_err() {
            self.shared.ended();
            return Err(self.shared.gone());
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|_| self.shared.gone()),
            Err(_) => {
                lock(&self.shared.waiting).remove(&vm);
                Err(failed(LATE))
            }
        }
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        self.shared.is_let_go.store(true, Ordering::Release);
    }
}

impl JailedVm {
    /// What is known of its end.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Ends the program now.
    pub fn kill(&self) {
        // A process that is gone has ended it.
        let _ = self.process.hydra.send(&Request::End { vm: self.number }, Vec::new());
    }

    /// Ends the program, and makes it go on from the snapshot that it is a copy of, in the same microVM.
    ///
    /// # Errors
    /// As [`VmmProcess::restore`].
    pub async fn reset(
        self,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(JailedVm, UnixStream, Duration), NotRestored> {
        let snapshot = self.process.number(snapshot).map_err(start_error)?;
        self.process.make(Origin::Reset { vm: self.number, snapshot }).await
    }

    /// Copies the program, whose agent is ready, into `staging`, from where the snapshot comes to its place. Also gives how long it took since
    /// the program was at rest.
    ///
    /// # Errors
    /// The disk is full or fails, or the process does.
    pub async fn copy(
        &self,
        staging: &Staging,
        upon: Option<&Arc<Snapshot>>,
    ) -> Result<(Copied, Duration), Error> {
        let upon = upon.map(|upon| self.process.number(upon)).transpose().map_err(start_error)?;
        let request = Request::Copy { vm: self.number, upon, bytes: staging.bytes() };
        let memory = staging.memory().map_err(start_error)?;
        match self.process.ask(self.number, &request, vec![memory]).await? {
            Answer::Copied(copied, time) => Ok((copied, time)),
            Answer::NotCopied(reason) => Err(start_error(reason)),
            _ => Err(failed(OTHER)),
        }
    }

    /// Has the process find out what the program, which is done with its first request, has touched of its snapshot.
    pub fn look(&self) {
        let _ = self.process.hydra.send(&Request::Look { vm: self.number, briefly: false }, Vec::new());
    }

    /// The same, to be called while its first request runs.
    pub fn look_briefly(&self) -> impl FnOnce() + Send + use<> {
        let (hydra, vm) = (self.process.hydra.clone(), self.number);
        move || {
            let _ = hydra.send(&Request::Look { vm, briefly: true }, Vec::new());
        }
    }
}

impl Drop for JailedVm {
    fn drop(&mut self) {
        // Why it ended is still heard.
        self.kill();
    }
}

/// Hears what a process says until it ends.
async fn listen(hydra: Arc<Connection>, shared: Arc<Shared>) {
    let mut told = Counts::default();
    loop {
        match hydra.receive::<Reply>().await {
            Ok(Some((Reply::Counted(counts), _))) => {
                lock(&shared.counters).add(&counts.since(&told));
                told = counts;
            }
            Ok(Some((reply, descriptors))) => shared.take(reply, descriptors),
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => {
                tracing::warn!(%error, "a VMM process broke the protocol");
                break;
            }
        }
    }
    if !shared.is_let_go.load(Ordering::Acquire) {
        tracing::warn!(function = shared.function.get(), "a VMM process has ended, and all microVMs in it");
    }
    shared.ended();
}

impl Shared {
    /// There is no such process any more.
    fn ended(&self) {
        self.has_ended.store(true, Ordering::Release);
        lock(&self.waiting).clear();
        *lock(&self.assigned) = None;
        lock(&self.vms).drain().for_each(|(_, health)| health.judge());
    }

    /// What is said to whoever wanted something of it.
    fn gone(&self) -> Error {
        failed(lock(&self.useless).as_deref().unwrap_or("it has ended"))
    }

    fn take(&self, reply: Reply, descriptors: Vec<OwnedFd>) {
        let (vm, answer) = match reply {
            Reply::Assigned(outcome) => {
                if let Some(waiting) = lock(&self.assigned).take() {
                    // Who gave up waiting needs no answer.
                    let _ = waiting.send(outcome);
                }
                return;
            }
            Reply::Useless(reason) => {
                *lock(&self.useless) = Some(reason);
                return;
            }
            Reply::Made { vm, time } => (vm, Answer::Made(time)),
            Reply::NotMade { vm, reason, snapshot_is_useless } => {
                lock(&self.vms).remove(&vm);
                (vm, Answer::NotMade { reason, snapshot_is_useless })
            }
            Reply::Copied { vm, .. } if !lock(&self.waiting).contains_key(&vm) => return,
            Reply::Copied { vm, mut copied, time } => {
                let state = descriptors.into_iter().next().map(|file| content(file, MOST_STATE));
                let answer = match state {
                    Some(Ok(state)) => {
                        copied.state = state;
                        Answer::Copied(copied, time)
                    }
                    Some(Err(error)) => Answer::NotCopied(error.to_string()),
                    None => Answer::NotCopied("it comes without its state".into()),
                };
                (vm, answer)
            }
            Reply::NotCopied { vm, reason } => (vm, Answer::NotCopied(reason)),
            Reply::Ended { vm, out_of_memory } => {
                if let Some(health) = lock(&self.vms).remove(&vm) {
                    if out_of_memory {
                        health.ran_out_of_memory();
                    }
                    health.judge();
                }
                return;
            }
            Reply::Touched { snapshot } => {
                let snapshot = lock(&self.known).get(&snapshot).and_then(Weak::upgrade);
                let text = descriptors.into_iter().next().and_then(|file| content(file, MOST_TOUCHED).ok());
                // Of a template it is not believed: others begin with that, too.
                if let (Some(snapshot), Some(text)) =
                    (snapshot.filter(|of| of.manifest().function != template::NAME), text)
                {
                    snapshot.learn_working_set(&String::from_utf8_lossy(&text));
                }
                return;
            }
            Reply::Counted(_) => return,
        };
        if let Some(waiting) = lock(&self.waiting).remove(&vm) {
            // Who gave up waiting needs no answer.
            let _ = waiting.send(answer);
        }
    }
}

/// The jail of a process whose microVMs run agents on `runtime`, with `memory` MiB each.
fn jail(vms: &MicroVms, runtime: &Runtime, memory: u32) -> io::Result<Jail> {
    let program = std::env::current_exe()?;
    let mut jail = Jail::new(&program, &vms.code_store);
    jail.arguments = vec!["jail-vmm".into()];
    jail.readable = runtime.readable().into_iter().chain([program]).collect();
    jail.network = match vms.programs.network() {
        Policy::Open => Network::Host,
        // Where a jail cannot have its own, programs are kept from it all the same.
        _ if !jail::probe().has(Layer::Network) => Network::Host,
        _ => Network::None,
    };
    (jail.tmp_mib, jail.processes, jail.open_files) = (TMP, THREADS, DESCRIPTORS);
    // It can write to what it copies programs to for as long as it lives.
    jail.largest_file = Some(u64::from(memory) << 20);
    jail.has_messages = true;
    Ok(jail)
}

/// Whom programs may talk to within the network of their jail.
fn inner_network(jail: &Jail, wanted: Policy) -> Policy {
    match (jail.network, wanted) {
        // The jail's own is what they may have; it has no more.
        (Network::None, Policy::Loopback) => Policy::Open,
        // No process in a jail may make one.
        (Network::Host, Policy::Loopback) => Policy::Closed,
        (_, wanted) => wanted,
    }
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::Start(format!("its VMM process: {why}"))
}
