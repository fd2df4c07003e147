//! A function's microVM, wherever it is.

use std::sync::Arc;

use super::super::Health;
use super::machine::Machine;
use super::vmm_process::JailedVm;
use crate::snapshot::Snapshot;

/// A running microVM. Its program is killed when this is dropped.
pub enum FunctionVm {
    /// Its threads run in Hydra.
    Within(Machine),
    /// It is in the function's VMM process.
    Jailed(JailedVm),
}

impl FunctionVm {
    /// What is known of its end.
    pub fn health(&self) -> &Arc<Health> {
        match self {
            FunctionVm::Within(machine) => machine.health(),
            FunctionVm::Jailed(vm) => vm.health(),
        }
    }

    /// Ends the program now.
    pub fn kill(&self) {
        match self {
            FunctionVm::Within(machine) => machine.kill(),
            FunctionVm::Jailed(vm) => vm.kill(),
        }
    }

    /// Has it remembered, in the background, what the program has touched of `snapshot`, which it is a copy of and is done with its first
    /// request.
    pub fn note_working_set(&self, snapshot: &Arc<Snapshot>) {
        match (self, tokio::runtime::Handle::try_current()) {
            (FunctionVm::Within(machine), Ok(runtime)) => {
                let (guest, snapshot) = (machine.guest().clone(), snapshot.clone());
                runtime.spawn_blocking(move || snapshot.note_working_set(&guest));
            }
            (FunctionVm::Within(_), Err(_)) => {}
            (FunctionVm::Jailed(vm), _) => vm.look(),
        }
    }

    /// What is to be done later, and holds up nobody, to have it found out what the program has touched of `snapshot` in the middle of its first
    /// request.
    pub fn glance(&self, snapshot: Arc<Snapshot>) -> Box<dyn FnOnce() + Send> {
        match self {
            FunctionVm::Within(machine) => {
                let guest = Arc::downgrade(machine.guest());
                Box::new(move || {
                    if let Some(guest) = guest.upgrade() {
                        tokio::task::spawn_blocking(move || snapshot.glance_at(&guest));
                    }
                })
            }
            FunctionVm::Jailed(vm) => Box::new(vm.look_briefly()),
        }
    }
}
