//! `hydra bench http`: warm calls, first calls and memory, of Hydra and of what one would use instead, in one session.
//!
//! First calls and memory are measured with each server alone. For warm calls all of them run, idle but for the one that is
//! measured; rounds are interleaved, and the median of the rounds counts, so that a change of the machine's speed meets all alike.

mod alone;
mod goals;
pub mod peers;
mod report;
pub mod subject;
pub mod work;

use std::collections::BTreeMap;
use std::time::Duration;

use hydra_harness::{CodeServer, Server, ServerOptions};

use crate::environment::load_average;
use crate::load::Target;
use crate::peer::Peer;
use crate::statistics::Summary;
use crate::{Failure, Options, ab, look_at_machine, results, say};
use alone::Alone;
use peers::Places;
use subject::{Hydra, Kind, Subject};
use work::WORKS;

/// Connections of the rounds.
const CONNECTIONS: [usize; 2] = [1, 8];

/// How much is measured.
struct Plan {
    rounds: usize,
    round: Duration,
    warm_up: Duration,
    first_calls: u32,
    ab_requests: u32,
}

/// What was found of one subject.
struct Findings {
    subject: Subject,
    alone: Alone,
    /// By work and connections.
    warm: BTreeMap<(&'static str, usize), Summary>,
    /// Requests per second with `ab`, by work.
    ab: BTreeMap<&'static str, f64>,
}

/// A subject that runs.
struct Runner {
    subject: Subject,
    alone: Alone,
    targets: BTreeMap<&'static str, Target>,
    rounds: BTreeMap<(&'static str, usize), Vec<Summary>>,
    ab: BTreeMap<&'static str, f64>,
    // Ends the server when the runner is dropped.
    _peer: Option<Peer>,
}

/// The subjects' names.
pub fn list() -> Vec<String> {
    subject::all().into_iter().map(|subject| subject.name).collect()
}

/// Runs the bench.
///
/// # Errors
/// Where Hydra or nothing at all can be measured; a server that does not work is left out with a word.
pub async fn run(options: Options) -> Result<(), Failure> {
    let wanted: Vec<_> = subject::all().into_iter().filter(|subject| options.wants(&subject.name)).collect();
    if wanted.is_empty() {
        return Err("nothing that is measured has this in its name; --list shows the names".into());
    }
    let plan = Plan::new(&options);
    let places = Places::here()?;
    say("installing the other servers into target/bench");
    for error in peers::install(&places).await {
        say(&format!("some are left out: {error}"));
    }
    let code = CodeServer::start(work::provide(&places).await?).await?;
    let machine = look_at_machine();

    let mut measured = Vec::new();
    for subject in wanted {
        say(&format!("first calls and memory: {}", subject.name));
        match alone::measure(&subject, &places, code.base(), plan.first_calls, plan.warm_up).await {
            Ok(alone) => measured.push((subject, alone)),
            Err(error) => say(&format!("{} is left out: {error}", subject.name)),
        }
    }
    let hydra = Hydra::new(Server::start(ServerOptions::default()).await?, code.base())?;
    let mut runners = Vec::new();
    for (subject, alone) in measured {
        say(&format!("warming up: {}", subject.name));
        let name = subject.name.clone();
        match Runner::start(subject, alone, &hydra, &places, &plan).await {
            Ok(runner) => runners.push(runner),
            Err(error) => say(&format!("{name} is left out: {error}")),
        }
    }
    if runners.is_empty() {
        return Err("nothing is left to be measured".into());
    }
    measure(&mut runners, &plan).await?;
    hydra.server.stop().await?;

    let findings: Vec<_> = runners.into_iter().map(Runner::finish).collect();
    let after = load_average();
    println!("{}", report::text(&findings, &plan, &machine, after));
    let files = results::save(&places.built.join("results"), "http", &machine, &report::numbers(&findings))?;
    files.iter().for_each(|file| say(&format!("results are in {}", file.display())));
    Ok(())
}

impl Plan {
    fn new(options: &Options) -> Plan {
        let quick = Plan {
            rounds: 3,
            round: Duration::from_millis(250),
            warm_up: Duration::from_millis(500),
            first_calls: 3,
            ab_requests: 400,
        };
        let whole = Plan {
            rounds: 5,
            round: Duration::from_secs(1),
            warm_up: Duration::from_secs(2),
            first_calls: 7,
            ab_requests: 2000,
        };
        let plan = if options.quick { quick } else { whole };
        Plan { rounds: options.rounds_or(plan.rounds), round: options.seconds.unwrap_or(plan.round), ..plan }
    }
}

impl Runner {
    /// Leaves the subject running and warm.
    async fn start(
        subject: Subject,
        alone: Alone,
        hydra: &Hydra,
        places: &Places,
        plan: &Plan,
    ) -> Result<Runner, Failure> {
        let mut targets = BTreeMap::new();
        let mut peer = None;
        match subject.kind {
            Kind::Hydra(sandbox) => {
                for work in WORKS {
                    let name = format!("{sandbox}-{}-{work}", subject.language);
                    hydra.register(&name, subject.language, sandbox, work).await?;
                    targets.insert(work, hydra.target(&name, work));
                }
            }
            Kind::Peer(spec) => {
                let (started, address) = subject::start(spec, places).await?;
                peer = Some(started);
                targets.extend(WORKS.map(|work| (work, subject::peer_target(address, work))));
            }
        }
        for (work, target) in &targets {
            work::check(work, &subject::call(target.clone()).await?)?;
            subject::round(target.clone(), 8, plan.warm_up).await?;
        }
        Ok(Runner { subject, alone, targets, rounds: BTreeMap::new(), ab: BTreeMap::new(), _peer: peer })
    }

    fn finish(self) -> Findings {
        Findings {
            subject: self.subject,
            alone: self.alone,
            warm: self.rounds.into_iter().map(|(key, rounds)| (key, Summary::median(&rounds))).collect(),
            ab: self.ab,
        }
    }
}

/// The rounds: in each, every subject does everything once.
async fn measure(runners: &mut [Runner], plan: &Plan) -> Result<(), Failure> {
    for round in 1..=plan.rounds {
        say(&format!("warm calls: round {round} of {}", plan.rounds));
        for work in WORKS {
            for connections in CONNECTIONS {
                for runner in runners.iter_mut() {
                    let summary = subject::round(runner.targets[work].clone(), connections, plan.round)
                        .await
                        .map_err(|error| format!("{}: {error}", runner.subject.name))?;
                    runner.rounds.entry((work, connections)).or_default().push(summary);
                }
            }
        }
    }
    for work in WORKS {
        say(&format!("warm calls with ab: {work}"));
        for runner in runners.iter_mut() {
            match ab::requests_per_second(&runner.targets[work], plan.ab_requests).await {
                Ok(number) => _ = runner.ab.insert(work, number),
                Err(error) => say(&format!("{} with ab: {error}", runner.subject.name)),
            }
        }
    }
    Ok(())
}
