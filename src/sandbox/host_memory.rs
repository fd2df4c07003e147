//! The memory of a language host, held against what its isolates may use.
//!
//! The isolates of a process share its memory, so theirs cannot be told apart exactly. What can be told is by how much the
//! process grew since an invocation began. A host is killed when it grew, since the oldest invocation that runs, by more than all functions that run may use; or when it is
//! larger than at its start by more than all its isolates may use. The invocations that saw it grow by more than their own function's memory are told so.
//! Languages that can bound an isolate's heap themselves (V8) do, and end that isolate alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::Health;
use super::host::LanguageHost;
use super::memory::{Watched, resident};
use crate::sync::lock;

/// What a host may grow by beyond its isolates' memory: its own caches, heap not yet given back.
const SLACK: u64 = 64 << 20;

/// Watches one host.
pub struct HostMemory {
    pid: u32,
    host: Weak<LanguageHost>,
    at_start: u64,
    now: AtomicU64,
    isolates: Mutex<Vec<Weak<Usage>>>,
}

/// One isolate's account.
pub struct Usage {
    limit: u64,
    /// When the invocation began that is under way.
    busy_since: Mutex<Option<Instant>>,
    at_begin: AtomicU64,
    host: Arc<HostMemory>,
    health: Arc<Health>,
}

impl HostMemory {
    /// The memory of `host`, whose process is `pid` and has just started.
    pub fn new(pid: u32, host: Weak<LanguageHost>) -> Arc<HostMemory> {
        let at_start = resident(pid);
        Arc::new(HostMemory {
            pid,
            host,
            at_start,
            now: AtomicU64::new(at_start),
            isolates: Mutex::default(),
        })
    }

    /// An account for an isolate that may use `memory` MiB.
    pub fn open(self: &Arc<Self>, memory: u32, health: Arc<Health>) -> Arc<Usage> {
        let usage = Arc::new(Usage {
            limit: u64::from(memory) << 20,
            busy_since: Mutex::default(),
            at_begin: AtomicU64::new(0),
            host: self.clone(),
            health,
        });
        lock(&self.isolates).push(Arc::downgrade(&usage));
        usage
    }

    /// Whether an invocation has been under way since `time`, or longer.
    pub fn is_busy_since(&self, time: Instant) -> bool {
        let isolates = lock(&self.isolates);
        isolates
            .iter()
            .filter_map(Weak::upgrade)
            .any(|usage| usage.since().is_some_and(|begun| begun <= time))
    }
}

impl Usage {
    /// Notes that an invocation begins (`true`) or ended.
    pub fn busy(&self, busy: bool) {
        if busy {
            self.at_begin.store(self.host.now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        *lock(&self.busy_since) = busy.then(Instant::now);
    }

    /// Whether an invocation is under way.
    pub fn is_busy(&self) -> bool {
        self.since().is_some()
    }

    fn since(&self) -> Option<Instant> {
        *lock(&self.busy_since)
    }

    fn grew(&self, now: u64) -> u64 {
        now.saturating_sub(self.at_begin.load(Ordering::Relaxed))
    }
}

impl Watched for HostMemory {
    fn look(&self) {
        let now = resident(self.pid);
        self.now.store(now, Ordering::Relaxed);
        let all: Vec<Arc<Usage>> = {
            let mut isolates = lock(&self.isolates);
            isolates.retain(|usage| usage.strong_count() > 0);
            isolates.iter().filter_map(Weak::upgrade).collect()
        };
        let running: Vec<_> = all.iter().filter(|usage| usage.is_busy()).collect();
        let may_run = running.iter().fold(0, |sum: u64, usage| sum.saturating_add(usage.limit));
        let may_hold = all.iter().fold(SLACK, |sum: u64, usage| sum.saturating_add(usage.limit));
        let grew = running.iter().map(|usage| usage.grew(now)).max().unwrap_or(0);
        if (running.is_empty() || grew <= may_run) && now.saturating_sub(self.at_start) <= may_hold {
            return;
        }
        for usage in running.iter().filter(|usage| usage.grew(now) > usage.limit) {
            usage.health.ran_out_of_memory();
        }
        if let Some(host) = self.host.upgrade().filter(|host| host.is_alive()) {
            tracing::warn!(
                pid = self.pid,
                resident = now,
                "a language host used too much memory and is killed"
            );
            host.kill();
        }
    }
}
