//! The calls of the contract and what they answer when all is well.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{Cell, World, expect, json, options, result, sleep, until};

/// Sends any method to any path, without the comfort of the client.
async fn send(
    world: &World,
    method: Method,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> (StatusCode, String) {
    let http = hydra_harness::plain_http().build().unwrap();
    let response =
        http.request(method, format!("{}{path}", world.server.base())).body(body).send().await.unwrap();
    let status = response.status();
    (status, response.text().await.unwrap())
}

fn ok(text: &str) -> (StatusCode, String) {
    (StatusCode::OK, text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_registered_by_query_alone() {
    let world = World::start(&[]).await;
    let url = world.code.url("kit.py");
    let spellings = [
        (Method::POST, "entryPoint=kit.main"),
        (Method::GET, "entrypoint=kit.main&sandbox=isolate"),
        (Method::POST, "entryPoint=kit.main&sandbox=default&svmid=7"),
        (Method::GET, "entryPoint=kit.main&sandbox=process&memory=256&timeout=9000&concurrency=3&svmid="),
    ];
    for (number, (method, more)) in spellings.into_iter().enumerate() {
        let path = format!("/register?name=f{number}&url={url}&language=python&{more}");
        // The original's clients send any body, or none.
        let answer = send(&world, method, &path, "").await;
        assert_eq!(answer, ok(&format!("Function f{number} registered!")));
        assert_eq!(world.result(&format!("f{number}"), &json!({"do": "count"})).await, "1");
    }
    let last = world.describe("f3").await;
    assert_eq!(
        (&last["memory"], &last["timeout"], &last["concurrency"], &last["sandbox"]),
        (&json!(256), &json!(9000), &json!(3), &json!("process"))
    );
    // The same again is no error, and changes nothing.
    let again = format!("/register?name=f0&url={url}&language=python&entryPoint=kit.main");
    assert_eq!(send(&world, Method::POST, &again, "").await, ok("Function f0 registered!"));
    assert_eq!(world.result("f0", &json!({"do": "count"})).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_arrive_and_results_return_alike_everywhere() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "echo", |_| {}).await;
        let text = json!({"a": [1, 2.5, "ü \"quoted\" \n", null, true], "deep": {"er": {}}}).to_string();
        let bodies = [
            // As the original's clients send them.
            (json!({"name": name, "async": "false", "cached": "true", "arguments": text}), json(&text)),
            (json!({"name": name, "arguments": json(&text)}), json(&text)),
            (json!({"name": name}), json!({})),
            (json!({"name": name, "arguments": null}), json!({})),
            (json!({"name": name, "arguments": ""}), json!({})),
            (json!({"name": name, "arguments": [1, "two"]}), json!([1, "two"])),
            (json!({"name": name, "arguments": 12}), json!(12)),
        ];
        for (path, (body, expected)) in
            ["/", "/test", "/a/b?c=d", "/", "/invoke", "/", "/"].into_iter().zip(bodies)
        {
            let reply = world.client.post(path, &body).await.unwrap();
            let mut found = json(&result(&reply));
            if let Some(object) = found.as_object_mut() {
                let folder = object.remove("tmpDir").unwrap_or_else(|| panic!("{cell:?}: no tmpDir"));
                assert!(folder.as_str().is_some_and(|path| path.starts_with('/')), "{folder}");
            }
            assert_eq!(found, expected, "{cell:?} {path}");
            check_timing(&reply, &cell);
        }
        // What is not JSON is text, and text comes back as it is.
        for text in ["plain \"text\" ü\n", "{broken"] {
            let reply = world.client.invoke(&name, text).await.unwrap();
            assert_eq!(result(&reply), text, "{cell:?}");
        }
    }
}

fn check_timing(reply: &hydra_harness::Reply, cell: &Cell) {
    let stages = reply.server_timing();
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["queue", "start", "run"], "{cell:?}");
    assert!(stages.iter().all(|stage| stage.milliseconds.is_some_and(|ms| ms >= 0.0)), "{stages:?}");
    assert!(
        matches!(stages[1].description.as_deref(), Some("cold" | "template" | "restore" | "warm")),
        "{stages:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_up_and_stress_run_as_often_as_they_are_asked() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "repeated", |registration| registration.concurrency = Some(2)).await;
        let count = json!({"do": "count"}).to_string();
        let reply = world.client.warmup(&name, &count, 1, 5).await.unwrap();
        assert_eq!(result(&reply), "5", "{cell:?}");
        check_timing(&reply, &cell);
        let reply = world.client.warmup(&name, &count, 2, 3).await.unwrap();
        expect(&reply, 200);
        assert_eq!(world.describe(&name).await["invocations"], 11, "{cell:?}");

        let reply = world.client.stress(&name, &sleep(20).to_string(), 2, 8).await.unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, "success!"));
        let described = world.describe(&name).await;
        assert_eq!((&described["invocations"], &described["failures"]), (&json!(19), &json!(0)), "{cell:?}");
        let sandboxes = described["sandboxes"]["idle"].as_u64().unwrap();
        assert!((1..=2).contains(&sandboxes), "{cell:?}: {described}");

        // One that fails is reported, with its own status.
        let raise = json!({"do": "raise", "text": "in stress"}).to_string();
        let reply = world.client.stress(&name, &raise, 1, 2).await.unwrap();
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    for query in ["concurrency=0", "requests=0", "concurrency=many", "requests=-1", "concurrency=1000000"] {
        for path in ["warmup", "stress"] {
            let reply = world.client.post(&format!("/{path}?{query}"), &json!({"name": "x"})).await.unwrap();
            expect(&reply, 400);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_listed_until_they_are_removed() {
    let world = World::start(&[]).await;
    let cells = world.cells().await;
    for cell in &cells {
        world.register(cell, "listed", |_| {}).await;
    }
    let list = json(&world.client.functions().await.unwrap().success().unwrap().body);
    let mut names: Vec<String> = cells.iter().map(|cell| cell.name("listed")).collect();
    names.sort();
    let listed: Vec<_> = list.as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(listed, names);
    for (cell, name) in cells.iter().zip(cells.iter().map(|cell| cell.name("listed"))) {
        world.result(&name, &json!({})).await;
        world.checkpointed(&name).await;
        let described = world.describe(&name).await;
        assert_eq!(described["language"], cell.language.name);
        assert_eq!(described["sandbox"], cell.kind);
        assert_eq!(described["entryPoint"], cell.language.entry_point);
        assert_eq!((&described["invocations"], &described["failures"]), (&json!(1), &json!(0)));
        assert_eq!(described["sandboxes"], json!({"idle": 1, "busy": 0, "starting": 0, "waiting": 0}));
        assert_eq!(described["digest"].as_str().map(str::len), Some(64));

        let reply = world.client.deregister(&name).await.unwrap();
        assert_eq!(reply.body, format!("Function {name} removed!"));
        expect(&world.call(&name, &json!({})).await, 404);
        expect(&world.client.get(&format!("/functions/{name}")).await.unwrap(), 404);
        // The name is free again, for other code too.
        world.register(cell, "listed", |registration| registration.memory = Some(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_there_for_machines() {
    let world = World::start(&[]).await;
    let cells = world.cells().await;
    for cell in &cells {
        let name = world.register(cell, "measured", |_| {}).await;
        world.result(&name, &json!({})).await;
        world.checkpointed(&name).await;
        world.result(&name, &json!({})).await;
        expect(&world.call(&name, &json!({"do": "raise", "text": "x"})).await, 500);
    }
    let health = world.client.get("/healthz").await.unwrap().success().unwrap();
    assert_eq!(health.body.trim(), "ok");
    let metrics = world.client.get("/metrics").await.unwrap().success().unwrap();
    let content_type = metrics.headers["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
    let samples = parse_metrics(&metrics.body);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let fits = |found: &[(String, String)]| {
            labels.iter().all(|(key, value)| found.iter().any(|(k, v)| k == key && v == value))
        };
        let sample = samples.iter().find(|(found, with, _)| found == name && fits(with));
        sample.unwrap_or_else(|| panic!("no {name} {labels:?} in {}", metrics.body)).2
    };
    for cell in &cells {
        let name = cell.name("measured");
        let of = |outcome| [("function", name.as_str()), ("sandbox", cell.kind), ("outcome", outcome)];
        assert_eq!(value("hydra_invocations_total", &of("ok")), 2.0);
        assert_eq!(value("hydra_invocations_total", &of("raised")), 1.0);
        let started = |start| [("function", name.as_str()), ("start", start)];
        assert_eq!(value("hydra_invocation_seconds_count", &started(cell.first_start())), 1.0);
        assert_eq!(value("hydra_invocation_seconds_count", &started("warm")), 1.0);
        assert_eq!(value("hydra_sandboxes", &[("function", &name), ("state", "idle")]), 1.0);
    }
    assert!(value("hydra_resident_bytes", &[("process", "hydra")]) > 1e6);
    assert_eq!(value("hydra_functions", &[]), cells.len() as f64);
}

type Sample = (String, Vec<(String, String)>, f64);

/// Reads OpenMetrics text, of which Prometheus' older format is nearly a subset, and asserts its form.
fn parse_metrics(text: &str) -> Vec<Sample> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut typed = std::collections::HashSet::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next()) {
                (Some("TYPE"), Some(name)) => assert!(typed.insert(name.to_owned()), "twice: {line}"),
                (Some("HELP" | "UNIT"), Some(_)) | (Some("EOF"), None) => {}
                _ => panic!("not a comment of the format: {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
            None => (series, ""),
        };
        assert!(typed.iter().any(|family| name.starts_with(family.as_str())), "no type: {line}");
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        samples.push((name.to_owned(), labels.collect(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }
    samples
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_sets_what_the_originals_did() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let apps = folder.path().join("apps");
    let mut hydra = std::process::Command::new(hydra_harness::paths::hydra_binary().unwrap())
        .arg("serve")
        .env("lambda_port", free.port().to_string())
        .env("app_dir", &apps)
        .env("lambda_timestamp", "1000")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let client = hydra_harness::Client::new(&format!("http://{free}"));
    until("Hydra answers", async || client.get("/healthz").await.is_ok_and(|reply| reply.status == 200))
        .await;
    assert!(apps.is_dir());
    let pid = nix::unistd::Pid::from_raw(hydra.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = tokio::task::spawn_blocking(move || hydra.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let boot = log.split("boot_ms=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let boot: u64 = boot.unwrap_or_else(|| panic!("no boot time: {log}")).parse().unwrap();
    assert!(boot > 1_600_000_000_000, "{boot}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_everything_but_health() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "open sesame\nnot this line\n").unwrap();
    let world = World::with(options(&["--token-file", file.to_str().unwrap()])).await;
    expect(&world.client.get("/healthz").await.unwrap(), 200);
    let wrong = world.client.clone().with_token("open sesam");
    for client in [&world.client, &wrong] {
        for path in ["/functions", "/metrics"] {
            let reply = client.get(path).await.unwrap();
            expect(&reply, 401);
            assert_eq!(reply.error_kind().as_deref(), Some("unauthorized"));
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
        }
        expect(&client.invoke("f", "").await.unwrap(), 401);
        expect(
            &client.register(&world.registration("f", &crate::world::PYTHON, "isolate")).await.unwrap(),
            401,
        );
    }
    let right = world.client.clone().with_token("open sesame");
    let list: Value = json(&right.functions().await.unwrap().success().unwrap().body);
    assert_eq!(list, json!([]));
}

#[test]
fn the_doctor_says_the_same_as_text_and_as_json() {
    let doctor = |options: &[&str]| {
        let mut hydra = std::process::Command::new(hydra_harness::paths::hydra_binary().unwrap());
        let output = hydra.arg("doctor").args(options).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let (text, json) = (doctor(&[]), doctor(&["--json"]));
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let parts = [&report["languages"], &report["jail"]].map(|part| part.as_array().expect("findings"));
    let findings: Vec<_> = parts.into_iter().flatten().chain([&report["kvm"]]).collect();
    assert!(findings.len() > 10, "{json}");
    for finding in &findings {
        let (name, detail) = (finding["name"].as_str().unwrap(), finding["detail"].as_str().unwrap());
        let available = if finding["available"].as_bool().unwrap() { "yes" } else { "no" };
        let is_it =
            |line: &str| line.split_whitespace().take(2).eq([available, name]) && line.ends_with(detail);
        assert!(text.lines().any(is_it), "{finding} is not in\n{text}");
    }
    // What a microVM costs is known where there are microVMs.
    let costs = ["systemCall", "page"].map(|cost| report["costs"][cost].as_f64());
    assert_eq!(costs.map(|cost| cost.is_some_and(|us| us > 0.0)), [report["kvm"]["available"] == true; 2]);
}
