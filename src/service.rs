//! What Hydra does, without HTTP: register, invoke, warm up, deregister.

mod register;
mod repeat;

pub use repeat::{MAX_CALLERS, MAX_REQUESTS};

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::agent::{Agent, Runtimes};
use crate::config::{Config, SnapshotProcess, agents_folder};
use crate::folder::{self, Staged};
use crate::function::spec::Defaults;
use crate::function::store::{Limits, StoreError};
use crate::function::{CodeError, CodeStore, Isolation, Spec, SpecError};
use crate::metrics::{FunctionMetrics, Metrics};
use crate::sandbox::{
    self, BlankAgents, CriuProcesses, Invocation, IsolateStarter, LanguageHosts, MemoryWatch, MicroVms, Pool,
    PoolSettings, PoolStatus, ProcessStarter, SnapshotStatus, Snapshots, Starter,
};
use crate::sync::{read, write};

/// How often idle sandboxes are looked after.
const SWEEP: Duration = Duration::from_secs(1);

/// The most that the start of a sandbox may take: twice as long as loading code may, and more.
const START_TIME: Duration = Duration::from_secs(90);

/// A running Hydra.
pub struct Service {
    settings: PoolSettings,
    defaults: Defaults,
    max_functions: usize,
    runtimes: Arc<Runtimes>,
    store: CodeStore,
    hosts: Arc<LanguageHosts>,
    blanks: Arc<BlankAgents>,
    isolates: Arc<dyn Starter>,
    processes: Arc<dyn Starter>,
    vms: Arc<MicroVms>,
    criu: Arc<CriuProcesses>,
    snapshot_process: SnapshotProcess,
    functions: RwLock<HashMap<String, Arc<Registered>>>,
    metrics: Metrics,
    /// Temporary folders of sandboxes and the agents' socket; removed at the end.
    _scratch: Staged,
}

/// A function and its sandboxes.
pub struct Registered {
    pool: Arc<Pool>,
    metrics: Arc<FunctionMetrics>,
    registered: SystemTime,
    /// Those that were asked for.
    invocations: AtomicU64,
}

/// What `GET /functions/NAME` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    #[serde(flatten)]
    spec: Spec,
    /// sha-256 of the code.
    digest: String,
    sandboxes: PoolStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotStatus>,
    invocations: u64,
    failures: u64,
    /// Milliseconds since 1970.
    registered: u64,
}

/// Why a Hydra does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The code store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder or socket cannot be made.
    #[error("cannot prepare the folder {path}: {error}")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Why a request to the service has no result.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A parameter is missing or wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The code cannot be had.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// No function has this name.
    #[error("no function '{0}' is registered; register it first")]
    Unknown(String),
    /// Another function has this name.
    #[error("the function '{0}' is registered already with another specification; deregister it first")]
    Conflict(String),
    /// Another function has the number of its snapshot.
    #[error(
        "the svmid {svmid} is that of the function '{function}'; give another, or none to have one made from the name"
    )]
    SvmidTaken {
        /// The number.
        svmid: u64,
        /// Whose it is.
        function: String,
    },
    /// There are as many functions as there may be.
    #[error("{0} functions are registered, which is the most; deregister one first")]
    TooMany(usize),
    /// The host cannot run it.
    #[error("{0}")]
    Unavailable(String),
    /// The invocation has no result.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
}

impl Service {
    /// Opens the code store and looks for runtimes. Must be called in the async runtime.
    ///
    /// # Errors
    /// [`StartError`] when a folder that it needs cannot be used.
    pub fn start(config: &Config) -> Result<Arc<Service>, StartError> {
        let store = CodeStore::open(&config.app_dir, Limits::default())?;
        let scratch = scratch_folder(&config.app_dir)?;
        let runtimes = Arc::new(Runtimes::discover(&agents_folder(config.agents.as_deref())));
        for agent in Agent::ALL {
            match runtimes.get(agent) {
                Ok(runtime) => tracing::info!(
                    language = %agent, version = runtime.version, program = %runtime.program.display(), "runtime found"
                ),
                Err(reason) => {
                    tracing::warn!(language = %agent, reason, "no runtime: its functions cannot run")
                }
            }
        }
        let watch = MemoryWatch::start();
        let folder_error = |error| StartError::Folder { path: scratch.path().to_owned(), error };
        let hosts = LanguageHosts::new(runtimes.clone(), scratch.path(), config, watch.clone())
            .map_err(folder_error)?;
        let blanks = BlankAgents::new(
            runtimes.clone(),
            scratch.path().to_owned(),
            store.folder().to_owned(),
            config,
            watch.clone(),
        );
        let vms = MicroVms::new(
            runtimes.clone(),
            scratch.path().to_owned(),
            store.folder().to_owned(),
            config,
            watch,
        );
        let service = Arc::new(Service {
            settings: PoolSettings {
                max_waiting: config.max_waiting(),
                idle_time: config.idle_time,
                start_time: START_TIME,
                parallel_starts: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            },
            defaults: Defaults {
                memory: config.default_memory,
                timeout: config.default_timeout,
                concurrency: config.default_concurrency,
            },
            max_functions: config.max_functions,
            runtimes: runtimes.clone(),
            isolates: Arc::new(IsolateStarter::new(
                hosts.clone(),
                scratch.path().to_owned(),
                config.max_result,
            )),
            processes: Arc::new(ProcessStarter::new(blanks.clone(), config.max_result)),
            snapshot_process: config.snapshot_process,
            criu: CriuProcesses::new(blanks.clone(), vms.clone(), config),
            vms,
            store,
            hosts,
            blanks,
            functions: RwLock::default(),
            metrics: Metrics::default(),
            _scratch: scratch,
        });
        tokio::spawn(sweep(Arc::downgrade(&service)));
        Ok(service)
    }

