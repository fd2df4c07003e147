//! Which languages this host can run, and how each language's agent is started.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The agents there are: one per language, and one for shared objects whatever language they were written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// CPython 3.11 or later.
    Python,
    /// Node.js 18 or later.
    JavaScript,
    /// A JDK or JRE 17 or later.
    Java,
    /// Shared objects.
    Native,
}

impl Agent {
    /// All of them.
    pub const ALL: [Agent; 4] = [Agent::Python, Agent::JavaScript, Agent::Java, Agent::Native];

    /// Its name, as in the agents' folder and in `HELLO`.
    pub fn name(self) -> &'static str {
        match self {
            Agent::Python => "python",
            Agent::JavaScript => "javascript",
            Agent::Java => "java",
            Agent::Native => "native",
        }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of the two modes of the protocol an agent is started in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One function on the inherited channel.
    Function {
        /// The memory that the function may use, in MiB.
        memory: u32,
    },
    /// The same in a microVM, which may be checkpointed.
    MicroVm {
        /// As above.
        memory: u32,
    },
    /// Many isolates; the inherited channel is the control channel.
    Host,
}

/// A language that can run here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Runtime {
    /// Its agent.
    pub agent: Agent,
    /// The executable that runs the agent.
    pub program: PathBuf,
    /// What the executable says of its version.
    pub version: String,
    /// The folder of this agent's files.
    pub folder: PathBuf,
}

/// The languages that can run here, and why the others cannot.
#[derive(Debug)]
pub struct Runtimes {
    found: Vec<Result<Runtime, (Agent, String)>>,
}

impl Runtimes {
    /// Looks for each language's runtime and agent below `agents`. Takes as long as the slowest `--version`.
    pub fn discover(agents: &Path) -> Runtimes {
        let found = std::thread::scope(|scope| {
            let tasks = Agent::ALL.map(|agent| {
                scope.spawn(move || Runtime::discover(agent, agents).map_err(|reason| (agent, reason)))
            });
            tasks
                .into_iter()
                .zip(Agent::ALL)
                .map(|(task, agent)| {
                    task.join().unwrap_or_else(|_| Err((agent, "looking for it panicked".into())))
                })
                .collect()
        });
        Runtimes { found }
    }

    /// Those that were found before, by another process.
    pub fn known(found: Vec<Runtime>) -> Runtimes {
        Runtimes { found: found.into_iter().map(Ok).collect() }
    }

    /// The runtime of `agent`.
    ///
    /// # Errors
    /// Why there is none, in a sentence for the user.
    pub fn get(&self, agent: Agent) -> Result<&Runtime, &str> {
        for found in &self.found {
            match found {
                Ok(runtime) if runtime.agent == agent => return Ok(runtime),
                Err((missing, reason)) if *missing == agent => return Err(reason),
                _ => {}
            }
        }
        Err("it was not looked for")
    }
}

impl Runtime {
    fn discover(agent: Agent, agents: &Path) -> Result<Runtime, String> {
        let folder = agents.join(agent.name());
        let main = folder.join(match agent {
            Agent::Python => "agent.py",
            Agent::JavaScript => "agent.js",
            Agent::Java => "hydra-agent.jar",
            Agent::Native => "hydra-agent-native",
        });
        if !main.is_file() {
            return Err(format!("its agent {} is missing; ./build.sh makes it", main.display()));
        }
        let (candidates, oldest, package): (&[&str], u32, _) = match agent {
            Agent::Python => (&["/usr/bin/python3", "python3"], 311, "python3 (3.11 or later)"),
            Agent::JavaScript => (&["/usr/bin/node", "node"], 1800, "nodejs (18 or later)"),
            Agent::Java => (&["java"], 1700, "openjdk-17-jdk-headless (17 or later)"),
            Agent::Native => {
                return Ok(Runtime {
                    agent,
                    program: main,
                    version: env!("CARGO_PKG_VERSION").into(),
                    folder,
                });
            }
        };
        let mut seen = None;
        for program in candidates.iter().filter_map(|name| find(name)) {
            let Some(version) = version(&program) else { continue };
            if number(&version) >= oldest {
                return Ok(Runtime { agent, program, version, folder });
            }
            seen = Some(format!("{} is {version}", program.display()));
        }
        Err(match seen {
            Some(old) => format!("{old}; install {package}"),
            None => format!("no {} was found; install {package}", candidates.last().unwrap_or(&"runtime")),
        })
    }

    /// The arguments of [`Runtime::program`] that start the agent on the channel `{fd}`: whoever starts it puts the
    /// descriptor's number there.
    pub fn arguments(&self, mode: Mode) -> Vec<OsString> {
        self.arguments_at(mode, &self.folder)
    }

