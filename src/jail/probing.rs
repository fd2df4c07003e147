//! Tries each layer in a process of its own. Runs in the init's executable, which has one thread.

use super::layers::{Layer, Layers};
use super::{namespaces, restrict, root, seccomp};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

/// What is tried in a process of its own.
type Trial = fn() -> io::Result<()>;

/// Tries all layers but cgroups, which Hydra itself prepares. `host_id`: an ID that Hydra may give to a jail.
pub fn try_all(host_id: Option<u32>) -> Layers {
    let mut layers = Layers::default();
    let user = attempt(&[Layer::User], host_id, || Ok(()));
    let has_user = user.is_ok();
    layers.set(Layer::User, user);
    layers.set(Layer::Identity, identity(host_id, has_user));
    // Namespaces are made inside a user namespace where there is one.
    let with = |given: &[Layer]| -> Vec<Layer> {
        given.iter().copied().chain(has_user.then_some(Layer::User)).collect()
    };
    let namespaces: [(Layer, &[Layer], Trial); 6] = [
        (Layer::Mount, &[Layer::Mount], root::try_enter),
        (Layer::Pid, &[Layer::Pid], is_first),
        (Layer::Proc, &[Layer::Mount, Layer::Pid], root::try_proc),
        (Layer::Ipc, &[Layer::Ipc], || Ok(())),
        (Layer::Hostname, &[Layer::Hostname], || Ok(nix::unistd::sethostname("function")?)),
        (Layer::Network, &[Layer::Network], namespaces::loopback_up),
    ];
    for (layer, given, action) in namespaces {
        layers.set(layer, attempt(&with(given), host_id, action));
    }
    layers.set(Layer::Privileges, attempt(&[], None, || Ok(prctl::set_no_new_privs()?)));
    layers.set(Layer::Landlock, attempt(&[], None, restrict::try_landlock));
    layers.set(Layer::Seccomp, attempt(&[], None, try_seccomp));
    layers.set(Layer::Processes, processes(&with(&[]), host_id));
    layers
}

fn identity(host_id: Option<u32>, has_user: bool) -> Result<(), String> {
    match host_id {
        Some(id) if has_user => attempt(&[Layer::User], host_id, || Ok(()))
            .map_err(|e| format!("the host ID {id} cannot be mapped: {e}")),
        Some(id) => attempt(&[], None, || namespaces::become_user(id)),
        None if nix::unistd::geteuid().is_root() => {
            Err("no unprivileged ID is mapped in this container".into())
        }
        None => {
            Err("Hydra runs as an ordinary user, whose ID the functions have outside their jails too".into())
        }
    }
}

/// Whether a limit on processes counts those of one jail only: with room for two, the first fork must work though
/// Hydra has more threads than that, and the fork of the fork must not.
fn processes(layers: &[Layer], host_id: Option<u32>) -> Result<(), String> {
    let without_namespace = !layers.contains(&Layer::User);
    let result = attempt(layers, host_id, || {
        if let (Some(id), true) = (host_id, without_namespace) {
            namespaces::become_user(id)?;
        }
        setrlimit(Resource::RLIMIT_NPROC, 2, 2)?;
        in_child(|| match in_child(|| Ok(())) {
            Ok(()) => Err(io::Error::other("the limit was not enforced")),
            Err(_) => Ok(()),
        })
    });
    result.map_err(|e| format!("the kernel's limit counts other processes of the same user as well ({e})"))
}

fn is_first() -> io::Result<()> {
    match std::process::id() {
        1 => Ok(()),
        pid => Err(io::Error::other(format!("the process ID is {pid} and not 1"))),
    }
}

fn try_seccomp() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    seccomp::install(&File::from(seccomp::filters()?.try_clone()?))
}

/// Runs `action` in a process in the namespaces of `layers`.
fn attempt(
    layers: &[Layer],
    host_id: Option<u32>,
    action: impl FnOnce() -> io::Result<()>,
) -> Result<(), String> {
    let layers: BTreeSet<Layer> = layers.iter().copied().collect();
    let user = layers.contains(&Layer::User);
    try_in(&namespaces::flags(&layers), host_id, || {
        if user {
            namespaces::become_inside(host_id.is_some())?;
        }
        action()
    })
    .map_err(|error| error.to_string())
}

fn try_in(
    flags: &CloneFlags,
    host_id: Option<u32>,
    action: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let (errors, error) = io::pipe()?;
    match namespaces::make(*flags, host_id, |_, _| Ok(())) {
        Ok(namespaces::Side::Child) => finish(action(), error.into()),
        Ok(namespaces::Side::Parent { pid }) => {
            drop(error);
            outcome(Pid::from_raw(pid as i32), errors)
        }
        Err(error) => Err(error),
    }
}

/// Runs `action` in a plain child process.
fn in_child(action: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (errors, error) = io::pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => finish(action(), error.into()),
        ForkResult::Parent { child } => {
            drop(error);
            outcome(child, errors)
        }
    }
}

/// The end of a child: says what went wrong, if anything, and exits without running the parent's cleanup.
fn finish(result: io::Result<()>, error: std::os::fd::OwnedFd) -> ! {
    if let Err(cause) = &result {
        // The exit status tells as well.
        let _ = write!(File::from(error), "{cause}");
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

fn outcome(child: Pid, mut errors: io::PipeReader) -> io::Result<()> {
    let mut said = String::new();
    errors.read_to_string(&mut said)?;
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ if !said.is_empty() => Err(io::Error::other(said)),
        status => Err(io::Error::other(format!("the trial ended with {status:?}"))),
    }
}
