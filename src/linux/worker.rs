//! A worker: a host thread with a vCPU that runs guest threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::context::{Args, Ctx};
use super::counters::{count, spend};
use super::errno::{Errno, SysResult};
use super::exitless::{Headway, Seat};
use super::kernel::Kernel;
use super::mm::Fault;
use super::sched::{ExitStatus, Next};
use super::signal::{self, SigInfo};
use super::table::{self, Answer};
use super::thread::{Thread, Wait};
use crate::vmm::{Access, AskedCall, Exit, StateHolder, UserRegs, Vcpu, VmmError};

/// The CPU's number of the exception.
const INVALID_OPCODE: u8 = 6;

/// Starts worker `id`.
pub fn spawn(kernel: &Arc<Kernel>, id: usize) {
    let Some(vm) = &kernel.vm else { return kernel.sched.leave(id) };
    let mine = Arc::clone(kernel);
    let started = vm.run_on_vcpu(move |vcpu| {
        let begin = || {
            mine.rights
                .assume()
                .map_err(|error| VmmError::Stopped(format!("the host's user for it: {error}")))?;
            work(&mine, id, vcpu?)
        };
        // A defect in a handler ends this program, and none but this.
        let outcome = catch_unwind(AssertUnwindSafe(begin));
        let fit = matches!(outcome, Ok(Ok(())));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => mine.sched.fail(error),
            Err(_) => mine.sched.fail(VmmError::Stopped("a defect in the service of a system call".into())),
        }
        // Also when it got no vCPU: those who wait for the program's end wait for this.
        mine.sched.leave(id);
        fit
    });
    if let Err(error) = started {
        kernel.sched.fail(error);
        kernel.sched.leave(id);
    }
}

fn work(kernel: &Arc<Kernel>, id: usize, vcpu: &mut Vcpu) -> Result<(), VmmError> {
    kernel.sched.enlist(id, vcpu.kicker());
    // Struck off before others can have the vCPU, also when a handler panics: nobody may kick it then.
    let _registration = Enlisted(kernel, id);
    let mut seat = Seat::of(kernel, vcpu);
    loop {
        match kernel.sched.next(id, vcpu) {
            Ok(Next::Stop) => break Ok(()),
            Ok(Next::Run(thread, attention)) => {
                let _running = seat.as_mut().map(|seat| seat.seat(thread.tid, &attention));
                if let Err(error) = run(kernel, vcpu, thread, &attention, seat.as_mut()) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    }
}

/// A worker that is on the scheduler's list.
struct Enlisted<'a>(&'a Kernel, usize);

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.0.sched.leave(self.1);
    }
}

/// What became of an attempt at a system call.
enum Attempt {
    /// It is over; go on in the guest.
    Done,
    /// A signal interrupted it. It begins again: after any handler that allows that if the flag is set, else only if none runs.
    Interrupted(bool),
    /// The thread sleeps.
    Asleep,
    /// The thread has ended.
    Ended,
}

