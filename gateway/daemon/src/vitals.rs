//! Watches the gateway: counts what waits, keeps the last hour.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::operations::Operations;
use amtsbote_core::port::{Clock, MessageStore, StoreStatus};
use amtsbote_core::vitals::{Condition, Counted, Sample, Vitals};
use amtsbote_telemetry::{Health, History, Metrics};
use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

/// What waits is counted so often, but never more than a fiftieth of the time.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// The history gets a sample so often.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// What it has seen.
pub(crate) struct Watcher {
    pub(crate) store: Arc<dyn MessageStore>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counted: ArcSwapOption<Counted>,
    pub(crate) history: History,
}

impl Watcher {
    pub(crate) fn new(
        store: &Arc<dyn MessageStore>,
        health: &Arc<Health>,
        metrics: &Arc<Metrics>,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
            clock: Arc::clone(clock),
            counted: ArcSwapOption::empty(),
            history: History::default(),
        })
    }

    /// Counts what waits, until the end.
    pub(crate) async fn count(self: Arc<Self>, operations: Arc<Operations>, stop: CancellationToken) {
        loop {
            let began = tokio::time::Instant::now();
            match operations.overview().await {
                Ok(overview) => {
                    let at = self.clock.now();
                    self.metrics.waiting(&overview, at);
                    self.counted.store(Some(Arc::new(Counted { at, overview })));
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "What waits was not counted.");
                }
            }
            let pause = COUNT_EVERY.max(began.elapsed() * 50);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
        }
    }

    /// Keeps the history, until the end.
    pub(crate) async fn sample(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let counted = self.counted.load();
            let overview = counted.as_ref().map(|counted| &counted.overview);
            self.history.add(self.clock.now(), self.metrics.totals(), overview);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(SAMPLE_EVERY) => {}
            }
        }
    }
}

impl Vitals for Watcher {
    fn condition(&self) -> Condition {
        let readiness = self.health.readiness(&self.store.status(), self.clock.now());
        Condition { status: readiness.status, reasons: readiness.reasons }
    }

    fn store(&self) -> StoreStatus {
        self.store.status()
    }

    fn counted(&self) -> Option<Arc<Counted>> {
        self.counted.load_full()
    }

    fn history(&self) -> Vec<Sample> {
        self.history.samples()
    }

    fn certificates(&self) -> Vec<(&'static str, Timestamp)> {
        self.health.certificates()
    }
}
