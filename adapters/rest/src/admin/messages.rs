//! Any message: find it by an id somebody knows, and show what happened to it.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::Role;
use amtsbote_core::delivery::Event;
use amtsbote_core::id::MessageId;
use amtsbote_core::message::Metadata;
use amtsbote_core::port::StoredMessage;
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{AdminServices, Viewer, problem};
use crate::body::query_problem;
use crate::caller::At;
use crate::describe::{MessagePath, NotFound};
use crate::view::{ExternalIdView, PartView, external_ids};

/// Which message.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct IdQuery {
    /// Any id it has: `urn:uuid:…`, the bare UUID, or that of XTA or OSCI.
    id: String,
}

/// A message in a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MessageLine {
    /// Identity.
    id: String,
    /// State now.
    state: &'static str,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// Account that submitted it.
    account: String,
    /// Party it came from.
    sender: String,
    /// The sender's case.
    #[serde(skip_serializing_if = "Option::is_none")]
    case_id: Option<String>,
    /// Ids others gave it.
    external_ids: Vec<ExternalIdView>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// Since when it is in its state.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Hand-overs begun.
    attempts: u32,
}

impl From<&StoredMessage> for MessageLine {
    fn from(stored: &StoredMessage) -> Self {
        let StoredMessage { message, delivery, .. } = stored;
        Self {
            id: message.id.to_string(),
            state: delivery.shown_state(),
            destination: delivery.destination.as_ref().map(ToString::to_string),
            account: message.account.to_string(),
            sender: message.sender.to_string(),
            case_id: delivery.case_id.as_ref().map(ToString::to_string),
            external_ids: external_ids(&message.external_ids),
            received_at: message.received_at,
            since: delivery.since,
            attempts: delivery.attempts,
        }
    }
}

/// Messages with an id.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundMessages {
    /// None, one, or several if senders used the same id.
    messages: Vec<MessageLine>,
}

/// What people wrote.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Contents {
    /// Metadata as they were handed in.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// The document, then attachments.
    parts: Vec<PartView>,
}

/// A message with everything that happened to it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageDetails {
    #[serde(flatten)]
    line: MessageLine,
    /// Subject, file names and so on; for operators and administrators only, and written into the audit trail.
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<Contents>,
    /// Its ProcessCard (Laufzettel), with everything that is known about each event: the route with its evidence, every attempt, the seal.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Event>,
}

/// Find messages by an id
#[utoipa::path(get, path = "/admin/v1/messages", tag = "messages", operation_id = "findMessages", params(IdQuery),
    responses((status = 200, description = "What has this id; possibly nothing", body = FoundMessages),
        (status = 400, description = "Malformed query", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn find(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    query: Result<Query<IdQuery>, QueryRejection>,
) -> Result<Json<FoundMessages>, Problem> {
    let Query(query) = query.map_err(|rejection| query_problem(&rejection))?;
    let found = services.operations.find(&query.id).await.map_err(problem)?;
    Ok(Json(FoundMessages { messages: found.iter().map(Into::into).collect() }))
}

/// Show a message with everything that happened to it
///
/// What people wrote is shown to operators and administrators, and that they looked is written into the audit trail.
#[utoipa::path(get, path = "/admin/v1/messages/{id}", tag = "messages", operation_id = "message", params(MessagePath),
    responses((status = 200, description = "The message", body = MessageDetails), NotFound))]
pub(super) async fn show(
    State(services): State<Arc<AdminServices>>,
    viewer: Viewer,
    At(id): At<MessageId>,
) -> Result<Json<MessageDetails>, Problem> {
    let stored = services.operations.message(id).await.map_err(problem)?;
    let account = &viewer.0;
    let may_read = [Role::Operator, Role::Administrator].iter().any(|role| account.has(*role));
    let mut contents = None;
    if may_read {
        services.operations.reading(id, account.name.clone()).await.map_err(problem)?;
        let parts = stored.message.parts.iter().map(|part| PartView::new(part, None)).collect();
        contents = Some(Contents { metadata: stored.message.metadata.clone(), parts });
    }
    Ok(Json(MessageDetails { line: (&stored).into(), contents, events: stored.events }))
}
