//! What a function is, and where its code comes from.
pub mod store;
