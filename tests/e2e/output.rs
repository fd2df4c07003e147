//! What functions print.

use std::time::Instant;

use serde_json::json;

use crate::world::{World, result, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_goes_to_the_log_with_its_functions_name() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "prints", |_| {}).await;
        let text = format!("hello from {name} ü");
        let reply = world.call(&name, &json!({"do": "print", "text": text})).await;
        assert_eq!(result(&reply), "printed");
        assert!(!reply.body.contains("hello"), "{}", reply.body);
        for (stream, printed) in [("stdout", &*text), ("stderr", &*text), ("stdout", "loaded")] {
            let logged = |log: &str| {
                log.lines().any(|line| {
                    line.contains(&format!("function=\"{name}\""))
                        && line.contains(&format!("stream=\"{stream}\""))
                        && line.contains(printed)
                })
            };
            until(&format!("{cell:?}: {printed:?} on {stream} in {}", world.server.log()), async || {
                logged(&world.server.log())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_prints_is_bounded() {
    const LINES: usize = 20_000;
    for cell in World::start(&[]).await.cells().await {
        let world = World::start(&[]).await;
        let name = world.register(&cell, "floods", |_| {}).await;
        world.result(&name, &json!({})).await;
        let started = Instant::now();
        // What the log adds to each line counts too.
        let lines = json!({"do": "print", "text": "\n".repeat(10 * LINES)});
        assert_eq!(world.result(&name, &lines).await, "printed", "{cell:?}");
        let flood = json!({"do": "flood", "lines": LINES});
        assert_eq!(world.result(&name, &flood).await, "flooded", "{cell:?}");
        // The log says so with what is printed next, a second later.
        until(&format!("{cell:?}: the log to tell what it left out"), async || {
            world.result(&name, &json!({"do": "print", "text": "more"})).await;
            world.server.log().contains("output dropped")
        })
        .await;
        // One megabyte a second and sandbox is logged, and what the log adds to each line of a kilobyte.
        let bound = (started.elapsed().as_secs() as usize + 2) * 1_300_000;
        let logged = world.server.log().len();
        assert!(logged < bound, "{cell:?}: {logged} bytes are logged, {bound} may be");
        world.server.stop().await.unwrap();
    }
}
