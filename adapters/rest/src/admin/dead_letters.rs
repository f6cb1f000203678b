//! Look at dead letters, and do something with one of them.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{DeadHead, DeadReason, Event, State as MessageState};
use amtsbote_core::id::MessageId;
use amtsbote_core::operations::{Action, DeadFilter, OperationError, Operations};
use amtsbote_core::port::{DeadCursor, HeadEntry, InvalidSearch, StoreError, StoredMessage};
use amtsbote_http::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{AdminServices, Operator, PAGE_MAX, ReasonBody, Viewer, page_size, problem};
use crate::body::{json, query_problem};
use crate::caller::At;
use crate::describe::{MessagePath, NotFound};
use crate::fault::bad_request;

/// Which dead letters; all conditions must hold.
#[derive(Debug, Clone, Default, Deserialize, IntoParams, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// For one destination, `channel/prefix:key`.
    pub(super) destination: Option<String>,
    /// Of one sender's account.
    pub(super) account: Option<String>,
    /// Of one case.
    pub(super) case_id: Option<String>,
    /// With this code of the last failure.
    pub(super) code: Option<String>,
    /// That died before this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[param(value_type = Option<String>, format = DateTime)]
    pub(super) before: Option<Timestamp>,
}

impl Filter {
    pub(super) fn parse(self) -> Result<DeadFilter, Problem> {
        Ok(DeadFilter {
            destination: parse("destination", self.destination)?,
            account: parse("account", self.account)?,
            case_id: parse("caseId", self.case_id)?,
            code: self.code,
            before: self.before,
        })
    }
}

fn parse<T: FromStr>(field: &'static str, text: Option<String>) -> Result<Option<T>, Problem> {
    amtsbote_core::port::parse(field, text).map_err(|InvalidSearch(field)| {
        bad_request("filter-invalid", "The filter cannot be read").with("field", field)
    })
}

/// Which, and how many of them.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// For one destination, `channel/prefix:key`.
    destination: Option<String>,
    /// Of one sender's account.
    account: Option<String>,
    /// Of one case.
    case_id: Option<String>,
    /// With this code of the last failure.
    code: Option<String>,
    /// That died before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<Timestamp>,
    /// From the previous page.
    cursor: Option<String>,
    /// Lines per page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

impl ListQuery {
    fn filter(&self) -> Result<DeadFilter, Problem> {
        let Self { destination, account, case_id, code, before, .. } = self;
        let (destination, account) = (destination.clone(), account.clone());
        Filter { destination, account, case_id: case_id.clone(), code: code.clone(), before: *before }.parse()
    }
}

fn write_cursor(DeadCursor { since, id }: DeadCursor) -> String {
    format!("{}~{}", since.as_nanosecond(), id.uuid())
}

fn read_cursor(text: &str) -> Result<DeadCursor, Problem> {
    let read = || {
        let (since, id) = text.split_once('~')?;
        let since = Timestamp::from_nanosecond(since.parse().ok()?).ok()?;
        Some(DeadCursor { since, id: format!("urn:uuid:{id}").parse().ok()? })
    };
    read().ok_or_else(|| bad_request("query-invalid", "The query cannot be read").with("parameter", "cursor"))
}

/// A dead letter in a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeadLetterLine {
    /// Identity.
    id: String,
    /// Where it should have gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// Account that submitted it.
    account: String,
    /// The sender's case.
    #[serde(skip_serializing_if = "Option::is_none")]
    case_id: Option<String>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// When it was given up.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Hand-overs begun.
    attempts: u32,
    /// `cause`, and `last` with `code` and `detail`.
    #[schema(value_type = Object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<DeadReason>,
    /// Whether messages with the same ordering key wait for it.
    blocks: bool,
}

