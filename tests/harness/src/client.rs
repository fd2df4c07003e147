//! A client of Hydra's HTTP interface.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Example;

/// Longest time of one request: above every timeout that tests and benchmarks give a function.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A client of servers on this machine.
pub fn plain_http() -> reqwest::ClientBuilder {
    // The crates of a workspace share one build of the client: it has TLS for Hydra's sake, and wants a provider of it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// Sends requests to one Hydra. Errors that Hydra answers are replies like any other: [`Reply::success`] turns them into an error.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client of the Hydra at `base`, e.g. `http://127.0.0.1:8080`.
    pub fn new(base: &str) -> Self {
        let http = plain_http().timeout(TIMEOUT).build();
        // Without TLS and proxies there is nothing to configure that could fail.
        let http = http.expect("an HTTP client of plain settings");
        Self { http, base: base.to_owned(), token: None }
    }

    /// The same client, which sends `token` with each request.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// `POST /register`.
    ///
    /// # Errors
    /// Here and below: where no reply came.
    pub async fn register(&self, registration: &Registration) -> Result<Reply, ClientError> {
        self.send(self.request(Method::POST, "/register").query(registration)).await
    }

    /// `POST /` with arguments as the text that the function gets.
    pub async fn invoke(&self, name: &str, arguments: &str) -> Result<Reply, ClientError> {
        self.post("/", &json!({"name": name, "arguments": arguments})).await
    }

    /// As [`Client::invoke`], in a fresh sandbox.
    pub async fn invoke_fresh(&self, name: &str, arguments: &str) -> Result<Reply, ClientError> {
        self.post("/", &json!({"name": name, "arguments": arguments, "cached": "false"})).await
    }

    /// `POST /warmup`: `requests` invocations on each of `concurrency` callers.
    pub async fn warmup(
        &self,
        name: &str,
        arguments: &str,
        concurrency: u32,
        requests: u32,
    ) -> Result<Reply, ClientError> {
        self.repeat("warmup", name, arguments, concurrency, requests).await
    }

    /// `POST /stress`: `requests` invocations on at most `concurrency` sandboxes.
    pub async fn stress(
        &self,
        name: &str,
        arguments: &str,
        concurrency: u32,
        requests: u32,
    ) -> Result<Reply, ClientError> {
        self.repeat("stress", name, arguments, concurrency, requests).await
    }

    async fn repeat(
        &self,
        call: &str,
        name: &str,
        arguments: &str,
        concurrency: u32,
        requests: u32,
    ) -> Result<Reply, ClientError> {
        let path = format!("/{call}?concurrency={concurrency}&requests={requests}");
        self.post(&path, &json!({"name": name, "arguments": arguments})).await
    }

    /// `POST /deregister`.
    pub async fn deregister(&self, name: &str) -> Result<Reply, ClientError> {
        self.post("/deregister", &json!({"name": name})).await
    }

    /// `GET /functions`.
    pub async fn functions(&self) -> Result<Reply, ClientError> {
        self.get("/functions").await
    }

    /// `GET` of any path of Hydra, e.g. `/metrics`.
    pub async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST` of any JSON to any path of Hydra.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, ClientError> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Reply, ClientError> {
        let started = Instant::now();
        let response = request.send().await.map_err(ClientError::NoReply)?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.text().await.map_err(ClientError::NoReply)?;
        Ok(Reply { status, headers, body, elapsed: started.elapsed() })
    }
}

/// What `/register` takes. Parameters that are `None` are not sent.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// The function's name.
    pub name: String,
    /// Where its code is.
    pub url: String,
    /// `java`, `javascript` or `python`.
    pub language: String,
    /// What is called, e.g. `main.main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<String>,
    /// `isolate`, `process`, `snapshot` or `snapshot-process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The snapshot's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svmid: Option<i64>,
    /// `sandbox` or `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Most sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

impl Registration {
    /// The registration of an example under its own name, with the code server at `base`.
    pub fn of_example(example: &Example, base: &str, sandbox: &str) -> Self {
        Self {
            name: example.name.clone(),
            url: format!("{base}/{}", example.artifact),
            language: example.language.clone(),
            entry_point: example.entry_point.clone(),
            sandbox: Some(sandbox.to_owned()),
            ..Self::default()
        }
    }
}

/// What Hydra answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as text.
    pub body: String,
    /// From before the request was sent until the body was here.
    pub elapsed: Duration,
}

/// What an invocation answered.
#[derive(Debug, Clone, Deserialize)]
pub struct Invocation {
    /// What the function returned: as it is if it is a string, else as JSON text.
    pub result: String,
    /// Hydra's own measure, in microseconds.
    #[serde(rename = "process time (us)")]
    pub process_time_us: u64,
}

