//! Hydra's agent for functions that are shared objects with the C interface of GraalVM native-image.
//!
//! `hydra-agent-native --function FD` serves one function, `hydra-agent-native --host FD` many, each in a
//! GraalVM isolate and on a thread of its own. `guest-agent/PROTOCOL.md` is the contract.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arguments;
mod frames;
mod function;
mod graal;
mod host;
mod messages;
mod process;
mod result_buffer;
mod session;

use std::process::ExitCode;

use thiserror::Error;

/// The peer broke the protocol (`EX_SOFTWARE` of sysexits.h, named by the protocol).
const EXIT_BROKEN: u8 = 70;
/// The command line is wrong (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

enum Mode {
    Function,
    Host,
}

#[derive(Debug, Error)]
enum UsageError {
    #[error("usage: hydra-agent-native --function FD | --host FD")]
    Arguments,
    #[error("descriptor {0} of the command line is not open: it must be an inherited stream socket")]
    Descriptor(i32, #[source] std::io::Error),
}

fn main() -> ExitCode {
    let (mode, channel) = match command_line() {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("hydra-agent-native: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    process::line_buffer_stdout();
    let ended = match mode {
        Mode::Function => session::serve(&channel, None),
        Mode::Host => host::serve(channel),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hydra-agent-native: {error}");
            ExitCode::from(EXIT_BROKEN)
        }
    }
}

fn command_line() -> Result<(Mode, std::fs::File), UsageError> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [flag, descriptor] = arguments.as_slice() else { return Err(UsageError::Arguments) };
    let mode = match flag.to_str() {
        Some("--function") => Mode::Function,
        Some("--host") => Mode::Host,
        _ => return Err(UsageError::Arguments),
    };
    let descriptor = descriptor
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .ok_or(UsageError::Arguments)?;
    let channel =
        process::adopt_descriptor(descriptor).map_err(|error| UsageError::Descriptor(descriptor, error))?;
    Ok((mode, channel))
}
