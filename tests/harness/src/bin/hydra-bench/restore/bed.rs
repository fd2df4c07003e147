//! The Hydras that are measured, with every function registered and its snapshot made.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hydra_harness::{Client, Example, Registration, Server, ServerOptions, Stage, paths};
use serde::Deserialize;
use serde_json::json;

use super::profile::Counts;
use super::samples::Sample;
use super::start::{Asked, Start, Way};
use crate::load::{Answer, Kept, LoadError, Target};
use crate::{Failure, say, tree};

/// How long a snapshot may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The snapshots' number of functions that are answered once. They are removed before the next.
const ONCE: i64 = 1;
/// What keeps a Hydra from starting anything ahead of need.
const UNPREPARED: &[&str] = &["--ahead", "false"];

/// All Hydras, and the functions.
pub struct Bed {
    /// As users have it.
    usual: Hydra,
    /// One that starts nothing ahead of need.
    unprepared: Hydra,
    /// The URL of the code server.
    code: String,
    /// How many functions were registered to be answered once.
    once: u64,
}

struct Hydra {
    server: Server,
    client: Client,
    address: SocketAddr,
    pid: u32,
    connection: Kept,
}

/// What Hydra says of a function's snapshot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Bytes on the disk.
    pub memory_bytes: u64,
    pub state_bytes: u64,
    /// How long the function stood still for it.
    pub pause_us: Option<u64>,
    /// How long it took until it was on the disk.
    pub made_us: Option<u64>,
    /// What the guest's Linux counted, in all of the function's microVMs.
    pub guest: Option<Counts>,
}

/// An answer of Hydra, and by what start.
pub struct Answered {
    pub start: Option<Start>,
    /// What Hydra calls the start.
    pub said: String,
    pub sample: Sample,
    /// What the guest's Linux counted meanwhile.
    pub counts: Option<Counts>,
}

impl Hydra {
    async fn start(arguments: &[&str]) -> Result<Hydra, Failure> {
        let args = arguments.iter().map(|&argument| argument.into()).collect();
        let server = Server::start(ServerOptions { args, ..ServerOptions::default() }).await?;
        let address = server.base().trim_start_matches("http://").parse()?;
        let pid = server.pid().ok_or("Hydra ended")?;
        Ok(Hydra { client: Client::new(server.base()), server, address, pid, connection: Kept::new() })
    }

    /// Any request but an invocation that is timed.
    fn ask(&mut self, path: &str, body: &str) -> Result<Answer, LoadError> {
        self.connection.ask(&Target::new(self.address, path, body))
    }

    async fn status(&self, name: &str) -> Result<(String, Status), Failure> {
        #[derive(Deserialize)]
        struct Description {
            snapshot: Option<Described>,
        }
        #[derive(Deserialize)]
        struct Described {
            state: String,
            #[serde(flatten)]
            status: Status,
        }
        let reply = self.client.get(&format!("/functions/{name}")).await?.success()?;
        let description: Description = serde_json::from_str(&reply.body)?;
        Ok(description.snapshot.map_or_else(Default::default, |known| (known.state, known.status)))
    }
}

impl Bed {
    /// Starts the Hydras; code and data are at the URL `code`.
    pub async fn start(code: &str) -> Result<Bed, Failure> {
        Ok(Bed {
            usual: Hydra::start(&[]).await?,
            unprepared: Hydra::start(UNPREPARED).await?,
            code: code.to_owned(),
            once: 0,
        })
    }

    /// Registers a function for what is asked, has it answer once, and waits for its snapshot.
    pub async fn prepare(&mut self, example: &Example, asked: Asked) -> Result<Status, Failure> {
        if asked.way == Way::First {
            return Ok(Status::default());
        }
        let name = name_for(example, asked);
        let path = self.registration(example, &name, asked);
        let code = self.code.clone();
        let hydra = self.hydra(asked);
        hydra.client.post(&path, &json!({})).await?.success()?;
        let reply = hydra.client.invoke(&name, &example.arguments(&code)).await?;
        example.check(&reply.invocation()?.result, &code)?;
        hydra.snapshot_of(&name).await
    }

    /// What is known of the function's snapshot.
    pub async fn status(&mut self, example: &Example, asked: Asked) -> Result<Status, Failure> {
        let name = name_for(example, asked);
        Ok(self.hydra(asked).status(&name).await?.1)
    }

