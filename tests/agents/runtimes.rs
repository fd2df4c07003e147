//! The agents under test: how each is started, and one function for each that does what the tests ask of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// An agent, and code for it.
pub struct Runtime {
    /// The language that `HELLO` names.
    pub name: &'static str,
    command: Vec<String>,
    /// The function.
    pub code: PathBuf,
    /// Its entry point.
    pub entry_point: Option<&'static str>,
    /// Code that cannot be loaded.
    pub broken: PathBuf,
    /// What the stack of its error names.
    pub raises_in: &'static str,
    /// Its functions get text and return text, and can neither raise nor log: a C interface.
    pub takes_text: bool,
}

impl Runtime {
    /// The command line, but for the mode and the descriptor.
    pub fn command(&self) -> Vec<&str> {
        self.command.iter().map(String::as_str).collect()
    }
}

/// Runs a test with every agent that can run here.
pub fn each(test: impl Fn(&Runtime)) {
    for (name, runtime) in &*RUNTIMES {
        match runtime {
            Ok(runtime) => {
                eprintln!("agent: {name}");
                test(runtime);
            }
            Err(reason) => {
                assert_ne!(
                    std::env::var("HYDRA_REQUIRE_ALL").as_deref(),
                    Ok("1"),
                    "no {name} agent: {reason}"
                );
                eprintln!("skipped the {name} agent: {reason}");
            }
        }
    }
}

type Prepared = Result<Runtime, String>;

static RUNTIMES: LazyLock<[(&'static str, Prepared); 4]> = LazyLock::new(|| {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agents");
    std::fs::create_dir_all(&work).unwrap();
    [
        ("python", python(&work)),
        ("javascript", javascript(&work)),
        ("java", java(&work)),
        ("native", native(&work)),
    ]
});

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where this repository's agent of that path is.
fn agent(path: &str) -> Result<String, String> {
    let path = repository().join("guest-agent").join(path);
    let text = path.to_str().ok_or("the repository's path is not UTF-8")?.to_owned();
    if path.exists() { Ok(text) } else { Err(format!("{text} does not exist")) }
}

/// Whether a program can be run.
fn program(name: &str, version: &str) -> Result<String, String> {
    let output = Command::new(name).arg(version).env_clear().env("PATH", "/usr/bin:/bin").output();
    match output {
        Ok(output) if output.status.success() => Ok(name.to_owned()),
        Ok(output) => Err(format!("{name} {version} ended with {}", output.status)),
        Err(error) => Err(format!("{name} cannot be run: {error}")),
    }
}

fn fixture(path: &str) -> PathBuf {
    repository().join("tests/fixtures/agents").join(path)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn python(_work: &Path) -> Prepared {
    let agent = agent("python/agent.py")?;
    let python =
        program("/usr/bin/python3.11", "--version").or_else(|_| program("/usr/bin/python3", "--version"))?;
    Ok(Runtime {
        name: "python",
        command: vec![python, "-I".into(), "-S".into(), "-B".into(), agent],
        code: fixture("kit.py"),
        entry_point: Some("kit.main"),
        broken: fixture("broken/kit.py"),
        raises_in: "kit.py",
        takes_text: false,
    })
}

fn javascript(work: &Path) -> Prepared {
    let folder = work.join("javascript");
    run(Command::new(agent("javascript/build.sh")?).arg(&folder))?;
    let agent = folder.join("agent.js").to_str().ok_or("the work directory's path is not UTF-8")?.to_owned();
    Ok(Runtime {
        name: "javascript",
        command: vec![program("/usr/bin/node", "--version")?, agent],
        code: fixture("kit.js"),
        entry_point: Some("kit.main"),
        broken: fixture("broken/kit.js"),
        raises_in: "kit.js",
        takes_text: false,
    })
}

fn java(work: &Path) -> Prepared {
    let build = agent("java/build.sh")?;
    let java = program("/usr/bin/java", "--version")?;
    let javac = program("/usr/bin/javac", "--version")?;
    let work = work.join("java");
    run(Command::new(build).arg(&work))?;
    let classes = work.join("classes");
    std::fs::create_dir_all(&classes).map_err(|error| error.to_string())?;
    run(Command::new(javac).args(["--release", "17", "-d"]).arg(&classes).arg(fixture("Kit.java")))?;
    let broken = work.join("broken.jar");
    std::fs::write(&broken, "not a zip").map_err(|error| error.to_string())?;
    let flags = java_flags(&work)?;
    let jar =
        work.join("hydra-agent.jar").to_str().ok_or("the work directory's path is not UTF-8")?.to_owned();
    Ok(Runtime {
        name: "java",
        command: [vec![java], flags, vec!["-cp".into(), jar, "hydra.agent.Main".into()]].concat(),
        code: classes,
        entry_point: Some("Kit"),
        broken,
        raises_in: "Kit.java",
        takes_text: false,
    })
}

/// The flags that Hydra starts the JVM with, of the mode for many isolates: they are right for one too.
fn java_flags(agent: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read(agent.join("flags.json")).map_err(|error| format!("flags.json: {error}"))?;
    let file: serde_json::Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let folder = agent.to_str().ok_or("the work directory's path is not UTF-8")?;
    let of = |mode: &str| file["flags"][mode].as_array().cloned().unwrap_or_default();
    let flags = [of("both"), of("host")].concat();
    let fill = |flag: &serde_json::Value| {
        flag.as_str().map(|flag| flag.replace("{agent}", folder).replace("{heap}", "256"))
    };
    flags.iter().map(|flag| fill(flag).ok_or_else(|| format!("not a flag: {flag}"))).collect()
}

fn native(work: &Path) -> Prepared {
    // Cargo builds the members of the workspace beside each other; tests lie in `deps` below.
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let agent = this.ancestors().nth(2).unwrap_or(Path::new("/")).join("hydra-agent-native");
    if !agent.exists() {
        return Err(format!("{} is not built: cargo build -p hydra-agent-native", agent.display()));
    }
    let work = work.join("native");
    run(Command::new(repository().join("tests/fixtures/native/build.sh")).arg(&work))?;
    Ok(Runtime {
        name: "native",
        command: vec![agent.to_str().ok_or("the target directory's path is not UTF-8")?.to_owned()],
        code: work.join("echo.so"),
        entry_point: None,
        broken: work.join("incomplete.so"),
        raises_in: "",
        takes_text: true,
    })
}
