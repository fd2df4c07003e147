//! Snapshot sandboxes: what is copied, what is not, and what survives Hydra.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use hydra_harness::{Registration, Reply, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Language, PYTHON, World, expect, expect_error, json, options_in, result, until};

/// A world where there are snapshot sandboxes of that language.
pub async fn world(options: hydra_harness::ServerOptions, language: &Language) -> Option<World> {
    let world = World::with(options).await;
    let there = world.kinds().await.contains(&"snapshot") && !world.languages(&[*language]).await.is_empty();
    there.then_some(world)
}

/// Each test in each language.
macro_rules! in_each_language {
    ($($test:ident)*) => {$(
        mod $test {
            use crate::world::{JAVA, JAVASCRIPT, Language, PYTHON};

            #[tokio::test(flavor = "multi_thread")]
            async fn python() {
                super::$test(&PYTHON).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn javascript() {
                super::$test(&JAVASCRIPT).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn java() {
                super::$test(&JAVA).await;
            }

            // What differs is where it runs, not what.
            #[tokio::test(flavor = "multi_thread")]
            async fn in_a_jail() {
                super::$test(&Language { snapshots_in: "snapshot-process", ..PYTHON }).await;
            }
        }
    )*};
}

pub(crate) use in_each_language;

in_each_language! {
    a_function_is_checkpointed_once_and_restored_ever_after
    a_warm_up_is_in_every_copy
    a_number_is_one_functions
    copies_share_no_randomness_and_know_the_time
    a_connection_does_not_survive_in_a_copy
    a_copy_that_served_is_put_back_and_knows_nothing_of_it
    a_copy_that_crashes_costs_its_own_request_only
    a_hydra_that_is_killed_leaves_a_snapshot_or_none
    many_copies_live_at_once
    hooks_are_called_around_a_checkpoint
}

pub fn registration(world: &World, name: &str, language: &Language) -> Registration {
    let (file, entry_point) = language.snapshots;
    Registration {
        url: world.code.url(file),
        entry_point: Some(entry_point.into()),
        ..world.registration(name, language, language.snapshots_in)
    }
}

pub async fn register(
    world: &World,
    name: &str,
    language: &Language,
    change: impl FnOnce(&mut Registration),
) {
    let mut registration = registration(world, name, language);
    change(&mut registration);
    expect(&world.client.register(&registration).await.unwrap(), 200);
}

/// Another server in the same folder, after the first was stopped or killed.
async fn restarted(world: World, options: hydra_harness::ServerOptions) -> World {
    let World { server, code, .. } = world;
    server.kill().await.expect("the first is gone");
    let server = Server::start(options).await.expect("Hydra starts");
    let client = hydra_harness::Client::new(server.base());
    World { server, code, client }
}

/// How the sandbox was come by, and the result. A copy that was put back is as good as a new one.
pub fn seen(reply: &Reply) -> (String, String) {
    let start = reply.start_kind().expect("a start");
    (if start == "reset" { "restore".into() } else { start }, result(reply))
}

pub fn pair(start: &str, count: &str) -> (String, String) {
    (start.into(), count.into())
}

async fn a_function_is_checkpointed_once_and_restored_ever_after(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), language).await else { return };
    register(&world, "f", language, |r| r.svmid = Some(7)).await;
    let none = json!({});
    assert_eq!(seen(&world.call("f", &none).await), pair("template", "1"));
    world.checkpointed("f").await;
    let made = world.describe("f").await["snapshot"].clone();
    assert_eq!((&made["svmid"], &made["state"]), (&json!(7), &json!("ready")));
    assert!(made["memoryBytes"].as_u64().unwrap() > 1 << 20, "{made}");
    for _ in 0..2 {
        assert_eq!(seen(&world.call_fresh("f", &none).await), pair("restore", "2"));
    }
    world.deregister("f").await;
    // Not with it goes the snapshot.
    register(&world, "f", language, |r| r.svmid = Some(7)).await;
    assert_eq!(seen(&world.call("f", &none).await), pair("restore", "2"));
    assert_eq!(seen(&world.call("f", &none).await), pair("warm", "3"));

    let world = restarted(world, options_in(folder.path())).await;
    register(&world, "f", language, |r| r.svmid = Some(7)).await;
    assert_eq!(seen(&world.call("f", &none).await), pair("restore", "2"));
    let found = world.describe("f").await["snapshot"].clone();
    for key in ["svmid", "state", "memoryBytes", "stateBytes", "pauseUs"] {
        assert_eq!(found[key], made[key], "{key}");
    }
    world.deregister("f").await;
    // With other memory it is another function.
    register(&world, "f", language, |r| (r.svmid, r.memory) = (Some(7), Some(300))).await;
    assert_eq!(seen(&world.call("f", &none).await), pair("template", "1"));
    assert!(world.server.log().contains("made anew"), "{}", world.server.log());
    world.checkpointed("f").await;
    assert_eq!(seen(&world.call_fresh("f", &none).await), pair("restore", "2"));
}