impl From<&HeadEntry> for DeadLetterLine {
    fn from(HeadEntry { id, delivery }: &HeadEntry) -> Self {
        Self {
            id: id.to_string(),
            destination: delivery.destination.as_ref().map(ToString::to_string),
            account: delivery.account.to_string(),
            case_id: delivery.case_id.as_ref().map(ToString::to_string),
            received_at: delivery.received_at,
            since: delivery.since,
            attempts: delivery.attempts,
            reason: match &delivery.state {
                MessageState::Dead { reason } => Some(reason.clone()),
                _ => None,
            },
            blocks: delivery.line.as_ref().is_some_and(|line| line.dead_head == DeadHead::Block),
        }
    }
}

/// A page of dead letters; those that died first come first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadLetterPage {
    /// The lines; possibly none although there is a next page.
    dead_letters: Vec<DeadLetterLine>,
    /// Continue with this cursor; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A message as operators see it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageView {
    /// State now.
    state: &'static str,
    #[serde(flatten)]
    line: DeadLetterLine,
    /// Everything that happened to it, with everything that is known about it.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Event>,
}

impl From<StoredMessage> for MessageView {
    fn from(stored: StoredMessage) -> Self {
        let entry = HeadEntry { id: stored.message.id, delivery: stored.delivery };
        Self { state: entry.delivery.shown_state(), line: (&entry).into(), events: stored.events }
    }
}

/// List dead letters
#[utoipa::path(get, path = "/admin/v1/dead-letters", tag = "dead letters", operation_id = "deadLetters", params(ListQuery),
    responses((status = 200, description = "A page; continue while `next` is there", body = DeadLetterPage),
        (status = 400, description = "Malformed query", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let Query(query) = query.map_err(|rejection| query_problem(&rejection))?;
    let (filter, limit) = (query.filter()?, page_size(query.limit)?);
    let after = query.cursor.as_deref().map(read_cursor).transpose()?;
    let (entries, next) = services.operations.dead_letters(&filter, after, limit).await.map_err(problem)?;
    let dead_letters = entries.iter().map(Into::into).collect();
    Ok(Json(DeadLetterPage { dead_letters, next: next.map(write_cursor) }))
}

/// Export dead letters with their whole history, one JSON object per line
///
/// Payloads are not part of it; a message that cannot be read is a line with its id and the problem. An answer that breaks off
/// is not complete.
#[utoipa::path(get, path = "/admin/v1/dead-letters/export", tag = "dead letters", operation_id = "exportDeadLetters", params(Filter),
    responses((status = 200, description = "One message per line", body = String, content_type = "application/x-ndjson"),
        (status = 400, description = "Malformed query", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn export(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = query.map_err(|rejection| query_problem(&rejection))?;
    let export = Export {
        operations: Arc::clone(&services.operations),
        filter: filter.parse()?,
        after: None,
        ids: VecDeque::new(),
        ended: false,
    };
    services.operations.exporting(&export.filter, operator.0.name.clone()).await.map_err(problem)?;
    let lines = futures::stream::unfold(export, |mut export| async move {
        let line = export.next().await.transpose()?;
        Some((line, export))
    });
    let media_type = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, media_type)], Body::from_stream(lines)).into_response())
}

/// Dead letters one after the other.
struct Export {
    operations: Arc<Operations>,
    filter: DeadFilter,
    after: Option<DeadCursor>,
    ids: VecDeque<MessageId>,
    ended: bool,
}

impl Export {
    async fn next(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        loop {
            while let Some(id) = self.ids.pop_front() {
                let line = match self.operations.message(id).await {
                    Ok(stored) => serde_json::to_vec(&MessageView::from(stored))?,
                    // Its retention has ended meanwhile.
                    Err(OperationError::UnknownMessage) => continue,
                    Err(OperationError::Store(StoreError::Damaged { detail, .. })) => serde_json::to_vec(
                        &serde_json::json!({ "id": id, "problem": "damaged", "detail": detail }),
                    )?,
                    // The answer breaks off, so that nobody takes it for all of it.
                    Err(error) => return Err(std::io::Error::other(error)),
                };
                return Ok(Some([line.as_slice(), b"\n"].concat().into()));
            }
            if self.ended {
                return Ok(None);
            }
            let page = self.operations.dead_letters(&self.filter, self.after, PAGE_MAX).await;
            let (entries, next) = page.map_err(std::io::Error::other)?;
            self.ids.extend(entries.iter().map(|entry| entry.id));
            (self.after, self.ended) = (next, next.is_none());
        }
    }
}

