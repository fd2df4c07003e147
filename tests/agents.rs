//! One conformance test for all language agents: what works with one agent must work the same with all.
//!
//! An agent whose runtime is missing is skipped and named on standard error; with `HYDRA_REQUIRE_ALL=1` that is a failure.
#![allow(clippy::unwrap_used)]

#[path = "agents/runtimes.rs"]
mod runtimes;

#[path = "../guest-agent/native/tests/peer/mod.rs"]
mod peer;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use peer::{
    Agent, CHECKPOINT, CLOSED, Channel, HELLO, Host, INVOKE, LOAD_FAILED, LOADED, RAISED, READY, RESTORED,
    RESULT,
};
use runtimes::{Runtime, each};
use serde_json::{Value, json};

fn start(runtime: &Runtime) -> (Agent, Value) {
    let mut agent = Agent::start(&runtime.command(), "--function");
    let hello = agent.channel.expect_json(HELLO);
    (agent, hello)
}

fn load(channel: &mut Channel, runtime: &Runtime, tmp_dir: &Path, max_result: usize) {
    channel.load_with(&runtime.code, runtime.entry_point, tmp_dir, max_result);
    assert_eq!(channel.expect(LOADED), "", "{}", runtime.name);
}

/// An agent in function mode that has loaded the runtime's function.
fn loaded(runtime: &Runtime) -> Agent {
    let (mut agent, _) = start(runtime);
    load(&mut agent.channel, runtime, Path::new("/tmp"), 1000);
    agent
}

fn end(runtime: &Runtime, agent: Agent) {
    let (status, stdout, stderr) = agent.end();
    assert_eq!(status.code(), Some(0), "{}: {stdout}{stderr}", runtime.name);
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON: {error}: {text}"))
}

#[test]
fn hello_comes_first_and_names_the_agent() {
    each(|runtime| {
        let (agent, hello) = start(runtime);
        assert_eq!(hello["protocol"], 1);
        assert_eq!(hello["language"], runtime.name);
        assert!(hello["runtime"].as_str().is_some_and(|text| !text.is_empty()), "{hello}");
        assert!(hello.get("token").is_none(), "{hello}");
        end(runtime, agent);
    });
}

#[test]
fn arguments_arrive_as_the_protocol_says() {
    each(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let tmp_dir = directory.path().to_str().unwrap();
        let (mut agent, _) = start(runtime);
        let channel = &mut agent.channel;
        load(channel, runtime, directory.path(), 1 << 20);

        let object = json!({"a": [1, 2.5, "ü", null, true], "b": {"c": {}}, "tmpDir": "/etc"});
        let mut expected = object.clone();
        expected["tmpDir"] = tmp_dir.into();
        assert_eq!(parsed(&channel.invoke(&object.to_string())), expected);
        assert_eq!(parsed(&channel.invoke("")), json!({"tmpDir": tmp_dir}));
        assert_eq!(parsed(&channel.invoke(" {} ")), json!({"tmpDir": tmp_dir}));
        assert_eq!(parsed(&channel.invoke("[1, {\"a\": 2}]")), json!([1, {"a": 2}]));
        assert_eq!(channel.invoke("12"), "12");
        assert_eq!(channel.invoke("true"), "true");
        // A string comes back as it is; a function that gets text gets the quotes with it.
        assert_eq!(
            channel.invoke("\"te\\u0078t\""),
            if runtime.takes_text { "\"te\\u0078t\"" } else { "text" }
        );
        for text in ["plain ü text", "{broken", "{\"a\": NaN}", "01", "[1,]", "{} x"] {
            assert_eq!(channel.invoke(text), text);
        }
        end(runtime, agent);
    });
}

