//! Hydra.

pub mod vmm;
