//! HTTP as bytes: what other clients do, and what broken or hostile ones do.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{PATIENCE, World, expect, sleep};

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.server.base().strip_prefix("http://").unwrap()).await.unwrap()
}

/// Sends `bytes` and reads what is answered until Hydra closes the connection.
async fn exchange(world: &World, bytes: &[u8]) -> String {
    let mut stream = connect(world).await;
    // Hydra may answer and close before it has read all.
    let _ = stream.write_all(bytes).await;
    until_closed(&mut stream).await
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is a close too.
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("Hydra closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `text` came.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut answer = String::new();
    while !answer.contains(text) {
        let mut buffer = [0; 4096];
        let read =
            tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an answer").unwrap();
        assert_ne!(read, 0, "closed after: {answer}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    answer
}

fn post(version: &str, more: &str, body: &str) -> String {
    format!("POST / HTTP/{version}\r\nHost: x\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_eager_clients_are_served() {
    let world = World::start(&[]).await;
    let Some(cell) = world.cells().await.into_iter().next() else { return };
    let name = world.register(&cell, "wire", |_| {}).await;
    let invoke = |number: u32| json!({"name": name, "arguments": format!("\"number {number}\"")}).to_string();

    // `ab` without -k: HTTP/1.0, and the end of the connection is the end of the answer.
    let answer = exchange(&world, post("1.0", "", &invoke(1)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.contains("number 1"), "{answer}");
    let answer = exchange(&world, post("1.1", "Connection: close\r\n", &invoke(2)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("number 2"), "{answer}");

    // `ab -k`: HTTP/1.0 that keeps the connection.
    let mut stream = connect(&world).await;
    for number in 3..6 {
        stream
            .write_all(post("1.0", "Connection: Keep-Alive\r\n", &invoke(number)).as_bytes())
            .await
            .unwrap();
        let answer = read_until(&mut stream, "process time (us)").await;
        assert!(answer.to_lowercase().contains("connection: keep-alive"), "{answer}");
        assert!(answer.contains(&format!("number {number}")), "{answer}");
    }

    // Several requests at once on one connection are answered in order.
    let mut pipelined: String = (10..15).map(|number| post("1.1", "", &invoke(number))).collect();
    pipelined.push_str("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = exchange(&world, pipelined.as_bytes()).await;
    let places: Vec<_> = (10..15).map(|number| answer.find(&format!("number {number}")).unwrap()).collect();
    assert!(places.is_sorted() && answer.ends_with("ok\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 6);

    // curl sends this for a body of more than a megabyte, and waits.
    let mut stream = connect(&world).await;
    let body = invoke(20);
    let request = post("1.1", "Expect: 100-continue\r\n", &body);
    stream.write_all(&request.as_bytes()[..request.len() - body.len()]).await.unwrap();
    read_until(&mut stream, "100 Continue").await;
    stream.write_all(body.as_bytes()).await.unwrap();
    read_until(&mut stream, "number 20").await;

    // A body in chunks, which come one by one.
    let mut stream = connect(&world).await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    for piece in invoke(21).as_bytes().chunks(10) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
        stream.write_all(piece).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut stream, "number 21").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_of_other_sites_are_refused() {
    let world = World::start(&[]).await;
    let port = world.server.base().rsplit(':').next().unwrap();
    let code = world.code.url("kit.py");
    let ask = |host: &str, more: &str| {
        format!(
            "GET /register?name=page&language=python&url={code} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n"
        )
    };
    let local = format!("localhost:{port}");
    for (host, more) in [
        (local.as_str(), "Origin: http://evil.example\r\n"),
        (&local, "Sec-Fetch-Site: cross-site\r\n"),
        ("evil.example", ""),
        ("evil.example", "Origin: http://evil.example\r\n"),
    ] {
        let answer = exchange(&world, ask(host, more).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("--token-file"), "{answer}");
    }
    assert_eq!(world.client.functions().await.unwrap().body, "[]");
    let own = ask(&local, &format!("Origin: http://{local}\r\n"));
    let answer = exchange(&world, own.as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_harms_nobody() {
    let world = World::start(&[]).await;
    let pid = world.pid();
    let long = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(64 << 10));
    let answer = exchange(&world, long.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let cases: [&[u8]; 10] = [
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in cases {
        refused(&world, bytes).await;
    }
    let mut runner = TestRunner::deterministic();
    for _ in 0..100 {
        let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
        let bytes = bytes.new_tree(&mut runner).unwrap().current();
        refused(&world, &bytes).await;
    }
    expect(&world.client.get("/healthz").await.unwrap(), 200);
    assert_eq!(world.pid(), pid);
}

/// Sends bytes and no more; what is answered is an error.
async fn refused(world: &World, bytes: &[u8]) {
    let mut stream = connect(world).await;
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let answer = until_closed(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
        "{bytes:?}: {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_given_up_and_hold_up_nobody() {
    let world = World::start(&["--max-requests", "64"]).await;
    let mut stalled = connect(&world).await;
    let mut bodiless = connect(&world).await;
    stalled.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le").await.unwrap();
    bodiless.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
    expect(&world.client.functions().await.unwrap(), 200);
    let (stalled, bodiless) =
        tokio::join!(until_closed(&mut stalled), read_until(&mut bodiless, "slow_body"));
    assert!(stalled.is_empty() || stalled.starts_with("HTTP/1.1 408 "), "{stalled}");
    assert!(bodiless.starts_with("HTTP/1.1 408 "), "{bodiless}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_its_sandbox_in_order() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "gone", |registration| registration.concurrency = Some(1)).await;
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, "1");
        world.checkpointed(&name).await;
        let mut stream = connect(&world).await;
        let body = json!({"name": name, "arguments": sleep(300)}).to_string();
        stream.write_all(post("1.1", "", &body).as_bytes()).await.unwrap();
        world.wait_until_busy(&name, 1).await;
        drop(stream);
        // Waits for the only sandbox, which has served that request to its end.
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, "3", "{cell:?}");
    }
}
