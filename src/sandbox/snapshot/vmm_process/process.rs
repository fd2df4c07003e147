//! A VMM process, as Hydra has it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::super::super::memory::Watched;
use super::super::super::{Error, Health};
use super::super::output::Unnamed;
use super::super::starter::NotRestored;
use super::super::{MicroVms, start_error};
use super::failed;
use super::hearing::{Answer, Hearing, Known, listen};
use super::jailed_vm::JailedVm;
use super::protocol::{Origin, Request, Setting};
use crate::agent::{Agent, Runtime};
use crate::function::{Function, Spec};
use crate::jail::{self, Jail, Jailed, Layer, Limits, Network};
use crate::linux::counters::Counters;
use crate::linux::net::Policy;
use crate::messages::{Connection, refuse_descriptors, unnamed_file};
use crate::snapshot::Snapshot;
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
/// So many microVMs it is asked to make at a time: the more there are, the longer each takes, and the last of hundreds at once would be given up.
const AT_A_TIME: usize = 8;
/// How long the process may take to do what it is asked, before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is said of one that says what makes no sense.
pub(super) const OTHER: &str = "it gave another's answer";
/// Of so many looks at the memory of sandboxes, one is at that of a VMM process: it has many mappings.
const LOOKS: u32 = 200;

/// A running VMM process. It ends, and all of its microVMs, when this is dropped.
pub struct VmmProcess {
    connection: Arc<Connection>,
    /// None while it is being given its function.
    jailed: Mutex<Option<Jailed>>,
    /// Most bytes of all that it takes.
    limit: AtomicU64,
    looks: AtomicU32,
    /// What it prints, until it is known of which function that is.
    output: Mutex<Option<Unnamed>>,
    pub(super) hearing: Arc<Hearing>,
    next: AtomicU64,
    /// One for each microVM that may be asked for now.
    making: Semaphore,
}

impl VmmProcess {
    /// Starts one for some function in a language, each of whose microVMs has `memory` MiB.
    ///
    /// # Errors
    /// When there is no such language here, or no KVM, or the jail cannot be made.
    pub async fn start(vms: &MicroVms, agent: Agent, memory: u32) -> Result<Arc<VmmProcess>, Error> {
        let runtime = vms.programs.runtime(agent)?;
        let jail = jail(vms, runtime).map_err(failed)?;
        let mut jailed = jail.spawn(&vms.scratch).await.map_err(failed)?;
        let output = Unnamed::of(jailed.take_output()).map_err(failed)?;
        let channel = jailed.take_channel();
        refuse_descriptors(channel.as_fd());
        let connection = Arc::new(Connection::new(channel).map_err(failed)?);
        let setting = Setting {
            runtime: runtime.clone(),
            scratch: jailed.tmp().to_owned(),
            memory,
            tmp_bytes: vms.programs.tmp_bytes(),
            network: inner_network(&jail, vms.programs.network()),
        };
        let device = open_device().map_err(failed)?;
        connection.send(&Request::Begin(Box::new(setting)), vec![device]).map_err(failed)?;
        let hearing = Arc::new(Hearing::new(jailed.killer().map_err(failed)?));
        tokio::spawn(listen(connection.clone(), hearing.clone()));
        let process = Arc::new(VmmProcess {
            connection,
            jailed: Mutex::new(Some(jailed)),
            limit: AtomicU64::new(u64::MAX),
            looks: AtomicU32::new(0),
            output: Mutex::new(Some(output)),
            hearing,
            next: AtomicU64::new(1),
            making: Semaphore::new(AT_A_TIME),
        });
        let watched: Arc<dyn Watched> = process.clone();
        vms.watch.add(Arc::downgrade(&watched));
        Ok(process)
    }

