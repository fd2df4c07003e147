//! Who answers system calls and page faults without an exit: one host thread of the process, which polls the vCPUs of programs that have many.
//!
//! A program that has left for a few of them one soon after the other is taken on; from then on they are answered from here while its vCPU
//! waits in the guest (see [`CallSlot`]). When nobody has asked for a while the thread lets go of all and sleeps. It costs at most one
//! processor, while calls come and there is one to spare: where guests have work for all processors, their calls leave. A
//! program that waits in vain all the same, because the processors are busy with other things, goes back to exits for a while.
//!
//! A call is answered by a first attempt of its handler. What cannot be over at once is declined: the program's own worker takes the call
//! up where the attempt has left it. Calls that need the thread's record or its vCPU, or can take long, are the worker's alone (`own` in
//! the table, and [`LARGE`] transfers), so that one program keeps the others waiting no longer than a copy takes.
//!
//! A page fault in a file is answered with fewer pages than it would be after an exit; the others are read from here while the program goes on.

mod poller;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::context::{Args, Ctx};
use super::counters::{count, spend};
use super::errno::Errno;
use super::kernel::{Kernel, processors};
use super::mm::Fault;
use super::signal::Set;
use super::table::{self, Answer};
use super::thread::{Thread, Tid};
use super::worker::needed_access;
use crate::sync::lock;
use crate::vmm::{
    Asked, AskedCall, AskedFault, CallSlot, Reply, StateHolder, Vcpu, VmmError, Xsave, XsaveLayout,
};
use poller::Poller;

/// Calls and page faults that leave the guest within [`SOON`] of the one before, until a program is taken on: at first, and as few and as many as that becomes
/// by what came of it.
const EAGER: u32 = 8;
const LEAST_EAGER: u32 = 4;
const MOST_EAGER: u32 = 64;
const SOON: Duration = Duration::from_micros(200);
/// Answers after which it was worth it to take a program on.
const WORTH: u32 = 5;
/// Bytes from which on a call is the worker's.
const LARGE: u64 = 1 << 20;
/// Calls in a row that nobody took in time before a program goes back to exits.
const MISSES: u32 = 3;
/// For how long.
const REST: Duration = Duration::from_millis(1);

/// A vCPU whose calls can be answered here, and who runs on it. The worker's side.
pub struct Seat {
    place: Arc<Place>,
    /// Calls and page faults that left soon after the one before, less the times that none did.
    eager: u32,
    /// How many of them it takes.
    needed: u32,
    was_taken_on: bool,
    last: Instant,
    missed: u32,
    rest_until: Instant,
}

/// What both sides know.
struct Place {
    kernel: Weak<Kernel>,
    slot: Arc<CallSlot>,
    caller: Mutex<Option<Caller>>,
    taken_on: AtomicBool,
    /// How many calls were answered since.
    answers: AtomicU32,
}

/// The thread that runs on a vCPU.
struct Caller {
    tid: Tid,
    attention: Arc<AtomicBool>,
    /// The call that was declined last, and how far it came.
    declined: Option<(AskedCall, Headway)>,
}

/// How far a declined call has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Headway {
    /// When it gives up.
    pub deadline: Option<u64>,
    /// How much is done.
    pub progress: u64,
    /// The mask that it has put aside.
    pub saved_mask: Option<Set>,
}

impl Seat {
    /// The seat of a vCPU; `None` where exits are cheap, or where there is no second processor to answer from.
    pub fn of(kernel: &Kernel, vcpu: &Vcpu) -> Option<Seat> {
        let slot = Arc::clone(vcpu.call_slot()?);
        if kernel.trace.is_some() || processors() < 2 {
            return None;
        }
        // A thread takes a while to start.
        Poller::get()?;
        Some(Seat::at(kernel, slot))
    }

    fn at(kernel: &Kernel, slot: Arc<CallSlot>) -> Seat {
        let place = Place {
            kernel: kernel.weak(),
            slot,
            caller: Mutex::default(),
            taken_on: AtomicBool::new(false),
            answers: AtomicU32::new(0),
        };
        let now = Instant::now();
        Seat {
            place: Arc::new(place),
            eager: 0,
            needed: EAGER,
            was_taken_on: false,
            last: now,
            missed: 0,
            rest_until: now,
        }
    }

    /// This thread runs on the vCPU, until the answer is dropped.
    pub fn seat(&mut self, tid: Tid, attention: &Arc<AtomicBool>) -> Running {
        *lock(&self.place.caller) = Some(Caller { tid, attention: Arc::clone(attention), declined: None });
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Running(())
    }

