//! The HTTP front end: the contract that the clients' scripts rely on, and limits on what a client may ask for.

mod error;
mod invoke;
mod manage;
mod server;

pub use error::{KINDS, kind_of};
pub use server::{ServeError, serve};

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
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
}

/// All routes. `max_requests` are served at a time; bodies may hold `max_body` bytes; with a `token` every request
/// but `/healthz` must carry it.
pub fn router(service: Arc<Service>, max_requests: usize, max_body: usize, token: Option<String>) -> Router {
    let room = Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS)));
    let api = Api { service, room, token: token.map(Arc::from) };
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
        .layer(DefaultBodyLimit::max(max_body))
        .layer(middleware::from_fn_with_state(api.clone(), admit))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(api)
}

/// Lets a request in if it carries the token and there is room.
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
    api.service.metrics().in_flight().inc();
    let response = next.run(request).await;
    api.service.metrics().in_flight().dec();
    response
}

/// Compares without telling by its time where the first difference is.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
