//! Hydra.
pub mod function;
