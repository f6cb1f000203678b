//! The router, and the OpenAPI document generated from it.

use std::sync::Arc;

use amtsbote_http::Problem;
use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::{caller, mailbox, routes as explain, submissions};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Amtsbote",
        version = "1",
        description = "Message routing for e-government. Mutual TLS identifies the account. Errors are problem details (RFC 9457) with stable types.",
        license(name = "EUPL-1.2", identifier = "EUPL-1.2")
    ),
    tags((name = "portals", description = "Hand in and follow"), (name = "departments", description = "Fetch, acknowledge, answer")),
    components(schemas(Problem))
)]
struct Document;

fn build() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(submissions::list, submissions::submit))
        .routes(routes!(submissions::find, submissions::cancel))
        .routes(routes!(submissions::events))
        .routes(routes!(submissions::receipt))
        .routes(routes!(explain::explain))
        .routes(routes!(mailbox::grant))
        .routes(routes!(mailbox::extend))
        .routes(routes!(mailbox::list))
        .routes(routes!(mailbox::find))
        .routes(routes!(mailbox::document))
        .routes(routes!(mailbox::attachment))
        .routes(routes!(mailbox::signature))
        .routes(routes!(mailbox::acknowledge))
        .routes(routes!(mailbox::reject))
        .routes(routes!(mailbox::release))
        .routes(routes!(mailbox::reply))
}

/// The OpenAPI document as pretty JSON.
///
/// # Errors
/// Never, unless the derived document cannot be serialised.
pub fn document() -> Result<String, serde_json::Error> {
    let (_, document) = build().split_for_parts();
    document.to_pretty_json().map(|json| json + "\n")
}

/// Everything the face serves.
pub fn router(services: Arc<Services>) -> Router {
    let (router, document) = build().split_for_parts();
    router
        .route("/openapi.json", axum::routing::get(move || std::future::ready(Json(document.clone()))))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path does not take this method",
            )
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&services), caller::admit))
        .with_state(services)
}
