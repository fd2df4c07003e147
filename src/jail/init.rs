//! The init of a jail: the main of the hidden command `hydra jail-init`.
//!
//! Hydra executes itself as `jail-init` for every jail, so that all that follows happens in a process with one
//! thread. That process (the *maker*) makes PID 1 of the jail as its own sibling, so as Hydra's child, maps its
//! user, and ends. PID 1 builds the root, starts the agent and reaps. It keeps the authority to mount in the
//! jail until the code is assigned, then gives that up as well. It reads Hydra's control socket only, and never
//! anything that the function wrote.
//!
//! PID 1 does not use `PR_SET_PDEATHSIG`: that fires when the *thread* that forked ends, and Hydra's threads come
//! and go. The end of file on the control socket says the same of the process. The agent, whose parent has one
//! thread, does use it.

use super::control::{Plan, Reply, Request};
use super::criu::{self, CriuPlan};
use super::layers::Layer;
use super::{namespaces, probing, process_tree, restrict, root, view};
use crate::messages;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, fork};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The descriptor number of the agent's channel.
const CHANNEL: i32 = 3;
/// Descriptors that must survive until `exec` lie at or above this number, clear of 0 to 3.
const CLEAR: i32 = 10;
/// What an init exits with if the jail could not be made (`EX_SOFTWARE`).
const FAILED: i32 = 70;

/// Runs as a jail's init with the command line's arguments after `jail-init`; never returns. Must be called before
/// anything starts a thread.
pub fn init_main(arguments: impl IntoIterator<Item = OsString>) -> ! {
    let mut arguments = arguments.into_iter();
    if arguments.next().is_some_and(|argument| argument == "--probe") {
        let host_id = arguments.next().and_then(|id| id.to_str()?.parse().ok());
        let written = serde_json::to_writer(io::stdout(), &probing::try_all(host_id));
        std::process::exit(if written.is_ok() { 0 } else { FAILED });
    }
    let status = match take_control() {
        Ok(control) => make(control),
        Err(error) => {
            eprintln!("hydra jail-init: standard input is not Hydra's control socket: {error}");
            FAILED
        }
    };
    std::process::exit(status)
}

/// Moves the control socket away from descriptor 0, which the agent gets as `/dev/null`.
fn take_control() -> io::Result<OwnedFd> {
    let control = keep(io::stdin().as_fd())?;
    nix::sys::socket::getpeername::<nix::sys::socket::UnixAddr>(control.as_raw_fd())?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(control)
}

/// The maker: makes PID 1, and becomes it on that side.
fn make(control: OwnedFd) -> i32 {
    match try_make(&control) {
        Ok(status) => status,
        Err(error) => {
            // If Hydra is gone there is nobody to tell.
            let _ = messages::send(control.as_fd(), &Reply::Failed(error.to_string()), &[]);
            FAILED
        }
    }
}

fn try_make(control: &OwnedFd) -> io::Result<i32> {
    let Some((request, mut descriptors)) = messages::receive(control.as_fd())? else { return Ok(0) };
    let (Request::Start(plan), Some(filters), Some(channel)) =
        (request, descriptors.pop(), descriptors.pop())
    else {
        return Err(io::Error::other("the first message was not a plan with its descriptors"));
    };
    if let Some(cgroup) = &plan.cgroup {
        std::fs::write(cgroup.join("cgroup.procs"), "0")
            .map_err(|e| io::Error::new(e.kind(), format!("join the cgroup {}: {e}", cgroup.display())))?;
    }
    let has = |layer| plan.layers.contains(&layer);
    let mut sources = if has(Layer::Mount) { Some(root::look_up(&plan)?) } else { None };
    let flags = namespaces::flags(&plan.layers) | CloneFlags::CLONE_PARENT;
    let mapped = plan.host_id.filter(|_| has(Layer::User));
    // Hydra must hear of the init before it hears from it.
    let announce = |pid, descriptor: BorrowedFd| {
        messages::send(control.as_fd(), &Reply::Made { pid }, &[descriptor.as_raw_fd()])
    };
    let side = namespaces::make(flags, mapped, announce)
        .map_err(|e| io::Error::new(e.kind(), format!("make a process in new namespaces: {e}")))?;
    if let namespaces::Side::Parent { .. } = side {
        return Ok(0);
    }
    nix::unistd::setsid()?;
    if let Some(sources) = &mut sources {
        sources.open()?;
    }
    if has(Layer::User) {
        namespaces::become_inside(plan.host_id.is_some())
            .map_err(|e| io::Error::new(e.kind(), format!("become the jail's user: {e}")))?;
    }
    namespaces::hide_memory()?;
    let root = sources.map(|sources| root::enter(&plan, sources)).transpose()?;
    if has(Layer::Hostname) {
        nix::unistd::sethostname("function")?;
    }
    if has(Layer::Network) {
        namespaces::loopback_up()?;
    }
    if !has(Layer::Pid) {
        // Orphans come to this process, so that all of the jail stays below it and can be found.
        prctl::set_child_subreaper(true)?;
    }
    run(control, &plan, root, channel, filters.into(), descriptors)
}

