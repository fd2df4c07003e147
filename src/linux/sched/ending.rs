//! Stopping all threads: for good, or for a while.

use super::state::Phase;
use super::{ExitStatus, Sched};
use crate::sync::wait;
use crate::vmm::VmmError;

impl Sched {
    /// Ends the program. The first caller's status counts.
    pub fn exit(&self, status: ExitStatus) {
        let mut state = self.lock();
        state.exit.get_or_insert(status);
        for slot in state.threads.values() {
            state.alert(slot);
        }
        for worker in &state.workers {
            worker.wake.notify_all();
        }
        self.ended.notify_all();
        self.quiet.notify_all();
    }

    /// Ends the program because the machine failed it.
    pub fn fail(&self, error: VmmError) {
        self.lock().failure.get_or_insert(error);
        self.exit(ExitStatus::Signal(libc::SIGKILL as u8));
    }

    /// Whether the program has ended.
    pub fn has_ended(&self) -> bool {
        self.lock().exit.is_some()
    }

    /// Waits until the program has ended and no worker is in the guest.
    pub fn wait_for_end(&self) -> (ExitStatus, Option<VmmError>) {
        let mut state = self.lock();
        loop {
            if let Some(status) = state.exit
                && state.workers.iter().all(|worker| worker.gone)
            {
                return (status, state.failure.take());
            }
            state = wait(&self.ended, state);
        }
    }

    /// Whether all threads wait for something.
    pub fn is_quiet(&self) -> bool {
        self.lock().threads.values().all(|slot| slot.phase == Phase::Blocked)
    }

    /// Makes all threads plain records in no vCPU, and keeps them so until [`Sched::resume`] was called as often as this.
    pub fn pause(&self) {
        let mut state = self.lock();
        state.pauses += 1;
        for slot in state.threads.values() {
            state.alert(slot);
        }
        for worker in &state.workers {
            worker.wake.notify_all();
        }
        while state.exit.is_none() && state.workers.iter().any(|w| !w.gone && (!w.idle || w.loaded.is_some()))
        {
            state = wait(&self.quiet, state);
        }
    }

    /// Ends a pause.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.pauses -= 1;
        if state.pauses == 0 {
            for worker in &state.workers {
                worker.wake.notify_all();
            }
        }
    }
}