/// Runs a thread until it sleeps, ends, or gives way to another.
fn run(
    kernel: &Kernel,
    vcpu: &mut Vcpu,
    mut thread: Box<Thread>,
    attention: &AtomicBool,
    mut seat: Option<&mut Seat>,
) -> Result<(), VmmError> {
    let counters = &*kernel.counters;
    if let Some(state) = thread.extended.take() {
        let begun = Instant::now();
        vcpu.load(&state)?;
        spend(&counters.register_ns, begun);
    }
    loop {
        let mut interrupted = None;
        if thread.in_call {
            let begun = Instant::now();
            let (attempt, back) = system_call(kernel, vcpu, thread);
            spend(&counters.system_call_ns, begun);
            match (attempt, back) {
                (Attempt::Done, Some(back)) => thread = back,
                (Attempt::Interrupted(restart), Some(back)) => {
                    thread = back;
                    interrupted = Some(restart);
                }
                _ => return Ok(()),
            }
            if thread.in_call && interrupted.is_none() {
                // Woken before it slept: try again, unless there is no more to do.
                if kernel.sched.has_ended() {
                    return Ok(());
                }
                continue;
            }
        }
        if attention.swap(false, Ordering::AcqRel) || interrupted.is_some() {
            if kernel.sched.has_ended() {
                return Ok(());
            }
            match signal::deliver(kernel, vcpu, &mut thread, interrupted)? {
                signal::Delivery::Done => {}
                signal::Delivery::Resume => {
                    // Another thread took the signal: the call goes on.
                    // Orders that came with this look are still to be seen.
                    attention.store(true, Ordering::Release);
                    continue;
                }
                signal::Delivery::Fatal(number) => {
                    kernel.sched.exit(ExitStatus::Signal(number));
                    return Ok(());
                }
            }
            match kernel.sched.yield_to_others(thread) {
                Some(back) => thread = back,
                None => return Ok(()),
            }
        }
        count(&counters.entries);
        let entered = Instant::now();
        let exit = vcpu.enter(&mut thread.regs)?;
        let left = spend(&counters.guest_ns, entered);
        match exit {
            Exit::Syscall | Exit::MissedSyscall => {
                count(&counters.system_calls);
                let missed = exit == Exit::MissedSyscall;
                thread.regs.rip = kernel.called_from(thread.regs.rip, thread.regs.rax);
                let headway = seat.as_mut().map(|seat| seat.left(&asked(&thread.regs), left, missed));
                let Headway { deadline, progress, saved_mask } = headway.unwrap_or_default();
                thread.in_call = true;
                thread.deadline = deadline;
                thread.progress = progress;
                thread.saved_mask = saved_mask.or(thread.saved_mask);
            }
            Exit::Exception { vector: 14, error, address } => {
                if let Some(seat) = seat.as_mut() {
                    seat.left_at(left);
                }
                page_fault(kernel, &mut thread, error, address, attention);
                spend(&counters.fault_ns, left);
            }
            Exit::Exception { vector, error, .. } => {
                if vector == INVALID_OPCODE
                    && let Some(next) = kernel.mm().after_trap(thread.regs.rip)
                {
                    thread.regs.rip = next;
                    continue;
                }
                count(&counters.exceptions);
                let info = signal::exception(vector, error, thread.regs.rip);
                kernel.force_signal(thread.tid, info);
                attention.store(true, Ordering::Release);
            }
            Exit::Kicked => count(&counters.kicks),
        }
    }
}

fn page_fault(kernel: &Kernel, thread: &mut Thread, error: u64, address: u64, attention: &AtomicBool) {
    count(kernel.counters.of_fault(error));
    let fault = kernel.mm().fault(address, needed_access(error));
    if let Some(trace) = &kernel.trace
        && fault != Fault::Handled
    {
        trace.fault(thread.tid, address, error, thread.regs.rip, fault);
    }
    let info = match fault {
        Fault::Handled => return,
        Fault::NoMapping => SigInfo::fault(libc::SIGSEGV, 1, address),
        Fault::Denied => SigInfo::fault(libc::SIGSEGV, 2, address),
        Fault::PastEnd => SigInfo::fault(libc::SIGBUS, 2, address),
        Fault::OutOfMemory => {
            kernel.out_of_memory.store(true, Ordering::Release);
            return kernel.sched.exit(ExitStatus::Signal(libc::SIGKILL as u8));
        }
    };
    kernel.force_signal(thread.tid, info.with_trap(14, error));
    attention.store(true, Ordering::Release);
}

/// What an access needs that caused a page fault with this error code.
pub(super) fn needed_access(error: u64) -> Access {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    if error & FETCH != 0 {
        Access::EXECUTE
    } else if error & WRITE != 0 {
        Access::WRITE
    } else {
        Access::READ
    }
}

/// One attempt, and more where it would wait.
fn system_call(kernel: &Kernel, vcpu: &mut Vcpu, mut thread: Box<Thread>) -> (Attempt, Option<Box<Thread>>) {
    let entered = thread.regs;
    if let Some(over) = thread.wait.take() {
        kernel.unregister(thread.tid, &over);
    }
    let mut outcome = serve(kernel, vcpu, &mut thread);
    if outcome == Err(Errno::BLOCKED)
        && let Some(wait) = thread.wait.take()
    {
        outcome = look_again(kernel, vcpu, &mut thread, wait);
    }
    match outcome {
        Err(Errno::BLOCKED) => match kernel.sched.park(thread) {
            Some(back) => (Attempt::Done, Some(back)),
            None => {
                count(&kernel.counters.waits);
                (Attempt::Asleep, None)
            }
        },
        _ if kernel.sched.is_gone(thread.tid) => (Attempt::Ended, None),
        Err(Errno::RESTART) => (Attempt::Interrupted(true), Some(thread)),
        Err(Errno::INTERRUPTED) => (Attempt::Interrupted(false), Some(thread)),
        done => {
            if let Some(trace) = &kernel.trace {
                trace.call(kernel, &thread, &entered, done);
            }
            thread.in_call = false;
            thread.regs.rax = done.unwrap_or_else(Errno::to_rax);
            (Attempt::Done, Some(thread))
        }
    }
}

