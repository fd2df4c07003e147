//! `hydra bench exec`: the same programs natively and in a microVM, alternately in one session.
//!
//! The ratios are the result. Each round runs a program on both sides, one right after the other and in changing order, and
//! has a ratio of its own, so that a change of the machine's speed meets both sides of it.

mod program;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hydra_harness::paths;

use crate::environment::load_average;
use crate::{Failure, Options, install, look_at_machine, results, say};
use program::{PROGRAMS, Program, Side};

/// How long one run of a program may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was found of one program.
struct Findings {
    program: &'static Program,
    /// Seconds natively and in the guest, by round.
    rounds: Vec<[f64; 2]>,
}

/// The programs' names.
pub fn list() -> Vec<String> {
    PROGRAMS.iter().map(|program| program.name.to_owned()).collect()
}

/// Runs the bench.
///
/// # Errors
/// Where nothing can be measured; a program that does not run natively is left out with a word.
pub async fn run(options: Options) -> Result<(), Failure> {
    let wanted: Vec<_> = PROGRAMS.iter().filter(|program| options.wants(program.name)).collect();
    if wanted.is_empty() {
        return Err("nothing that is measured has this in its name; --list shows the names".into());
    }
    let built = paths::root().join("target/bench");
    let places = Places {
        hydra: paths::hydra_binary()?,
        sources: paths::root().join("tests/bench/exec"),
        classes: built.join("exec"),
    };
    std::fs::create_dir_all(&places.classes)?;
    if wanted.iter().any(|program| program.language == program::Language::Java)
        && let Err(error) = places.compile_java().await
    {
        say(&format!("Java is left out: {error}"));
    }
    let machine = look_at_machine();
    let mut findings = Vec::new();
    for program in wanted {
        say(program.name);
        match measure(program, &places, options.rounds_or(rounds(program, options.quick))).await? {
            Some(rounds) => findings.push(Findings { program, rounds }),
            None => say(&format!("{} is left out: it does not run natively", program.name)),
        }
    }
    if findings.is_empty() {
        return Err("nothing is left to be measured".into());
    }
    println!("{}", report::text(&findings, &machine, load_average()));
    let files = results::save(&built.join("results"), "exec", &machine, &report::numbers(&findings))?;
    files.iter().for_each(|file| say(&format!("results are in {}", file.display())));
    Ok(())
}

/// Starts are short, and there is more chance in them.
fn rounds(program: &Program, quick: bool) -> usize {
    match (program.is_start(), quick) {
        (true, false) => 41,
        (true, true) => 11,
        (false, false) => 11,
        (false, true) => 3,
    }
}

/// Where things are.
struct Places {
    hydra: PathBuf,
    sources: PathBuf,
    classes: PathBuf,
}

impl Places {
    async fn compile_java(&self) -> Result<(), install::InstallError> {
        let mut javac = tokio::process::Command::new("javac");
        install::run(javac.arg("-d").arg(&self.classes).arg(self.sources.join("Programs.java"))).await
    }
}

/// Seconds on both sides, by round; `None` where the program does not run natively.
async fn measure(
    program: &Program,
    places: &Places,
    rounds: usize,
) -> Result<Option<Vec<[f64; 2]>>, Failure> {
    let scratch = tempfile::tempdir()?;
    // The first run of each side fills the host's page cache, and shows whether both give the same result.
    let Ok(expected) = once(program, Side::Native, places, scratch.path()).await else { return Ok(None) };
    let found = once(program, Side::Guest, places, scratch.path()).await?;
    if found.result != expected.result {
        let message =
            format!("{}: {} natively, {} in the guest", program.name, expected.result, found.result);
        return Err(message.into());
    }
    let mut all = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let mut seconds = [0.0; 2];
        let order = if round % 2 == 0 { [Side::Native, Side::Guest] } else { [Side::Guest, Side::Native] };
        for side in order {
            seconds[side as usize] = once(program, side, places, scratch.path()).await?.seconds;
        }
        all.push(seconds);
    }
    Ok(Some(all))
}

async fn once(
    program: &Program,
    side: Side,
    places: &Places,
    scratch: &Path,
) -> Result<program::Outcome, Failure> {
    match tokio::time::timeout(PATIENCE, program.run(side, places, scratch)).await {
        Ok(outcome) => outcome.map_err(|error| format!("{} ({}): {error}", program.name, side.name()).into()),
        Err(_) => Err(format!("{} ({}) took longer than {PATIENCE:?}", program.name, side.name()).into()),
    }
}