#[test]
fn results_are_text_or_json() {
    each(|runtime| {
        if runtime.takes_text {
            return;
        }
        let mut agent = loaded(runtime);
        assert_eq!(agent.channel.invoke(r#"{"do": "string"}"#), "a \"string\"\nü");
        assert_eq!(parsed(&agent.channel.invoke(r#"{"do": "array"}"#)), json!([1, "a \"string\"\nü", null]));
        assert_eq!(agent.channel.invoke(r#"{"do": "nothing"}"#), "null");
        end(runtime, agent);
    });
}

#[test]
fn a_function_that_raises_stays_usable() {
    each(|runtime| {
        if runtime.takes_text {
            return;
        }
        let mut agent = loaded(runtime);
        for _ in 0..3 {
            let raised = agent.channel.invoke_raising(r#"{"do": "raise"}"#);
            assert!(raised["message"].as_str().unwrap().contains("deliberate"), "{raised}");
            assert!(raised["type"].as_str().is_some_and(|text| !text.is_empty()), "{raised}");
            let stack = raised["stack"].as_str().unwrap();
            assert!(stack.contains(runtime.raises_in), "{stack}");
            assert!(!stack.contains("hydra_agent") && !stack.contains("guest-agent"), "{stack}");
            assert_eq!(agent.channel.invoke("1"), "1");
        }
        let raised = agent.channel.invoke_raising(r#"{"do": "unserialisable"}"#);
        assert!(!raised["message"].as_str().unwrap().is_empty(), "{raised}");
        assert_eq!(agent.channel.invoke("1"), "1");
        end(runtime, agent);
    });
}

#[test]
fn a_restore_seeds_what_the_language_keeps_and_calls_the_functions_hook() {
    let restored = |agent: &mut Agent, entropy: char| {
        let entropy = entropy.to_string().repeat(64);
        agent.channel.send_json(RESTORED, &json!({"entropy": entropy, "time": 1_800_000_000_000_u64}));
    };
    each(|runtime| {
        let mut agent = loaded(runtime);
        assert_eq!(agent.channel.invoke("1"), "1");
        // It is not answered: the next frame is that of the invocation.
        restored(&mut agent, 'a');
        assert_eq!(agent.channel.invoke("2"), "2");
        if !runtime.takes_text {
            assert_eq!(agent.channel.invoke(r#"{"do": "restores"}"#), "1");
            agent.channel.invoke(r#"{"do": "break the hook"}"#);
            restored(&mut agent, 'a');
            let raised = agent.channel.invoke_raising("1");
            assert!(raised["message"].as_str().unwrap().contains("deliberate"), "{raised}");
            agent.channel.invoke(r#"{"do": "mend the hook"}"#);
            assert_eq!(agent.channel.invoke(r#"{"do": "restores"}"#), "2");
        }
        if matches!(runtime.name, "python" | "javascript") {
            let [first, same, other] = ['a', 'a', 'b'].map(|entropy| {
                restored(&mut agent, entropy);
                agent.channel.invoke(r#"{"do": "random"}"#)
            });
            assert_eq!(first, same, "{}", runtime.name);
            assert_ne!(first, other, "{}", runtime.name);
        }
        end(runtime, agent);
    });
}

#[test]
fn a_checkpoint_may_be_taken_at_any_time_and_is_followed_by_a_restore() {
    let restored = json!({"entropy": "0123456789abcdef".repeat(4), "time": 1_800_000_000_000_u64});
    each(|runtime| {
        let (mut agent, _) = start(runtime);
        for _ in 0..2 {
            agent.channel.send(CHECKPOINT, b"");
            assert_eq!(agent.channel.expect(READY), "", "{}", runtime.name);
            agent.channel.send_json(RESTORED, &restored);
        }
        load(&mut agent.channel, runtime, Path::new("/tmp"), 1000);
        for number in ["1", "2"] {
            agent.channel.send(CHECKPOINT, b"");
            assert_eq!(agent.channel.expect(READY), "", "{}", runtime.name);
            agent.channel.send_json(RESTORED, &restored);
            assert_eq!(agent.channel.invoke(number), number);
        }
        end(runtime, agent);
    });
}

#[test]
fn a_result_over_the_limit_is_raised() {
    each(|runtime| {
        if runtime.takes_text {
            return;
        }
        let mut agent = loaded(runtime);
        assert_eq!(agent.channel.invoke(r#"{"do": "large", "length": 1000}"#).len(), 1000);
        let raised = agent.channel.invoke_raising(r#"{"do": "large", "length": 1001}"#);
        assert_eq!(raised["type"], "ResultTooLarge", "{raised}");
        assert_eq!(agent.channel.invoke("1"), "1");
        end(runtime, agent);
    });
}

#[test]
fn what_is_printed_is_logged_before_the_result() {
    each(|runtime| {
        if runtime.takes_text {
            return;
        }
        let mut agent = loaded(runtime);
        for (action, answer) in [("print", RESULT), ("print and raise", RAISED)] {
            let (kind, _, logs) = agent.channel.invoke_logged(&json!({ "do": action }).to_string());
            assert_eq!(kind, answer);
            let of = |stream| {
                logs.iter().filter(|log| log.0 == stream).map(|log| log.1.as_str()).collect::<String>()
            };
            assert_eq!(of(1).trim_end(), "first ü\nsecond", "{action}");
            assert_eq!(of(2).trim_end(), "to standard error", "{action}");
        }
        end(runtime, agent);
    });
}

#[test]
fn code_that_cannot_be_loaded_is_reported() {
    each(|runtime| {
        for code in [runtime.broken.as_path(), Path::new("/nowhere/absent")] {
            let (mut agent, _) = start(runtime);
            agent.channel.load(code, runtime.entry_point, Path::new("/tmp"));
            let failure = agent.channel.expect_json(LOAD_FAILED);
            for key in ["message", "type", "stack"] {
                assert!(failure[key].is_string(), "{key}: {failure}");
            }
            assert_ne!(failure["message"], "", "{failure}");
            end(runtime, agent);
        }
    });
}

#[test]
fn many_invocations_in_sequence() {
    each(|runtime| {
        let mut agent = loaded(runtime);
        for number in 0..200 {
            assert_eq!(agent.channel.invoke(&number.to_string()), number.to_string());
        }
        end(runtime, agent);
    });
}

#[test]
fn broken_frames_end_the_agent() {
    let frames: [&[u8]; 3] = [
        &[1, 0, 0, 4, 0x82, 0, 0, 0], // a byte too long
        &[0, 0, 0, 0, 0x44, 0, 0, 0], // unknown kind
        &[0, 0, 0, 0, 0x82, 1, 0, 0], // reserved bytes
    ];
    each(|runtime| {
        for frame in frames {
            let mut agent = loaded(runtime);
            agent.channel.0.write_all(frame).unwrap();
            assert!(agent.channel.receive().is_none(), "{frame:?}");
            let (status, ..) = agent.end();
            assert_eq!(status.code(), Some(70), "{frame:?}");

            let mut host = Host::start(&runtime.command());
            let mut isolate = host.isolate(1);
            isolate.0.write_all(frame).unwrap();
            assert!(isolate.receive().is_none(), "{frame:?}");
            let closed = host.agent.channel.expect_json(CLOSED);
            assert_eq!(closed["isolate"], 1);
            assert_ne!(closed["reason"], "closed", "{frame:?}");
            end(runtime, host.agent);
        }
    });
}

#[test]
fn a_host_serves_several_isolates() {
    each(|runtime| {
        let mut host = Host::start(&runtime.command());
        assert_eq!((&host.hello["protocol"], &host.hello["language"]), (&json!(1), &json!(runtime.name)));
        assert!(host.hello.get("token").is_none());
        for isolate in [1, 2, 3] {
            host.open(isolate);
        }
        let mut isolates: Vec<_> = (0..3).map(|_| host.accept()).collect();
        isolates.sort_by_key(|(isolate, _)| *isolate);
        for (isolate, channel) in &mut isolates {
            let directory = format!("/tmp/of-{isolate}");
            load(channel, runtime, Path::new(&directory), 1000);
            assert_eq!(parsed(&channel.invoke("{}")), json!({ "tmpDir": directory }));
        }
        // All at once, answered in another order.
        for (isolate, channel) in &mut isolates {
            channel.send(INVOKE, isolate.to_string().as_bytes());
        }
        for (isolate, channel) in isolates.iter_mut().rev() {
            assert_eq!(channel.expect(RESULT), isolate.to_string());
        }

        let closed = |isolate: u64| json!({"isolate": isolate, "reason": "closed", "outOfMemory": false});
        host.close(2);
        assert_eq!(host.agent.channel.expect_json(CLOSED), closed(2));
        assert!(isolates[1].1.receive().is_none());
        drop(isolates.remove(2));
        assert_eq!(host.agent.channel.expect_json(CLOSED), closed(3));
        assert_eq!(isolates[0].1.invoke("\"still here\"").trim_matches('"'), "still here");

        // An isolate that cannot connect is closed, and harms no other.
        let open = json!({"isolate": 4, "socket": "/nowhere/agents.sock", "token": "t", "memory": 64});
        host.agent.channel.send_json(peer::OPEN, &open);
        let ended = host.agent.channel.expect_json(CLOSED);
        assert_eq!(ended["isolate"], 4);
        assert_ne!(ended["reason"], "closed");
        assert_eq!(isolates[0].1.invoke("1"), "1");
        end(runtime, host.agent);
        assert!(isolates[0].1.receive().is_none());
    });
}

#[test]
fn the_modules_of_the_python_agent_are_compiled() {
    if Command::new("python3").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no Python");
    }
    // It writes no bytecode itself: without it every start compiles them.
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/agents/python/hydra_agent");
    let modules = |folder: &Path, extension: &str| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
    };
    let compiled = modules(&agent.join("__pycache__"), "pyc");
    assert!(compiled >= modules(&agent, "py"), "{compiled} in {}", agent.display());
}
