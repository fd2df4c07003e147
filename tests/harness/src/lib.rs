//! What the demo, the end-to-end tests and the benchmarks share: a running Hydra, a web server for code and data, a client of
//! Hydra's HTTP interface, and the example functions.
//!
//! ```no_run
//! use hydra_harness::{Client, CodeServer, Registration, Server, ServerOptions, examples};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let code = CodeServer::start(hydra_harness::paths::examples_out()).await?;
//! let hydra = Server::start(ServerOptions::default()).await?;
//! let client = Client::new(hydra.base());
//! for example in examples()? {
//!     client.register(&Registration::of_example(&example, code.base(), "isolate")).await?.success()?;
//!     let reply = client.invoke(&example.name, &example.arguments(code.base())).await?;
//!     example.check(&reply.invocation()?.result, code.base())?;
//! }
//! hydra.stop().await?;
//! # Ok(())
//! # }
//! ```

mod client;
mod code_server;
mod examples;
pub mod paths;
mod server;
mod table;

pub use client::{Client, ClientError, Invocation, Registration, Reply, Stage, plain_http};
pub use code_server::CodeServer;
pub use examples::{Example, ExamplesError, Mismatch, examples, examples_in};
pub use server::{Server, ServerError, ServerOptions};
pub use table::Table;
