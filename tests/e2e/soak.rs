//! Many requests to one copy of a snapshot: nothing may grow. They take long: `tests/bench/soak.sh COUNT` runs them.

use std::fs;

use hydra_harness::Registration;
use serde_json::json;

use crate::world::{JAVA, JAVASCRIPT, Language, PYTHON, World, expect};

/// The environment variable that says how many requests.
const COUNT: &str = "HYDRA_SOAK_REQUESTS";

/// Samples are taken so many times; the first ones are warming up.
const SAMPLES: u32 = 10;

/// Most bytes by which memory may differ between two samples: what a garbage collector leaves for later.
const MEMORY_NOISE: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn python() {
    nothing_grows(&PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn javascript() {
    nothing_grows(&JAVASCRIPT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn java() {
    nothing_grows(&JAVA).await;
}

/// What Hydra's process holds.
#[derive(Debug)]
struct Sample {
    memory: u64,
    descriptors: usize,
    threads: usize,
}

impl Sample {
    fn of(pid: u32) -> Sample {
        let entries = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        Sample {
            memory: crate::snapshots::private_memory(pid),
            descriptors: entries("fd"),
            threads: entries("task"),
        }
    }
}

async fn nothing_grows(language: &Language) {
    let requests: u32 =
        std::env::var(COUNT).map_or(20_000, |text| text.parse().expect("HYDRA_SOAK_REQUESTS is a number"));
    let world = World::start(&[]).await;
    if !world.kinds().await.contains(&"snapshot") || world.languages(&[*language]).await.is_empty() {
        return;
    }
    let (file, entry_point) = language.snapshots;
    let registration = Registration {
        url: world.code.url(file),
        entry_point: Some(entry_point.into()),
        concurrency: Some(1),
        ..world.registration("f", language, "snapshot")
    };
    expect(&world.client.register(&registration).await.unwrap(), 200);
    world.result("f", &json!({})).await;
    world.checkpointed("f").await;
    // What is registered now begins with a copy.
    world.deregister("f").await;
    expect(&world.client.register(&registration).await.unwrap(), 200);
    let first = world.call("f", &json!({})).await;
    assert_eq!(first.start_kind().as_deref(), Some("restore"));

    let mut samples = Vec::new();
    let (each, mut count) = (requests / SAMPLES, 2);
    for _ in 0..SAMPLES {
        // Random numbers, keys, threads; then many that do little.
        world.result("f", &json!({"do": "identity"})).await;
        expect(&world.client.stress("f", "{}", 1, each).await.unwrap(), 200);
        count += 1 + each;
        samples.push(Sample::of(world.pid()));
    }
    for sample in &samples {
        eprintln!(
            "{}: {} MiB, {} descriptors, {} threads",
            language.name,
            sample.memory >> 20,
            sample.descriptors,
            sample.threads
        );
    }
    // One and the same copy has served them all.
    assert_eq!(world.result("f", &json!({})).await, (count + 1).to_string());
    let (warm, end) = (&samples[samples.len() / 2], samples.last().unwrap());
    assert!(end.memory <= warm.memory + MEMORY_NOISE, "{samples:?}");
    assert!(end.descriptors <= warm.descriptors + 2, "{samples:?}");
    assert!(end.threads <= warm.threads + 2, "{samples:?}");
}
