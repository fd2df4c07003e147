//! Hydra, the function runtime.
fn main() {}
