//! `hydra bench restore`: from a request to its answer by every start there is, beside what else one would start.
//!
//! Everything is done in turns: in each round every function is answered by every start once (by the quick ones several times), and
//! every peer is started once, in changing order, so that a change of the machine's speed meets all alike. Before each answer is timed,
//! Hydra is let finish what the one before left to do. Which start an answer had is what Hydra says of it in `Server-Timing`.

mod bed;
mod goals;
mod memory;
mod peers;
mod plot;
mod profile;
mod report;
mod samples;
mod start;

use std::collections::BTreeMap;
use std::time::Instant;

use hydra_harness::{CodeServer, Example, examples, paths};

use crate::environment::load_average;
use crate::http::peers::Places;
use crate::http::{peers as servers, work};
use crate::{Failure, Options, look_at_machine, results, say};
use bed::{Bed, Status};
use peers::Ready;
use profile::{Costs, Profiles};
use samples::Samples;
use start::{ASKED, Asked, Way};

/// The languages, in the order of the tables.
const LANGUAGES: [&str; 3] = ["python", "javascript", "java"];
/// Answers of a quick start in one round.
const REPEATS: usize = 3;
/// What failed so often is not tried again.
const MOST_FAILURES: u32 = 3;

/// How much is measured.
struct Plan {
    rounds: usize,
    /// In every how many rounds the examples beside the hello-worlds have their turn.
    examples_every: usize,
    /// Instances of which the memory is the mean.
    instances: u32,
}

/// Something that has its turn in each round.
enum Turn {
    Hydra { example: Example, asked: Asked, failures: u32 },
    Peer(Ready),
}

/// What was found.
struct Findings {
    samples: Samples,
    profiles: Profiles,
    /// By function.
    snapshots: BTreeMap<String, Status>,
    memory: Vec<memory::Instance>,
    /// Measured before the first round.
    costs: Option<Costs>,
}

/// What is measured, by name.
pub fn list() -> Vec<String> {
    let functions = examples().unwrap_or_default();
    let functions = functions.iter().map(name_of);
    functions.chain(peers::all().iter().map(|peer| peer.name.to_owned())).collect()
}

/// Runs the bench.
///
/// # Errors
/// Where Hydra or nothing at all can be measured; what does not work is left out with a word.
pub async fn run(options: Options) -> Result<(), Failure> {
    let plan = Plan::new(&options);
    let mut functions = examples()?;
    functions.retain(|example| options.wants(&name_of(example)));
    let wanted: Vec<_> = peers::all().into_iter().filter(|peer| options.wants(peer.name)).collect();
    if functions.is_empty() && wanted.is_empty() {
        return Err("nothing that is measured has this in its name; --list shows the names".into());
    }
    let places = Places::here()?;
    if !wanted.is_empty() {
        say("installing the other servers into target/bench");
        for error in servers::install(&places).await {
            say(&format!("some are left out: {error}"));
        }
    }
    let code = CodeServer::start(paths::examples_out()).await?;
    let works = CodeServer::start(work::provide(&places).await?).await?;
    let machine = look_at_machine();

    let begun = Instant::now();
    let mut bed = Bed::start(code.base()).await?;
    let mut turns = Vec::new();
    let languages: Vec<_> =
        LANGUAGES.into_iter().filter(|language| functions.iter().any(|f| f.language == *language)).collect();
    for example in functions {
        say(&format!("preparing {}", example.name));
        for asked in ASKED {
            match bed.prepare(&example, asked).await {
                Ok(_) => turns.push(Turn::Hydra { example: example.clone(), asked, failures: 0 }),
                Err(error) => say(&format!("{} is left out: {error}", title(&example, asked))),
            }
        }
    }
    for peer in wanted {
        say(&format!("preparing {}", peer.name));
        match Ready::new(peer, &places).await {
            Ok(ready) => turns.push(Turn::Peer(ready)),
            Err(error) => say(&format!("{} is left out: {error}", peer.name)),
        }
    }
    let mut findings = Findings {
        samples: Samples::default(),
        profiles: Profiles::default(),
        snapshots: BTreeMap::new(),
        memory: Vec::new(),
        costs: Costs::of_this_host().await,
    };
    for round in 0..plan.rounds {
        say(&format!("round {} of {} ({} s)", round + 1, plan.rounds, begun.elapsed().as_secs()));
        for index in order(round, turns.len()) {
            turns[index].take(round, &plan, &mut bed, &places, &mut findings).await;
        }
        turns.retain(|turn| !matches!(turn, Turn::Hydra { failures: MOST_FAILURES.., .. }));
    }
    for turn in &turns {
        if let Turn::Hydra { example, asked, .. } = turn
            && (asked.sandbox, asked.way) == ("snapshot", Way::Any)
        {
            findings.snapshots.insert(example.name.clone(), bed.status(example, *asked).await?);
        }
    }
    bed.stop().await?;
    drop(turns);
    findings.memory = memory::measure(&languages, works.base(), plan.instances).await;

    println!("{}", report::text(&findings, &plan, &machine, load_average()));
    let folder = places.built.join("results");
    let mut files = results::save(&folder, "restore", &machine, &report::numbers(&findings))?.to_vec();
    files.extend(plot::save(&files[0].with_extension(""), &findings.samples, &machine)?);
    files.iter().for_each(|file| say(&format!("results are in {}", file.display())));
    Ok(())
}