/// PID 1 once the jail stands: starts the agent, serves [`Request::Assign`], reaps, ends with the agent.
fn run(
    control: &OwnedFd,
    plan: &Plan,
    root: Option<root::Root>,
    channel: OwnedFd,
    filters: File,
    criu_folders: Vec<OwnedFd>,
) -> io::Result<i32> {
    let mut root = root;
    let tmp = root.as_ref().map(|root| root.tmp.try_clone()).transpose()?;
    let children = SigSet::from(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None)?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut ours = None;
    let agent = match &plan.criu {
        None => start(plan, channel, &filters)?,
        Some(CriuPlan::Dumpable) => {
            // Made here, in the jail's network: see `criu.rs`.
            let (hydras, agents) = UnixStream::pair()?;
            ours = Some(OwnedFd::from(hydras));
            criu::number_agent()?;
            start(plan, agents.into(), &filters)?
        }
        Some(CriuPlan::Restored { inodes, code }) => {
            let folders = <[OwnedFd; 2]>::try_from(criu_folders)
                .map_err(|_| io::Error::other("the folders of the dump are missing"))?;
            criu::show_code(root.take(), code)?;
            let agent = criu::restore(plan, *inodes, folders, channel)?;
            become_agents_user(plan)?;
            give_up()?;
            agent
        }
    };
    drop(filters);
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    let sent: Vec<_> = ours.iter().chain(&tmp).map(AsRawFd::as_raw_fd).collect();
    messages::send(control.as_fd(), &Reply::Ready, &sent)?;
    drop((ours, tmp));
    loop {
        let mut ready = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            result => result?,
        };
        let [from_hydra, from_children] = ready.map(|one| one.any().unwrap_or(true));
        if from_children && let Some(status) = reap(&signals, agent)? {
            // If Hydra is gone there is nobody to tell.
            let _ = messages::send(control.as_fd(), &Reply::Exited(status), &[]);
            return Ok(end(plan));
        }
        if from_hydra {
            match messages::receive(control.as_fd()) {
                Ok(Some((Request::Assign { code, data_limit }, _))) => {
                    let done = assign(plan, root.take(), &code, agent, data_limit);
                    let reply = done.map_or_else(|e| Reply::Failed(e.to_string()), |()| Reply::Assigned);
                    messages::send(control.as_fd(), &reply, &[])?;
                }
                // Hydra dropped the jail, or died.
                Ok(None) | Err(_) => return Ok(end(plan)),
                Ok(Some(_)) => return Err(io::Error::other("a second plan")),
            }
        }
    }
}

/// Ends what the end of PID 1 does not.
fn end(plan: &Plan) -> i32 {
    if !plan.layers.contains(&Layer::Pid) {
        process_tree::kill_below(std::process::id());
    }
    0
}

