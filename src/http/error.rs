//! Errors as clients see them: a status, and JSON that says what was wrong.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::agent::Failure;
use crate::sandbox;
use crate::service::ServiceError;

/// The kinds that an invocation's error can have.
pub const KINDS: &[&str] =
    &["bad_code", "raised", "died", "out_of_memory", "timeout", "no_capacity", "unavailable", "start_failed"];

/// An error response.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    kind: &'static str,
    /// The type of what a function raised.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    raised: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    stack: String,
}

impl ApiError {
    /// An error of `kind` with one sentence for the client.
    pub fn new(status: StatusCode, kind: &'static str, error: impl Into<String>) -> ApiError {
        let body = Body { error: error.into(), kind, raised: String::new(), stack: String::new() };
        ApiError { status, body }
    }

    /// A request that is wrong in itself.
    pub fn bad_request(error: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", error)
    }

    /// No room now.
    pub fn busy(error: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_capacity", error)
    }

    /// A body that could not be read.
    pub fn broken_body(error: &axum::Error) -> ApiError {
        ApiError::bad_request(format!("the request's body could not be read: {error}"))
    }

    /// A body of more than `limit` bytes.
    pub fn large_body(limit: usize) -> ApiError {
        let error = format!("the request's body is over this server's limit of {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error)
    }

    /// A body that did not come in time.
    pub fn slow_body(limit: std::time::Duration) -> ApiError {
        let error = format!("the request's body did not come within {} s", limit.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", error)
    }

    fn with(mut self, failure: &Failure) -> ApiError {
        self.body.raised.clone_from(&failure.kind);
        self.body.stack.clone_from(&failure.stack);
        self
    }
}

/// The `kind` of an invocation's error.
pub fn kind_of(error: &sandbox::Error) -> &'static str {
    use sandbox::Error;
    match error {
        Error::Load(_) | Error::LoadTimeout(_) => "bad_code",
        Error::Raised(_) => "raised",
        Error::Died(_) => "died",
        Error::OutOfMemory { .. } => "out_of_memory",
        Error::Timeout(_) => "timeout",
        Error::NoCapacity => "no_capacity",
        Error::Unavailable(_) => "unavailable",
        Error::Start(_) => "start_failed",
    }
}

impl From<sandbox::Error> for ApiError {
    fn from(error: sandbox::Error) -> ApiError {
        use sandbox::Error;
        let status = match &error {
            Error::Load(_) | Error::LoadTimeout(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Raised(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Error::Died(_) | Error::OutOfMemory { .. } => StatusCode::BAD_GATEWAY,
            Error::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Error::NoCapacity | Error::Unavailable(_) | Error::Start(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let response = ApiError::new(status, kind_of(&error), error.to_string());
        match &error {
            Error::Load(failure) | Error::Raised(failure) => response.with(failure),
            _ => response,
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> ApiError {
        let (status, kind) = match error {
            ServiceError::Spec(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            ServiceError::Code(ref code) if code.is_internal() => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            ServiceError::Code(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_code"),
            ServiceError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_function"),
            ServiceError::Conflict(_) | ServiceError::SvmidTaken { .. } => (StatusCode::CONFLICT, "conflict"),
            ServiceError::TooMany(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_capacity"),
            ServiceError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ServiceError::Sandbox(error) => return error.into(),
        };
        ApiError::new(status, kind, error.to_string())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> ApiError {
        ApiError::bad_request(format!("the request's body could not be read: {rejection}"))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> ApiError {
        ApiError::bad_request(format!("the query of the URL could not be read: {}", rejection.body_text()))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self.body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A known path with a method that it does not have.
pub async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let error = format!("{} does not take {method}; see the Allow header", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error)
}
