//! Snapshots of real programs, in a store on disk.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use hydra::linux::identity::Identity;
use hydra::linux::net::Policy;
use hydra::linux::{Config, ExitStatus, Guest, Inherited, Mount, Rights, Surroundings};
use hydra::snapshot::{Expected, Snapshot, Store};
use hydra::vmm::{Cpu, Hypervisor};

const MEMORY: u64 = 128 << 20;
const PYTHON: &str = "/usr/bin/python3.11";
/// Answers each line with its own number of answers, the line and something from before the checkpoint.
const ANSWER: &str = "import sys, json\nready = json.dumps({'state': list(range(3))})\nprint('ready', flush=True)\n\
    for n, line in enumerate(sys.stdin): print(n, line.strip(), ready, flush=True)";

/// The CPU, if microVMs can run; if not, says so. `HYDRA_REQUIRE_KVM` turns that into a failure.
fn cpu(test: &str) -> Option<Cpu> {
    match Hypervisor::get() {
        Ok(hypervisor) => Some(Cpu::of_host(hypervisor)),
        Err(error) => {
            assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
            eprintln!("{test} skipped: {error}");
            None
        }
    }
}

fn expected(svmid: u64) -> Expected {
    Expected {
        svmid,
        function: "answer".into(),
        language: "python".into(),
        settings: BTreeMap::new(),
        code: "code".into(),
        runtime: "runtime".into(),
        memory: MEMORY,
    }
}

fn mounts() -> Vec<Mount> {
    vec![Mount { source: "/".into(), target: "/".into(), read_only: true }]
}

/// Descriptors 0 to 2 of a program whose input and output are `end`.
fn descriptors(end: &UnixStream) -> Vec<Inherited> {
    let copy = || end.try_clone().expect("a descriptor").into();
    (0..3).map(|_| Inherited::Host(copy(), libc::O_RDWR as u32)).collect()
}

fn start(end: &UnixStream) -> Guest {
    let arguments = [PYTHON, "-I", "-S", "-c", ANSWER];
    let config = Config {
        memory: MEMORY,
        mounts: mounts(),
        program: PYTHON.into(),
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: vec![b"LANG=C.UTF-8".to_vec()],
        working_directory: "/".into(),
        descriptors: descriptors(end),
        umask: 0o022,
        identity: Identity::of_this_process(),
        network: Policy::Closed,
        rights: Rights::Own,
        trace: false,
        counters: Default::default(),
    };
    Guest::start(config).expect("the program starts")
}

/// A clone of the snapshot, and our end of its input and output.
fn clone_of(snapshot: &Snapshot) -> (Guest, BufReader<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let surroundings = Surroundings {
        mounts: mounts(),
        descriptors: descriptors(&theirs),
        network: Policy::Closed,
        rights: Rights::Own,
        trace: false,
        counters: Default::default(),
    };
    (snapshot.restore(surroundings).expect("the program is restored"), BufReader::new(ours))
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line");
    line
}

fn ask(stream: &mut BufReader<UnixStream>, question: &str) -> String {
    writeln!(stream.get_mut(), "{question}").expect("the question is sent");
    line(stream)
}

fn answer(number: u32, question: &str) -> String {
    format!("{number} {question} {{\"state\": [0, 1, 2]}}\n")
}

/// A snapshot of the program when it has answered once; the program itself goes on and ends.
fn saved(store: &Store, svmid: u64) -> Arc<Snapshot> {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut stream = BufReader::new(ours);
    let guest = start(&theirs);
    drop(theirs);
    assert_eq!(line(&mut stream), "ready\n");
    assert_eq!(ask(&mut stream, "first"), answer(0, "first"));
    let staging = store.stage(&expected(svmid), None).expect("room");
    let checkpoint = guest.checkpoint().expect("a checkpoint");
    let draft = staging.write(&checkpoint).expect("a draft");
    drop(checkpoint);
    assert_eq!(ask(&mut stream, "second"), answer(1, "second"));
    let snapshot = draft.commit().expect("a snapshot");
    drop(stream);
    assert_eq!(guest.wait().expect("the program ends"), ExitStatus::Code(0));
    snapshot
}

