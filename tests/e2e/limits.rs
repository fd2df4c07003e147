//! Time, memory and the number of sandboxes: limits that hold, and harm nobody else.

use serde_json::json;

use crate::processes::{held, settled};
use crate::world::{Cell, LANGUAGES, Language, World, expect, expect_error, json, result, sleep, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_function_over_its_time_is_stopped() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let other = world.register(&cell, "other", |_| {}).await;
        assert_eq!(world.result(&other, &json!({"do": "count"})).await, "1");
        let name = world.register(&cell, "late", |registration| registration.timeout = Some(400)).await;
        let mut first = "1".to_owned();
        for arguments in [json!({"do": "loop"}), sleep(100_000)] {
            assert_eq!(world.result(&name, &json!({"do": "count"})).await, first, "{cell:?}");
            world.checkpointed(&name).await;
            first = cell.new_count(1);
            let reply = world.call(&name, &arguments).await;
            expect_error(&reply, 504, "timeout", "its timeout of 400 ms");
            assert!(reply.elapsed < crate::world::PATIENCE / 2, "{cell:?}: {:?}", reply.elapsed);
        }
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, first, "{cell:?}");
        let count = world.result(&other, &json!({"do": "count"})).await;
        // A language host that had to be killed took the other's state with it, but nothing more.
        let alone =
            cell.kind != "isolate" || cell.language.name == "javascript" || stops_threads(&world, &cell);
        assert!(count == "2" || (count == "1" && !alone), "{cell:?}: {count}");
        for name in [name, other] {
            world.deregister(&name).await;
        }
    }
}

