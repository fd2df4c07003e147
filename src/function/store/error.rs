//! What can go wrong with the code that is to be fetched.
use super::unpack::UnpackError;
use std::{io, sync::Arc, time::Duration};

/// Why the code behind a URL could not be had.
///
/// It can be cloned because callers that wait for the same download share its outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CodeError {
    /// The URL cannot be used.
    #[error("cannot download code from `{url}`: {reason}; give an http or https URL")]
    Url {
        /// As it was given, or as a redirect gave it; without a password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or the transfer broke off.
    #[error("downloading `{url}` failed: {reason}")]
    Transfer {
        /// The URL that was asked at that moment.
        url: String,
        /// What broke, in the words of the network.
        reason: String,
    },
    /// The server answered, but not with the code.
    #[error("downloading `{url}` failed: the server answered {status}, 200 was expected")]
    Status {
        /// The URL that was asked at that moment.
        url: String,
        /// Number and reason, for example `404 Not Found`.
        status: String,
    },
    /// A redirect that is not followed.
    #[error("downloading `{url}` failed: {reason}")]
    Redirect {
        /// The URL that was registered.
        url: String,
        /// Why it is not followed.
        reason: String,
    },
    /// The body is over the limit.
    #[error("downloading `{url}` failed: it is larger than {limit}, the most that is accepted")]
    TooLarge {
        /// The URL that was registered.
        url: String,
        /// [`Limits::download_bytes`](super::Limits::download_bytes), readable.
        limit: String,
    },
    /// The download took too long.
    #[error("downloading `{url}` failed: it was not complete after {} seconds, the most that is allowed", limit.as_secs_f64())]
    TooSlow {
        /// The URL that was registered.
        url: String,
        /// [`Limits::download_time`](super::Limits::download_time).
        limit: Duration,
    },
    /// What came is not what its name promises, or nothing that Hydra can run.
    #[error("`{url}` is not usable as a function's code: {expected} was expected, found {found}")]
    Content {
        /// The URL that was registered.
        url: String,
        /// What would be right.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The archive is damaged or holds what must not be unpacked.
    #[error("cannot unpack `{url}`: {source}")]
    Archive {
        /// The URL that was registered.
        url: String,
        /// What is wrong with it.
        source: Arc<UnpackError>,
    },
    /// Hydra's own trouble: a full disk, a folder that vanished.
    #[error("cannot store the code of `{url}`: {doing} failed: {source}")]
    Storage {
        /// The URL that was registered.
        url: String,
        /// What was being done.
        doing: String,
        /// What the operating system answered.
        source: Arc<io::Error>,
    },
}

impl CodeError {
    /// Whether the fault is Hydra's own (500) rather than the code's or its server's (422).
    pub fn is_internal(&self) -> bool {
        matches!(self, CodeError::Storage { .. })
    }

    pub(super) fn storage(url: &str, doing: impl Into<String>, source: io::Error) -> CodeError {
        CodeError::Storage { url: url.into(), doing: doing.into(), source: Arc::new(source) }
    }

    pub(super) fn unpacking(url: &str, error: UnpackError) -> CodeError {
        match error {
            UnpackError::Write { path, source } => {
                CodeError::storage(url, format!("writing `{}`", path.display()), source)
            }
            fault => CodeError::Archive { url: url.into(), source: Arc::new(fault) },
        }
    }
}
