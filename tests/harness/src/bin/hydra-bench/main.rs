//! `hydra bench`: measures Hydra beside what one would use instead. A bench is one module and one line of [`BENCHES`].

mod ab;
mod density;
mod environment;
mod exec;
mod fleet;
mod goal;
mod http;
mod install;
mod load;
mod memory;
mod peer;
mod response;
mod restore;
mod results;
mod statistics;
mod tree;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use environment::Machine;
use tokio::signal::unix::{SignalKind, signal};

/// What stops a bench; it is shown to the user.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A bench under way; nothing that it started is left when it is dropped.
type Running = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// One bench.
struct Bench {
    name: &'static str,
    about: &'static str,
    /// What `--only` chooses from.
    list: fn() -> Vec<String>,
    run: fn(Options) -> Running,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "http",
        about: "warm and first calls over HTTP, and memory, beside other servers of functions",
        list: http::list,
        run: |options| Box::pin(http::run(options)),
    },
    Bench {
        name: "exec",
        about: "programs in a microVM beside the same programs natively",
        list: exec::list,
        run: |options| Box::pin(exec::run(options)),
    },
    Bench {
        name: "restore",
        about: "times to the first answer by every start there is, beside the starts of other servers; with a plot",
        list: restore::list,
        run: |options| Box::pin(restore::run(options)),
    },
    Bench {
        name: "density",
        about: "how many instances fit into 2 GiB, and requests per second for each GiB",
        list: density::list,
        run: |options| Box::pin(density::run(options)),
    },
];

/// Measures Hydra beside what one would use instead. Ratios within one run are the result: absolute times vary from run to run.
#[derive(Parser)]
#[command(name = "hydra bench", bin_name = "hydra bench", after_help = bench_list())]
struct Arguments {
    /// What to measure; see the list below
    #[arg(value_name = "BENCH", value_parser = bench_names())]
    bench: Option<String>,
    #[command(flatten)]
    options: Options,
}

/// What every bench takes.
#[derive(clap::Args, Clone, Debug)]
struct Options {
    /// Fewer and shorter rounds: one or two minutes in all
    #[arg(long)]
    quick: bool,
    /// Length of one round of one measurement, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// How often everything is measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Measure only what has this text in its name
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// List what is measured, and end
    #[arg(long)]
    list: bool,
}

impl Options {
    /// Whether what is called `name` is to be measured.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|text| name.contains(text.as_str()))
    }

    /// How many rounds, where it is `usual` if nothing is said.
    fn rounds_or(&self, usual: usize) -> usize {
        self.rounds.map_or(usual, |rounds| rounds as usize)
    }
}

/// A line of progress; standard output is left to the result.
fn say(line: &str) {
    eprintln!("hydra bench: {line}");
}

/// What the machine is like; a word where it is busy.
fn look_at_machine() -> Machine {
    let machine = Machine::look();
    if machine.load > 0.5 {
        let load = machine.load;
        say(&format!("the machine is busy (load average {load:.2}): only large differences mean something"));
    }
    machine
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("must be a number of seconds from 0.05 to 60".into()),
    }
}

fn bench_names() -> Vec<&'static str> {
    BENCHES.iter().map(|bench| bench.name).collect()
}

fn bench_list() -> String {
    let lines: Vec<_> = BENCHES.iter().map(|bench| format!("  {:<10} {}", bench.name, bench.about)).collect();
    format!("Benches:\n{}", lines.join("\n"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(bench) = BENCHES.iter().find(|bench| Some(bench.name) == arguments.bench.as_deref()) else {
        println!("{}\n\n./hydra bench --help lists the options", bench_list());
        return if arguments.options.list { ExitCode::SUCCESS } else { ExitCode::from(2) };
    };
    if arguments.options.list {
        (bench.list)().iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if let Err(error) = environment::make_clean() {
        eprintln!("hydra bench: cannot start anew with a clean environment: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hydra bench: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(until_stopped((bench.run)(arguments.options)));
    // A round under way on a thread of its own ends by itself; it is not waited for long.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Runs a bench to its end, or to the first SIGINT or SIGTERM.
async fn until_stopped(running: Running) -> ExitCode {
    let stopped = async {
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        result = running => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hydra bench: {error}");
                ExitCode::FAILURE
            }
        },
        () = stopped => {
            eprintln!("hydra bench: stopped");
            ExitCode::from(130)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn rounds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "61", "NaN", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
