use clap::Parser;
use futures_util::FutureExt;

use super::handle::QUIET_TIME;
use super::*;
use crate::cli::{Cli, Command};

/// Hosts whose agent is a shell script, on the channel 3.
fn hosts(script: &str) -> (tempfile::TempDir, Arc<LanguageHosts>) {
    let Command::Serve(config) = Cli::parse_from(["hydra", "serve"]).command else { unreachable!() };
    let folder = tempfile::tempdir().unwrap();
    let flags = serde_json::json!({"flags": {"host": ["-c", script]}});
    std::fs::write(folder.path().join("flags.json"), flags.to_string()).unwrap();
    let shell = Runtime {
        agent: Agent::Native,
        program: "/bin/sh".into(),
        version: "none".into(),
        folder: folder.path().into(),
    };
    let runtimes = Arc::new(Runtimes::known(vec![shell]));
    let hosts = LanguageHosts::new(runtimes, folder.path(), &config, Arc::default()).unwrap();
    (folder, hosts)
}

/// A host that says `HELLO`, and answers nothing that it is told.
async fn deaf() -> (tempfile::TempDir, Arc<LanguageHost>) {
    let hello = r#"{"protocol":1,"language":"native","runtime":"none"}"#;
    let script = format!(r"printf '\063\0\0\0\1\0\0\0%s' '{hello}' >&3; exec cat <&3 >/dev/null");
    let (folder, hosts) = hosts(&script);
    let host = hosts.host(Agent::Native).await.unwrap();
    (folder, host)
}

/// An isolate that the host is said to have.
fn isolate(host: &Arc<LanguageHost>) -> IsolateHandle {
    lock(&host.isolates).insert(7, Arc::default());
    IsolateHandle::new(host.clone(), 7)
}

async fn is_killed(host: &LanguageHost) -> bool {
    let killed = async {
        while host.is_alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), killed).await.is_ok()
}

#[tokio::test]
async fn a_host_is_killed_where_an_isolate_does_not_end() {
    for kill in [true, false] {
        let (_folder, host) = deaf().await;
        let mut handle = isolate(&host);
        if kill {
            handle.kill();
        }
        drop(handle);
        assert!(is_killed(&host).await, "kill: {kill}");
    }
}

#[tokio::test]
async fn one_that_has_ended_costs_its_host_nothing() {
    let (_folder, host) = deaf().await;
    drop(isolate(&host));
    host.closed(&Closed { isolate: 7, reason: "closed".into(), out_of_memory: false });
    tokio::time::sleep(QUIET_TIME + Duration::from_secs(2)).await;
    assert!(host.is_alive());
}

#[tokio::test]
async fn one_that_is_let_go_may_have_to_wait_for_an_invocation() {
    let (_folder, host) = deaf().await;
    let busy = host.memory.open(64, Arc::default());
    busy.busy(true);
    drop(isolate(&host));
    tokio::time::sleep(QUIET_TIME + Duration::from_secs(2)).await;
    assert!(host.is_alive());
    busy.busy(false);
    assert!(is_killed(&host).await);
}

#[tokio::test]
async fn nobody_who_measures_waits_for_a_host_that_starts() {
    let (_folder, hosts) = hosts("exec cat <&3 >/dev/null");
    let mut starting = Box::pin(hosts.host(Agent::Native));
    assert!((&mut starting).now_or_never().is_none());
    assert_eq!(hosts.resident(Agent::Native), None);
}
