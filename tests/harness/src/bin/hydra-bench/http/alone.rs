//! What is measured while nothing else runs: first calls and memory. Pages that two servers share would count half for each.

use std::time::{Duration, Instant};

use hydra_harness::{Server, ServerOptions};

use super::peers::{self, Places};
use super::subject::{self, Hydra, Kind, Subject, call, round};
use super::work;
use crate::statistics::median;
use crate::{Failure, memory};

/// What was measured of one subject. Memory in bytes, where it can be read.
#[derive(Debug, Clone, Copy)]
pub struct Alone {
    /// Median time to a first answer in ms: of a function new to a running Hydra, from its registration on; of another server, from
    /// its start on.
    pub first_call: f64,
    /// With one function that has answered once.
    pub memory: Option<f64>,
    /// After some load on 8 connections.
    pub after_load: Option<f64>,
    /// What one more idle instance of a function costs Hydra.
    pub instance: Option<f64>,
}

/// Measures `subject` with so many first calls, and load for so long.
///
/// # Errors
/// Why it does not run here.
pub async fn measure(
    subject: &Subject,
    places: &Places,
    code: &str,
    first_calls: u32,
    load: Duration,
) -> Result<Alone, Failure> {
    match subject.kind {
        Kind::Hydra(sandbox) => of_hydra(subject.language, sandbox, code, first_calls, load).await,
        Kind::Peer(spec) => of_peer(spec, places, first_calls, load).await,
    }
}

async fn of_hydra(
    language: &str,
    sandbox: &str,
    code: &str,
    first_calls: u32,
    load: Duration,
) -> Result<Alone, Failure> {
    let hydra = Hydra::new(Server::start(ServerOptions::default()).await?, code)?;
    let pid = hydra.server.pid().ok_or("Hydra ended")?;
    // The first of all waits for the language's host, too: it is not the one that is measured.
    add(&hydra, "first", language, sandbox).await?;
    let one = idle(pid, language).await;
    let mut times = Vec::new();
    for n in 0..first_calls {
        times.push(add(&hydra, &format!("more-{n}"), language, sandbox).await?);
        // What was used up is made anew in the background: the next call is not to meet that.
        memory::at_rest(pid).await;
    }
    let last = idle(pid, language).await;
    let instance = one.zip(last).map(|(one, last)| (last as f64 - one as f64) / f64::from(first_calls));
    round(hydra.target("first", "hello"), 8, load).await?;
    let after_load = memory::proportional(pid);
    hydra.server.stop().await?;
    Ok(Alone {
        first_call: median(times),
        memory: one.map(|bytes| bytes as f64),
        after_load: after_load.map(|bytes| bytes as f64),
        instance,
    })
}

/// The proportional set size of a process and all that it started, idle.
async fn idle(pid: u32, language: &str) -> Option<u64> {
    Some(memory::idle(pid, language).await?.proportional)
}

/// Registers a function and calls it once; the time of both in ms.
async fn add(hydra: &Hydra, name: &str, language: &str, sandbox: &str) -> Result<f64, Failure> {
    let begun = Instant::now();
    hydra.register(name, language, sandbox, "hello").await?;
    let answer = call(hydra.target(name, "hello")).await?;
    let time = begun.elapsed();
    work::check("hello", &answer)?;
    Ok(time.as_secs_f64() * 1e3)
}

async fn of_peer(
    spec: &'static peers::Spec,
    places: &Places,
    first_calls: u32,
    load: Duration,
) -> Result<Alone, Failure> {
    let mut times = Vec::new();
    for _ in 1..first_calls {
        let (peer, _) = subject::start(spec, places).await?;
        times.push(peer.first_answer.as_secs_f64() * 1e3);
    }
    let (peer, address) = subject::start(spec, places).await?;
    times.push(peer.first_answer.as_secs_f64() * 1e3);
    let memory = idle(peer.pid(), spec.language).await;
    round(subject::peer_target(address, "hello"), 8, load).await?;
    Ok(Alone {
        first_call: median(times),
        memory: memory.map(|bytes| bytes as f64),
        after_load: memory::proportional(peer.pid()).map(|bytes| bytes as f64),
        instance: None,
    })
}
