//! Registering a function.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use super::{Registered, Service, ServiceError};
use crate::config::SnapshotProcess;
use crate::function::spec::Query;
use crate::function::{Function, SandboxKind, Spec};
use crate::sandbox::{Ended, Invocation, Pool, Starter, svmid};
use crate::sync::{read, write};

impl Service {
    /// Registers a function: checks what was said, downloads and unpacks the code.
    ///
    /// # Errors
    /// [`ServiceError`]: what is wrong with it, or that the name is taken.
    pub async fn register(&self, query: Query) -> Result<String, ServiceError> {
        let spec = query.check(self.defaults)?;
        if self.is_registered(&spec)? {
            return Ok(spec.name);
        }
        let mut in_microvm = false;
        match spec.sandbox {
            SandboxKind::Isolate | SandboxKind::Process => {}
            SandboxKind::Snapshot | SandboxKind::SnapshotProcess => {
                in_microvm = self.has_microvms(spec.sandbox).await?;
                check_svmid(&read(&self.functions), &spec)?;
            }
        }
        let code = self.store.fetch(&spec.url).await?;
        let function = Arc::new(Function { spec, code });
        let agent = function.agent();
        self.runtimes.get(agent).map_err(|reason| {
            ServiceError::Unavailable(format!("{agent} functions cannot run on this host: {reason}"))
        })?;
        let starter: Arc<dyn Starter> = match function.spec.sandbox {
            SandboxKind::Isolate => {
                self.hosts.prepare(agent);
                self.isolates.clone()
            }
            SandboxKind::Process => {
                self.blanks.prepare(agent);
                self.processes.clone()
            }
            SandboxKind::Snapshot | SandboxKind::SnapshotProcess if in_microvm => {
                self.vms.starter(function.clone()).await?
            }
            SandboxKind::Snapshot | SandboxKind::SnapshotProcess => {
                self.criu.starter(function.clone()).await?
            }
        };
        let name = function.spec.name.clone();
        let mut functions = write(&self.functions);
        if let Some(other) = functions.get(&name) {
            // It was registered while the code was downloaded.
            return match *other.spec() == function.spec {
                true => Ok(name),
                false => Err(ServiceError::Conflict(name)),
            };
        }
        check_svmid(&functions, &function.spec)?;
        if functions.len() >= self.max_functions {
            return Err(ServiceError::TooMany(self.max_functions));
        }
        tracing::info!(function = name, sandbox = %function.spec.sandbox, %agent, digest = function.code.digest, "registered");
        let metrics = Arc::new(self.metrics.function(&function.spec, crate::http::KINDS));
        let counting = metrics.clone();
        let ended: Ended = Box::new(move |ended| match ended {
            Ok(invocation @ Invocation { result: Ok(_), .. }) => counting.succeeded(invocation),
            Ok(Invocation { result: Err(error), .. }) | Err(error) => {
                counting.failed(crate::http::kind_of(error));
            }
        });
        let registered = Registered {
            metrics,
            pool: Pool::new(function, starter, self.settings, ended),
            registered: SystemTime::now(),
            invocations: AtomicU64::new(0),
        };
        functions.insert(name.clone(), Arc::new(registered));
        self.metrics.set_functions(functions.len());
        Ok(name)
    }

    /// Whether sandboxes of a kind that has snapshots are microVMs here, rather than processes that CRIU checkpoints.
    async fn has_microvms(&self, kind: SandboxKind) -> Result<bool, ServiceError> {
        let wanted = match kind {
            SandboxKind::SnapshotProcess => self.snapshot_process,
            _ => SnapshotProcess::Microvm,
        };
        let reason = match wanted {
            SnapshotProcess::Criu => None,
            _ => match self.vms.check(kind).await {
                Ok(()) => return Ok(true),
                Err(reason) if wanted == SnapshotProcess::Microvm => return Err(reason.into()),
                Err(reason) => Some(reason),
            },
        };
        self.criu.check().await.map(|()| false).map_err(|why| {
            ServiceError::Unavailable(match reason {
                Some(reason) => format!("{reason}; nor can CRIU take its place: {why}"),
                None => format!("'{kind}' sandboxes are to be processes that CRIU checkpoints: {why}"),
            })
        })
    }

    fn is_registered(&self, spec: &Spec) -> Result<bool, ServiceError> {
        match self.find(&spec.name) {
            Ok(other) if other.spec() == spec => Ok(true),
            Ok(_) => Err(ServiceError::Conflict(spec.name.clone())),
            Err(_) => Ok(false),
        }
    }
}

/// Two functions would overwrite each other's snapshot.
fn check_svmid(functions: &HashMap<String, Arc<Registered>>, spec: &Spec) -> Result<(), ServiceError> {
    if !spec.sandbox.has_snapshots() {
        return Ok(());
    }
    let svmid = svmid(spec);
    let holder = functions.values().map(|other| other.spec()).find(|other| {
        other.sandbox.has_snapshots() && other.name != spec.name && self::svmid(other) == svmid
    });
    match holder {
        Some(other) => Err(ServiceError::SvmidTaken { svmid, function: other.name.clone() }),
        None => Ok(()),
    }
}
