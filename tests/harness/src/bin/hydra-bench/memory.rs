//! The memory of a process and all that it started.

use std::time::{Duration, Instant};

use crate::tree;

/// How long memory may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// A change of less than one in so many is rest.
const REST: u64 = 200;
/// V8 collects the garbage of a program that has had nothing to do for eight seconds, and what that left half a second later.
/// Source: V8, `src/heap/memory-reducer.h`, `kLongDelayMs` and `kShortDelayMs`.
const IDLE_COLLECTION: Duration = Duration::from_secs(10);

/// What the memory of processes comes to, in bytes. Memory that the host's kernel holds for them, such as page tables, is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Proportional set size: shared pages count in parts.
    pub proportional: u64,
    /// The part of it that is not in files of a disk: memory that was written to.
    pub own: u64,
}

/// Memory of the process `pid` and its descendants. `None` where one of them cannot be read. Source: proc(5), `smaps_rollup`.
pub fn size(pid: u32) -> Option<Size> {
    let mut sum = Size::default();
    for pid in tree::of(pid) {
        match std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(text) => {
                sum.proportional += field(&text, "Pss:")?;
                sum.own += field(&text, "Pss_Anon:")? + field(&text, "Pss_Shmem:")?;
            }
            // It ended meanwhile.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(sum)
}

/// The proportional set size of [`size`].
pub fn proportional(pid: u32) -> Option<u64> {
    Some(size(pid)?.proportional)
}

/// Bytes of the page tables that KVM keeps for guests, on the whole machine; 0 where the kernel does not tell. Source: proc(5), `meminfo`.
pub fn guest_page_tables() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "SecPageTables:").unwrap_or(0)
}

/// As [`size`], once it no longer changes: what is started or freed in the background is in it.
pub async fn at_rest(pid: u32) -> Option<Size> {
    let begun = Instant::now();
    let mut last = size(pid)?;
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = size(pid)?;
        let change = now.proportional.abs_diff(last.proportional);
        if change <= now.proportional / REST || begun.elapsed() > PATIENCE {
            return Some(now);
        }
        last = now;
    }
}

/// As [`at_rest`], once programs of `language` that have nothing to do have given back what they do without.
pub async fn idle(pid: u32, language: &str) -> Option<Size> {
    if language == "javascript" {
        tokio::time::sleep(IDLE_COLLECTION).await;
    }
    at_rest(pid).await
}

/// `Pss:  1234 kB` in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read() {
        let text =
            "55d0-7ffd ---p 00000000 00:00 0  [rollup]\nRss:  9216 kB\nPss:     4660 kB\nPss_Anon: 1 kB\n";
        assert_eq!(field(text, "Pss:"), Some(4660 << 10));
        assert_eq!(field("Rss: 1 kB\n", "Pss:"), None);
    }

    #[test]
    fn a_child_counts() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (found, size) = (tree::of(own).contains(&child.id()), size(own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        let size = size.unwrap();
        assert!(size.own > 10 << 10 && size.proportional >= size.own);
    }
}
