//! Many instances of one function, all at once: the function holds each of its callers for a while.

use std::time::{Duration, Instant};

use hydra_harness::{Registration, Server, ServerOptions};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::http::subject::Hydra;
use crate::http::work;
use crate::load::Target;
use crate::memory::{self, Size};
use crate::{Failure, say};

/// Its name.
const NAME: &str = "held";
/// Most seconds that an instance is held.
const MOST: f64 = 45.0;
/// How long a snapshot may take, and Hydra to have everything idle.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Hydra with one function, in any number of instances.
pub struct Fleet {
    pub hydra: Hydra,
    work: &'static str,
    language: &'static str,
    pid: u32,
    /// What a start takes, in seconds.
    start: f64,
}

/// What a fleet occupies, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Occupied {
    pub size: Size,
    /// Page tables that KVM keeps for guests on the whole machine: no process' memory shows them.
    pub page_tables: u64,
}

#[derive(Deserialize)]
struct Description {
    sandboxes: Sandboxes,
    snapshot: Option<Snapshot>,
}

#[derive(Deserialize)]
struct Sandboxes {
    idle: u32,
    busy: u32,
    starting: u32,
}

#[derive(Deserialize)]
struct Snapshot {
    state: String,
}

impl Fleet {
    /// Starts a Hydra with a function that has answered twice, once in a sandbox made for it: if it has a snapshot, that is there.
    pub async fn start(
        language: &'static str,
        sandbox: &str,
        work: &'static str,
        code: &str,
        most: u32,
    ) -> Result<Fleet, Failure> {
        let args = vec!["--max-requests".into(), (most + 64).to_string().into()];
        let server = Server::start(ServerOptions { args, ..ServerOptions::default() }).await?;
        let pid = server.pid().ok_or("Hydra ended")?;
        let hydra = Hydra::new(server, code)?;
        let (file, entry_point) = work::code(language, "hold");
        let registration = Registration {
            name: NAME.to_owned(),
            url: format!("{code}/{file}"),
            language: language.to_owned(),
            entry_point: Some(entry_point),
            sandbox: Some(sandbox.to_owned()),
            concurrency: Some(most),
            ..Registration::default()
        };
        hydra.client.register(&registration).await?.success()?;
        let mut fleet = Fleet { hydra, work, language, pid, start: 0.0 };
        let arguments = work::arguments(work);
        let reply = fleet.hydra.client.invoke(NAME, &arguments).await?;
        work::check(work, &reply.body)?;
        fleet.at_rest().await?;
        let begun = Instant::now();
        fleet.hydra.client.invoke_fresh(NAME, &arguments).await?.success()?;
        fleet.start = begun.elapsed().as_secs_f64();
        fleet.at_rest().await?;
        Ok(fleet)
    }

    /// Has `count` instances at the same time, and says how many there are afterwards, idle.
    pub async fn grow(&self, count: u32) -> Result<u32, Failure> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        // Twice what all their starts take, and what the last of them takes under that load.
        let hold = (1.0 + 2.0 * self.start * f64::from(count) / cpus).min(MOST);
        let mut arguments: Value = serde_json::from_str(&work::arguments(self.work))?;
        arguments["hold"] = hold.into();
        let arguments = arguments.to_string();
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let (client, arguments) = (self.hydra.client.clone(), arguments.clone());
            calls.spawn(async move { client.invoke(NAME, &arguments).await?.success() });
        }
        let mut refused = None;
        while let Some(call) = calls.join_next().await {
            if let Err(error) = call? {
                refused.get_or_insert(error);
            }
        }
        let idle = self.at_rest().await?;
        if let Some(error) = refused
            && idle < count
        {
            say(&format!("only {idle} of {count} instances: {error}"));
        }
        Ok(idle)
    }

    /// Calls of the function that hold nobody.
    pub fn target(&self) -> Target {
        self.hydra.target(NAME, self.work)
    }

    /// What all of it occupies, at rest; `None` where that cannot be read.
    pub async fn occupied(&self) -> Option<Occupied> {
        Some(Occupied::with(memory::at_rest(self.pid).await?))
    }

    /// As [`occupied`](Self::occupied), once the instances have been idle for some seconds.
    pub async fn idle(&self) -> Option<Occupied> {
        Some(Occupied::with(memory::idle(self.pid, self.language).await?))
    }

    /// Ends it.
    pub async fn stop(self) -> Result<(), Failure> {
        self.hydra.server.stop().await?;
        Ok(())
    }

    /// Waits until nothing runs, starts or is being made; how many instances are idle then.
    async fn at_rest(&self) -> Result<u32, Failure> {
        let begun = Instant::now();
        loop {
            let reply = self.hydra.client.get(&format!("/functions/{NAME}")).await?.success()?;
            let now: Description = serde_json::from_str(&reply.body)?;
            let making = now.snapshot.is_some_and(|snapshot| snapshot.state == "being made");
            if now.sandboxes.busy + now.sandboxes.starting == 0 && !making {
                return Ok(now.sandboxes.idle);
            }
            if begun.elapsed() > PATIENCE {
                return Err("Hydra does not come to rest".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Occupied {
    fn with(size: Size) -> Occupied {
        Occupied { size, page_tables: memory::guest_page_tables() }
    }

    /// What each of `count` instances more has added since `before`.
    pub fn each(&self, before: Occupied, count: u32) -> [f64; 3] {
        let of = |now: u64, then: u64| (now as f64 - then as f64) / f64::from(count.max(1));
        [
            of(self.size.proportional, before.size.proportional),
            of(self.size.own, before.size.own),
            of(self.page_tables, before.page_tables),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_divided() {
        let at = |proportional, own, page_tables| Occupied { size: Size { proportional, own }, page_tables };
        assert_eq!(at(50, 30, 9).each(at(10, 10, 1), 4), [10.0, 5.0, 2.0]);
    }
}
