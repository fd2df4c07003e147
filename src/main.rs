//! Hydra, the function runtime.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "hydra", version, about)]
enum Command {
    /// Run a Linux program in a microVM.
    Exec(hydra::exec::Exec),
}

fn main() -> ExitCode {
    let Command::Exec(exec) = Command::parse();
    match exec.run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("hydra: {error}");
            ExitCode::from(125)
        }
    }
}
