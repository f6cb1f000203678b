//! What waits, per destination.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::FailureReason;
use amtsbote_core::engine::{DestinationPolicy, OpenBreaker};
use amtsbote_core::operations::DestinationStatus;
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::holds::HoldView;
use super::{AdminServices, Viewer, problem};

/// A destination that is out of order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BreakerView {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// The last failure: `code` and `detail`.
    #[schema(value_type = Object)]
    reason: FailureReason,
    /// Probes that failed since.
    failed_probes: u32,
    /// When one message is tried again.
    #[schema(value_type = String, format = DateTime)]
    next_probe: Timestamp,
}

impl From<OpenBreaker> for BreakerView {
    fn from(open: OpenBreaker) -> Self {
        let OpenBreaker { since, reason, failed_probes, next_probe, .. } = open;
        Self { since, reason, failed_probes, next_probe }
    }
}

/// The policy in force.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PolicyView {
    /// Attempts at the same time.
    concurrency: usize,
    /// Attempts begun per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// The same after a hold or an outage.
    release_rate: u32,
    /// Share against other destinations.
    weight: u32,
    /// Failures of a message after which it is dead-lettered.
    max_attempts: u32,
    /// Failures in a row after which the destination counts as out of order.
    out_of_order_after: u32,
}

impl From<&DestinationPolicy> for PolicyView {
    fn from(policy: &DestinationPolicy) -> Self {
        Self {
            concurrency: policy.concurrency,
            rate: policy.rate.map(std::num::NonZeroU32::get),
            release_rate: policy.release_rate.get(),
            weight: policy.weight.get(),
            max_attempts: policy.retry.max_attempts(),
            out_of_order_after: policy.breaker.failures.get(),
        }
    }
}

/// A destination.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DestinationView {
    /// `channel/prefix:key`.
    destination: String,
    /// `held`, `out-of-order` or `open`.
    state: &'static str,
    /// Messages that are not with the department yet.
    messages: u64,
    /// When the one that was accepted first was accepted.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<Timestamp>,
    /// The hold of an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<HoldView>,
    /// Why it is out of order.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<BreakerView>,
    /// How it is served.
    policy: PolicyView,
}

impl DestinationView {
    pub(super) fn new(status: DestinationStatus, policy: &DestinationPolicy) -> Self {
        Self {
            destination: status.destination.to_string(),
            state: match (&status.hold, &status.breaker) {
                (Some(_), _) => "held",
                (None, Some(_)) => "out-of-order",
                (None, None) => "open",
            },
            messages: status.messages,
            oldest: status.oldest,
            hold: status.hold.map(Into::into),
            breaker: status.breaker.map(Into::into),
            policy: policy.into(),
        }
    }
}

/// What waits.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DestinationsView {
    /// Destinations for which something waits, or which are held or out of order.
    destinations: Vec<DestinationView>,
    /// Dead letters.
    dead_letters: u64,
}

/// List destinations with what waits for them and what stands in the way
#[utoipa::path(get, path = "/admin/v1/destinations", tag = "queues", operation_id = "destinations",
    responses((status = 200, description = "All of them; counted now", body = DestinationsView)))]
pub(super) async fn list(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
) -> Result<Json<DestinationsView>, Problem> {
    let overview = services.operations.overview().await.map_err(problem)?;
    let policies = services.operations.policies();
    let view = |status: DestinationStatus| {
        let policy = policies.of(&status.destination);
        DestinationView::new(status, policy)
    };
    let destinations = overview.destinations.into_iter().map(view).collect();
    Ok(Json(DestinationsView { destinations, dead_letters: overview.dead }))
}
