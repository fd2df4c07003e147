//! The `snapshot` sandbox: an agent with one function, in a KVM microVM whose threads run inside Hydra.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | what all microVMs have in common |
//! | `starter.rs` | starting a function's sandboxes from its snapshot, or putting them back to it |
//! | `beginning.rs`, `keeping.rs` | those of a function that has none: cold, or from a template; and the making of one |
//! | `loaded.rs` | one of them |
//! | `costs.rs` | whether a microVM is put back or replaced by a new one |
//! | `template/` | snapshots of agents without a function, and copies of them that wait for one |
//! | `boot.rs` | starting an agent |
//! | `slot.rs`, `svmid.rs` | whether there is a snapshot and who makes it; its number |
//! | `tally.rs` | what all of a function's microVMs did, counted |
//! | `machine.rs` | a microVM from its start to its end |
//! | `vmm_process/` | jailed processes with microVMs in them, for `snapshot-process` |
//! | `vm.rs` | a function's microVM, wherever it is |
//! | `root.rs`, `output.rs` | what its program sees of files; where it prints to |
//!
//! The first microVM of a function is a copy of the language's template, which loads the code; without a template it is started cold. When it has answered its first invocation and waits for the next,
//! it is checkpointed; every later one is a copy of it that goes on from there. So whatever the function did until then,
//! and what `/warmup` had it do, is in all of them; a `cached: false` invocation gets a copy that has done nothing since.

mod beginning;
mod boot;
mod costs;
mod keeping;
mod loaded;
mod machine;
mod output;
mod root;
mod slot;
mod starter;
mod svmid;
mod tally;
mod template;
mod vm;
mod vmm_process;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use self::boot::Programs;
pub(super) use self::boot::{Obstacle, make_ready};
pub(super) use self::slot::Slot;
pub use self::starter::SnapshotStarter;
pub use self::svmid::svmid;
use self::template::Template;
pub use self::vmm_process::vmm_process_main;
use super::Error;
use super::memory::MemoryWatch;
use crate::agent::{Agent, Runtime, Runtimes};
use crate::child;
use crate::config::{Config, NetworkPolicy};
use crate::function::{Function, SandboxKind};
use crate::jail::{self, Layer};
use crate::linux::net::Policy;
use crate::snapshot::{Expected, Snapshot, Store, runtime_digest};
use crate::sync::lock;
use crate::vmm::{Cpu, Hypervisor};

/// What all microVMs of a Hydra have in common.
pub struct MicroVms {
    programs: Programs,
    scratch: PathBuf,
    /// Where functions' code lies.
    code_store: PathBuf,
    snapshots: PathBuf,
    max_result: usize,
    watch: Arc<MemoryWatch>,
    /// Whether copies of snapshots, and templates, are made ahead of requests.
    ahead: bool,
    /// How long a copy of a template waits for a function.
    idle_time: Duration,
    digests: Mutex<HashMap<Agent, String>>,
    store: OnceLock<Store>,
    /// By language and memory in MiB.
    templates: Mutex<HashMap<(Agent, u32), Arc<Template>>>,
    /// Whether this host can run microVMs; if not, why.
    probe: fn() -> Result<(), String>,
}

impl MicroVms {
    /// None yet. Functions' code is in `code_store`; temporary files will be in `scratch`, snapshots in `app_dir`.
    pub fn new(
        runtimes: Arc<Runtimes>,
        scratch: PathBuf,
        code_store: PathBuf,
        config: &Config,
        watch: Arc<MemoryWatch>,
    ) -> Arc<MicroVms> {
        let network = match config.network {
            NetworkPolicy::Host => Policy::Open,
            NetworkPolicy::None => Policy::Loopback,
        };
        let tmp_bytes = u64::from(config.tmp_size) << 20;
        Arc::new(MicroVms {
            programs: Programs::new(runtimes, scratch.clone(), network, tmp_bytes),
            scratch,
            code_store,
            watch,
            snapshots: config.app_dir.join("snapshots"),
            max_result: config.max_result,
            ahead: config.ahead,
            idle_time: config.idle_time,
            digests: Mutex::default(),
            store: OnceLock::new(),
            templates: Mutex::default(),
            probe: hypervisor,
        })
    }

