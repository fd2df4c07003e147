//! The example functions: the same results in each sandbox, cold, warm and fresh.

use hydra_harness::{Example, Registration};

use crate::world::{World, expect, result, skip};
use hydra_harness::CodeServer;

#[tokio::test(flavor = "multi_thread")]
async fn every_example_gives_the_same_in_each_sandbox() {
    let world = World::start(&[]).await;
    let artifacts = CodeServer::start(hydra_harness::paths::examples_out()).await.unwrap();
    let examples = hydra_harness::examples().unwrap();
    assert!(examples.len() >= 16, "{} examples", examples.len());
    for example in examples {
        if !hydra_harness::paths::examples_out().join(&example.artifact).is_file() {
            skip(&example.name, "it is not built: examples/build.sh");
            continue;
        }
        let mut results = Vec::new();
        for kind in world.kinds().await {
            eprintln!("{} in {kind}", example.name);
            results.extend(run(&world, &example, kind, artifacts.base()).await);
        }
        let same = results.iter().all(|other| *other == results[0]);
        assert!(same, "{}: {results:#?}", example.name);
    }
}

/// Its results: of the first call, a warm one, and one in a fresh sandbox.
async fn run(world: &World, example: &Example, kind: &str, base: &str) -> Vec<String> {
    let registration = Registration::of_example(example, base, kind);
    let reply = world.client.register(&registration).await.unwrap();
    if reply.error_kind().as_deref() == Some("unavailable") {
        skip(&example.name, &reply.body);
        return Vec::new();
    }
    expect(&reply, 200);
    let arguments = example.arguments(base);
    let mut results = Vec::new();
    for (number, fresh) in [false, false, true].into_iter().enumerate() {
        let reply = match fresh {
            false => world.client.invoke(&example.name, &arguments).await.unwrap(),
            true => world.client.invoke_fresh(&example.name, &arguments).await.unwrap(),
        };
        let result = result(&reply);
        example.check(&result, base).unwrap_or_else(|error| panic!("{} in {kind}: {error}", example.name));
        world.checkpointed(&example.name).await;
        let starts = if kind.starts_with("snapshot") {
            ["template", "warm", "restore"]
        } else {
            ["cold", "warm", "cold"]
        };
        let start = starts[number];
        assert_eq!(reply.start_kind().as_deref(), Some(start), "{} in {kind}", example.name);
        results.push(result);
    }
    world.deregister(&example.name).await;
    results
}