/// One stage of a `Server-Timing` header, e.g. `start;desc="warm";dur=0.02`.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `queue`, `start` or `run`.
    pub name: String,
    /// How; for `start` one of `cold`, `restore`, `reset`, `warm`.
    pub description: Option<String>,
    /// Milliseconds.
    pub milliseconds: Option<f64>,
}

impl Reply {
    /// The reply itself where its status says success.
    ///
    /// # Errors
    /// The status and the body of any other.
    pub fn success(self) -> Result<Self, ClientError> {
        if self.status.is_success() { Ok(self) } else { Err(self.refused()) }
    }

    /// What an invocation answered.
    ///
    /// # Errors
    /// Where it was not answered with success, or not as the contract says.
    pub fn invocation(&self) -> Result<Invocation, ClientError> {
        if !self.status.is_success() {
            return Err(self.refused());
        }
        serde_json::from_str(&self.body)
            .map_err(|source| ClientError::Format { body: self.body.clone(), source })
    }

    /// The `kind` of an error that Hydra answered.
    pub fn error_kind(&self) -> Option<String> {
        let body: Value = serde_json::from_str(&self.body).ok()?;
        Some(body.get("kind")?.as_str()?.to_owned())
    }

    /// The stages of the `Server-Timing` header, in their order.
    pub fn server_timing(&self) -> Vec<Stage> {
        let header = self.headers.get("server-timing").and_then(|value| value.to_str().ok());
        Stage::all(header.unwrap_or_default())
    }

    /// How the sandbox was started: `cold`, `restore`, `reset` or `warm`.
    pub fn start_kind(&self) -> Option<String> {
        self.server_timing().into_iter().find(|stage| stage.name == "start")?.description
    }

    fn refused(&self) -> ClientError {
        ClientError::Refused { status: self.status, body: self.body.clone() }
    }
}

impl Stage {
    /// The stages of a `Server-Timing` header's value, in their order.
    pub fn all(header: &str) -> Vec<Stage> {
        header.split(',').filter_map(stage).collect()
    }
}

fn stage(text: &str) -> Option<Stage> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
    let mut stage = Stage { name, description: None, milliseconds: None };
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("desc", value)) => stage.description = Some(value.trim_matches('"').to_owned()),
            Some(("dur", value)) => stage.milliseconds = value.parse().ok(),
            _ => {}
        }
    }
    Some(stage)
}

/// A request that did not lead to what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke before the reply was here.
    #[error("no reply came: {}", with_causes(.0))]
    NoReply(#[source] reqwest::Error),
    /// Hydra answered with an error.
    #[error("answered {status}: {body}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The body, JSON with `error` and `kind`.
        body: String,
    },
    /// A reply that is not as the contract says.
    #[error("the reply is not what an invocation answers ({source}): {body}")]
    Format {
        /// The body.
        body: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// reqwest's own message hides the cause (e.g. "connection refused").
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, timing: Option<&'static str>, body: &str) -> Reply {
        let mut headers = reqwest::header::HeaderMap::new();
        if let Some(timing) = timing {
            headers.insert("server-timing", reqwest::header::HeaderValue::from_static(timing));
        }
        let status = StatusCode::from_u16(status).unwrap();
        Reply { status, headers, body: body.to_owned(), elapsed: Duration::ZERO }
    }

    #[test]
    fn an_invocation_is_read() {
        let answer =
            reply(200, None, r#"{"result": "{\"a\": 1}", "process time (us)": 12}"#).invocation().unwrap();
        assert_eq!((answer.result.as_str(), answer.process_time_us), (r#"{"a": 1}"#, 12));
        assert!(reply(200, None, "{}").invocation().is_err());
    }

    #[test]
    fn an_error_keeps_its_status_and_kind() {
        let lost = reply(502, None, r#"{"error": "the sandbox died", "kind": "sandbox"}"#);
        assert_eq!(lost.error_kind().as_deref(), Some("sandbox"));
        let error = lost.invocation().unwrap_err().to_string();
        assert!(error.contains("502") && error.contains("the sandbox died"), "{error}");
    }

    #[test]
    fn the_stages_of_server_timing_are_read() {
        let timed = reply(200, Some(r#"queue;dur=0.01, start;desc="cold";dur=12.5, run;dur=3, odd"#), "");
        let stages = timed.server_timing();
        assert_eq!(stages.len(), 4);
        assert_eq!((stages[0].name.as_str(), stages[0].milliseconds), ("queue", Some(0.01)));
        assert_eq!(stages[3], Stage { name: "odd".into(), description: None, milliseconds: None });
        assert_eq!(timed.start_kind().as_deref(), Some("cold"));
        assert_eq!(reply(200, None, "").server_timing(), []);
    }

    #[tokio::test]
    async fn a_refused_connection_is_named_as_such() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Client::new(&format!("http://{free}")).get("/healthz").await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    }
}
