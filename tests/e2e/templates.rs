//! Templates: what functions of a language have in common before they are themselves.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use hydra_harness::paths::hydra_binary;
use hydra_harness::{Client, Server};
use serde_json::{Value, json};

use crate::snapshots::{in_each_language, pair, register, seen, world};
use crate::world::{Language, World, expect, json, options_in, result, until};

in_each_language! {
    functions_begin_as_copies_of_one_template
    functions_share_no_randomness
    each_size_of_memory_has_its_template
    without_its_template_a_snapshot_is_made_anew
    a_damaged_template_is_made_anew
    none_is_made_where_nothing_is_made_ahead
}

fn snapshot(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(hydra_binary().unwrap());
    command.args(["snapshot", "--app-dir"]).arg(folder).args(arguments).output().unwrap()
}

/// The manifests of all snapshots in the language: those of templates, and the others.
fn listed(folder: &Path, language: &Language) -> (Vec<Value>, Vec<Value>) {
    let output = snapshot(folder, &["list", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of_language = all.into_iter().filter(|manifest| manifest["language"] == language.name);
    of_language.partition(|manifest| manifest["function"] == "(template)")
}

/// Another server in the same folder, when the first has stopped and what is to be done `between` is done.
async fn again(world: World, folder: &Path, between: impl FnOnce()) -> World {
    let World { server, code, .. } = world;
    server.stop().await.unwrap();
    between();
    let server = Server::start(options_in(folder)).await.unwrap();
    let client = Client::new(server.base());
    World { server, code, client }
}

/// How often a template of the language was made.
fn made(world: &World, language: &Language) -> usize {
    world.server.log().matches(&format!("template made language={}", language.name)).count()
}

/// Calls functions that were never seen before, until they have snapshots.
async fn first_calls(world: &World, names: &[&str], language: &Language) {
    for name in names {
        register(world, name, language, |_| {}).await;
        assert_eq!(seen(&world.call(name, &json!({})).await), pair("template", "1"));
        world.checkpointed(name).await;
    }
}

async fn functions_begin_as_copies_of_one_template(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), language).await else { return };
    first_calls(&world, &["f", "g"], language).await;
    assert_eq!(made(&world, language), 1, "{}", world.server.log());
    for name in ["f", "g"] {
        assert_eq!(seen(&world.call_fresh(name, &json!({})).await), pair("restore", "2"));
    }
    let (templates, functions) = listed(folder.path(), language);
    assert_eq!((templates.len(), functions.len()), (1, 2));
    let template = &templates[0];
    assert_eq!((&template["language"], &template["parent"]), (&json!(language.name), &Value::Null));
    for function in &functions {
        assert_eq!(function["parent"]["svmid"], template["svmid"]);
        let bytes = |of: &Value, what| of["memory"][what].as_u64().unwrap();
        // Most of the template is not in it.
        let most = bytes(function, "inUse") - bytes(template, "stored") / 2;
        assert!(bytes(function, "stored") < most, "{function:#} {template:#}");
    }
    let number = template["svmid"].to_string();
    let shown = snapshot(folder.path(), &["show", &functions[0]["svmid"].to_string()]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains(&format!("builds on  {number}")), "{text}");

    // All of them are found by the next Hydra.
    let world = again(world, folder.path(), || {}).await;
    register(&world, "f", language, |_| {}).await;
    assert_eq!(seen(&world.call("f", &json!({})).await), pair("restore", "2"));
    first_calls(&world, &["h"], language).await;
    assert_eq!(made(&world, language), 0, "{}", world.server.log());
    assert_eq!(listed(folder.path(), language).0, templates);
}

async fn functions_share_no_randomness(language: &Language) {
    let Some(world) = world(Default::default(), language).await else { return };
    let mut identities: Vec<Value> = Vec::new();
    for name in ["f", "g", "h"] {
        register(&world, name, language, |_| {}).await;
        let reply = world.call(name, &json!({"do": "identity"})).await;
        expect(&reply, 200);
        assert_eq!(reply.start_kind().as_deref(), Some("template"));
        identities.push(json(&result(&reply)));
    }
    for (key, value) in identities[0].as_object().unwrap() {
        // What is meant to repeat, and what is not random.
        if matches!(key.as_str(), "same" | "time" | "back") {
            continue;
        }
        let different: BTreeSet<String> = identities.iter().map(|one| one[key].to_string()).collect();
        assert_eq!(different.len(), identities.len(), "{key}: {value}, {different:?}");
    }
}

