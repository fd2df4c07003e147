//! The built agent in both modes, over real sockets, with functions built from `tests/fixtures/native`.
#![allow(clippy::unwrap_used)]

mod peer;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use peer::{Agent, CLOSED, Channel, HELLO, Host, INVOKE, LOAD_FAILED, LOADED};
use serde_json::json;

const AGENT: &str = env!("CARGO_BIN_EXE_hydra-agent-native");

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/native")
}

/// The fixture of this name, built once.
fn fixture(name: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("native-{}", std::process::id()));
        let status = Command::new(fixtures().join("build.sh")).arg(&out).status().unwrap();
        assert!(status.success(), "build.sh needs a C compiler: {status}");
        out
    });
    BUILT.join(name).with_extension("so")
}

/// An agent in function mode that has loaded a fixture.
fn function(name: &str) -> Agent {
    let mut agent = Agent::start(&[AGENT], "--function");
    agent.channel.expect(HELLO);
    agent.channel.load(&fixture(name), None, Path::new("/tmp"));
    agent.channel.expect(LOADED);
    agent
}

fn load_failure(code: &Path, entry_point: Option<&str>) -> String {
    let mut agent = Agent::start(&[AGENT], "--function");
    agent.channel.expect(HELLO);
    agent.channel.load(code, entry_point, Path::new("/tmp"));
    let failure = agent.channel.expect_json(LOAD_FAILED);
    assert_eq!(failure["type"], "LoadError");
    assert_eq!(agent.end().0.code(), Some(0));
    failure["message"].as_str().unwrap().to_owned()
}

