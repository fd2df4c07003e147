//! What is printed and saved of a run.

use hydra_harness::Table;

use super::subject::Subject;
use super::{CONNECTIONS, Found, GIB, Plan};
use crate::environment::Machine;
use crate::goal::{self, Goal};
use crate::http::peers::Role;
use crate::results::Number;

/// Requests per second for each GiB, over those of the language's functions-framework: what the original's paper has.
const OVER_FRAMEWORK: f64 = 2.41;
/// Memory of one more instance in MB, by language and sandbox.
const EACH: [(&str, &str, f64); 6] = [
    ("python", "isolate", 1.6),
    ("javascript", "isolate", 4.0),
    ("java", "isolate", 0.5),
    ("python", "snapshot", 2.0),
    ("javascript", "snapshot", 6.0),
    ("java", "snapshot", 12.0),
];

/// All tables.
pub fn text(all: &[Found], plan: &Plan, machine: &Machine, load_after: f64) -> String {
    let gib = plan.memory / GIB;
    let fit = format!(">fit {gib} GiB");
    let mut table = Table::new(&[
        "",
        "function",
        &fit,
        ">MB each",
        ">instances seen",
        ">requests/s",
        ">MB by then",
        ">requests/s/GiB",
        ">x peer",
    ]);
    for found in all {
        let (count, seen) = found.fit(plan.memory);
        table.row([
            found.subject.name(),
            found.work.to_owned(),
            format!("{}{count:.0}", if seen { "" } else { "~" }),
            format!("{:.2}", found.each / 1e6),
            found.instances.to_string(),
            format!("{:.0}", found.per_second),
            format!("{:.0}", found.under_load / 1e6),
            format!("{:.0}", found.density()),
            over_peer(found, all).map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
        ]);
    }
    format!(
        "{} CPUs, {}, Linux {}; load average {:.2} before, {load_after:.2} after (the bench's own work is in the latter)\n\
         requests/s on {CONNECTIONS} connections and as many instances; ~ is extended from the instances seen\n\n{table}\n\ngoals\n\n{}",
        machine.cpus,
        machine.processor,
        machine.kernel,
        machine.load,
        goal::table(&goals(all)),
    )
}

/// Requests per second for each GiB, over those of the other server of the same language.
fn over_peer(found: &Found, all: &[Found]) -> Option<f64> {
    let same = |other: &&Found| {
        let is_peer = matches!(other.subject, Subject::Peer(_));
        is_peer && (other.subject.language(), other.work) == (found.subject.language(), found.work)
    };
    let peer = all.iter().find(same)?;
    matches!(found.subject, Subject::Hydra { .. }).then(|| found.density() / peer.density())
}

fn goals(all: &[Found]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let has_framework = |language| {
        let is_one = |s: &Subject| matches!(s, Subject::Peer(p) if p.role == Role::Framework);
        all.iter().any(|other| other.subject.language() == language && is_one(&other.subject))
    };
    for found in all {
        let Subject::Hydra { language, sandbox } = found.subject else { continue };
        let mut add = |what: &str, wanted, measured, at_least| {
            let subject = found.subject.name();
            goals.push(Goal { subject, what: what.to_owned(), wanted, measured, at_least });
        };
        let most = EACH.iter().find(|(l, s, _)| (*l, *s) == (language, sandbox));
        if let Some((_, _, most)) = most.filter(|_| found.work == "hello") {
            add("P4: one more instance, in MB", *most, found.each / 1e6, false);
        }
        if let Some(ratio) = over_peer(found, all).filter(|_| found.work == "page" && has_framework(language))
        {
            add("P5: page, requests/s/GiB, times functions-framework", OVER_FRAMEWORK, ratio, true);
        }
    }
    goals
}

/// Every number of a run.
pub fn numbers(all: &[Found], plan: &Plan) -> Vec<Number> {
    let of = |found: &Found| {
        [
            ("instances that fit", found.fit(plan.memory).0, "1"),
            ("instances seen", f64::from(found.instances), "1"),
            ("one more instance", found.each, "B"),
            ("requests", found.per_second, "1/s"),
            ("memory under load", found.under_load, "B"),
            ("requests for each GiB", found.density(), "1/s"),
        ]
        .map(|(metric, value, unit)| Number {
            subject: found.subject.name(),
            work: found.work.to_owned(),
            metric: metric.to_owned(),
            value,
            unit,
        })
    };
    all.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::subject::subjects;
    use super::*;

    fn found(subject: Subject, per_second: f64) -> Found {
        Found { subject, work: "page", instances: 8, used: GIB, each: 1e6, per_second, under_load: GIB }
    }

    #[test]
    fn density_is_compared_within_a_language() {
        let python: Vec<_> = subjects().into_iter().filter(|s| s.language() == "python").collect();
        let all: Vec<_> =
            python.iter().zip([5000.0, 4500.0, 4000.0, 3000.0, 1000.0]).map(|(s, n)| found(*s, n)).collect();
        assert_eq!(over_peer(&all[0], &all), Some(5.0));
        assert_eq!(over_peer(&all[4], &all), None);
        assert_eq!(over_peer(&all[0], &all[..4]), None);
        let reached: Vec<_> = goals(&all).iter().map(Goal::is_reached).collect();
        assert_eq!(reached, [true; 4]);
    }
}
