//! Calls of departments.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::account::Role;
use amtsbote_core::delivery::Face;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::intake::Admission;
use amtsbote_core::intake::Target;
use amtsbote_core::mailbox::LeaseRequest;
use amtsbote_core::message::PartNumber;
use amtsbote_core::port::StoredMessage;
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Services;
use crate::body::json;
use crate::caller::{At, Caller};
use crate::describe::{LeaseHeader, LeaseProblems, MessagePath, NotFound};
use crate::fault::{self, bad_request, not_found};
use crate::metadata::ReplyTo;
use crate::range;
use crate::submissions::{HandIn, SubmissionForm, hand_in, idempotency_key};
use crate::upload::{self, MetadataPart};
use crate::view::{self, MailboxMessageView, SubmissionView};

/// Messages shown without a lease.
const LOOK: usize = 100;

/// What to lease.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseBody {
    /// At most so many messages.
    #[serde(default = "ten")]
    #[schema(minimum = 1, maximum = 100, default = 10)]
    max: usize,
    /// For so many seconds.
    #[serde(default = "five_minutes")]
    #[schema(minimum = 10, maximum = 3600, default = 300)]
    seconds: u64,
    /// Wait so many seconds for the first message.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 60, default = 0)]
    wait: u64,
}

fn ten() -> usize {
    10
}

fn five_minutes() -> u64 {
    300
}

/// A lease.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseView {
    /// Token to be sent back in the header `Amtsbote-Lease`.
    lease: String,
    /// When it ends unless extended.
    #[schema(value_type = String, format = DateTime)]
    expires_at: amtsbote_core::Timestamp,
    /// What it covers; empty if there was nothing.
    messages: Vec<MailboxMessageView>,
}

/// For how long to extend.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendBody {
    /// From now.
    #[schema(minimum = 10, maximum = 3600)]
    seconds: u64,
}

/// A lease that was extended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExtendedView {
    /// The token.
    lease: String,
    /// New end.
    #[schema(value_type = String, format = DateTime)]
    expires_at: amtsbote_core::Timestamp,
    /// What it still covers.
    messages: Vec<String>,
}

/// Why a department refuses a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RejectBody {
    /// Stable code for the sender's software, such as `unzustaendig`.
    #[schema(min_length = 1, max_length = 64)]
    code: String,
    /// Explanation for the sender.
    #[serde(default)]
    #[schema(max_length = 1000)]
    detail: String,
}

/// A message after a call.
#[derive(Serialize, ToSchema)]
pub(crate) struct MessageState {
    /// The message.
    id: String,
    /// Its state.
    state: &'static str,
}

fn state_of(stored: &StoredMessage) -> Json<MessageState> {
    Json(MessageState { id: stored.message.id.to_string(), state: stored.delivery.shown_state() })
}

/// Messages of the mailboxes.
#[derive(Serialize, ToSchema)]
pub(crate) struct MailboxView {
    /// In the order of handing out; at most 100.
    messages: Vec<MailboxMessageView>,
}

fn within<T: PartialOrd + Copy>(
    name: &'static str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, Problem> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(bad_request("body-invalid", "A value is outside its limits").with("field", name))
    }
}

/// The token of the header. A malformed one is simply a wrong one.
fn lease(headers: &HeaderMap) -> Result<LeaseId, Problem> {
    let Some(value) = headers.get("amtsbote-lease") else {
        return Err(bad_request("lease-required", "The header Amtsbote-Lease is required"));
    };
    Ok(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(LeaseId::NEVER))
}

