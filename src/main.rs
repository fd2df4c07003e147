//! The `hydra` command.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::task::Poll;

use clap::Parser;
use futures_util::{Stream, stream};
use hydra::cli::{Cli, Command};
use hydra::config::{Config, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before anything starts a thread: the init of a jail has but one.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "jail-init" => hydra::jail::init_main(arguments),
        Some(word) if word == "jail-criu" => hydra::jail::criu::criu_main(arguments),
        Some(word) if word == "jail-vmm" => return hydra::sandbox::vmm_process_main(),
        _ => {}
    }
    match Cli::parse().command {
        Command::Serve(config) => serve(&config),
        Command::Exec(exec) => {
            raise_open_files();
            match exec.run() {
                Ok(status) => ExitCode::from(status),
                Err(error) => {
                    eprintln!("hydra: {error}");
                    // As env(1) and docker-run(1): the program was not run.
                    ExitCode::from(125)
                }
            }
        }
        Command::Snapshot(snapshots) => match snapshots.run(&mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(error),
        },
        Command::Doctor(options) => hydra::doctor::run(&options),
    }
}

fn serve(config: &Config) -> ExitCode {
    hydra::vmm::limit_heaps();
    start_log(config.log_format);
    raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(format!("cannot start the async runtime: {error}")),
    };
    let config = config.clone();
    // A task, as connections are accepted by the thread that hears of them then; this one would have to be woken for each.
    let serve =
        async move { hydra::http::serve(&config, stop_signals()?).await.map_err(std::io::Error::other) };
    match runtime.block_on(runtime.spawn(serve)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    }
}

/// A microVM holds some dozens of descriptors, a program in it may hold many, and the usual soft limit is for programs that use select(2).
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn failed(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("hydra: {error}");
    ExitCode::FAILURE
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("HYDRA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// An item for each SIGTERM or SIGINT.
fn stop_signals() -> std::io::Result<impl Stream<Item = ()> + Send + Unpin> {
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    Ok(stream::poll_fn(move |cx| {
        let came = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if came { Poll::Ready(Some(())) } else { Poll::Pending }
    }))
}
