//! Hydra, a virtualised multi-language function runtime.
//!
//! Data flows one way: [`http`] → [`service`] → [`function`], [`sandbox`] → [`agent`], [`jail`].
//! Clients register functions and invoke them over HTTP; a pool of sandboxes per function runs them; in each
//! sandbox an *agent* of the function's language speaks the protocol of `guest-agent/PROTOCOL.md`.
//!
//! [`exec`] → [`linux`] → [`vmm`]: a microVM that runs one Linux program in guest ring 3, whose system calls Hydra serves.
//! [`snapshot`] keeps such programs on disk, stopped in the middle, to go on any number of times.

// The library is there for its own programs and tests; who reads of it reads with `--document-private-items`.
#![allow(rustdoc::private_intra_doc_links)]

pub mod agent;
mod child;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod folder;
pub mod function;
pub mod http;
pub mod jail;
pub mod linux;
mod messages;
pub mod metrics;
pub mod sandbox;
pub mod service;
pub mod snapshot;
mod sync;
pub mod vmm;
