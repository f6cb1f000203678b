//! What the gateway knows of itself at a moment, for those who watch it. Cheap to ask for, however much waits.

use std::sync::Arc;

use jiff::Timestamp;

use crate::operations::Overview;
use crate::port::StoreStatus;

/// Whether it can do its work (promise P10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `ready`, `degraded` (still ready) or `not-ready`.
    pub status: &'static str,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
}

/// What waited when it was counted last.
#[derive(Debug, Clone)]
pub struct Counted {
    /// When.
    pub at: Timestamp,
    /// By destination.
    pub overview: Overview,
}

/// What happened in a short time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// End of that time.
    pub at: Timestamp,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Messages accepted.
    pub accepted: u64,
    /// Hand-overs to push channels that succeeded.
    pub delivered: u64,
    /// Hand-overs that failed.
    pub failed: u64,
    /// Seconds within which half of all submissions were answered, and 99 of 100; rounded up to the limits of the histogram.
    pub answered: Option<(f64, f64)>,
    /// Messages that waited at the end.
    pub waiting: u64,
    /// Age of the oldest of them, in seconds.
    pub oldest: f64,
}

/// Tells all that.
pub trait Vitals: Send + Sync {
    /// Whether it can do its work.
    fn condition(&self) -> Condition;

    /// How the store is.
    fn store(&self) -> StoreStatus;

    /// What waited when it was counted last; nothing shortly after the start.
    fn counted(&self) -> Option<Arc<Counted>>;

    /// The last hour or so, oldest first.
    fn history(&self) -> Vec<Sample>;

    /// Certificates of the gateway that are in force, with their ends.
    fn certificates(&self) -> Vec<(&'static str, Timestamp)>;
}