/// Whether it is a Java that can stop a thread: before 20.
fn stops_threads(world: &World, cell: &Cell) -> bool {
    let log = world.server.log();
    let found = log.lines().find(|line| line.contains("runtime found") && line.contains("language=java "));
    let version =
        found.filter(|_| cell.language.name == "java").and_then(|line| line.split("version=").nth(1));
    let digits = version.unwrap_or_default().trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 20)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_never_stops_sending_is_stopped() {
    let world = World::start(&[]).await;
    // In an isolate the channel is not its function's alone.
    let own = |cell: &Cell| cell.language.name == "python" && cell.kind != "isolate";
    for cell in world.cells().await.into_iter().filter(own) {
        let other = world.register(&cell, "other", |_| {}).await;
        let name = world.register(&cell, "babbler", |registration| registration.timeout = Some(400)).await;
        let babble = json!({"do": "babble"});
        let babbled = (0..8).map(|_| world.call(&name, &babble));
        for reply in futures_util::future::join_all(babbled).await {
            expect_error(&reply, 504, "timeout", "its timeout of 400 ms");
        }
        assert_eq!(world.result(&other, &json!({"do": "count"})).await, "1", "{cell:?}");
        for name in [name, other] {
            world.deregister(&name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_over_its_memory_is_stopped() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let other = world.register(&cell, "other", |_| {}).await;
        world.result(&other, &json!({})).await;
        let name = world.register(&cell, "greedy", |registration| registration.memory = Some(160)).await;
        for what in ["hog", "hog outside"] {
            let fits = json!({"do": what, "mib": 20});
            assert_eq!(world.result(&name, &fits).await, "held", "{cell:?} {what}");
            let reply = world.call(&name, &json!({"do": what, "mib": 1500, "hold": 60_000})).await;
            expect(&reply, 502);
            assert_eq!(json(&reply.body)["kind"], "out_of_memory", "{cell:?} {what}: {}", reply.body);
            assert!(reply.body.contains("160 MiB"), "{}", reply.body);
            assert_eq!(world.result(&name, &fits).await, "held", "{cell:?} {what}");
        }
        world.result(&other, &json!({})).await;
        for name in [name, other] {
            world.deregister(&name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_memory_are_memory_of_the_function() {
    let world = World::start(&[]).await;
    // An isolate shares its process with others; in a microVM such a file has no more room than there is RAM.
    let own = |cell: &Cell| cell.language.name == "python" && cell.kind == "process";
    for cell in world.cells().await.into_iter().filter(own) {
        let name = world.register(&cell, "greedy", |registration| registration.memory = Some(160)).await;
        let fits = json!({"do": "hog files", "mib": 20});
        assert_eq!(world.result(&name, &fits).await, "held", "{cell:?}");
        let reply = world.call(&name, &json!({"do": "hog files", "mib": 1500, "hold": 60_000})).await;
        expect_error(&reply, 502, "out_of_memory", "160 MiB");
        assert_eq!(world.result(&name, &fits).await, "held", "{cell:?}");
        world.deregister(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_sandboxes_than_the_function_may_have() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        for fresh in [false, true] {
            let name =
                world.register(&cell, "bounded", |registration| registration.concurrency = Some(2)).await;
            let callers: Vec<_> = (0..6)
                .map(|_| {
                    let (client, name) = (world.client.clone(), name.clone());
                    let arguments = sleep(400).to_string();
                    tokio::spawn(async move {
                        match fresh {
                            true => client.invoke_fresh(&name, &arguments).await.unwrap(),
                            false => client.invoke(&name, &arguments).await.unwrap(),
                        }
                    })
                })
                .collect();
            let mut most = 0;
            until("all callers are answered", async || {
                let sandboxes = &world.describe(&name).await["sandboxes"];
                let count = |state: &str| sandboxes[state].as_u64().unwrap();
                most = most.max(count("idle") + count("busy") + count("starting"));
                callers.iter().all(|caller| caller.is_finished())
            })
            .await;
            assert_eq!(most, 2, "{cell:?}, fresh: {fresh}");
            for caller in callers {
                assert_eq!(result(&caller.await.unwrap()), "slept");
            }
            world.deregister(&name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_sandbox_keeps_its_state_and_a_fresh_one_has_none() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "state", |_| {}).await;
        let count = json!({"do": "count"});
        for expected in 1..4 {
            let reply = world.call(&name, &count).await;
            assert_eq!(result(&reply), expected.to_string(), "{cell:?}");
            assert_eq!(
                reply.start_kind().as_deref(),
                Some(if expected == 1 { cell.first_start() } else { "warm" })
            );
            world.checkpointed(&name).await;
            let reply = world.call_fresh(&name, &count).await;
            // A copy that was put back is as good as a new one.
            let start = reply.start_kind().unwrap().replace("reset", "restore");
            assert_eq!((result(&reply), start), (cell.new_count(1), cell.new_start().to_owned()), "{cell:?}");
        }
        assert_eq!(world.sandboxes(&name, "idle").await, 1, "{cell:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sandboxes_are_let_go() {
    let world = World::start(&["--idle-time", "300"]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "idle", |_| {}).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, "1");
        world.checkpointed(&name).await;
        until("the idle sandbox to go", async || world.sandboxes(&name, "idle").await == 0).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, cell.new_count(1), "{cell:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_started_ends_with_its_sandbox() {
    for cell in World::start(&[]).await.cells().await {
        let world = World::start(&[]).await;
        let other = world.register(&cell, "other", |_| {}).await;
        let name = world.register(&cell, "quiet", |_| {}).await;
        for name in [&name, &other] {
            world.result(name, &json!({})).await;
        }
        world.deregister(&name).await;
        let before = settled(world.pid()).await;
        let name = world.register(&cell, "busy", |_| {}).await;
        assert_eq!(world.result(&name, &json!({"do": "background"})).await, "started", "{cell:?}");
        until("the background to run", async || world.result(&name, &json!({"do": "ticks"})).await != "0")
            .await;
        world.deregister(&name).await;
        until(&format!("{cell:?}: what ran in the background to end, {before:?}"), async || {
            let now = held(world.pid());
            now.threads <= before.threads + slack(&cell) && now.processes <= before.processes
        })
        .await;
        expect(&world.call(&other, &json!({})).await, 200);
        world.server.stop().await.unwrap();
    }
}

// It has the time for loading, as others may be served by the same host.
#[tokio::test(flavor = "multi_thread")]
async fn what_loads_for_ever_ends_though_nobody_waits_for_it() {
    let languages = World::start(&[]).await.languages(&LANGUAGES).await;
    futures_util::future::join_all(languages.into_iter().map(load_for_ever)).await;
}

async fn load_for_ever(language: Language) {
    let world = World::start(&[]).await;
    let cell = Cell { kind: "isolate", language };
    let other = world.register(&cell, "other", |_| {}).await;
    world.result(&other, &json!({})).await;
    let (file, entry_point) = match language.name {
        "python" => ("endless.py", "endless.main"),
        "javascript" => ("endless.js", "main"),
        _ => ("Endless.jar", "Endless"),
    };
    let url = world.code.url(file);
    let name = world
        .register(&cell, "endless", |registration| {
            registration.url = url;
            registration.entry_point = Some(entry_point.into());
            // None that is kept ahead: what is held is to be less once it has ended.
            registration.memory = Some(192);
        })
        .await;
    let before = settled(world.pid()).await;
    let (client, of) = (world.client.clone(), name.clone());
    let request = tokio::spawn(async move { client.invoke_fresh(&of, "{}").await });
    until(&format!("{cell:?}: its code to be loaded"), async || {
        world.server.log().lines().any(|line| line.contains(&format!("\"{name}\"")) && line.contains("loads"))
    })
    .await;
    request.abort();
    until(&format!("{cell:?}: what was loaded to end, {before:?}"), async || {
        let now = held(world.pid());
        now.threads <= before.threads + slack(&cell) && now.processes <= before.processes
    })
    .await;
    // Hydra may not have noticed yet that the host is another.
    until(&format!("{cell:?}: the other to be served"), async || {
        world.call(&other, &json!({})).await.status == 200
    })
    .await;
    world.server.stop().await.unwrap();
}

/// Threads that a runtime may start of its own accord meanwhile: the JVM's compilers and collectors.
fn slack(cell: &Cell) -> usize {
    if cell.language.name == "java" { 3 } else { 0 }
}
