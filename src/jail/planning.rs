//! What a jail is to be, decided before its init is started.

use super::cgroup::{self, Cgroup};
use super::control::Plan;
use super::criu::{Criu, CriuPlan};
use super::layers::{self, Layer};
use super::{Jail, JailError, Network, identity, view};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// `code_root` relative to the code store, after a look at whether the agent will be able to read it.
pub(super) fn relative(store: &Path, other_user: bool, code_root: &Path) -> Result<PathBuf, String> {
    let relative = code_root
        .strip_prefix(store)
        .ok()
        .filter(|path| {
            path.components().all(|c| matches!(c, Component::Normal(_))) && path.file_name().is_some()
        })
        .ok_or_else(|| format!("it must be a directory below the code store {}", store.display()))?;
    // What the init and the agent walk through: the store itself, then each directory.
    let walked = relative.ancestors().map(|path| store.join(path));
    for (step, path) in walked.enumerate() {
        let metadata =
            path.symlink_metadata().map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        if !metadata.is_dir() {
            return Err(format!("{} is not a directory", path.display()));
        }
        let needed = if step == 0 { 0o005 } else { 0o001 };
        let mode = metadata.permissions().mode();
        if other_user && mode & needed != needed {
            return Err(format!(
                "{} has mode {:o} and owner {}; the jail's user needs {needed:03o} for others",
                path.display(),
                mode & 0o7777,
                metadata.uid()
            ));
        }
    }
    Ok(relative.to_owned())
}

/// Decides everything about a jail, and makes what must be there before its init is.
pub(super) fn plan(
    jail: &Jail,
    scratch: &Path,
) -> Result<(Plan, Option<Cgroup>, Option<TempDir>), JailError> {
    let available = layers::probe();
    let mut layers = available.available();
    layers.retain(|layer| !jail.without.contains(layer));
    match jail.network {
        Network::Host => drop(layers.remove(&Layer::Network)),
        Network::None if !layers.contains(&Layer::Network) => {
            let reason = available.missing(Layer::Network).unwrap_or("it is left out on request").to_owned();
            return Err(JailError::Missing { layer: Layer::Network, reason });
        }
        Network::None => {}
    }
    if jail.criu.is_some() {
        layers.remove(&Layer::User);
    }
    if !layers.contains(&Layer::Mount) || !layers.contains(&Layer::Pid) {
        layers.remove(&Layer::Proc);
    }
    if !layers.contains(&Layer::User) && !layers.contains(&Layer::Identity) {
        // The limit would count what else Hydra's user runs.
        layers.remove(&Layer::Processes);
    }
    let has = |layer| layers.contains(&layer);
    let host_id = match &jail.criu {
        _ if !has(Layer::Identity) => None,
        None => identity::unprivileged(),
        Some(Criu::Dumpable(function)) => identity::kept(*function),
        Some(Criu::Restored(dump)) => Some(dump.agent.user).filter(|user| *user != 0),
    };
    let cgroup = match cgroup::parent() {
        Ok(parent) if has(Layer::Cgroup) => Some(parent.make(jail.processes)?),
        _ => None,
    };
    let counted_by_cgroup = cgroup.is_some() && cgroup::parent().as_ref().is_ok_and(|parent| parent.pids);
    let host_tmp = if has(Layer::Mount) { None } else { Some(make_tmp(scratch, host_id)?) };
    let code_store = jail.code_store.canonicalize().map_err(|e| JailError::Code {
        path: jail.code_store.clone(),
        reason: format!("the code store cannot be opened: {e}"),
    })?;
    if code_store != jail.code_store {
        let reason = format!("the code store must be given without symbolic links: {}", code_store.display());
        return Err(JailError::Code { path: jail.code_store.clone(), reason });
    }
    let tmp = host_tmp.as_ref().map_or(Path::new(view::TMP), TempDir::path);
    let plan = Plan {
        program: jail.program.clone(),
        arguments: jail.arguments.clone(),
        environment: environment(jail, tmp),
        readable: jail.readable.clone(),
        code_store,
        host_tmp: host_tmp.as_ref().map(|tmp| tmp.path().to_owned()),
        tmp_mib: jail.tmp_mib,
        host_id,
        processes: (has(Layer::Processes) && !counted_by_cgroup).then_some(jail.processes),
        open_files: jail.open_files,
        // That of one that goes on has its function's code, too.
        criu: jail.criu.as_ref().map(|_| CriuPlan::Dumpable),
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
        layers,
    };
    Ok((plan, cgroup, host_tmp))
}

fn environment(jail: &Jail, tmp: &Path) -> Vec<(OsString, OsString)> {
    let defaults = [
        ("PATH", OsString::from("/usr/local/bin:/usr/bin:/bin")),
        ("HOME", tmp.into()),
        ("TMPDIR", tmp.into()),
        ("LANG", "C.UTF-8".into()),
    ];
    let defaults = defaults.into_iter().chain(crate::child::time_zone().map(|zone| ("TZ", zone)));
    let missing = |name: &str| !jail.environment.iter().any(|(given, _)| given == name);
    let defaults = defaults.filter(|(name, _)| missing(name)).map(|(name, value)| (name.into(), value));
    defaults.chain(jail.environment.iter().cloned()).collect()
}

fn make_tmp(scratch: &Path, host_id: Option<u32>) -> io::Result<TempDir> {
    let tmp = tempfile::Builder::new().prefix("jail-").tempdir_in(scratch)?;
    if host_id.is_some() {
        std::os::unix::fs::chown(tmp.path(), host_id, host_id)?;
    }
    Ok(tmp)
}
