//! The memory of a process and all that it started.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long memory may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// A change of less than one in so many is rest.
const REST: u64 = 200;

/// Proportional set size, in bytes, of the process `pid` and its descendants: shared pages count in parts. `None` where one of
/// them cannot be read. Source: proc(5), `smaps_rollup`.
pub fn proportional(pid: u32) -> Option<u64> {
    let children = children();
    let mut sum = 0;
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        left.extend(children.get(&pid).into_iter().flatten());
        match std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(text) => sum += pss(&text)?,
            // It ended meanwhile.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(sum)
}

/// As [`proportional`], once it no longer changes: what is started or freed in the background is in it.
pub async fn at_rest(pid: u32) -> Option<u64> {
    let begun = Instant::now();
    let mut last = proportional(pid)?;
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = proportional(pid)?;
        if now.abs_diff(last) <= now / REST || begun.elapsed() > PATIENCE {
            return Some(now);
        }
        last = now;
    }
}

/// `Pss:  1234 kB` in bytes.
fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The children of each process. Source: proc(5), `stat`: the parent is the second field after the name, which is in brackets.
fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let text = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read() {
        let text =
            "55d0-7ffd ---p 00000000 00:00 0  [rollup]\nRss:  9216 kB\nPss:     4660 kB\nPss_Anon: 1 kB\n";
        assert_eq!(pss(text), Some(4660 << 10));
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn a_child_counts() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = children().get(&own).is_some_and(|list| list.contains(&child.id()));
        let size = proportional(own);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        assert!(size.unwrap() > 100 << 10);
    }
}
