//! The goals that this bench can tell reached or missed. Those for speed are ratios within one run where there is a peer.

use super::start::Start;
use super::{Findings, LANGUAGES, hello};
use crate::goal::Goal;

/// What is wanted of one language.
struct Wanted {
    /// p50 of a fresh snapshot sandbox, in ms.
    fresh: f64,
    /// Times faster that it is than a process that is started.
    over_process: f64,
    /// p50 of a function never seen before, in ms.
    first: f64,
    /// One more instance, in MB: isolate, snapshot.
    instance: [f64; 2],
    /// A snapshot on the disk, in MB.
    snapshot: f64,
}

/// By language, in the order of [`LANGUAGES`].
const WANTED: [Wanted; 3] = [
    Wanted { fresh: 1.0, over_process: 25.0, first: 5.0, instance: [1.6, 2.0], snapshot: 4.0 },
    Wanted { fresh: 2.0, over_process: 12.0, first: 7.0, instance: [4.0, 6.0], snapshot: 10.0 },
    Wanted { fresh: 3.0, over_process: 40.0, first: 30.0, instance: [0.5, 12.0], snapshot: 25.0 },
];

/// Times faster than a peer that a fresh snapshot sandbox is; a peer of another language is not there.
const OVER_PEERS: [(&str, f64); 5] = [
    ("workerd new isolate javascript", 3.0),
    ("bun javascript", 5.0),
    ("gVisor one-shot python", 100.0),
    ("gVisor one-shot javascript", 100.0),
    ("gVisor one-shot java", 100.0),
];
/// Times that a function never seen before is under the start of the language's functions-framework.
const FIRST_OVER_FRAMEWORK: f64 = 20.0;
/// How long a function may stand still for its snapshot, and how long that may take in all, in ms.
const PAUSE: f64 = 10.0;
const MADE: f64 = 150.0;

/// Every goal of which both sides were measured.
pub fn of(findings: &Findings) -> Vec<Goal> {
    LANGUAGES
        .into_iter()
        .zip(&WANTED)
        .flat_map(|(language, wanted)| of_language(findings, language, wanted))
        .collect()
}

fn of_language(findings: &Findings, language: &'static str, wanted: &Wanted) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |what: String, wanted, measured: Option<f64>, at_least| {
        if let Some(measured) = measured {
            goals.push(Goal { subject: language.to_owned(), what, wanted, measured, at_least });
        }
    };
    let p50 = |start| findings.samples.of(&hello(language), start).map(|found| found.p50);
    let peer = |name: &str| {
        let ours = name.ends_with(language);
        findings.samples.of_peer(name).filter(|_| ours).map(|found| found.p50)
    };
    let over = |slow: Option<f64>, fast: Option<f64>| Some(slow? / fast?);

    // A copy that was put back is as fresh as a new one; Hydra gives what is faster here.
    let fresh =
        [Start::Reset, Start::CopiedAhead, Start::Restored].into_iter().find(|start| p50(*start).is_some());
    if let Some(start) = fresh {
        let name = start.name();
        let fresh = p50(start);
        add(format!("P1: {name}, p50 in ms"), wanted.fresh, fresh, false);
        let process = over(p50(Start::ColdProcess), fresh);
        add(format!("P1: {name}, times faster than a cold process"), wanted.over_process, process, true);
        for (other, times) in OVER_PEERS {
            add(format!("P1: {name}, times faster than {other}"), times, over(peer(other), fresh), true);
        }
    }
    let first = p50(Start::Template);
    add("P2: never seen before, p50 in ms".into(), wanted.first, first, false);
    let framework = peer(&format!("functions-framework {language}"));
    add(
        "P2: never seen before, times faster than functions-framework".into(),
        FIRST_OVER_FRAMEWORK,
        over(framework, first),
        true,
    );
    for (sandbox, most) in ["isolate", "snapshot"].into_iter().zip(wanted.instance) {
        let found = findings.memory.iter().find(|one| (one.language, one.sandbox) == (language, sandbox));
        add(
            format!("P4: one more instance, {sandbox}, in MB"),
            most,
            found.map(|one| one.each[0] / 1e6),
            false,
        );
    }
    if let Some(status) = findings.snapshots.get(&hello(language)) {
        let ms = |us: Option<u64>| us.map(|us| us as f64 / 1e3);
        let size = (status.memory_bytes + status.state_bytes) as f64 / 1e6;
        add("P6: pause for the snapshot in ms".into(), PAUSE, ms(status.pause_us), false);
        add("P6: snapshot made in ms".into(), MADE, ms(status.made_us), false);
        add("P6: snapshot on the disk in MB".into(), wanted.snapshot, status.pause_us.map(|_| size), false);
    }
    goals
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::samples::{Sample, Samples};
    use super::*;

    #[test]
    fn a_goal_needs_both_sides() {
        let mut samples = Samples::default();
        let at = |time| vec![Sample { time, ..Sample::default() }];
        samples.hydra.insert((hello("javascript"), Start::Restored), at(2.5));
        samples.peers.insert("bun javascript", vec![15.0]);
        samples.peers.insert("gVisor one-shot python", vec![200.0]);
        let findings = Findings {
            samples,
            profiles: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            memory: Vec::new(),
            costs: None,
        };
        let goals = of(&findings);
        assert_eq!(goals.len(), 2, "{:?}", goals.iter().map(|goal| &goal.what).collect::<Vec<_>>());
        assert!(!goals[0].is_reached() && goals[1].is_reached());
        assert_eq!(goals[1].measured, 6.0);
    }
}
