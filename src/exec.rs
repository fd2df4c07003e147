//! `hydra exec`: runs one Linux program in a microVM with this terminal's standard streams.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::linux::identity::Identity;
use crate::linux::net::Policy;
use crate::linux::{Config, ExitStatus, Guest, Mount, StartError};

/// Options of `hydra exec`.
#[derive(clap::Args, Debug)]
pub struct Exec {
    /// Guest RAM in MiB.
    #[arg(long, value_name = "MiB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=262_144))]
    memory: u64,
    /// Host directory that the program sees as its root.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Host directory or file SRC shown at DST; `:ro` forbids changes. May be given again.
    #[arg(long = "mount", value_name = "SRC:DST[:ro]", value_parser = parse_mount)]
    mounts: Vec<Mount>,
    /// Environment variable K with value V, beside those that this command has. May be given again.
    #[arg(long = "env", value_name = "K=V", value_parser = parse_variable)]
    environment: Vec<OsString>,
    /// Whom the program may talk to over the network.
    #[arg(long, value_enum, default_value_t = Network::Open)]
    network: Network,
    /// Print system calls to standard error.
    #[arg(long)]
    trace: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM ARGS")]
    command: Vec<OsString>,
}

/// The values of `--network`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Network {
    /// Nobody.
    Closed,
    /// Services on this machine's loopback interface.
    Loopback,
    /// Everybody.
    Open,
}

fn parse_mount(text: &str) -> Result<Mount, String> {
    let mut parts = text.split(':');
    let (source, target, rights) = (parts.next(), parts.next(), parts.next());
    let read_only = match (rights, parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(format!("`{text}` is not of the form SRC:DST or SRC:DST:ro")),
    };
    match (source, target) {
        (Some(source), Some(target)) if !source.is_empty() && target.starts_with('/') => {
            Ok(Mount { source: source.into(), target: Path::new(target).components().collect(), read_only })
        }
        _ => Err(format!("`{text}` needs a source and an absolute target, as in /data:/mnt:ro")),
    }
}

fn parse_variable(text: &str) -> Result<OsString, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.into()),
        _ => Err(format!("`{text}` is not of the form NAME=value")),
    }
}

/// Why a program was not run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The machine failed while it ran.
    #[error("the microVM failed: {0}")]
    Failed(#[from] crate::vmm::VmmError),
    /// There is no such program.
    #[error("there is no program {0} in the directories of PATH")]
    NotFound(PathBuf),
    /// A standard stream cannot be handed on.
    #[error("cannot hand a standard stream to the program: {0}")]
    Stream(#[source] std::io::Error),
}

impl Exec {
    /// Runs the program; returns the exit status for this process: the program's, or 128 plus the signal that ended it.
    pub fn run(self) -> Result<u8, ExecError> {
        let environment = self.full_environment();
        let program = self.find(&environment)?;
        let mut mounts = vec![Mount { source: self.root.clone(), target: "/".into(), read_only: false }];
        mounts.extend(self.mounts);
        let working_directory = match std::env::current_dir() {
            Ok(dir) if self.root == Path::new("/") => dir,
            _ => "/".into(),
        };
        let config = Config {
            memory: self.memory << 20,
            mounts,
            program,
            arguments: self.command.into_iter().map(OsStringExt::into_vec).collect(),
            environment,
            working_directory,
            descriptors: standard_streams()?,
            umask: umask(),
            identity: Identity::of_this_process(),
            network: match self.network {
                Network::Closed => Policy::Closed,
                Network::Loopback => Policy::Loopback,
                Network::Open => Policy::Open,
            },
            trace: self.trace,
        };
        Ok(match Guest::start(config)?.wait()? {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        })
    }

    /// This process's environment with the given variables over it.
    fn full_environment(&self) -> Vec<Vec<u8>> {
        let name = |entry: &[u8]| entry.split(|b| *b == b'=').next().unwrap_or_default().to_vec();
        let given: Vec<Vec<u8>> = self.environment.iter().map(|v| v.as_bytes().to_vec()).collect();
        let inherited = std::env::vars_os().map(|(k, v)| [k.as_bytes(), b"=", v.as_bytes()].concat());
        let mut all: Vec<Vec<u8>> = inherited.filter(|e| !given.iter().any(|g| name(g) == name(e))).collect();
        all.extend(given);
        all
    }

    /// The program's path in the guest: as given, or found along `PATH` below the root.
    fn find(&self, environment: &[Vec<u8>]) -> Result<PathBuf, ExecError> {
        let given = PathBuf::from(&self.command[0]);
        if given.is_absolute() {
            return Ok(given);
        }
        if given.components().count() > 1 {
            return Ok(std::env::current_dir().unwrap_or_else(|_| "/".into()).join(given));
        }
        let path = environment.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(b"/usr/bin:/bin");
        path.split(|b| *b == b':')
            .map(|dir| Path::new(std::ffi::OsStr::from_bytes(dir)).join(&given))
            .find(|candidate| {
                let on_host = self.root.join(candidate.strip_prefix("/").unwrap_or(candidate));
                rustix::fs::access(&on_host, rustix::fs::Access::EXEC_OK).is_ok() && on_host.is_file()
            })
            .ok_or(ExecError::NotFound(given))
    }
}

/// This process's file mode creation mask. Asking is setting, so it is set back at once; no other thread runs yet.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

/// Copies of descriptors 0 to 2 with their open flags.
fn standard_streams() -> Result<Vec<(OwnedFd, u32)>, ExecError> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [input.as_fd(), output.as_fd(), error.as_fd()]
        .into_iter()
        .map(|fd| {
            let flags = rustix::fs::fcntl_getfl(fd)?.bits();
            Ok((rustix::io::fcntl_dupfd_cloexec(fd, 3)?, flags))
        })
        .collect::<rustix::io::Result<_>>()
        .map_err(|e| ExecError::Stream(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_parsed() {
        let mount = parse_mount("/data:/mnt/:ro").expect("a mount");
        assert_eq!((mount.source, mount.target, mount.read_only), ("/data".into(), "/mnt".into(), true));
        assert!(!parse_mount("a:/b").expect("a mount").read_only);
        for wrong in ["", "a", "a:b", "a:/b:x", ":/b", "a:/b:ro:ro"] {
            assert!(parse_mount(wrong).is_err(), "{wrong}");
        }
    }
}
