//! Where the time of an answer goes, by what Hydra and the guest's Linux counted.

use std::collections::BTreeMap;

use hydra_harness::{Table, paths};
use serde::Deserialize;

use super::samples::{Sample, Samples};
use super::start::Start;
use super::{LANGUAGES, hello};

/// What a program in a microVM pays on hardware KVM, as others have published it.
const HARDWARE: Costs = Costs { system_call: 2.0, page: 0.7 };

/// What it pays on some host, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Costs {
    /// One system call out of the guest and back.
    system_call: f64,
    /// One first touch of a page.
    page: f64,
}

impl Costs {
    /// What `hydra doctor` measures here; `None` where it cannot.
    pub async fn of_this_host() -> Option<Costs> {
        #[derive(Deserialize)]
        struct Report {
            costs: Option<Costs>,
        }
        let mut doctor = tokio::process::Command::new(paths::hydra_binary().ok()?);
        let said = doctor.args(["doctor", "--json"]).output().await.ok()?;
        serde_json::from_slice::<Report>(&said.stdout).ok()?.costs
    }
}

/// What the guest's Linux counted, by name, as `GET /functions/NAME` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// What was counted since `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        let count = |(name, now): (&String, &u64)| (name.clone(), now.saturating_sub(before.get(name)));
        Counts(self.0.iter().map(count).collect())
    }

    /// Adds what another invocation counted.
    pub fn add(&mut self, other: &Counts) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    /// A number by its name; 0 where there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// The counts of all invocations of one function by one start.
#[derive(Debug, Default)]
pub struct Profile {
    invocations: u64,
    counts: Counts,
}

impl Profile {
    /// Adds an invocation.
    pub fn add(&mut self, counts: &Counts) {
        self.invocations += 1;
        self.counts.add(counts);
    }

    /// A count for each invocation.
    pub fn mean(&self, name: &str) -> f64 {
        self.counts.get(name) as f64 / self.invocations.max(1) as f64
    }

    /// All counts for each invocation, by name.
    pub fn means(&self) -> impl Iterator<Item = (&str, f64)> {
        self.counts.0.keys().map(|name| (name.as_str(), self.mean(name)))
    }
}

/// By function and start.
pub type Profiles = BTreeMap<(String, Start), Profile>;

/// Times by phase and counts for each answer of the hello-worlds in a microVM.
pub fn text(samples: &Samples, profiles: &Profiles, costs: Option<Costs>) -> String {
    let mut phases = Table::new(&[
        "answer",
        ">all ms",
        ">queue",
        ">start",
        ">run",
        ">map",
        ">registers",
        ">in guest",
        ">calls",
        ">faults",
    ]);
    let mut counts = Table::new(&[
        "answer",
        ">system calls",
        ">pages filled",
        ">rights raised",
        ">signals",
        ">waits",
        ">kicks",
        ">entries",
        ">host faults",
        ">hardware KVM ms",
    ]);
    for language in LANGUAGES {
        for start in Start::ALL {
            let key = (hello(language), start);
            let Some(profile) = profiles.get(&key) else { continue };
            let stage = |of: fn(&Sample) -> f64| samples.stage(&key.0, start, of).unwrap_or_default();
            let ms = |name| format!("{:.3}", profile.mean(name) / 1e6);
            let count = |name| format!("{:.1}", profile.mean(name));
            let name = format!("{language} {}", start.name());
            let all = stage(|sample| sample.time);
            let mut cells = vec![name.clone()];
            let stages = [all, stage(|s| s.queue), stage(|s| s.start), stage(|s| s.run)];
            cells.extend(stages.map(|time| format!("{time:.3}")));
            cells.extend(["restoreNs", "registerNs", "guestNs", "systemCallNs", "faultNs"].map(ms));
            phases.row(cells);
            let faults = stage(|sample| sample.faults);
            let mut cells = vec![name];
            cells.extend(
                ["systemCalls", "pagesFilled", "rightsRaised", "exceptions", "waits", "kicks", "entries"]
                    .map(count),
            );
            cells.push(format!("{faults:.0}"));
            let entries = profile.mean("entries");
            cells.push(
                costs.map_or_else(
                    || "-".into(),
                    |here| format!("{:.2}", here.on_hardware(all, entries, faults)),
                ),
            );
            counts.row(cells);
        }
    }
    let hardware = costs.map(|here| {
        format!(
            " Hardware KVM: the same answer if each exit cost {} µs instead\nof {}, and each host fault {} instead of {}.",
            HARDWARE.system_call, here.system_call, HARDWARE.page, here.page,
        )
    });
    format!(
        "where the time of an answer goes (hello-world; stages and host faults are medians, the rest means)\n\n{phases}\n\n{counts}\n\n\
         map: RAM mapped, state decoded, files opened. Threads of the guest run side by side, and what they do is added up. Faults that KVM serves\n\
         without Hydra cannot be counted from here: host faults are the minor faults of Hydra's whole process meanwhile, which are fewer where the\n\
         host's page tables were filled before.{}",
        hardware.unwrap_or_default(),
    )
}

impl Costs {
    /// What an answer that took so long here should take where exits and faults cost what they do on hardware.
    fn on_hardware(&self, ms: f64, exits: f64, faults: f64) -> f64 {
        let saved = |here: f64, there: f64| (here - there).max(0.0);
        let saved =
            exits * saved(self.system_call, HARDWARE.system_call) + faults * saved(self.page, HARDWARE.page);
        // Exits of one thread while another computes save nothing: no answer gets faster than a fifth.
        (ms - saved / 1e3).max(ms / 5.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(calls: u64) -> Counts {
        Counts([("systemCalls".to_owned(), calls)].into())
    }

    #[test]
    fn counts_are_for_each_invocation() {
        let mut profile = Profile::default();
        profile.add(&counts(12).since(&counts(2)));
        profile.add(&counts(20));
        assert_eq!((profile.mean("systemCalls"), profile.mean("kicks")), (15.0, 0.0));
    }

    #[test]
    fn hardware_saves_what_exits_and_faults_cost() {
        let here = Costs { system_call: 35.0, page: 4.5 };
        assert_eq!(here.on_hardware(10.0, 100.0, 1000.0), 10.0 - 3.3 - 3.8);
        assert_eq!(here.on_hardware(1.0, 100.0, 0.0), 0.2);
        assert_eq!(HARDWARE.on_hardware(1.0, 100.0, 9.0), 1.0);
    }
}
