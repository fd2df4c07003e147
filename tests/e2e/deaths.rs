//! Agents and language hosts that are killed in the middle of requests.

use hydra_harness::Reply;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::processes::{Process, agents, descendants};
use crate::world::{Cell, World, expect, expect_error, result, sleep, until};

/// An invocation that has begun: the function itself says so.
async fn begin(world: &World, name: &str, ms: u64) -> JoinHandle<Reply> {
    let begun = || {
        let log = world.server.log();
        log.lines().filter(|line| line.contains(&format!("\"{name}\"")) && line.contains("sleeps")).count()
    };
    let before = begun();
    let (client, of) = (world.client.clone(), name.to_owned());
    let running = tokio::spawn(async move { client.invoke(&of, &sleep(ms).to_string()).await.unwrap() });
    until(&format!("{name} to begin"), async || begun() > before).await;
    running
}

/// The cells whose functions run in processes of their own or of their language: a microVM can only be ended from inside.
async fn cells(world: &World) -> Vec<Cell> {
    world.cells().await.into_iter().filter(|cell| cell.kind != "snapshot").collect()
}

/// The processes in which the functions of a cell run.
fn homes(world: &World, cell: &Cell) -> Vec<Process> {
    let mode = match cell.kind {
        "isolate" => "--host",
        "snapshot-process" => "jail-vmm",
        _ => "--function",
    };
    agents(world.pid(), mode)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_sandbox_is_killed_gets_502_and_the_next_succeeds() {
    for cell in cells(&World::start(&[]).await).await {
        // A server of its own: its agents are this language's.
        let world = World::start(&[]).await;
        let name = world.register(&cell, "victim", |_| {}).await;
        for round in 0..2 {
            let count = if round == 0 { "1".to_owned() } else { cell.new_count(1) };
            assert_eq!(world.result(&name, &json!({"do": "count"})).await, count, "{cell:?}");
            world.checkpointed(&name).await;
            let running = begin(&world, &name, 60_000).await;
            let victims = match (round, cell.kind) {
                // In the second round the jail's own init.
                (1, "process" | "snapshot-process") => inits(&world),
                _ => homes(&world, &cell),
            };
            assert!(!victims.is_empty(), "{cell:?}");
            victims.iter().for_each(Process::kill);
            expect_error(&running.await.unwrap(), 502, "died", "ended before it answered");
        }
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, cell.new_count(1), "{cell:?}");
        let described = world.describe(&name).await;
        assert_eq!(described["failures"], 2, "{cell:?}");
        assert_eq!(described["sandboxes"]["busy"], 0, "{cell:?}");
        world.deregister(&name).await;
        world.server.stop().await.unwrap();
    }
}

fn inits(world: &World) -> Vec<Process> {
    descendants(world.pid()).into_iter().filter(|process| process.command().contains("jail-init")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_had_begun_in_a_killed_host_is_lost() {
    let world = World::start(&[]).await;
    for cell in cells(&world).await {
        let one = world.register(&cell, "one", |registration| registration.concurrency = Some(1)).await;
        let other = world.register(&cell, "other", |_| {}).await;
        for name in [&one, &other] {
            world.result(name, &json!({})).await;
        }
        let running = [begin(&world, &one, 60_000).await, begin(&world, &other, 60_000).await];
        // Waits behind the first for the only sandbox.
        let (client, of) = (world.client.clone(), one.clone());
        let waiting = tokio::spawn(async move { client.invoke(&of, &sleep(1).to_string()).await.unwrap() });
        until("a request to wait", async || world.sandboxes(&one, "waiting").await == 1).await;

        // Stopped before the first is killed: none of them is to begin with the request that waits, and be killed at that.
        let victims = homes(&world, &cell);
        for victim in &victims {
            victim.stop().await;
        }
        victims.iter().for_each(Process::kill);
        for invocation in running {
            expect_error(&invocation.await.unwrap(), 502, "died", "ended before it answered");
        }
        assert_eq!(result(&waiting.await.unwrap()), "slept", "{cell:?}");
        for name in [&one, &other] {
            world.result(name, &json!({})).await;
            world.deregister(name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_sandbox_never_read_is_tried_again() {
    for cell in cells(&World::start(&[]).await).await {
        let world = World::start(&[]).await;
        let name = world.register(&cell, "stopped", |_| {}).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, "1");
        world.checkpointed(&name).await;
        let victims = homes(&world, &cell);
        assert!(!victims.is_empty(), "{cell:?}");
        for victim in &victims {
            victim.stop().await;
        }
        let (client, of) = (world.client.clone(), name.clone());
        let sent = tokio::spawn(async move { client.invoke(&of, r#"{"do": "count"}"#).await.unwrap() });
        world.wait_until_busy(&name, 1).await;
        victims.iter().for_each(Process::kill);
        assert_eq!(result(&sent.await.unwrap()), cell.new_count(1), "{cell:?}");
        assert_eq!(world.describe(&name).await["failures"], 0, "{cell:?}");
        world.server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_makes_no_isolates_any_more_is_replaced() {
    let world = World::start(&[]).await;
    let cells: Vec<_> = cells(&world).await.into_iter().filter(|cell| cell.kind == "isolate").collect();
    for cell in &cells {
        let name = world.register(cell, "first", |_| {}).await;
        world.result(&name, &json!({})).await;
    }
    let hosts = agents(world.pid(), "--host");
    for host in &hosts {
        host.stop().await;
    }
    let invoked = cells.iter().map(async |cell| {
        // Of another size than those that were made ahead.
        let name = world.register(cell, "second", |registration| registration.memory = Some(192)).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, "1", "{cell:?}");
    });
    futures_util::future::join_all(invoked).await;
    assert!(!hosts.iter().any(Process::is_alive));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_exits_costs_its_own_requests_only() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let other = world.register(&cell, "other", |_| {}).await;
        let name = world.register(&cell, "exits", |_| {}).await;
        assert_eq!(world.result(&other, &json!({"do": "count"})).await, "1");
        for _ in 0..2 {
            let reply = world.call(&name, &json!({"do": "exit"})).await;
            // Where the language has it so, an exit is an exception.
            assert!(matches!(reply.status.as_u16(), 500 | 502), "{cell:?}: {}", reply.body);
            expect(&world.call(&name, &json!({})).await, 200);
        }
        assert_eq!(world.result(&other, &json!({"do": "count"})).await, "2", "{cell:?}");
    }
}
