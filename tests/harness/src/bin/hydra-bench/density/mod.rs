//! `hydra bench density`: how many instances of a function fit into 2 GiB, and how many requests per second each GiB gives, of Hydra's
//! sandboxes and of servers with one instance for each concurrent request.
//!
//! Memory is what the processes' proportional set sizes say, and the page tables that KVM keeps for guests. Each subject is measured with
//! nothing else running: pages that two share would count half for each.

mod report;
mod subject;

use std::time::Duration;

use hydra_harness::CodeServer;

use crate::environment::load_average;
use crate::http::peers::Places;
use crate::http::{peers, work};
use crate::{Failure, Options, look_at_machine, results, say};
use subject::{Subject, subjects};

/// The functions: one that does nothing, and a real one.
const WORKS: [&str; 2] = ["hello", "page"];
/// Requests at a time where they are counted, and instances that answer them.
const CONNECTIONS: u32 = 8;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// How much is measured.
struct Plan {
    rounds: usize,
    round: Duration,
    /// Load before that: each instance has to compile what it runs.
    warm_up: Duration,
    /// Instances are added until so many bytes are used,
    memory: f64,
    /// or there are so many.
    most: u32,
}

/// What was found of one subject and function. Memory in bytes.
struct Found {
    subject: Subject,
    work: &'static str,
    /// Instances that were there at last, and what they occupied.
    instances: u32,
    used: f64,
    /// What one more instance occupies.
    each: f64,
    /// Requests answered per second on [`CONNECTIONS`] connections, and what was occupied by then.
    per_second: f64,
    under_load: f64,
}

impl Found {
    /// Instances that fit into so many bytes, and whether so many were there.
    fn fit(&self, memory: f64) -> (f64, bool) {
        let more = (memory - self.used) / self.each.max(1.0);
        (f64::from(self.instances) + more, more <= f64::from(self.instances) / 10.0)
    }

    /// Requests per second for each GiB.
    fn density(&self) -> f64 {
        self.per_second / (self.under_load / GIB)
    }
}

/// What is measured, by name.
pub fn list() -> Vec<String> {
    subjects().iter().map(Subject::name).collect()
}

/// Runs the bench.
///
/// # Errors
/// Where nothing at all can be measured; what does not work is left out with a word.
pub async fn run(options: Options) -> Result<(), Failure> {
    let plan = Plan::new(&options);
    let wanted: Vec<_> = subjects().into_iter().filter(|subject| options.wants(&subject.name())).collect();
    if wanted.is_empty() {
        return Err("nothing that is measured has this in its name; --list shows the names".into());
    }
    let places = Places::here()?;
    say("installing the other servers into target/bench");
    for error in peers::install(&places).await {
        say(&format!("some are left out: {error}"));
    }
    let code = CodeServer::start(work::provide(&places).await?).await?;
    let machine = look_at_machine();
    let mut all = Vec::new();
    for subject in wanted {
        for work in WORKS {
            say(&format!("{}, {work}", subject.name()));
            match subject.measure(work, &plan, &places, code.base()).await {
                Ok(found) => all.push(found),
                Err(error) => say(&format!("{}, {work}, is left out: {error}", subject.name())),
            }
        }
    }
    if all.is_empty() {
        return Err("nothing could be measured".into());
    }
    println!("{}", report::text(&all, &plan, &machine, load_average()));
    let files =
        results::save(&places.built.join("results"), "density", &machine, &report::numbers(&all, &plan))?;
    files.iter().for_each(|file| say(&format!("results are in {}", file.display())));
    Ok(())
}

impl Plan {
    fn new(options: &Options) -> Plan {
        let seconds = Duration::from_secs_f64;
        let (rounds, round, warm_up, gib, most) = if options.quick {
            (1, seconds(0.3), seconds(0.7), 0.25, 64)
        } else {
            (3, seconds(1.0), seconds(4.0), 2.0, 1000)
        };
        Plan {
            rounds: options.rounds_or(rounds),
            round: options.seconds.unwrap_or(round),
            warm_up,
            memory: gib * GIB,
            most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_counted_or_extended() {
        let found = Found {
            subject: subjects()[0],
            work: "hello",
            instances: 100,
            used: GIB,
            each: GIB / 200.0,
            per_second: 3000.0,
            under_load: GIB / 2.0,
        };
        assert_eq!(found.fit(2.0 * GIB), (300.0, false));
        assert_eq!(found.fit(GIB), (100.0, true));
        assert_eq!(found.density(), 6000.0);
    }
}