    /// `call` has left the guest, `now`; `missed` if it had asked in vain. Says how far it came.
    pub fn left(&mut self, call: &AskedCall, now: Instant, missed: bool) -> Headway {
        self.missed = if missed { self.missed + 1 } else { 0 };
        if self.missed >= MISSES {
            self.place.slot.retract();
            self.rest_until = now + REST;
            self.missed = 0;
        }
        self.left_at(now);
        let declined = lock(&self.place.caller).as_mut().and_then(|caller| caller.declined.take());
        // What another thread of the program made up is none of this call's.
        declined
            .filter(|(declined, _)| declined == call)
            .map_or_else(Headway::default, |(_, headway)| headway)
    }

    /// The guest was left, `now`: for a page fault, or a call.
    pub fn left_at(&mut self, now: Instant) {
        // Bursts that follow each other count together.
        let pauses = now.duration_since(self.last).as_nanos() / SOON.as_nanos();
        self.last = now;
        self.eager = match u32::try_from(pauses) {
            Ok(0) => self.eager + 1,
            Ok(pauses) => self.eager.saturating_sub(pauses),
            Err(_) => 0,
        };
        if !self.place.taken_on.load(Ordering::Relaxed) {
            self.consider(now);
        }
    }

    /// Whether the program is taken on, or taken on again.
    fn consider(&mut self, now: Instant) {
        if std::mem::take(&mut self.was_taken_on) {
            self.needed = match self.place.answers.swap(0, Ordering::Relaxed) >= WORTH {
                true => LEAST_EAGER,
                false => MOST_EAGER.min(2 * self.needed),
            };
        }
        if self.eager >= self.needed
            && now >= self.rest_until
            && !all_processors_run()
            && let Some(poller) = Poller::get()
        {
            self.was_taken_on = true;
            poller.take_on(&self.place);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Whoever looks at this place just now serves nobody else by it: the vCPU may run another program next.
        *lock(&self.place.caller) = None;
        self.place.slot.retract();
    }
}

/// Threads of all guests that run on a vCPU, or are served on its worker.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One of them.
#[must_use]
pub struct Running(());

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether guests have work for every processor, so that whoever polls would take theirs.
fn all_processors_run() -> bool {
    RUNNING.load(Ordering::Relaxed) >= processors()
}

impl Place {
    /// Answers what is asked, if something is; whether it was. `ahead` becomes the address of the last page fault.
    fn answer(&self, ahead: &mut Option<u64>) -> bool {
        let serve = |asked| match asked {
            Asked::Call(call, from) => self.serve(&call, from),
            Asked::Fault(fault) => {
                *ahead = Some(fault.address);
                self.fill(fault)
            }
        };
        self.slot.is_asked() && self.slot.answer(serve)
    }

    /// Fills more of what is around the page at `address` while the program does something else; whether there is perhaps yet more.
    fn fill_ahead(&self, address: u64) -> bool {
        let fill = || {
            // Held meanwhile: another program may be in the guest, and the RAM its own, once the seat is given up.
            let caller = lock(&self.caller);
            let Some((_, kernel)) = caller.as_ref().zip(self.kernel.upgrade()) else { return false };
            catch_unwind(AssertUnwindSafe(|| kernel.mm().fill_ahead(address))).unwrap_or(false)
        };
        self.slot.meanwhile(fill).unwrap_or(false)
    }

    /// Fills the page of a fault, if that is all there is to do.
    fn fill(&self, fault: AskedFault) -> Reply {
        let caller = lock(&self.caller);
        let Some((caller, kernel)) = caller.as_ref().zip(self.kernel.upgrade()) else {
            return Reply::Decline;
        };
        let begun = Instant::now();
        let needed = needed_access(fault.error);
        let reply = match catch_unwind(AssertUnwindSafe(|| kernel.mm().fault_near(fault.address, needed))) {
            Ok(Some(Fault::Handled)) => {
                count(kernel.counters.of_fault(fault.error));
                count(&kernel.counters.exitless_faults);
                self.answers.fetch_add(1, Ordering::Relaxed);
                match caller.attention.load(Ordering::Acquire) {
                    true => Reply::DoneAndLeave(0),
                    false => Reply::Done(0),
                }
            }
            // The worker has the time, or finds the same and makes the signal.
            _ => Reply::Decline,
        };
        spend(&kernel.counters.exitless_ns, begun);
        reply
    }

