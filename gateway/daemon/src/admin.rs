//! The operator listener and the telemetry listener.

use std::sync::Arc;

use amtsbote_core::account::{AccountBook, Role};
use amtsbote_core::port::{Clock, MessageStore};
use amtsbote_core::route::Router as RoutingRouter;
use amtsbote_http::{Peer, Problem};
use amtsbote_rest::AdminServices;
use amtsbote_telemetry::{Health, Metrics};
use arc_swap::ArcSwap;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// What both listeners show.
pub(crate) struct Insight {
    pub(crate) store: Arc<dyn MessageStore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) accounts: Arc<ArcSwap<AccountBook>>,
    pub(crate) router: Arc<RoutingRouter>,
    pub(crate) started: amtsbote_core::Timestamp,
}

/// Somebody with a role for operations.
struct Operator;

impl FromRequestParts<Arc<Insight>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, insight: &Arc<Insight>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Arc<Peer>>().map(Arc::as_ref);
        let account = amtsbote_rest::authenticate(peer, &insight.accounts.load())?;
        let roles = [Role::Viewer, Role::Operator, Role::Administrator];
        if roles.iter().any(|role| account.has(*role)) {
            Ok(Self)
        } else {
            Err(amtsbote_rest::role_missing())
        }
    }
}

/// The operators' interface, with `GET /admin/v1/status` besides, and the console.
pub(crate) fn operator(insight: Arc<Insight>, services: Arc<AdminServices>, console: Router) -> Router {
    Router::new()
        .route("/admin/v1/status", get(status))
        .with_state(insight)
        .merge(amtsbote_rest::admin_router(services))
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

async fn status(_operator: Operator, State(insight): State<Arc<Insight>>) -> Json<Value> {
    let (now, store) = (insight.clock.now(), insight.store.status());
    let tables = insight.router.tables();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "startedAt": insight.started,
        "now": now,
        "health": insight.health.readiness(&store, now),
        "store": {
            "stopped": store.stopped,
            "journalBytes": store.journal_bytes,
            "indexLag": store.index_lag,
            "searchLag": store.search_lag,
            "quarantined": store.quarantined,
        },
        "routing": { "version": tables.version(), "sizes": tables.sizes() },
        "accounts": insight.accounts.load().iter().count(),
    }))
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
