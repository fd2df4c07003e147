//! Host threads with a vCPU each. They outlive the program that they ran: another one in the same VM takes them over.
//!
//! A thread keeps its vCPU for good. To move a vCPU to another thread costs a grace period of the host's kernel, milliseconds on
//! some, at its next entry.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use super::error::VmmError;
use super::vcpu::Vcpu;
use super::vm::Vm;

/// Host stack of a thread: handlers keep their buffers on the heap.
const STACK: usize = 512 << 10;

/// What a thread does with its vCPU, or with the reason why it has none. It returns whether the vCPU can be used again.
type Job = Box<dyn FnOnce(Result<&mut Vcpu, VmmError>) -> bool + Send>;

/// A job, and the way to give the thread its next one.
struct Order {
    job: Job,
    next: Sender<Order>,
}

/// The threads of a VM that have nothing to do. They end when this is dropped.
#[derive(Default)]
pub(super) struct VcpuThreads(Mutex<Vec<Sender<Order>>>);

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
        let mut job: Job = Box::new(job);
        while let Some(idle) = self.threads.take() {
            match idle.send(Order { job, next: idle.clone() }) {
                Ok(()) => return Ok(()),
                // It ended by itself.
                Err(mpsc::SendError(order)) => job = order.job,
            }
        }
        let (next, orders) = mpsc::channel();
        let vm = Arc::downgrade(self);
        thread::Builder::new()
            .name("vcpu".into())
            .stack_size(STACK)
            .spawn(move || serve(&vm, Order { job, next }, &orders))
            .map(drop)
            .map_err(|source| VmmError::Kvm { doing: "start a host thread for a vCPU", source })
    }

    /// Makes a vCPU ahead, with its thread. One that cannot be made is made, or fails, when it is needed.
    pub fn prepare_vcpu(self: &Arc<Vm>) -> Result<(), VmmError> {
        self.run_on_vcpu(|vcpu| vcpu.is_ok())
    }
}

impl VcpuThreads {
    fn take(&self) -> Option<Sender<Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, idle: Sender<Order>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}

/// Does what is ordered until the VM is gone.
fn serve(vm: &Weak<Vm>, first: Order, orders: &Receiver<Order>) {
    let made = match vm.upgrade() {
        Some(vm) => vm.create_vcpu(),
        None => return,
    };
    let mut vcpu = match made {
        Ok(vcpu) => vcpu,
        Err(error) => {
            (first.job)(Err(error));
            return;
        }
    };
    let mut order = first;
    loop {
        vcpu.renew_kicker();
        if !(order.job)(Ok(&mut vcpu)) {
            return;
        }
        match vm.upgrade() {
            Some(vm) => vm.threads.put(order.next),
            None => return,
        }
        match orders.recv() {
            Ok(next) => order = next,
            Err(_) => return,
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
            // It counts as idle a moment after its job.
            while vm.threads.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                thread::yield_now();
            }
        }
        assert!(threads.iter().all(|thread| *thread == threads[0]), "{threads:?}");
        // One that is unfit is not used again.
        let unfit = done.clone();
        vm.run_on_vcpu(move |_| unfit.send(thread::current().id()).is_err()).expect("a thread");
        seen.recv_timeout(Duration::from_secs(10)).expect("the job ran");
        vm.run_on_vcpu(move |_| done.send(thread::current().id()).is_ok()).expect("a thread");
        assert_ne!(seen.recv_timeout(Duration::from_secs(10)).expect("the job ran"), threads[0]);
    }
}
