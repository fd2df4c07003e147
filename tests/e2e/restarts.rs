//! What outlives Hydra, and what does not.

use serde_json::json;

use crate::processes::descendants;
use crate::world::{Cell, PYTHON, World, expect, options_in, sleep, until};

#[tokio::test(flavor = "multi_thread")]
async fn registering_again_after_a_restart_downloads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(options_in(folder.path())).await;
    let cells = world.cells().await;
    for cell in &cells {
        let name = world.register(cell, "kept", |_| {}).await;
        world.result(&name, &json!({})).await;
        world.checkpointed(&name).await;
    }
    let World { server, code, .. } = world;
    server.stop().await.unwrap();
    let paths: Vec<String> = cells.iter().map(|cell| format!("/{}", cell.language.kit)).collect();
    let downloads = |paths: &[String]| paths.iter().map(|path| code.downloads(path)).collect::<Vec<_>>();
    let before = downloads(&paths);
    assert!(before.iter().all(|count| *count == 1), "{before:?}");

    let server = hydra_harness::Server::start(options_in(folder.path())).await.unwrap();
    let client = hydra_harness::Client::new(server.base());
    let world = World { server, client, code };
    for cell in &cells {
        // Functions are registered anew by their clients.
        expect(&world.call(&cell.name("kept"), &json!({})).await, 404);
        let name = world.register(cell, "kept", |_| {}).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, cell.new_count(1));
    }
    let after: Vec<_> = paths.iter().map(|path| world.code.downloads(path)).collect();
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_have_the_time_zone_that_hydra_was_started_with() {
    let folder = tempfile::tempdir().unwrap();
    for zone in ["ABC", "DEF"] {
        let env = vec![("TZ".into(), format!("{zone}-5").into())];
        let world = World::with(hydra_harness::ServerOptions { env, ..options_in(folder.path()) }).await;
        for cell in world.cells().await.into_iter().filter(|cell| cell.language.name == "python") {
            let name = world.register(&cell, "zone", |_| {}).await;
            for _ in 0..2 {
                assert_eq!(world.result(&name, &json!({"do": "zone"})).await, zone, "{cell:?}");
                world.checkpointed(&name).await;
            }
        }
        world.server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_invocations_end_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(options_in(folder.path())).await;
    let (mut running, mut processes) = (Vec::new(), 0);
    for cell in world.cells().await {
        processes += usize::from(cell.kind != "snapshot");
        let name = world.register(&cell, "last", |_| {}).await;
        world.result(&name, &json!({})).await;
        world.checkpointed(&name).await;
        let client = world.client.clone();
        let of = name.clone();
        running.push(tokio::spawn(async move { client.invoke(&of, &sleep(1500).to_string()).await }));
        world.wait_until_busy(&name, 1).await;
    }
    let children = descendants(world.pid());
    assert!(children.len() >= processes, "{children:?}");
    let log = world.server.stop().await.unwrap();
    for invocation in running {
        assert_eq!(crate::world::result(&invocation.await.unwrap().unwrap()), "slept");
    }
    let left: Vec<_> =
        children.iter().filter(|child| child.is_alive()).map(|child| child.command()).collect();
    assert!(left.is_empty(), "{left:?}\n{log}");
    let run: Vec<_> = std::fs::read_dir(folder.path().join("run")).unwrap().collect();
    assert!(run.is_empty(), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_invocations_as_long_as_it_is_told() {
    let busy = async |stop_time: &str| {
        let world = World::start(&["--stop-time", stop_time]).await;
        let language = world.languages(&[PYTHON]).await.pop()?;
        let cell = Cell { kind: "process", language };
        let name = world.register(&cell, "long", |r| r.timeout = Some(1_000_000)).await;
        let client = world.client.clone();
        let of = name.clone();
        tokio::spawn(async move { client.invoke(&of, &sleep(1_000_000).to_string()).await });
        world.wait_until_busy(&name, 1).await;
        Some(world)
    };
    let Some(world) = busy("1").await else { return };
    let log = world.server.stop().await.unwrap();
    assert!(log.contains("did not end in time"), "{log}");

    // Told a second time it waits no longer.
    let Some(world) = busy("10000000").await else { return };
    let pid = nix::unistd::Pid::from_raw(world.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    until("it to stop", async || world.server.log().contains("stopping")).await;
    let log = world.server.stop().await.unwrap();
    assert!(log.contains("told to stop again: running invocations"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hydra_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(options_in(folder.path())).await;
    let cells = world.cells().await;
    for cell in &cells {
        let name = world.register(cell, "orphan", |_| {}).await;
        world.result(&name, &json!({})).await;
        world.checkpointed(&name).await;
    }
    for cell in &cells {
        let (client, name) = (world.client.clone(), cell.name("orphan"));
        let of = name.clone();
        // Busy without end when Hydra dies: once all are there, as they leave the others little.
        tokio::spawn(async move { client.invoke(&of, r#"{"do": "loop"}"#).await });
        world.wait_until_busy(&name, 1).await;
    }
    let children = descendants(world.pid());
    let pid = nix::unistd::Pid::from_raw(world.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    until("the children of the killed Hydra to end", async || !children.iter().any(|child| child.is_alive()))
        .await;

    // Another one takes over the folder, and cleans up.
    drop(world);
    let world = World::with(options_in(folder.path())).await;
    let run: Vec<_> = std::fs::read_dir(folder.path().join("run")).unwrap().collect();
    assert_eq!(run.len(), 1, "{run:?}");
    for cell in &cells {
        let name = world.register(cell, "orphan", |_| {}).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, cell.new_count(1));
    }
}
