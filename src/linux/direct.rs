//! System calls without a machine: a program whose threads do not run, and whose calls the caller makes for it, one at a time. It is
//! for tests that drive the handlers themselves, as a hostile program would, at the speed of function calls and without KVM.

use std::sync::{Arc, Mutex};

use super::errno::Errno;
use super::identity::Identity;
use super::kernel::{Kernel, PID, Parts, Program};
use super::limits::Limits;
use super::mm::AddressSpace;
use super::namespace::{Mount, Namespace};
use super::net::Policy;
use super::rights::Rights;
use super::sched::Sched;
use super::signal::{self, Delivery, SigInfo};
use super::thread::{Thread, Tid};
use super::time::Clock;
use super::timer::Timers;
use super::tmpfs::Caller;
use super::{StartError, worker};
use crate::vmm::{ExtendedState, GuestMemory, StateHolder, UserRegs, VmmError, Xsave, XsaveLayout};

/// x87, SSE and AVX, which every CPU lays out alike.
const LAYOUT: XsaveLayout = XsaveLayout { features: 7, size: 832 };
/// Address of the arena of [`Direct::play`], and its bytes.
const ARENA: u64 = 0x1000_0000;
const ARENA_SIZE: u64 = 0x1_0000;

/// A program whose system calls are made by whoever holds this.
pub struct Direct {
    kernel: Arc<Kernel>,
    thread: Thread,
    state: Record,
}

impl Direct {
    /// A program of one thread with nothing mapped and nothing open, in `memory` bytes of guest RAM.
    pub fn new(memory: u64, mounts: &[Mount]) -> Result<Direct, StartError> {
        let memory = Arc::new(GuestMemory::new(memory)?);
        let space = Arc::new(Mutex::new(AddressSpace::new(Arc::clone(&memory))));
        let namespace =
            Namespace::new(mounts, Caller { uid: 0, gid: 0 }, &space).map_err(StartError::Mounts)?;
        let kernel = Kernel::new(Parts {
            mm: space,
            memory,
            vm: None,
            sched: Sched::new(PID + 1, 1),
            clock: Clock::default(),
            namespace,
            identity: Identity { uid: 0, gid: 0, host_name: "direct".into() },
            program: Program { path: "/direct".into(), arguments: Vec::new(), environment: Vec::new() },
            network: Policy::Closed,
            rights: Rights::Own,
            cpus: 1,
            trace: false,
            counters: Default::default(),
            limits: Limits::default(),
            timers: Timers::default(),
            working_directory: "/".into(),
            umask: 0o022,
        })?;
        let state = ExtendedState::initial(LAYOUT);
        let thread = Thread::new(PID, UserRegs::default(), state.clone());
        kernel.add_thread(thread.clone(), 0);
        Ok(Direct { kernel, thread, state: Record(state) })
    }

    #[cfg(test)]
    pub(super) fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Makes a system call. One that would wait is interrupted. What it returns is what the program would find in `rax`; `None`
    /// if the program has ended.
    pub fn call(&mut self, number: u64, args: [u64; 6]) -> Option<u64> {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        let regs = UserRegs { rax: number, rdi, rsi, rdx, r10, r8, r9, ..self.thread.regs };
        self.thread = Thread { regs, deadline: None, progress: 0, ..self.thread.clone() };
        let mut outcome = worker::serve(&self.kernel, &mut self.state, &mut self.thread);
        if outcome == Err(Errno::BLOCKED)
            && let Some(wait) = self.thread.wait.take()
        {
            let registered = self.kernel.register(PID, &wait);
            // It is due whatever the mask is, and taken back before it is seen.
            let kill = SigInfo::from_process(libc::SIGKILL, 0, PID, 0);
            self.pending(|pending| pending.push(kill));
            outcome = worker::serve(&self.kernel, &mut self.state, &mut self.thread);
            self.pending(|pending| pending.take(1 << (libc::SIGKILL - 1)));
            match registered {
                Ok(()) => self.kernel.unregister(PID, &wait),
                Err(error) => outcome = Err(error),
            }
        }
        let interrupted = match outcome {
            Err(Errno::RESTART) => Some(true),
            Err(Errno::INTERRUPTED) => Some(false),
            _ => None,
        };
        self.thread.regs.rax = outcome.unwrap_or_else(Errno::to_rax);
        if self.has_ended() {
            return None;
        }
        match signal::deliver(&self.kernel, &mut self.state, &mut self.thread, interrupted) {
            Ok(Delivery::Done | Delivery::Resume) => Some(self.thread.regs.rax),
            Ok(Delivery::Fatal(_)) | Err(_) => None,
        }
    }

