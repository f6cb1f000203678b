//! Who did what.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::audit::AuditEntry;
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{AdminServices, Viewer, page_size, problem};
use crate::body::query_problem;

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TrailQuery {
    /// From the previous page.
    cursor: Option<String>,
    /// Lines per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// One action of an operator.
#[derive(Serialize, ToSchema)]
struct EntryView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who.
    by: String,
    /// What.
    action: String,
    /// To what.
    target: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    /// What is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

impl From<AuditEntry> for EntryView {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { at, by, action, target, reason, before, after } = entry;
        Self { at, by: by.to_string(), action, target, reason, before, after }
    }
}

/// A page of the audit trail, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct TrailView {
    /// The lines.
    entries: Vec<EntryView>,
    /// Continue with this cursor; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Read the audit trail, newest first
#[utoipa::path(get, path = "/admin/v1/audit", tag = "audit", operation_id = "audit", params(TrailQuery),
    responses((status = 200, description = "A page; continue while `next` is there", body = TrailView),
        (status = 400, description = "Malformed query", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    query: Result<Query<TrailQuery>, QueryRejection>,
) -> Result<Json<TrailView>, Problem> {
    let Query(query) = query.map_err(|rejection| query_problem(&rejection))?;
    let limit = page_size(query.limit)?;
    let (entries, next) = services.operations.audit(query.cursor.as_deref(), limit).await.map_err(problem)?;
    Ok(Json(TrailView { entries: entries.into_iter().map(Into::into).collect(), next }))
}
