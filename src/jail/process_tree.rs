//! The processes below a jail's init, by `/proc`: their memory, and their end where no PID namespace brings it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;

/// Rounds of [`kill_below`]: each ends all that the one before did not see being forked.
const ROUNDS: u32 = 200;

/// Bytes of memory that belong to `pid` and all processes below it: anonymous and shared-memory pages. Pages of
/// programs and libraries, which the kernel shares, do not count; a page shared after `fork` counts in each.
pub fn memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut total = resident(&status);
    for process in below(pid) {
        // One that ended meanwhile has no memory.
        total += fs::read_to_string(format!("/proc/{process}/status")).map_or(0, |status| resident(&status));
    }
    Ok(total)
}

/// Kills all processes below `pid` (not itself), which must be a subreaper, until there are none.
pub fn kill_below(pid: u32) {
    for _ in 0..ROUNDS {
        let processes: Vec<u32> = below(pid).into_iter().filter(|process| !is_zombie(*process)).collect();
        if processes.is_empty() {
            return;
        }
        for process in processes {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process as i32), Signal::SIGKILL);
        }
        std::thread::yield_now();
    }
}

/// All processes below `pid`, parents first.
pub fn below(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        let more = children(found[next]);
        found.extend(more);
        next += 1;
    }
    found
}

/// The children of all threads of `pid`.
fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

fn is_zombie(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "State:").is_none_or(|state| state.starts_with('Z'))
}

/// `RssAnon` and `RssShmem` of proc_pid_status(5), in bytes.
fn resident(status: &str) -> u64 {
    let kib =
        |name| field(status, name).and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    (kib("RssAnon:") + kib("RssShmem:")) * 1024
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_below_and_has_memory() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        assert!(below(std::process::id()).contains(&child.id()));
        // Between fork and exec the child still has this process's memory: there is some at any time.
        assert!(memory(child.id()).expect("its status") > 0);
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(memory(child.id()).is_err());
    }

    #[test]
    fn resident_memory_of_a_status() {
        assert_eq!(
            resident("Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t 7 kB\nRssShmem:\t       4 kB\n"),
            104 * 1024
        );
        assert_eq!(resident("Name:\tzombie\n"), 0);
    }
}
