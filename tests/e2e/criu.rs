//! `snapshot-process` by CRIU. Where CRIU cannot checkpoint processes that is said, and the tests are skipped; `tests/vm/run` has a kernel on which it
//! can. `HYDRA_REQUIRE_CRIU=1` makes it a failure.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use hydra_harness::ServerOptions;
use serde_json::{Value, json};

use crate::processes::agents;
use crate::snapshots::{pair, register, seen};
use crate::world::{JAVA, JAVASCRIPT, Language, PYTHON, World, json, options_in, result};

/// A world whose `snapshot-process` sandboxes are processes that CRIU checkpoints, and where there is that language.
async fn world(mut options: ServerOptions, language: &Language) -> Option<(World, Language)> {
    let language = Language { snapshots_in: "snapshot-process", ..*language };
    options.args.extend(["--snapshot-process".into(), "criu".into()]);
    let world = World::with(options).await;
    if world.languages(&[language]).await.is_empty() {
        return None;
    }
    let probe = world.registration("probe", &language, language.snapshots_in);
    let reply = world.client.register(&probe).await.unwrap();
    if reply.status == 503 {
        assert!(std::env::var_os("HYDRA_REQUIRE_CRIU").is_none(), "{}", reply.body);
        eprintln!("skipped: {}", reply.body);
        return None;
    }
    world.deregister("probe").await;
    Some((world, language))
}

/// Each test in each language.
macro_rules! in_each_language {
    ($($language:ident $of:expr;)*) => {$(
        mod $language {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn a_process_is_dumped_once_and_goes_on_in_others() {
                super::a_process_is_dumped_once_and_goes_on_in_others(&$of).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_goes_on_is_jailed_as_what_was_dumped() {
                super::what_goes_on_is_jailed_as_what_was_dumped(&$of).await;
            }
        }
    )*};
}

in_each_language! {
    python PYTHON;
    javascript JAVASCRIPT;
    java JAVA;
}

async fn a_process_is_dumped_once_and_goes_on_in_others(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some((world, language)) = world(options_in(folder.path()), language).await else { return };
    register(&world, "f", &language, |r| r.svmid = Some(7)).await;
    let count = json!({"do": "count"});
    assert_eq!(seen(&world.call("f", &json!({"do": "write", "text": "kept"})).await).0, "cold");
    world.checkpointed("f").await;
    let made = world.describe("f").await["snapshot"].clone();
    assert_eq!((&made["svmid"], &made["state"]), (&json!(7), &json!("ready")));
    // The dumped one goes on itself.
    assert_eq!(seen(&world.call("f", &count).await), pair("warm", "2"));
    for _ in 0..2 {
        assert_eq!(seen(&world.call_fresh("f", &count).await), pair("restore", "2"));
    }
    // Several at once, none of which knows of the others.
    let fresh = || async { json(&result(&world.call_fresh("f", &json!({"do": "identity"})).await)) };
    let (one, two, three) = tokio::join!(fresh(), fresh(), fresh());
    for key in ["random", "uuid", "secret"].iter().filter(|key| one.get(**key).is_some()) {
        let different: BTreeSet<String> =
            [&one, &two, &three].map(|copy: &Value| copy[*key].to_string()).into();
        assert_eq!(different.len(), 3, "{key}: {different:?}");
    }
    let read = json!({"do": "read"});
    assert_eq!(result(&world.call_fresh("f", &read).await), "kept");
    let events = json(&result(&world.call_fresh("f", &json!({"do": "events"})).await));
    assert_eq!(events, json!(["listener before", "checkpoint", "restore", "listener after"]));
    // Another Hydra finds it.
    let World { server, code, .. } = world;
    server.stop().await.unwrap();
    let mut options = options_in(folder.path());
    options.args.extend(["--snapshot-process".into(), "criu".into()]);
    let server = hydra_harness::Server::start(options).await.unwrap();
    let client = hydra_harness::Client::new(server.base());
    let world = World { server, code, client };
    register(&world, "f", &language, |r| r.svmid = Some(7)).await;
    assert_eq!(seen(&world.call("f", &count).await), pair("restore", "2"));
    world.deregister("f").await;
    // Of other memory it is another function's.
    register(&world, "f", &language, |r| (r.svmid, r.memory) = (Some(7), Some(300))).await;
    assert_eq!(seen(&world.call("f", &count).await), pair("cold", "1"));
}

async fn what_goes_on_is_jailed_as_what_was_dumped(language: &Language) {
    let Some((world, language)) = world(Default::default(), language).await else { return };
    register(&world, "f", &language, |r| r.concurrency = Some(1)).await;
    let state = || {
        let agents = agents(world.pid(), "--function");
        assert_eq!(agents.len(), 1, "{agents:?}");
        let pid = agents[0].pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let wanted = [
            "Groups:",
            "CapInh:",
            "CapPrm:",
            "CapEff:",
            "CapBnd:",
            "CapAmb:",
            "NoNewPrivs:",
            "Seccomp:",
            "Uid:",
            "Gid:",
        ];
        let lines: Vec<_> = status
            .lines()
            .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
            .map(str::to_owned)
            .collect();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let spaces = ["pid", "mnt", "ipc", "uts"]
            .map(|space| fs::metadata(format!("/proc/{pid}/ns/{space}")).unwrap().ino());
        (lines, limits, spaces)
    };
    world.result("f", &json!({"do": "count"})).await;
    world.checkpointed("f").await;
    let dumped = state();
    // Takes the place of the one that there may be.
    assert_eq!(seen(&world.call_fresh("f", &json!({"do": "count"})).await), pair("restore", "2"));
    assert_eq!(seen(&world.call("f", &json!({"do": "count"})).await), pair("restore", "2"));
    let restored = state();
    assert_eq!((&restored.0, &restored.1), (&dumped.0, &dumped.1));
    assert!(restored.0.iter().any(|line| line == "NoNewPrivs:\t1"), "{restored:?}");
    let own = ["pid", "mnt", "ipc", "uts"]
        .map(|space| fs::metadata(format!("/proc/self/ns/{space}")).unwrap().ino());
    assert!(restored.2.iter().zip(&own).all(|(jails, own)| jails != own), "{restored:?} {own:?}");
}