    /// Does once what is asked, and says how it was answered.
    ///
    /// # Errors
    /// Where the answer is an error or wrong.
    pub async fn answer(&mut self, example: &Example, asked: Asked) -> Result<Answered, Failure> {
        let is_first = asked.way == Way::First;
        let counted = asked.sandbox == "snapshot";
        let name = if is_first {
            self.once += 1;
            format!("{}-{}", example.name, self.once)
        } else {
            name_for(example, asked)
        };
        let arguments = example.arguments(&self.code);
        let registration = self.registration(example, &name, asked);
        let code = self.code.clone();
        let mut body = json!({"name": name, "arguments": arguments});
        if asked.way == Way::Fresh {
            body["cached"] = "false".into();
        }
        let hydra = self.hydra(asked);
        let mut before = None;
        if counted && !is_first {
            before = hydra.status(&name).await?.1.guest;
        }
        let invocation = Target::new(hydra.address, "/", &body.to_string());
        let (answer, registered, faults) = tokio::task::block_in_place(|| {
            tree::settle(hydra.pid);
            let faults = tree::minor_faults(hydra.pid);
            let registered = if is_first { hydra.ask(&registration, "")?.time } else { Duration::ZERO };
            let answer = hydra.connection.ask(&invocation)?;
            Ok::<_, LoadError>((answer, registered, tree::minor_faults(hydra.pid) - faults))
        })?;
        let result: serde_json::Value = serde_json::from_str(&answer.body)?;
        example.check(result["result"].as_str().unwrap_or_default(), &code)?;
        let mut counts = None;
        if counted && let Some(after) = hydra.status(&name).await?.1.guest {
            counts = if is_first { Some(after) } else { before.map(|before| after.since(&before)) };
        }
        if is_first {
            hydra.forget(&name).await?;
        }
        let (said, mut sample) = timing(&answer.head);
        sample.time = (answer.time + registered).as_secs_f64() * 1e3;
        sample.faults = faults as f64;
        Ok(Answered { start: Start::of(asked, &said), said, sample, counts })
    }

    /// Ends the Hydras.
    pub async fn stop(self) -> Result<(), Failure> {
        self.usual.server.stop().await?;
        self.unprepared.server.stop().await?;
        Ok(())
    }

    fn hydra(&mut self, asked: Asked) -> &mut Hydra {
        if asked.unprepared { &mut self.unprepared } else { &mut self.usual }
    }

    /// Path and query of a registration. Nothing in it needs to be escaped.
    fn registration(&self, example: &Example, name: &str, asked: Asked) -> String {
        let known = Registration::of_example(example, &self.code, asked.sandbox);
        let mut query = format!(
            "/register?name={name}&url={}&language={}&sandbox={}",
            known.url, known.language, asked.sandbox
        );
        if let Some(entry_point) = &known.entry_point {
            query += &format!("&entryPoint={entry_point}");
        }
        match asked.way {
            Way::Request => query += "&isolation=request",
            Way::First => query += &format!("&svmid={ONCE}"),
            Way::Any | Way::Fresh => {}
        }
        query
    }
}

impl Hydra {
    /// The function's snapshot once it is there; nothing for a function that has none.
    async fn snapshot_of(&self, name: &str) -> Result<Status, Failure> {
        let begun = Instant::now();
        loop {
            let (state, status) = self.status(name).await?;
            if state != "being made" || begun.elapsed() > PATIENCE {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Removes a function that was answered once, and its snapshot.
    async fn forget(&self, name: &str) -> Result<(), Failure> {
        self.snapshot_of(name).await?;
        self.client.deregister(name).await?.success()?;
        let mut remove = tokio::process::Command::new(paths::hydra_binary()?);
        remove.args(["snapshot", "remove", &ONCE.to_string(), "--app-dir"]).arg(self.server.app_dir());
        // Where none was made there is none to remove.
        let removed = remove.output().await?;
        if !removed.status.success() && !String::from_utf8_lossy(&removed.stderr).contains("no snapshot") {
            say(&format!("a snapshot was not removed: {}", String::from_utf8_lossy(&removed.stderr)));
        }
        Ok(())
    }
}

/// The function's name for what is asked: those that are asked for alike are one.
fn name_for(example: &Example, asked: Asked) -> String {
    let request = if asked.way == Way::Request { "-request" } else { "" };
    format!("{}-{}{request}", example.name, asked.sandbox)
}

/// What the headers of an answer say of the start, and of the stages' times.
fn timing(head: &str) -> (String, Sample) {
    let header = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("server-timing").then_some(value)
    });
    let (mut said, mut sample) = (String::new(), Sample::default());
    for stage in Stage::all(header.unwrap_or_default()) {
        let time = stage.milliseconds.unwrap_or_default();
        match stage.name.as_str() {
            "queue" => sample.queue = time,
            "start" => {
                sample.start = time;
                said = stage.description.unwrap_or_default();
            }
            "run" => sample.run = time,
            _ => {}
        }
    }
    (said, sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_from_the_headers() {
        let head = "HTTP/1.1 200 OK\r\nserver-timing: queue;dur=0.1, start;dur=2.5;desc=\"restore\", run;dur=1\r\n\r\n";
        let (said, sample) = timing(head);
        assert_eq!((said.as_str(), sample.queue, sample.start, sample.run), ("restore", 0.1, 2.5, 1.0));
        assert_eq!(timing("HTTP/1.1 200 OK\r\n\r\n").0, "");
    }
}
