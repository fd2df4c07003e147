//! Making a checkpointed program go on in a new microVM.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::Guest;
use super::super::counters::Counters;
use super::super::errno::Errno;
use super::super::file::{File, Inherited, Kind, Ready};
use super::super::kernel::{Kernel, Parts, workers_limit};
use super::super::limits::Limits;
use super::super::mm::AddressSpace;
use super::super::namespace::{Mount, Namespace};
use super::super::net::Policy;
use super::super::rights::Rights;
use super::super::sched::Sched;
use super::super::time::Clock;
use super::super::tmpfs::Caller;
use super::super::vdso;
use super::{Finder, State, unpack};
use crate::sync::lock;
use crate::vmm::{
    Cpu, CpuMismatch, Frames, Hypervisor, Image, Reference, ResetFigures, Vm, VmmError, WorkingSet, reset,
};

/// What a restored program finds outside of itself.
pub struct Surroundings {
    /// What it sees of files; as when it was started.
    pub mounts: Vec<Mount>,
    /// Others in the place of the descriptors that it was started with, in the same order.
    pub descriptors: Vec<Inherited>,
    /// Whom it may talk to.
    pub network: Policy,
    /// With whose rights it uses the host.
    pub rights: Rights,
    /// Print its system calls to standard error.
    pub trace: bool,
    /// Where what it does is counted.
    pub counters: Arc<Counters>,
}

