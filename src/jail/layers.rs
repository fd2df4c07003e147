//! The layers that make a jail, and which of them this host gives.

use super::{cgroup, identity, init_program};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::OnceLock;

/// One layer of a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// A user namespace: the jail's capabilities count for nothing outside.
    User,
    /// The agent runs as a host user that owns nothing, not as root.
    Identity,
    /// A mount namespace with a composed read-only root.
    Mount,
    /// A PID namespace: other processes can be neither seen nor signalled, and all of the jail's end with its init.
    Pid,
    /// A `/proc` of that PID namespace.
    Proc,
    /// An IPC namespace.
    Ipc,
    /// A hostname of its own.
    Hostname,
    /// A network namespace, for [`super::Network::None`].
    Network,
    /// The system-call filter.
    Seccomp,
    /// Landlock: a second lock on files, and on signals and abstract sockets.
    Landlock,
    /// `no_new_privs`, no capabilities, resource limits.
    Privileges,
    /// A limit on the number of processes and threads.
    Processes,
    /// cgroup v2: a memory limit for the jail as a whole.
    Cgroup,
}

/// All layers, outermost first.
pub const ALL: [Layer; 13] = [
    Layer::User,
    Layer::Identity,
    Layer::Mount,
    Layer::Pid,
    Layer::Proc,
    Layer::Ipc,
    Layer::Hostname,
    Layer::Network,
    Layer::Seccomp,
    Layer::Landlock,
    Layer::Privileges,
    Layer::Processes,
    Layer::Cgroup,
];

/// Which layers this host gives; for each that it does not, the reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Layers(BTreeMap<Layer, Result<(), String>>);

/// A line of `hydra doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The layer.
    pub layer: Layer,
    /// What the layer does, in a few words.
    pub purpose: &'static str,
    /// Whether this host gives it.
    pub available: bool,
    /// Why not; empty if available.
    pub reason: String,
    /// What would make it available; empty if available.
    pub remedy: &'static str,
}

impl Layers {
    /// Whether `layer` is available.
    pub fn has(&self, layer: Layer) -> bool {
        matches!(self.0.get(&layer), Some(Ok(())))
    }

    /// Why `layer` is not available; `None` if it is.
    pub fn missing(&self, layer: Layer) -> Option<&str> {
        match self.0.get(&layer) {
            Some(Ok(())) => None,
            Some(Err(reason)) => Some(reason),
            None => Some("it was not tried"),
        }
    }

    /// The layers that are available.
    pub fn available(&self) -> BTreeSet<Layer> {
        ALL.into_iter().filter(|layer| self.has(*layer)).collect()
    }

    pub(super) fn set(&mut self, layer: Layer, state: Result<(), String>) {
        self.0.insert(layer, state);
    }

    fn nothing(reason: &str) -> Layers {
        Layers(ALL.into_iter().map(|layer| (layer, Err(reason.to_owned()))).collect())
    }
}

/// Which layers this host gives, found by really trying each in a child process. Done once; takes some 20 ms.
/// What is missing is logged as a warning.
pub fn probe() -> &'static Layers {
    static LAYERS: OnceLock<Layers> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let mut layers =
            ask().unwrap_or_else(|error| Layers::nothing(&format!("the layers could not be tried: {error}")));
        let cgroup = cgroup::parent().as_ref().map(drop).map_err(Clone::clone);
        if cgroup::parent().as_ref().is_ok_and(|parent| parent.pids) {
            layers.set(Layer::Processes, Ok(()));
        }
        layers.set(Layer::Cgroup, cgroup);
        for layer in ALL {
            if let Some(reason) = layers.missing(layer) {
                tracing::warn!(?layer, reason, "a layer of the process jail is not available");
            }
        }
        layers
    })
}

/// The layers as lines for people.
pub fn report() -> Vec<Finding> {
    let layers = probe();
    ALL.into_iter()
        .map(|layer| {
            let (purpose, remedy) = explain(layer);
            let reason = layers.missing(layer);
            Finding {
                layer,
                purpose,
                available: reason.is_none(),
                reason: reason.unwrap_or_default().to_owned(),
                remedy: if reason.is_none() { "" } else { remedy },
            }
        })
        .collect()
}

/// Has the init try them: it is single-threaded, as the trials need.
fn ask() -> std::io::Result<Layers> {
    let mut command = Command::new(init_program());
    command.args(["jail-init", "--probe"]);
    if let Some(id) = identity::unprivileged() {
        command.arg(id.to_string());
    }
    let output = command.stdin(std::process::Stdio::null()).output()?;
    if !output.status.success() {
        return Err(std::io::Error::other(format!("jail-init ended with {}", output.status)));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a layer is for, and what makes it available.
fn explain(layer: Layer) -> (&'static str, &'static str) {
    const NAMESPACES: &str = "a kernel with this kind of namespace, and user namespaces or CAP_SYS_ADMIN; in a \
         container: --privileged, or --cap-add SYS_ADMIN with a seccomp and AppArmor profile that allows clone and mount";
    match layer {
        Layer::User => (
            "capabilities in the jail count for nothing outside",
            "user.max_user_namespaces above 0; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0; in a container \
             a seccomp profile that allows user namespaces",
        ),
        Layer::Identity => (
            "functions run as a host user that owns nothing",
            "run Hydra as root (in a container, or with CAP_SETUID and CAP_SETGID)",
        ),
        Layer::Mount => ("functions see a composed, read-only root only", NAMESPACES),
        Layer::Pid => ("functions see no other processes and leave none behind", NAMESPACES),
        Layer::Proc => (
            "functions see a /proc of their own",
            "a /proc without masks in Hydra's container: --privileged or --security-opt systempaths=unconfined",
        ),
        Layer::Ipc => ("functions share no IPC objects with the host", NAMESPACES),
        Layer::Hostname => ("functions do not see the host's name", NAMESPACES),
        Layer::Network => ("functions can be kept off the network", NAMESPACES),
        Layer::Seccomp => {
            ("functions can make the listed system calls only", "a kernel with CONFIG_SECCOMP_FILTER")
        }
        Layer::Landlock => (
            "a second lock on files, signals and abstract sockets",
            "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and landlock among the lsm= of its command line",
        ),
        Layer::Privileges => {
            ("functions can gain no privileges", "a kernel that knows no_new_privs (Linux 3.5)")
        }
        Layer::Processes => (
            "functions cannot fill the process table",
            "Linux 5.14 or newer with user namespaces, or root, or cgroup v2 with the pids controller",
        ),
        Layer::Cgroup => (
            "the kernel bounds the memory of a function's processes together",
            "cgroup v2 with the memory controller and a cgroup that Hydra may write: systemd's Delegate=yes, or a \
             container with --cgroupns private and a writable /sys/fs/cgroup; no memory controller in cgroup v1",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_survive_json() {
        let mut layers = Layers::nothing("no");
        layers.set(Layer::Pid, Ok(()));
        let again: Layers =
            serde_json::from_str(&serde_json::to_string(&layers).expect("written")).expect("read");
        assert!(again.has(Layer::Pid));
        assert_eq!(again.missing(Layer::User), Some("no"));
        assert_eq!(again.available(), BTreeSet::from([Layer::Pid]));
    }
}