/// Reaps all that ended; the wait status of the agent if that did.
fn reap(signals: &SignalFd, agent: Pid) -> io::Result<Option<i32>> {
    while signals.read_signal()?.is_some() {}
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` lives across the call.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            0 | -1 => return Ok(ended),
            pid if pid == agent.as_raw() => ended = Some(status),
            _ => {}
        }
    }
}

/// Shows the code in the jail, bounds the agent's memory, and gives up the authority to do so again.
fn assign(plan: &Plan, root: Option<root::Root>, code: &Path, agent: Pid, data_limit: u64) -> io::Result<()> {
    if plan.layers.contains(&Layer::Mount) {
        let root = root.ok_or_else(|| io::Error::other("the jail has its function already"))?;
        root::reveal(root, code)?;
    }
    // As the agent's user: another's limits may be set with CAP_SYS_RESOURCE only.
    become_agents_user(plan)?;
    let limit = libc::rlimit { rlim_cur: data_limit, rlim_max: data_limit };
    // A file in memory is no private memory.
    for resource in [libc::RLIMIT_DATA, libc::RLIMIT_FSIZE] {
        // SAFETY: `limit` lives across the call, and the old limit is not asked for.
        if unsafe { libc::prlimit(agent.as_raw(), resource, &raw const limit, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    give_up()
}

/// Gives up the authority over the jail, which has its function.
fn give_up() -> io::Result<()> {
    restrict::drop_capabilities()?;
    prctl::set_no_new_privs()?;
    Ok(())
}

fn become_agents_user(plan: &Plan) -> io::Result<()> {
    match plan.host_id {
        Some(id) if !plan.layers.contains(&Layer::User) => namespaces::become_user(id),
        _ => Ok(()),
    }
}

/// Forks and executes the agent; returns when it was executed.
fn start(plan: &Plan, channel: OwnedFd, filters: &File) -> io::Result<Pid> {
    let number = CHANNEL.to_string();
    let program = terminated(plan.program.as_os_str())?;
    let mut arguments = vec![program.clone()];
    for argument in &plan.arguments {
        let argument = if argument == "{fd}" { OsStr::new(&number) } else { argument.as_os_str() };
        arguments.push(terminated(argument)?);
    }
    let mut environment = Vec::new();
    for (name, value) in &plan.environment {
        environment.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    let (mut errors, error) = io::pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop((channel, error));
            let mut said = String::new();
            errors.read_to_string(&mut said)?;
            if said.is_empty() {
                return Ok(child);
            }
            waitpid(child, Some(WaitPidFlag::__WALL)).map(|_: WaitStatus| ())?;
            Err(io::Error::other(said))
        }
        ForkResult::Child => {
            // Above 3, so that taking 3 for the channel closes neither.
            let failed = match (keep(channel.as_fd()), keep(error.as_fd())) {
                (Ok(channel), Ok(kept)) => {
                    let cause = become_agent(plan, &channel, filters).and_then(|()| {
                        Ok(execve(&program, &arguments, &environment).map(|never| match never {})?)
                    });
                    Some((kept, cause))
                }
                _ => None,
            };
            if let Some((kept, Err(cause))) = failed {
                // If init is gone there is nobody to tell.
                let _ = write!(File::from(kept), "start {}: {cause}", plan.program.display());
            }
            std::process::exit(FAILED)
        }
    }
}

/// Everything between `fork` and `exec`.
fn become_agent(plan: &Plan, channel: &OwnedFd, filters: &File) -> io::Result<()> {
    nix::unistd::setsid()?;
    // That of the jail's root, rather than of the host's.
    nix::unistd::dup2_stdin(open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?)?;
    std::env::set_current_dir(plan.host_tmp.as_deref().unwrap_or(Path::new(view::TMP)))?;
    // SAFETY: nothing in this process uses descriptor 3; what was there is not needed any more.
    let number = unsafe { libc::dup2(channel.as_raw_fd(), CHANNEL) };
    if number != CHANNEL {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CLOSE_RANGE_CLOEXEC changes flags only. An error (Linux before 5.11) leaves what holds anyway: all
    // descriptors of this process were opened close-on-exec.
    unsafe { libc::syscall(libc::SYS_close_range, CHANNEL + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    restrict::restrict(plan, filters)?;
    // A change of user takes it back.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // Rust's runtime ignores SIGPIPE, and an ignored signal survives exec.
    // SAFETY: the default action runs no code of this process.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }?;
    Ok(())
}

/// A close-on-exec copy of `descriptor` at [`CLEAR`] or above.
fn keep(descriptor: BorrowedFd) -> io::Result<OwnedFd> {
    let raw = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(CLEAR))?;
    // SAFETY: fcntl just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn terminated(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes().to_vec())?)
}
