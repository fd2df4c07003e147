//! The ends of isolates: by themselves, else with their host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::LanguageHost;
use crate::agent::Agent;
use crate::agent::frame::Kind;
use crate::sandbox::Health;
use crate::sync::lock;

/// How long an isolate in which nothing is under way may take to end, with the threads that its function left, before its host is killed.
pub(super) const QUIET_TIME: Duration = Duration::from_secs(5);
/// In pieces of what length that time is counted.
const PIECE: Duration = Duration::from_secs(1);

/// How long an isolate may take to end in the middle of an invocation before its host is killed.
fn busy_time(agent: Agent) -> Duration {
    match agent {
        // These can be ended whatever they do: see their agents.
        Agent::JavaScript | Agent::Java => Duration::from_secs(2),
        // These only where the invocation happens to end.
        Agent::Python | Agent::Native => Duration::from_millis(250),
    }
}

/// Ends an isolate, by itself or with its host; so does dropping it.
pub struct IsolateHandle {
    host: Arc<LanguageHost>,
    id: u64,
    /// It was told to end.
    closed: bool,
}

#[derive(Serialize)]
struct Close {
    isolate: u64,
}

impl IsolateHandle {
    /// A handle on the isolate `id` of `host`.
    pub(super) fn new(host: Arc<LanguageHost>, id: u64) -> IsolateHandle {
        IsolateHandle { host, id, closed: false }
    }

    /// The isolate's host.
    pub(super) fn host(&self) -> &LanguageHost {
        &self.host
    }

    /// Whether the isolate's host was alive when last heard of.
    pub fn host_is_alive(&self) -> bool {
        self.host.is_alive()
    }

    /// Ends the isolate now, whatever it does; if it does not end by itself, its host is killed.
    pub fn kill(&mut self) {
        let Some((health, runtime)) = self.close() else { return };
        let host = self.host.clone();
        host.ending.send_modify(|ending| *ending += 1);
        runtime.spawn(async move {
            if timeout(busy_time(host.agent), health.verdict()).await.is_err() {
                kill_host(&host);
            }
            host.ending.send_modify(|ending| *ending -= 1);
        });
    }

    /// Tells the isolate to end. None if it was told before, or has ended, or nobody is left to see to it.
    fn close(&mut self) -> Option<(Arc<Health>, Handle)> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        self.host.send(Kind::Close, &Close { isolate: self.id }).ok()?;
        let health = lock(&self.host.isolates).get(&self.id).cloned()?;
        Some((health, Handle::try_current().ok()?))
    }
}

impl Drop for IsolateHandle {
    fn drop(&mut self) {
        let Some((health, runtime)) = self.close() else { return };
        let host = self.host.clone();
        runtime.spawn(async move {
            let mut left = QUIET_TIME;
            while !left.is_zero() {
                let since = Instant::now();
                if timeout(PIECE, health.verdict()).await.is_ok() {
                    return;
                }
                // In CPython 3.11 an invocation that computes keeps all else in its process waiting. Its own time is bounded, and does not count here.
                if !host.memory.is_busy_since(since) {
                    left = left.saturating_sub(PIECE);
                }
            }
            kill_host(&host);
        });
    }
}

fn kill_host(host: &LanguageHost) {
    tracing::warn!(language = %host.agent, "an isolate could not be ended alone: its host is killed");
    host.kill();
}
