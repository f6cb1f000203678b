//! Parameters and refusals that many calls share, for the OpenAPI document only.

use amtsbote_http::Problem;
use utoipa::{IntoParams, IntoResponses};

/// Where a message is named.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter")]
pub(crate) struct MessagePath {
    /// urn:uuid:…
    id: String,
}

/// Where a lease is shown.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a parameter")]
pub(crate) struct LeaseHeader {
    /// The token
    #[param(rename = "Amtsbote-Lease")]
    token: String,
}

/// Unknown, or not yours
#[derive(IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
#[expect(dead_code, reason = "describes an answer")]
pub(crate) struct NotFound(Problem);

/// What can be wrong with a lease.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum LeaseProblems {
    /// Wrong token
    #[response(status = 403, content_type = "application/problem+json")]
    Wrong(Problem),
    /// Unknown, or not yours
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(Problem),
    /// The lease has ended, or the message is finished
    #[response(status = 409, content_type = "application/problem+json")]
    Lost(Problem),
}