/// Bytes of this process's memory that it shares with no other, or its part of what it shares.
fn proportional_set_size() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn two_hundred_clones_are_alive_at_once() {
    const CLONES: usize = 200;
    let Some(cpu) = cpu("two_hundred_clones_are_alive_at_once") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), cpu.clone()).expect("a store");
    drop(saved(&store, 7));
    drop(store);
    // As after a restart: all there is lies on the disk.
    let store = Store::open(folder.path(), cpu).expect("a store");
    let snapshot = store.find(&expected(7)).expect("no refusal").expect("a snapshot");
    let before = proportional_set_size();
    let mut clones: Vec<_> = (0..CLONES).map(|_| clone_of(&snapshot)).collect();
    // Removed below them.
    assert!(store.remove(7).expect("it is removed"));
    drop(snapshot);
    for (i, (_, stream)) in clones.iter_mut().enumerate() {
        let question = format!("clone {i}");
        assert_eq!(ask(stream, &question), answer(1, &question));
    }
    let each = (proportional_set_size() - before) / CLONES as u64;
    eprintln!("{CLONES} clones: {} KiB of memory each (PSS)", each >> 10);
    for (guest, stream) in clones {
        drop(stream);
        assert_eq!(guest.wait().expect("the clone ends"), ExitStatus::Code(0));
    }
}

fn hydra(app_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydra"));
    command.arg("snapshot").args(arguments).arg("--app-dir").arg(app_dir);
    command.output().expect("hydra runs")
}

/// What a command that has to succeed prints.
fn printed(app_dir: &Path, arguments: &[&str]) -> String {
    let output = hydra(app_dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a command that has to fail says.
fn refused(app_dir: &Path, arguments: &[&str]) -> String {
    let output = hydra(app_dir, arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn the_command_line_lists_shows_and_removes() {
    let Some(cpu) = cpu("the_command_line_lists_shows_and_removes") else { return };
    let app_dir = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| printed(app_dir.path(), arguments);
    assert_eq!(run(&["list"]).lines().count(), 1, "titles alone");
    assert!(refused(app_dir.path(), &["show", "7"]).contains("there is no snapshot with svmid 7"));
    assert!(refused(app_dir.path(), &["remove", "7"]).contains("there is no snapshot with svmid 7"));

    // The store stays open, as in a server.
    let folder = app_dir.path().join("snapshots");
    let store = Store::open(&folder, cpu).expect("a store");
    let snapshot = saved(&store, 7);
    let list = run(&["list"]);
    assert!(
        list.lines().nth(1).is_some_and(|line| line.starts_with("7 ") && line.contains(" answer ")),
        "{list}"
    );
    let shown = run(&["show", "7"]);
    assert!(shown.contains("128 MiB, ") && shown.ends_with("checksums  match\n"), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&run(&["list", "--json"])).expect("JSON");
    assert_eq!(json[0]["function"], "answer");

    let memory = OpenOptions::new().read(true).write(true).open(folder.join("7/memory")).expect("the memory");
    let flip = || {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, 0x2345).and_then(|()| memory.write_all_at(&[byte[0] ^ 16], 0x2345))
    };
    flip().expect("a bit flips");
    let reason = "the snapshot with svmid 7 is not used: its file `memory` is damaged";
    assert!(refused(app_dir.path(), &["show", "7"]).contains(reason));
    flip().expect("it flips back");
    run(&["show", "7"]);

    run(&["remove", "7"]);
    assert_eq!(run(&["list"]).lines().count(), 1);
    assert!(store.find(&expected(7)).expect("no refusal").is_none());
    // Who has it open goes on.
    let (guest, mut stream) = clone_of(&snapshot);
    assert_eq!(ask(&mut stream, "late"), answer(1, "late"));
    drop(stream);
    assert_eq!(guest.wait().expect("the clone ends"), ExitStatus::Code(0));
}
