//! The JSON payloads of the protocol.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most bytes of a message in `LOAD_FAILED` and `RAISED`.
const MAX_MESSAGE: usize = 64 << 10;

/// The first frame on a channel.
#[derive(Serialize)]
pub struct Hello<'a> {
    protocol: u32,
    language: &'static str,
    runtime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> Hello<'a> {
    /// Who this agent is; `token` identifies an isolate in host mode.
    pub fn new(token: Option<&'a str>) -> Self {
        Hello {
            protocol: 1,
            language: "native",
            runtime: concat!("hydra-agent-native ", env!("CARGO_PKG_VERSION")),
            token,
        }
    }
}

/// What to load.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// The function's name.
    pub name: String,
    /// Absolute path of the shared object, or of a directory that holds it.
    pub code: PathBuf,
    /// The symbol to call; `entrypoint` where there is none.
    pub entry_point: Option<String>,
    /// Absolute path of a directory that the function may write.
    pub tmp_dir: String,
    /// Most bytes of a result.
    pub max_result: usize,
}

/// The program goes on from a snapshot.
#[derive(Deserialize)]
pub struct Restored {
    /// Random bytes that no other program gets, in hexadecimal.
    pub entropy: String,
}

/// Why a function was not loaded, or gave no result. A C interface knows no exceptions and so no stack.
#[derive(Debug, Serialize)]
pub struct Failure {
    message: String,
    r#type: &'static str,
    stack: &'static str,
}

impl Failure {
    /// A failure of type `kind`, described by `message`.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
        }
        Failure { message, r#type: kind, stack: "" }
    }
}

/// Control channel: make an isolate. `memory` is not read: see the README.
#[derive(Deserialize)]
pub struct Open {
    /// The isolate's number.
    pub isolate: u64,
    /// The Unix socket to connect to.
    pub socket: PathBuf,
    /// What the isolate identifies itself by.
    pub token: String,
}

/// Control channel: end an isolate.
#[derive(Deserialize)]
pub struct Close {
    /// The isolate's number.
    pub isolate: u64,
}

/// Control channel: an isolate ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Closed {
    /// The isolate's number.
    pub isolate: u64,
    /// `closed`, or what went wrong.
    pub reason: String,
    /// Always false: a native function that runs out of memory takes its process with it.
    pub out_of_memory: bool,
}
