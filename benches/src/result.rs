//! Results of a load.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Rate and latencies of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Clients that worked at the same time, one request each.
    pub clients: usize,
    /// Bytes of a document.
    pub size: usize,
    /// Requests that succeeded.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Seconds measured.
    pub seconds: f64,
    /// Successes per second.
    pub rate: f64,
    /// Median latency, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
}

/// Collects latencies of one client.
#[derive(Debug, Clone)]
pub struct Recorder {
    histogram: Histogram<u64>,
    failed: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { histogram: histogram(), failed: 0 }
    }
}

/// One microsecond to a minute, three digits.
#[expect(clippy::unwrap_used, reason = "these bounds are valid")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()
}

impl Recorder {
    /// A request succeeded after a time.
    pub fn success(&mut self, elapsed: Duration) {
        self.histogram.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }

    /// A request failed.
    pub fn failure(&mut self) {
        self.failed += 1;
    }

    /// Adds another client's.
    pub fn merge(&mut self, other: &Self) {
        // Same bounds, so nothing can be lost.
        if self.histogram.add(&other.histogram).is_err() {
            self.failed += other.histogram.len();
        }
        self.failed += other.failed;
    }

    /// The outcome over a time.
    pub fn outcome(&self, clients: usize, size: usize, elapsed: Duration) -> Outcome {
        let millis = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let seconds = elapsed.as_secs_f64();
        Outcome {
            clients,
            size,
            done: self.histogram.len(),
            failed: self.failed,
            seconds,
            rate: self.histogram.len() as f64 / seconds,
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
        }
    }
}