    fn serve(&self, call: &AskedCall, from: Option<u64>) -> Reply {
        let caller = &mut *lock(&self.caller);
        let Some((caller, handler)) = caller.as_mut().zip(short_call(call)) else { return Reply::Decline };
        let Some(kernel) = self.kernel.upgrade() else { return Reply::Decline };
        if kernel.rights.assume().is_err() {
            return Reply::Decline;
        }
        if let Some(end) = from {
            // It comes back to where it was made from, which a trap leads on from.
            let _ = kernel.called_from(end, call.number);
        }
        let counters = &kernel.counters;
        let begun = Instant::now();
        kernel.keep_clocks();
        let mut thread = Thread::bare(caller.tid);
        let mut context = Ctx { kernel: &kernel, thread: &mut thread, vcpu: &mut NoVcpu };
        // A defect in a handler ends this program, and none but this.
        let outcome = catch_unwind(AssertUnwindSafe(|| handler(&mut context, Args(call.args))));
        let reply = match outcome {
            Err(_) => {
                kernel.sched.fail(VmmError::Stopped("a defect in the service of a system call".into()));
                Reply::DoneAndLeave(Errno::EIO.to_rax())
            }
            Ok(Err(Errno::ELSEWHERE)) => Reply::Decline,
            Ok(Err(Errno::BLOCKED | Errno::RESTART | Errno::INTERRUPTED)) => {
                let Thread { deadline, progress, saved_mask, .. } = thread;
                caller.declined = Some((*call, Headway { deadline, progress, saved_mask }));
                Reply::Decline
            }
            Ok(done) => {
                count(&counters.system_calls);
                count(&counters.exitless_calls);
                self.answers.fetch_add(1, Ordering::Relaxed);
                let result = done.unwrap_or_else(Errno::to_rax);
                match caller.attention.load(Ordering::Acquire) {
                    true => Reply::DoneAndLeave(result),
                    false => Reply::Done(result),
                }
            }
        };
        spend(&counters.exitless_ns, begun);
        reply
    }
}

/// The handler of a call that any host thread can serve, and does soon.
fn short_call(call: &AskedCall) -> Option<table::Handler> {
    let known = table::call(call.number).filter(|known| !known.own)?;
    let is_large = |(kind, value): (&table::Kind, &u64)| *kind == table::Kind::Size && *value > LARGE;
    match known.answer {
        Answer::Served(handler) if !known.args.iter().zip(&call.args).any(is_large) => Some(handler),
        _ => None,
    }
}

/// In place of the vCPU's state, for calls that do not need it.
pub(super) struct NoVcpu;

impl StateHolder for NoVcpu {
    fn bases(&self) -> Result<(u64, u64), VmmError> {
        Err(NO_VCPU)
    }

    fn set_bases(&mut self, _: Option<u64>, _: Option<u64>) -> Result<(), VmmError> {
        Err(NO_VCPU)
    }

    fn xsave(&self) -> Result<Xsave, VmmError> {
        Err(NO_VCPU)
    }

    fn set_xsave(&mut self, _: &Xsave) -> Result<(), VmmError> {
        Err(NO_VCPU)
    }

    fn xsave_layout(&self) -> XsaveLayout {
        XsaveLayout { features: 0, size: 0 }
    }
}

const NO_VCPU: VmmError = VmmError::Lacks("the vCPU of the caller");

#[cfg(test)]
mod tests {
    use super::super::direct::Direct;
    use super::super::namespace::{Mount, Source};
    use super::*;
    use crate::vmm::GuestMemory;

    const PAGE: u64 = 4096;
    const PAGES: u64 = 256;

    /// A program that has mapped a file, and an address in the middle of it.
    fn program_with_a_file() -> (Direct, u64) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("f"), vec![7; (PAGES * PAGE) as usize]).expect("a file");
        let source = Source::Host(folder.path().into());
        let mounts = [Mount { source, target: "/".into(), read_only: true }];
        let mut program = Direct::new(16 << 20, &mounts).expect("a program");
        let mut call = |number: libc::c_long, args| program.call(number as u64, args).expect("it goes on");
        let both = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let name = call(libc::SYS_mmap, [0, PAGE, both, anonymous, u64::MAX, 0]);
        program.kernel().write_bytes(name, b"/f\0").expect("it is mapped");
        let mut call = |number: libc::c_long, args| program.call(number as u64, args).expect("it goes on");
        let file = call(libc::SYS_open, [name, 0, 0, 0, 0, 0]);
        let map = [0, PAGES * PAGE, libc::PROT_READ as u64, libc::MAP_PRIVATE as u64, file, 0];
        let address = call(libc::SYS_mmap, map);
        (program, address + PAGES / 2 * PAGE)
    }

    #[test]
    fn whoever_gave_up_the_vcpu_has_nothing_more_filled() {
        let (program, address) = program_with_a_file();
        let kernel = program.kernel();
        let free = || kernel.mm().frames().free();
        let area = Arc::new(GuestMemory::new(4 << 20).expect("memory"));
        let mut seat = Seat::at(kernel, CallSlot::opened(&area));
        let running = seat.seat(1, &Arc::default());
        let before = free();
        assert!(seat.place.fill_ahead(address), "there is nothing to fill");
        let filled = free();
        assert!(filled < before, "nothing was filled");
        // The poller still looks at the place, and another program is in the guest.
        let place = Arc::clone(&seat.place);
        drop((running, seat));
        assert!(!place.fill_ahead(address));
        assert_eq!(free(), filled);
    }
}
