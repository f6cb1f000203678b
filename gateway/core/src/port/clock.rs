use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// Wall clock. Injected everywhere; tests drive it by hand.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time, with millisecond precision.
    fn now(&self) -> Timestamp;

    /// Returns once [`Self::now`] is at or past `at`, whenever that is: the wall clock may be set meanwhile. Cancel-safe.
    async fn sleep_until(&self, at: Timestamp);

    /// Returns after so long, however the wall clock is set meanwhile. For pauses and time-outs. Cancel-safe.
    async fn sleep(&self, time: Duration);
}
