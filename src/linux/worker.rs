//! A worker: a host thread with a vCPU that runs guest threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::kernel::Kernel;
use super::mm::Fault;
use super::sched::{ExitStatus, Next};
use super::signal::{self, SigInfo};
use super::table::{self, Answer};
use super::thread::Thread;
use crate::vmm::{Access, Exit, Vcpu, VmmError};

/// Host stack of a worker: handlers keep their buffers on the heap.
const STACK: usize = 512 << 10;

/// Starts worker `id`.
pub fn spawn(kernel: &Arc<Kernel>, id: usize) {
    let mine = Arc::clone(kernel);
    let named = std::thread::Builder::new().name(format!("guest-{id}")).stack_size(STACK);
    let started = named.spawn(move || {
        if let Err(error) = work(&mine, id) {
            mine.sched.fail(error);
        }
    });
    if let Err(source) = started {
        kernel.sched.fail(VmmError::Kvm { doing: "start a host thread for a vCPU", source });
    }
}

fn work(kernel: &Arc<Kernel>, id: usize) -> Result<(), VmmError> {
    let mut vcpu = kernel.vm.create_vcpu()?;
    kernel.sched.enlist(id, vcpu.kicker());
    let outcome = loop {
        match kernel.sched.next(id, &mut vcpu) {
            Ok(Next::Stop) => break Ok(()),
            Ok(Next::Run(thread, attention)) => {
                if let Err(error) = run(kernel, &mut vcpu, thread, &attention) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    // Before the vCPU goes: nobody may kick it then.
    kernel.sched.leave(id);
    outcome
}

/// What became of an attempt at a system call.
enum Attempt {
    /// It is over; go on in the guest.
    Done,
    /// It begins again after a signal handler.
    Restart,
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
) -> Result<(), VmmError> {
    if let Some(state) = thread.extended.take() {
        vcpu.load(&state)?;
    }
    loop {
        let mut restart = false;
        if thread.in_call {
            let (attempt, back) = system_call(kernel, vcpu, thread);
            match (attempt, back) {
                (Attempt::Done, Some(back)) => thread = back,
                (Attempt::Restart, Some(back)) => {
                    thread = back;
                    restart = true;
                }
                _ => return Ok(()),
            }
            if thread.in_call && !restart {
                // Woken before it slept: try again, unless there is no more to do.
                if kernel.sched.has_ended() {
                    return Ok(());
                }
                continue;
            }
        }
        if attention.swap(false, Ordering::AcqRel) || restart {
            if kernel.sched.has_ended() {
                return Ok(());
            }
            match signal::deliver(kernel, vcpu, &mut thread, restart)? {
                signal::Delivery::Done => {}
                signal::Delivery::Resume => {
                    // Another thread took the signal: the call goes on.
                    thread.in_call = true;
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
        match vcpu.enter(&mut thread.regs)? {
            Exit::Syscall => {
                thread.in_call = true;
                thread.deadline = None;
                thread.progress = 0;
            }
            Exit::Exception { vector: 14, error, address } => {
                page_fault(kernel, &mut thread, error, address, attention)
            }
            Exit::Exception { vector, error, .. } => {
                let info = signal::exception(vector, error, thread.regs.rip);
                kernel.force_signal(thread.tid, info);
                attention.store(true, Ordering::Release);
            }
            Exit::Kicked => {}
        }
    }
}

fn page_fault(kernel: &Kernel, thread: &mut Thread, error: u64, address: u64, attention: &AtomicBool) {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let needed = if error & FETCH != 0 {
        Access::EXECUTE
    } else if error & WRITE != 0 {
        Access::WRITE
    } else {
        Access::READ
    };
    let fault = kernel.mm().fault(address, needed);
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
            tracing::warn!("the program needs more memory than the microVM has; it is killed");
            return kernel.sched.exit(ExitStatus::Signal(libc::SIGKILL as u8));
        }
    };
    kernel.force_signal(thread.tid, info.with_trap(14, error));
    attention.store(true, Ordering::Release);
}

/// One attempt, and a second where the first would wait.
fn system_call(kernel: &Kernel, vcpu: &mut Vcpu, mut thread: Box<Thread>) -> (Attempt, Option<Box<Thread>>) {
    let mut outcome = serve(kernel, vcpu, &mut thread);
    if outcome == Err(Errno::BLOCKED)
        && let Some(wait) = thread.wait.take()
    {
        kernel.register(thread.tid, &wait);
        // A futex wait was checked when it was queued. For others, look again now that events are not lost.
        if wait.futex {
            thread.wait = Some(wait);
        } else {
            outcome = serve(kernel, vcpu, &mut thread);
            if outcome == Err(Errno::BLOCKED) {
                thread.wait = Some(wait);
            } else {
                kernel.sched.unregister(thread.tid, &wait);
            }
        }
    }
    match outcome {
        Err(Errno::BLOCKED) => match kernel.sched.park(thread) {
            Some(back) => (Attempt::Done, Some(back)),
            None => (Attempt::Asleep, None),
        },
        _ if kernel.sched.is_gone(thread.tid) => (Attempt::Ended, None),
        Err(Errno::RESTART) => {
            thread.in_call = false;
            (Attempt::Restart, Some(thread))
        }
        done => {
            if let Some(trace) = &kernel.trace {
                trace.call(kernel, &thread, done);
            }
            thread.in_call = false;
            thread.regs.rax = done.unwrap_or_else(Errno::to_rax);
            (Attempt::Done, Some(thread))
        }
    }
}

fn serve(kernel: &Kernel, vcpu: &mut Vcpu, thread: &mut Thread) -> SysResult {
    let r = &thread.regs;
    let (number, args) = (r.rax, Args([r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]));
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
