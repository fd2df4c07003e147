//! `/register`, `/deregister`, `/functions` and `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::Deserialize;

use super::error::ApiError;
use crate::function::spec;
use crate::service::{Description, Service};

/// Registers the function that the query describes.
pub async fn register(
    State(service): State<Arc<Service>>,
    query: Result<Query<spec::Query>, QueryRejection>,
) -> Result<String, ApiError> {
    let name = service.register(query?.0).await?;
    Ok(format!("Function {name} registered!"))
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Removes the function that the body names.
pub async fn deregister(
    State(service): State<Arc<Service>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<String, ApiError> {
    let Named { name } = serde_json::from_slice(&body?).map_err(|error| {
        ApiError::bad_request(format!(r#"the request's body is not like {{"name": "hello"}}: {error}"#))
    })?;
    service.deregister(&name)?;
    Ok(format!("Function {name} removed!"))
}

/// What is known of all functions.
pub async fn list(State(service): State<Arc<Service>>) -> Json<Vec<Description>> {
    Json(service.list())
}

/// What is known of one function.
pub async fn describe(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<Json<Description>, ApiError> {
    Ok(Json(service.describe(&name)?))
}

/// Metrics for Prometheus.
pub async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let text = service.metrics_text();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
