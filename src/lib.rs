//! Hydra.
pub mod jail;
