//! The HTTP front end: the contract that the clients' scripts rely on, and limits on what a client may ask for.

mod body;
mod error;
mod guard;
mod invoke;
mod manage;
mod peer;
mod server;

pub use error::{KINDS, kind_of};
pub use server::{ServeError, serve};

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;

use crate::service::Service;
use body::Bodies;
use error::ApiError;
use guard::{Client, Guard};

/// What lets requests in.
#[derive(Clone)]
struct Door {
    service: Arc<Service>,
    guard: Arc<Guard>,
    /// One permit per request that may be served at a time.
    room: Arc<Semaphore>,
    bodies: Arc<Bodies>,
}

/// All routes. `max_requests` invocations are served at a time, and as many requests of other kinds, so that functions that hang keep nobody from
/// removing them; bodies may hold `max_body` bytes; `guard` says who is answered anything but `/healthz`.
pub fn router(service: Arc<Service>, max_requests: usize, max_body: usize, guard: Arc<Guard>) -> Router {
    let behind_a_door = |routes: Router<Arc<Service>>| {
        let bodies = Arc::new(Bodies::new(max_body));
        let room = Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS)));
        let door = Door { service: service.clone(), guard: guard.clone(), room, bodies };
        routes
            .method_not_allowed_fallback(error::method_not_allowed)
            // `admit` bounds bodies.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(door, admit))
    };
    let manage = Router::new()
        .route("/register", get(manage::register).post(manage::register))
        .route("/deregister", post(manage::deregister))
        .route("/functions", get(manage::list))
        .route("/functions/{name}", get(manage::describe))
        .route("/metrics", get(manage::metrics));
    let invoke = Router::new()
        .route("/warmup", post(invoke::warm_up))
        .route("/stress", post(invoke::stress))
        // The original's clients invoke at `/`, at `/test`, at anything.
        .fallback(invoke::invoke);
    behind_a_door(manage)
        .merge(behind_a_door(invoke))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(service.clone())
}

/// Lets a request in if its client may ask, its body comes whole, small and soon enough, and there is room.
async fn admit(
    State(door): State<Door>,
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(refused) = door.guard.check(client, &request) {
        return *refused;
    }
    let (parts, body) = request.into_parts();
    let body = match door.bodies.read(body).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let Ok(_permit) = door.room.try_acquire() else {
        return ApiError::busy("Hydra serves as many requests as it may; try again later").into_response();
    };
    let _in_flight = InFlight::new(door.service.metrics().in_flight());
    next.run(Request::from_parts(parts, Body::from(body.bytes.clone()))).await
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
