//! What clients send as JSON or in the query. Refusals name the field, never what stands in it (promise P9).

use std::error::Error;

use amtsbote_http::Problem;
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;

use crate::fault::bad_request;

pub(crate) fn json<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|rejection| match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "json-required",
            "The body must be application/json",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large")
        }
        _ => {
            let problem = bad_request("body-invalid", "The body is not the JSON object this call takes");
            name_field::<serde_json::Error>(problem, &rejection)
        }
    })
}

pub(crate) fn query_problem(rejection: &QueryRejection) -> Problem {
    let problem = bad_request("query-invalid", "The query cannot be read");
    name_field::<serde::de::value::Error>(problem, rejection)
}

/// Adds the field at which reading ended, if there is one.
fn name_field<E: Error + 'static>(problem: Problem, rejection: &(dyn Error + 'static)) -> Problem {
    let mut error = Some(rejection);
    while let Some(one) = error {
        if let Some(found) = one.downcast_ref::<serde_path_to_error::Error<E>>() {
            let path = found.path().to_string();
            return if path == "." { problem } else { problem.with("field", path) };
        }
        error = one.source();
    }
    problem
}