    /// The same for an agent that sees [`Runtime::folder`] at `place`.
    pub fn arguments_at(&self, mode: Mode, place: &Path) -> Vec<OsString> {
        let file = |name: &str| place.join(name).into_os_string();
        let mut arguments: Vec<OsString> = self.flags(mode, place).into_iter().map(OsString::from).collect();
        match self.agent {
            // Isolated from the environment and from the user's packages.
            Agent::Python => arguments.extend(["-I".into(), "-S".into(), "-B".into(), file("agent.py")]),
            Agent::JavaScript => arguments.push(file("agent.js")),
            Agent::Java => {
                arguments.extend(["-cp".into(), file("hydra-agent.jar"), "hydra.agent.Main".into()]);
            }
            Agent::Native => {}
        }
        arguments.push(if mode == Mode::Host { "--host".into() } else { "--function".into() });
        arguments.push("{fd}".into());
        arguments
    }

    /// The most MiB that the heap may have.
    fn heap(&self, mode: Mode) -> u32 {
        match (mode, self.agent) {
            // Half of the machine's memory: the isolates are bounded one by one.
            (Mode::Host, _) => u32::try_from(total_memory() >> 21).unwrap_or(u32::MAX),
            // What the JVM needs besides its heap is the function's too; a full heap is then an OutOfMemoryError.
            (Mode::Function { memory } | Mode::MicroVm { memory }, Agent::Java) => {
                memory.saturating_sub(64).max(memory / 2)
            }
            // V8 ends the process when its heap is full, without a word to the function: the sandbox's own limit, which
            // can say why, is to be met first.
            (Mode::Function { memory } | Mode::MicroVm { memory }, _) => memory.saturating_mul(2),
        }
    }

    /// Host folders that the runtime reads besides the system's own.
    pub fn readable(&self) -> Vec<PathBuf> {
        std::iter::once(self.folder.clone()).chain(self.home()).collect()
    }

    /// The runtime's own folder on the host, where it is none of the system's: that above `bin` of `.../bin/java`.
    pub fn home(&self) -> Option<PathBuf> {
        let home = self.program.parent().and_then(Path::parent)?;
        let own = self.agent != Agent::Native && !home.starts_with("/usr") && home != Path::new("/");
        own.then(|| home.to_owned())
    }

    /// The runtime's flags for a mode, with `{agent}` and `{heap}` filled in: the agent's folder as it sees it, and the most
    /// MiB that the heap may have. None where the agent says nothing of flags.
    fn flags(&self, mode: Mode, place: &Path) -> Vec<String> {
        let text = std::fs::read(self.folder.join("flags.json")).unwrap_or_default();
        let FlagsFile { flags } = serde_json::from_slice(&text).unwrap_or_default();
        let own = match mode {
            Mode::Host => flags.host,
            Mode::Function { .. } => flags.function,
            Mode::MicroVm { .. } => [flags.function, flags.microvm].concat(),
        };
        let heap = self.heap(mode).to_string();
        let fill = |flag: String| flag.replace("{agent}", &place.to_string_lossy()).replace("{heap}", &heap);
        flags.both.into_iter().chain(own).map(fill).collect()
    }
}

/// An agent's `flags.json`: how its runtime is to be started, and why, is known best where the agent is.
#[derive(Default, Deserialize)]
struct FlagsFile {
    flags: Flags,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Flags {
    both: Vec<String>,
    function: Vec<String>,
    /// Besides those of `function`.
    microvm: Vec<String>,
    host: Vec<String>,
}

/// Bytes of memory that the machine has.
fn total_memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(1 << 30, |info| info.ram_total())
}

/// The executable `name`, with links followed: a version manager's shim is not what we want to start each time.
fn find(name: &str) -> Option<PathBuf> {
    let path = if name.starts_with('/') {
        PathBuf::from(name)
    } else {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())?
    };
    path.canonicalize().ok()
}

/// First line of what `program --version` prints.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    output.status.success().then(|| String::from_utf8_lossy(&text).lines().next().map(str::to_owned))?
}

/// A version as a number to compare: 3.11.2 of Python is 311, v20.20.2 of Node 2020, 17.0.15 of Java 1700.
fn number(version: &str) -> u32 {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut parts = digits.split('.').map(|part| {
        part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0)
    });
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    major.saturating_mul(100).saturating_add(minor.min(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare() {
        assert_eq!(number("Python 3.11.2"), 311);
        assert_eq!(number("v20.20.2"), 2020);
        assert_eq!(number("openjdk 17.0.15 2025-04-15"), 1700);
        assert_eq!(number("openjdk 21 2023-09-19"), 2100);
        assert_eq!(number("nothing"), 0);
    }

    #[test]
    fn a_missing_agent_is_said() {
        let empty = tempfile::tempdir().unwrap();
        let runtimes = Runtimes::discover(empty.path());
        for agent in Agent::ALL {
            assert!(runtimes.get(agent).unwrap_err().contains("is missing"), "{agent}");
        }
    }
}