/// Lease messages
///
/// Hides them from everybody else until acknowledged, released or the lease ends. Every lease counts as a hand-over.
#[utoipa::path(post, path = "/v1/mailbox/leases", tag = "departments", operation_id = "lease", request_body = LeaseBody,
    responses((status = 201, description = "The lease; possibly empty", body = LeaseView),
        (status = 400, description = "Malformed or outside limits", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn grant(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: Result<Json<LeaseBody>, JsonRejection>,
) -> Result<(StatusCode, Json<LeaseView>), Problem> {
    caller.require_party()?;
    let body = json(body)?;
    let request = LeaseRequest {
        max: within("max", body.max, 1..=100)?,
        duration: Duration::from_secs(within("seconds", body.seconds, 10..=3600)?),
        wait: Duration::from_secs(within("wait", body.wait, 0..=60)?),
    };
    let lease = services.mailboxes.lease(&caller.0, request).await.map_err(fault::mailbox)?;
    let messages = lease.messages.iter().map(view::mailbox_message).collect();
    let view = LeaseView { lease: lease.id.to_string(), expires_at: lease.until, messages };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Extend a lease
#[utoipa::path(patch, path = "/v1/mailbox/leases/{lease}", tag = "departments", operation_id = "extendLease",
    params(("lease" = String, Path, description = "The token")), request_body = ExtendBody,
    responses((status = 200, description = "Extended", body = ExtendedView),
        (status = 409, description = "The lease is lost", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn extend(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(lease): At<String>,
    body: Result<Json<ExtendBody>, JsonRejection>,
) -> Result<Json<ExtendedView>, Problem> {
    caller.require_party()?;
    let seconds = within("seconds", json(body)?.seconds, 10..=3600)?;
    let lease = lease.parse().unwrap_or(LeaseId::NEVER);
    let extended = services.mailboxes.extend(&caller.0, lease, Duration::from_secs(seconds)).await;
    let (until, ids) = extended.map_err(fault::mailbox)?;
    let messages = ids.iter().map(ToString::to_string).collect();
    Ok(Json(ExtendedView { lease: lease.to_string(), expires_at: until, messages }))
}

/// Look at the available messages without leasing them
#[utoipa::path(get, path = "/v1/mailbox/messages", tag = "departments", operation_id = "mailboxMessages",
    responses((status = 200, description = "The first 100", body = MailboxView)))]
pub(crate) async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
) -> Result<Json<MailboxView>, Problem> {
    caller.require_party()?;
    let messages = services.mailboxes.list(&caller.0, LOOK).await.map_err(fault::mailbox)?;
    Ok(Json(MailboxView { messages: messages.iter().map(view::mailbox_message).collect() }))
}

/// Look at one message
#[utoipa::path(get, path = "/v1/mailbox/messages/{id}", tag = "departments", operation_id = "mailboxMessage",
    params(MessagePath),
    responses((status = 200, description = "The message", body = MailboxMessageView),
        NotFound))]
pub(crate) async fn find(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
) -> Result<Json<MailboxMessageView>, Problem> {
    caller.require_party()?;
    let stored = services.mailboxes.open(&caller.0, id).await.map_err(fault::mailbox)?;
    Ok(Json(view::mailbox_message(&stored)))
}

async fn download(
    services: &Services,
    caller: &Caller,
    id: MessageId,
    number: PartNumber,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    caller.require_party()?;
    let stored = services.mailboxes.open(&caller.0, id).await.map_err(fault::mailbox)?;
    let part = stored.message.parts.get(usize::from(number)).ok_or_else(not_found)?;
    let span = range::wanted(headers, part.size)?;
    let reader = services.mailboxes.read(&caller.0, id, number, span.start).await.map_err(fault::mailbox)?;
    Ok(range::respond(part, span, reader))
}

/// Download the document
#[utoipa::path(get, path = "/v1/mailbox/messages/{id}/document", tag = "departments", operation_id = "document",
    params(MessagePath, ("Range" = Option<String>, Header, nullable = false, description = "One range of bytes")),
    responses((status = 200, description = "The document", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        NotFound,
        (status = 410, description = "Removed after its retention", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "No such range", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn document(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    download(&services, &caller, id, 0, &headers).await
}

/// Download an attachment
#[utoipa::path(get, path = "/v1/mailbox/messages/{id}/attachments/{n}", tag = "departments", operation_id = "attachment",
    params(MessagePath, ("n" = u16, Path, description = "From 1"), ("Range" = Option<String>, Header, nullable = false, description = "One range of bytes")),
    responses((status = 200, description = "The attachment", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        NotFound,
        (status = 410, description = "Removed after its retention", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "No such range", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn attachment(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At((id, number)): At<(MessageId, PartNumber)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if number == 0 {
        return Err(not_found());
    }
    download(&services, &caller, id, number, &headers).await
}

/// Download the gateway's seal over the document
#[utoipa::path(get, path = "/v1/mailbox/messages/{id}/signature", tag = "departments", operation_id = "signature",
    params(MessagePath),
    responses((status = 200, description = "Detached CMS (CAdES-BES), DER", content_type = "application/pkcs7-signature"),
        NotFound))]
pub(crate) async fn signature(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
) -> Result<Response, Problem> {
    caller.require_party()?;
    let stored = services.mailboxes.open(&caller.0, id).await.map_err(fault::mailbox)?;
    let seal = stored.seal().ok_or_else(not_found)?;
    let media_type = HeaderValue::from_static("application/pkcs7-signature");
    Ok(([(header::CONTENT_TYPE, media_type)], seal.signature.clone()).into_response())
}

/// Take responsibility for a leased message
///
/// Repeating it with the same token succeeds without effect.
#[utoipa::path(post, path = "/v1/mailbox/messages/{id}/acknowledge", tag = "departments", operation_id = "acknowledge",
    params(MessagePath, LeaseHeader),
    responses((status = 200, description = "Acknowledged", body = MessageState),
        LeaseProblems))]
pub(crate) async fn acknowledge(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
    headers: HeaderMap,
) -> Result<Json<MessageState>, Problem> {
    caller.require_party()?;
    let stored = services.mailboxes.acknowledge(&caller.0, id, lease(&headers)?, Face::Rest).await;
    stored.map(|stored| state_of(&stored)).map_err(fault::mailbox)
}

/// Refuse a leased message for good; the sender is told why
#[utoipa::path(post, path = "/v1/mailbox/messages/{id}/reject", tag = "departments", operation_id = "reject",
    params(MessagePath, LeaseHeader),
    request_body = RejectBody,
    responses((status = 200, description = "Rejected", body = MessageState),
        (status = 400, description = "Malformed", body = Problem, content_type = "application/problem+json"),
        LeaseProblems))]
