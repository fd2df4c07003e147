//! A function's sandbox: a microVM with the function loaded.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::super::spares::Loan;
use super::super::{Error, Health, Sandbox, Start, load};
use super::boot::{Obstacle, make_ready};
use super::starter::{Inner, code};
use super::vm::FunctionVm;
use crate::agent::Channel;
use crate::jail::view::TMP;
use crate::snapshot::Snapshot;

/// How long the first copy of a snapshot is at its first request before others have brought in what it has touched by then: a request may
/// take seconds, and a hundred more come with it.
const GLANCE: Duration = Duration::from_millis(20);

/// A microVM with the function loaded.
pub struct Loaded {
    // Dropped, and so killed, before the channel: a program that sees the end of that cleans up behind itself.
    pub(super) vm: FunctionVm,
    pub(super) channel: Channel,
    pub(super) start: Start,
    pub(super) starter: Arc<Inner>,
    /// What it is a copy of, if it is one.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// The template that its program began as, if it did.
    pub(super) upon: Option<Arc<Snapshot>>,
    /// That it is lent to one request.
    pub(super) loan: Option<Loan<Loaded>>,
    /// How long it took to be made, until its first answer is counted with it.
    pub(super) made_in: Option<Duration>,
    /// When the invocation under way began.
    pub(super) began: Option<Instant>,
    /// Dropped once it has answered for the first time, for those who wait for that.
    pub(super) unanswered: Option<oneshot::Sender<()>>,
}

impl Loaded {
    /// One that is no copy of the function's snapshot; `upon` is the template that it began as, if it did.
    pub(super) fn new(
        channel: Channel,
        vm: FunctionVm,
        start: Start,
        starter: Arc<Inner>,
        upon: Option<Arc<Snapshot>>,
    ) -> Loaded {
        Loaded {
            channel,
            vm,
            start,
            starter,
            snapshot: None,
            upon,
            loan: None,
            made_in: None,
            began: None,
            unanswered: None,
        }
    }

    /// Has the agent load the function.
    ///
    /// # Errors
    /// The code cannot be loaded.
    pub(super) async fn load(&mut self) -> Result<(), Error> {
        let (function, max_result) = (&self.starter.function, self.starter.vms.max_result);
        load(&mut self.channel, function, &code(function), Path::new(TMP), max_result).await
    }

    /// Has it remembered what the first request touched of the snapshot, if that is not known yet. Of a copy that is lent, it is
    /// noted when that comes back.
    fn note_working_set(&self) {
        if self.loan.is_none()
            && let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| !snapshot.has_working_set())
        {
            self.vm.note_working_set(snapshot);
        }
    }

    /// Has those that are restored while its first request runs profit from it too.
    fn glance(&self) {
        if self.made_in.is_some()
            && let Some(snapshot) = self.snapshot.clone().filter(|snapshot| snapshot.knows_nothing())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let glance = self.vm.glance(snapshot);
            runtime.spawn(async move {
                tokio::time::sleep(GLANCE).await;
                glance();
            });
        }
    }

    /// Checkpoints the microVM, whose agent waits for its next invocation, if that is to be done now.
    async fn checkpoint(&mut self) -> Option<()> {
        let starter = self.starter.clone();
        let making = starter.slot.claim()?;
        if let Err(obstacle) = make_ready(&mut self.channel).await {
            tracing::warn!(function = starter.name(), "no snapshot was made: {obstacle}");
            if matches!(obstacle, Obstacle::Silence) {
                self.vm.kill();
            }
            return None;
        }
        starter.checkpoint(&self.vm, self.upon.clone(), making).await;
        Some(())
    }
}

impl Sandbox for Loaded {
    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    fn health(&self) -> &Arc<Health> {
        self.vm.health()
    }

    fn start(&self) -> Start {
        self.start
    }

    fn busy(&mut self, busy: bool) {
        if busy {
            self.began = Some(Instant::now());
            self.glance();
            return;
        }
        self.unanswered = None;
        if let (Some(began), Some(made_in)) = (self.began.take(), self.made_in.take()) {
            self.starter.costs.note(self.start, made_in + began.elapsed());
            self.note_working_set();
        }
    }

    fn is_rest_due(&self) -> bool {
        self.starter.slot.is_due()
    }

    fn rest(&mut self) -> BoxFuture<'_, ()> {
        self.checkpoint().map(drop).boxed()
    }

    fn retire(mut self: Box<Self>) {
        let (Some(loan), Some(snapshot)) = (self.loan.take(), self.snapshot.clone()) else { return };
        let (Ok(runtime), true) = (tokio::runtime::Handle::try_current(), self.starter.is_current(&snapshot))
        else {
            return;
        };
        if !self.starter.costs.prefers_reset() {
            drop(loan);
            self.note_working_set();
            return self.starter.replenish();
        }
        let Some(place) = loan.end() else { return self.note_working_set() };
        let (vm, channel, starter) = (self.vm, self.channel, self.starter);
        runtime.spawn(async move {
            match starter.clone().reset(vm, channel, snapshot).await {
                Ok(copy) => place.fill(copy),
                Err(error) => {
                    tracing::debug!(function = starter.name(), %error, "a microVM was not put back");
                }
            }
        });
    }

    fn kill(&mut self) {
        self.vm.kill();
    }
}