async fn a_warm_up_is_in_every_copy(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    register(&world, "f", language, |_| {}).await;
    let none = json!({}).to_string();
    assert_eq!(result(&world.client.warmup("f", &none, 1, 5).await.unwrap()), "5");
    assert_eq!(world.describe("f").await["snapshot"]["state"], "ready");
    assert_eq!(seen(&world.call_fresh("f", &json!({})).await), pair("restore", "6"));
    // Another one goes on where the first ended.
    assert_eq!(result(&world.client.warmup("f", &none, 1, 2).await.unwrap()), "7");
    assert_eq!(seen(&world.call_fresh("f", &json!({})).await), pair("restore", "8"));
}

async fn a_number_is_one_functions(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    register(&world, "one", language, |r| r.svmid = Some(3)).await;
    let other = Registration { svmid: Some(3), ..registration(&world, "other", language) };
    expect_error(&world.client.register(&other).await.unwrap(), 409, "conflict", "'one'");
    // Those who give none are not in each other's way.
    register(&world, "other", language, |_| {}).await;
    register(&world, "third", language, |_| {}).await;
    world.deregister("one").await;
    world.deregister("other").await;
    expect(&world.client.register(&other).await.unwrap(), 200);
}

async fn copies_share_no_randomness_and_know_the_time(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    register(&world, "f", language, |_| {}).await;
    let identity = json!({"do": "identity"});
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let mut identities: Vec<Value> = vec![json(&world.result("f", &identity).await)];
    world.checkpointed("f").await;
    for _ in 0..4 {
        let before = now();
        let copy = json(&result(&world.call_fresh("f", &identity).await));
        let time = copy["time"].as_f64().unwrap();
        // As exact as a clock is that may be set meanwhile.
        assert!((before - 1.0..=now() + 1.0).contains(&time), "{before} {time}");
        assert_eq!(copy["back"], false);
        identities.push(copy);
    }
    for key in identities[0].as_object().unwrap().keys() {
        let different: BTreeSet<String> = identities.iter().map(|one| one[key].to_string()).collect();
        match key.as_str() {
            "time" | "back" => {}
            // Seeded by the function, it repeats: in all copies what comes after the first.
            "same" => assert_eq!(different.len(), 2, "{different:?}"),
            _ => assert_eq!(different.len(), identities.len(), "{key}: {different:?}"),
        }
    }
}

async fn hooks_are_called_around_a_checkpoint(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    register(&world, "f", language, |_| {}).await;
    let events = json!({"do": "events"});
    assert_eq!(json(&world.result("f", &events).await), json!([]));
    world.checkpointed("f").await;
    let around = json!(["listener before", "checkpoint", "restore", "listener after"]);
    assert_eq!(json(&result(&world.call_fresh("f", &events).await)), around);
    // In the one that was checkpointed too: what it put away is needed again.
    assert_eq!(json(&world.result("f", &events).await), around);
    // A hook that fails forbids the checkpoint.
    world.deregister("f").await;
    register(&world, "g", language, |_| {}).await;
    assert_eq!(world.result("g", &json!({"do": "break"})).await, "broken");
    until("the refusal to be logged", async || world.server.log().contains("deliberate")).await;
    assert_eq!(world.describe("g").await["snapshot"]["state"], "none");
    assert_eq!(seen(&world.call_fresh("g", &json!({})).await), pair("template", "1"));
}

