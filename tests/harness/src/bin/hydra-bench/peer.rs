//! Another server, running for as long as it is measured.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::load::Target;

/// How long a server may take to its first answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server in a process group of its own, which is killed when this is dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    /// From its start to its first answer.
    pub first_answer: Duration,
}

/// A server that does not start.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its program or its log cannot be used.
    #[error("it cannot be started: {0}")]
    Start(#[from] std::io::Error),
    /// It ended.
    #[error("it ended with {status}: {log}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// What it wrote.
        log: String,
    },
    /// It does not answer.
    #[error("it did not answer within {PATIENCE:?}: {0}")]
    Silent(String),
}

impl Peer {
    /// Starts `command`, whose output goes to the file `log`, and waits until it answers `target`.
    pub fn start(mut command: Command, target: &Target, log: &Path) -> Result<Peer, PeerError> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let begun = Instant::now();
        let mut peer = Peer { child: command.spawn()?, first_answer: Duration::ZERO };
        loop {
            let answered = target.call();
            peer.first_answer = begun.elapsed();
            if let Some(status) = peer.child.try_wait()? {
                return Err(PeerError::Ended {
                    status,
                    log: std::fs::read_to_string(log).unwrap_or_default(),
                });
            }
            match answered {
                Ok(_) => return Ok(peer),
                Err(error) if peer.first_answer > PATIENCE => {
                    return Err(PeerError::Silent(error.to_string()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Its process; it may have children.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only where nothing is left.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A port of the loopback that is free now.
pub fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