    /// Gives it its function, once. What its microVMs do is counted in `counters` from now on.
    ///
    /// # Errors
    /// The code cannot be shown in its jail, or the process fails.
    pub async fn assign(&self, function: &Function, counters: Arc<Counters>) -> Result<(), Error> {
        let limits = Limits { memory_mib: most_memory(&function.spec) };
        self.limit.store(u64::from(limits.memory_mib) << 20, Ordering::Relaxed);
        let mut jailed = lock(&self.jailed).take().ok_or_else(|| self.hearing.gone())?;
        // Dropped, and so ended, where this is given up half-way.
        let assigned = jailed.assign(&function.code.root, &limits).await.map_err(failed)?;
        *lock(&self.jailed) = Some(jailed);
        let answer = self.hearing.expect_assignment();
        self.tell(&Request::Assign { function: function.spec.name.clone(), code: assigned.code }, Vec::new());
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(assigned)) => assigned.map_err(failed)?,
            Ok(Err(_)) => return Err(self.hearing.gone()),
            Err(_) => return Err(self.late()),
        }
        if let Some(output) = lock(&self.output).take() {
            output.forward(&function.spec.name);
        }
        *lock(&self.hearing.counters) = counters;
        self.hearing.function.get_or_init(|| function.spec.name.clone());
        Ok(())
    }

    /// Whether it was there when last heard of.
    pub fn is_alive(&self) -> bool {
        self.hearing.is_alive()
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

    pub(super) async fn make(
        self: &Arc<Self>,
        origin: Origin,
    ) -> Result<(JailedVm, UnixStream, Duration), NotRestored> {
        let _making = self.making.acquire().await.map_err(start_error)?;
        let begun = Instant::now();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = net::UnixStream::pair().map_err(start_error)?;
        ours.set_nonblocking(true).map_err(start_error)?;
        let ours = UnixStream::from_std(ours).map_err(start_error)?;
        // Before it is there: its end may be heard of first.
        let health = Arc::<Health>::default();
        lock(&self.hearing.vms).insert(number, health.clone());
        let mut vm = JailedVm { process: self.clone(), number, health, is_there: false };
        let request = Request::Make { vm: number, origin };
        match self.ask(number, &request, vec![theirs.into()], PATIENCE).await? {
            Answer::Made(time) => {
                vm.is_there = true;
                Ok((vm, ours, time.min(begun.elapsed())))
            }
            Answer::NotMade { reason, snapshot_is_useless: true } => Err(NotRestored::Useless(reason)),
            Answer::NotMade { reason, .. } => Err(failed(reason).into()),
            _ => Err(failed(OTHER).into()),
        }
    }

    /// The number by which the process knows the snapshot: what it does not know it is told.
    pub(super) fn number(&self, snapshot: &Arc<Snapshot>) -> io::Result<u64> {
        let mut known = lock(&self.hearing.known);
        for gone in known.extract_if(.., |known| known.snapshot.strong_count() == 0) {
            self.tell(&Request::Forget { snapshot: gone.number }, Vec::new());
        }
        self.number_among(&mut known, snapshot)
    }

    fn number_among(&self, known: &mut Vec<Known>, snapshot: &Arc<Snapshot>) -> io::Result<u64> {
        if let Some(known) = known.iter().find(|known| known.snapshot.as_ptr() == Arc::as_ptr(snapshot)) {
            return Ok(known.number);
        }
        let parent = snapshot.parent().map(|parent| self.number_among(known, parent)).transpose()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let touched = unnamed_file(&[])?;
        let files = snapshot.hand_over()?.into_iter().chain([touched.try_clone()?]).collect();
        self.tell(&Request::Know { snapshot: number, parent }, files);
        known.push(Known { number, snapshot: Arc::downgrade(snapshot), touched: Some(touched.into()) });
        Ok(number)
    }

    /// Forgets a microVM that was not made.
    pub(super) fn forget(&self, vm: u64) {
        lock(&self.hearing.vms).remove(&vm);
    }

    /// Asks something of a microVM that is answered, and waits for that.
    pub(super) async fn ask(
        &self,
        vm: u64,
        request: &Request,
        descriptors: Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<Answer, Error> {
        let answer = self.hearing.expect(vm);
        self.tell(request, descriptors);
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|_| self.hearing.gone()),
            Err(_) => Err(self.late()),
        }
    }

    /// Says something. If it is gone, that is heard; one that takes nothing more is given up.
    pub(super) fn tell(&self, request: &Request, descriptors: Vec<OwnedFd>) {
        if let Err(error) = self.connection.send(request, descriptors)
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.hearing.give_up("it takes no more orders");
        }
    }

    fn late(&self) -> Error {
        self.hearing.give_up("it did not answer in time");
        self.hearing.gone()
    }
}

