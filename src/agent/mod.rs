//! Hydra's side of the agent protocol (`guest-agent/PROTOCOL.md`), and how each language's agent is started.

pub mod channel;
pub mod frame;
pub mod log;
pub mod runtime;
pub mod spawn;
pub mod transport;

pub use channel::{Channel, ChannelError, Failure, Load, Outcome};
pub use log::LogSink;
pub use runtime::{Agent, Runtime, Runtimes};
