//! What is printed and saved of a run.

use hydra_harness::Table;

use super::goals::{self, ratio_to};
use super::peers::Role;
use super::work::WORKS;
use super::{CONNECTIONS, Findings, Plan};
use crate::environment::Machine;
use crate::goal;
use crate::results::Number;

/// All tables.
pub fn text(all: &[Findings], plan: &Plan, machine: &Machine, load_after: f64) -> String {
    let mut parts = vec![format!(
        "{} CPUs, {}, Linux {}; load average {:.2} before, {load_after:.2} after (the bench's own work is in the latter)\n\
         {} rounds of {} ms; percentiles are raw (closed loop, not corrected for coordinated omission)",
        machine.cpus,
        machine.processor,
        machine.kernel,
        machine.load,
        plan.rounds,
        plan.round.as_millis()
    )];
    parts.extend(WORKS.map(|work| format!("{work}, warm\n\n{}", warm(all, work))));
    parts.push(format!(
        "first calls and memory, each server alone (MB, proportional set size)\n\n{}",
        memory(all)
    ));
    parts.push(format!("goals\n\n{}", goal::table(&goals::of(all))));
    parts.join("\n\n")
}

fn warm(all: &[Findings], work: &'static str) -> Table {
    let mut table = Table::new(&[
        "server",
        ">p50 ms, 1c",
        ">p90",
        ">p99",
        ">p50 ms, 8c",
        ">p90",
        ">p99",
        ">requests/s, 8c",
        ">ab -c 8",
        ">x framework",
        ">x workerd",
        ">x bare",
    ]);
    for found in all {
        let mut cells = vec![found.subject.name.clone()];
        for connections in CONNECTIONS {
            let summary = found.warm.get(&(work, connections)).copied().unwrap_or_default();
            cells.extend([summary.p50, summary.p90, summary.p99].map(milliseconds));
            if connections == 8 {
                cells.push(format!("{:.0}", summary.per_second));
            }
        }
        cells.push(or_dash(found.ab.get(work).map(|rate| format!("{rate:.0}"))));
        for role in [Role::Framework, Role::Isolates, Role::Bare] {
            cells.push(or_dash(ratio_to(found, all, role, work).map(|ratio| format!("{ratio:.2}"))));
        }
        table.row(cells);
    }
    table
}

fn memory(all: &[Findings]) -> Table {
    let mut table =
        Table::new(&["server", ">first call ms", ">alone", ">after load", ">one more idle instance"]);
    let megabytes = |bytes: Option<f64>| or_dash(bytes.map(|bytes| format!("{:.1}", bytes / 1e6)));
    for found in all {
        let alone = found.alone;
        let mut cells = vec![found.subject.name.clone(), format!("{:.1}", alone.first_call)];
        cells.extend([alone.memory, alone.after_load, alone.instance].map(megabytes));
        table.row(cells);
    }
    table
}

fn milliseconds(value: f64) -> String {
    format!("{value:.3}")
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".into())
}

/// Every number of a run.
pub fn numbers(all: &[Findings]) -> Vec<Number> {
    let mut numbers = Vec::new();
    for found in all {
        let mut add = |work: &str, metric: &str, value: f64, unit| {
            let subject = found.subject.name.clone();
            numbers.push(Number { subject, work: work.to_owned(), metric: metric.to_owned(), value, unit });
        };
        for ((work, connections), summary) in &found.warm {
            let at = if *connections == 1 {
                "at 1 connection".into()
            } else {
                format!("at {connections} connections")
            };
            add(work, &format!("p50 {at}"), summary.p50, "ms");
            add(work, &format!("p90 {at}"), summary.p90, "ms");
            add(work, &format!("p99 {at}"), summary.p99, "ms");
            add(work, &format!("requests {at}"), summary.per_second, "1/s");
        }
        for (work, rate) in &found.ab {
            add(work, "requests with ab at 8 connections", *rate, "1/s");
        }
        add("hello", "first call", found.alone.first_call, "ms");
        let sizes = [
            ("memory alone", found.alone.memory),
            ("memory after load", found.alone.after_load),
            ("memory of one more idle instance", found.alone.instance),
        ];
        for (metric, bytes) in sizes {
            if let Some(bytes) = bytes {
                add("hello", metric, bytes, "B");
            }
        }
    }
    numbers
}
