//! The VMM process from within: the main of the hidden command `hydra jail-vmm`.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::super::boot::Programs;
use super::super::machine::Machine;
use super::super::output::Output;
use super::super::starter::{NotRestored, SETTLE_TIME};
use super::super::{blocking, start_error};
use super::protocol::{Origin, Reply, Request, Setting};
use super::relay::relay;
use crate::agent::{Agent, Runtimes};
use crate::jail::view::CODE;
use crate::linux::counters::{Counters, Counts};
use crate::linux::{self, Guest, GuestStream, HostStream, Surroundings};
use crate::messages::Connection;
use crate::snapshot::{CopyRoom, Snapshot};
use crate::sync::lock;
use crate::vmm;

/// The descriptor on which Hydra is spoken to: the channel of the jail.
const HYDRA: i32 = 3;

/// How long after something was said to a program Hydra is told what programs did, at most so often.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// Runs as a VMM process until Hydra lets it go.
pub fn vmm_process_main() -> ExitCode {
    vmm::limit_heaps();
    // Hydra logs it as what the function printed.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
    // SAFETY: whoever starts this command opens it for this, and nothing else here owns it.
    let hydra = unsafe { OwnedFd::from_raw_fd(HYDRA) };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(error),
    };
    let served = runtime.block_on(async { serve(Arc::new(Connection::new(hydra)?)).await });
    // Programs that still run end with the process.
    runtime.shutdown_background();
    served.map_or_else(failed, |()| ExitCode::SUCCESS)
}

fn failed(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("hydra jail-vmm: {error}");
    ExitCode::FAILURE
}

async fn serve(hydra: Arc<Connection>) -> std::io::Result<()> {
    let Some((Request::Begin(setting), mut descriptors)) = hydra.receive().await? else {
        return Err(std::io::Error::other("the first message was not what microVMs there will be"));
    };
    let device = descriptors.pop().ok_or(std::io::ErrorKind::InvalidInput)?;
    let begun = blocking(move || vmm::use_device(device).map_err(start_error)).await;
    if let Err(error) = begun.and_then(|used| used) {
        return hydra.send(&Reply::Useless(error.to_string()), Vec::new());
    }
    // The first microVM waits for what it finds out.
    tokio::task::spawn_blocking(|| vmm::Hypervisor::get().map(drop));
    let process = Arc::new(Process::new(*setting, hydra.clone())?);
    tokio::spawn(count(process.clone()));
    while let Some((request, descriptors)) = hydra.receive().await? {
        process.take(request, descriptors)?;
    }
    Ok(())
}

/// Tells Hydra what programs did, when they had something to do: a process in which nothing happens does not wake.
async fn count(process: Arc<Process>) {
    let mut told = Counts::default();
    loop {
        process.active.notified().await;
        tokio::time::sleep(COUNT_INTERVAL).await;
        let counts = process.counters.read();
        if counts != told && process.hydra.send(&Reply::Counted(counts), Vec::new()).is_err() {
            return;
        }
        told = counts;
    }
}

struct Process {
    hydra: Arc<Connection>,
    programs: Programs,
    agent: Agent,
    memory: u32,
    function: Mutex<Option<Assigned>>,
    output: Output,
    counters: Arc<Counters>,
    /// Something was said to a program, or one was made.
    active: Arc<Notify>,
    snapshots: Mutex<HashMap<u64, Known>>,
    vms: Mutex<HashMap<u64, Running>>,
}

/// A snapshot.
#[derive(Clone)]
struct Known {
    number: u64,
    snapshot: Arc<Snapshot>,
    /// For what programs touch first of it; taken once that is written.
    touched: Arc<Mutex<Option<File>>>,
}

/// A microVM that was just made.
struct Made {
    machine: Machine,
    /// What it is a copy of.
    of: Option<Known>,
    time: Duration,
}

/// The function of the process.
#[derive(Clone)]
struct Assigned {
    name: String,
    code: PathBuf,
}

struct Running {
    machine: Machine,
    /// What it is a copy of.
    of: Option<Known>,
    relay: AbortHandle,
}

impl Process {
    fn new(setting: Setting, hydra: Arc<Connection>) -> std::io::Result<Process> {
        let Setting { runtime, scratch, memory, tmp_bytes, network } = setting;
        Ok(Process {
            hydra,
            agent: runtime.agent,
            programs: Programs::new(Arc::new(Runtimes::known(vec![runtime])), scratch, network, tmp_bytes),
            memory,
            function: Mutex::default(),
            output: Output::own()?,
            counters: Arc::default(),
            active: Arc::default(),
            snapshots: Mutex::default(),
            vms: Mutex::default(),
        })
    }

