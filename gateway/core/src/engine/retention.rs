//! Removes payloads, then whole records, when their time is over; lets the store give space back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::delivery::Input;
use crate::mailbox::add;
use crate::port::StoreError;

use super::Engine;

/// How long things are kept after a message is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Payload.
    pub payload: Duration,
    /// Metadata and ProcessCard; at least as long as the payload.
    pub record: Duration,
    /// How often the engine looks.
    pub interval: Duration,
}

impl Default for Retention {
    /// Payload 30 days, records 180 days, a look every 30 seconds.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { payload: 30 * day, record: 180 * day, interval: Duration::from_secs(30) }
    }
}

/// Messages handled between two looks at the stop signal.
const BATCH: usize = 256;

impl Engine {
    /// Keeps removing what is over until stopped.
    pub async fn run_retention(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = add(self.ports.clock.now(), self.options.retention.interval);
            if let Err(error) = self.retire(self.ports.clock.now()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Retention stopped because the store failed."
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ports.clock.sleep_until(next) => {}
            }
        }
    }

    /// One pass.
    ///
    /// # Errors
    /// When the store fails; what was done stays done.
    pub async fn retire(&self, now: Timestamp) -> Result<(), StoreError> {
        let store = &self.ports.store;
        let over = |kept: Duration| now.checked_sub(kept).unwrap_or(Timestamp::MIN);
        loop {
            let ids = store.finished(over(self.options.retention.payload), false, BATCH).await?;
            for id in &ids {
                if let Some(delivery) = store.head(*id).await? {
                    self.step(*id, &delivery, Input::Strip).await?;
                }
            }
            if ids.len() < BATCH {
                break;
            }
        }
        loop {
            let ids = store.finished(over(self.options.retention.record), true, BATCH).await?;
            let count = ids.len();
            if count > 0 {
                store.forget(ids).await?;
            }
            if count < BATCH {
                break;
            }
        }
        store.reclaim(now).await
    }
}
