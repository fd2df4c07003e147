//! What is printed and saved of a run.

use hydra_harness::Table;

use super::peers;
use super::samples::Percentiles;
use super::start::Start;
use super::{Findings, LANGUAGES, Plan, goals, hello, profile};
use crate::environment::Machine;
use crate::goal;
use crate::results::Number;

/// All tables.
pub fn text(found: &Findings, plan: &Plan, machine: &Machine, load_after: f64) -> String {
    let mut parts = vec![format!(
        "{} CPUs, {}, Linux {}; load average {:.2} before, {load_after:.2} after (the bench's own work is in the latter)\n\
         {} rounds; times in ms at the client, from the request to the answer",
        machine.cpus, machine.processor, machine.kernel, machine.load, plan.rounds,
    )];
    parts.push(format!("hello-world, to the answer\n\n{}", starts(found)));
    parts.push(format!("every function, p50 in ms (- is not seen)\n\n{}", functions(found)));
    parts.push(format!("snapshots\n\n{}", snapshots(found)));
    parts.push(format!(
        "one more idle instance, in MB (the last column is kernel memory, which no process' size shows)\n\n{}",
        memory(found)
    ));
    if !found.profiles.is_empty() {
        parts.push(profile::text(&found.samples, &found.profiles, found.costs));
    }
    parts.push(format!("goals\n\n{}", goal::table(&goals::of(found))));
    if !found.samples.failures.is_empty() {
        let lines = found.samples.failures.iter().map(|(what, error)| format!("{what}: {error}"));
        parts.push(format!("what failed\n\n{}", lines.collect::<Vec<_>>().join("\n")));
    }
    parts.join("\n\n")
}

fn starts(found: &Findings) -> Table {
    let mut table = Table::new(&["language", "start", ">runs", ">p50", ">p90", ">p99"]);
    for language in LANGUAGES {
        let mut row = |name: &str, percentiles: Option<Percentiles>| {
            let mut cells = vec![language.to_owned(), name.to_owned()];
            match percentiles {
                Some(found) => {
                    cells.push(found.count.to_string());
                    cells.extend([found.p50, found.p90, found.p99].map(|time| format!("{time:.2}")));
                }
                None => cells.extend(["not seen", "-", "-", "-"].map(str::to_owned)),
            }
            table.row(cells);
        };
        let function = hello(language);
        if found.samples.hydra.keys().any(|(name, _)| *name == function) {
            for start in Start::ALL {
                row(start.name(), found.samples.of(&function, start));
            }
        }
        for peer in peers::all().iter().filter(|peer| peer.language == language) {
            if let Some(percentiles) = found.samples.of_peer(peer.name) {
                row(peer.name, Some(percentiles));
            }
        }
    }
    table
}

fn functions(found: &Findings) -> Table {
    let titles: Vec<_> = Start::ALL.map(|start| format!(">{}", start.name())).into();
    let mut columns = vec!["function"];
    columns.extend(titles.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    let mut names: Vec<_> = found.samples.hydra.keys().map(|(name, _)| name).collect();
    names.dedup();
    for name in names {
        let mut cells = vec![name.clone()];
        cells.extend(Start::ALL.map(|start| {
            found.samples.of(name, start).map_or_else(|| "-".into(), |found| format!("{:.2}", found.p50))
        }));
        table.row(cells);
    }
    table
}

fn snapshots(found: &Findings) -> Table {
    let mut table = Table::new(&["function", ">MB on the disk", ">KB of state", ">pause ms", ">made in ms"]);
    for (name, status) in &found.snapshots {
        let ms = |us: Option<u64>| us.map_or_else(|| "-".into(), |us| format!("{:.1}", us as f64 / 1e3));
        let size = |bytes: u64, unit: f64| match status.pause_us {
            Some(_) => format!("{:.1}", bytes as f64 / unit),
            None => "none".into(),
        };
        table.row([
            name.clone(),
            size(status.memory_bytes, 1e6),
            size(status.state_bytes, 1e3),
            ms(status.pause_us),
            ms(status.made_us),
        ]);
    }
    table
}

fn memory(found: &Findings) -> Table {
    let mut table =
        Table::new(&["language", "sandbox", ">proportional", ">written to", ">KVM's page tables"]);
    for one in &found.memory {
        let mut cells = vec![one.language.to_owned(), one.sandbox.to_owned()];
        cells.extend(one.each.map(|bytes| format!("{:.2}", bytes / 1e6)));
        table.row(cells);
    }
    table
}

/// Every number of a run.
pub fn numbers(found: &Findings) -> Vec<Number> {
    let mut numbers = Vec::new();
    let mut add = |subject: &str, work: &str, metric: &str, value: f64, unit| {
        let (subject, work, metric) = (subject.to_owned(), work.to_owned(), metric.to_owned());
        numbers.push(Number { subject, work, metric, value, unit });
    };
    let percentiles = |found: Percentiles| [("p50", found.p50), ("p90", found.p90), ("p99", found.p99)];
    for (function, start) in found.samples.hydra.keys() {
        let Some(times) = found.samples.of(function, *start) else { continue };
        for (metric, value) in percentiles(times) {
            add(start.name(), function, metric, value, "ms");
        }
        add(start.name(), function, "runs", times.count as f64, "1");
    }
    for name in found.samples.peers.keys() {
        let Some(times) = found.samples.of_peer(name) else { continue };
        for (metric, value) in percentiles(times) {
            add(name, "hello", metric, value, "ms");
        }
    }
    for (function, status) in &found.snapshots {
        add("snapshot", function, "on the disk", (status.memory_bytes + status.state_bytes) as f64, "B");
        for (metric, us) in [("pause", status.pause_us), ("made in", status.made_us)] {
            if let Some(us) = us {
                add("snapshot", function, metric, us as f64 / 1e3, "ms");
            }
        }
    }
    for one in &found.memory {
        for (metric, bytes) in ["proportional", "written to", "page tables"].into_iter().zip(one.each) {
            let work = format!("one more {} instance", one.language);
            add(one.sandbox, &work, metric, bytes, "B");
        }
    }
    for ((function, start), profile) in &found.profiles {
        for (name, value) in profile.means() {
            add(start.name(), function, &format!("{name} for each answer"), value, "1");
        }
    }
    numbers
}