    /// Invokes a function; with `fresh` in a sandbox of its own.
    ///
    /// # Errors
    /// [`ServiceError`]: that there is no such function, what it raised, or why it has no result.
    pub async fn invoke(
        &self,
        name: &str,
        arguments: &[u8],
        fresh: bool,
    ) -> Result<Invocation, ServiceError> {
        let function = self.find(name)?;
        let fresh = fresh || function.spec().isolation == Isolation::Request;
        self.invoke_on(&function, arguments, fresh).await
    }

    /// Removes a function and ends its sandboxes; invocations under way run to their end.
    ///
    /// # Errors
    /// When there is no such function.
    pub fn deregister(&self, name: &str) -> Result<(), ServiceError> {
        let mut functions = write(&self.functions);
        let registered = functions.remove(name).ok_or_else(|| ServiceError::Unknown(name.into()))?;
        self.metrics.set_functions(functions.len());
        // While nobody can register another by this name, whose metrics these would be.
        self.metrics.forget(registered.spec(), crate::http::KINDS);
        drop(functions);
        registered.pool.close();
        tracing::info!(function = name, "deregistered");
        Ok(())
    }

    /// What is known of one function.
    ///
    /// # Errors
    /// When there is no such function.
    pub fn describe(&self, name: &str) -> Result<Description, ServiceError> {
        Ok(self.find(name)?.describe())
    }

    /// What is known of all functions, by name.
    pub fn list(&self) -> Vec<Description> {
        let mut all: Vec<_> = self.all().iter().map(|registered| registered.describe()).collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The metrics as text, with what is measured only when somebody looks.
    pub fn metrics_text(&self) -> String {
        // Under the lock, so that what was deregistered does not come back.
        for registered in read(&self.functions).values() {
            self.metrics.set_sandboxes(registered.spec(), &registered.pool.status());
            if let Some(snapshots) = registered.pool.snapshots() {
                self.metrics.set_guest(registered.spec(), &snapshots.status().guest);
            }
        }
        self.metrics.set_resident("hydra", sandbox::resident(std::process::id()));
        for agent in Agent::ALL {
            if let Some(bytes) = self.hosts.resident(agent) {
                self.metrics.set_resident(agent.name(), bytes);
            }
        }
        self.metrics.text()
    }

    /// Ends every sandbox and waits until they are gone.
    pub async fn stop(&self) {
        for registered in self.all() {
            registered.pool.close();
        }
        self.vms.close();
        self.blanks.stop().await;
        self.hosts.stop().await;
        self.store.settled().await;
    }

    async fn invoke_on(
        &self,
        function: &Registered,
        arguments: &[u8],
        fresh: bool,
    ) -> Result<Invocation, ServiceError> {
        function.invocations.fetch_add(1, Ordering::Relaxed);
        Ok(function.pool.invoke(arguments, fresh).await?)
    }

    fn find(&self, name: &str) -> Result<Arc<Registered>, ServiceError> {
        let functions = read(&self.functions);
        functions.get(name).cloned().ok_or_else(|| ServiceError::Unknown(name.into()))
    }

    fn all(&self) -> Vec<Arc<Registered>> {
        let functions = read(&self.functions);
        functions.values().cloned().collect()
    }
}

impl Registered {
    fn spec(&self) -> &Spec {
        &self.pool.function().spec
    }

    fn describe(&self) -> Description {
        Description {
            spec: self.spec().clone(),
            digest: self.pool.function().code.digest.clone(),
            sandboxes: self.pool.status(),
            snapshot: self.pool.snapshots().map(Snapshots::status),
            invocations: self.invocations.load(Ordering::Relaxed),
            failures: self.metrics.failures(),
            registered: self.registered.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        }
    }
}

/// A folder for temporary files that is gone when Hydra is; leftovers of one that was killed are removed.
fn scratch_folder(app_dir: &Path) -> Result<Staged, StartError> {
    let parent = app_dir.join("run");
    // The store's lock says that no other Hydra uses this folder.
    if let Err(error) = folder::remove_tree(&parent) {
        tracing::warn!(folder = %parent.display(), %error, "cannot remove what an earlier Hydra left");
    }
    std::fs::create_dir_all(&parent)
        .and_then(|()| Staged::new(&parent))
        .map_err(|error| StartError::Folder { path: parent, error })
}

async fn sweep(service: std::sync::Weak<Service>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(service) = service.upgrade() else { return };
        let scarce = sandbox::is_scarce();
        service.vms.sweep(scarce);
        for registered in service.all() {
            registered.pool.sweep(scarce);
        }
    }
}
