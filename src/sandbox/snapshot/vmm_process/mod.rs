//! The *VMM process* of a function: a jailed process in which all of its microVMs run, so that a program that breaks out of its microVM is in
//! that jail, with nothing but its own function.
//!
//! | file | holds |
//! |---|---|
//! | `process.rs` | such a process, as Hydra has it |
//! | `jailed_vm.rs` | a microVM in one |
//! | `hearing.rs` | what Hydra hears from one |
//! | `keeping.rs` | the process of each function, and those that wait for one |
//! | `protocol.rs` | what both say to each other |
//! | `serve.rs` | the process from within |
//! | `relay.rs` | what agents and Hydra say to each other, passed on |
//!
//! The process is given no more than it needs, by descriptors: `/dev/kvm`, the files of the function's own snapshot and of the template, to be
//! read, and a file in memory when a program is to be copied. It gives none to Hydra. Hydra keeps the snapshots: what comes out of a jail is only ever
//! restored in one. What the process says decides over its own function alone, and one that says nothing is ended.

mod hearing;
mod jailed_vm;
mod keeping;
mod process;
mod protocol;
mod relay;
mod serve;

pub use self::jailed_vm::JailedVm;
pub use self::keeping::{TemplateCopy, VmmProcesses, WaitingProcess};
pub use self::process::VmmProcess;
pub use self::serve::vmm_process_main;

use super::super::Error;

fn failed(why: impl std::fmt::Display) -> Error {
    Error::Start(format!("its VMM process: {why}"))
}
