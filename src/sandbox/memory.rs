//! Watches the memory of sandboxes where no cgroup bounds it.

use crate::sync::lock;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// Something whose memory is to be looked at.
pub trait Watched: Send + Sync {
    /// Looks, and ends what uses more than it may.
    fn look(&self);
}

/// Looks at everything that was given to it, until that is dropped.
#[derive(Default)]
pub struct MemoryWatch {
    watched: Mutex<Vec<Weak<dyn Watched>>>,
}

impl MemoryWatch {
    /// A watch with nothing to look at; its task ends when it is dropped.
    pub fn start() -> Arc<MemoryWatch> {
        let watch = Arc::new(MemoryWatch::default());
        let weak = Arc::downgrade(&watch);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while let Some(watch) = weak.upgrade() {
                watch.look();
                drop(watch);
                ticks.tick().await;
            }
        });
        watch
    }

    /// Adds something to look at.
    pub fn add(&self, watched: Weak<dyn Watched>) {
        lock(&self.watched).push(watched);
    }

    fn look(&self) {
        let all: Vec<_> = {
            let mut watched = lock(&self.watched);
            watched.retain(|watched| watched.strong_count() > 0);
            watched.iter().filter_map(Weak::upgrade).collect()
        };
        for watched in all {
            watched.look();
        }
    }
}

/// Whether the host has so little memory left that what is only kept ready should go: less than a sixteenth of it, or of what this process'
/// cgroup may use. Sources: proc(5), `meminfo`; the kernel's `Documentation/admin-guide/cgroup-v2.rst`.
pub fn is_scarce() -> bool {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let few = |total: u64, left: u64| left < total / 16;
    let cgroup = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
    };
    let host = field("MemTotal").zip(field("MemAvailable")).is_some_and(|(total, left)| few(total, left));
    let container = cgroup("memory.max").zip(cgroup("memory.current"));
    host || container.is_some_and(|(total, used)| few(total, total.saturating_sub(used)))
}

/// Resident memory of the process `pid` in bytes, 0 when it is gone. Source: proc(5), `statm`: pages, the second field is resident.
pub fn resident(pid: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        assert!(resident(std::process::id()) > 1 << 20);
        assert_eq!(resident(u32::MAX), 0);
    }
}
