//! A process and all that it started, and what they do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long processes may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(4);
/// CPU time between two looks that is still rest.
const REST: Duration = Duration::from_micros(400);

/// The process `pid` and its descendants.
pub fn of(pid: u32) -> Vec<u32> {
    let children = children();
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        tree.extend(children.get(&pid).into_iter().flatten());
        next += 1;
    }
    tree
}

/// Waits until the process `pid` and its descendants do nothing for a moment: what one measurement leaves to do in the background is
/// not to be met by the next. Gives up after two seconds.
pub fn settle(pid: u32) {
    let begun = Instant::now();
    let mut last = cpu_time(pid);
    while begun.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
        let now = cpu_time(pid);
        if now.abs_diff(last) <= REST {
            return;
        }
        last = now;
    }
}

/// CPU time of the threads that the process `pid` and its descendants have now. Source: the kernel's `sched-stats.rst`, `schedstat`: the
/// first number is nanoseconds on a CPU.
fn cpu_time(pid: u32) -> Duration {
    let mut sum = 0;
    for pid in of(pid) {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            sum += text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(sum)
}

/// Page faults without input or output that the process `pid` has had, its ended threads' included; 0 where it is gone. KVM's part on
/// behalf of a guest is in it where the host's own page tables had to be filled. Source: proc(5), `stat`: the eighth field after the name.
pub fn minor_faults(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    field(&text, 7).unwrap_or(0)
}

/// The children of each process. Source: proc(5), `stat`: the parent is the second field after the name.
fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let text = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = field(&text, 1) {
            children.entry(parent as u32).or_default().push(pid);
        }
    }
    children
}

/// A field of `stat`, counted from 0 after the name, which is in brackets.
fn field(stat: &str, index: usize) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "7 (a) b) S 5 7 7 0 -1 4194560 901 0";
        assert_eq!((field(stat, 1), field(stat, 7), field(stat, 90)), (Some(5), Some(901), None));
    }

    #[test]
    fn faults_and_time_of_this_process_are_seen() {
        let own = std::process::id();
        let (faults, time) = (minor_faults(own), cpu_time(own));
        let pages = vec![1u8; 8 << 20];
        assert!(minor_faults(own) > faults + pages.len() as u64 / 4096 / 2);
        assert!(cpu_time(own) > time);
    }
}