async fn a_connection_does_not_survive_in_a_copy(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    register(&world, "f", language, |_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = json!({"do": "connect", "port": port});
    let called = world.call("f", &connect);
    let accepted = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.write_all(b"hello").await.unwrap();
        peer
    };
    let (reply, mut peer) = tokio::join!(called, accepted);
    assert_eq!(result(&reply), "hello");
    world.checkpointed("f").await;
    let used = result(&world.call_fresh("f", &json!({"do": "use"})).await);
    assert_eq!(used, "reset");
    // The sandbox that was checkpointed went on with its own.
    peer.write_all(b"again").await.unwrap();
    assert_eq!(world.result("f", &json!({"do": "use"})).await, "again");
}

/// Here alone: what another thread prints goes through its channel at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_one_that_waited_for_room_finds_it() {
    let Some(world) = world(Default::default(), &PYTHON).await else { return };
    register(&world, "f", &PYTHON, |_| {}).await;
    assert_eq!(world.result("f", &json!({"do": "chatter"})).await, "chatters");
    // By now nobody reads what it prints, and its thread holds what an answer needs.
    world.checkpointed("f").await;
    for _ in 0..3 {
        assert_eq!(result(&world.call_fresh("f", &json!({})).await), "2");
    }
}

async fn a_copy_that_crashes_costs_its_own_request_only(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    register(&world, "f", language, |_| {}).await;
    world.result("f", &json!({})).await;
    world.checkpointed("f").await;
    for _ in 0..3 {
        let reply = world.call_fresh("f", &json!({"do": "crash"})).await;
        expect_error(&reply, 502, "died", "ended before it answered");
        assert_eq!(seen(&world.call_fresh("f", &json!({})).await), pair("restore", "2"));
    }
    assert_eq!(world.result("f", &json!({})).await, "2");
}

async fn a_hydra_that_is_killed_leaves_a_snapshot_or_none(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut world) = world(options_in(folder.path()), language).await else { return };
    for round in 0..4 {
        register(&world, "f", language, |_| {}).await;
        let found = seen(&world.call("f", &json!({})).await);
        assert!([pair("template", "1"), pair("restore", "2")].contains(&found), "{round}: {found:?}");
        // In the middle of what follows the first answer, or of a copy's life.
        kill(Pid::from_raw(world.pid().cast_signed()), Signal::SIGKILL).unwrap();
        world = restarted(world, options_in(folder.path())).await;
    }
    register(&world, "f", language, |_| {}).await;
    world.result("f", &json!({})).await;
    world.checkpointed("f").await;
    assert_eq!(seen(&world.call_fresh("f", &json!({})).await).0, "restore");
}

async fn a_copy_that_served_is_put_back_and_knows_nothing_of_it(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    // Every request finds the checkpoint, without having to ask for it.
    let isolated = Registration { isolation: Some("request".into()), ..registration(&world, "f", language) };
    expect(&world.client.register(&isolated).await.unwrap(), 200);
    world.result("f", &json!({})).await;
    world.checkpointed("f").await;
    let mut starts = BTreeSet::new();
    let mut call = async |body: Value| {
        let reply = world.call("f", &body).await;
        starts.extend(reply.start_kind());
        reply
    };
    for round in 0..30 {
        assert_eq!(result(&call(json!({})).await), "2", "round {round}");
        assert_eq!(result(&call(json!({"do": "write", "text": "secret"})).await), "written");
        let read = call(json!({"do": "read"})).await;
        // The message of each language names the file that is not there.
        expect(&read, 500);
        assert!(read.body.contains("note"), "round {round}: {}", read.body);
    }
    assert!(starts.contains("reset"), "{starts:?}");
    // It is taken away in the middle of its waiting, and sees no end at which it would clean up.
    assert!(!world.server.log().contains("cleaned up"), "{}", world.server.log());
    // One that crashed is not put back, and is not missed.
    expect_error(&world.call("f", &json!({"do": "crash"})).await, 502, "died", "ended before it answered");
    assert_eq!(world.result("f", &json!({})).await, "2");
}

/// So many copies of one snapshot are alive at once.
const COPIES: u32 = 100;

