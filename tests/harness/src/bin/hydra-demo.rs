//! `hydra demo`: starts a code server and Hydra, runs every example function in each sandbox, and prints one table.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hydra_harness::{
    Client, ClientError, CodeServer, Example, Registration, Reply, Server, ServerOptions, Table, examples,
    paths,
};

/// Calls after the first; the table shows their median.
const WARM_CALLS: usize = 5;
/// Calls that ask for a sandbox of their own; again the median.
const FRESH_CALLS: usize = 3;
/// Most characters of a result in the table: a row fits into 100 columns.
const RESULT_WIDTH: usize = 26;

/// Runs the example functions in each sandbox and prints a table.
#[derive(Parser)]
#[command(name = "hydra demo", bin_name = "hydra demo")]
struct Arguments {
    /// Languages to run; all when none is named.
    #[arg(value_name = "LANGUAGE", value_parser = ["java", "javascript", "python"])]
    languages: Vec<String>,
    /// A language that cannot run on this host, and why.
    #[arg(long, value_name = "LANGUAGE=REASON", value_parser = left_out, hide = true)]
    left_out: Vec<(String, String)>,
    /// Sandboxes to run in, separated by commas.
    #[arg(long, value_delimiter = ',', default_values = ["isolate", "process", "snapshot", "snapshot-process"])]
    sandbox: Vec<String>,
}

fn left_out(text: &str) -> Result<(String, String), String> {
    let (language, reason) = text.split_once('=').ok_or("give LANGUAGE=REASON")?;
    Ok((language.to_owned(), reason.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    match demo(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hydra demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every result was as expected.
async fn demo(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let wanted =
        |language: &str| arguments.languages.is_empty() || arguments.languages.iter().any(|l| l == language);
    let is_left_out = |language: &str| arguments.left_out.iter().any(|(l, _)| l == language);
    let mut functions = examples()?;
    functions.retain(|f| wanted(&f.language) && !is_left_out(&f.language));

    let code = CodeServer::start(paths::examples_out()).await?;
    let hydra = Server::start(ServerOptions::default()).await?;
    let client = Client::new(hydra.base());

    let mut table =
        Table::new(&["function", "language", "sandbox", ">first ms", ">fresh ms", ">warm ms", "result"]);
    let mut failures = Vec::new();
    let mut unavailable = BTreeMap::new();
    for function in &functions {
        for sandbox in &arguments.sandbox {
            let run = run(&client, function, sandbox, code.base()).await;
            let (times, result) = match &run {
                Ok(run) => ([run.first, run.fresh, run.warm].map(milliseconds), shortened(&run.result)),
                Err(Failure::Unavailable(reason)) => {
                    unavailable.insert(sandbox, reason.clone());
                    continue;
                }
                Err(Failure::Wrong(error)) => {
                    failures.push(format!("{} in {sandbox}: {error}", function.name));
                    (["-"; 3].map(str::to_owned), "FAILED, see below".into())
                }
            };
            let [first, fresh, warm] = &times;
            table.row([&function.name, &function.language, sandbox, first, fresh, warm, &result]);
        }
    }
    println!("{table}");
    for (language, reason) in arguments.left_out.iter().filter(|(language, _)| wanted(language)) {
        println!("{language} was left out: {reason}");
    }
    for (sandbox, reason) in unavailable {
        println!("{sandbox} was left out: {reason}");
    }
    if functions.is_empty() {
        failures.push("no function was run".into());
    }

    // Before the failures: what went wrong may stand in the log, which goes with the server.
    let log = if failures.is_empty() { String::new() } else { hydra.log() };
    if let Err(error) = hydra.stop().await {
        failures.push(error.to_string());
    }
    for failure in &failures {
        eprintln!("hydra demo: {failure}");
    }
    if !log.is_empty() {
        eprintln!("hydra demo: the last lines of Hydra's log:");
        let lines: Vec<_> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(30)).for_each(|line| eprintln!("  {line}"));
    }
    Ok(failures.is_empty())
}

struct Run {
    /// Of the first call, which starts a sandbox.
    first: Duration,
    /// Of a call in a sandbox of its own.
    fresh: Duration,
    warm: Duration,
    result: String,
}

/// Why a function was not run.
enum Failure {
    /// This host has no such sandboxes.
    Unavailable(String),
    /// Something is wrong.
    Wrong(String),
}

/// Registers a function, calls it, checks each result, and removes it again.
async fn run(client: &Client, function: &Example, sandbox: &str, base: &str) -> Result<Run, Failure> {
    let text = |error: ClientError| Failure::Wrong(error.to_string());
    let artifact = paths::examples_out().join(&function.artifact);
    if !artifact.is_file() {
        let path = artifact.display();
        return Err(Failure::Wrong(format!("its code {path} is missing; `examples/build.sh` makes it")));
    }
    let registration = Registration::of_example(function, base, sandbox);
    let reply = client.register(&registration).await.map_err(text)?;
    // A language that is missing was left out before.
    if sandbox.starts_with("snapshot") && reply.error_kind().as_deref() == Some("unavailable") {
        return Err(Failure::Unavailable(reply.body));
    }
    reply.success().map_err(text)?;
    let called = call(client, function, base).await;
    client.deregister(&function.name).await.and_then(Reply::success).map_err(text)?;
    called.map_err(Failure::Wrong)
}

async fn call(client: &Client, function: &Example, base: &str) -> Result<Run, String> {
    let arguments = function.arguments(base);
    let mut result = String::new();
    let mut checked = |reply: Result<Reply, ClientError>| {
        let reply = reply.map_err(|e| e.to_string())?;
        result = reply.invocation().map_err(|e| e.to_string())?.result;
        function.check(&result, base).map_err(|e| e.to_string())?;
        Ok::<_, String>(reply.elapsed)
    };
    let first = checked(client.invoke(&function.name, &arguments).await)?;
    let (mut warm, mut fresh) = (Vec::new(), Vec::new());
    for _ in 0..WARM_CALLS {
        warm.push(checked(client.invoke(&function.name, &arguments).await)?);
    }
    for _ in 0..FRESH_CALLS {
        fresh.push(checked(client.invoke_fresh(&function.name, &arguments).await)?);
    }
    Ok(Run { first, fresh: median(fresh), warm: median(warm), result })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.1}") }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= RESULT_WIDTH {
        return text.to_owned();
    }
    let start: String = text.chars().take(RESULT_WIDTH - 1).collect();
    format!("{start}…")
}
