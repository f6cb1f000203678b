//! Calls of portals.

use std::sync::Arc;

use amtsbote_core::account::Role;
use amtsbote_core::delivery::{Delivery, SHOWN_STATES};
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::{Admission, Submission, Target, UnusableCertificate};
use amtsbote_core::key::{IdempotencyKey, PartyId};
use amtsbote_core::message::{ExternalId, IdScheme, IntakeKey, Message, Metadata};
use amtsbote_core::port::{Cursor, Receipt, SubmissionFilter};
use amtsbote_core::route::Route;
use amtsbote_http::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::Services;
use crate::caller::{At, Caller};
use crate::describe::{MessagePath, NotFound};
use crate::fault::{self, bad_request};
use crate::upload::{self, MetadataPart, Upload};
use crate::view::{self, ProcessCardView, SubmissionLine, SubmissionPage, SubmissionView};

/// Lines of a page if the client does not say.
const PAGE: usize = 50;
/// Most lines of a page.
const PAGE_MAX: usize = 500;

/// A submission as `multipart/form-data`; parts in any order.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document; it is read as a stream")]
pub(crate) struct SubmissionForm {
    /// JSON, see the handbook.
    #[schema(value_type = Object)]
    metadata: String,
    /// The application itself.
    #[schema(value_type = String, format = Binary)]
    document: Vec<u8>,
    /// Any number of attachments.
    #[schema(value_type = Vec<String>, format = Binary)]
    attachment: Vec<Vec<u8>>,
}

/// The header that makes repeating harmless.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<IdempotencyKey, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let problem = || {
        bad_request(
            "idempotency-key",
            "The header Idempotency-Key must be there once, with 1 to 255 visible ASCII characters",
        )
    };
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(problem),
        _ => Err(problem()),
    }
}

/// What is the same for a submission and an answer.
pub(crate) struct HandIn {
    pub(crate) key: IdempotencyKey,
    pub(crate) sender: PartyId,
    pub(crate) metadata: Metadata,
    pub(crate) upload: Upload,
    pub(crate) target: Target,
}

fn render(message: &Message, delivery: &Delivery, route: Option<&Route>) -> Bytes {
    serde_json::to_vec(&view::submission(message, delivery, route)).unwrap_or_default().into()
}

/// Hands in and answers: 202 for a new message, 200 with the original body for a repeated one.
pub(crate) async fn hand_in(
    services: &Services,
    caller: &Caller,
    hand_in: HandIn,
) -> Result<(Admission, Response), Problem> {
    let external = ExternalId { scheme: IdScheme::Client, value: hand_in.key.to_string() };
    let submission = Submission {
        key: IntakeKey { account: caller.0.name.clone(), scheme: IdScheme::Client, value: hand_in.key },
        sender: hand_in.sender,
        metadata: hand_in.metadata,
        parts: hand_in.upload.parts,
        payload: hand_in.upload.payload,
        external_ids: vec![external],
        carried: Vec::new(),
        canonical: Vec::new(),
        target: hand_in.target,
        reserved: None,
        unusable_certificate: UnusableCertificate::Refuse,
    };
    let admission = services.intake.accept(submission, &render).await.map_err(fault::intake)?;
    let (status, proof) = match &admission {
        Admission::New(proof) => (StatusCode::ACCEPTED, proof),
        Admission::Repeated(proof) => (StatusCode::OK, proof),
    };
    let mut response = Response::new(Body::from(proof.answer().clone()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/submissions/{}", proof.id())) {
        headers.insert(header::LOCATION, location);
    }
    if status == StatusCode::OK {
        headers.insert("amtsbote-duplicate", HeaderValue::from_static("true"));
    }
    Ok((admission, response))
}

/// Hand in an application
///
/// Answered only after document, metadata, route and work are on stable storage. If the directory is down, the route may
/// stay open (`route: null`, state `accepted`).
#[utoipa::path(post, path = "/v1/submissions", tag = "portals", operation_id = "submit",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, description = "Repeating a submission with the same key and content never creates a second message")),
    request_body(content = SubmissionForm, content_type = "multipart/form-data"),
    responses(
        (status = 202, description = "Durably received", body = SubmissionView, headers(("Location" = String, description = "Where to follow it"))),
        (status = 200, description = "Received before under this key; the original answer", body = SubmissionView, headers(("Amtsbote-Duplicate" = bool, description = "true"))),
        (status = 400, description = "Incomplete or malformed", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Unknown account, expired certificate or missing role", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body stopped coming", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The key was used for other content", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not multipart/form-data", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "No route, with outcome and trace", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The gateway cannot store now", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn submit(
    State(services): State<Arc<Services>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    caller.require(Role::Author)?;
    let (head, body) = request.into_parts();
    let key = idempotency_key(&head.headers)?;
    let (_room, body) = upload::admit(&services.in_flight, &head.headers, body).await?;
    let upload =
        upload::read(services.store.as_ref(), &services.limits, &head.headers, body, MetadataPart::Required)
            .await?;
    let metadata = crate::metadata::read(&upload.metadata).map_err(|problems| fault::metadata(&problems))?;
    if metadata.reply_to.as_ref().is_some_and(|party| !caller.0.owns(party)) {
        // Whether the party exists is nobody's business.
        let problem = crate::metadata::FieldProblem {
            field: "replyTo".to_owned(),
            problem: "is no party of this account".to_owned(),
        };
        return Err(fault::metadata(&[problem]));
    }
    let sender = caller.0.parties.first().cloned().ok_or_else(|| {
        Problem::new(StatusCode::FORBIDDEN, "party-missing", "No party is configured for this account")
    })?;
    let hand_in_ = HandIn { key, sender, metadata, upload, target: Target::Resolved };
    hand_in(&services, &caller, hand_in_).await.map(|(_, response)| response)
}

/// Follow a submission
#[utoipa::path(get, path = "/v1/submissions/{id}", tag = "portals", operation_id = "submission",
    params(MessagePath),
    responses((status = 200, description = "Where it stands", body = SubmissionView),
        NotFound))]
