//! Hydra.
pub mod function;
pub mod jail;
