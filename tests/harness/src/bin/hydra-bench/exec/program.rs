//! The programs that are measured, and one run of one of them.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde::Deserialize;
use tokio::process::Command;

use super::Places;
use crate::Failure;

/// What a program is written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    Python,
    JavaScript,
    Java,
}

/// What of a run is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timed {
    /// All of it, from outside; the program does nothing.
    Start(&'static [&'static str]),
    /// The work of this function, as the program itself says: the last of so many times.
    Work(&'static str, &'static str),
}

/// One program.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub language: Language,
    timed: Timed,
    /// See [`Program::goal`].
    goal: Option<f64>,
}

/// For the first time, and when a compiler has seen to it.
const ONCE: &str = "1";
const COMPILED: &str = "3";

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Native = 0,
    Guest = 1,
}

impl Side {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Side::Native => "natively",
            Side::Guest => "in the guest",
        }
    }
}

/// What a run says.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    pub seconds: f64,
    pub result: String,
}

const fn start(name: &'static str, language: Language, arguments: &'static [&'static str]) -> Program {
    let goal = if matches!(language, Language::Python) { 2.0 } else { 2.5 };
    Program { name, language, timed: Timed::Start(arguments), goal: Some(goal) }
}

/// Work that the program does in ring 3. Compilers and collectors that run beside the program make Node and the JVM lean more on the system.
const fn compute(name: &'static str, language: Language, function: &'static str) -> Program {
    match language {
        Language::Python => Program { name, language, timed: Timed::Work(function, ONCE), goal: Some(1.03) },
        _ => Program { name, language, timed: Timed::Work(function, COMPILED), goal: Some(1.05) },
    }
}

/// Work on memory that was never touched, which is so for the first time only.
const fn fresh(name: &'static str, language: Language, function: &'static str) -> Program {
    Program { timed: Timed::Work(function, ONCE), ..compute(name, language, function) }
}

/// Work that is mostly the system's: nobody's goal, but of interest.
const fn system(name: &'static str, language: Language, function: &'static str) -> Program {
    Program { name, language, timed: Timed::Work(function, ONCE), goal: None }
}

/// All programs.
pub const PROGRAMS: &[Program] = &[
    start("python start-up", Language::Python, &["-I", "-c", "pass"]),
    start("python start-up, no site", Language::Python, &["-I", "-S", "-c", "pass"]),
    compute("python json", Language::Python, "json_text"),
    compute("python regex", Language::Python, "regex"),
    compute("python nbody", Language::Python, "nbody"),
    compute("python sha256 of 100 MB", Language::Python, "sha256"),
    fresh("python fresh memory", Language::Python, "memory"),
    system("python 1,000 small files", Language::Python, "small_files"),
    system("python one file of 100 MB", Language::Python, "large_file"),
    start("node start-up", Language::JavaScript, &["-e", "1"]),
    compute("node json", Language::JavaScript, "json"),
    compute("node sieve", Language::JavaScript, "sieve"),
    compute("node objects", Language::JavaScript, "objects"),
    compute("node regex", Language::JavaScript, "regex"),
    compute("node sha256 of 100 MB", Language::JavaScript, "sha256"),
    fresh("node fresh memory", Language::JavaScript, "memory"),
    system("node objects, first time", Language::JavaScript, "objects"),
    system("node regex, first time", Language::JavaScript, "regex"),
    start("java start-up", Language::Java, &["Programs", "nothing"]),
    compute("java sieve", Language::Java, "sieve"),
    compute("java objects", Language::Java, "objects"),
    compute("java nbody", Language::Java, "nbody"),
    compute("java sha256 of 100 MB", Language::Java, "sha256"),
    compute("java two threads", Language::Java, "threads"),
    system("java objects, first time", Language::Java, "objects"),
    system("java sha256 of 100 MB, first time", Language::Java, "sha256"),
];

impl Program {
    /// Whether it measures a start.
    pub fn is_start(&self) -> bool {
        matches!(self.timed, Timed::Start(_))
    }

    /// Most that it may take in the guest, as a multiple of the native time, if there is a goal for it.
    pub fn goal(&self) -> Option<f64> {
        self.goal
    }

    /// Runs it once; it may leave nothing in `scratch`.
    pub async fn run(&self, side: Side, places: &Places, scratch: &Path) -> Result<Outcome, Failure> {
        let command = self.command(places, scratch);
        let mut process = match side {
            Side::Native => Command::new(&command[0]),
            Side::Guest => {
                let mut hydra = Command::new(&places.hydra);
                hydra.args(["exec", "--"]).arg(&command[0]);
                hydra
            }
        };
        process.args(&command[1..]).current_dir(scratch).stdin(Stdio::null()).kill_on_drop(true);
        let begin = Instant::now();
        let output = process.output().await?;
        let elapsed = begin.elapsed().as_secs_f64();
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", output.status, text.lines().last().unwrap_or_default()).into());
        }
        match self.timed {
            Timed::Start(_) => Ok(Outcome { seconds: elapsed, result: String::new() }),
            Timed::Work(..) => Ok(serde_json::from_slice(&output.stdout)?),
        }
    }

    /// Node and the JVM get heaps of a size that they would choose by the memory that there is, which is not the same on both sides.
    fn command(&self, places: &Places, scratch: &Path) -> Vec<OsString> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let mut command = match self.language {
            Language::Python => words(&["/usr/bin/python3"]),
            Language::JavaScript => words(&["node", "--max-semi-space-size=16", "--max-old-space-size=512"]),
            Language::Java => words(&["java", "-XX:+UseSerialGC", "-Xms256m", "-Xmx256m", "-cp"]),
        };
        if self.language == Language::Java {
            command.push((&places.classes).into());
        }
        match self.timed {
            Timed::Start(arguments) => command.extend(arguments.iter().map(OsString::from)),
            Timed::Work(function, times) => {
                command.push(match self.language {
                    Language::Python => places.sources.join("programs.py").into(),
                    Language::JavaScript => places.sources.join("programs.js").into(),
                    Language::Java => "Programs".into(),
                });
                command.extend([function.into(), scratch.into(), times.into()]);
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = PROGRAMS.iter().map(|program| program.name).collect();
        assert_eq!(names.len(), PROGRAMS.len());
    }

    #[test]
    fn every_function_is_in_its_source() {
        let sources = hydra_harness::paths::root().join("tests/bench/exec");
        for program in PROGRAMS {
            let Timed::Work(function, _) = program.timed else { continue };
            let file = match program.language {
                Language::Python => "programs.py",
                Language::JavaScript => "programs.js",
                Language::Java => "Programs.java",
            };
            let text = std::fs::read_to_string(sources.join(file)).unwrap();
            assert!(text.contains(&format!("{function}(")), "{function} in {file}");
        }
    }
}
