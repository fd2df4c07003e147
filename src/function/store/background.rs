//! Work that nobody waits for: what makes the store outlast a failure of the power.
use std::{
    io,
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one job after the other. Dropping it waits until all are done.
pub(super) struct Background {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start() -> io::Result<Background> {
        let (jobs, due) = channel::<Job>();
        let work = move || due.into_iter().for_each(|job| job());
        let thread = thread::Builder::new().name("code-store".into()).spawn(work)?;
        Ok(Background { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has `job` done after those before it.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // It is refused when a job before it has panicked: what is not kept is downloaded again.
            let _ = jobs.send(Box::new(job));
        }
    }

    /// Ready when all that was given until now is done.
    pub(super) fn done(&self) -> impl Future<Output = ()> + use<> {
        let (done, is_done) = tokio::sync::oneshot::channel();
        self.run(move || {
            let _ = done.send(());
        });
        async {
            let _ = is_done.await;
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::sync::lock;

    #[tokio::test]
    async fn jobs_are_done_in_order_and_to_the_last() {
        let background = Background::start().unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let give = |number| {
            let done = done.clone();
            background.run(move || lock(&done).push(number));
        };
        (0..100).for_each(give);
        background.done().await;
        assert_eq!(*lock(&done), (0..100).collect::<Vec<_>>());
        (100..200).for_each(give);
        drop(background);
        assert_eq!(lock(&done).len(), 200);
    }
}