/// Attempts a call again that has said what it would wait for, now that events are not lost. Where it still waits, the thread has what for, which is
/// registered.
fn look_again(kernel: &Kernel, vcpu: &mut dyn StateHolder, thread: &mut Thread, mut wait: Wait) -> SysResult {
    loop {
        if let Err(error) = kernel.register(thread.tid, &wait) {
            Ctx { kernel, thread, vcpu }.restore_mask();
            return Err(error);
        }
        // A futex was checked when it was queued.
        let outcome = if wait.futex { Err(Errno::BLOCKED) } else { serve(kernel, vcpu, thread) };
        let again = thread.wait.take();
        if outcome != Err(Errno::BLOCKED) {
            kernel.unregister(thread.tid, &wait);
            return outcome;
        }
        match again {
            // It waits for others by now: for who took a lock that was free for a moment, or what was added to a set.
            Some(again) if again.files != wait.files && !kernel.sched.has_ended() => {
                kernel.unregister(thread.tid, &wait);
                wait.files = again.files;
            }
            _ => {
                thread.wait = Some(wait);
                return outcome;
            }
        }
    }
}

/// The call that registers hold.
fn asked(r: &UserRegs) -> AskedCall {
    AskedCall { number: r.rax, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] }
}

/// Lets the handler of the call in the thread's registers make an attempt at it.
pub(super) fn serve(kernel: &Kernel, vcpu: &mut dyn StateHolder, thread: &mut Thread) -> SysResult {
    kernel.keep_clocks();
    let AskedCall { number, args } = asked(&thread.regs);
    let args = Args(args);
    match table::call(number).map(|call| (call, call.answer)) {
        Some((_, Answer::Served(handler))) => handler(&mut Ctx { kernel, thread, vcpu }, args),
        Some((call, Answer::Refused(errno))) => {
            kernel.log_refusal(number, call.name, errno);
            Err(errno)
        }
        None => {
            kernel.log_refusal(number, "unknown", Errno::ENOSYS);
            Err(Errno::ENOSYS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::direct::Direct;
    use super::super::exitless::NoVcpu;
    use super::super::kernel::PID;
    use super::super::namespace::{Mount, Source};
    use super::*;

    #[test]
    fn whoever_waits_for_something_else_by_now_waits_for_that() {
        let mount = Mount { source: Source::tmpfs(1 << 20), target: "/".into(), read_only: false };
        let mut program = Direct::new(16 << 20, &[mount]).expect("a program");
        let mut call = |number: libc::c_long, args| program.call(number as u64, args).expect("it goes on");
        let both = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let name = call(libc::SYS_mmap, [0, 4096, both, anonymous, u64::MAX, 0]);
        program.kernel().write_bytes(name, b"/f\0").expect("it is mapped");
        let mut call = |number: libc::c_long, args| program.call(number as u64, args).expect("it goes on");
        let [mine, before, now] = [(); 3]
            .map(|()| call(libc::SYS_open, [name, (libc::O_CREAT | libc::O_RDWR) as u64, 0o600, 0, 0, 0]));
        assert_eq!(call(libc::SYS_flock, [now, libc::LOCK_EX as u64, 0, 0, 0, 0]), 0);

        let kernel = program.kernel();
        let mut thread = Thread::bare(PID);
        thread.regs = UserRegs {
            rax: libc::SYS_flock as u64,
            rdi: mine,
            rsi: libc::LOCK_EX as u64,
            ..UserRegs::default()
        };
        let of =
            |fd: u64| Wait { files: vec![kernel.file(fd as i32).expect("it is open").id], ..Wait::default() };
        // The first attempt has found the lock with somebody who has given it back since.
        let outcome = look_again(kernel, &mut NoVcpu, &mut thread, of(before));
        assert_eq!((outcome, thread.wait.take()), (Err(Errno::BLOCKED), Some(of(now))));
    }
}
