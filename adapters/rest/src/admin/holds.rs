//! Hold and release.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::hold::{Hold, HoldKey};
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{AdminServices, Operator, ReasonBody, Viewer, problem};
use crate::body::json;
use crate::caller::At;
use crate::fault::bad_request;

/// What is held.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes parameters")]
struct HoldPath {
    /// destination, service, account or message
    scope: String,
    /// Percent-encoded key: amqp%2Fwgb:073150000000, ozg:10092, portal-a, urn:uuid:…
    key: String,
}

/// A hold.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HoldView {
    /// `destination`, `service`, `account` or `message`.
    scope: &'static str,
    /// On which.
    key: String,
    /// Why.
    reason: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Until when; absent: until it is released.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// Who set it.
    by: String,
}

impl From<Hold> for HoldView {
    fn from(hold: Hold) -> Self {
        let Hold { key, reason, since, until, by, services: _ } = hold;
        Self { scope: key.scope(), key: key.key(), reason, since, until, by: by.to_string() }
    }
}

/// All holds.
#[derive(Serialize, ToSchema)]
pub(super) struct HoldsView {
    /// By scope and key.
    holds: Vec<HoldView>,
}

/// Why and until when something is held.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldBody {
    /// For other operators; 1 to 500 bytes.
    reason: String,
    /// When it ends by itself; absent: when it is released.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

fn key_of(scope: &str, key: &str) -> Result<HoldKey, Problem> {
    HoldKey::of(scope, key)
        .map_err(|error| bad_request("hold-invalid", "This cannot be held").detail(error.to_string()))
}

/// List all holds
#[utoipa::path(get, path = "/admin/v1/holds", tag = "queues", operation_id = "holds",
    responses((status = 200, description = "All of them", body = HoldsView)))]
pub(super) async fn list(State(services): State<Arc<AdminServices>>, _viewer: Viewer) -> Json<HoldsView> {
    Json(HoldsView { holds: services.operations.holds().into_iter().map(Into::into).collect() })
}

/// Hold a destination, a service, an account or a message
///
/// Nothing is handed out while the hold lasts, no attempts are used up. Repeating it changes reason and end.
#[utoipa::path(put, path = "/admin/v1/holds/{scope}/{key}", tag = "queues", operation_id = "hold",
    params(HoldPath), request_body = HoldBody,
    responses((status = 200, description = "Held", body = HoldView),
        (status = 400, description = "Not something that can be held, no reason, or an end in the past", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody here knows it", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    At((scope, key)): At<(String, String)>,
    body: Result<Json<HoldBody>, JsonRejection>,
) -> Result<Json<HoldView>, Problem> {
    let HoldBody { reason, until } = json(body)?;
    let (key, order) = (key_of(&scope, &key)?, operator.order(reason)?);
    let (hold, _) = services.operations.hold(key, order, until).await.map_err(problem)?;
    Ok(Json(hold.into()))
}

/// Release what is held; it goes on slowly, earliest deadline first
#[utoipa::path(delete, path = "/admin/v1/holds/{scope}/{key}", tag = "queues", operation_id = "release",
    params(HoldPath), request_body(content = Option<ReasonBody>, description = "Why, if there is something to say"),
    responses((status = 200, description = "Released; the hold as it was", body = HoldView),
        (status = 404, description = "There is no such hold", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn lift(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    At((scope, key)): At<(String, String)>,
    body: Result<Option<Json<ReasonBody>>, JsonRejection>,
) -> Result<Json<HoldView>, Problem> {
    let key = key_of(&scope, &key)?;
    let reason = match body.transpose() {
        Some(body) => Some(operator.order(json(body)?.reason)?.reason),
        None => None,
    };
    let hold = services.operations.release(&key, operator.0.name.clone(), reason).await.map_err(problem)?;
    Ok(Json(hold.into()))
}
