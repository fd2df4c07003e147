//! What one would use instead of Hydra: how each server is installed and started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use hydra_harness::paths;

use crate::install::{self, InstallError};

/// Another server of functions.
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// The language of its functions.
    pub language: &'static str,
    /// What it is to Hydra.
    pub role: Role,
    program: fn(&Places) -> PathBuf,
    arguments: fn(&Places, SocketAddr) -> Vec<String>,
}

/// What a server is compared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What one would use for functions of the language.
    Framework,
    /// A runtime that isolates functions from each other, as Hydra does.
    Isolates,
    /// A server without any isolation, which shows what the language can do at best.
    Bare,
}

/// Where things are.
pub struct Places {
    /// The functions' sources, `tests/bench`.
    pub sources: PathBuf,
    /// What is installed and built, `target/bench`.
    pub built: PathBuf,
}

/// All of them, in the order of the table.
pub const ALL: &[Spec] = &[
    Spec {
        name: "functions-framework python",
        language: "python",
        role: Role::Framework,
        program: |places| places.built.join("python/bin/functions-framework"),
        arguments: |places, address| {
            let source = places.source("python/functions_framework_main.py");
            words(&[
                "--target=handle",
                &format!("--source={source}"),
                "--host=127.0.0.1",
                &port("--port=", address),
            ])
        },
    },
    Spec {
        name: "http.server python",
        language: "python",
        role: Role::Bare,
        program: |_| python(),
        arguments: |places, address| {
            words(&["-I", "-S", &places.source("python/http_server.py"), &port("", address)])
        },
    },
    Spec {
        name: "functions-framework javascript",
        language: "javascript",
        role: Role::Framework,
        program: |_| "node".into(),
        arguments: |places, address| {
            let main = places.package("@google-cloud/functions-framework/build/src/main.js");
            // Without this it would listen on every interface.
            let preload = places.source("javascript/loopback.js");
            let source = format!("--source={}", places.source("javascript"));
            words(&["--require", &preload, &main, "--target=handle", &source, &port("--port=", address)])
        },
    },
    Spec {
        name: "workerd javascript",
        language: "javascript",
        role: Role::Isolates,
        program: workerd,
        arguments: |places, address| {
            words(&[
                "serve",
                &format!("--socket-addr=http={address}"),
                &places.source("javascript/workerd.capnp"),
            ])
        },
    },
    Spec {
        name: "deno javascript",
        language: "javascript",
        role: Role::Bare,
        program: |places| places.package("@deno/linux-x64-glibc/deno").into(),
        arguments: |places, address| {
            let main = places.source("javascript/deno.mjs");
            words(&["run", "--no-lock", "--allow-net=127.0.0.1", "--allow-read", &main, &port("", address)])
        },
    },
    Spec {
        name: "bun javascript",
        language: "javascript",
        role: Role::Bare,
        program: |places| places.package("@oven/bun-linux-x64/bin/bun").into(),
        arguments: |places, address| words(&[&places.source("javascript/bun.mjs"), &port("", address)]),
    },
    Spec {
        name: "node:http javascript",
        language: "javascript",
        role: Role::Bare,
        program: |_| "node".into(),
        arguments: |places, address| words(&[&places.source("javascript/node-http.js"), &port("", address)]),
    },
    Spec {
        name: "JDK HttpServer java",
        language: "java",
        role: Role::Bare,
        program: |_| "java".into(),
        arguments: |places, address| {
            let jar = places.built.join("functions/work.jar").display().to_string();
            // Without the property each answer on a kept connection takes 40 ms.
            words(&["-Dsun.net.httpserver.nodelay=true", "-cp", &jar, "JdkServer", &port("", address)])
        },
    },
];

impl Spec {
    /// The command that starts it at `address`.
    ///
    /// # Errors
    /// The program that is missing.
    pub fn command(&self, places: &Places, address: SocketAddr) -> Result<Command, String> {
        let program = (self.program)(places);
        // A name without a folder is looked for in PATH.
        if program.components().count() > 1 && !program.is_file() {
            return Err(format!("{} is missing", program.display()));
        }
        let mut command = Command::new(program);
        command.args((self.arguments)(places, address)).env("DENO_DIR", places.built.join("deno"));
        Ok(command)
    }
}

/// workerd, which has every request answered by an isolate of its own.
pub const NEW_ISOLATE: Spec = Spec {
    name: "workerd new isolate javascript",
    language: "javascript",
    role: Role::Isolates,
    program: workerd,
    arguments: |places, address| {
        let address = format!("--socket-addr=http={address}");
        words(&["serve", "--experimental", &address, &places.source("javascript/loader.capnp")])
    },
};

impl Places {
    /// Those of this checkout.
    ///
    /// # Errors
    /// Where the folder for what is built cannot be made.
    pub fn here() -> std::io::Result<Places> {
        let root = paths::root();
        let places = Places { sources: root.join("tests/bench"), built: root.join("target/bench") };
        std::fs::create_dir_all(&places.built)?;
        Ok(places)
    }

    fn source(&self, path: &str) -> String {
        self.sources.join(path).display().to_string()
    }

    fn package(&self, path: &str) -> String {
        self.built.join("node/node_modules").join(path).display().to_string()
    }
}

/// Installs all servers that have to be installed; hands back what could not be.
pub async fn install(places: &Places) -> Vec<InstallError> {
    let lists = places.sources.join("peers");
    let npm = install::npm(&lists.join("package.json"), &places.built.join("node")).await;
    let pip = install::pip(&python(), &lists.join("requirements.txt"), &places.built.join("python")).await;
    [npm, pip].into_iter().filter_map(Result::err).collect()
}

/// Debian's own interpreter where it is there, as Hydra takes it.
pub fn python() -> PathBuf {
    let own = Path::new("/usr/bin/python3.11");
    if own.is_file() { own.to_owned() } else { "python3".into() }
}

fn workerd(places: &Places) -> PathBuf {
    places.package("@cloudflare/workerd-linux-64/bin/workerd").into()
}

fn port(prefix: &str, address: SocketAddr) -> String {
    format!("{prefix}{}", address.port())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
