//! Jails of real processes. What this host does not give is skipped, and says so.

mod escapes;
mod fallbacks;
mod lifetime;
mod runtimes;
mod world;
