//! What is wrong is answered with a status, a kind and a sentence.

use hydra_harness::Registration;
use serde_json::json;

use crate::world::{Cell, JAVA, JAVASCRIPT, PYTHON, World, expect, expect_error, json, skip, sleep};

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_missing_or_wrong_are_named() {
    let world = World::start(&[]).await;
    let right = |name: &str| world.registration(name, &PYTHON, "isolate");
    type Change = fn(&mut Registration);
    let cases: [(Change, &str); 10] = [
        (|r| r.name.clear(), "'name' is missing"),
        (|r| r.name = "a/b".into(), "'name' is 'a/b'"),
        (|r| r.url.clear(), "'url' is missing"),
        (|r| r.url = "ftp://localhost/f.py".into(), "an http or https URL"),
        (|r| r.language.clear(), "'language' is missing"),
        (|r| r.language = "cobol".into(), "java, javascript or python"),
        (|r| r.sandbox = Some("jail".into()), "isolate, process, snapshot or snapshot-process"),
        (|r| r.svmid = Some(-1), "'svmid' is '-1'"),
        (|r| r.memory = Some(1), "'memory' is '1'"),
        (|r| r.concurrency = Some(0), "'concurrency' is '0'"),
    ];
    for (change, words) in cases {
        let mut registration = right("f");
        change(&mut registration);
        expect_error(&world.client.register(&registration).await.unwrap(), 400, "bad_request", words);
    }
    for (path, body, words) in [
        ("/", json!([]), "not the JSON of an invocation"),
        ("/", json!({"arguments": "{}"}), "no 'name'"),
        ("/", json!({"name": "f", "cached": 7}), "'cached' is 7"),
        ("/deregister", json!({}), "name"),
    ] {
        expect_error(&world.client.post(path, &body).await.unwrap(), 400, "bad_request", words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_methods_and_taken_names_are_told_apart() {
    let world = World::start(&[]).await;
    let client = &world.client;
    for reply in [
        client.invoke("nobody", "").await,
        client.deregister("nobody").await,
        client.get("/functions/nobody").await,
        client.warmup("nobody", "", 1, 1).await,
        client.stress("nobody", "", 1, 1).await,
    ] {
        expect_error(&reply.unwrap(), 404, "unknown_function", "no function 'nobody' is registered");
    }
    for (path, allowed) in [("/deregister", "POST"), ("/warmup", "POST"), ("/stress", "POST")] {
        let reply = client.get(path).await.unwrap();
        expect_error(&reply, 405, "method_not_allowed", "does not take GET");
        assert_eq!(reply.headers["allow"], allowed);
    }
    let reply = client.post("/functions", &json!({})).await.unwrap();
    expect_error(&reply, 405, "method_not_allowed", "does not take POST");

    let registration = world.registration("taken", &PYTHON, "isolate");
    let first = client.register(&registration).await.unwrap();
    if first.error_kind().as_deref() == Some("unavailable") {
        return skip("python", &first.body);
    }
    expect(&first, 200);
    for other in [
        world.registration("taken", &PYTHON, "process"),
        Registration { memory: Some(64), ..registration.clone() },
        Registration { entry_point: Some("kit.later".into()), ..registration.clone() },
    ] {
        expect_error(&client.register(&other).await.unwrap(), 409, "conflict", "another specification");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_cannot_be_had_is_refused_at_registration() {
    let world = World::start(&[]).await;
    for (file, words) in [
        ("absent.zip", "the server answered 404"),
        ("page.zip", "an HTML page"),
        ("cut.zip", "cannot unpack"),
        ("escapes.zip", "cannot unpack"),
    ] {
        let mut registration = world.registration("bad", &PYTHON, "isolate");
        registration.url = world.code.url(file);
        expect_error(&world.client.register(&registration).await.unwrap(), 422, "bad_code", words);
        expect(&world.client.get("/functions/bad").await.unwrap(), 404);
    }
    let apps = world.server.app_dir();
    assert!(!apps.join("outside.py").exists() && !apps.parent().unwrap().join("outside.py").exists());
    let mut nowhere = world.registration("bad", &PYTHON, "isolate");
    nowhere.url = "http://127.0.0.1:1/f.py".into();
    expect_error(&world.client.register(&nowhere).await.unwrap(), 422, "bad_code", "downloading");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_cannot_be_loaded_is_reported_in_the_languages_words() {
    let world = World::start(&[]).await;
    let cases = [
        (PYTHON, "syntax.py", "syntax.main", "SyntaxError", "line 2"),
        (PYTHON, "raises.py", "raises.main", "ImportError", "deliberate: not today"),
        (PYTHON, "kit.py", "kit.absent", "", "absent"),
        (PYTHON, "kit.py", "other.main", "", "other"),
        (JAVASCRIPT, "syntax.js", "syntax.main", "SyntaxError", "Unexpected token"),
        (JAVASCRIPT, "raises.js", "raises.main", "Error", "deliberate: not today"),
        (JAVASCRIPT, "kit.js", "kit.absent", "", "absent"),
        (JAVA, "garbled.jar", "Garbled", "ClassFormatError", "Garbled"),
        (JAVA, "Raises.jar", "Raises", "", "deliberate: not today"),
        (JAVA, "Kit.jar", "Absent", "", "Absent"),
        (JAVA, "Kit.jar", "Kit.absent", "", "absent"),
    ];
    let present: Vec<_> = world.languages(&[PYTHON, JAVASCRIPT, JAVA]).await;
    for (language, file, entry_point, kind, words) in cases {
        if !present.iter().any(|other| other.name == language.name) {
            continue;
        }
        for sandbox in world.kinds().await {
            let mut registration = world.registration("bad", &language, sandbox);
            registration.url = world.code.url(file);
            registration.entry_point = Some(entry_point.into());
            expect(&world.client.register(&registration).await.unwrap(), 200);
            for _ in 0..2 {
                let reply = world.call("bad", &json!({})).await;
                expect_error(&reply, 422, "bad_code", words);
                let body = json(&reply.body);
                assert!(body["type"].as_str().is_some_and(|found| found.contains(kind)), "{body}");
                assert_private(&reply.body, &world);
            }
            world.deregister("bad").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_raises_is_answered_with_its_own_stack() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "raises", |_| {}).await;
        let (kind, file) = match cell.language.name {
            "python" => ("ValueError", "kit.py"),
            "javascript" => ("RangeError", "kit.js"),
            _ => ("IllegalStateException", "Kit.java"),
        };
        let reply = world.call(&name, &json!({"do": "raise", "text": "ü \"this\""})).await;
        expect_error(&reply, 500, "raised", "deliberate: ü \"this\"");
        let stages: Vec<_> = reply.server_timing().into_iter().map(|stage| stage.name).collect();
        assert_eq!(stages, ["queue", "start", "run"]);
        let body = json(&reply.body);
        assert!(body["type"].as_str().is_some_and(|found| found.contains(kind)), "{cell:?}: {body}");
        assert!(body["stack"].as_str().is_some_and(|stack| stack.contains(file)), "{cell:?}: {body}");
        assert_private(&reply.body, &world);

        let reply = world.call(&name, &json!({"do": "unserialisable"})).await;
        expect(&reply, 500);
        assert_eq!(reply.error_kind().as_deref(), Some("raised"), "{cell:?}: {}", reply.body);
        assert_private(&reply.body, &world);
        // The sandbox is the same.
        assert_eq!(world.result(&name, &json!({"do": "count"})).await, "3", "{cell:?}");
    }
}

/// Asserts that an answer shows nothing of the agents.
#[track_caller]
fn assert_private(body: &str, world: &World) {
    let agents = hydra_harness::paths::root().join("target/agents");
    for secret in
        ["hydra_agent", "hydra.agent", "agent.js", "session.js", "agent.py", agents.to_str().unwrap()]
    {
        assert!(!body.contains(secret), "{secret}: {body}");
    }
    assert!(!body.contains(&format!("{}/run", world.server.app_dir().display())), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_there_is_room_for_are_refused_at_once() {
    let world = World::start(&["--max-requests", "2"]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "full", |registration| registration.concurrency = Some(2)).await;
        let running: Vec<_> = (0..2)
            .map(|_| {
                let (client, name) = (world.client.clone(), name.clone());
                tokio::spawn(async move { client.invoke(&name, &sleep(60_000).to_string()).await })
            })
            .collect();
        // The log tells when they have begun.
        let begun =
            || world.server.log().lines().filter(|l| l.contains(&name) && l.contains("sleeps")).count();
        crate::world::until("both to begin", async || begun() == 2).await;
        expect_error(&world.call(&name, &json!({})).await, 503, "no_capacity", "try again later");
        expect(&world.client.get("/healthz").await.unwrap(), 200);
        // Whoever looks after it is not kept out.
        expect(&world.client.functions().await.unwrap(), 200);
        // A client that goes away leaves room for another.
        running.iter().for_each(tokio::task::JoinHandle::abort);
        crate::world::until("room again", async || world.call("nobody", &json!({})).await.status == 404)
            .await;
        world.deregister(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_function_leaves_room_for_others() {
    let world = World::start(&["--max-requests", "200"]).await;
    let Some(cell) = world.cells().await.into_iter().find(|cell| cell.kind == "isolate") else { return };
    let slow = world.register(&cell, "slow", |registration| registration.concurrency = Some(1)).await;
    let other = world.register(&cell, "other", |_| {}).await;
    let waiting: Vec<_> = (0..65)
        .map(|_| {
            let (client, name) = (world.client.clone(), slow.clone());
            tokio::spawn(async move { client.invoke(&name, &sleep(60_000).to_string()).await })
        })
        .collect();
    crate::world::until("one to run and the others to wait", async || {
        let sandboxes = &world.describe(&slow).await["sandboxes"];
        (&sandboxes["busy"], &sandboxes["waiting"]) == (&json!(1), &json!(64))
    })
    .await;
    expect_error(&world.call(&slow, &json!({})).await, 503, "no_capacity", "try again later");
    assert_eq!(world.result(&other, &json!({"do": "count"})).await, "1");
    // Those that wait are told, which does not bring the function's metrics back.
    world.deregister(&slow).await;
    crate::world::until("those that wait to be answered", async || {
        waiting.iter().filter(|client| client.is_finished()).count() == 64
    })
    .await;
    let metrics = world.client.get("/metrics").await.unwrap().body;
    assert!(metrics.contains(&other) && !metrics.contains(&slow), "{metrics}");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_results_over_their_limits_are_refused() {
    let world = World::start(&["--max-body", "20000", "--max-result", "30000"]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "bounded", |_| {}).await;
        check_bounds(&world, &cell, &name).await;
    }
}

async fn check_bounds(world: &World, cell: &Cell, name: &str) {
    let reply = world.call(name, &json!({"text": "x".repeat(20_000)})).await;
    expect_error(&reply, 413, "too_large", "20000 bytes");
    let large = |length: usize| json!({"do": "large", "length": length});
    assert_eq!(world.result(name, &large(30_000)).await.len(), 30_000, "{cell:?}");
    // While a sandbox is checkpointed another may serve.
    world.checkpointed(name).await;
    for length in [30_001, 5_000_000] {
        let reply = world.call(name, &large(length)).await;
        expect(&reply, 500);
        assert_eq!(json(&reply.body)["type"], "ResultTooLarge", "{cell:?}: {}", reply.body);
    }
    assert_eq!(world.result(name, &json!({"do": "count"})).await, "4", "{cell:?}");
}
