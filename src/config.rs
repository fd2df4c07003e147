//! What can be set on the command line of `hydra serve`, or by the environment where the original does so.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Options of `hydra serve`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "lambda_port", default_value_t = 8080)]
    pub port: u16,

    /// Address to listen on. Whoever can reach it can run code, unless --token-file is given too
    #[arg(long, default_value = "127.0.0.1")]
    pub bind: IpAddr,

    /// Folder of the functions' code and temporary files
    #[arg(long, env = "app_dir", default_value = "/tmp/apps/")]
    pub app_dir: PathBuf,

    /// Start of the process in milliseconds since 1970; the time from then until Hydra listens is printed
    #[arg(long, env = "lambda_timestamp")]
    pub timestamp: Option<u64>,

    /// File whose first line is the bearer token that every request must carry
    #[arg(long)]
    pub token_file: Option<PathBuf>,

    /// Folder of the agents
    #[arg(long, env = "HYDRA_AGENTS")]
    pub agents: Option<PathBuf>,

    /// Form of the log
    #[arg(long, default_value = "text")]
    pub log_format: LogFormat,

    /// Memory of a function that is registered without, in MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub default_memory: u32,

    /// Time of an invocation of a function that is registered without, in ms
    #[arg(long, default_value = "60000", value_parser = milliseconds)]
    pub default_timeout: Duration,

    /// Most sandboxes of a function that is registered without
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub default_concurrency: u32,

    /// How long a sandbox may be idle before it is let go, in ms
    #[arg(long, default_value = "300000", value_parser = milliseconds)]
    pub idle_time: Duration,

    /// How long running invocations may take to end once Hydra is told to stop, in ms; a second SIGTERM or SIGINT ends them
    #[arg(long, default_value = "60000", value_parser = milliseconds)]
    pub stop_time: Duration,

    /// Most requests that are served at a time; more get 503. So do those for one function, once a quarter of these (at least 64) wait beyond the sandboxes that it may have
    #[arg(long, default_value_t = 1024)]
    pub max_requests: usize,

    /// Most bytes of a request's body
    #[arg(long, default_value_t = 6 << 20)]
    pub max_body: usize,

    /// Most bytes of a function's result
    #[arg(long, default_value_t = 6 << 20, value_parser = result_size)]
    pub max_result: usize,

    /// Most functions that may be registered
    #[arg(long, default_value_t = 10_000)]
    pub max_functions: usize,

    /// Whether functions in process sandboxes reach the network
    #[arg(long, default_value = "host")]
    pub network: NetworkPolicy,

    /// Whether sandboxes are prepared ahead of requests: isolates, agents for process sandboxes, copies of snapshots, templates of languages
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub ahead: bool,

    /// What 'snapshot-process' sandboxes are: microVMs in a jailed process, processes that CRIU checkpoints, or the first of these that this host can run
    #[arg(long, default_value = "auto")]
    pub snapshot_process: SnapshotProcess,

    /// Size of the temporary folder of a process sandbox, in MiB
    #[arg(long, default_value_t = 256)]
    pub tmp_size: u32,
}

impl Config {
    /// Most requests that may wait for one function, so that a slow one leaves room for the others.
    pub fn max_waiting(&self) -> usize {
        (self.max_requests / 4).max(64)
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which network functions see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkPolicy {
    /// The host's.
    Host,
    /// None but a loopback interface of their own.
    None,
}

/// What `snapshot-process` sandboxes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SnapshotProcess {
    /// MicroVMs, or what CRIU checkpoints where the host cannot run those.
    Auto,
    /// MicroVMs in a jailed process.
    Microvm,
    /// Processes that CRIU checkpoints.
    Criu,
}

/// The folder of the agents: `set` if it is, else `agents` beside the folder of the executable (`target/agents` of
/// `target/release/hydra`), else beside the executable itself.
pub fn agents_folder(set: Option<&Path>) -> PathBuf {
    if let Some(folder) = set {
        return folder.to_owned();
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.parent().unwrap_or(&executable);
    let above = beside.parent().unwrap_or(beside).join("agents");
    if above.is_dir() { above } else { beside.join("agents") }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_| "must be a whole number of milliseconds".into())
}

fn result_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (1..=crate::agent::frame::MAX_PAYLOAD).contains(&size) => Ok(size),
        _ => Err(format!("must be a number of bytes from 1 to {}", crate::agent::frame::MAX_PAYLOAD)),
    }
}