/// Why a program could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The machine.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// Another CPU.
    #[error("the program cannot go on on this CPU: {0}")]
    Cpu(#[from] CpuMismatch),
    /// The RAM is not of the size that it was.
    #[error("the program had {saved} bytes of RAM and is given {given}")]
    Memory {
        /// At the checkpoint, in bytes.
        saved: u64,
        /// Now, in bytes.
        given: u64,
    },
    /// A mount's source cannot be opened.
    #[error("cannot open the source of a mount: {0}")]
    Mounts(#[source] io::Error),
    /// A file that it had open or mapped cannot be opened anew.
    #[error("the program's file {} cannot be opened: {source}", path.display())]
    Gone {
        /// In the guest.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file that it had mapped has changed, or one that it had open is of another kind now.
    #[error("the program's file {} has changed", .0.display())]
    Changed(PathBuf),
    /// A file without a path cannot be made anew.
    #[error("a file without a path cannot be made: {0}")]
    Carried(#[source] io::Error),
    /// A socket cannot be made.
    #[error("a socket cannot be made: {0:?}")]
    Socket(Errno),
    /// A stream of the host cannot be watched.
    #[error("an open file cannot be watched: {0:?}")]
    Watch(Errno),
    /// A descriptor that it was started with is not given, or not usable.
    #[error("the program was started with descriptor {0}, which the restored one is not given")]
    Descriptor(u32),
    /// The state contradicts itself.
    #[error("the saved state is damaged: {0}")]
    Damaged(&'static str),
}

impl RestoreError {
    pub(super) fn gone(path: &Path, errno: Errno) -> RestoreError {
        RestoreError::Gone { path: path.into(), source: io::Error::from_raw_os_error(errno.number()) }
    }
}

impl Guest {
    /// Makes the program of `state` go on in a new microVM, whose RAM is a copy of `image`: the RAM as it was then. The pages of
    /// `ahead` are brought in before it runs.
    pub fn restore(
        state: State,
        image: &Image,
        ahead: Option<&WorkingSet>,
        surroundings: Surroundings,
    ) -> Result<Guest, RestoreError> {
        let hypervisor = Hypervisor::get()?;
        state.cpu.check(&Cpu::of_host(hypervisor))?;
        if image.bytes() != state.memory {
            return Err(RestoreError::Memory { saved: state.memory, given: image.bytes() });
        }
        let frames = Frames::restore(state.frames(), image.bytes());
        let frames = frames.ok_or(RestoreError::Damaged("the frames in use"))?;
        let vm = Vm::of_image(image)?;
        if let Some(ahead) = ahead {
            vm.memory().populate(ahead);
        }
        Guest::resume_in(vm, state, frames, surroundings)
    }

    /// Ends the program, and makes that of `state` go on in the same microVM. `original` is the RAM as it was then; the microVM began as a
    /// copy of it. What the program did since is gone, on the outside too: its descriptors are closed.
    ///
    /// When this fails the microVM is of no more use.
    pub fn reset(
        &self,
        state: State,
        original: &Reference,
        surroundings: Surroundings,
    ) -> Result<(Guest, ResetFigures), RestoreError> {
        self.kill();
        self.wait()?;
        let kernel = self.kernel();
        let vm = kernel.vm.clone().ok_or(RestoreError::Damaged("the microVM"))?;
        vm.wait_until_idle();
        let before = kernel.mm().frames().clone();
        let (frames, figures) = reset(vm.memory(), original, state.frames(), &before)?;
        vm.install_tasks()?;
        Ok((Guest::resume_in(vm, state, frames, surroundings)?, figures))
    }

    /// The pages that the program has touched since it was restored.
    ///
    /// # Errors
    /// The operating system refuses the look.
    pub fn working_set(&self) -> Result<WorkingSet, VmmError> {
        self.kernel().memory().working_set()
    }

    /// Makes the program of `state` go on in `vm`, whose RAM is as it was then; `frames` says what of it is in use.
    fn resume_in(
        vm: Arc<Vm>,
        state: State,
        frames: Frames,
        surroundings: Surroundings,
    ) -> Result<Guest, RestoreError> {
        let hypervisor = Hypervisor::get()?;
        let carried = unpack(&state.carried)?;
        let caller = Caller { uid: state.identity.uid, gid: state.identity.gid };
        let mm = Arc::new(Mutex::new(AddressSpace::new(Arc::clone(vm.memory()))));
        // Mapped files are found by the paths of the host's mounts, the others need the objects that come with the space.
        let outside = Namespace::new(&surroundings.mounts, caller, &mm).map_err(RestoreError::Mounts)?;
        let finder = Finder::new(&outside, &carried);
        let mut restored = AddressSpace::restore(&state.space, frames, Arc::clone(vm.memory()), &finder)?;
        drop(outside);
        let clock = Clock::resumed_at(state.monotonic);
        if let Err(errno) = vdso::refresh(&mut restored, &clock) {
            // The program has made the page unreadable: it does not use it.
            tracing::debug!(errno = errno.name(), "the data of the vDSO was not renewed");
        }
        *lock(&mm) = restored;
        let namespace =
            Namespace::with(&surroundings.mounts, caller, &mm, state.mounts).map_err(RestoreError::Mounts)?;
        let waits = state.sched.cost();
        let sched = Sched::restore(state.sched, hypervisor.xsave(), workers_limit());
        let kernel = Kernel::new(Parts {
            memory: Arc::clone(vm.memory()),
            vm: Some(vm),
            sched: sched.ok_or(RestoreError::Damaged("the threads"))?,
            clock,
            namespace,
            identity: state.identity,
            program: state.program,
            network: surroundings.network,
            rights: surroundings.rights,
            cpus: state.cpus as usize,
            trace: surroundings.trace,
            counters: surroundings.counters,
            mm,
            limits: Limits::restore(&state.limits).ok_or(RestoreError::Damaged("the limits"))?,
            timers: state.timers,
            working_directory: state.working_directory,
            umask: state.umask,
        })?;
        kernel.budget.take_restored(waits);
        let finder = Finder::new(&kernel.namespace, &carried);
        let files = state.files.restore(&kernel, finder, surroundings.descriptors)?;
        kernel.namespace.reap();
        // A failure from here on is the program's: it is there, and ends when the guest is dropped.
        let guest = Guest::of(kernel);
        guest.kernel().resume(files)?;
        Ok(guest)
    }
}

impl Kernel {
    /// Watches what the program waits for, and lets it run.
    fn resume(&self, files: Vec<Arc<File>>) -> Result<(), RestoreError> {
        for file in &files {
            if let Some(fd) = file.object().host() {
                self.reactor.watch(file, fd).map_err(RestoreError::Watch)?;
            }
            if let Kind::Stream(stream) = &file.kind {
                stream.shown_as(file);
                // Hydra may have sent something already. There is as much room as at the checkpoint: whoever waits for some is told once
                // Hydra reads.
                if file.object().ready(self).contains(Ready::IN) {
                    self.changed(file);
                }
            }
        }
        if let Some(at) = self.sched.next_alarm() {
            self.arm(at);
        }
        self.start_reactor();
        // A file that the program closes is closed at once, if nobody else holds it.
        drop(files);
        self.sched.launch(|need| self.serve(need));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::super::super::Config;
    use super::super::super::identity::Identity;
    use super::*;
    use crate::vmm::layout::VCPU_PAGES;

    const MEMORY: u64 = 64 << 20;
    /// Bytes of a task state segment without its bitmap of ports.
    const TASK: u64 = 0x68;

    fn mounts() -> Vec<Mount> {
        vec![Mount { source: "/".into(), target: "/".into(), read_only: true }]
    }

    /// A program that sleeps: its state in its serial form, and its RAM.
    fn sleeping() -> (Vec<u8>, Image) {
        let guest = Guest::start(Config {
            memory: MEMORY,
            mounts: mounts(),
            program: "/bin/sleep".into(),
            arguments: vec![b"sleep".to_vec(), b"1000".to_vec()],
            environment: Vec::new(),
            working_directory: "/".into(),
            descriptors: Vec::new(),
            umask: 0o022,
            identity: Identity::of_this_process(),
            network: Policy::Closed,
            rights: Rights::Own,
            trace: false,
            counters: Default::default(),
        });
        let guest = guest.expect("the program starts");
        guest.settle(Duration::from_secs(10));
        let checkpoint = guest.checkpoint().expect("a checkpoint");
        let file = tempfile::tempfile().expect("a file");
        file.set_len(MEMORY).expect("room for it");
        for run in checkpoint.runs() {
            let mut bytes = vec![0; (run.end - run.start) as usize];
            checkpoint.memory().slice(run.start, bytes.len()).expect("RAM").copy_to(&mut bytes[..]);
            file.write_all_at(&bytes, run.start).expect("room for it");
        }
        let state = postcard::to_stdvec(checkpoint.state()).expect("the state");
        (state, Image::new(file, MEMORY).expect("an image"))
    }

    #[test]
    fn a_reset_puts_back_what_ring_0_has_of_each_vcpu() {
        if let Err(error) = Hypervisor::get() {
            assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
            return eprintln!("skipped: {error}");
        }
        let (state, image) = sleeping();
        let state = || postcard::from_bytes::<State>(&state).expect("the state");
        let surroundings = || Surroundings {
            mounts: mounts(),
            descriptors: Vec::new(),
            network: Policy::Closed,
            rights: Rights::Own,
            trace: false,
            counters: Default::default(),
        };
        let memory = |guest: &Guest| guest.kernel().vm.as_ref().expect("a microVM").memory().clone();
        // The task state segment of the first.
        let task = |guest: &Guest| {
            let memory = memory(guest);
            (VCPU_PAGES..VCPU_PAGES + TASK).step_by(8).map(|at| memory.load(at)).collect::<Vec<_>>()
        };
        let guest = Guest::restore(state(), &image, None, surroundings()).expect("it goes on");
        guest.settle(Duration::from_secs(10));
        let before = task(&guest);
        memory(&guest).write(VCPU_PAGES, &[0xee; TASK as usize]);
        let reference = image.reference().expect("a mapping");
        let (guest, _) = guest.reset(state(), reference, surroundings()).expect("a reset");
        assert_eq!(task(&guest), before);
    }
}
