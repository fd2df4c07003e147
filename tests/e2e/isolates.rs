//! Isolates that are made ahead of need.

use hydra_harness::Registration;
use serde_json::json;

use crate::world::{JAVASCRIPT, Language, PYTHON, World, expect, until};

/// The number of the isolate that answers the first invocation of a new function: each that is made has a higher one.
async fn number(world: &World, name: &str, language: &Language, memory: Option<u64>) -> u32 {
    let (file, entry_point) = match language.name {
        "python" => ("number.py", "number.main"),
        _ => ("number.js", "main"),
    };
    let registration = Registration {
        url: world.code.url(file),
        entry_point: Some(entry_point.into()),
        memory,
        ..world.registration(name, language, "isolate")
    };
    expect(&world.client.register(&registration).await.expect("a reply"), 200);
    world.result(name, &json!({})).await.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_there_before_its_function_is() {
    for ahead in [true, false] {
        let world = World::start(&["--ahead", if ahead { "true" } else { "false" }]).await;
        for language in world.languages(&[PYTHON, JAVASCRIPT]).await {
            number(&world, "first", &language, None).await;
            // One that is made for a function of another size is younger than the one that waits for whoever comes.
            let is_kept = async |world: &World| {
                let other = number(world, "other", &language, Some(192)).await;
                let usual = number(world, "usual", &language, None).await;
                for name in ["other", "usual"] {
                    world.deregister(name).await;
                }
                usual < other
            };
            match ahead {
                true => {
                    until("an isolate that is older than its function", async || is_kept(&world).await).await
                }
                false => {
                    for _ in 0..5 {
                        assert!(!is_kept(&world).await, "{}: made ahead", language.name);
                    }
                }
            }
            world.deregister("first").await;
        }
    }
}
