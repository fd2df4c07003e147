//! Making a function's snapshot from one of its microVMs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::blocking;
use super::slot::Making;
use super::starter::{Inner, SETTLE_TIME};
use super::vm::FunctionVm;
use super::vmm_process::JailedVm;
use crate::linux::Guest;
use crate::snapshot::Snapshot;

impl Inner {
    /// Checkpoints a microVM whose agent waits for its next invocation.
    pub(super) async fn checkpoint(
        self: &Arc<Self>,
        vm: &FunctionVm,
        upon: Option<Arc<Snapshot>>,
        making: Making<Snapshot>,
    ) {
        let kept = match vm {
            FunctionVm::Within(machine) => {
                let (starter, guest) = (self.clone(), machine.guest().clone());
                blocking(move || starter.keep(&guest, upon.as_ref())).await
            }
            FunctionVm::Jailed(vm) => Ok(self.keep_jailed(vm, upon).await),
        };
        match kept.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((snapshot, time)) => {
                let manifest = snapshot.manifest();
                self.made_us.store(time.as_micros() as u64, Ordering::Relaxed);
                tracing::info!(
                    function = self.name(),
                    svmid = self.expected.svmid,
                    bytes = manifest.memory.stored,
                    pause_us = manifest.pause.as_micros() as u64,
                    "snapshot made"
                );
                self.spares.retain(|_| false);
                making.done(snapshot);
                // Whoever invoked it once may do so again.
                self.spares.expect_one();
                self.replenish();
            }
            Err(error) => tracing::warn!(function = self.name(), error, "no snapshot was made"),
        }
    }

    /// Makes a snapshot of a program; also gives how long that took since it was at rest.
    fn keep(&self, guest: &Guest, upon: Option<&Arc<Snapshot>>) -> Result<(Arc<Snapshot>, Duration), String> {
        if let Some(upon) = upon {
            // What this function touched of the template, others will.
            upon.note_working_set(guest);
        }
        guest.settle(SETTLE_TIME);
        let begun = Instant::now();
        let store = self.vms.store().map_err(|error| error.to_string())?;
        let staging = store.stage(&self.expected, upon).map_err(|error| error.to_string())?;
        let checkpoint = guest.checkpoint().map_err(|error| error.to_string())?;
        let draft = staging.write(&checkpoint).map_err(|error| error.to_string())?;
        // The program goes on; the rest needs it no more.
        drop(checkpoint);
        let snapshot = draft.commit().map_err(|error| error.to_string())?;
        Ok((snapshot, begun.elapsed()))
    }

    /// The same of one in the VMM process.
    async fn keep_jailed(
        self: &Arc<Self>,
        vm: &JailedVm,
        upon: Option<Arc<Snapshot>>,
    ) -> Result<(Arc<Snapshot>, Duration), String> {
        let starter = self.clone();
        let staged = blocking(move || {
            let store = starter.vms.store().map_err(|error| error.to_string())?;
            let staging = store.stage_for_another(&starter.expected, upon.as_ref());
            staging.map_err(|error| error.to_string())
        });
        let staging = staged.await.map_err(|error| error.to_string())??;
        let (memory, copied, time) = vm.copy(&staging).await.map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let committed = blocking(move || staging.commit(&memory, copied)).await;
        let snapshot = committed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok((snapshot, time.saturating_add(begun.elapsed())))
    }
}
