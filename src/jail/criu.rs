//! Checkpoints of jailed agents by CRIU, for hosts whose KVM Hydra cannot use.
//!
//! An agent is *dumped* by CRIU in the jail's own namespaces (the hidden command `hydra jail-criu`): so its namespaces are not part of the dump, and
//! it goes on in those of another jail. There the jail's init has CRIU *restore* it, before that gives up its privileges. What each needs,
//! of CRIU 3.17:
//! - No user namespace: the agent's user is in the dump, and all copies have it.
//! - The agent and its threads have high numbers, those of a jail being otherwise free when it is restored: [`AGENT`].
//! - The channel's socket was made in the jail's network namespace, and is named by its inode; so are the pipes of the output.
//! - `/proc` can be written to while CRIU runs.
//! - CRIU does not put back Landlock and `no_new_privs`: it is restricted itself, and the agent inherits that. It does put back the filters,
//!   limits, user and capabilities.
//! - Files below `/tmp` are none of CRIU's: they are copied while the agent stands still.

use super::control::Plan;
use super::{Jail, JailError, Jailed, Layer, Limits, init_program, layers, mounts, restrict, root, view};
use crate::child;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::OnceCell;

/// What CRIU found out of the kernel, where it keeps it.
pub const KERNEL_DATA: &str = "/run/criu.kdat";
/// The number of an agent that can be dumped, in its jail.
const AGENT: i32 = 1000;
/// Where CRIU is looked for.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
/// The descriptors of CRIU: the dump's folder, one for its own, and what the agent is to have for 1, 2 and 3.
const IMAGES: RawFd = 8;
const WORK: RawFd = 10;
const OUT: RawFd = 11;
const ERR: RawFd = 12;
const CHANNEL: RawFd = 13;
/// What CRIU writes of a dump, and of a restore, in its own folder.
const DUMP_LOG: &str = "dump.log";
pub(super) const RESTORE_LOG: &str = "restore.log";
/// The folder of a dump in which the files below `/tmp` are.
const TMP_COPY: &str = "tmp";
/// How long CRIU may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What CRIU has to do with a jail.
#[derive(Clone, Debug)]
pub enum Criu {
    /// Its agent can be dumped. With the number of the function, whose jails have one user.
    Dumpable(u64),
    /// Its agent goes on from a dump.
    Restored(Dump),
}

/// A dumped agent.
#[derive(Clone, Debug)]
pub struct Dump {
    /// The folder it lies in.
    pub folder: PathBuf,
    /// What is to be known of it.
    pub agent: DumpedAgent,
}

/// What must be known of a dumped agent to make it go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedAgent {
    /// Inodes of its channel's socket and of its output's pipes.
    pub inodes: [u64; 3],
    /// Its user on the host.
    pub user: u32,
}

/// The same for the jail's init.
#[derive(Serialize, Deserialize, Clone)]
pub enum CriuPlan {
    /// See [`Criu::Dumpable`].
    Dumpable,
    /// See [`Criu::Restored`]. With two descriptors: the dump's folder, and one that CRIU may write to.
    Restored {
        /// See [`DumpedAgent::inodes`].
        inodes: [u64; 3],
        /// The function's code, relative to the code store.
        code: PathBuf,
    },
}

/// Whether agents can be dumped and restored here; if not, why. Found out once, by doing it: a CRIU may not know the kernel.
///
/// # Errors
/// The reason, in a sentence.
pub async fn probe(scratch: &Path) -> Result<(), String> {
    static FOUND: OnceCell<Result<(), String>> = OnceCell::const_new();
    FOUND.get_or_init(|| try_out(scratch)).await.clone()
}

/// What `criu --version` says; asked once, which takes a while.
pub fn version() -> Option<&'static str> {
    static VERSION: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        let output = criu().arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.trim_start_matches("Version: ").to_owned())
    };
    VERSION.get_or_init(ask).as_deref()
}

