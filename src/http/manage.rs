//! `/register`, `/deregister`, `/functions` and `/metrics`.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::Deserialize;

use super::Api;
use super::error::ApiError;
use crate::function::spec;
use crate::service::Description;

/// Registers the function that the query describes.
pub async fn register(
    State(api): State<Api>,
    query: Result<Query<spec::Query>, QueryRejection>,
) -> Result<String, ApiError> {
    let name = api.service.register(query?.0).await?;
    Ok(format!("Function {name} registered!"))
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Removes the function that the body names.
pub async fn deregister(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<String, ApiError> {
    let Named { name } = serde_json::from_slice(&body?).map_err(|error| {
        ApiError::bad_request(format!(r#"the request's body is not like {{"name": "hello"}}: {error}"#))
    })?;
    api.service.deregister(&name)?;
    Ok(format!("Function {name} removed!"))
}

/// What is known of all functions.
pub async fn list(State(api): State<Api>) -> Json<Vec<Description>> {
    Json(api.service.list())
}

/// What is known of one function.
pub async fn describe(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Description>, ApiError> {
    Ok(Json(api.service.describe(&name)?))
}

/// Metrics for Prometheus.
pub async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let text = api.service.metrics_text();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
