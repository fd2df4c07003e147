//! The environment that all servers are measured in, and what is known of the machine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde::Serialize;

/// Set in the environment that was made clean.
const MARK: &str = "HYDRA_BENCH_ENVIRONMENT";

/// What is kept of the user's environment. Everything else is left out: `NODE_EXTRA_CA_CERTS` alone makes each start of Node
/// 50 ms longer.
const KEPT: &[&str] = &["HOME", "USER", "TERM", "LANG", "HYDRA_BINARY", "HYDRA_AGENTS"];

/// Where Debian's own programs are. They come first: those of version managers are scripts that start them slowly.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Starts this program anew in a clean environment, unless it runs in one. Returns only in the clean one, or on failure.
pub fn make_clean() -> std::io::Result<()> {
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let mut path = OsString::from(SYSTEM_PATH);
    if let Some(own) = std::env::var_os("PATH") {
        path.push(":");
        path.push(own);
    }
    let kept = KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    Err(Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env_clear()
        .env("PATH", path)
        .env(MARK, "clean")
        .envs(kept)
        .exec())
}

/// What the numbers of a run were measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// How many CPUs this program may use.
    pub cpus: usize,
    /// The processor's name.
    pub processor: String,
    /// The kernel's version.
    pub kernel: String,
    /// Average number of runnable tasks in the last minute, before the run: more than a few tenths spoil its numbers.
    pub load: f64,
}

impl Machine {
    /// As it is now; what cannot be found out is empty.
    pub fn look() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load_average(),
        }
    }
}

/// Average number of runnable tasks in the last minute. Source: proc(5), `loadavg`.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
