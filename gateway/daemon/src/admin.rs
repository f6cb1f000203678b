//! The operator listener and the telemetry listener.

use std::sync::Arc;

use amtsbote_core::port::{Clock, MessageStore};
use amtsbote_http::Problem;
use amtsbote_rest::AdminServices;
use amtsbote_telemetry::{Health, Metrics};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

/// What the telemetry listener shows.
pub(crate) struct Insight {
    pub(crate) store: Arc<dyn MessageStore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The operators' interface and the console.
pub(crate) fn operator(services: Arc<AdminServices>, console: Router) -> Router {
    amtsbote_rest::admin_router(services)
        .merge(console)
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such path") })
        .method_not_allowed_fallback(|| async {
            let title = "This path does not take this method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", title)
        })
}

/// `/metrics`, `/health/live`, `/health/ready`, without authentication.
pub(crate) fn telemetry(insight: Arc<Insight>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { Json(json!({ "status": "live" })) }))
        .route("/health/ready", get(ready))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .with_state(insight)
}

async fn metrics(State(insight): State<Arc<Insight>>) -> Response {
    match insight.metrics.render(&insight.store.status(), insight.clock.now()) {
        Ok(text) => {
            let media_type = HeaderValue::from_static("text/plain; version=0.0.4");
            ([(header::CONTENT_TYPE, media_type)], text).into_response()
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "Metrics cannot be rendered.");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn ready(State(insight): State<Arc<Insight>>) -> Response {
    let readiness = insight.health.readiness(&insight.store.status(), insight.clock.now());
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}