    /// Whether this host can run microVMs, for sandboxes of a `kind`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason.
    pub async fn check(&self, kind: SandboxKind) -> Result<(), Error> {
        blocking(self.probe).await?.map_err(|reason| {
            Error::Unavailable(format!(
                "'{kind}' sandboxes need KVM, which this host does not give: {reason}; use isolate or process"
            ))
        })?;
        let missing = match kind {
            SandboxKind::SnapshotProcess => jail::probe().missing(Layer::Identity),
            _ => None,
        };
        match missing {
            // It could change the files of templates, which it has open to read.
            Some(reason) => Err(Error::Unavailable(format!(
                "'{kind}' sandboxes need a user of their own, which this host does not give: {reason}; use snapshot"
            ))),
            None => Ok(()),
        }
    }

    /// Lets go what is only kept ready, when nobody used it for long or memory is `scarce`. Called now and then.
    pub fn sweep(&self, scarce: bool) {
        let (unused, templates) = {
            let mut templates = lock(&self.templates);
            // Whoever else has one uses it. It stays on the disk.
            let is_unused = |template: &Arc<Template>| {
                Arc::strong_count(template) == 1 && template.was_unused_for(self.idle_time)
            };
            let unused: Vec<_> = templates.extract_if(|_, template| is_unused(template)).collect();
            (unused, templates.values().cloned().collect::<Vec<_>>())
        };
        // Not under the lock: ending the copies takes a while.
        drop(unused);
        templates.iter().for_each(|template| template.sweep(self.idle_time, scarce));
    }

    /// Ends what is only kept ready, and keeps nothing more.
    pub fn close(&self) {
        lock(&self.templates).values().for_each(|template| template.close());
    }

    /// A starter of the function's sandboxes, with its snapshot if there is one that will do.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when snapshots cannot be kept; [`Error::Start`] when the host gives no descriptors.
    pub async fn starter(self: &Arc<Self>, function: Arc<Function>) -> Result<Arc<SnapshotStarter>, Error> {
        let (vms, of) = (self.clone(), function.clone());
        let (expected, found) = blocking(move || vms.find(&of)).await??;
        let mut template = None;
        if found.is_none() && self.ahead {
            let template = template.insert(self.template(function.agent(), function.spec.memory)?);
            template.expect_function(self, function.spec.sandbox == SandboxKind::SnapshotProcess);
        }
        SnapshotStarter::new(self.clone(), function, expected, found, template)
            .map(Arc::new)
            .map_err(start_error)
    }

    /// What a snapshot of the function must be, and the one that there is.
    fn find(&self, function: &Function) -> Result<(Expected, Option<Arc<Snapshot>>), Error> {
        let expected = self.expected(function)?;
        let found = self.store()?.find(&expected).unwrap_or_else(|refusal| {
            tracing::warn!(function = function.spec.name, "{refusal}; it will be made anew");
            None
        });
        Ok((expected, found))
    }

    fn expected(&self, function: &Function) -> Result<Expected, Error> {
        let (spec, agent) = (&function.spec, function.agent());
        let settings = [
            ("entry point", spec.entry_point.clone().unwrap_or_default()),
            ("most bytes of a result", self.max_result.to_string()),
        ];
        // What was made in a jail is not for Hydra itself to restore.
        let jailed = (spec.sandbox == SandboxKind::SnapshotProcess)
            .then(|| ("made in".to_owned(), "the jail of its function".to_owned()));
        Ok(Expected {
            svmid: svmid(spec),
            function: spec.name.clone(),
            language: agent.name().into(),
            settings: settings
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .chain(self.common_settings())
                .chain(jailed)
                .collect(),
            code: function.code.digest.clone(),
            runtime: self.runtime_digest(agent)?,
            memory: u64::from(spec.memory) << 20,
        })
    }

