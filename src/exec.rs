//! `hydra exec`: runs one Linux program in a microVM with this terminal's standard streams.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::linux::counters::{Counters, Counts};
use crate::linux::identity::Identity;
use crate::linux::net::Policy;
use crate::linux::{Config, ExitStatus, Guest, Inherited, Mount, Rights, Source, StartError};

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
    /// An empty file system in guest RAM at DST for up to SIZE (such as 64M or 1G; half of the RAM unless given). May be given again.
    #[arg(long = "tmpfs", value_name = "DST[:SIZE]", value_parser = parse_tmpfs)]
    tmpfs: Vec<(PathBuf, Option<u64>)>,
    /// Environment variable K with value V, beside those that this command has. May be given again.
    #[arg(long = "env", value_name = "K=V", value_parser = parse_variable)]
    environment: Vec<OsString>,
    /// Whom the program may talk to over the network.
    #[arg(long, value_enum, default_value_t = Network::Open)]
    network: Network,
    /// Print system calls to standard error.
    #[arg(long)]
    trace: bool,
    /// Print to standard error, at the end, what the program made the machine do, and how long that took.
    #[arg(long)]
    counts: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM ARGS")]
    command: Vec<OsString>,
}

/// The values of `--network`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Network {
    /// Nobody.
    Closed,
    /// Itself, by a loopback interface of its own.
    Loopback,
    /// Everybody whom this machine can talk to.
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
        (Some(source), Some(target)) if !source.is_empty() && target.starts_with('/') => Ok(Mount {
            source: Source::Host(source.into()),
            target: Path::new(target).components().collect(),
            read_only,
        }),
        _ => Err(format!("`{text}` needs a source and an absolute target, as in /data:/mnt:ro")),
    }
}

/// `DST` or `DST:SIZE`.
fn parse_tmpfs(text: &str) -> Result<(PathBuf, Option<u64>), String> {
    let wrong = || format!("`{text}` is not of the form DST or DST:SIZE, as in /tmp:64M");
    let (target, size) = text.split_once(':').map_or((text, None), |(target, size)| (target, Some(size)));
    if !target.starts_with('/') || target == "/" {
        return Err(wrong());
    }
    let size = size.map(|size| parse_size(size).ok_or_else(wrong)).transpose()?;
    Ok((Path::new(target).components().collect(), size))
}

/// Bytes, with K, M or G for powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
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
        let mut mounts =
            vec![Mount { source: self.root.clone().into(), target: "/".into(), read_only: false }];
        mounts.extend(self.mounts);
        let half = self.memory << 19;
        mounts.extend(self.tmpfs.into_iter().map(|(target, size)| Mount {
            source: Source::tmpfs(size.unwrap_or(half)),
            target,
            read_only: false,
        }));
        let working_directory = match std::env::current_dir() {
            Ok(dir) if self.root == Path::new("/") => dir,
            _ => "/".into(),
        };
        let counters = Arc::new(Counters::default());
        let config = Config {
            memory: self.memory << 20,
            mounts,
            program,
            arguments: self.command.into_iter().map(OsStringExt::into_vec).collect(),
            environment,
            working_directory,
            descriptors: standard_streams()?,
            umask: take_umask(),
            identity: Identity { host_name: host_name(), ..Identity::of_this_process() },
            network: match self.network {
                Network::Closed => Policy::Closed,
                Network::Loopback => Policy::Loopback,
                Network::Open => Policy::Open,
            },
            rights: Rights::Own,
            trace: self.trace,
            counters: counters.clone(),
        };
        let guest = Guest::start(config)?;
        let status = guest.wait()?;
        if self.counts {
            print_counts(&counters.read());
        }
        if guest.ran_out_of_memory() {
            eprintln!("hydra: the program needed more than its {} MiB of memory and was killed", self.memory);
        }
        Ok(match status {
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

/// Writes to standard error what is not zero: times in milliseconds.
fn print_counts(counts: &Counts) {
    for (name, sum) in counts.each().filter(|(_, sum)| *sum > 0) {
        match name.strip_suffix("_ns") {
            Some(name) => eprintln!("{:>14.3} ms  {name}", sum as f64 / 1e6),
            None => eprintln!("{sum:>10}         {name}"),
        }
    }
}

/// This machine's name, which the files that the program sees know.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Takes this process's file mode creation mask, which is the program's from now on: what the program makes is masked once, by its own.
fn take_umask() -> u32 {
    rustix::process::umask(rustix::fs::Mode::empty()).as_raw_mode()
}

/// Copies of descriptors 0 to 2.
fn standard_streams() -> Result<Vec<Inherited>, ExecError> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [input.as_fd(), output.as_fd(), error.as_fd()]
        .into_iter()
        .map(|fd| {
            let flags = rustix::fs::fcntl_getfl(fd)?.bits();
            Ok(Inherited::Host(rustix::io::fcntl_dupfd_cloexec(fd, 3)?, flags))
        })
        .collect::<rustix::io::Result<_>>()
        .map_err(|e| ExecError::Stream(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(parse_tmpfs("/tmp"), Ok(("/tmp".into(), None)));
        assert_eq!(parse_tmpfs("/tmp/:64M"), Ok(("/tmp".into(), Some(64 << 20))));
        for wrong in ["", "/", "tmp", "/tmp:", "/tmp:0", "/tmp:1T", "/tmp:M", "/tmp:99999999999G"] {
            assert!(parse_tmpfs(wrong).is_err(), "{wrong}");
        }
    }

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
