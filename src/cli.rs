//! The command line.

use clap::{Parser, Subcommand};

use crate::config::Config;

/// A virtualised multi-language function runtime.
#[derive(Debug, Parser)]
#[command(name = "hydra", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What Hydra can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve functions over HTTP
    Serve(Box<Config>),
    /// Run a Linux program in a KVM microVM
    Exec(Box<crate::exec::Exec>),
    /// List, show or remove the snapshots of functions
    Snapshot(crate::snapshot::command::Snapshots),
    /// Say what this host can run, and what would make it run more
    Doctor(DoctorOptions),
}

/// Options of `hydra doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorOptions {
    /// Folder of the agents
    #[arg(long, env = "HYDRA_AGENTS")]
    pub agents: Option<std::path::PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}
