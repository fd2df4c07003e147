//! The goals that this bench can tell reached or missed. Those for speed are ratios within one run where there is a peer.

use super::Findings;
use super::peers::Role;
use super::subject::Kind;
use super::work::WORKS;
use crate::goal::Goal;

/// Warm p50 of `hello` on one connection, in ms.
const P50: f64 = 0.16;
/// Requests per second on 8 connections, of both functions, over those of the language's functions-framework.
const OVER_FRAMEWORK: f64 = 3.0;
/// As above, over those of workerd.
const OVER_ISOLATES: f64 = 1.0;
/// Warm p99 of `hello` on 8 connections, in ms.
const P99: f64 = 5.0;
/// Memory of one more idle isolate, in MB.
const ISOLATE: [(&str, f64); 3] = [("python", 1.6), ("javascript", 4.0), ("java", 0.5)];

/// The goals of every subject that is a Hydra; those that need a peer that was not measured are not there.
pub fn of(findings: &[Findings]) -> Vec<Goal> {
    findings
        .iter()
        .filter(|found| matches!(found.subject.kind, Kind::Hydra(_)))
        .flat_map(|f| of_one(f, findings))
        .collect()
}

fn of_one(found: &Findings, all: &[Findings]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |what: &str, wanted, measured: Option<f64>, at_least| {
        if let Some(measured) = measured {
            let subject = found.subject.name.clone();
            goals.push(Goal { subject, what: what.to_owned(), wanted, measured, at_least });
        }
    };
    let warm = |connections| found.warm.get(&("hello", connections));
    add("hello, 1 connection, p50 in ms", P50, warm(1).map(|s| s.p50), false);
    for work in WORKS {
        let over = |role| ratio_to(found, all, role, work);
        add(
            &format!("{work}, 8 connections, times functions-framework"),
            OVER_FRAMEWORK,
            over(Role::Framework),
            true,
        );
        add(&format!("{work}, 8 connections, times workerd"), OVER_ISOLATES, over(Role::Isolates), true);
    }
    add("hello, 8 connections, p99 in ms", P99, warm(8).map(|s| s.p99), false);
    if let Some((_, most)) = ISOLATE.iter().find(|(language, _)| *language == found.subject.language)
        && matches!(found.subject.kind, Kind::Hydra("isolate"))
    {
        add("one more idle instance in MB", *most, found.alone.instance.map(|bytes| bytes / 1e6), false);
    }
    goals
}

/// Requests per second on 8 connections, of both functions, over those of the first peer with `role` for the same language.
pub fn ratio_to(found: &Findings, all: &[Findings], role: Role, work: &'static str) -> Option<f64> {
    let same = |other: &&Findings| {
        other.subject.language == found.subject.language && other.subject.role() == Some(role)
    };
    let rate = |findings: &Findings| findings.warm.get(&(work, 8)).map(|summary| summary.per_second);
    Some(rate(found)? / rate(all.iter().find(same)?)?)
}