async fn many_copies_live_at_once(language: &Language) {
    let Some(world) = world(crate::world::options(&["--max-requests", "512"]), language).await else {
        return;
    };
    register(&world, "f", language, |r| {
        // The first wait until the last one is there.
        (r.concurrency, r.timeout) = (Some(COPIES), Some(600_000));
    })
    .await;
    world.result("f", &json!({})).await;
    world.checkpointed("f").await;
    let before = private_memory(world.pid());
    let held = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", world.pid())).unwrap().count();
    let descriptors = held("fd");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wait = json!({"do": "wait", "port": listener.local_addr().unwrap().port()}).to_string();
    let callers: Vec<_> = (0..COPIES)
        .map(|_| {
            let (client, wait) = (world.client.clone(), wait.clone());
            tokio::spawn(async move { client.invoke("f", &wait).await.unwrap() })
        })
        .collect();
    let mut peers: Vec<TcpStream> = Vec::new();
    while peers.len() < COPIES as usize {
        peers.push(tokio::time::timeout(crate::world::PATIENCE, listener.accept()).await.unwrap().unwrap().0);
    }
    assert_eq!(world.sandboxes("f", "busy").await, u64::from(COPIES));
    let each = private_memory(world.pid()).saturating_sub(before) / u64::from(COPIES);
    let descriptors = held("fd").saturating_sub(descriptors) / COPIES as usize;
    eprintln!("{COPIES} copies: {} KiB of memory (PSS) and {descriptors} descriptors each", each >> 10);
    // Connections and vCPUs among them. Libraries and folders are open once for all.
    assert!(descriptors < 40, "{descriptors}");
    for peer in &mut peers {
        peer.write_all(b"go").await.unwrap();
    }
    let mut starts = BTreeSet::new();
    for caller in callers {
        let (start, result) = seen(&caller.await.unwrap());
        assert_eq!(result, "go");
        starts.insert(start);
    }
    assert!(
        starts.contains("restore") && !starts.contains("cold") && !starts.contains("template"),
        "{starts:?}"
    );
    world.deregister("f").await;
    until("the microVMs' threads to end", async || held("task") < 100).await;
}

/// Memory that would be freed if the process ended, in bytes, shared pages in parts: proc(5), `smaps_rollup`.
pub fn private_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_ready_for_ever() {
    let Some(world) = world(crate::world::options(&["--idle-time", "300"]), &PYTHON).await else { return };
    register(&world, "f", &PYTHON, |_| {}).await;
    let none = json!({});
    assert_eq!(seen(&world.call("f", &none).await), pair("template", "1"));
    world.checkpointed("f").await;
    // Each program in a microVM has one such thread: the function's, those of its copies, and that of the template's copy.
    let guests = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", world.pid())).unwrap();
        let names =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "guest-events").count()
    };
    until("all microVMs to go", async || guests() == 0).await;
    // And all goes on as before.
    assert_eq!(seen(&world.call("f", &none).await), pair("restore", "2"));
    register(&world, "g", &PYTHON, |_| {}).await;
    assert_eq!(seen(&world.call("g", &none).await), pair("template", "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_microvms_of_a_function_did_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), &PYTHON).await else { return };
    register(&world, "f", &PYTHON, |_| {}).await;
    let none = json!({});
    expect(&world.call("f", &none).await, 200);
    world.checkpointed("f").await;
    let before = world.describe("f").await["snapshot"].clone();
    assert!(before["madeUs"].as_u64().unwrap() >= before["pauseUs"].as_u64().unwrap(), "{before}");
    expect(&world.call_fresh("f", &none).await, 200);
    let after = world.describe("f").await["snapshot"].clone();
    for name in ["systemCalls", "entries", "guestNs"] {
        let [before, after] = [&before, &after].map(|snapshot| snapshot["guest"][name].as_u64().unwrap());
        assert!(after > before, "{name}: {before}, then {after}");
    }
    let metrics = world.client.get("/metrics").await.unwrap().body;
    let restores = r#"hydra_guest_events_total{function="f",what="restores"} "#;
    assert!(metrics.contains(restores), "{metrics}");
    world.deregister("f").await;
    assert!(!world.client.get("/metrics").await.unwrap().body.contains(restores));
}
