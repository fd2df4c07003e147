//! The `isolate` sandbox: an isolate of the function's language, in a host process that many functions share.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::host::{IsolateHandle, LanguageHosts, Opened};
use super::host_memory::Usage;
use super::{Error, Health, Sandbox, Starter, load};
use crate::agent::Channel;
use crate::function::Function;

/// Starts isolates.
pub struct IsolateStarter {
    hosts: Arc<LanguageHosts>,
    /// Where their temporary folders are made.
    scratch: PathBuf,
    max_result: usize,
}

struct Isolate {
    channel: Channel,
    health: Arc<Health>,
    usage: Arc<Usage>,
    handle: IsolateHandle,
    tmp: Option<TempDir>,
}

impl IsolateStarter {
    /// A starter of isolates in `hosts`, with temporary folders in `scratch`, for results of at most `max_result` bytes.
    pub fn new(hosts: Arc<LanguageHosts>, scratch: PathBuf, max_result: usize) -> IsolateStarter {
        IsolateStarter { hosts, scratch, max_result }
    }
}

impl Starter for IsolateStarter {
    fn start(&self, function: Arc<Function>) -> BoxFuture<'static, Result<Box<dyn Sandbox>, Error>> {
        let (hosts, scratch, max_result) = (self.hosts.clone(), self.scratch.clone(), self.max_result);
        async move {
            let memory = function.spec.memory;
            let agent = function.agent();
            let opened = match hosts.open(agent, memory).await {
                // The host may have ended just then, by another function's doing.
                Err(Error::Start(_)) => hosts.open(agent, memory).await?,
                opened => opened?,
            };
            let Opened { channel, health, usage, handle } = opened;
            let tmp = tempfile::Builder::new()
                .prefix("isolate-")
                .tempdir_in(scratch)
                .map_err(|error| Error::Start(format!("its temporary folder: {error}")))?;
            let mut isolate = Isolate { channel, health, usage, handle, tmp: Some(tmp) };
            isolate.usage.busy(true);
            let path = isolate.tmp.as_ref().map(|tmp| tmp.path().to_owned()).unwrap_or_default();
            let loaded = load(&mut isolate.channel, &function, function.path(), &path, max_result).await;
            isolate.usage.busy(false);
            match loaded {
                Ok(()) => Ok(Box::new(isolate) as Box<dyn Sandbox>),
                Err(error) => {
                    if matches!(error, Error::LoadTimeout(_)) {
                        isolate.kill();
                    }
                    Err(error)
                }
            }
        }
        .boxed()
    }
}

impl Sandbox for Isolate {
    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    fn health(&self) -> &Arc<Health> {
        &self.health
    }

    fn busy(&mut self, busy: bool) {
        self.usage.busy(busy);
    }

    fn kill(&mut self) {
        self.handle.kill();
    }
}

impl Drop for Isolate {
    fn drop(&mut self) {
        remove(self.tmp.take());
    }
}

/// Removes a temporary folder, which may hold much, without holding up the caller.
pub(super) fn remove(folder: Option<TempDir>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(folder))),
        Err(_) => drop(folder),
    }
}