/// Show a message with everything that happened to it
#[utoipa::path(get, path = "/admin/v1/dead-letters/{id}", tag = "dead letters", operation_id = "deadLetter", params(MessagePath),
    responses((status = 200, description = "The message, also if it is no longer dead", body = MessageView), NotFound))]
pub(super) async fn find(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    At(id): At<MessageId>,
) -> Result<Json<MessageView>, Problem> {
    let stored = services.operations.message(id).await.map_err(problem)?;
    Ok(Json(stored.into()))
}

/// How a message stands after an action.
#[derive(Serialize, ToSchema)]
pub(super) struct ActionView {
    /// Identity.
    id: String,
    /// State now.
    state: &'static str,
}

async fn act(
    services: &AdminServices,
    operator: &Operator,
    action: Action,
    id: MessageId,
    body: Result<Json<ReasonBody>, JsonRejection>,
) -> Result<Json<ActionView>, Problem> {
    let ReasonBody { reason } = json(body)?;
    let after = services.operations.act(action, id, operator.order(reason)?).await.map_err(problem)?;
    Ok(Json(ActionView { id: id.to_string(), state: after.shown_state() }))
}

/// What can be wrong with an action.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
enum ActionProblems {
    /// No reason given
    #[response(status = 400, content_type = "application/problem+json")]
    Reason(Problem),
    /// There is no such message
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(Problem),
    /// The state of the message does not allow it
    #[response(status = 409, content_type = "application/problem+json")]
    State(Problem),
    /// There is no route
    #[response(status = 422, content_type = "application/problem+json")]
    NoRoute(Problem),
}

/// Send a dead letter on its way again
#[utoipa::path(post, path = "/admin/v1/dead-letters/{id}/redrive", tag = "dead letters", operation_id = "redrive",
    params(MessagePath), request_body = ReasonBody,
    responses((status = 200, description = "On its way", body = ActionView), ActionProblems))]
pub(super) async fn redrive(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    At(id): At<MessageId>,
    body: Result<Json<ReasonBody>, JsonRejection>,
) -> Result<Json<ActionView>, Problem> {
    act(&services, &operator, Action::Redrive, id, body).await
}

/// Find the way of a message anew and send it there
///
/// Also for messages that wait and are not handed out.
#[utoipa::path(post, path = "/admin/v1/dead-letters/{id}/reroute", tag = "dead letters", operation_id = "reroute",
    params(MessagePath), request_body = ReasonBody,
    responses((status = 200, description = "On its way", body = ActionView), ActionProblems))]
pub(super) async fn reroute(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    At(id): At<MessageId>,
    body: Result<Json<ReasonBody>, JsonRejection>,
) -> Result<Json<ActionView>, Problem> {
    act(&services, &operator, Action::Reroute, id, body).await
}

/// Give a message up; its sender is told
///
/// Also for messages that wait and are not handed out.
#[utoipa::path(post, path = "/admin/v1/dead-letters/{id}/cancel", tag = "dead letters", operation_id = "cancelMessage",
    params(MessagePath), request_body = ReasonBody,
    responses((status = 200, description = "Given up", body = ActionView), ActionProblems))]
pub(super) async fn cancel(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    At(id): At<MessageId>,
    body: Result<Json<ReasonBody>, JsonRejection>,
) -> Result<Json<ActionView>, Problem> {
    act(&services, &operator, Action::Cancel, id, body).await
}