    /// The settings of all that is checkpointed: how large `/tmp` is, and the time zone, where there is one.
    fn common_settings(&self) -> impl Iterator<Item = (String, String)> {
        let tmp = ("bytes of /tmp".into(), self.programs.tmp_bytes().to_string());
        let zone = child::time_zone().map(|zone| ("time zone".into(), zone.to_string_lossy().into_owned()));
        [tmp].into_iter().chain(zone)
    }

    /// Digest of a language's runtime and agent.
    pub(super) fn runtime_digest(&self, agent: Agent) -> Result<String, Error> {
        self.digest(self.programs.runtime(agent)?)
            .map_err(|error| Error::Unavailable(format!("the {agent} runtime cannot be read: {error}")))
    }

    /// Digest of a language's runtime and agent, looked at once.
    fn digest(&self, runtime: &Runtime) -> io::Result<String> {
        let mut digests = lock(&self.digests);
        if let Some(digest) = digests.get(&runtime.agent) {
            return Ok(digest.clone());
        }
        let digest = runtime_digest([&runtime.program, &runtime.folder])?;
        Ok(digests.entry(runtime.agent).or_insert(digest).clone())
    }

    /// The store, opened when it is first needed.
    fn store(&self) -> Result<Store, Error> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let unavailable = |reason: String| Error::Unavailable(format!("snapshots cannot be kept: {reason}"));
        let hypervisor = Hypervisor::get().map_err(|error| unavailable(error.to_string()))?;
        match Store::open(&self.snapshots, Cpu::of_host(hypervisor)) {
            Ok(store) => Ok(self.store.get_or_init(|| store).clone()),
            // Another registration may have opened it just then.
            Err(error) => self.store.get().cloned().ok_or_else(|| unavailable(error.to_string())),
        }
    }
}

/// Opens and probes KVM, once for the process.
fn hypervisor() -> Result<(), String> {
    Hypervisor::get().map(drop).map_err(|error| error.to_string())
}

/// Runs what works in the host for a while where that holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(start_error)
}

fn start_error(error: impl std::fmt::Display) -> Error {
    Error::Start(error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[tokio::test]
    async fn a_template_that_nobody_uses_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let app_dir = folder.path().join("app");
        let arguments = ["hydra", "serve", "--idle-time", "0", "--app-dir", app_dir.to_str().unwrap()];
        let Command::Serve(config) = Cli::parse_from(arguments).command else { unreachable!() };
        // That is no program: there will be no snapshot, but the template all the same.
        let program = folder.path().join("agent");
        std::fs::write(&program, "none").unwrap();
        let runtime = Runtime {
            agent: Agent::Native,
            program,
            folder: folder.path().to_owned(),
            version: String::new(),
        };
        let runtimes = Arc::new(Runtimes::known(vec![runtime]));
        let (scratch, code) = (folder.path().to_owned(), folder.path().to_owned());
        let vms = MicroVms::new(runtimes, scratch, code, &config, Arc::default());
        let used = vms.template(Agent::Native, 64).unwrap();
        drop(vms.template(Agent::Native, 65).unwrap());
        let swept = async |left: &[u32]| loop {
            vms.sweep(false);
            let known: Vec<_> = lock(&vms.templates).keys().map(|(_, memory)| *memory).collect();
            assert!(left.iter().all(|memory| known.contains(memory)), "{known:?}");
            if known.len() == left.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        swept(&[64]).await;
        drop(used);
        swept(&[]).await;
    }

    #[tokio::test]
    async fn a_host_without_kvm_says_so() {
        let Command::Serve(config) = Cli::parse_from(["hydra", "serve"]).command else { unreachable!() };
        let folder = tempfile::tempdir().unwrap();
        let runtimes = Arc::new(Runtimes::discover(folder.path()));
        let mut vms = MicroVms::new(
            runtimes,
            folder.path().to_owned(),
            folder.path().to_owned(),
            &config,
            Arc::default(),
        );
        Arc::get_mut(&mut vms).unwrap().probe = || Err("/dev/kvm is not there".into());
        let refused = vms.check(SandboxKind::Snapshot).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
        assert!(refused.to_string().contains("/dev/kvm is not there"), "{refused}");
    }
}
