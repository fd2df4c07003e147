//! The sequence that the original's scripts run, with the programs that they use: curl and ab.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::world::{Cell, World, skip};

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_scripts_run_as_they_are() {
    for program in ["curl", "ab"] {
        // Both print their version and end with 0.
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).status().await;
        if !found.is_ok_and(|status| status.success()) {
            return skip("the original's scripts", &format!("{program} is missing (apache2-utils has ab)"));
        }
    }
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        drive(&world, &cell).await;
    }
}

async fn drive(world: &World, cell: &Cell) {
    let name = cell.name("scripted");
    let base = world.server.base();
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body.json");
    let arguments = json!({"memory": 1, "text": "it's \"quoted\""}).to_string();
    let request = json!({"name": name, "async": "false", "cached": "true", "arguments": arguments});
    std::fs::write(&body, request.to_string()).unwrap();
    let body = body.to_str().unwrap();

    let url = world.code.url(cell.language.kit);
    let (entry_point, language, kind) = (cell.language.entry_point, cell.language.name, cell.kind);
    let query =
        format!("name={name}&url={url}&entryPoint={entry_point}&language={language}&sandbox={kind}&svmid=0");
    let answer = run("curl", &["-s", "-X", "POST", &format!("{base}/register?{query}")]).await;
    assert_eq!(answer, format!("Function {name} registered!"));

    let content = ["-s", "-X", "POST", "-H", "Content-Type: application/json", "--data", &format!("@{body}")]
        .map(str::to_owned);
    for path in ["warmup?concurrency=1&requests=1", "", "test"] {
        let mut command: Vec<String> = content.to_vec();
        command.push(format!("{base}/{path}"));
        let answer = run("curl", &command).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
        let result: serde_json::Value = serde_json::from_str(answer["result"].as_str().unwrap()).unwrap();
        assert_eq!(result["text"], "it's \"quoted\"", "{cell:?}");
        assert!(answer["process time (us)"].is_u64(), "{answer}");
    }
    let answer = run(
        "curl",
        &[
            "-s",
            "-X",
            "POST",
            "-d",
            &request.to_string(),
            &format!("{base}/stress?concurrency=2&requests=10"),
        ],
    )
    .await;
    assert_eq!(answer, "success!");

    // Without -k each request is a connection of HTTP/1.0; -l because answers tell their time, so differ in length.
    for keep_alive in [&[][..], &["-k"]] {
        let usual = ["-l", "-p", body, "-T", "application/json", "-c", "8", "-n", "100"];
        let target = format!("{base}/");
        let report = run("ab", &[keep_alive, &usual, &[&target]].concat()).await;
        let line = |start: &str| report.lines().find_map(|line| line.strip_prefix(start)).map(str::trim);
        assert_eq!(line("Complete requests:"), Some("100"), "{report}");
        assert_eq!(line("Failed requests:"), Some("0"), "{report}");
        assert_eq!(line("Non-2xx responses:"), None, "{report}");
    }

    let named = json!({"name": name}).to_string();
    let answer = run("curl", &["-s", "-X", "POST", &format!("{base}/deregister"), "-d", &named]).await;
    assert_eq!(answer, format!("Function {name} removed!"));
}

/// What a program prints; it must succeed.
async fn run(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> String {
    let output = Command::new(program).args(arguments).env_remove("http_proxy").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
