//! Calls of operators, on a listener of their own (design section 8). Everything that changes something is written into the
//! audit trail by core, in the same step.

mod bulk;
mod dead_letters;
mod destinations;
mod holds;
mod trail;

use std::sync::Arc;

use amtsbote_core::account::{Account, AccountBook, Role};
use amtsbote_core::delivery::{Order, Refusal};
use amtsbote_core::operations::{OperationError, Operations};
use amtsbote_http::{Peer, Problem};
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::routing::get;
use serde::Deserialize;
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
}

/// Lines of a page if the client does not say.
const PAGE: usize = 100;
/// Most lines of a page.
const PAGE_MAX: usize = 1_000;
/// Longest reason.
const REASON_MAX: usize = 500;

/// Somebody who may look.
struct Viewer;

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
        if roles.iter().any(|role| account.has(*role)) { Ok(Self) } else { Err(role_missing()) }
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
    tags((name = "queues", description = "What waits and what stands in the way"), (name = "dead letters", description = "What waits for somebody"), (name = "audit", description = "Who did what")),
    components(schemas(Problem))
)]
struct Document;

fn build() -> OpenApiRouter<Arc<AdminServices>> {
    OpenApiRouter::with_openapi(Document::openapi())
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
        .routes(routes!(trail::list))
}

/// The OpenAPI document of the operators' face as pretty JSON.
///
/// # Errors
/// Never, unless the derived document cannot be serialised.
pub fn admin_document() -> Result<String, serde_json::Error> {
    let (_, document) = build().split_for_parts();
    document.to_pretty_json().map(|json| json + "\n")
}

/// The document, for those who may look.
async fn openapi(_viewer: Viewer) -> Result<([(HeaderName, HeaderValue); 1], String), Problem> {
    let unreadable = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "No document");
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], admin_document().map_err(unreadable)?))
}

/// Everything the operators' face serves; without a fallback, so that it can be merged with other routes.
pub fn admin_router(services: Arc<AdminServices>) -> Router {
    let (router, _) = build().split_for_parts();
    router.route("/admin/v1/openapi.json", get(openapi)).with_state(services)
}
