//! Host threads with a vCPU each. They outlive the program that they ran: another one in the same VM takes them over.
//!
//! A thread keeps its vCPU for good. To move a vCPU to another thread costs a grace period of the host's kernel, milliseconds on
//! some, at its next entry.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;

use super::error::VmmError;
use super::vcpu::Vcpu;
use super::vm::Vm;
use crate::sync::{lock, wait};

/// Host stack of a thread: handlers keep their buffers on the heap.
const STACK: usize = 512 << 10;

/// What a thread does with its vCPU, or with the reason why it has none. It returns whether the vCPU can be used again.
type Job = Box<dyn FnOnce(Result<&mut Vcpu, VmmError>) -> bool + Send>;

/// A job, and the way to give the thread its next one.
struct Order {
    job: Job,
    next: Sender<Order>,
}

/// The threads of a VM. Those that have nothing to do end when this is dropped.
#[derive(Default)]
pub(super) struct VcpuThreads {
    state: Mutex<State>,
    quiet: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Sender<Order>>,
    busy: usize,
}

impl Vm {
    /// Runs `job` on a thread with a vCPU of its own, whose last program may have been another one. `job` returns whether the vCPU can
    /// be used again.
    ///
    /// # Errors
    /// The host gives no thread. A failure to make a vCPU is `job`'s to handle.
    pub fn run_on_vcpu(
        self: &Arc<Vm>,
        job: impl FnOnce(Result<&mut Vcpu, VmmError>) -> bool + Send + 'static,
    ) -> Result<(), VmmError> {
        let job: Job = Box::new(job);
        if let Some(idle) = self.threads.begin() {
            // One that is idle waits for orders as long as the VM is there.
            let _ = idle.send(Order { job, next: idle.clone() });
            return Ok(());
        }
        let (next, orders) = mpsc::channel();
        let vm = Arc::downgrade(self);
        let started = thread::Builder::new()
            .name("vcpu".into())
            .stack_size(STACK)
            .spawn(move || serve(&vm, Order { job, next }, &orders));
        started.map(drop).map_err(|source| {
            self.threads.end(None);
            VmmError::Kvm { doing: "start a host thread for a vCPU", source }
        })
    }

    /// Makes a vCPU ahead, with its thread. One that cannot be made is made, or fails, when it is needed.
    ///
    /// # Errors
    /// As [`Vm::run_on_vcpu`].
    pub fn prepare_vcpu(self: &Arc<Vm>) -> Result<(), VmmError> {
        self.run_on_vcpu(|vcpu| vcpu.is_ok())
    }

    /// Waits until no job runs.
    pub fn wait_until_idle(&self) {
        let mut state = self.threads.lock();
        while state.busy > 0 {
            state = wait(&self.threads.quiet, state);
        }
    }
}

impl VcpuThreads {
    /// A job begins: on this thread, if there is one.
    fn begin(&self) -> Option<Sender<Order>> {
        let mut state = self.lock();
        state.busy += 1;
        state.idle.pop()
    }

    /// A job is over, and its thread can do another or ends.
    fn end(&self, idle: Option<Sender<Order>>) {
        let mut state = self.lock();
        state.busy -= 1;
        state.idle.extend(idle);
        self.quiet.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Does what is ordered until the VM is gone.
fn serve(vm: &Weak<Vm>, first: Order, orders: &Receiver<Order>) {
    let Some(made) = vm.upgrade().map(|vm| vm.create_vcpu()) else { return };
    let end = |idle| {
        if let Some(vm) = vm.upgrade() {
            vm.threads.end(idle);
        }
    };
    match made {
        Err(error) => {
            (first.job)(Err(error));
            end(None);
        }
        Ok(mut vcpu) => {
            let mut order = Some(first);
            while let Some(Order { job, next }) = order {
                vcpu.renew_kicker();
                if !job(Ok(&mut vcpu)) {
                    return end(None);
                }
                end(Some(next));
                order = orders.recv().ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::GuestMemory;
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_thread_keeps_its_vcpu_and_serves_again() {
        let memory = GuestMemory::new(8 << 20).expect("8 MiB of memory");
        let vm = match Vm::new(memory) {
            Ok(vm) => Arc::new(vm),
            Err(error) => return eprintln!("skipped: no KVM here: {error}"),
        };
        let (done, seen) = channel();
        let mut threads = Vec::new();
        for _ in 0..3 {
            let done = done.clone();
            vm.run_on_vcpu(move |vcpu| {
                assert!(vcpu.is_ok());
                done.send(thread::current().id()).is_ok()
            })
            .expect("a thread");
            threads.push(seen.recv_timeout(Duration::from_secs(10)).expect("the job ran"));
            vm.wait_until_idle();
        }
        assert!(threads.iter().all(|thread| *thread == threads[0]), "{threads:?}");
        // One that is unfit is not used again.
        let unfit = done.clone();
        vm.run_on_vcpu(move |_| unfit.send(thread::current().id()).is_err()).expect("a thread");
        seen.recv_timeout(Duration::from_secs(10)).expect("the job ran");
        vm.wait_until_idle();
        vm.run_on_vcpu(move |_| done.send(thread::current().id()).is_ok()).expect("a thread");
        assert_ne!(seen.recv_timeout(Duration::from_secs(10)).expect("the job ran"), threads[0]);
    }
}
