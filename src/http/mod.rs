//! The HTTP front end: the contract that the clients' scripts rely on, and limits on what a client may ask for.

mod error;
mod invoke;
mod manage;
mod server;

pub use error::{KINDS, kind_of};
pub use server::{ServeError, serve};

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;

use crate::service::Service;
use error::ApiError;

/// What every handler needs.
#[derive(Clone)]
struct Api {
    service: Arc<Service>,
    /// One permit per request that may be served at a time.
    room: Arc<Semaphore>,
    token: Option<Arc<str>>,
    /// Most bytes of a body.
    max_body: usize,
}

/// How long a request's body may take to come.
const BODY_TIME: Duration = Duration::from_secs(30);

/// All routes. `max_requests` are served at a time; bodies may hold `max_body` bytes; with a `token` every request
/// but `/healthz` must carry it.
pub fn router(service: Arc<Service>, max_requests: usize, max_body: usize, token: Option<String>) -> Router {
    let room = Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS)));
    let api = Api { service, room, token: token.map(Arc::from), max_body };
    Router::new()
        .route("/register", get(manage::register).post(manage::register))
        .route("/deregister", post(manage::deregister))
        .route("/warmup", post(invoke::warm_up))
        .route("/stress", post(invoke::stress))
        .route("/functions", get(manage::list))
        .route("/functions/{name}", get(manage::describe))
        .route("/metrics", get(manage::metrics))
        .method_not_allowed_fallback(error::method_not_allowed)
        // The original's clients invoke at `/`, at `/test`, at anything.
        .fallback(invoke::invoke)
        // `admit` bounds bodies.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(api.clone(), admit))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(api)
}

/// Lets a request in if it carries the token, there is room, and its body comes whole, small and soon enough.
async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    if let Some(token) = &api.token {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !equal_in_constant_time(given.as_bytes(), token.as_bytes()) {
            let mut refused = ApiError::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "the request needs the header 'Authorization: Bearer TOKEN' with this server's token",
            )
            .into_response();
            refused
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            return refused;
        }
    }
    let Ok(_permit) = api.room.try_acquire() else {
        return ApiError::busy("Hydra serves as many requests as it may; try again later").into_response();
    };
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, api.max_body)).await {
        Ok(Ok(body)) => Body::from(body),
        Ok(Err(error)) => return ApiError::from_body(&error, api.max_body).into_response(),
        Err(_) => return ApiError::slow_body(BODY_TIME).into_response(),
    };
    let _in_flight = InFlight::new(api.service.metrics().in_flight());
    next.run(Request::from_parts(parts, body)).await
}

/// Counts a request for as long as it is served, also when its client goes away.
struct InFlight(Gauge);

impl InFlight {
    fn new(gauge: &Gauge) -> InFlight {
        gauge.inc();
        InFlight(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Compares without telling by its time where the first difference is.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