pub(crate) async fn find(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
) -> Result<Json<SubmissionView>, Problem> {
    let stored = services.submissions.find(&caller.0, id).await.map_err(fault::submission)?;
    Ok(Json(view::submission(&stored.message, &stored.delivery, stored.route())))
}

/// Read the ProcessCard of a submission
#[utoipa::path(get, path = "/v1/submissions/{id}/events", tag = "portals", operation_id = "submissionEvents",
    params(MessagePath),
    responses((status = 200, description = "Everything that happened", body = ProcessCardView),
        NotFound))]
pub(crate) async fn events(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
) -> Result<Json<ProcessCardView>, Problem> {
    let stored = services.submissions.find(&caller.0, id).await.map_err(fault::submission)?;
    Ok(Json(view::process_card(&stored)))
}

/// Get the signed receipt of a submission
#[utoipa::path(get, path = "/v1/submissions/{id}/receipt", tag = "portals", operation_id = "submissionReceipt",
    params(MessagePath),
    responses((status = 200, description = "Compact JWS with the certificate chain in x5c", body = String, content_type = "application/jose"),
        NotFound,
        (status = 503, description = "The gateway cannot sign now", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn receipt(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
) -> Result<Response, Problem> {
    let stored = services.submissions.find(&caller.0, id).await.map_err(fault::submission)?;
    let token = services
        .receipts
        .sign(Receipt::of(&stored), services.clock.now())
        .await
        .map_err(|error| fault::seal(&error))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/jose"))], token).into_response())
}

/// Withdraw a submission that was not handed out yet
#[utoipa::path(delete, path = "/v1/submissions/{id}", tag = "portals", operation_id = "cancelSubmission",
    params(MessagePath),
    responses((status = 200, description = "Withdrawn", body = SubmissionView),
        NotFound,
        (status = 409, description = "Too late, with the reason", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    State(services): State<Arc<Services>>,
    caller: Caller,
    At(id): At<MessageId>,
) -> Result<Json<SubmissionView>, Problem> {
    let stored = services.submissions.cancel(&caller.0, id).await.map_err(fault::submission)?;
    Ok(Json(view::submission(&stored.message, &stored.delivery, stored.route())))
}

/// What to list.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Of one case only.
    case_id: Option<String>,
    /// In one state only.
    state: Option<String>,
    /// From the previous page.
    cursor: Option<String>,
    /// Lines per page.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<usize>,
}

/// List the account's submissions, newest first
#[utoipa::path(get, path = "/v1/submissions", tag = "portals", operation_id = "submissions", params(ListQuery),
    responses((status = 200, description = "A page; continue while `next` is there", body = SubmissionPage),
        (status = 400, description = "Malformed query", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<SubmissionPage>, Problem> {
    let malformed =
        |what: &'static str| bad_request("query-invalid", "The query cannot be read").with("parameter", what);
    let Query(query) = query.map_err(|_| malformed("unknown or malformed"))?;
    let case_id = query.case_id.map(|text| text.parse().map_err(|_| malformed("caseId"))).transpose()?;
    let after =
        query.cursor.map(|text| text.parse().map(Cursor).map_err(|_| malformed("cursor"))).transpose()?;
    // A state that does not exist would be an empty list, which looks like an answer.
    if query.state.as_deref().is_some_and(|state| !SHOWN_STATES.contains(&state)) {
        return Err(malformed("state"));
    }
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(malformed("limit"));
    }
    let filter = SubmissionFilter {
        account: Some(caller.0.name.clone()),
        case_id,
        state: query.state,
        ..SubmissionFilter::default()
    };
    let (entries, next) =
        services.submissions.list(&filter, after, limit).await.map_err(fault::submission)?;
    let lines = entries.into_iter().map(|entry| SubmissionLine {
        id: entry.id.to_string(),
        state: entry.delivery.shown_state(),
        received_at: entry.delivery.received_at,
        case_id: entry.delivery.case_id.map(|case| case.to_string()),
    });
    Ok(Json(SubmissionPage { submissions: lines.collect(), next: next.map(|Cursor(id)| id.to_string()) }))
}
