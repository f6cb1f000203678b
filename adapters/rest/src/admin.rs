//! Calls of operators, on a listener of their own (design section 8). Everything that changes something is written into the
//! audit trail by core, in the same step.

mod bulk;
mod dead_letters;
mod destinations;
mod holds;
mod messages;
mod setup;
mod status;
mod trail;

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::{Account, AccountBook, Role};
use amtsbote_core::delivery::{Order, Refusal};
use amtsbote_core::operations::{OperationError, Operations};
use amtsbote_core::port::Clock;
use amtsbote_core::vitals::Vitals;
use amtsbote_http::{Peer, Problem};
use arc_swap::ArcSwap;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, Ref, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::{authenticate, role_missing};
use crate::fault;

/// What the operators' face works with.
pub struct AdminServices {
    /// What operators may do.
    pub operations: Arc<Operations>,
    /// Who may call; replaced while running.
    pub accounts: Arc<ArcSwap<AccountBook>>,
    /// How the gateway is.
    pub vitals: Arc<dyn Vitals>,
    /// When it was started.
    pub started: Timestamp,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Lines of a page if the client does not say.
const PAGE: usize = 100;
/// Most lines of a page.
const PAGE_MAX: usize = 1_000;
/// Longest reason.
const REASON_MAX: usize = 500;

/// Somebody who may look.
struct Viewer(Arc<Account>);

/// Somebody who may act.
struct Operator(Arc<Account>);

fn caller(parts: &Parts, services: &AdminServices) -> Result<Arc<Account>, Problem> {
    let peer = parts.extensions.get::<Arc<Peer>>().map(Arc::as_ref);
    authenticate(peer, &services.accounts.load())
}

impl FromRequestParts<Arc<AdminServices>> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, services: &Arc<AdminServices>) -> Result<Self, Problem> {
        let account = caller(parts, services)?;
        let roles = [Role::Viewer, Role::Operator, Role::Administrator];
        if roles.iter().any(|role| account.has(*role)) { Ok(Self(account)) } else { Err(role_missing()) }
    }
}

impl FromRequestParts<Arc<AdminServices>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, services: &Arc<AdminServices>) -> Result<Self, Problem> {
        let account = caller(parts, services)?;
        let roles = [Role::Operator, Role::Administrator];
        if roles.iter().any(|role| account.has(*role)) { Ok(Self(account)) } else { Err(role_missing()) }
    }
}

impl Operator {
    /// An order of this operator. Everybody who acts says why.
    fn order(&self, reason: String) -> Result<Order, Problem> {
        let reason = reason.trim();
        if reason.is_empty() || reason.len() > REASON_MAX {
            let title = "A reason is needed, of at most 500 bytes";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "reason-invalid", title));
        }
        Ok(Order { by: self.0.name.clone(), reason: reason.to_owned() })
    }
}

/// Why somebody acts.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    /// For other operators; 1 to 500 bytes.
    reason: String,
}

fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(PAGE);
    if (1..=PAGE_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(fault::bad_request("query-invalid", "The query cannot be read").with("parameter", "limit"))
    }
}

/// Core's errors as operators see them.
fn problem(error: OperationError) -> Problem {
    let detail = error.to_string();
    let new = |status, kind, title| Problem::new(status, kind, title).detail(detail);
    match error {
        OperationError::UnknownTarget(_) => {
            new(StatusCode::NOT_FOUND, "unknown-target", "What is to be held is not known here")
        }
        OperationError::UnknownMessage => new(StatusCode::NOT_FOUND, "not-found", "There is no such message"),
        OperationError::UnknownJob => {
            new(StatusCode::NOT_FOUND, "not-found", "There is no such bulk operation")
        }
        OperationError::NotHeld => new(StatusCode::NOT_FOUND, "not-held", "There is no such hold"),
        OperationError::EndsInThePast => {
            new(StatusCode::BAD_REQUEST, "hold-invalid", "The end of the hold lies in the past")
        }
        OperationError::Refused(Refusal::HandedOut) => new(
            StatusCode::CONFLICT,
            "handed-out",
            "The message is being handed out or with a department; hold its destination or wait",
        ),
        OperationError::Refused(refusal) => fault::refusal(refusal),
        OperationError::NoRoute(resolution) => {
            let outcome = resolution.outcome.as_str();
            new(StatusCode::UNPROCESSABLE_ENTITY, "no-route", "There is no route for the message")
                .with("outcome", outcome)
                .with("trace", resolution.trace.clone())
        }
        OperationError::Bulk(_) => {
            new(StatusCode::UNPROCESSABLE_ENTITY, "bulk-refused", "The bulk operation was not begun")
        }
        OperationError::Store(error) => fault::store(&error),
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Amtsbote for operators",
        version = "1",
        description = "Served on the operator listener. Mutual TLS identifies the account; viewers look, operators and administrators act. Errors are problem details (RFC 9457) with stable types.",
        license(name = "EUPL-1.2", identifier = "EUPL-1.2")
    ),
    tags((name = "queues", description = "What waits and what stands in the way"), (name = "dead letters", description = "What waits for somebody"), (name = "messages", description = "Any message"), (name = "setup", description = "Accounts, certificates, routes"), (name = "audit", description = "Who did what")),
    components(schemas(Problem))
)]
struct Document;

fn build() -> OpenApiRouter<Arc<AdminServices>> {
    let mut router = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::status))
        .routes(routes!(status::overview))
        .routes(routes!(destinations::list))
        .routes(routes!(holds::list))
        .routes(routes!(holds::put, holds::lift))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::export))
        .routes(routes!(dead_letters::find))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::reroute))
        .routes(routes!(dead_letters::cancel))
        .routes(routes!(bulk::list, bulk::submit))
        .routes(routes!(bulk::find, bulk::stop))
        .routes(routes!(messages::find))
        .routes(routes!(messages::show))
        .routes(routes!(setup::accounts))
        .routes(routes!(setup::certificates))
        .routes(routes!(setup::routes))
        .routes(routes!(trail::list));
    for path in router.get_openapi_mut().paths.paths.values_mut() {
        let calls = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete];
        for call in calls.into_iter().flatten() {
            add_common_answers(call);
        }
    }
    router
}

/// What every call may answer besides its own.
const COMMON_ANSWERS: [(&str, &str); 4] = [
    ("401", "No client certificate, or one that belongs to no account"),
    ("403", "The account has no role for this, or its certificate has expired"),
    ("500", "A fault of the gateway; the log says more"),
    ("503", "The store does not take this now; see Retry-After"),
];

fn add_common_answers(call: &mut Operation) {
    for (status, description) in COMMON_ANSWERS {
        let schema = Content::new(Some(Ref::from_schema_name("Problem")));
        let answer =
            ResponseBuilder::new().description(description).content("application/problem+json", schema);
        call.responses.responses.entry(status.to_owned()).or_insert_with(|| answer.build().into());
    }
}

/// The OpenAPI document of the operators' face as pretty JSON.
///
/// # Errors
/// Never, unless the derived document cannot be serialised.
pub fn admin_document() -> Result<String, serde_json::Error> {
    let (_, document) = build().split_for_parts();
    document.to_pretty_json().map(|json| json + "\n")
}

/// Everything the operators' face serves; without a fallback, so that it can be merged with other routes.
pub fn admin_router(services: Arc<AdminServices>) -> Router {
    let (router, document) = build().split_for_parts();
    let document = move |_: Viewer| std::future::ready(Json(document.clone()));
    router.route("/admin/v1/openapi.json", get(document)).with_state(services)
}