    /// Plays a script of any bytes: changes of an arena in the program's memory, and calls with arguments that are often addresses
    /// in it, descriptors, or numbers at which things go wrong. It ends with the script or with the program.
    pub fn play(&mut self, script: &[u8]) {
        const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
        let all = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let mut script = Script(script);
        self.thread.regs.rsp = ARENA + ARENA_SIZE;
        self.call(libc::SYS_mmap as u64, [ARENA, ARENA_SIZE, all, ANONYMOUS, u64::MAX, 0]);
        while let Some(command) = script.byte() {
            match command {
                // Memory that the program has unmapped cannot be changed.
                0..64 => {
                    let (at, bytes) = (u64::from(script.word()), script.bytes());
                    let _ = self.kernel.write_bytes(ARENA + at, bytes);
                }
                64..96 => {
                    let (at, word) = (u64::from(script.word()), script.argument());
                    let _ = self.kernel.write(ARENA + at, &word);
                }
                _ => {
                    let number = u64::from(script.word()) % 512;
                    let args = [(); 6].map(|()| script.argument());
                    if self.call(number, args).is_none() {
                        return;
                    }
                }
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.kernel.sched.has_ended() || self.kernel.sched.is_gone(PID)
    }

    fn pending<T>(&self, act: impl FnOnce(&mut signal::Pending) -> T) -> Option<T> {
        let mut state = self.kernel.sched.lock();
        state.threads.get_mut(&(PID as Tid)).map(|slot| act(&mut slot.signals.pending))
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.kernel.reactor.stop();
        let open = std::mem::take(&mut *self.kernel.descriptors());
        drop(open);
    }
}

/// The state that a vCPU would hold.
struct Record(ExtendedState);

impl StateHolder for Record {
    fn bases(&self) -> Result<(u64, u64), VmmError> {
        Ok((self.0.fs_base, self.0.gs_base))
    }

    fn set_bases(&mut self, fs: Option<u64>, gs: Option<u64>) -> Result<(), VmmError> {
        self.0.fs_base = fs.unwrap_or(self.0.fs_base);
        self.0.gs_base = gs.unwrap_or(self.0.gs_base);
        Ok(())
    }

    fn xsave(&self) -> Result<Xsave, VmmError> {
        Ok(self.0.xsave.clone())
    }

    fn set_xsave(&mut self, area: &Xsave) -> Result<(), VmmError> {
        self.0.xsave = area.clone();
        Ok(())
    }

    fn xsave_layout(&self) -> XsaveLayout {
        LAYOUT
    }
}

/// The bytes of a script that are still to be played. What is missing at its end is zero.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte().unwrap_or(0), self.byte().unwrap_or(0)])
    }

    /// Up to 255 bytes, which a byte counts.
    fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes
    }

    fn argument(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            u64::MAX,
            u64::MAX - 99,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            i64::MAX as u64,
            1 << 63,
            0x7fff_f000,
            0x7fff_ffff_f000,
            0x7fff_ffff_ffff,
            0xffff_8000_0000_0000,
            4096,
            ARENA + ARENA_SIZE - 1,
        ];
        match self.byte().unwrap_or(0) {
            kind @ 0..16 => EDGES[usize::from(kind)],
            16..80 => u64::from(self.byte().unwrap_or(0) & 0x3f),
            80..160 => ARENA + u64::from(self.word()),
            160..176 => ARENA + (u64::from(self.word()) & !0xfff),
            176..208 => u64::from(self.word()),
            208..224 => 1 << (self.byte().unwrap_or(0) & 63),
            _ => u64::from_le_bytes([(); 8].map(|()| self.byte().unwrap_or(0))),
        }
    }
}
