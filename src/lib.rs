//! Hydra.

pub mod exec;
pub mod linux;
pub mod vmm;