async fn each_size_of_memory_has_its_template(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), language).await else { return };
    for (name, memory) in [("f", 256), ("g", 300), ("h", 256)] {
        register(&world, name, language, |r| r.memory = Some(memory)).await;
        assert_eq!(seen(&world.call(name, &json!({})).await), pair("template", "1"));
    }
    let size = |of: &Value| of["memory"]["bytes"].as_u64().unwrap() >> 20;
    let sizes: Vec<u64> = listed(folder.path(), language).0.iter().map(size).collect();
    for memory in [256, 300] {
        assert_eq!(sizes.iter().filter(|size| **size == memory).count(), 1, "{sizes:?}");
        let log = world.server.log();
        assert_eq!(log.matches(&format!("memory_mib={memory}")).count(), 1, "{log}");
    }
}

async fn without_its_template_a_snapshot_is_made_anew(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), language).await else { return };
    first_calls(&world, &["f"], language).await;
    let remove = || {
        let number = listed(folder.path(), language).0[0]["svmid"].to_string();
        assert!(snapshot(folder.path(), &["remove", &number]).status.success());
    };
    // While Hydra runs: who builds upon it goes on, and the next function gets a new one.
    remove();
    assert_eq!(seen(&world.call_fresh("f", &json!({})).await), pair("restore", "2"));
    first_calls(&world, &["g"], language).await;
    assert_eq!(made(&world, language), 2, "{}", world.server.log());
    assert_eq!(seen(&world.call_fresh("g", &json!({})).await), pair("restore", "2"));
    let world = again(world, folder.path(), || {}).await;
    // The one upon the first template is refused, the one upon the second is not.
    register(&world, "g", language, |_| {}).await;
    assert_eq!(seen(&world.call("g", &json!({})).await), pair("restore", "2"));
    first_calls(&world, &["f"], language).await;
    assert!(
        world.server.log().contains("which it builds upon, is another than it was"),
        "{}",
        world.server.log()
    );
    remove();
    let world = again(world, folder.path(), || {}).await;
    first_calls(&world, &["f"], language).await;
    assert!(world.server.log().contains("which it builds upon, is gone"), "{}", world.server.log());
    assert_eq!(made(&world, language), 1, "{}", world.server.log());
}

async fn a_damaged_template_is_made_anew(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), language).await else { return };
    first_calls(&world, &["f"], language).await;
    let number = listed(folder.path(), language).0[0]["svmid"].to_string();
    let path = folder.path().join("snapshots").join(number).join("memory");
    let damage = || {
        let memory = OpenOptions::new().read(true).write(true).open(path).unwrap();
        // In a page table: the guest would not get far with it.
        let mut byte = [0];
        memory.read_exact_at(&mut byte, 0x5000).unwrap();
        memory.write_all_at(&[byte[0] ^ 0x10], 0x5000).unwrap();
    };
    let world = again(world, folder.path(), damage).await;
    first_calls(&world, &["f", "g"], language).await;
    let log = world.server.log();
    assert!(log.contains("which it builds upon, is not usable: its file `memory` is damaged"), "{log}");
    assert_eq!(made(&world, language), 1, "{log}");
}

async fn none_is_made_where_nothing_is_made_ahead(language: &Language) {
    let folder = tempfile::tempdir().unwrap();
    let args = vec!["--ahead".into(), "false".into()];
    let options = hydra_harness::ServerOptions { args, ..options_in(folder.path()) };
    let Some(world) = world(options, language).await else { return };
    let none = json!({});
    for name in ["f", "g"] {
        register(&world, name, language, |_| {}).await;
        assert_eq!(seen(&world.call(name, &none).await), pair("cold", "1"));
        world.checkpointed(name).await;
        assert_eq!(seen(&world.call_fresh(name, &none).await), pair("restore", "2"));
    }
    assert_eq!(made(&world, language), 0);
    // What a copy touched is known for the next ones, also when it is not put back.
    let known = || {
        let snapshots = std::fs::read_dir(folder.path().join("snapshots")).unwrap();
        snapshots.filter(|folder| folder.as_ref().unwrap().path().join("working-set").exists()).count()
    };
    until("both working sets are known", async || known() == 2).await;
}
