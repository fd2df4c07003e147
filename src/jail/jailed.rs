//! Hydra's side of a jail: starting its init, speaking with it, ending it.

use super::cgroup::{self, Cgroup};
use super::control::{Plan, Reply, Request};
use super::layers::{self, Layer};
use super::reaper::{self, Remains};
use super::{Jail, JailError, Limits, Network, identity, init_program, process_tree, seccomp, view};
use crate::messages;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::statfs::fstatfs;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use tempfile::TempDir;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// An agent in its jail. Dropping it kills the agent and everything in the jail.
#[derive(Debug)]
pub struct Jailed {
    control: AsyncFd<OwnedFd>,
    init: AsyncFd<OwnedFd>,
    pid: u32,
    channel: Option<OwnedFd>,
    output: Option<(OwnedFd, OwnedFd)>,
    /// The jail's `/tmp`, where it is a file system of its own.
    tmp: Option<OwnedFd>,
    has_pid_namespace: bool,
    has_root: bool,
    other_user: bool,
    code_store: PathBuf,
    cgroup: Option<Cgroup>,
    host_tmp: Option<TempDir>,
    ended: Option<ExitStatus>,
}

/// Where an agent sees what was assigned to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The function's code.
    pub code: PathBuf,
    /// The directory that it may write.
    pub tmp: PathBuf,
}

/// See [`Jail::spawn`].
pub(super) async fn spawn(jail: &Jail, scratch: &Path) -> Result<Jailed, JailError> {
    let (plan, cgroup, host_tmp) = plan(jail, scratch)?;
    let (ours, theirs) = messages::pair()?;
    set_nonblocking(&ours)?;
    let (channel, agents_channel) = if jail.has_messages {
        messages::pair()?
    } else {
        let (channel, agents_channel) = UnixStream::pair()?;
        (channel.into(), agents_channel.into())
    };
    let (out, out_writer) = io::pipe()?;
    let (err, err_writer) = io::pipe()?;
    let start = |cause| JailError::Start { program: init_program().to_owned(), cause };
    let mut maker = Command::new(init_program());
    maker.arg("jail-init").env_clear().kill_on_drop(true);
    maker.stdin(Stdio::from(theirs)).stdout(Stdio::from(out_writer)).stderr(Stdio::from(err_writer));
    let mut maker_process = maker.spawn().map_err(start)?;
    // Closes Hydra's copies of the init's descriptors.
    drop(maker);
    let filters = seccomp::filters()?.as_raw_fd();
    let descriptors = [agents_channel.as_raw_fd(), filters];
    let layers = plan.layers.clone();
    let other_user = plan.host_id.is_some();
    let code_store = plan.code_store.clone();
    messages::send(ours.as_fd(), &Request::Start(Box::new(plan)), &descriptors)?;
    drop(agents_channel);
    let control = watch(ours)?;

    let (pid, init) = match hear(&control).await? {
        (Reply::Made { pid }, mut descriptors) => (pid, descriptors.pop().ok_or(JailError::Ended)?),
        (Reply::Failed(reason), _) => {
            // It must have left its cgroup before that can be removed.
            maker_process.wait().await?;
            return Err(JailError::Setup(reason));
        }
        _ => return Err(JailError::Ended),
    };
    let mut jailed = Jailed {
        control,
        init: watch(init)?,
        pid,
        channel: Some(channel),
        output: Some((out.into(), err.into())),
        tmp: None,
        has_pid_namespace: layers.contains(&Layer::Pid),
        has_root: layers.contains(&Layer::Mount),
        other_user,
        code_store,
        cgroup,
        host_tmp,
        ended: None,
    };
    // The maker ends as soon as it has made the init.
    maker_process.wait().await?;
    match hear(&jailed.control).await? {
        (Reply::Ready, mut descriptors) => jailed.tmp = descriptors.pop(),
        (Reply::Failed(reason), _) => return Err(JailError::Setup(reason)),
        _ => return Err(JailError::Ended),
    }
    Ok(jailed)
}

impl Jailed {
    /// Hydra's end of the agent's channel. To be taken once.
    ///
    /// # Panics
    /// If it was taken already.
    pub fn take_channel(&mut self) -> OwnedFd {
        self.channel.take().expect("the channel is taken once")
    }

    /// The reading ends of the agent's standard output and standard error. To be taken once.
    ///
    /// # Panics
    /// If they were taken already.
    pub fn take_output(&mut self) -> (OwnedFd, OwnedFd) {
        self.output.take().expect("the output is taken once")
    }

    /// Shows the directory `code_root`, which must lie below the jail's code store, to the agent, read-only; bounds
    /// its memory. Once. If Hydra is root, everyone must be allowed to read `code_root`, for the agent is not root.
    pub async fn assign(&mut self, code_root: &Path, limits: &Limits) -> Result<Assigned, JailError> {
        let wrong = |reason: String| JailError::Code { path: code_root.to_owned(), reason };
        let code = self.relative(code_root).map_err(wrong)?;
        let bytes = u64::from(limits.memory_mib) << 20;
        if let Some(cgroup) = &self.cgroup {
            cgroup.limit_memory(bytes)?;
        }
        let request = Request::Assign { code, data_limit: 2 * bytes + (1 << 30) };
        messages::send(self.control.get_ref().as_fd(), &request, &[])?;
        match hear(&self.control).await? {
            (Reply::Assigned, _) if self.has_root => {
                Ok(Assigned { code: view::CODE.into(), tmp: self.tmp().to_owned() })
            }
            (Reply::Assigned, _) => Ok(Assigned { code: code_root.to_owned(), tmp: self.tmp().to_owned() }),
            (Reply::Failed(reason), _) => Err(wrong(reason)),
            _ => Err(JailError::Ended),
        }
    }

