//! VMs that were made ahead: all that does not depend on what will run in them.
//!
//! A blank VM has a range of addresses for its RAM, KVM's memory slot over it, and a vCPU on its thread. It has never run: KVM knows the page
//! tables of one that has, and would take another program's for them. What is left to do when one is needed is to map the image
//! over the range.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

use super::error::VmmError;
use super::image::Image;
use super::memory::GuestMemory;
use super::vm::Vm;
use crate::sync::lock;

/// VMs that are kept of one size of RAM, and in all.
const KEPT_OF_SIZE: usize = 2;
const KEPT: usize = 8;

/// The blank VMs of this process.
struct BlankVms {
    /// The oldest first.
    ready: Mutex<VecDeque<Arc<Vm>>>,
    /// Sizes of which more are wanted, for the thread that makes them; none if the host gives no thread.
    orders: Option<Mutex<Sender<u64>>>,
}

impl Vm {
    /// A VM that has never run, whose RAM is a copy of `image`, ring 0 included.
    ///
    /// # Errors
    /// KVM or the host's memory fails.
    pub fn of_image(image: &Image) -> Result<Arc<Vm>, VmmError> {
        let blanks = BlankVms::get();
        let vm = match blanks.take(image.bytes()) {
            Some(vm) => vm,
            None => blank(image.bytes())?,
        };
        blanks.order(image.bytes());
        vm.wait_until_idle();
        image.remap(vm.memory())?;
        vm.install_tasks()?;
        Ok(vm)
    }
}

/// Makes a blank VM.
fn blank(bytes: u64) -> Result<Arc<Vm>, VmmError> {
    let vm = Arc::new(Vm::from_image(GuestMemory::reserve(bytes)?)?);
    vm.prepare_vcpu()?;
    Ok(vm)
}

impl BlankVms {
    fn get() -> &'static BlankVms {
        static ALL: OnceLock<BlankVms> = OnceLock::new();
        ALL.get_or_init(|| {
            let (orders, sizes) = mpsc::channel();
            let maker = thread::Builder::new().name("blank-vms".into()).stack_size(128 << 10);
            // Without it they are made when they are needed.
            let started = maker.spawn(move || BlankVms::get().make(&sizes));
            BlankVms { ready: Mutex::default(), orders: started.ok().map(|_| Mutex::new(orders)) }
        })
    }

    fn take(&self, bytes: u64) -> Option<Arc<Vm>> {
        let mut ready = self.ready();
        let at = ready.iter().position(|vm| vm.memory().size() == bytes)?;
        ready.remove(at)
    }

    fn order(&self, bytes: u64) {
        if let Some(orders) = &self.orders {
            // The thread waits for orders as long as the process lives.
            let _ = lock(orders).send(bytes);
        }
    }

    fn make(&self, sizes: &Receiver<u64>) {
        for bytes in sizes {
            while self.ready().iter().filter(|vm| vm.memory().size() == bytes).count() < KEPT_OF_SIZE {
                let made = match blank(bytes) {
                    Ok(vm) => vm,
                    Err(error) => {
                        tracing::debug!(%error, "no VM was made ahead");
                        break;
                    }
                };
                let mut ready = self.ready();
                ready.push_back(made);
                let surplus = ready.len().saturating_sub(KEPT);
                let gone: Vec<_> = ready.drain(..surplus).collect();
                // Ending a VM takes a while.
                drop(ready);
                drop(gone);
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Arc<Vm>>> {
        lock(&self.ready)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    use super::super::kvm::Hypervisor;
    use super::*;

    #[test]
    fn vms_made_ahead_hold_the_image_and_run() {
        if let Err(error) = Hypervisor::get() {
            return eprintln!("skipped: no KVM here: {error}");
        }
        const BYTES: u64 = 12 << 20;
        for mark in [3u8, 4, 5] {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(BYTES).expect("room for it");
            file.write_all_at(&[mark; 8], 8 << 20).expect("room for it");
            let image = Image::new(file, BYTES).expect("an image");
            let vm = Vm::of_image(&image).expect("a VM");
            assert_eq!(vm.memory().load(8 << 20), u64::from_ne_bytes([mark; 8]));
            // The vCPU that was there before the image has its task state.
            assert_ne!(vm.memory().load(super::super::layout::VCPU_PAGES), 0);
            let begun = Instant::now();
            while BlankVms::get().ready().iter().filter(|vm| vm.memory().size() == BYTES).count()
                < KEPT_OF_SIZE
            {
                assert!(begun.elapsed() < Duration::from_secs(60), "no VM was made ahead");
                thread::yield_now();
            }
        }
        assert!(BlankVms::get().ready().len() <= KEPT);
    }
}
