//! A server, a web server with the functions' code, and the table of sandbox kinds and languages.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use hydra_harness::{Client, CodeServer, Registration, Reply, Server, ServerOptions};
use serde_json::{Value, json};

use crate::functions;

/// How long a condition is waited for: far beyond what it takes, so that a slow machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The kinds of sandbox that a function runs in.
const KINDS: [&str; 4] = ["isolate", "process", "snapshot", "snapshot-process"];

/// A language, and its form of the test function.
#[derive(Clone, Copy, Debug)]
pub struct Language {
    pub name: &'static str,
    pub kit: &'static str,
    pub entry_point: &'static str,
    /// The function of the tests of snapshots, and its entry point.
    pub snapshots: (&'static str, &'static str),
    /// The kind of sandbox that those are of.
    pub snapshots_in: &'static str,
}

pub const PYTHON: Language = Language {
    name: "python",
    kit: "kit.py",
    entry_point: "kit.main",
    snapshots: ("snapshots.py", "snapshots.main"),
    snapshots_in: "snapshot",
};
pub const JAVASCRIPT: Language = Language {
    name: "javascript",
    kit: "kit.js",
    entry_point: "kit.main",
    snapshots: ("snapshots.js", "snapshots.main"),
    snapshots_in: "snapshot",
};
pub const JAVA: Language = Language {
    name: "java",
    kit: "Kit.jar",
    entry_point: "Kit",
    snapshots: ("Snapshots.jar", "Snapshots"),
    snapshots_in: "snapshot",
};
pub const LANGUAGES: [Language; 3] = [PYTHON, JAVASCRIPT, JAVA];

/// A place in the table.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub kind: &'static str,
    pub language: Language,
}

impl Cell {
    /// A function's name that tells where it runs.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}", self.language.name, self.kind)
    }

    /// Whether new sandboxes are copies of one that has served.
    pub fn is_copied(&self) -> bool {
        self.kind.starts_with("snapshot")
    }

    /// How a function's first sandbox is come by.
    pub fn first_start(&self) -> &'static str {
        if self.is_copied() { "template" } else { "cold" }
    }

    /// How a new sandbox is come by when the first has served.
    pub fn new_start(&self) -> &'static str {
        if self.is_copied() { "restore" } else { "cold" }
    }

    /// What a new sandbox counts first, where the first had served `served` invocations when it was checkpointed.
    pub fn new_count(&self, served: u32) -> String {
        (1 + if self.is_copied() { served } else { 0 }).to_string()
    }
}

/// A running Hydra and the functions' code.
pub struct World {
    pub server: Server,
    pub code: CodeServer,
    pub client: Client,
}

impl World {
    /// A server with more `arguments` than it needs.
    pub async fn start(arguments: &[&str]) -> World {
        World::with(options(arguments)).await
    }

    pub async fn with(options: ServerOptions) -> World {
        let code = CodeServer::start(functions::folder()).await.expect("a port for the code");
        let server = Server::start(options).await.expect("Hydra starts");
        let client = Client::new(server.base());
        World { server, code, client }
    }

    /// The kinds and languages that run here.
    pub async fn cells(&self) -> Vec<Cell> {
        let (kinds, mut cells) = (self.kinds().await, Vec::new());
        for language in self.languages(&LANGUAGES).await {
            cells.extend(kinds.iter().map(|kind| Cell { kind, language }));
        }
        cells
    }

