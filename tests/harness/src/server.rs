//! A Hydra that runs for as long as its owner needs it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// How long Hydra may take until it answers, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to start Hydra. The default is what most need: the binary that was built beside the caller, and a fresh `app_dir`.
#[derive(Debug, Default)]
pub struct ServerOptions {
    /// The executable; by default [`crate::paths::hydra_binary`].
    pub binary: Option<PathBuf>,
    /// Hydra's `app_dir`; by default a fresh folder that goes when the server does. Give one to see what outlives a restart.
    pub app_dir: Option<PathBuf>,
    /// More arguments of `hydra serve`.
    pub args: Vec<OsString>,
    /// More environment variables.
    pub env: Vec<(OsString, OsString)>,
}

/// A running Hydra on a free port of the loopback. It is killed when it is dropped; [`Server::stop`] ends it as a user would.
#[derive(Debug)]
pub struct Server {
    child: Child,
    base: String,
    app_dir: PathBuf,
    log: PathBuf,
    // Holds the log and, unless one was given, the `app_dir`.
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts Hydra and waits until it answers `/healthz`.
    ///
    /// # Errors
    /// Where it cannot be started, ends at once, or does not answer within a minute; with what it logged.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::start_once(&options).await {
                // Another program took the port between the search for it and Hydra's own bind.
                Err(ServerError::Ended { log, .. }) if attempts < 5 && log.contains("in use") => {}
                result => return result,
            }
        }
    }

    async fn start_once(options: &ServerOptions) -> Result<Self, ServerError> {
        let binary = match &options.binary {
            Some(path) => path.clone(),
            None => crate::paths::hydra_binary().map_err(ServerError::Prepare)?,
        };
        let folder = tempfile::Builder::new().prefix("hydra-").tempdir().map_err(ServerError::Prepare)?;
        let app_dir = options.app_dir.clone().unwrap_or_else(|| folder.path().join("apps"));
        let log = folder.path().join("log");
        let output = File::create(&log).map_err(ServerError::Prepare)?;
        let port = free_port().map_err(ServerError::Prepare)?;
        let child = Command::new(&binary)
            .args(["serve", "--bind", "127.0.0.1", "--port", &port.to_string(), "--app-dir"])
            .arg(&app_dir)
            .args(&options.args)
            .env_remove("lambda_port")
            .env_remove("app_dir")
            .env_remove("lambda_timestamp")
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(ServerError::Prepare)?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ServerError::Start { binary, source })?;
        let base = format!("http://127.0.0.1:{port}");
        let mut server = Self { child, base, app_dir, log, _folder: folder };
        server.wait_until_it_answers().await?;
        Ok(server)
    }

    async fn wait_until_it_answers(&mut self) -> Result<(), ServerError> {
        let http = crate::plain_http().build().map_err(|e| ServerError::Prepare(io::Error::other(e)))?;
        let url = format!("{}/healthz", self.base);
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let healthy = http.get(&url).timeout(Duration::from_secs(5)).send().await;
            // Looked at after the answer: one from another program on that port must not count.
            if let Some(status) = self.child.try_wait().map_err(ServerError::Wait)? {
                return Err(ServerError::Ended { status, log: self.log() });
            }
            if healthy.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(ServerError::Silent { waited: PATIENCE, log: self.log() })
    }

    /// Its URL, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Its process id; `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its `app_dir`.
    pub fn app_dir(&self) -> &Path {
        &self.app_dir
    }

    /// What it logged until now, on both its outputs.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Stops it with SIGTERM, waits for its end, and hands back its log.
    ///
    /// # Errors
    /// Where it ends with another exit status than 0, or not within a minute.
    pub async fn stop(mut self) -> Result<String, ServerError> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)
                .map_err(|e| ServerError::Wait(e.into()))?;
        }
        let status = match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.map_err(ServerError::Wait)?,
            Err(_) => return Err(ServerError::StillRunning { waited: PATIENCE, log: self.log() }),
        };
        if !status.success() {
            return Err(ServerError::Ended { status, log: self.log() });
        }
        Ok(self.log())
    }

    /// Kills it, unless it has ended already, and waits until it is gone: what it had locked is free then.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(mut self) -> Result<(), ServerError> {
        self.child.kill().await.map_err(ServerError::Wait)
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A Hydra that did not start or stop as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No temporary folder, log file, port or HTTP client could be had.
    #[error("cannot prepare a place for Hydra to run in: {0}")]
    Prepare(#[source] io::Error),
    /// The executable did not start.
    #[error("cannot start {binary}: {source}; `./build.sh` builds it")]
    Start {
        /// The executable.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be waited for or signalled.
    #[error("cannot wait for Hydra's process: {0}")]
    Wait(#[source] io::Error),
    /// It ended: too soon, or with a status other than 0.
    #[error("Hydra ended with {status}; its log:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// What it logged.
        log: String,
    },
    /// It runs, but does not answer.
    #[error("Hydra does not answer /healthz after {waited:?}; its log:\n{log}")]
    Silent {
        /// How long it was waited for.
        waited: Duration,
        /// What it logged.
        log: String,
    },
    /// It does not stop.
    #[error("Hydra still runs {waited:?} after SIGTERM; its log:\n{log}")]
    StillRunning {
        /// How long it was waited for.
        waited: Duration,
        /// What it logged.
        log: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started_as(binary: &str) -> ServerOptions {
        ServerOptions { binary: Some(binary.into()), ..ServerOptions::default() }
    }

    #[tokio::test]
    async fn a_missing_binary_is_named() {
        let error = Server::start(started_as("/nowhere/hydra")).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/hydra"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_its_log() {
        // `cat` takes none of Hydra's arguments and says so.
        let error = Server::start(started_as("/bin/cat")).await.unwrap_err();
        match error {
            ServerError::Ended { status, log } => {
                assert!(!status.success());
                assert!(log.contains("--bind"), "{log}");
            }
            other => panic!("{other}"),
        }
    }
}
