//! How the gateway is, without reading any queue: cheap, however much waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::vitals::{Condition, Sample};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::destinations::DestinationView;
use super::{AdminServices, Viewer};

/// Whether the gateway can do its work.
#[derive(Serialize, ToSchema)]
struct HealthView {
    /// `ready`, `degraded` (still ready) or `not-ready`.
    status: &'static str,
    /// Why, one sentence each.
    reasons: Vec<String>,
}

impl From<Condition> for HealthView {
    fn from(Condition { status, reasons }: Condition) -> Self {
        Self { status, reasons }
    }
}

/// How the store is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StoreView {
    /// Why it does not commit, if it does not.
    stopped: Option<String>,
    /// Bytes of the journal.
    journal_bytes: u64,
    /// Committed changes that the index on disk does not hold yet.
    index_lag: u64,
    /// Bytes of the journal that the search does not know yet.
    search_lag: u64,
    /// Damaged records found since the start.
    quarantined: u64,
}

/// The routing tables in force.
#[derive(Serialize, ToSchema)]
struct RoutingView {
    /// Changes when one of the files does.
    version: String,
    /// Number of areas, services and organisations.
    sizes: BTreeMap<&'static str, usize>,
}

/// How the gateway is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusView {
    /// Of the gateway.
    version: &'static str,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Its clock.
    #[schema(value_type = String, format = DateTime)]
    now: Timestamp,
    /// Whether it can do its work.
    health: HealthView,
    /// How the store is.
    store: StoreView,
    /// The routing tables in force.
    routing: RoutingView,
    /// Number of accounts.
    accounts: usize,
}

/// Show how the gateway is
#[utoipa::path(get, path = "/admin/v1/status", tag = "queues", operation_id = "status",
    responses((status = 200, description = "How it is now", body = StatusView)))]
pub(super) async fn status(State(services): State<Arc<AdminServices>>, _viewer: Viewer) -> Json<StatusView> {
    let store = services.vitals.store();
    let tables = services.operations.router().tables();
    Json(StatusView {
        version: env!("CARGO_PKG_VERSION"),
        started_at: services.started,
        now: services.clock.now(),
        health: services.vitals.condition().into(),
        store: StoreView {
            stopped: store.stopped,
            journal_bytes: store.journal_bytes,
            index_lag: store.index_lag,
            search_lag: store.search_lag,
            quarantined: store.quarantined,
        },
        routing: RoutingView { version: tables.version().to_owned(), sizes: tables.sizes() },
        accounts: services.accounts.load().iter().count(),
    })
}

/// What happened in a short time.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SampleView {
    /// End of that time.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// How long it was.
    seconds: f64,
    /// Messages accepted.
    accepted: u64,
    /// Hand-overs to push channels that succeeded.
    delivered: u64,
    /// Hand-overs that failed.
    failed: u64,
    /// Seconds within which half of all submissions were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    /// Seconds within which 99 of 100 submissions were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    /// Messages that waited at the end.
    waiting: u64,
    /// Age of the oldest of them, in seconds.
    oldest_seconds: f64,
}

impl From<Sample> for SampleView {
    fn from(sample: Sample) -> Self {
        let Sample { at, seconds, accepted, delivered, failed, answered, waiting, oldest } = sample;
        let (p50, p99) = answered.unzip();
        Self { at, seconds, accepted, delivered, failed, p50, p99, waiting, oldest_seconds: oldest }
    }
}

/// The gateway at a glance.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OverviewView {
    /// Whether it can do its work.
    health: HealthView,
    /// When what waits was counted; absent shortly after the start.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    counted_at: Option<Timestamp>,
    /// Destinations for which something waited then, or which were held or out of order.
    destinations: Vec<DestinationView>,
    /// Dead letters.
    dead_letters: u64,
    /// The last hour or so, oldest first.
    history: Vec<SampleView>,
}

/// Show the gateway at a glance
///
/// What waits was counted some seconds ago; `destinations` counts now.
#[utoipa::path(get, path = "/admin/v1/overview", tag = "queues", operation_id = "overview",
    responses((status = 200, description = "As it was counted last", body = OverviewView)))]
pub(super) async fn overview(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
) -> Json<OverviewView> {
    let counted = services.vitals.counted();
    let policies = services.operations.policies();
    let overview = counted.as_ref().map(|counted| &counted.overview);
    let destinations = overview.map_or(&[][..], |overview| &overview.destinations);
    Json(OverviewView {
        health: services.vitals.condition().into(),
        counted_at: counted.as_ref().map(|counted| counted.at),
        destinations: destinations
            .iter()
            .map(|one| DestinationView::new(one.clone(), policies.of(&one.destination)))
            .collect(),
        dead_letters: overview.map_or(0, |overview| overview.dead),
        history: services.vitals.history().into_iter().map(Into::into).collect(),
    })
}
