//! What else one would start to have an answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Failure;
use crate::http::peers::{self, Places, Spec};
use crate::http::{subject, work};
use crate::load::Kept;
use crate::peer::Peer;

/// Something that is started.
#[derive(Clone, Copy)]
pub enum What {
    /// A server, from its start to its first answer.
    Server(&'static Spec),
    /// An isolate of a workerd that runs.
    NewIsolate,
    /// A program in gVisor, from its start to its end.
    GVisor,
}

/// One line of the tables.
#[derive(Clone, Copy)]
pub struct PeerStart {
    pub name: &'static str,
    pub language: &'static str,
    pub what: What,
    /// In every how many rounds: some take long.
    pub every: usize,
}

/// All of them.
pub fn all() -> Vec<PeerStart> {
    let servers =
        peers::ALL.iter().map(|spec| (spec.name, spec.language, What::Server(spec), 1)).collect::<Vec<_>>();
    let others = [
        (peers::NEW_ISOLATE.name, peers::NEW_ISOLATE.language, What::NewIsolate, 1),
        ("gVisor one-shot python", "python", What::GVisor, 4),
        ("gVisor one-shot javascript", "javascript", What::GVisor, 4),
        ("gVisor one-shot java", "java", What::GVisor, 4),
    ];
    servers
        .into_iter()
        .chain(others)
        .map(|(name, language, what, every)| PeerStart { name, language, what, every })
        .collect()
}

/// A peer that is ready to be started.
pub struct Ready {
    pub start: PeerStart,
    /// The server that makes isolates, where it is one.
    isolates: Option<(Peer, crate::load::Target, Kept)>,
}

impl Ready {
    /// Prepares it.
    ///
    /// # Errors
    /// Why it does not run here.
    pub async fn new(start: PeerStart, places: &Places) -> Result<Ready, Failure> {
        let isolates = match start.what {
            What::NewIsolate => {
                let (peer, address) = subject::start(&peers::NEW_ISOLATE, places).await?;
                Some((peer, subject::peer_target(address, "hello"), Kept::new()))
            }
            _ => None,
        };
        let mut ready = Ready { start, isolates };
        // The first fills the host's page cache, and shows whether it works.
        ready.once(places).await?;
        Ok(ready)
    }

    /// Starts it once; the time to its answer in ms.
    ///
    /// # Errors
    /// Why there was none.
    pub async fn once(&mut self, places: &Places) -> Result<f64, Failure> {
        let time = match (self.start.what, &mut self.isolates) {
            (What::Server(spec), _) => subject::start(spec, places).await?.0.first_answer,
            (What::NewIsolate, Some((_, target, connection))) => {
                let answer = tokio::task::block_in_place(|| connection.ask(target))?;
                work::check("hello", &answer.body)?;
                answer.time
            }
            _ => {
                let mut command = tokio::process::Command::from(in_gvisor(self.start.language, places)?);
                command.stdin(Stdio::null()).kill_on_drop(true);
                let begun = Instant::now();
                let output = command.output().await?;
                let time = begun.elapsed();
                let answer = String::from_utf8_lossy(&output.stdout).into_owned();
                work::check("hello", &answer)
                    .map_err(|error| format!("{error}; {}", String::from_utf8_lossy(&output.stderr)))?;
                time
            }
        };
        Ok(time.as_secs_f64() * 1e3)
    }
}

/// `hello` of a language, as a program in a sandbox of gVisor.
fn in_gvisor(language: &str, places: &Places) -> Result<Command, Failure> {
    let file = |path: &str| places.sources.join(path).display().to_string();
    let (program, arguments) = match language {
        "python" => {
            let code = format!(
                "import sys, json; sys.path.insert(0, {:?}); import work; print(json.dumps(work.hello({{'name': 'Hydra'}})))",
                file("python")
            );
            (found(&peers::python())?, vec!["-I".into(), "-S".into(), "-c".into(), code])
        }
        "javascript" => {
            let code = "console.log(JSON.stringify(require(process.argv[1]).hello({ name: 'Hydra' })))";
            (found(Path::new("node"))?, vec!["-e".into(), code.into(), file("javascript/work.js")])
        }
        _ => {
            let jar = places.built.join("functions/work.jar").display().to_string();
            (found(Path::new("java"))?, vec!["-cp".into(), jar, "Once".into()])
        }
    };
    let mut command = Command::new(found(Path::new("runsc"))?);
    // Neither KVM nor the cgroups of this sort of machine are of use to it.
    command.args(["--platform=ptrace", "--ignore-cgroups", "--network=none", "do"]);
    command.arg(program).args(arguments);
    Ok(command)
}

/// Where a program is: in a sandbox PATH may be another.
fn found(program: &Path) -> Result<PathBuf, Failure> {
    if program.components().count() > 1 {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{} is not installed", program.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_each() {
        let mut names: Vec<_> = all().iter().map(|start| start.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn programs_are_looked_for_in_path() {
        assert!(found(Path::new("sh")).unwrap().is_absolute());
        assert!(found(Path::new("no-such-program")).is_err());
    }
}
