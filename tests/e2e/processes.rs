//! What the kernel knows of Hydra and its children: proc(5).

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::until;

/// A process, told apart from a later one of the same number by its start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    parent: u32,
    state: char,
    started: u64,
}

/// What Hydra and its children hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub processes: usize,
    pub threads: usize,
    pub descriptors: usize,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, the name, may hold anything up to the last parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(Process {
            pid,
            state: fields[0].chars().next()?,
            parent: fields[1].parse().ok()?,
            started: fields[19].parse().ok()?,
        })
    }

    /// Whether it still runs; one that waits to be reaped does not.
    pub fn is_alive(&self) -> bool {
        Process::read(self.pid)
            .is_some_and(|now| now.started == self.started && !matches!(now.state, 'Z' | 'X'))
    }

    /// Its command line.
    pub fn command(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default().replace('\0', " ")
    }

    /// Stops it, as SIGSTOP does, and waits until each of its threads has stopped.
    pub async fn stop(&self) {
        kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGSTOP).expect("stopped");
        until("a process to stop", async || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
            tasks
                .filter_map(|task| Process::read(task.file_name().to_str()?.parse().ok()?))
                .all(|t| t.state == 'T')
        })
        .await;
    }

    /// Kills it.
    pub fn kill(&self) {
        kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL).expect("killed");
    }
}

/// Every process below `ancestor`.
pub fn descendants(ancestor: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let all: Vec<Process> =
        entries.filter_map(|entry| Process::read(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect();
    let mut found = BTreeSet::from([ancestor]);
    loop {
        let before = found.len();
        found.extend(
            all.iter()
                .filter(|process| found.contains(&process.parent))
                .map(|process| process.pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            break;
        }
    }
    all.into_iter().filter(|process| process.pid != ancestor && found.contains(&process.pid)).collect()
}

/// The agents of a mode below Hydra: `--host` or `--function`; not the init of a jail, which names them too.
pub fn agents(hydra: u32, mode: &str) -> Vec<Process> {
    let is_agent = |process: &Process| {
        let command = process.command();
        command.contains(mode) && !command.contains("jail-init")
    };
    descendants(hydra).into_iter().filter(is_agent).collect()
}

/// What the tree of `ancestor` holds now. The descriptors are without those of vCPUs: a microVM makes one more when
/// one more of its threads runs at the same time, and keeps it as long as it lives. The VM itself is counted.
pub fn held(ancestor: u32) -> Held {
    let mut tree: Vec<u32> = descendants(ancestor).iter().map(|process| process.pid).collect();
    tree.push(ancestor);
    let entries = |what: &'static str| {
        tree.iter().flat_map(move |pid| fs::read_dir(format!("/proc/{pid}/{what}"))).flatten().flatten()
    };
    let is_vcpu = |descriptor: &fs::DirEntry| {
        fs::read_link(descriptor.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("anon_inode:kvm-vcpu"))
    };
    Held {
        processes: tree.len(),
        threads: entries("task").count(),
        descriptors: entries("fd").filter(|descriptor| !is_vcpu(descriptor)).count(),
    }
}

/// What is held once nothing changes any more: spare agents are started, ended ones reaped.
pub async fn settled(hydra: u32) -> Held {
    let mut last = held(hydra);
    let mut same = 0;
    until("Hydra to be at rest", async || {
        let now = held(hydra);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        // In a row, over a second: Hydra looks after idle sandboxes that often.
        same > 120
    })
    .await;
    last
}
