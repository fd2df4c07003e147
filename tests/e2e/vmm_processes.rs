//! What is particular to `snapshot-process`: the process in which the microVMs of a function are.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hydra::jail::{Layer, probe, use_init_program};
use hydra_harness::ServerOptions;
use serde_json::json;

use crate::processes::{Process, agents};
use crate::snapshots::{pair, register, seen, world};
use crate::world::{Cell, Language, PYTHON, World, expect_error, options_in, skip, until};

const JAILED: Language = Language { snapshots_in: "snapshot-process", ..PYTHON };

/// The VMM processes of functions: there is another that waits for one.
async fn of_functions(world: &World, count: usize) -> Vec<Process> {
    let with_code = |process: &Process| {
        fs::read_dir(format!("/proc/{}/root/function", process.pid)).is_ok_and(|folder| folder.count() > 0)
    };
    let mut found = Vec::new();
    until("the VMM processes", async || {
        found = agents(world.pid(), "jail-vmm").into_iter().filter(with_code).collect();
        found.len() == count
    })
    .await;
    found
}

/// What a process has open that is a file of the folder `below`.
fn open_files(process: &Process, below: &Path) -> BTreeSet<String> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap().flatten();
    let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    let below = files.filter_map(|file| Some(file.strip_prefix(below).ok()?.to_string_lossy().into_owned()));
    below.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_process_is_jailed_and_has_but_its_functions_files() {
    use_init_program(Path::new(env!("CARGO_BIN_EXE_hydra")));
    let layers = probe();
    if let Some(reason) = layers.missing(Layer::Mount) {
        return skip("what a VMM process can reach", reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(world) = world(options_in(folder.path()), &JAILED).await else { return };
    for (name, svmid) in [("one", 7), ("other", 8)] {
        register(&world, name, &JAILED, |r| r.svmid = Some(svmid)).await;
        world.result(name, &json!({})).await;
        world.checkpointed(name).await;
        world.call_fresh(name, &json!({})).await;
    }
    let processes = of_functions(&world, 2).await;
    let mut own = BTreeSet::new();
    for process in &processes {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        let has = |line: &str| assert!(status.contains(line), "no {line:?} in {status}");
        if layers.has(Layer::Privileges) {
            has("CapEff:\t0000000000000000");
            has("NoNewPrivs:\t1");
        }
        if layers.has(Layer::Seccomp) {
            has("Seccomp:\t2");
        }
        if layers.has(Layer::Identity) {
            assert_ne!(fs::metadata(format!("/proc/{}", process.pid)).unwrap().uid(), 0);
        }
        for place in ["root/root", "root/home", "root/dev/kvm"] {
            assert!(!Path::new(&format!("/proc/{}/{place}", process.pid)).exists(), "{place}");
        }
        // The template's, which none of them can write to, and its own.
        let snapshots: Vec<_> = open_files(process, &folder.path().join("snapshots"))
            .iter()
            .filter_map(|file| file.split_once('/')?.0.parse::<u64>().ok())
            .collect();
        let of_functions: Vec<_> = snapshots.iter().copied().filter(|svmid| *svmid < 1 << 32).collect();
        assert!(snapshots.len() <= 2 && of_functions.len() == 1, "{snapshots:?}");
        own.extend(of_functions);
    }
    assert_eq!(own, BTreeSet::from([7, 8]));
    until("what they did to be counted", async || {
        world.describe("one").await["snapshot"]["guest"]["resets"].as_u64() > Some(0)
    })
    .await;
    // With its function goes the process.
    world.deregister("one").await;
    of_functions(&world, 1).await;
    // Hydra waits for the end of no program of its own.
    let hydra = fs::read_dir(format!("/proc/{}/task", world.pid())).unwrap().flatten();
    let threads: Vec<_> =
        hydra.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).collect();
    assert!(!threads.iter().any(|name| name.starts_with("guest-end")), "{threads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_in_a_jail_is_not_restored_outside_of_one() {
    let Some(world) = world(Default::default(), &JAILED).await else { return };
    for (language, kind) in [(JAILED, "snapshot-process"), (PYTHON, "snapshot"), (JAILED, "snapshot-process")]
    {
        register(&world, "f", &language, |r| r.svmid = Some(7)).await;
        assert_eq!(seen(&world.call("f", &json!({})).await), pair("template", "1"), "{kind}");
        world.checkpointed("f").await;
        let other = crate::snapshots::registration(&world, "other", &PYTHON);
        let other = hydra_harness::Registration { svmid: Some(7), ..other };
        expect_error(&world.client.register(&other).await.unwrap(), 409, "conflict", "'f'");
        world.deregister("f").await;
    }
    assert!(world.server.log().contains("made anew"), "{}", world.server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_no_program_is_ended_itself() {
    let Some(world) = world(Default::default(), &JAILED).await else { return };
    let name = world
        .register(&Cell { kind: "snapshot-process", language: PYTHON }, "hangs", |r| r.timeout = Some(500))
        .await;
    world.result(&name, &json!({"do": "count"})).await;
    world.checkpointed(&name).await;
    let process = of_functions(&world, 1).await.remove(0);
    process.stop().await;
    expect_error(&world.call(&name, &json!({"do": "count"})).await, 504, "timeout", "500 ms");
    until("the process to be ended", async || !process.is_alive()).await;
    assert_eq!(world.result(&name, &json!({"do": "count"})).await, "2");
    assert!(world.server.log().contains("it did not end a microVM"), "{}", world.server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_started_when_hydras_executable_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let built = hydra_harness::paths::hydra_binary().unwrap();
    let agents = built.ancestors().nth(2).unwrap().join("agents");
    let [binary, another] = ["hydra", "another"].map(|name| folder.path().join(name));
    fs::copy(&built, &binary).unwrap();
    let options = ServerOptions {
        binary: Some(binary.clone()),
        args: ["--ahead", "false"].map(Into::into).into(),
        env: vec![("HYDRA_AGENTS".into(), agents.into())],
        ..ServerOptions::default()
    };
    let Some(world) = world(options, &JAILED).await else { return };
    fs::write(&another, "").unwrap();
    fs::rename(&another, &binary).unwrap();
    register(&world, "f", &JAILED, |_| {}).await;
    world.result("f", &json!({})).await;
}