#[test]
fn serves_a_function_until_its_channel_ends() {
    let mut agent = Agent::start(&[AGENT], "--function");
    let hello = agent.channel.expect_json(HELLO);
    assert_eq!((&hello["protocol"], &hello["language"]), (&json!(1), &json!("native")));
    assert!(hello["runtime"].as_str().unwrap().starts_with("hydra-agent-native "));
    assert!(hello.get("token").is_none());

    agent.channel.load(&fixture("echo"), None, Path::new("/tmp/with \"quotes\""));
    assert_eq!(agent.channel.expect(LOADED), "");
    let tmp_dir = r#""tmpDir":"/tmp/with \"quotes\"""#;
    assert_eq!(agent.channel.invoke(r#"{"a": 1.50}"#), format!(r#"{{"a":1.50,{tmp_dir}}}"#));
    assert_eq!(agent.channel.invoke(""), format!("{{{tmp_dir}}}"));
    assert_eq!(agent.channel.invoke("[1, 2]"), "[1, 2]");
    assert_eq!(agent.channel.invoke("plain text"), "plain text");
    for number in 0..200 {
        assert_eq!(agent.channel.invoke(&number.to_string()), number.to_string());
    }
    let (status, stdout, stderr) = agent.end();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn the_entry_point_names_the_symbol() {
    let mut agent = Agent::start(&[AGENT], "--function");
    agent.channel.expect(HELLO);
    agent.channel.load(&fixture("echo"), Some("shout"), Path::new("/tmp"));
    agent.channel.expect(LOADED);
    assert_eq!(agent.channel.invoke("loud"), "LOUD");
    agent.end();
}

#[test]
fn a_function_writes_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&[AGENT], "--function");
    agent.channel.expect(HELLO);
    agent.channel.load(&fixture("writes_tmp"), None, directory.path());
    agent.channel.expect(LOADED);
    let written = agent.channel.invoke("{}");
    assert_eq!(std::fs::read_to_string(&written).unwrap(), "by a function\n");
    assert!(Path::new(&written).starts_with(directory.path()));
    agent.end();
}

#[test]
fn results_may_be_large_but_not_larger_than_allowed() {
    let mut agent = Agent::start(&[AGENT], "--function");
    agent.channel.expect(HELLO);
    agent.channel.load_with(&fixture("large"), None, Path::new("/tmp"), 8 << 20);
    agent.channel.expect(LOADED);
    for length in [0, 256, 5 << 20, 1, 8 << 20] {
        let result = agent.channel.invoke(&length.to_string());
        assert_eq!(result.len(), length);
        assert!(result.bytes().all(|byte| byte == b'x'));
    }
    agent.end();

    let mut agent = function("unterminated");
    assert_eq!(agent.channel.invoke_raising("fill")["type"], "ResultTooLarge");
    // Neither that result nor an earlier one shows through.
    assert_eq!(agent.channel.invoke("one"), "x");
    assert_eq!(agent.channel.invoke("one"), "x");
    agent.end();
}

#[test]
fn what_cannot_be_passed_on_is_raised_and_leaves_the_function_usable() {
    let mut agent = function("not_utf8");
    assert_eq!(agent.channel.invoke_raising("bytes")["type"], "InvalidResult");
    assert_eq!(agent.channel.invoke("text"), "café");
    let raised = agent.channel.invoke_raising("nul \0 inside");
    assert_eq!(raised["type"], "InvalidArguments");
    assert!(raised["message"].as_str().unwrap().contains("NUL character at byte 4"), "{raised}");
    assert_eq!(agent.channel.invoke("text"), "café");
    agent.end();
}

#[test]
fn what_a_function_prints_goes_to_the_agents_own_output() {
    let mut agent = function("print");
    assert_eq!(agent.channel.invoke_logged("{}"), (peer::RESULT, "printed".into(), vec![]));
    let (status, stdout, stderr) = agent.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(stdout, "to standard output\nunfinished");
    assert_eq!(stderr, "to standard error\n");
}

#[test]
fn a_crash_ends_the_agent() {
    for name in ["crash", "overrun"] {
        let mut agent = function(name);
        agent.channel.send(INVOKE, b"{}");
        assert!(agent.channel.receive().is_none(), "{name}");
        assert_eq!(agent.end().0.signal(), Some(11), "{name}");
    }
}

#[test]
fn code_that_is_no_function_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.so");
    std::fs::write(&text, "this is not a shared object").unwrap();
    assert!(load_failure(&text, None).contains("not a 64-bit ELF file"));

    let foreign = directory.path().join("foreign.so");
    let mut elf = std::fs::read(fixture("echo")).unwrap();
    elf[18] = 183; // EM_AARCH64
    std::fs::write(&foreign, &elf).unwrap();
    assert!(load_failure(&foreign, None).contains("ELF machine 183, not x86-64"));

    let truncated = directory.path().join("truncated.so");
    std::fs::write(&truncated, &std::fs::read(fixture("echo")).unwrap()[..2000]).unwrap();
    let message = load_failure(&truncated, None);
    assert!(
        message.contains("truncated.so is not a function for this machine: it is truncated"),
        "{message}"
    );

    let message = load_failure(&fixture("incomplete"), None);
    assert!(message.contains("does not export graal_create_isolate, graal_tear_down_isolate:"), "{message}");
    let message = load_failure(&fixture("echo"), Some("absent"));
    assert!(message.contains("does not export absent:"), "{message}");
    assert_eq!(load_failure(&fixture("refuses"), None), "graal_create_isolate failed with code 801");
    assert!(load_failure(Path::new("/nowhere.so"), None).contains("No such file"));
}

#[test]
fn a_broken_protocol_ends_the_agent_with_status_70() {
    let frames: [&[u8]; 6] = [
        &[1, 0, 0, 4, 0x82, 0, 0, 0], // too long
        &[0, 0, 0, 0, 0x44, 0, 0, 0], // unknown kind
        &[0, 0, 0, 0, 0x82, 1, 0, 0], // reserved bytes
        &[0, 0, 0, 0, 0x82, 0, 0, 0], // INVOKE before LOAD
        &[2, 0, 0, 0, 0x81, 0, 0, 0, b'{', b'}'],
        &[0, 0, 0, 0, 0x91, 0, 0, 0], // OPEN on a function channel
    ];
    for frame in frames {
        let mut agent = Agent::start(&[AGENT], "--function");
        agent.channel.expect(HELLO);
        std::io::Write::write_all(&mut agent.channel.0, frame).unwrap();
        assert!(agent.channel.receive().is_none());
        assert_eq!(agent.end().0.code(), Some(70), "{frame:?}");
    }
}

