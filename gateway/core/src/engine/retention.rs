//! Removes payloads, then whole records, when their time is over; lets the store give space back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::delivery::Input;
use crate::id::MessageId;
use crate::port::{Change, CommitError, StoreError};
use crate::{remote, reservation};

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

/// Messages handled in one commit.
const BATCH: usize = 256;

impl Engine {
    /// Keeps removing what is over until stopped.
    pub async fn run_retention(self: Arc<Self>, stop: CancellationToken) {
        loop {
            // Given up at the end: the store finishes what it has begun.
            let retired = tokio::select! {
                () = stop.cancelled() => return,
                retired = self.retire(self.ports.clock.now()) => retired,
            };
            if let Err(error) = retired {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Retention stopped because the store failed."
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ports.clock.sleep(self.options.retention.interval) => {}
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
            let stripped = self.strip(&ids).await?;
            if ids.len() < BATCH || stripped == 0 {
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
        while reservation::expire(store.as_ref(), now, BATCH).await? == BATCH {}
        remote::expire(store.as_ref(), now, BATCH).await?;
        store.reclaim(now).await
    }

    /// Removes payloads; the number that was removed. Those that somebody changes at the same time come in the next pass.
    async fn strip(&self, ids: &[MessageId]) -> Result<usize, StoreError> {
        let store = &self.ports.store;
        let mut changes = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(delivery) = store.head(*id).await? else { continue };
            if let Ok(next) = delivery.apply(Input::Strip, self.ports.clock.now()) {
                let (expected, id) = (delivery.version, *id);
                changes.push(Change { id, expected, delivery: next.delivery, events: next.events });
            }
        }
        loop {
            match store.commit(changes.clone()).await {
                Ok(()) => return Ok(changes.len()),
                Err(CommitError::Stale(stale)) => changes.retain(|change| change.id != stale),
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
    }
}
