//! End-to-end tests: a real server, driven over HTTP as a user does. Nearly all of them are tables over sandbox kinds and
//! languages with the same functions and the same expectations, so what differs between two of them is a bug.
//!
//! A language that cannot run here is skipped and named on standard error; with `HYDRA_REQUIRE_ALL=1` that is a failure.

#![allow(clippy::unwrap_used)]

mod clients;
mod confinement;
mod contract;
mod criu;
mod deaths;
mod errors;
mod examples;
mod functions;
mod isolates;
mod limits;
mod load;
mod native;
mod output;
mod processes;
mod restarts;
mod shapes;
mod snapshots;
mod soak;
mod templates;
mod vmm_processes;
mod wire;
mod world;
