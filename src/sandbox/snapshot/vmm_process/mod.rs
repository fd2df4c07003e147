//! The *VMM process* of a function: a jailed process in which all of its microVMs run, so that a program that breaks out of its microVM is in
//! that jail, with nothing but its own function.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | Hydra's side |
//! | `protocol.rs` | what both say to each other |
//! | `serve.rs` | the process from within |
//! | `relay.rs` | what agents and Hydra say to each other, passed on |
//!
//! The process is given no more than it needs, and by descriptors where that can be: `/dev/kvm`, the files of the function's own snapshot and of the
//! template, to be read, and an empty file when a program is to be copied. Hydra keeps the snapshots, and believes nothing that it says of them:
//! what comes out of a jail is only ever restored in one.

mod protocol;
mod relay;
mod serve;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use self::protocol::{Origin, Reply, Request, Setting};
pub use self::serve::vmm_process_main;
use super::super::{Error, Health};
use super::starter::NotRestored;
use super::{MicroVms, start_error, template};
use crate::agent::LogSink;
use crate::agent::log::Stream;
use crate::agent::spawn::forward;
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
/// Threads and descriptors of a microVM, and of the process beside them.
const THREADS: u32 = 64;
const DESCRIPTORS: u32 = 64;
const OF_ITS_OWN: u32 = 512;
/// MiB that a microVM takes beside its RAM, at most.
const OVERHEAD: u32 = 64;
/// So many microVMs there may be for each sandbox that the function may have: ready ones, and those that are about to end.
const FOR_EACH: u32 = 2;
/// How long making or copying a microVM may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of what is said of a program: its state, or what it touched.
const MOST_STATE: u64 = 256 << 20;

/// A running VMM process. It ends, and all of its microVMs, when this is dropped.
pub struct VmmProcess {
    hydra: Arc<Connection>,
    _jailed: Jailed,
    shared: Arc<Shared>,
    next: AtomicU64,
    /// The snapshots that it knows, by the numbers that it knows them by.
    known: Mutex<Vec<(u64, Weak<Snapshot>)>>,
}

/// The VMM process of a function: started when it is needed, and again when it has ended.
#[derive(Default)]
pub struct VmmProcesses(tokio::sync::Mutex<Option<Arc<VmmProcess>>>);

impl VmmProcesses {
    /// The one that there is, or a new one.
    ///
    /// # Errors
    /// As [`VmmProcess::start`].
    pub async fn get(
        &self,
        vms: &MicroVms,
        function: &Function,
        counters: &Arc<Counters>,
    ) -> Result<Arc<VmmProcess>, Error> {
        let mut current = self.0.lock().await;
        if let Some(process) = current.as_ref().filter(|process| process.is_alive()) {
            return Ok(process.clone());
        }
        let process = VmmProcess::start(vms, function, counters.clone()).await?;
        Ok(current.insert(process).clone())
    }

    /// Whether the one that there was has ended.
    pub async fn has_ended(&self) -> bool {
        self.0.lock().await.as_ref().is_some_and(|process| !process.is_alive())
    }

    /// Lets go of it: it ends with its last microVM.
    pub fn close(&self) {
        // Who is starting one uses it at once.
        if let Ok(mut current) = self.0.try_lock() {
            *current = None;
        }
    }
}