    /// The kinds that this host has.
    pub async fn kinds(&self) -> Vec<&'static str> {
        let mut kinds = Vec::from(KINDS);
        let probe = self.registration("probe", &PYTHON, "snapshot");
        let reply = self.client.register(&probe).await.expect("a reply");
        if reply.status == 503 && reply.body.contains("KVM") {
            assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{}", reply.body);
            eprintln!("skipped: snapshot sandboxes: {}", reply.body);
            kinds.retain(|kind| !kind.starts_with("snapshot"));
        } else if reply.status == 200 {
            self.deregister("probe").await;
        }
        kinds
    }

    /// Those of `languages` that run here. What Hydra itself says of one that does not is the reason for the skip.
    pub async fn languages(&self, languages: &[Language]) -> Vec<Language> {
        let mut present = Vec::new();
        for language in languages {
            let Err(reason) = functions::require(language) else {
                let probe = self.registration("probe", language, "isolate");
                let reply = self.client.register(&probe).await.expect("a reply");
                if reply.error_kind().as_deref() != Some("unavailable") {
                    expect(&reply, 200);
                    self.deregister("probe").await;
                    present.push(*language);
                } else {
                    skip(language.name, &reply.body);
                }
                continue;
            };
            skip(language.name, &reason);
        }
        present
    }

    /// A registration of the test function.
    pub fn registration(&self, name: &str, language: &Language, kind: &str) -> Registration {
        Registration {
            name: name.into(),
            url: self.code.url(language.kit),
            language: language.name.into(),
            entry_point: Some(language.entry_point.into()),
            sandbox: Some(kind.into()),
            ..Registration::default()
        }
    }

    /// Registers the test function as `what` of `cell`, and hands back its name.
    pub async fn register(&self, cell: &Cell, what: &str, change: impl FnOnce(&mut Registration)) -> String {
        let mut registration = self.registration(&cell.name(what), &cell.language, cell.kind);
        change(&mut registration);
        expect(&self.client.register(&registration).await.expect("a reply"), 200);
        registration.name
    }

    pub async fn deregister(&self, name: &str) {
        expect(&self.client.deregister(name).await.expect("a reply"), 200);
    }

    /// Invokes a function with a JSON value as its arguments.
    pub async fn call(&self, name: &str, arguments: &Value) -> Reply {
        self.client.invoke(name, &arguments.to_string()).await.expect("a reply")
    }

    /// The same in a fresh sandbox.
    pub async fn call_fresh(&self, name: &str, arguments: &Value) -> Reply {
        self.client.invoke_fresh(name, &arguments.to_string()).await.expect("a reply")
    }

    /// What a function returns, where it must.
    pub async fn result(&self, name: &str, arguments: &Value) -> String {
        result(&self.call(name, arguments).await)
    }

    /// What `GET /functions/NAME` says.
    pub async fn describe(&self, name: &str) -> Value {
        let reply = self.client.get(&format!("/functions/{name}")).await.expect("a reply");
        expect(&reply, 200);
        json(&reply.body)
    }

    /// How many sandboxes of a function are in a state: `idle`, `busy`, `starting`.
    pub async fn sandboxes(&self, name: &str, state: &str) -> u64 {
        self.describe(name).await["sandboxes"][state].as_u64().expect("a number")
    }

    /// Waits until the function's snapshot is there, if it is to have one, and its sandboxes are at rest.
    pub async fn checkpointed(&self, name: &str) {
        until(&format!("the snapshot of {name}"), async || {
            let described = self.describe(name).await;
            let made = matches!(described["snapshot"]["state"].as_str(), None | Some("ready"));
            made && described["sandboxes"]["busy"] == 0 && described["sandboxes"]["starting"] == 0
        })
        .await;
    }

    /// Waits until an invocation of the function is under way.
    pub async fn wait_until_busy(&self, name: &str, count: u64) {
        until(&format!("{count} invocations of {name} under way"), async || {
            self.sandboxes(name, "busy").await == count
        })
        .await;
    }

    pub fn pid(&self) -> u32 {
        self.server.pid().expect("Hydra runs")
    }
}

/// Options with more arguments.
pub fn options(arguments: &[&str]) -> ServerOptions {
    ServerOptions { args: arguments.iter().map(OsString::from).collect(), ..ServerOptions::default() }
}

/// Options with an `app_dir` that outlives the server.
pub fn options_in(app_dir: &Path) -> ServerOptions {
    ServerOptions { app_dir: Some(app_dir.to_owned()), ..ServerOptions::default() }
}

/// Says that something is left out, which must not be where everything is required.
pub fn skip(what: &str, reason: &str) {
    assert_ne!(std::env::var("HYDRA_REQUIRE_ALL").as_deref(), Ok("1"), "{what}: {reason}");
    eprintln!("skipped: {what}: {reason}");
}

/// Asserts the status of a reply.
#[track_caller]
pub fn expect(reply: &Reply, status: u16) {
    assert_eq!(reply.status.as_u16(), status, "{}", reply.body);
}

/// Asserts an error as the contract has it: status, kind, a sentence that holds `words`.
#[track_caller]
pub fn expect_error(reply: &Reply, status: u16, kind: &str, words: &str) {
    expect(reply, status);
    let body = json(&reply.body);
    assert_eq!(body["kind"], kind, "{}", reply.body);
    assert!(
        body["error"].as_str().is_some_and(|error| error.contains(words)),
        "no {words:?}: {}",
        reply.body
    );
    let content_type = reply.headers.get("content-type").expect("a content type");
    assert_eq!(content_type, "application/json");
    assert_eq!(reply.headers.contains_key("retry-after"), status == 503, "{:?}", reply.headers);
}

/// The result in a reply.
#[track_caller]
pub fn result(reply: &Reply) -> String {
    reply.invocation().unwrap_or_else(|error| panic!("{error}")).result
}

#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON: {error}: {text}"))
}

/// Waits for a condition.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Arguments that make the test function sleep.
pub fn sleep(ms: u64) -> Value {
    json!({"do": "sleep", "ms": ms, "text": "sleeps"})
}
