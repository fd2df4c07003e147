//! `POST /` (and any other path), `/warmup` and `/stress`: requests that invoke a function.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::sandbox::Invocation;
use crate::service::{MAX_CALLERS, MAX_REQUESTS, Service};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body of an invocation.
#[derive(Deserialize)]
struct Body<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    cached: Option<&'a RawValue>,
}

/// What is to be invoked.
struct Wanted {
    name: String,
    arguments: String,
    fresh: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    result: &'a str,
    #[serde(rename = "process time (us)")]
    process_time: u64,
}

/// The query of `/warmup` and `/stress`.
#[derive(Deserialize)]
pub struct Repeat {
    concurrency: Option<u32>,
    requests: Option<u32>,
}

/// Invokes a function once.
pub async fn invoke(
    State(service): State<Arc<Service>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&body?)?;
    let invocation = service.invoke(&wanted.name, wanted.arguments.as_bytes(), wanted.fresh).await?;
    Ok(answer(invocation))
}

/// Invokes a function R times on each of C concurrent callers, and answers as the last of them.
pub async fn warm_up(
    State(service): State<Arc<Service>>,
    repeat: Result<Query<Repeat>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (callers, requests) = repeat?.0.check()?;
    let wanted = Wanted::read(&body?)?;
    let invocation = service.warm_up(&wanted.name, wanted.arguments.as_bytes(), callers, requests).await?;
    Ok(answer(invocation))
}

/// Invokes a function R times in all on at most C sandboxes at a time.
pub async fn stress(
    State(service): State<Arc<Service>>,
    repeat: Result<Query<Repeat>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<&'static str, ApiError> {
    let (callers, requests) = repeat?.0.check()?;
    let wanted = Wanted::read(&body?)?;
    service.stress(&wanted.name, wanted.arguments.as_bytes(), callers, requests).await?;
    Ok("success!")
}

impl Repeat {
    fn check(&self) -> Result<(u32, u32), ApiError> {
        let number = |name, value: Option<u32>, most| match value.unwrap_or(1) {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err(ApiError::bad_request(format!("'{name}' is {value}, but must be from 1 to {most}"))),
        };
        Ok((
            number("concurrency", self.concurrency, MAX_CALLERS)?,
            number("requests", self.requests, MAX_REQUESTS)?,
        ))
    }
}

impl Wanted {
    fn read(body: &[u8]) -> Result<Wanted, ApiError> {
        const RIGHT: &str = r#"it should be like {"name": "hello", "arguments": "{\"n\": 1}"}"#;
        let body: Body = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!(
                "the request's body is not the JSON of an invocation ({error}); {RIGHT}"
            ))
        })?;
        let name = body.name.ok_or_else(|| {
            ApiError::bad_request(format!("the request's body has no 'name' of a function; {RIGHT}"))
        })?;
        let fresh = match body.cached.map(RawValue::get) {
            None | Some("true" | r#""true""# | "null" | r#""""#) => false,
            Some("false" | r#""false""#) => true,
            Some(other) => {
                let other: String = other.chars().take(100).collect();
                return Err(ApiError::bad_request(format!(
                    "'cached' is {other}, but must be \"true\" or \"false\""
                )));
            }
        };
        let arguments = match body.arguments.map(RawValue::get) {
            None | Some("null") => String::new(),
            // A string holds the arguments; anything else is the arguments.
            Some(text) if text.starts_with('"') => serde_json::from_str(text).map_err(|error| {
                ApiError::bad_request(format!("'arguments' is not a JSON string that can be read: {error}"))
            })?,
            Some(text) => text.to_owned(),
        };
        Ok(Wanted { name, arguments, fresh })
    }
}

fn answer(invocation: Invocation) -> Response {
    let timing = timing(&invocation);
    let process_time = invocation.run_time.as_micros() as u64;
    let mut response = match invocation.result {
        Ok(result) => {
            // Strings and numbers are always JSON.
            let body = serde_json::to_vec(&Answer { result: &result, process_time }).unwrap_or_default();
            ([(CONTENT_TYPE, JSON)], body).into_response()
        }
        Err(error) => ApiError::from(error).into_response(),
    };
    response.headers_mut().insert(SERVER_TIMING, timing);
    response
}

/// `queue;dur=0.012, start;dur=0;desc="warm", run;dur=0.083`, in milliseconds.
fn timing(invocation: &Invocation) -> HeaderValue {
    let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
    let mut text = String::with_capacity(80);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "queue;dur={}, start;dur={};desc=\"{}\", run;dur={}",
        ms(invocation.queue_time),
        ms(invocation.start_time),
        invocation.start.name(),
        ms(invocation.run_time)
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(body: &str) -> Result<(String, String, bool), String> {
        Wanted::read(body.as_bytes())
            .map(|wanted| (wanted.name, wanted.arguments, wanted.fresh))
            .map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn arguments_come_as_a_string_or_as_they_are() {
        let ok =
            |body, arguments: &str, fresh| assert_eq!(read(body), Ok(("f".into(), arguments.into(), fresh)));
        ok(r#"{"name": "f", "arguments": "{\"n\": 1}"}"#, r#"{"n": 1}"#, false);
        ok(r#"{"name": "f", "arguments": {"n": 1}}"#, r#"{"n": 1}"#, false);
        ok(r#"{"name": "f", "arguments": ""}"#, "", false);
        ok(r#"{"name": "f"}"#, "", false);
        ok(r#"{"name": "f", "cached": "false"}"#, "", true);
        ok(r#"{"name": "f", "cached": true, "async": "false"}"#, "", false);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(read("").unwrap_err().contains("not the JSON of an invocation"));
        assert!(read("[]").unwrap_err().contains("not the JSON of an invocation"));
        assert!(read("{}").unwrap_err().contains("no 'name'"));
        assert!(read(r#"{"name": "f", "cached": 1}"#).unwrap_err().contains("'cached' is 1"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _ = Wanted::read(&body);
            let quoted = serde_json::json!({"name": text, "arguments": text}).to_string();
            prop_assert_eq!(read(&quoted), Ok((text.clone(), text, false)));
        }
    }
}
