//! Explains routes without sending anything.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::key::{AreaKey, ServiceKey};
use amtsbote_core::route::{LookupRequest, OutcomeKind, Resolution, RouteRequest, Router};
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::Services;
use crate::caller::Caller;
use crate::fault::bad_request;
use crate::view;

/// Seconds after which the directory may be asked again.
const DIRECTORY_RETRY: u64 = 30;

/// The question.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RouteQuery {
    /// `leika:<key>`, `ozg:<id>` or `uri:<specification>`.
    #[param(example = "ozg:10092")]
    service: Option<String>,
    /// `ars:<key>`, `ags:<key>` or `plz:<postcode>`.
    #[param(example = "ars:073150000000")]
    area: Option<String>,
}

/// Explain a route
///
/// Always 200 with `outcome` and `trace` when the question could be decided, whatever the outcome.
#[utoipa::path(get, path = "/v1/routes", tag = "portals", operation_id = "explainRoute", params(RouteQuery),
    responses((status = 200, description = "How the question is decided, step by step", body = Object),
        (status = 400, description = "Malformed question", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The directory is down and nothing usable is cached", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn explain(
    State(services): State<Arc<Services>>,
    _caller: Caller,
    query: Result<Query<RouteQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    explained(&services.router, services.clock.now(), query).await.map(Json)
}

/// The answer to a question, for whoever may ask.
pub(crate) async fn explained(
    router: &Router,
    now: Timestamp,
    query: Result<Query<RouteQuery>, QueryRejection>,
) -> Result<Value, Problem> {
    let malformed = |parameter: &'static str, detail: &str| {
        bad_request("route-question", "The question cannot be read")
            .detail(detail)
            .with("outcome", OutcomeKind::BadRequest.as_str())
            .with("parameter", parameter)
    };
    let Query(query) = query.map_err(|_| malformed("query", "expected service and area, each once"))?;
    let service = query.service.ok_or_else(|| malformed("service", "is required"))?;
    let service: ServiceKey = service.parse().map_err(|error| malformed("service", &format!("{error}")))?;
    let asked = query.area.ok_or_else(|| malformed("area", "is required"))?;
    let area: AreaKey = asked.parse().map_err(|error| malformed("area", &format!("{error}")))?;
    let request = LookupRequest::Responsible(RouteRequest { service, area });
    let resolution = router.resolve(&request, now).await;
    if resolution.outcome == OutcomeKind::DirectoryUnavailable {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "directory-unavailable",
            "The directory cannot be asked",
        )
        .with("outcome", resolution.outcome.as_str())
        .with("trace", resolution.trace)
        .retry_after(DIRECTORY_RETRY));
    }
    Ok(shown(&asked, &resolution))
}

fn shown(asked: &str, resolution: &Resolution) -> Value {
    let mut shown = json!({ "outcome": resolution.outcome.as_str(), "trace": resolution.trace });
    if let Some(decision) = &resolution.decision {
        shown["service"] =
            decision.services.iter().map(ToString::to_string).collect::<Vec<_>>().join("+").into();
        shown["area"] = json!({ "asked": asked, "ars": decision.area.as_ref().map(ToString::to_string) });
        shown["matchedArea"] = decision.matched_area.as_ref().map(ToString::to_string).into();
        shown["moreSpecificExists"] = decision.more_specific_exists.into();
        for (name, value) in view::explain_decision(decision) {
            shown[name] = value;
        }
    }
    if let Some(organization) = &resolution.organization {
        shown["organization"] = serde_json::to_value(organization).unwrap_or_default();
    }
    if let Some(local) = &resolution.local {
        shown["servedHere"] = view::endpoint(local, false);
    }
    shown["listed"] = resolution.listed.iter().map(|one| view::endpoint(one, true)).collect();
    if let Some(route) = &resolution.route {
        shown["lookupKey"] = route.lookup_key.as_str().into();
        shown["serviceSpecificationUri"] = route.specification.as_ref().map(ToString::to_string).into();
        shown["channel"] = view::endpoint(&route.endpoint, resolution.local.is_none());
        let evidence = route.evidence.as_ref();
        shown["stale"] = evidence.is_some_and(|evidence| evidence.stale).into();
        let until = evidence.and_then(|evidence| evidence.record.as_ref()?.valid_to);
        shown["validUntil"] = until.map(|until| until.to_string()).into();
    }
    shown
}
