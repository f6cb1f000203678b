//! The one table from core's errors to HTTP. Clients see the kind; the log sees the chain.

use amtsbote_core::delivery::Refusal;
use amtsbote_core::intake::{IntakeError, MetadataProblem};
use amtsbote_core::mailbox::MailboxError;
use amtsbote_core::port::{SealError, StoreError};
use amtsbote_core::submissions::SubmissionError;
use amtsbote_http::Problem;
use axum::http::StatusCode;
use serde_json::json;

use crate::metadata::FieldProblem;
use crate::view;

/// Seconds after which a client may try again when the store is full or sick.
const STORE_RETRY: u64 = 10;

pub(crate) fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing for this account")
}

pub(crate) fn bad_request(kind: &'static str, title: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, kind, title)
}

/// Everything wrong with the metadata at once.
pub(crate) fn metadata(problems: &[FieldProblem]) -> Problem {
    let errors: Vec<_> =
        problems.iter().map(|one| json!({ "field": one.field, "problem": one.problem })).collect();
    bad_request("metadata-invalid", "The metadata cannot be accepted").with("errors", errors)
}

pub(crate) fn contradiction(problem: MetadataProblem) -> Problem {
    metadata(&[FieldProblem { field: problem.field.to_owned(), problem: problem.problem.to_owned() }])
}

pub(crate) fn intake(error: IntakeError) -> Problem {
    match error {
        IntakeError::Metadata(problem) => contradiction(problem),
        IntakeError::Refused(resolution) => {
            let outcome = resolution.outcome.as_str();
            let mut problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-route", "There is no route")
                .detail(format!("Responsibility resolution ended with {outcome}."))
                .with("outcome", outcome)
                .with("trace", resolution.trace.clone());
            if let Some(decision) = &resolution.decision {
                problem = view::explain_decision(decision)
                    .into_iter()
                    .fold(problem, |p, (name, value)| p.with(name, value));
            }
            problem
        }
        IntakeError::Conflict(_) => Problem::new(
            StatusCode::CONFLICT,
            "idempotency-conflict",
            "The Idempotency-Key was used for other content",
        ),
        IntakeError::OnlyAsynchronous | IntakeError::RouteOpen => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "no-route",
            "The recipient does not answer at once",
        ),
        IntakeError::Store(error) => store(&error),
    }
}

pub(crate) fn refusal(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::WrongLease => Problem::new(
            StatusCode::FORBIDDEN,
            "lease-wrong",
            "The lease token is not the one of this message",
        ),
        Refusal::LeaseLost => {
            Problem::new(StatusCode::CONFLICT, "lease-lost", "The lease has ended; lease the message again")
        }
        Refusal::Finished => {
            Problem::new(StatusCode::CONFLICT, "finished", "The message is already finished")
        }
        Refusal::HandedOut => Problem::new(
            StatusCode::CONFLICT,
            "handed-out",
            "The message was already handed out and cannot be withdrawn",
        ),
        Refusal::Held => Problem::new(StatusCode::CONFLICT, "held", "An operator holds the message"),
        Refusal::NotDead => Problem::new(StatusCode::CONFLICT, "not-dead", "The message is no dead letter"),
        Refusal::NotNow => {
            Problem::new(StatusCode::CONFLICT, "state", "The message is not in a state for this")
        }
    }
}

pub(crate) fn mailbox(error: MailboxError) -> Problem {
    match error {
        MailboxError::Unknown => not_found(),
        MailboxError::Refused(error) => refusal(error),
        MailboxError::Store(error) => store(&error),
    }
}

pub(crate) fn submission(error: SubmissionError) -> Problem {
    match error {
        SubmissionError::Unknown => not_found(),
        SubmissionError::Refused(error) => refusal(error),
        SubmissionError::Store(error) => store(&error),
    }
}

pub(crate) fn seal(error: &SealError) -> Problem {
    tracing::error!(error = error as &dyn std::error::Error, "A receipt was not signed.");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "seal-unavailable", "The gateway cannot sign at the moment")
        .retry_after(STORE_RETRY)
}

pub(crate) fn store(error: &StoreError) -> Problem {
    match error {
        StoreError::Removed { .. } => {
            Problem::new(StatusCode::GONE, "payload-removed", "The payload was removed after its retention")
        }
        StoreError::Damaged { .. } => {
            tracing::error!(error = error as &dyn std::error::Error, "A stored message is damaged.");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                "The stored message is damaged; the operator is informed",
            )
        }
        StoreError::Full => {
            // The store itself reports once that it is full or has stopped, and readiness shows it.
            tracing::debug!(error = error as &dyn std::error::Error, "A request was refused.");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store-full",
                "The gateway has no room left; nothing was stored",
            )
            .retry_after(STORE_RETRY)
        }
        StoreError::Io { .. } | StoreError::Stopped { .. } => {
            match error {
                StoreError::Stopped { .. } => {
                    tracing::debug!("A request was refused because the store has stopped.")
                }
                _ => tracing::error!(error = error as &dyn std::error::Error, "A request failed."),
            }
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store-unavailable",
                "The gateway cannot store at the moment",
            )
            .retry_after(STORE_RETRY)
        }
    }
}