    /// The directory that the agent may write, as it sees it.
    pub fn tmp(&self) -> &Path {
        self.host_tmp.as_ref().map_or(Path::new(view::TMP), TempDir::path)
    }

    /// Bytes of memory of everything in the jail, its `/tmp` included: what its cgroup counts, or the private and
    /// shared-memory pages of its processes.
    pub fn memory(&self) -> io::Result<u64> {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.memory();
        }
        let mut total = process_tree::memory(self.pid)?;
        if let Some(tmp) = &self.tmp {
            let used = fstatfs(tmp)?;
            total += (used.blocks() - used.blocks_free()) * used.block_size() as u64;
        }
        Ok(total)
    }

    /// The process ID of the jail's init as Hydra sees it; the agent is its child.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills everything in the jail. Does not wait for its end.
    pub fn kill(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Some(cgroup) = &self.cgroup {
            // Linux before 5.14 has no such file; the init's end does the same in a PID namespace.
            let _ = cgroup.kill();
        }
        kill_init(self.init.get_ref(), (!self.has_pid_namespace).then_some(self.pid));
    }

    /// Kills everything in the jail, from wherever it is kept.
    pub fn killer(&self) -> io::Result<Killer> {
        let init = self.init.get_ref().try_clone()?;
        Ok(Killer { init, tree: (!self.has_pid_namespace).then_some(self.pid) })
    }

    /// Waits for the end of the jail. The agent's status if it ended by itself, else that of the init.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        // A process's descriptor is readable once it has ended.
        let _ended = self.init.readable().await?;
        let of_init = reaper::reap(self.init.get_ref())?;
        let mut status = of_init;
        while let Ok(Some((reply, _))) = messages::receive::<Reply>(self.control.get_ref().as_fd()) {
            if let Reply::Exited(of_agent) = reply {
                status = of_agent;
            }
        }
        Ok(*self.ended.insert(ExitStatus::from_raw(status)))
    }

    /// `code_root` relative to the code store, after a look at whether the agent will be able to read it.
    fn relative(&self, code_root: &Path) -> Result<PathBuf, String> {
        let store = &self.code_store;
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
            if self.other_user && mode & needed != needed {
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
}

/// Ends a jail.
#[derive(Debug)]
pub struct Killer {
    init: OwnedFd,
    tree: Option<u32>,
}

impl Killer {
    /// Kills everything in the jail. Does not wait for its end.
    pub fn kill(&self) {
        kill_init(&self.init, self.tree);
    }
}

/// Kills an init and, where its end does not end them, all processes below `tree`, its number.
fn kill_init(init: &OwnedFd, tree: Option<u32>) {
    let signal = |signal: libc::c_int| {
        // SAFETY: the call takes no pointer but a null one. An init that has ended needs no signal.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                init.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        }
    };
    // One that is gone may have left its number to another.
    if let Some(tree) = tree.filter(|_| signal(0) == 0) {
        process_tree::kill_below(tree);
    }
    signal(Signal::SIGKILL as i32);
}

impl Drop for Jailed {
    fn drop(&mut self) {
        self.kill();
        // Without a copy of the descriptor (none to be had) the init stays a zombie until Hydra ends.
        if let Ok(init) = self.init.get_ref().try_clone() {
            reaper::bury(Remains { init, cgroup: self.cgroup.take(), tmp: self.host_tmp.take() });
        }
    }
}

/// Decides everything about a jail, and makes what must be there before its init is.
fn plan(jail: &Jail, scratch: &Path) -> Result<(Plan, Option<Cgroup>, Option<TempDir>), JailError> {
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
    if !layers.contains(&Layer::Mount) || !layers.contains(&Layer::Pid) {
        layers.remove(&Layer::Proc);
    }
    if !layers.contains(&Layer::User) && !layers.contains(&Layer::Identity) {
        // The limit would count what else Hydra's user runs.
        layers.remove(&Layer::Processes);
    }
    let has = |layer| layers.contains(&layer);
    let host_id = if has(Layer::Identity) { identity::unprivileged() } else { None };
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
    let missing = |name: &str| !jail.environment.iter().any(|(given, _)| given == name);
    let defaults =
        defaults.into_iter().filter(|(name, _)| missing(name)).map(|(name, value)| (name.into(), value));
    defaults.chain(jail.environment.iter().cloned()).collect()
}

fn make_tmp(scratch: &Path, host_id: Option<u32>) -> io::Result<TempDir> {
    let tmp = tempfile::Builder::new().prefix("jail-").tempdir_in(scratch)?;
    if host_id.is_some() {
        std::os::unix::fs::chown(tmp.path(), host_id, host_id)?;
    }
    Ok(tmp)
}

/// The init's next message.
async fn hear(control: &AsyncFd<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), JailError> {
    loop {
        let mut ready = control.readable().await?;
        match ready.try_io(|socket| messages::receive(socket.get_ref().as_fd())) {
            Ok(Ok(Some(message))) => return Ok(message),
            Ok(Ok(None)) => return Err(JailError::Ended),
            Ok(Err(error)) => return Err(error.into()),
            Err(_not_yet) => {}
        }
    }
}

/// Registers `descriptor` with Tokio.
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns an open descriptor, and nothing here replaces or closes it while it is registered.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
