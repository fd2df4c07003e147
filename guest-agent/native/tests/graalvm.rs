//! Real GraalVM isolates: the function of `tests/fixtures/native/saxon`, unpacked from its zip.
//!
//! `HYDRA_SAXON_ZIP` names the zip that the fixture's `build.sh` makes (it downloads a package of 40 MB); without it the
//! test says that it was skipped, and fails if `HYDRA_REQUIRE_ALL` is 1.
#![allow(clippy::unwrap_used)]

mod peer;

use std::path::Path;
use std::process::Command;

use peer::{Agent, CLOSED, Channel, HELLO, Host, LOADED};

const AGENT: &str = env!("CARGO_BIN_EXE_hydra-agent-native");

/// The unpacked function, in the way that Hydra unpacks archives.
fn unpacked() -> Option<tempfile::TempDir> {
    let Some(zip) = std::env::var_os("HYDRA_SAXON_ZIP") else {
        assert_ne!(std::env::var("HYDRA_REQUIRE_ALL").as_deref(), Ok("1"), "HYDRA_SAXON_ZIP is not set");
        eprintln!("skipped: HYDRA_SAXON_ZIP is not set; tests/fixtures/native/saxon/build.sh makes the zip");
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let status =
        Command::new("python3").args(["-m", "zipfile", "-e"]).arg(zip).arg(directory.path()).status();
    assert!(status.unwrap().success());
    Some(directory)
}

fn load(channel: &mut Channel, code: &Path) {
    channel.load(code, None, Path::new("/tmp"));
    channel.expect(LOADED);
}

#[test]
fn graalvm_isolates_are_made_invoked_and_torn_down() {
    let Some(code) = unpacked() else { return };

    let mut agent = Agent::start(&[AGENT], "--function");
    agent.channel.expect(HELLO);
    load(&mut agent.channel, code.path());
    assert_eq!(agent.channel.invoke("string-join((1 to 5) ! string(.), '-')"), "1-2-3-4-5");
    assert!(agent.channel.invoke("1 +").starts_with("error"));
    assert_eq!(agent.channel.invoke("replace('größer', 'ö', 'oe')"), "groeßer");
    let (status, ..) = agent.end();
    assert_eq!(status.code(), Some(0));

    let mut host = Host::start(&[AGENT]);
    for round in 0..3 {
        let mut isolates: Vec<_> = (0..3).map(|slot| host.isolate(round * 3 + slot)).collect();
        for channel in &mut isolates {
            load(channel, code.path());
        }
        for (number, channel) in isolates.iter_mut().enumerate() {
            assert_eq!(
                channel.invoke(&format!("sum(1 to {number}000)")),
                (number * 1000 * (number * 1000 + 1) / 2).to_string()
            );
        }
        for slot in 0..3 {
            host.close(round * 3 + slot);
            assert_eq!(host.agent.channel.expect_json(CLOSED)["reason"], "closed");
        }
    }
    assert_eq!(host.agent.end().0.code(), Some(0));
}