/// What its answers come to.
#[derive(Default)]
struct Shared {
    has_ended: AtomicBool,
    /// Why it is of no use.
    useless: Mutex<Option<String>>,
    /// Who waits for an answer, by microVM.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    /// The microVMs that there are.
    vms: Mutex<HashMap<u64, Arc<Health>>>,
    /// What each snapshot is to learn that it knows.
    known: Mutex<HashMap<u64, Weak<Snapshot>>>,
    counters: Arc<Counters>,
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
    /// Starts one for a function. What its microVMs do is counted in `counters`.
    ///
    /// # Errors
    /// When there is no such language here, or no KVM, or the jail cannot be made.
    pub async fn start(
        vms: &MicroVms,
        function: &Function,
        counters: Arc<Counters>,
    ) -> Result<Arc<VmmProcess>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Start(format!("the VMM process: {error}"));
        let (spec, runtime) = (&function.spec, vms.programs.runtime(function.agent())?);
        let jail = jail(vms, function).map_err(|error| failed(&error))?;
        let mut jailed = jail.spawn(&vms.scratch).await.map_err(|error| failed(&error))?;
        let (stdout, stderr) = jailed.take_output();
        for (pipe, stream) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
            let pipe = Receiver::from_owned_fd(pipe).map_err(|error| failed(&error))?;
            tokio::spawn(forward(pipe, stream, LogSink::new(spec.name.as_str())));
        }
        let copies = spec.concurrency.saturating_mul(FOR_EACH);
        let memory_mib = spec.memory.saturating_add(OVERHEAD).saturating_mul(copies).saturating_add(OVERHEAD);
        let assigned = jailed
            .assign(&function.code.root, &Limits { memory_mib })
            .await
            .map_err(|error| failed(&error))?;
        let hydra = Arc::new(Connection::new(jailed.take_channel()).map_err(|error| failed(&error))?);
        let setting = Setting {
            function: spec.name.clone(),
            runtime: runtime.clone(),
            code: assigned.code,
            scratch: assigned.tmp,
            memory: spec.memory,
            tmp_bytes: vms.programs.tmp_bytes(),
            network: inner_network(&jail, vms.programs.network()),
        };
        let device = open_device().map_err(|error| failed(&error))?;
        hydra.send(&Request::Begin(Box::new(setting)), vec![device]).map_err(|error| failed(&error))?;
        let shared = Arc::new(Shared { counters, ..Shared::default() });
        tokio::spawn(listen(hydra.clone(), shared.clone(), spec.name.clone()));
        let (next, known) = (AtomicU64::new(1), Mutex::default());
        Ok(Arc::new(VmmProcess { hydra, _jailed: jailed, shared, next, known }))
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
            _ => Err(start_error("its VMM process gave another's answer").into()),
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
        let ended = || {
            let reason = lock(&self.shared.useless).clone();
            start_error(reason.unwrap_or_else(|| "its VMM process has ended".into()))
        };
        if !self.is_alive() || self.hydra.send(request, descriptors).is_err() {
            self.shared.ended();
            return Err(ended());
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|_| ended()),
            Err(_) => {
                lock(&self.shared.waiting).remove(&vm);
                Err(start_error("its VMM process did not answer in time"))
            }
        }
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
            _ => Err(start_error("its VMM process gave another's answer")),
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
async fn listen(hydra: Arc<Connection>, shared: Arc<Shared>, function: String) {
    let mut told = Counts::default();
    loop {
        match hydra.receive::<Reply>().await {
            Ok(Some((Reply::Counted(counts), _))) => {
                shared.counters.add(&counts.since(&told));
                told = counts;
            }
            Ok(Some((reply, descriptors))) => shared.take(reply, descriptors),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(function, %error, "a VMM process broke the protocol");
                break;
            }
        }
    }
    shared.ended();
}

impl Shared {
    /// There is no such process any more.
    fn ended(&self) {
        self.has_ended.store(true, Ordering::Release);
        lock(&self.waiting).clear();
        lock(&self.vms).drain().for_each(|(_, health)| health.judge());
    }

    fn take(&self, reply: Reply, descriptors: Vec<OwnedFd>) {
        let (vm, answer) = match reply {
            Reply::Useless(reason) => {
                *lock(&self.useless) = Some(reason);
                return;
            }
            Reply::Made { vm, time } => (vm, Answer::Made(time)),
            Reply::NotMade { vm, reason, snapshot_is_useless } => {
                lock(&self.vms).remove(&vm);
                (vm, Answer::NotMade { reason, snapshot_is_useless })
            }
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
                let text = descriptors.into_iter().next().and_then(|file| content(file, MOST_STATE).ok());
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

/// The jail of the process.
fn jail(vms: &MicroVms, function: &Function) -> io::Result<Jail> {
    let program = std::env::current_exe()?;
    let runtime = vms.programs.runtime(function.agent()).map_err(io::Error::other)?;
    let copies = function.spec.concurrency.saturating_mul(FOR_EACH);
    let mut jail = Jail::new(&program, &vms.code_store);
    jail.arguments = vec!["jail-vmm".into()];
    jail.readable = runtime.readable().into_iter().chain([program]).collect();
    jail.network = match vms.programs.network() {
        Policy::Open => Network::Host,
        // Where a jail cannot have its own, programs are kept from it all the same.
        _ if !jail::probe().has(Layer::Network) => Network::Host,
        _ => Network::None,
    };
    jail.tmp_mib = TMP;
    jail.processes = copies.saturating_mul(THREADS).saturating_add(OF_ITS_OWN);
    jail.open_files = copies.saturating_mul(DESCRIPTORS).saturating_add(OF_ITS_OWN);
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