pub(crate) async fn reject(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
    headers: HeaderMap,
    body: Result<Json<RejectBody>, JsonRejection>,
) -> Result<Json<MessageState>, Problem> {
    caller.require_party()?;
    let (token, body) = (lease(&headers)?, json(body)?);
    within("code", body.code.chars().count(), 1..=64)?;
    within("detail", body.detail.chars().count(), 0..=1000)?;
    let stored = services.mailboxes.reject(&caller.0, id, token, body.code, body.detail).await;
    stored.map(|stored| state_of(&stored)).map_err(fault::mailbox)
}

/// Give a leased message back
#[utoipa::path(post, path = "/v1/mailbox/messages/{id}/release", tag = "departments", operation_id = "release",
    params(MessagePath, LeaseHeader),
    responses((status = 200, description = "Available again", body = MessageState),
        LeaseProblems))]
pub(crate) async fn release(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
    headers: HeaderMap,
) -> Result<Json<MessageState>, Problem> {
    caller.require_party()?;
    let stored = services.mailboxes.release(&caller.0, id, lease(&headers)?).await;
    stored.map(|stored| state_of(&stored)).map_err(fault::mailbox)
}

/// Answer the sender, into its mailbox, in the same case
#[utoipa::path(post, path = "/v1/mailbox/messages/{id}/replies", tag = "departments", operation_id = "reply",
    params(MessagePath, ("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, description = "Repeating with the same key and content never creates a second answer")),
    request_body(content = SubmissionForm, content_type = "multipart/form-data"),
    responses((status = 202, description = "Durably received", body = SubmissionView),
        (status = 200, description = "Received before under this key; the original answer", body = SubmissionView),
        (status = 400, description = "Incomplete or malformed", body = Problem, content_type = "application/problem+json"),
        NotFound,
        (status = 409, description = "The key was used for other content", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn reply(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
    request: Request,
) -> Result<Response, Problem> {
    caller.require(Role::Reader)?;
    let original = services.mailboxes.open(&caller.0, id).await.map_err(fault::mailbox)?;
    let Some(destination) = &original.delivery.destination else { return Err(not_found()) };
    let (head, body) = request.into_parts();
    let key = idempotency_key(&head.headers)?;
    let (_room, body) = upload::admit(&services.in_flight, &head.headers, body).await?;
    let upload =
        upload::read(services.store.as_ref(), &services.limits, &head.headers, body, MetadataPart::Optional)
            .await?;
    let to = ReplyTo { original: &original.message.metadata, id, recipient: original.message.reply_to() };
    let metadata =
        crate::metadata::read_reply(&upload.metadata, &to).map_err(|problems| fault::metadata(&problems))?;
    let sender = destination.organization.clone();
    let (admission, response) =
        hand_in(&services, &caller, HandIn { key, sender, metadata, upload, target: Target::Reply }).await?;
    if let Admission::New(proof) = &admission {
        services.mailboxes.replied(&caller.0, id, proof.id()).await.map_err(fault::mailbox)?;
    }
    Ok(response)
}