async fn try_out(scratch: &Path) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("Hydra is not root".into());
    }
    if !tokio::task::spawn_blocking(|| version().is_some()).await.unwrap_or_default() {
        return Err("CRIU is not installed (package criu)".into());
    }
    for layer in [Layer::Mount, Layer::Pid, Layer::Proc] {
        if let Some(reason) = layers::probe().missing(layer) {
            return Err(format!("the jail lacks the layer {layer:?}: {reason}"));
        }
    }
    // Leaves what it found out of the kernel for all that follow, whatever it thinks of it.
    let mut check = tokio::process::Command::from(criu());
    check.arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _ = tokio::time::timeout(PATIENCE, check.status()).await;
    let trial = async {
        let store = tempfile::tempdir_in(scratch)?;
        let [code, folder] = ["code", "dump"].map(|name| store.path().join(name));
        fs::create_dir_all(code.join("none"))?;
        fs::create_dir(&folder)?;
        for path in [store.path(), &code, &code.join("none")] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let mut jail = Jail::new("/usr/bin/sleep", code.canonicalize()?);
        jail.arguments = vec!["1000".into()];
        jail.criu = Some(Criu::Dumpable(0));
        let limits = Limits { memory_mib: 256 };
        let mut one = jail.spawn(scratch).await?;
        one.assign(&jail.code_store.join("none"), &limits).await?;
        let agent = one.dumper().dump(&folder).await?;
        drop(one);
        jail.criu = Some(Criu::Restored(Dump { folder, agent }));
        jail.spawn_assigned(scratch, &jail.code_store.join("none"), &limits).await.map(drop)
    };
    let outcome: Result<(), JailError> = trial.await;
    outcome.map_err(|error| format!("CRIU cannot checkpoint processes here: {error}"))
}

/// Dumps the agent of one jail.
#[derive(Clone, Copy, Debug)]
pub struct Dumper {
    init: u32,
    user: u32,
}

impl Jailed {
    /// Dumps its agent, as long as this is there.
    pub fn dumper(&self) -> Dumper {
        Dumper { init: self.pid(), user: self.user().unwrap_or_default() }
    }
}

impl Dumper {
    /// Dumps the agent, which waits for its next frame, into the empty `folder`. It goes on afterwards.
    ///
    /// # Errors
    /// CRIU refuses it, or takes too long.
    pub async fn dump(self, folder: &Path) -> Result<DumpedAgent, JailError> {
        let failed = |why: String| JailError::Setup(format!("CRIU cannot dump the agent: {why}"));
        let agent = self.agent_on_host().map_err(|error| failed(error.to_string()))?;
        let inodes = [3, 1, 2].map(|number| inode(agent, number));
        let [Some(socket), Some(out), Some(err)] = inodes else {
            return Err(failed("it has closed its channel or its output".into()));
        };
        fs::create_dir(folder.join(TMP_COPY))?;
        let images = File::open(folder)?;
        let mut helper = tokio::process::Command::new(init_program());
        helper.arg("jail-criu").arg(self.init.to_string()).arg(socket.to_string());
        helper
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        child::prepare(&mut helper, images.as_raw_fd(), IMAGES);
        let output = tokio::time::timeout(PATIENCE, helper.output())
            .await
            .map_err(|_| failed("it takes too long".into()))??;
        if !output.status.success() {
            let said = log_error(&folder.join(DUMP_LOG));
            return Err(failed(said.unwrap_or_else(|| last_line(&output.stderr))));
        }
        Ok(DumpedAgent { inodes: [socket, out, err], user: self.user })
    }