impl Plan {
    fn new(options: &Options) -> Plan {
        let plan = if options.quick {
            Plan { rounds: 8, examples_every: 8, instances: 4 }
        } else {
            Plan { rounds: 50, examples_every: 5, instances: 8 }
        };
        Plan { rounds: options.rounds_or(plan.rounds), ..plan }
    }
}

impl Turn {
    async fn take(
        &mut self,
        round: usize,
        plan: &Plan,
        bed: &mut Bed,
        places: &Places,
        findings: &mut Findings,
    ) {
        match self {
            Turn::Peer(ready) if round.is_multiple_of(ready.start.every) => {
                let name = ready.start.name;
                match ready.once(places).await {
                    Ok(time) => findings.samples.peers.entry(name).or_default().push(time),
                    Err(error) => findings.failed(name.to_owned(), &error),
                }
            }
            Turn::Hydra { example, asked, failures }
                if is_hello(example) || round.is_multiple_of(plan.examples_every) =>
            {
                for _ in 0..if asked.cheap { REPEATS } else { 1 } {
                    if let Err(error) = answer(example, *asked, bed, findings).await {
                        *failures += 1;
                        findings.failed(title(example, *asked), &error);
                    }
                }
            }
            _ => {}
        }
    }
}

async fn answer(
    example: &Example,
    asked: Asked,
    bed: &mut Bed,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let answered = bed.answer(example, asked).await?;
    let start = answered.start.ok_or_else(|| format!("an unknown start: {}", answered.said))?;
    let key = (example.name.clone(), start);
    if let Some(counts) = &answered.counts {
        findings.profiles.entry(key.clone()).or_default().add(counts);
    }
    findings.samples.hydra.entry(key).or_default().push(answered.sample);
    Ok(())
}

impl Findings {
    fn failed(&mut self, what: String, error: &Failure) {
        if !self.samples.failures.contains_key(&what) {
            say(&format!("{what}: {error}"));
        }
        self.samples.failures.entry(what).or_insert_with(|| error.to_string());
    }
}

/// The order of a round: each begins elsewhere, and every other one goes backwards.
fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    if count > 0 {
        order.rotate_left(round * 7 % count);
    }
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

fn name_of(example: &Example) -> String {
    format!("hydra {}", example.name)
}

fn title(example: &Example, asked: Asked) -> String {
    format!("{} ({}, {:?})", name_of(example), asked.sandbox, asked.way)
}

/// The name of a language's hello-world.
fn hello(language: &str) -> String {
    format!("{language}-hello-world")
}

fn is_hello(example: &Example) -> bool {
    example.name == hello(&example.language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_does_everything_in_another_order() {
        let orders = [0, 1, 2].map(|round| order(round, 5));
        assert_eq!(orders[0], [0, 1, 2, 3, 4]);
        assert_eq!(orders[1], [1, 0, 4, 3, 2]);
        assert_eq!(orders[2], [4, 0, 1, 2, 3]);
        assert!(order(3, 0).is_empty());
    }
}