#[test]
fn the_command_line_is_checked() {
    for arguments in
        [&[][..], &["--function"], &["--both", "3"], &["--host", "x"], &["--host", "1"], &["--host", "99"]]
    {
        let output = Command::new(AGENT).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}

fn load_isolate(channel: &mut Channel, name: &str) {
    channel.load(&fixture(name), None, Path::new("/tmp"));
    channel.expect(LOADED);
}

fn closed(isolate: u64, reason: &str) -> serde_json::Value {
    json!({"isolate": isolate, "reason": reason, "outOfMemory": false})
}

#[test]
fn a_host_keeps_isolates_of_one_library_apart() {
    let mut host = Host::start(&[AGENT]);
    assert_eq!(host.hello["language"], "native");
    // Without waiting in between; they may connect in any order.
    for isolate in [7, 8, 9] {
        host.open(isolate);
    }
    let mut isolates: Vec<_> = (0..3).map(|_| host.accept()).collect();
    isolates.sort_by_key(|(isolate, _)| *isolate);
    for (number, (_, channel)) in isolates.iter_mut().enumerate() {
        load_isolate(channel, "isolates");
        let expected = json!({"isolate": number + 1, "invocation": 1, "alive": number + 1});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&channel.invoke("{}")).unwrap(), expected);
    }
    host.close(8);
    assert_eq!(host.agent.channel.expect_json(CLOSED), closed(8, "closed"));
    assert!(isolates[1].1.receive().is_none());
    // Its GraalVM isolate was torn down, and the library was not loaded again.
    assert_eq!(isolates[0].1.invoke("{}"), r#"{"isolate":1,"invocation":2,"alive":2}"#);

    // An end of file ends an isolate too; its number may be used again.
    drop(isolates.remove(2));
    assert_eq!(host.agent.channel.expect_json(CLOSED), closed(9, "closed"));
    let mut again = host.isolate(9);
    load_isolate(&mut again, "isolates");
    assert_eq!(again.invoke("{}"), r#"{"isolate":4,"invocation":1,"alive":2}"#);
    assert_eq!(host.agent.end().0.code(), Some(0));
}

#[test]
fn a_host_runs_isolates_side_by_side_and_ends_with_a_busy_one() {
    let mut host = Host::start(&[AGENT]);
    let mut busy = host.isolate(1);
    load_isolate(&mut busy, "endless");
    busy.send(INVOKE, b"{}");
    host.close(1); // ignored: native code cannot be ended
    let mut idle = host.isolate(2);
    load_isolate(&mut idle, "echo");
    assert_eq!(idle.invoke("still here"), "still here");
    assert_eq!(host.agent.end().0.code(), Some(0));
    assert!(busy.receive().is_none());
}

#[test]
fn a_host_says_why_an_isolate_ended() {
    let mut host = Host::start(&[AGENT]);
    let mut channel = host.isolate(1);
    channel.send(INVOKE, b"{}");
    let reason = host.agent.channel.expect_json(CLOSED)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("out of order"), "{reason}");

    let open = json!({"isolate": 2, "socket": "/nowhere/agents.sock", "token": "t"});
    host.agent.channel.send_json(peer::OPEN, &open);
    let ended = host.agent.channel.expect_json(CLOSED);
    assert_eq!(ended["isolate"], 2);
    assert!(ended["reason"].as_str().unwrap().starts_with("cannot connect"), "{ended}");

    host.close(77); // unknown: it may have ended meanwhile
    let mut channel = host.isolate(3);
    load_isolate(&mut channel, "echo");
    assert_eq!(channel.invoke("1"), "1");
    host.open(3);
    assert!(host.agent.channel.receive().is_none());
    assert_eq!(host.agent.end().0.code(), Some(70));
}

#[test]
fn a_host_refuses_code_that_was_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let code = directory.path().join("f.so");
    std::fs::copy(fixture("echo"), &code).unwrap();
    let mut host = Host::start(&[AGENT]);
    let mut first = host.isolate(1);
    first.load(&code, None, Path::new("/tmp"));
    first.expect(LOADED);

    let new = directory.path().join("new.so");
    std::fs::copy(fixture("isolates"), &new).unwrap();
    std::fs::rename(&new, &code).unwrap();
    let mut second = host.isolate(2);
    second.load(&code, None, Path::new("/tmp"));
    let failure = second.expect_json(LOAD_FAILED);
    assert!(failure["message"].as_str().unwrap().contains("has changed"), "{failure}");
    assert_eq!(first.invoke("old"), "old");
    host.agent.end();
}
