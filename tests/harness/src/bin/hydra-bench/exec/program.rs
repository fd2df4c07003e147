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
    /// The work, as the program itself says.
    Work(&'static str),
}

/// One program.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub language: Language,
    timed: Timed,
}

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
    Program { name, language, timed: Timed::Start(arguments) }
}

const fn work(name: &'static str, language: Language, function: &'static str) -> Program {
    Program { name, language, timed: Timed::Work(function) }
}

/// All programs.
pub const PROGRAMS: &[Program] = &[
    start("python start-up", Language::Python, &["-I", "-c", "pass"]),
    start("python start-up, no site", Language::Python, &["-I", "-S", "-c", "pass"]),
    work("python json", Language::Python, "json_text"),
    work("python regex", Language::Python, "regex"),
    work("python nbody", Language::Python, "nbody"),
    work("python sha256 of 100 MB", Language::Python, "sha256"),
    work("python fresh memory", Language::Python, "memory"),
    work("python 1,000 small files", Language::Python, "small_files"),
    work("python one file of 100 MB", Language::Python, "large_file"),
    start("node start-up", Language::JavaScript, &["-e", "1"]),
    work("node json", Language::JavaScript, "json"),
    work("node sieve", Language::JavaScript, "sieve"),
    work("node objects", Language::JavaScript, "objects"),
    work("node regex", Language::JavaScript, "regex"),
    work("node sha256 of 100 MB", Language::JavaScript, "sha256"),
    work("node fresh memory", Language::JavaScript, "memory"),
    start("java start-up", Language::Java, &["Programs", "nothing"]),
    work("java sieve", Language::Java, "sieve"),
    work("java objects", Language::Java, "objects"),
    work("java nbody", Language::Java, "nbody"),
    work("java sha256 of 100 MB", Language::Java, "sha256"),
    work("java two threads", Language::Java, "threads"),
];

impl Program {
    /// Whether it measures a start.
    pub fn is_start(&self) -> bool {
        matches!(self.timed, Timed::Start(_))
    }

    /// Most that it may take in the guest, as a multiple of the native time. Compilers and collectors that run beside the program make Node
    /// and the JVM lean more on the system.
    pub fn goal(&self) -> f64 {
        match (self.is_start(), self.language) {
            (true, Language::Python) => 2.0,
            (true, _) => 2.5,
            (false, Language::Python) => 1.03,
            (false, _) => 1.05,
        }
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
            Timed::Work(_) => Ok(serde_json::from_slice(&output.stdout)?),
        }
    }

    fn command(&self, places: &Places, scratch: &Path) -> Vec<OsString> {
        let mut command: Vec<OsString> = match self.language {
            Language::Python => vec!["/usr/bin/python3".into()],
            Language::JavaScript => vec!["node".into()],
            Language::Java => {
                vec!["java".into(), "-XX:+UseSerialGC".into(), "-cp".into(), (&places.classes).into()]
            }
        };
        match self.timed {
            Timed::Start(arguments) => command.extend(arguments.iter().map(OsString::from)),
            Timed::Work(function) => {
                command.push(match self.language {
                    Language::Python => places.sources.join("programs.py").into(),
                    Language::JavaScript => places.sources.join("programs.js").into(),
                    Language::Java => "Programs".into(),
                });
                command.extend([function.into(), scratch.into()]);
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
            let Timed::Work(function) = program.timed else { continue };
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
