//! Any message: find it, and show what happened to it.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::Role;
use amtsbote_core::delivery::{Event, FailureReason};
use amtsbote_core::id::MessageId;
use amtsbote_core::message::Metadata;
use amtsbote_core::port::{Cursor, InvalidSearch, Search, SearchText, StoredMessage, last_failure};
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{AdminServices, Viewer, page_size, problem};
use crate::body::query_problem;
use crate::caller::At;
use crate::describe::{MessagePath, NotFound};
use crate::fault::bad_request;
use crate::view::{ExternalIdView, PartView, external_ids};

/// Which messages; all conditions must hold.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchQuery {
    /// Any id it has: `urn:uuid:…`, the bare UUID, or that of XTA or OSCI. Finds what was accepted a moment ago, too; goes with
    /// nothing else.
    id: Option<String>,
    /// Handed in by this account.
    account: Option<String>,
    /// Of this case.
    case_id: Option<String>,
    /// Submitted for this party, `prefix:key`, or going to it.
    party: Option<String>,
    /// On the way to this destination, `channel/prefix:key`.
    destination: Option<String>,
    /// For this service: as its sender named it, or by its OZG id.
    service: Option<String>,
    /// In this state.
    state: Option<String>,
    /// Whose last failure has this code.
    code: Option<String>,
    /// Not with its department although its deadline is near or over.
    at_risk: Option<bool>,
    /// Whose last failure has this in its code or explanation.
    #[param(max_length = 200)]
    text: Option<String>,
    /// Accepted at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Accepted before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<Timestamp>,
    /// From the previous page.
    cursor: Option<String>,
    /// Lines per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

impl SearchQuery {
    fn search(self) -> Result<Search, Problem> {
        let text = SearchText {
            account: self.account,
            case_id: self.case_id,
            party: self.party,
            destination: self.destination,
            service: self.service,
            state: self.state,
            code: self.code,
            text: self.text,
            at_risk: self.at_risk.map(|at_risk| at_risk.to_string()),
            since: self.since.map(|since| since.to_string()),
            before: self.before.map(|before| before.to_string()),
        };
        text.parse().map_err(|InvalidSearch(field)| {
            bad_request("filter-invalid", "The filter cannot be read").with("field", field)
        })
    }
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
    /// What went wrong last, if anything ever did.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<FailureView>,
}

/// A failure.
#[derive(Serialize, ToSchema)]
struct FailureView {
    /// Stable, kebab-case.
    code: String,
    /// For a human.
    detail: String,
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
            last_failure: last_failure(&stored.events)
                .cloned()
                .map(|FailureReason { code, detail }| FailureView { code, detail }),
        }
    }
}

/// Messages that were found, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundMessages {
    /// The messages.
    messages: Vec<MessageLine>,
    /// Where the next page begins; may be there after a short or empty page, which then took all the time one call may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How far back this call has looked, if there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    looked_back_to: Option<Timestamp>,
    /// Bytes of the journal that the search does not know yet; what changed last may be missing as long as it is not 0.
    behind_bytes: u64,
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

/// Find messages
#[utoipa::path(get, path = "/admin/v1/messages", tag = "messages", operation_id = "findMessages", params(SearchQuery),
    responses((status = 200, description = "What was found; possibly nothing", body = FoundMessages),
        (status = 400, description = "Malformed query", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn find(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    query: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<Json<FoundMessages>, Problem> {
    let Query(mut query) = query.map_err(|rejection| query_problem(&rejection))?;
    let limit = page_size(query.limit.take())?;
    let after = query.cursor.take().map(|text| read_cursor(&text)).transpose()?;
    let operations = &services.operations;
    if let Some(id) = query.id.take() {
        if query.search()? != Search::default() {
            return Err(bad_request("filter-invalid", "An id stands alone").with("field", "id"));
        }
        let found = operations.find(&id).await.map_err(problem)?;
        let messages = found.iter().map(Into::into).collect();
        return Ok(Json(FoundMessages { messages, next: None, looked_back_to: None, behind_bytes: 0 }));
    }
    let page = operations.search(&query.search()?, after, limit).await.map_err(problem)?;
    Ok(Json(FoundMessages {
        messages: page.messages.iter().map(Into::into).collect(),
        next: page.next.map(|Cursor(id)| id.uuid().to_string()),
        looked_back_to: page.next.and_then(|Cursor(id)| id.accepted_at()),
        behind_bytes: page.behind,
    }))
}

fn read_cursor(text: &str) -> Result<Cursor, Problem> {
    let malformed = |_| bad_request("query-invalid", "The query cannot be read").with("parameter", "cursor");
    text.parse().map(Cursor).map_err(malformed)
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
