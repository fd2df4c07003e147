//! What an agent's process does to itself between `fork` and `exec`: it gives up everything that it need not have.

use super::control::Plan;
use super::layers::Layer;
use super::{namespaces, root, seccomp, view};
use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The newest Landlock whose rights are asked for; an older kernel gives those it knows.
const LANDLOCK: ABI = ABI::V6;
/// Bytes of memory that a process may lock: the kernel's default before Linux 5.16.
const LOCKED: u64 = 64 * 1024;
/// Bytes of a thread's stack by default.
const STACK: u64 = 8 * 1024 * 1024;

/// Restricts the calling process as `plan` says, for good. Every layer that the plan names must work.
pub fn restrict(plan: &Plan, filters: &File) -> io::Result<()> {
    let has = |layer| plan.layers.contains(&layer);
    limit(plan).map_err(|e| said("set the resource limits", e))?;
    if has(Layer::Privileges) {
        drop_bounding().map_err(|e| said("drop the bounding capabilities", e))?;
    }
    if let (Some(id), false) = (plan.host_id, has(Layer::User)) {
        namespaces::become_user(id).map_err(|e| said("become an unprivileged user", e))?;
    }
    if has(Layer::Privileges) {
        drop_capabilities().map_err(|e| said("drop capabilities", e))?;
        prctl::set_no_new_privs().map_err(|e| said("set no_new_privs", e.into()))?;
    }
    if has(Layer::Landlock) {
        landlock(plan, []).map_err(|e| said("apply Landlock", e))?;
    }
    if has(Layer::Seccomp) {
        seccomp::install(filters).map_err(|e| said("install the seccomp filter", e))?;
    }
    Ok(())
}

/// Restricts the calling process, which will execute CRIU, by what that does not put back itself, and the program that it restores inherits:
/// Landlock, with what CRIU needs added, and `no_new_privs`.
pub fn restrict_criu(plan: &Plan, folders: [&OwnedFd; 2]) -> io::Result<()> {
    if plan.layers.contains(&Layer::Privileges) {
        prctl::set_no_new_privs().map_err(|e| said("set no_new_privs", e.into()))?;
    }
    if plan.layers.contains(&Layer::Landlock) {
        let own = folders.map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd()).into());
        let all = AccessFs::from_all(LANDLOCK);
        let needed = [("/proc".into(), AccessFs::from_read(LANDLOCK) | AccessFs::WriteFile)];
        let needed = needed.into_iter().chain(own.map(|folder| (folder, all)));
        landlock(plan, needed).map_err(|e| said("apply Landlock", e))?;
    }
    Ok(())
}

/// Gives up the capabilities of the calling process, all of them.
pub fn drop_capabilities() -> io::Result<()> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Tries Landlock on the calling process, for the probe.
pub fn try_landlock() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    apply(&[(Path::new("/"), AccessFs::from_read(LANDLOCK))], CompatLevel::HardRequirement)
}

/// Without `CAP_SETPCAP` (Hydra is an ordinary user and there is no user namespace) there is nothing to drop.
fn drop_bounding() -> io::Result<()> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(io::Error::other)? {
        return Ok(());
    }
    for capability in caps::all() {
        // A capability that this kernel does not know is not in the set.
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

fn limit(plan: &Plan) -> io::Result<()> {
    let files = u64::from(plan.open_files);
    let wanted = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, files),
        (Resource::RLIMIT_MEMLOCK, LOCKED),
        (Resource::RLIMIT_STACK, STACK),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_NICE, 0),
        (Resource::RLIMIT_RTPRIO, 0),
        (Resource::RLIMIT_SIGPENDING, 1024),
    ];
    let processes = plan.processes.map(|processes| (Resource::RLIMIT_NPROC, u64::from(processes)));
    for (resource, limit) in wanted.into_iter().chain(processes) {
        // An ordinary user cannot raise a limit, only lower it.
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// With a composed root all that is in it may be read: it holds nothing else. (A rule for `/function` would not
/// hold: Landlock does not see rules of a directory that something is mounted upon later.) On the host's root the
/// rules are the composition.
fn landlock(plan: &Plan, more: impl IntoIterator<Item = (PathBuf, BitFlags<AccessFs>)>) -> io::Result<()> {
    let read = AccessFs::from_read(LANDLOCK);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let tmp = AccessFs::from_all(LANDLOCK) & !(AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut paths = Vec::new();
    if plan.layers.contains(&Layer::Mount) {
        paths.push((Path::new("/").to_owned(), read));
    } else {
        paths.extend(root::host_paths(plan).into_iter().map(|path| (path, read)));
    }
    paths.extend(root::host_devices().map(|path| (path, device)));
    paths.extend(more);
    paths.push((plan.host_tmp.clone().unwrap_or_else(|| view::TMP.into()), tmp));
    let rules: Vec<_> = paths.iter().map(|(path, access)| (path.as_path(), *access)).collect();
    apply(&rules, CompatLevel::BestEffort)
}

fn apply(rules: &[(&Path, BitFlags<AccessFs>)], level: CompatLevel) -> io::Result<()> {
    // What makes the layer "available" is the first version; later rights are taken where the kernel has them.
    let first = match level {
        CompatLevel::HardRequirement => ABI::V1,
        _ => LANDLOCK,
    };
    let mut ruleset = Ruleset::default().set_compatibility(level);
    ruleset = ruleset.handle_access(AccessFs::from_all(first)).map_err(io::Error::other)?;
    if first == LANDLOCK {
        ruleset = ruleset.scope(Scope::from_all(LANDLOCK)).map_err(io::Error::other)?;
    }
    let mut created = ruleset.create().map_err(io::Error::other)?;
    for (path, access) in rules {
        let access = *access & AccessFs::from_all(first);
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(first) };
        // A name that everyone may not open is of no use to the agent either.
        let Ok(place) = PathFd::new(path) else { continue };
        created = created.add_rule(PathBeneath::new(place, access)).map_err(io::Error::other)?;
    }
    created.restrict_self().map_err(io::Error::other)?;
    Ok(())
}

fn said(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
