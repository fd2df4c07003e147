//! A function channel, from `HELLO` to its end. The same in both modes.

use std::fs::File;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::frames::{FrameError, FrameReader, Received, Sent, write_frame};
use crate::function::Function;
use crate::graal::TearDownError;
use crate::messages::{Hello, Load, Restored};
use crate::process;

/// Why a channel was given up, other than by its regular end.
#[derive(Debug, Error)]
pub enum SessionError {
    /// No frame could be read or written.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame came when it must not.
    #[error("a frame of the kind {0:?} was received out of order")]
    OutOfOrder(Received),
    /// A payload is not what its kind promises.
    #[error("the payload of a frame of the kind {kind:?} cannot be read: {problem}")]
    Payload {
        /// The frame's kind.
        kind: Received,
        /// What is wrong with it.
        problem: String,
    },
    /// The function's isolate did not end cleanly.
    #[error(transparent)]
    TearDown(#[from] TearDownError),
}

/// What a channel's function is.
enum State {
    Empty,
    Loaded(Function),
    Failed,
}

/// Serves one function on `channel` until Hydra closes it, on the calling thread.
pub fn serve(channel: &File, token: Option<&str>) -> Result<(), SessionError> {
    let mut state = State::Empty;
    let ended = regular_end(exchange(channel, token, &mut state));
    match state {
        State::Loaded(function) => ended.and(function.tear_down().map_err(SessionError::from)),
        State::Empty | State::Failed => ended,
    }
}

/// Parses a JSON payload.
pub fn parse<T: DeserializeOwned>(kind: Received, payload: &[u8]) -> Result<T, SessionError> {
    serde_json::from_slice(payload)
        .map_err(|error| SessionError::Payload { kind, problem: error.to_string() })
}

/// Sends a frame with a JSON payload.
pub fn send_json(channel: &File, kind: Sent, payload: &impl Serialize) -> Result<(), SessionError> {
    let payload = serde_json::to_vec(payload).map_err(io::Error::from).map_err(FrameError::from)?;
    send(channel, kind, &payload)
}

/// A peer that went away, rather than closing its end in order, has ended the channel all the same.
pub fn regular_end(ended: Result<(), SessionError>) -> Result<(), SessionError> {
    match ended {
        Err(SessionError::Frame(FrameError::Io(error)))
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn exchange(channel: &File, token: Option<&str>, state: &mut State) -> Result<(), SessionError> {
    send_json(channel, Sent::Hello, &Hello::new(token))?;
    let mut reader = FrameReader::new(channel);
    while let Some((kind, payload)) = reader.next()? {
        match (kind, &mut *state) {
            (Received::Load, State::Empty) => *state = load(channel, &parse(kind, payload)?)?,
            (Received::Invoke, State::Loaded(function)) => {
                let text = std::str::from_utf8(payload)
                    .map_err(|error| SessionError::Payload { kind, problem: error.to_string() })?;
                function.invoke(text, |result| match result {
                    Ok(text) => send(channel, Sent::Result, text.as_bytes()),
                    Err(failure) => send_json(channel, Sent::Raised, &failure),
                })?;
            }
            (Received::Checkpoint, state) => {
                if let State::Loaded(function) = state {
                    function.before_checkpoint();
                }
                process::trim_heap();
                send(channel, Sent::Ready, &[])?;
            }
            (Received::Restored, state) => {
                process::seed_random(&parse::<Restored>(kind, payload)?.entropy);
                if let State::Loaded(function) = state {
                    function.after_restore();
                }
            }
            _ => return Err(SessionError::OutOfOrder(kind)),
        }
    }
    Ok(())
}

fn load(channel: &File, load: &Load) -> Result<State, SessionError> {
    match Function::load(load) {
        Ok(function) => send(channel, Sent::Loaded, &[]).map(|()| State::Loaded(function)),
        Err(failure) => send_json(channel, Sent::LoadFailed, &failure).map(|()| State::Failed),
    }
}

fn send(channel: &File, kind: Sent, payload: &[u8]) -> Result<(), SessionError> {
    write_frame(channel, kind, payload).map_err(|error| FrameError::from(error).into())
}
