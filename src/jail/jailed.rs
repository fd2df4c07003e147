//! Hydra's side of a jail: starting its init, speaking with it, ending it.

use super::cgroup::Cgroup;
use super::control::{Reply, Request};
use super::criu::{self, Criu, CriuPlan};
use super::layers::Layer;
use super::planning::{plan, relative};
use super::reaper::{self, Remains};
use super::{Jail, JailError, Limits, init_program, process_tree, seccomp, view};
use crate::messages::{self, set_nonblocking, watch};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::fstatfs;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::Semaphore;

/// Most jails that are made at a time, whether anybody waits for them still or not.
static PLACES: Semaphore = Semaphore::const_new(256);

/// An agent in its jail. Dropping it kills the agent and everything in the jail.
#[derive(Debug)]
pub struct Jailed {
    control: AsyncFd<OwnedFd>,
    patience: Duration,
    init: AsyncFd<OwnedFd>,
    pid: u32,
    channel: Option<OwnedFd>,
    output: Option<(OwnedFd, OwnedFd)>,
    /// The jail's `/tmp`, where it is a file system of its own.
    tmp: Option<OwnedFd>,
    has_pid_namespace: bool,
    has_root: bool,
    host_id: Option<u32>,
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
pub(super) async fn spawn(
    jail: &Jail,
    scratch: &Path,
    assigned: Option<(&Path, &Limits)>,
) -> Result<Jailed, JailError> {
    let place = PLACES.acquire().await.map_err(io::Error::other)?;
    let (jail, scratch) = (jail.clone(), scratch.to_owned());
    let assigned = assigned.map(|(code, limits)| (code.to_owned(), *limits));
    // Whoever wants the jail may give up at any time, also when there is an init that nobody knows of yet: a task of its own goes on.
    let made = tokio::spawn(async move {
        let _place = place;
        make(&jail, &scratch, assigned.as_ref().map(|(code, limits)| (code.as_path(), limits))).await
    });
    made.await.map_err(io::Error::other)?
}

async fn make(jail: &Jail, scratch: &Path, assigned: Option<(&Path, &Limits)>) -> Result<Jailed, JailError> {
    let (mut plan, cgroup, host_tmp) = plan(jail, scratch)?;
    let mut folders = Vec::new();
    let mut work = None;
    if let (Some(Criu::Restored(dump)), Some((code, limits))) = (&jail.criu, assigned) {
        let wrong = |reason: String| JailError::Code { path: code.to_owned(), reason };
        let code = relative(&plan.code_store, plan.host_id.is_some(), code).map_err(wrong)?;
        plan.criu = Some(CriuPlan::Restored { inodes: dump.agent.inodes, code });
        if let Some(cgroup) = &cgroup {
            cgroup.limit_memory(u64::from(limits.memory_mib) << 20)?;
        }
        let folder = work.insert(tempfile::Builder::new().prefix("criu-").tempdir_in(scratch)?);
        folders = vec![File::open(&dump.folder)?, File::open(folder.path())?];
    }
    let (ours, theirs) = messages::pair()?;
    set_nonblocking(&ours)?;
    let control = watch(ours)?;
    let (channel, agents_channel) = if jail.has_messages {
        messages::pair()?
    } else {
        let (channel, agents_channel) = UnixStream::pair()?;
        (channel.into(), agents_channel.into())
    };
    let (out, out_writer) = io::pipe()?;
    let (err, err_writer) = io::pipe()?;
    let own = [agents_channel.as_raw_fd(), seccomp::filters()?.as_raw_fd()];
    let descriptors: Vec<_> = folders.iter().map(AsRawFd::as_raw_fd).chain(own).collect();
    let layers = plan.layers.clone();
    let host_id = plan.host_id;
    let code_store = plan.code_store.clone();
    let channel_is_made_there = matches!(plan.criu, Some(CriuPlan::Dumpable));
    let start = |cause| JailError::Start { program: init_program().to_owned(), cause };
    let mut maker = Command::new(init_program());
    maker.arg("jail-init").env_clear().kill_on_drop(true);
    maker.stdin(Stdio::from(theirs)).stdout(Stdio::from(out_writer)).stderr(Stdio::from(err_writer));
    let mut maker_process = maker.spawn().map_err(start)?;
    // Closes Hydra's copies of the init's descriptors.
    drop(maker);
    let begun = async {
        messages::send(control.get_ref().as_fd(), &Request::Start(Box::new(plan)), &descriptors)?;
        drop((agents_channel, folders));
        match hear(&control, jail.patience).await? {
            (Reply::Made { pid }, descriptors) => Ok((pid, descriptors)),
            (Reply::Failed(reason), _) => Err(JailError::Setup(reason)),
            _ => Err(JailError::Ended),
        }
    };
    let (pid, descriptors) = match begun.await {
        Ok(made) => made,
        Err(error) => {
            // It must have left its cgroup before that can be removed.
            let _ = maker_process.kill().await;
            reaper::bury(Remains { init: None, cgroup, tmp: host_tmp });
            return Err(error);
        }
    };
    let init = match descriptors.into_iter().next().ok_or_else(no_room).and_then(watch) {
        Ok(init) => init,
        Err(error) => {
            // Nobody has waited for it, so its number is its own.
            process_tree::kill_below(pid);
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            reaper::bury(Remains { init: Some(pid), cgroup, tmp: host_tmp });
            return Err(error.into());
        }
    };
    let mut jailed = Jailed {
        control,
        patience: jail.patience,
        init,
        pid,
        channel: Some(channel),
        output: Some((out.into(), err.into())),
        tmp: None,
        has_pid_namespace: layers.contains(&Layer::Pid),
        has_root: layers.contains(&Layer::Mount),
        host_id,
        code_store,
        cgroup,
        host_tmp,
        ended: None,
    };
    // The maker ends as soon as it has made the init.
    in_time(jail.patience, async { Ok(maker_process.wait().await?) }).await?;
    match hear(&jailed.control, jail.patience).await? {
        (Reply::Ready, descriptors) => {
            let mut descriptors = descriptors.into_iter();
            if channel_is_made_there {
                jailed.channel = Some(descriptors.next().ok_or_else(no_room)?);
            }
            if jailed.has_root {
                jailed.tmp = Some(descriptors.next().ok_or_else(no_room)?);
            }
        }
        (Reply::Failed(reason), _) => {
            let said = work.and_then(|work| criu::log_error(&work.path().join(criu::RESTORE_LOG)));
            return Err(JailError::Setup(said.map_or(reason, |said| format!("CRIU says: {said}"))));
        }
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
        let code = relative(&self.code_store, self.host_id.is_some(), code_root).map_err(wrong)?;
        let bytes = u64::from(limits.memory_mib) << 20;
        if let Some(cgroup) = &self.cgroup {
            cgroup.limit_memory(bytes)?;
        }
        let request = Request::Assign { code, data_limit: 2 * bytes + (1 << 30) };
        messages::send(self.control.get_ref().as_fd(), &request, &[])?;
        match hear(&self.control, self.patience).await? {
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

    /// The host's user and group ID of the agent, if it has one of its own.
    pub fn user(&self) -> Option<u32> {
        self.host_id
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
        let of_init = reaper::reap(self.pid)?;
        let mut status = of_init;
        while let Ok(Some((reply, _))) = messages::receive::<Reply>(self.control.get_ref().as_fd()) {
            if let Reply::Exited(of_agent) = reply {
                status = of_agent;
            }
        }
        Ok(*self.ended.insert(ExitStatus::from_raw(status)))
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

    /// One of no jail, for tests.
    #[cfg(test)]
    pub fn of_nothing() -> Killer {
        Killer { init: File::open("/dev/null").expect("/dev/null").into(), tree: None }
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
        let init = self.ended.is_none().then_some(self.pid);
        reaper::bury(Remains { init, cgroup: self.cgroup.take(), tmp: self.host_tmp.take() });
    }
}

/// What it means that a message comes without its descriptors: the kernel leaves out what this process has no room for.
fn no_room() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// The init's next message.
async fn hear(control: &AsyncFd<OwnedFd>, patience: Duration) -> Result<(Reply, Vec<OwnedFd>), JailError> {
    in_time(patience, async {
        loop {
            let mut ready = control.readable().await?;
            match ready.try_io(|socket| messages::receive(socket.get_ref().as_fd())) {
                Ok(Ok(Some(message))) => return Ok(message),
                Ok(Ok(None)) => return Err(JailError::Ended),
                Ok(Err(error)) => return Err(error.into()),
                Err(_not_yet) => {}
            }
        }
    })
    .await
}

async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, JailError>>,
) -> Result<T, JailError> {
    tokio::time::timeout(patience, answer).await.unwrap_or(Err(JailError::Late))
}

#[cfg(test)]
mod tests {
    use super::super::{Network, use_init_program};
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Makes an init's sibling, as the maker does, and says its number without a descriptor of it.
    const ALONE: &str = r#"#!/usr/bin/python3
import ctypes, json, os, signal, socket
number = ctypes.CDLL(None).syscall(56, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
while number == 0:
    signal.pause()
with open(os.path.join(os.path.dirname(__file__), "number"), "w") as file:
    file.write(str(number))
socket.socket(fileno=0).send(json.dumps({"Made": {"pid": number}}).encode())
"#;

    #[tokio::test]
    async fn starts_that_fail_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let [store, scratch] = ["store", "scratch"].map(|name| dir.path().canonicalize().unwrap().join(name));
        for folder in [&store, &scratch] {
            std::fs::create_dir(folder).unwrap();
        }
        let program = dir.path().join("init");
        let become_init = |script: &str| {
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        // It does not say either which layers there are, so that there are none.
        become_init("#!/bin/sh\n[ \"$2\" = --probe ] && exit 1\nexec sleep 1000\n");
        use_init_program(&program);
        let mut jail = Jail::new("/bin/true", store);
        jail.network = Network::Host;
        let usual = std::mem::replace(&mut jail.patience, Duration::from_millis(50));
        assert!(matches!(jail.spawn(&scratch).await, Err(JailError::Late)));

        // The kernel leaves out descriptors for which Hydra has no room.
        jail.patience = usual;
        become_init(ALONE);
        let error = jail.spawn(&scratch).await.unwrap_err();
        let JailError::Io(cause) = error else { panic!("{error}") };
        assert_eq!(cause.raw_os_error(), Some(libc::EMFILE));
        let number = std::fs::read_to_string(dir.path().join("number")).unwrap();
        let left =
            || Path::new("/proc").join(&number).exists() || std::fs::read_dir(&scratch).unwrap().count() > 0;
        while left() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