    /// Does what Hydra asks. An error is Hydra's, or its end.
    fn take(self: &Arc<Self>, request: Request, descriptors: Vec<OwnedFd>) -> std::io::Result<()> {
        let missing = || std::io::Error::other("a message lacks what belongs to it");
        match request {
            Request::Begin(_) => return Err(missing()),
            Request::Assign { function, code } => {
                let assigned = self.assign(Assigned { name: function, code });
                let assigned = assigned.map_err(|error| error.to_string());
                self.hydra.send(&Reply::Assigned(assigned), Vec::new())?;
            }
            Request::Know { snapshot, parent } => {
                let [memory, rest, touched] = <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| missing())?;
                let mut snapshots = lock(&self.snapshots);
                let parent = parent.map(|parent| snapshots.get(&parent).ok_or_else(missing)).transpose()?;
                let parent = parent.map(|parent| parent.snapshot.clone());
                let handed = Arc::new(Snapshot::handed_over([memory, rest], parent)?);
                let touched = Arc::new(Mutex::new(Some(touched.into())));
                snapshots.insert(snapshot, Known { number: snapshot, snapshot: handed, touched });
            }
            Request::Forget { snapshot } => drop(lock(&self.snapshots).remove(&snapshot)),
            Request::Make { vm, origin } => {
                let channel = descriptors.into_iter().next().ok_or_else(missing)?;
                let channel = net::UnixStream::from(channel);
                channel.set_nonblocking(true)?;
                tokio::spawn(self.clone().make(vm, origin, UnixStream::from_std(channel)?));
            }
            Request::Copy { vm, upon, bytes } => {
                let files = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| missing())?.map(File::from);
                let upon = upon.and_then(|upon| lock(&self.snapshots).get(&upon).cloned());
                let upon = upon.map(|upon| upon.snapshot);
                tokio::spawn(self.clone().copy(vm, upon, files, bytes));
            }
            Request::Look { vm, briefly } => self.look(vm, briefly),
            Request::End { vm } => drop(lock(&self.vms).remove(&vm)),
        }
        Ok(())
    }

    /// Shows the function's code.
    fn assign(&self, function: Assigned) -> std::io::Result<()> {
        let guests: Vec<_> = lock(&self.vms).values().map(|vm| vm.machine.guest().clone()).collect();
        guests.iter().try_for_each(|guest| guest.mount(&function.code, Path::new(CODE)))?;
        *lock(&self.function) = Some(function);
        Ok(())
    }

    async fn make(self: Arc<Self>, vm: u64, origin: Origin, channel: UnixStream) {
        let (ours, theirs) = linux::stream();
        let process = self.clone();
        let made = match blocking(move || process.make_guest(origin, theirs)).await {
            Ok(made) => made,
            Err(error) => Err(error.into()),
        };
        let reply = match made {
            Ok(Made { machine, of, time }) => {
                self.run(vm, machine, of, ours, channel);
                Reply::Made { vm, time }
            }
            Err(error) => Reply::NotMade {
                vm,
                snapshot_is_useless: matches!(error, NotRestored::Useless(_)),
                reason: error.to_string(),
            },
        };
        // If Hydra is gone this process ends.
        let _ = self.hydra.send(&reply, Vec::new());
    }

    fn make_guest(&self, origin: Origin, channel: GuestStream) -> Result<Made, NotRestored> {
        let outside = self.surroundings(channel)?;
        let unknown = || start_error("Hydra named what there is not");
        let find = |number| lock(&self.snapshots).get(&number).cloned().ok_or_else(unknown);
        let begun;
        let (guest, of) = match origin {
            Origin::Cold => {
                begun = Instant::now();
                (self.programs.boot(self.agent, self.memory, outside)?, None)
            }
            Origin::Snapshot(number) => {
                let known = find(number)?;
                begun = Instant::now();
                let guest = known.snapshot.restore(outside)?;
                self.counters.restored_in(begun.elapsed());
                (guest, Some(known))
            }
            Origin::Reset { vm, snapshot: number } => {
                let known = find(number)?;
                let other = lock(&self.vms).remove(&vm).ok_or_else(unknown)?;
                let remains = other.machine.end();
                // Not before: the program would see the end of the stream, and clean up behind itself.
                other.relay.abort();
                begun = Instant::now();
                let (guest, _) = known.snapshot.reset(&remains, outside).map_err(start_error)?;
                self.counters.reset_in(begun.elapsed());
                self.tell_touched(&known);
                (guest, Some(known))
            }
        };
        let time = begun.elapsed();
        let name = lock(&self.function).as_ref().map_or_else(String::new, |function| function.name.clone());
        let machine = Machine::new(guest, &name).map_err(start_error)?;
        Ok(Made { machine, of, time })
    }

    fn surroundings(&self, channel: GuestStream) -> Result<Surroundings, NotRestored> {
        let (function, counters) = (lock(&self.function).clone(), self.counters.clone());
        let code = function.as_ref().map(|function| &*function.code);
        Ok(self.programs.surroundings(self.agent, code, &self.output, channel, counters)?)
    }

    /// Has a program and Hydra speak with each other until one of them ends.
    fn run(
        self: &Arc<Self>,
        vm: u64,
        machine: Machine,
        of: Option<Known>,
        guest: HostStream,
        hydra: UnixStream,
    ) {
        let (process, health) = (self.clone(), machine.health().clone());
        tokio::spawn(async move {
            health.verdict().await;
            let ended = Reply::Ended { vm, out_of_memory: health.is_out_of_memory() };
            let _ = process.hydra.send(&ended, Vec::new());
        });
        let process = self.clone();
        self.active.notify_one();
        // The table is locked: the task finds it there.
        let mut vms = lock(&self.vms);
        let relay = tokio::spawn(async move {
            // Both ends know why.
            let _ = relay(&guest, hydra, &process.active).await;
            drop(lock(&process.vms).remove(&vm));
            // Not before: a program that sees the end of the stream cleans up behind itself.
            drop(guest);
        });
        vms.insert(vm, Running { machine, of, relay: relay.abort_handle() });
    }

    fn guest(&self, vm: u64) -> Option<Arc<Guest>> {
        lock(&self.vms).get(&vm).map(|running| running.machine.guest().clone())
    }

    async fn copy(self: Arc<Self>, vm: u64, upon: Option<Arc<Snapshot>>, files: [File; 2], bytes: u64) {
        let [memory, state] = files;
        let guest = self.guest(vm);
        let copy = move || {
            let guest = guest.ok_or("it has ended")?;
            if let Some(upon) = &upon {
                upon.note_working_set(&guest);
            }
            guest.settle(SETTLE_TIME);
            let begun = Instant::now();
            let room = CopyRoom::new(memory, bytes, upon).map_err(|error| error.to_string())?;
            let checkpoint = guest.checkpoint().map_err(|error| error.to_string())?;
            let copy = room.copy(&checkpoint).map_err(|error| error.to_string())?;
            // The program goes on; the rest needs it no more.
            drop(checkpoint);
            let copied = copy.finish().map_err(|error| error.to_string())?;
            state.write_all_at(&copied.state, 0).map_err(|error| error.to_string())?;
            Ok::<_, String>((copied, begun.elapsed()))
        };
        let reply = match blocking(copy).await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((copied, time)) => Reply::Copied { vm, copied, time },
            Err(reason) => Reply::NotCopied { vm, reason },
        };
        let _ = self.hydra.send(&reply, Vec::new());
    }

    /// Looks what the program has touched, in the background.
    fn look(self: &Arc<Self>, vm: u64, briefly: bool) {
        let of = lock(&self.vms).get(&vm).map(|vm| (vm.machine.guest().clone(), vm.of.clone()));
        let Some((guest, Some(known))) = of else { return };
        let process = self.clone();
        tokio::task::spawn_blocking(move || {
            if briefly {
                return known.snapshot.glance_at(&guest);
            }
            known.snapshot.note_working_set(&guest);
            process.tell_touched(&known);
        });
    }

    /// Tells Hydra, once, what programs touch first of a snapshot, if that is known.
    fn tell_touched(&self, known: &Known) {
        let Some(text) = known.snapshot.known_working_set() else { return };
        if let Some(file) = lock(&known.touched).take()
            && file.write_all_at(text.as_bytes(), 0).is_ok()
        {
            let _ = self.hydra.send(&Reply::Touched { snapshot: known.number }, Vec::new());
        }
    }
}
