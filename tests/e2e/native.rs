//! Shared objects, alone and in zips of their own name.

use std::fs;
use std::path::Path;
use std::process::Command;

use hydra_harness::{CodeServer, Registration};
use serde_json::json;

use crate::functions::zip;
use crate::world::{World, expect, expect_error, json, skip};

#[tokio::test(flavor = "multi_thread")]
async fn shared_objects_are_called_through_their_c_interface() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/native");
    let build = Command::new(fixtures.join("build.sh")).arg(folder.path()).output().unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let object = fs::read(folder.path().join("echo.so")).unwrap();
    fs::write(folder.path().join("echo.zip"), zip(&[("echo.so", &object), ("notes.txt", b"more")])).unwrap();
    fs::write(folder.path().join("libecho.zip"), zip(&[("any/libecho.so", &object)])).unwrap();

    let world = World::start(&[]).await;
    let code = CodeServer::start(folder.path()).await.unwrap();
    for kind in world.kinds().await {
        for (file, language) in [("echo.so", "java"), ("echo.zip", "java"), ("libecho.zip", "python")] {
            let registration = registration(&code, file, language, kind);
            expect(&world.client.register(&registration).await.unwrap(), 200);
            let echoed = json(&world.result("native", &json!({"text": "ü"})).await);
            assert_eq!(echoed["text"], "ü", "{file} in {kind}");
            assert!(echoed["tmpDir"].is_string(), "{echoed}");
            // Far beyond the original's 256 bytes.
            let long = "x".repeat(100_000);
            assert_eq!(
                world.client.invoke("native", &long).await.unwrap().invocation().unwrap().result,
                long
            );
            world.deregister("native").await;
        }
        let registration = registration(&code, "crash.so", "java", kind);
        expect(&world.client.register(&registration).await.unwrap(), 200);
        for _ in 0..2 {
            let reply = world.call("native", &json!({})).await;
            expect_error(&reply, 502, "died", "ended before it answered");
        }
        world.deregister("native").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graalvm_library_is_called() {
    let Some(zip) = std::env::var_os("HYDRA_SAXON_ZIP") else {
        return skip("a GraalVM library", "HYDRA_SAXON_ZIP is not set; ./hydra test rust sets it");
    };
    let world = World::start(&[]).await;
    let code = CodeServer::start(Path::new(&zip).parent().unwrap()).await.unwrap();
    for kind in world.kinds().await {
        let registration = registration(&code, "xpath.zip", "java", kind);
        expect(&world.client.register(&registration).await.unwrap(), 200);
        for (expression, value) in
            [("string-join((1 to 5) ! string(.), '-')", "1-2-3-4-5"), ("sum(1 to 100)", "5050")]
        {
            for fresh in [false, true] {
                let reply = match fresh {
                    false => world.client.invoke("native", expression).await.unwrap(),
                    true => world.client.invoke_fresh("native", expression).await.unwrap(),
                };
                assert_eq!(reply.invocation().unwrap().result, value, "{kind}");
            }
        }
        world.deregister("native").await;
    }
}

fn registration(code: &CodeServer, file: &str, language: &str, kind: &str) -> Registration {
    Registration {
        name: "native".into(),
        url: code.url(file),
        language: language.into(),
        sandbox: Some(kind.into()),
        ..Registration::default()
    }
}
