//! Error answers of the interface: problems with relative types.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// An answer of the mock.
pub(crate) type Answer = Response<Body>;

pub(crate) fn problem(status: StatusCode, kind: &str, instance: &str, title: &str, detail: &str) -> Answer {
    let body = json!({
        "type": format!("problems/type/{kind}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "instance": format!("problems/instance/{instance}"),
    });
    reply(status, "application/problem+json", body.to_string())
}

pub(crate) fn reply(status: StatusCode, media_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A needed field is missing.
pub(crate) fn missing(field: &str) -> Answer {
    problem(
        StatusCode::BAD_REQUEST,
        "SERVICE_VALIDATION",
        "RestValidation",
        "Validierungsfehler",
        &format!("Parameter '{field}' fehlt"),
    )
}

/// The input is not JSON or has a value outside its enumeration.
pub(crate) fn unreadable(received: &str) -> Answer {
    problem(
        StatusCode::BAD_REQUEST,
        "INPUT_VALIDATION",
        "RequestJsonProcessing",
        "Fehler beim Verarbeiten der Eingabe",
        &format!("7006: Die Eingabe konnte nicht verarbeitet werden: {received}"),
    )
}

/// Nobody has authenticated.
pub(crate) fn unauthenticated(detail: &str) -> Answer {
    problem(
        StatusCode::UNAUTHORIZED,
        "AUTHENTICATION",
        "StandaloneAuthentication",
        "Authentifizierung fehlgeschlagen",
        detail,
    )
}

/// No such entity; the number tells which kind.
pub(crate) fn not_found(number: &str, what: &str) -> Answer {
    problem(
        StatusCode::NOT_FOUND,
        "ENTITY_NOT_FOUND",
        "DirectoryEntityNotFound",
        "Nicht gefunden",
        &format!("{number}: {what}"),
    )
}