impl Watched for VmmProcess {
    fn look(&self) {
        if !self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKS) {
            return;
        }
        let memory = lock(&self.jailed).as_ref().and_then(|jailed| jailed.memory().ok());
        if memory.is_some_and(|used| used > self.limit.load(Ordering::Relaxed)) {
            self.hearing.give_up("it used more memory than all of its microVMs may");
        }
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        self.hearing.let_go();
    }
}

/// MiB that all microVMs of a function may take together.
fn most_memory(spec: &Spec) -> u32 {
    let copies = spec.concurrency.saturating_mul(FOR_EACH);
    spec.memory.saturating_add(OVERHEAD).saturating_mul(copies).saturating_add(OVERHEAD)
}

/// A path of this Hydra's executable. Where another took its place, that of a copy in `scratch`: the kernel mounts no file without a name.
fn program(scratch: &Path) -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let path = std::env::current_exe()?;
    if identity(&path).ok() == Some(identity(running)?) {
        return Ok(path);
    }
    let copy = scratch.join("hydra");
    if !copy.exists() {
        let mut made = NamedTempFile::new_in(scratch)?;
        io::copy(&mut File::open(running)?, &mut made)?;
        made.as_file().set_permissions(Permissions::from_mode(0o755))?;
        // That of another that was at it at the same time is the same.
        made.persist(&copy)?;
    }
    Ok(copy)
}

/// The jail of a process whose microVMs run agents on `runtime`.
fn jail(vms: &MicroVms, runtime: &Runtime) -> io::Result<Jail> {
    let program = program(&vms.scratch)?;
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::protocol::Reply;
    use super::*;
    use crate::jail::Killer;
    use crate::messages::pair;

    #[tokio::test]
    async fn a_process_is_asked_for_so_many_microvms_at_a_time() {
        let (ours, theirs) = pair().expect("a socket pair");
        let [connection, theirs] =
            [ours, theirs].map(|socket| Arc::new(Connection::new(socket).expect("watched")));
        let hearing = Arc::new(Hearing::new(Killer::of_nothing()));
        tokio::spawn(listen(connection.clone(), hearing.clone()));
        let process = Arc::new(VmmProcess {
            connection,
            jailed: Mutex::default(),
            limit: AtomicU64::new(u64::MAX),
            looks: AtomicU32::new(0),
            output: Mutex::default(),
            hearing,
            next: AtomicU64::new(1),
            making: Semaphore::new(AT_A_TIME),
        });
        let boot = |_| {
            let process = process.clone();
            tokio::spawn(async move { process.boot().await.map(drop) })
        };
        let booting: Vec<_> = (0..2 * AT_A_TIME).map(boot).collect();
        let mut asked = Vec::new();
        for at in 0..booting.len() {
            let request = loop {
                match theirs.receive::<Request>().await.expect("no error").expect("it is there") {
                    (Request::Make { vm, .. }, _) => break vm,
                    (Request::End { .. }, _) => {}
                    (other, _) => panic!("asked {other:?}"),
                }
            };
            asked.push(request);
            if asked.len() == AT_A_TIME {
                let more = theirs.receive::<Request>().now_or_never();
                assert!(more.is_none(), "{more:?} after {at}");
                let vm = asked.remove(0);
                let reason = "there is no room".to_owned();
                let reply = Reply::NotMade { vm, reason, snapshot_is_useless: false };
                theirs.send(&reply, Vec::new()).expect("sent");
            }
        }
        // Whoever still waits is told.
        drop(theirs);
        for booted in booting {
            assert!(booted.await.expect("no panic").is_err());
        }
    }
}
