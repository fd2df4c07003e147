//! A microVM in a VMM process.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::super::super::{Error, Health};
use super::super::starter::NotRestored;
use super::super::{blocking, start_error};
use super::failed;
use super::hearing::Answer;
use super::process::{OTHER, VmmProcess};
use super::protocol::{Origin, Request};
use crate::messages::{content, unnamed_file};
use crate::snapshot::{Copied, Snapshot, Staging};

/// Most bytes of a program's state.
const MOST_STATE: u64 = 64 << 20;
/// How long copying a program may take: it may be large, and the disk slow.
const COPY_TIME: Duration = Duration::from_secs(300);
/// How long a program may take to end once it is killed, before its process is.
const END_TIME: Duration = Duration::from_secs(5);

/// A microVM in a VMM process. It ends when this is dropped.
pub struct JailedVm {
    pub(super) process: Arc<VmmProcess>,
    pub(super) number: u64,
    pub(super) health: Arc<Health>,
    /// The process said that it is there, and will say when it has ended.
    pub(super) is_there: bool,
}

impl JailedVm {
    /// What is known of its end.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Ends the program now; where that does not help, its process.
    pub fn kill(&self) {
        self.process.tell(&Request::End { vm: self.number }, Vec::new());
        if let (true, Ok(runtime)) = (self.is_there, tokio::runtime::Handle::try_current()) {
            let (health, hearing) = (self.health.clone(), self.process.hearing.clone());
            runtime.spawn(async move {
                if tokio::time::timeout(END_TIME, health.verdict()).await.is_err() {
                    hearing.give_up("it did not end a microVM");
                }
            });
        }
    }

    /// Ends the program, and makes it go on from the snapshot that it is a copy of, in the same microVM.
    ///
    /// # Errors
    /// As [`VmmProcess::restore`].
    pub async fn reset(
        self,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(JailedVm, UnixStream, Duration), NotRestored> {
        let snapshot = self.process.number(snapshot).map_err(start_error)?;
        self.process.make(Origin::Reset { vm: self.number, snapshot }).await
    }

    /// Copies the program, whose agent is ready: its memory into the file of `staging` that is given back with what it is, and how long it took since the
    /// program was at rest.
    ///
    /// # Errors
    /// The host has not the memory or the descriptors for it, or the process fails.
    pub async fn copy(&self, staging: &Staging) -> Result<(File, Copied, Duration), Error> {
        let begun = Instant::now();
        let (bytes, upon) = (staging.bytes(), staging.parent());
        let upon = upon.map(|upon| self.process.number(upon)).transpose().map_err(start_error)?;
        let request = Request::Copy { vm: self.number, upon, bytes };
        let memory = staging.file_for_another().map_err(start_error)?;
        let state = File::from(unnamed_file(&[]).map_err(start_error)?);
        let files = [&memory, &state].map(|file| file.try_clone().map(Into::into));
        let files = files.into_iter().collect::<Result<_, _>>().map_err(start_error)?;
        let (copied, time) = match self.process.ask(self.number, &request, files, COPY_TIME).await? {
            Answer::Copied(copied, time) => (copied, time),
            Answer::NotCopied(reason) => return Err(failed(reason)),
            _ => return Err(failed(OTHER)),
        };
        let state = blocking(move || content(&state, MOST_STATE)).await?.map_err(start_error)?;
        let most = begun.elapsed();
        let (in_use, pause) = (copied.in_use.min(bytes), copied.pause.min(most));
        Ok((memory, Copied { in_use, pause, state, ..copied }, time.min(most)))
    }

    /// Has the process find out what the program, which is done with its first request, has touched of its snapshot.
    pub fn look(&self) {
        self.process.tell(&Request::Look { vm: self.number, briefly: false }, Vec::new());
    }

    /// The same, to be called while its first request runs.
    pub fn look_briefly(&self) -> impl FnOnce() + Send + use<> {
        let (process, vm) = (Arc::downgrade(&self.process), self.number);
        move || {
            if let Some(process) = process.upgrade() {
                process.tell(&Request::Look { vm, briefly: true }, Vec::new());
            }
        }
    }
}

impl Drop for JailedVm {
    fn drop(&mut self) {
        // Why it ended is still heard.
        self.kill();
        if !self.is_there {
            self.process.forget(self.number);
        }
    }
}