    /// The agent's process as Hydra sees it: the one child of the init that has the agent's number in the jail.
    fn agent_on_host(&self) -> io::Result<u32> {
        let init = self.init;
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
        let is_agent = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some(&AGENT.to_string())
        };
        let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.find(is_agent).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The inode of a socket or pipe that is a process's descriptor `number`.
fn inode(process: u32, number: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{process}/fd/{number}")).ok()?;
    let text = link.to_str()?;
    let inode = text.strip_prefix("socket:[").or_else(|| text.strip_prefix("pipe:["))?;
    inode.strip_suffix(']')?.parse().ok()
}

/// Runs as `hydra jail-criu INIT SOCKET`, with the folder of the dump as descriptor 8; never returns. Must be called before anything starts a
/// thread.
pub fn criu_main(arguments: impl IntoIterator<Item = OsString>) -> ! {
    let arguments: Vec<_> = arguments.into_iter().filter_map(|word| word.to_str()?.parse().ok()).collect();
    let outcome = match arguments[..] {
        [init, socket] => dump(init, socket),
        _ => Err(io::Error::other("the numbers of the jail's init and of the channel's socket are missing")),
    };
    if let Err(error) = &outcome {
        eprintln!("{error}");
    }
    std::process::exit(i32::from(outcome.is_err()))
}

/// Dumps the agent of the jail of `init`, and copies its files, from within its namespaces.
fn dump(init: u64, socket: u64) -> io::Result<()> {
    let spaces = [
        ("pid", CloneFlags::CLONE_NEWPID),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let open = |(name, flag)| Ok((File::open(format!("/proc/{init}/ns/{name}"))?, flag));
    let spaces: Vec<_> = spaces.into_iter().map(open).collect::<io::Result<_>>()?;
    let root = File::open(format!("/proc/{init}/root"))?;
    for (space, flag) in spaces {
        setns(space, flag).map_err(|error| said(&format!("enter the jail ({flag:?})"), error.into()))?;
    }
    // That of the namespace is another where Hydra's own was changed by chroot(2).
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => std::process::exit(1),
        },
        ForkResult::Child => {
            let outcome = dump_inside(socket);
            if let Err(error) = &outcome {
                eprintln!("{error}");
            }
            std::process::exit(i32::from(outcome.is_err()))
        }
    }
}

fn dump_inside(socket: u64) -> io::Result<()> {
    std::env::set_current_dir("/")?;
    make_proc_writable(true).map_err(|error| said("make /proc writable", error))?;
    let images = format!("/proc/self/fd/{IMAGES}");
    let agent = AGENT.to_string();
    let external = format!("unix[{socket}]");
    let dumped = criu()
        .args(["dump", "-t", &agent, "-D", &images, "-o", DUMP_LOG, "-v1", "--external", &external])
        // It stands still until its files are copied.
        .args(["--leave-stopped", "--manage-cgroups=ignore", "--tcp-close"])
        .status()
        .and_then(|status| done(status, "criu dump"));
    // Everybody in the jail but its init and this process.
    let everybody = Pid::from_raw(-1);
    let copied = dumped.and_then(|()| {
        // Those too that are not the agent's children any more: nobody is to move what is copied.
        kill(everybody, Signal::SIGSTOP)?;
        let tmp = mounts::copy_alone(Path::new(view::TMP))?;
        copy_files(&format!("{}/.", path_of(&tmp)), &format!("{images}/{TMP_COPY}/"))
    });
    let continued = kill(everybody, Signal::SIGCONT);
    make_proc_writable(false).map_err(|error| said("make /proc read-only", error))?;
    copied?;
    continued.map_err(|error| said("have the agent go on", error.into()))
}

/// Before the agent of a jail that can be dumped is started: the next process has its number.
pub fn number_agent() -> io::Result<()> {
    fs::write("/proc/sys/kernel/ns_last_pid", (AGENT - 1).to_string())?;
    make_proc_writable(false)
}

/// Has CRIU restore the agent of a jail, whose code shows already, from the folder `images`; returns it.
pub fn restore(
    plan: &Plan,
    inodes: [u64; 3],
    [images, work]: [OwnedFd; 2],
    channel: OwnedFd,
) -> io::Result<Pid> {
    let tmp = mounts::copy_alone(Path::new(view::TMP))?;
    copy_files(&format!("{}/{TMP_COPY}/.", path_of(&images)), &path_of(&tmp))?;
    drop(tmp);
    // SAFETY: this process has one thread.
    let criu = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let outcome = execute_restore(plan, inodes, [images, work], channel);
            // Where the init's own output goes, whose other end Hydra has.
            eprintln!("{}", outcome.map_or_else(|error| error, |never| match never {}));
            std::process::exit(1)
        }
    };
    match waitpid(criu, None)? {
        WaitStatus::Exited(_, 0) => {}
        other => return Err(io::Error::other(format!("criu restore: {other:?}"))),
    }
    make_proc_writable(false)?;
    Ok(Pid::from_raw(AGENT))
}

