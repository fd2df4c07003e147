//! What is printed and saved of a run.

use hydra_harness::Table;

use super::Findings;
use crate::environment::Machine;
use crate::results::Number;
use crate::statistics::{median, quartiles};

/// The table.
pub fn text(all: &[Findings], machine: &Machine, load_after: f64) -> String {
    let mut table =
        Table::new(&["program", ">native ms", ">guest ms", ">guest : native", ">quartiles", ">goal", ""]);
    for found in all {
        let [native, guest] = found.medians().map(|seconds| format!("{:.1}", seconds * 1e3));
        let ratio = found.ratio();
        let (low, high) = quartiles(found.ratios());
        let spread = format!("{low:.2} – {high:.2}");
        let (goal, reached) = match found.program.goal() {
            Some(goal) => (format!("{goal:.2}"), if ratio <= goal { "reached" } else { "MISSED" }),
            None => ("–".into(), ""),
        };
        table.row([found.program.name, &native, &guest, &format!("{ratio:.2}"), &spread, &goal, reached]);
    }
    format!(
        "{} CPUs, {}, Linux {}; load average {:.2} before, {load_after:.2} after (the bench's own work is in the latter)\n\
         medians of rounds; a round runs a program natively and in the guest, and has one ratio\n\n{table}",
        machine.cpus, machine.processor, machine.kernel, machine.load,
    )
}

/// Every number of a run.
pub fn numbers(all: &[Findings]) -> Vec<Number> {
    let mut numbers = Vec::new();
    for found in all {
        let mut add = |metric: &str, value: f64, unit| {
            let work = if found.program.is_start() { "start-up" } else { "work" };
            let subject = found.program.name.to_owned();
            numbers.push(Number { subject, work: work.into(), metric: metric.into(), value, unit });
        };
        let [native, guest] = found.medians();
        let (low, high) = quartiles(found.ratios());
        add("native p50", native * 1e3, "ms");
        add("guest p50", guest * 1e3, "ms");
        add("guest : native p50", found.ratio(), "");
        add("guest : native p25", low, "");
        add("guest : native p75", high, "");
    }
    numbers
}

impl Findings {
    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|[native, guest]| guest / native.max(f64::MIN_POSITIVE))
    }

    fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    fn medians(&self) -> [f64; 2] {
        [0, 1].map(|side| median(self.rounds.iter().map(|round| round[side])))
    }
}
