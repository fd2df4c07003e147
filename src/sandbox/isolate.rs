//! The `isolate` sandbox: an isolate of the function's language, in a host process that many functions share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::host::{IsolateHandle, LanguageHosts, Opened};
use super::host_memory::Usage;
use super::{DIED, Error, Health, Sandbox, Starter, VERDICT_TIME, load};
use crate::agent::Channel;
use crate::folder::Staged;
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
    tmp: Option<Staged>,
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
            let started = match start(&hosts, &scratch, max_result, &function).await {
                // The host may have ended just then, by another function's doing.
                Err(Error::Start(_)) => start(&hosts, &scratch, max_result, &function).await,
                started => started,
            };
            hosts.prepare(function.agent());
            started.map(|isolate| Box::new(isolate) as Box<dyn Sandbox>)
        }
        .boxed()
    }
}

async fn start(
    hosts: &Arc<LanguageHosts>,
    scratch: &Path,
    max_result: usize,
    function: &Function,
) -> Result<Isolate, Error> {
    let memory = function.spec.memory;
    let Opened { channel, health, usage, handle } = hosts.open(function.agent(), memory).await?;
    let tmp = Staged::new(scratch).map_err(|error| Error::Start(format!("its temporary folder: {error}")))?;
    let path = tmp.path().to_owned();
    let mut isolate = Isolate { channel, health, usage, handle, tmp: Some(tmp) };
    isolate.usage.busy(true);
    let loaded = load(&mut isolate.channel, function, function.path(), &path, max_result).await;
    isolate.usage.busy(false);
    let error = match loaded {
        Ok(()) => return Ok(isolate),
        Err(error) => error,
    };
    match error {
        Error::LoadTimeout(_) => isolate.kill(),
        Error::Load(ref failure) if failure.kind == DIED => {
            let _ = tokio::time::timeout(VERDICT_TIME, isolate.health.verdict()).await;
            if isolate.health.is_out_of_memory() {
                return Err(Error::OutOfMemory { limit_mib: memory });
            }
            if !isolate.handle.host_is_alive() {
                return Err(Error::Start("its language host ended while the code was loaded".into()));
            }
        }
        _ => {}
    }
    Err(error)
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
        // Whoever wanted it went away while its code was loaded, or ran.
        if self.usage.is_busy() {
            self.handle.kill();
        }
        remove(self.tmp.take());
    }
}

/// Removes a temporary folder, which may hold much, without holding up the caller.
fn remove(folder: Option<Staged>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(folder))),
        Err(_) => drop(folder),
    }
}
