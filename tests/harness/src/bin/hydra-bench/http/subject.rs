//! What is measured: Hydra with a language and a sandbox, or another server; each running and ready for requests.

use std::net::SocketAddr;
use std::time::Duration;

use hydra_harness::{Client, Registration, Server};
use serde_json::json;

use super::peers::{self, Places, Role};
use super::work;
use crate::Failure;
use crate::load::Target;
use crate::peer::{Peer, free_address};
use crate::statistics::Summary;

pub const LANGUAGES: [&str; 3] = ["python", "javascript", "java"];
pub const SANDBOXES: [&str; 2] = ["isolate", "process"];

/// What a subject is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Hydra, with this sandbox.
    Hydra(&'static str),
    /// Another server.
    Peer(&'static peers::Spec),
}

/// One line of the tables.
#[derive(Clone)]
pub struct Subject {
    pub name: String,
    pub language: &'static str,
    pub kind: Kind,
}

/// Everything that can be measured.
pub fn all() -> Vec<Subject> {
    let mut all = Vec::new();
    for language in LANGUAGES {
        for sandbox in SANDBOXES {
            all.push(Subject {
                name: format!("hydra {language} {sandbox}"),
                language,
                kind: Kind::Hydra(sandbox),
            });
        }
        for spec in peers::ALL.iter().filter(|spec| spec.language == language) {
            all.push(Subject { name: spec.name.to_owned(), language, kind: Kind::Peer(spec) });
        }
    }
    all
}

impl Subject {
    /// Its role, where it is another server.
    pub fn role(&self) -> Option<Role> {
        match self.kind {
            Kind::Hydra(_) => None,
            Kind::Peer(spec) => Some(spec.role),
        }
    }
}

/// A running Hydra and what is needed to use it.
pub struct Hydra {
    pub server: Server,
    pub client: Client,
    pub address: SocketAddr,
    /// The URL of the code server.
    pub code: String,
}

impl Hydra {
    /// The one behind `server`.
    ///
    /// # Errors
    /// Never with a server of this harness: its URL is an address.
    pub fn new(server: Server, code: &str) -> Result<Hydra, Failure> {
        let address = server.base().trim_start_matches("http://").parse()?;
        Ok(Hydra { client: Client::new(server.base()), server, address, code: code.to_owned() })
    }

    /// Registers a function under `name`.
    pub async fn register(
        &self,
        name: &str,
        language: &str,
        sandbox: &str,
        work: &str,
    ) -> Result<(), Failure> {
        let (file, entry_point) = work::code(language, work);
        let registration = Registration {
            name: name.to_owned(),
            url: format!("{}/{file}", self.code),
            language: language.to_owned(),
            entry_point: Some(entry_point),
            sandbox: Some(sandbox.to_owned()),
            ..Registration::default()
        };
        self.client.register(&registration).await?.success()?;
        Ok(())
    }

    /// Calls of the function `name`.
    pub fn target(&self, name: &str, work: &str) -> Target {
        let body = json!({"name": name, "arguments": work::arguments(work)});
        Target::new(self.address, "/", &body.to_string())
    }
}

/// Starts another server.
///
/// # Errors
/// Why it does not run here.
pub async fn start(spec: &'static peers::Spec, places: &Places) -> Result<(Peer, SocketAddr), Failure> {
    let address = free_address()?;
    let command = spec.command(places, address)?;
    let log = places.built.join(format!("{}.log", spec.name.replace([' ', ':'], "-")));
    let target = peer_target(address, "hello");
    let peer = tokio::task::spawn_blocking(move || Peer::start(command, &target, &log)).await??;
    Ok((peer, address))
}

/// Calls of another server.
pub fn peer_target(address: SocketAddr, work: &str) -> Target {
    Target::new(address, &format!("/{work}"), &work::arguments(work))
}

/// Calls once.
pub async fn call(target: Target) -> Result<String, Failure> {
    Ok(tokio::task::spawn_blocking(move || target.call()).await??)
}

/// One round of load.
pub async fn round(target: Target, connections: usize, time: Duration) -> Result<Summary, Failure> {
    Ok(tokio::task::spawn_blocking(move || target.round(connections, time)).await??)
}
