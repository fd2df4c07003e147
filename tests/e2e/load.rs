//! Many requests: none fails, and afterwards Hydra and its children hold what they held before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hydra_harness::{CodeServer, Example, Registration};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::processes::{held, settled};
use crate::world::{World, expect, skip, until};

const CONNECTIONS: u32 = 32;
const REQUESTS: u32 = 10_000;
/// Connections that may be there now and not before, and last a while: one of the test's client, and one on which
/// Hydra fetched the function.
const KEPT_CONNECTIONS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_leave_nothing_behind() {
    let world = World::start(&["--idle-time", "500"]).await;
    let artifacts = CodeServer::start(hydra_harness::paths::examples_out()).await.unwrap();
    let hello = hydra_harness::examples()
        .unwrap()
        .into_iter()
        .filter(|example| example.name.ends_with("hello-world"));
    for example in hello {
        if !hydra_harness::paths::examples_out().join(&example.artifact).is_file() {
            skip(&example.name, "it is not built: examples/build.sh");
            continue;
        }
        for kind in world.kinds().await {
            // The first round starts what stays: the language host, the spare agent, the threads of their runtimes.
            if !round(&world, &example, kind, artifacts.base(), REQUESTS / 10).await {
                break;
            }
            let before = settled(world.pid()).await;
            round(&world, &example, kind, artifacts.base(), REQUESTS).await;
            until(&format!("{} in {kind} to hold no more than {before:?}", example.name), async || {
                let now = held(world.pid());
                now.processes <= before.processes
                    && now.threads <= before.threads
                    && now.descriptors <= before.descriptors + KEPT_CONNECTIONS
            })
            .await;
        }
    }
}

/// Registers the example, sends it requests, and removes it. False where it cannot run here.
async fn round(world: &World, example: &Example, kind: &str, base: &str, requests: u32) -> bool {
    let reply = world.client.register(&Registration::of_example(example, base, kind)).await.unwrap();
    if reply.error_kind().as_deref() == Some("unavailable") {
        skip(&example.name, &reply.body);
        return false;
    }
    expect(&reply, 200);
    let arguments = example.arguments(base);
    let expected = world.client.invoke(&example.name, &arguments).await.unwrap().invocation().unwrap().result;
    example.check(&expected, base).unwrap();
    let body = json!({"name": example.name, "arguments": arguments}).to_string();
    let address = world.server.base().strip_prefix("http://").unwrap();
    let request =
        format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let left = Arc::new(AtomicU32::new(requests));
    let (request, expected): (Arc<str>, Arc<str>) =
        (request.into(), json!({"result": expected}).to_string().into());
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::spawn(caller(address.to_owned(), request.clone(), expected.clone(), left.clone())))
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += caller.await.expect("every request is answered as it should be");
    }
    assert_eq!(answered, requests);
    let described = world.describe(&example.name).await;
    assert_eq!((&described["invocations"], &described["failures"]), (&json!(requests + 1), &json!(0)));
    world.deregister(&example.name).await;
    true
}

/// Sends requests on one connection until none is left.
async fn caller(address: String, request: Arc<str>, expected: Arc<str>, left: Arc<AtomicU32>) -> u32 {
    // The answer begins as this, without its closing brace.
    let expected = expected.strip_suffix('}').unwrap_or(&expected);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut answered, mut buffer) = (0, vec![0; 16 << 10]);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut filled = 0;
        let (head, body) = loop {
            let read = stream.read(&mut buffer[filled..]).await.unwrap();
            assert_ne!(read, 0, "closed: {}", String::from_utf8_lossy(&buffer[..filled]));
            filled += read;
            let text = std::str::from_utf8(&buffer[..filled]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.unwrap_or_else(|| panic!("{head}")).parse::<usize>().unwrap() {
                break (head, body);
            }
        };
        assert!(head.starts_with("HTTP/1.1 200 OK") && body.starts_with(expected), "{head} {body}");
        answered += 1;
    }
    answered
}