fn execute_restore(
    plan: &Plan,
    inodes: [u64; 3],
    [images, work]: [OwnedFd; 2],
    channel: OwnedFd,
) -> Result<std::convert::Infallible, io::Error> {
    let [out, err] = [io::stdout().as_fd(), io::stderr().as_fd()].map(|stream| stream.try_clone_to_owned());
    let (out, err) = (out?, err?);
    // Clear of the numbers that they are to have.
    const CLEAR: RawFd = 20;
    let clear =
        |descriptor: &OwnedFd| Ok::<_, io::Error>(rustix::io::fcntl_dupfd_cloexec(descriptor, CLEAR)?);
    let kept = [clear(&images)?, clear(&work)?, clear(&out)?, clear(&err)?, clear(&channel)?];
    for (descriptor, number) in kept.iter().zip([IMAGES, WORK, OUT, ERR, CHANNEL]) {
        // SAFETY: nothing in this process uses what is at the number; it executes another program or ends.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } != number {
            return Err(io::Error::last_os_error());
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    restrict::restrict_criu(plan, [&kept[0], &kept[1]])?;
    let [socket, stdout, stderr] = inodes;
    let mut command = criu();
    command
        .args(["restore", "-D", &format!("/proc/self/fd/{IMAGES}"), "-W", &format!("/proc/self/fd/{WORK}")])
        .args(["-o", RESTORE_LOG, "-v1", "--restore-sibling", "-d", "--manage-cgroups=ignore", "--tcp-close"])
        .args(["--inherit-fd", &format!("fd[{OUT}]:pipe:[{stdout}]")])
        .args(["--inherit-fd", &format!("fd[{ERR}]:pipe:[{stderr}]")])
        .args(["--inherit-fd", &format!("fd[{CHANNEL}]:socket:[{socket}]")]);
    Err(command.exec())
}

/// Copies the files of a folder with all that is known of them. Neither has mounts below it: the jail's `/tmp` may have some.
fn copy_files(from: &str, to: &str) -> io::Result<()> {
    done(Command::new("/bin/cp").args(["-a", from, to]).stdin(Stdio::null()).status()?, "cp")
}

/// Where another process finds what this one has open.
fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd())
}

/// Makes `/proc` of the calling process's mount namespace writable, or read-only.
fn make_proc_writable(writable: bool) -> io::Result<()> {
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if writable {
        mounts::clear(proc.as_fd(), read_only)
    } else {
        mounts::set(proc.as_fd(), read_only, false)
    }
}

/// Shows the code in the jail of an agent that is to be restored.
pub fn show_code(root: Option<root::Root>, code: &Path) -> io::Result<()> {
    root::reveal(root.ok_or_else(|| io::Error::other("the jail has no root of its own"))?, code)
}

fn criu() -> Command {
    let mut command = Command::new("criu");
    command.env_clear().env("PATH", PATH);
    command
}

fn said(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

fn done(status: std::process::ExitStatus, what: &str) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{what}: {status}"))) }
}

/// The errors that a log of CRIU's ends with.
pub(super) fn log_error(log: &Path) -> Option<String> {
    const LAST: usize = 3;
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<_> =
        text.lines().filter_map(|line| line.split_once("): ").filter(|_| line.contains("Error"))).collect();
    let last: Vec<_> =
        errors.iter().skip(errors.len().saturating_sub(LAST)).map(|(_, said)| said.trim()).collect();
    (!last.is_empty()).then(|| last.join("; "))
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why").to_owned()
}
