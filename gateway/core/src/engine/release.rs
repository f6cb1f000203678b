//! Lets go what holds kept back, when they have ended.

use super::{Engine, InFlight};
use crate::delivery::{Input, Placement};
use crate::hold::HoldKey;
use crate::port::{Change, CommitError, StoreError};

/// Holds looked at in one round.
const HOLDS: usize = 64;
/// Messages let go in one commit.
const BATCH: usize = 256;

impl Engine {
    /// Ends holds that are over and lets a batch of their messages go. Whether there are more.
    pub(super) async fn release_held(&self, flight: &mut InFlight) -> Result<bool, StoreError> {
        self.ports.controls.end_overdue(self.ports.clock.now()).await?;
        if self.ports.store.holding(None, 1).await?.is_empty() {
            return Ok(false);
        }
        // What the store keeps counts, not what this process remembers.
        self.ports.controls.refresh().await?;
        let book = self.ports.controls.holds();
        let mut after = None;
        loop {
            let page = self.ports.store.holding(after.as_ref(), HOLDS).await?;
            for hold in &page {
                if book.get(hold).is_none() && self.let_go(flight, hold).await? {
                    return Ok(true);
                }
            }
            match page.into_iter().last() {
                Some(last) => after = Some(last),
                None => return Ok(false),
            }
        }
    }

    /// Lets a batch go, in its order; its destinations begin slowly. Whether anything was let go.
    async fn let_go(&self, flight: &mut InFlight, hold: &HoldKey) -> Result<bool, StoreError> {
        let store = &self.ports.store;
        let (mut changes, mut mail) = (Vec::new(), false);
        for id in store.held(hold, BATCH).await? {
            let Some(delivery) = store.head(id).await? else { continue };
            if delivery.held.as_ref() == Some(hold)
                && let Ok(next) = delivery.apply(Input::Unhold, self.ports.clock.now())
            {
                match next.delivery.placement() {
                    Placement::Available { .. } => mail = true,
                    // One that is at work has not been waiting for this.
                    Placement::Ready { destination, .. } if flight.lanes.is_quiet(&destination) => {
                        flight.lanes.release(&destination, self.ports.clock.now());
                    }
                    _ => {}
                }
                let expected = delivery.version;
                changes.push(Change { id, expected, delivery: next.delivery, events: next.events });
            }
        }
        let count = changes.len();
        match store.commit(changes).await {
            Ok(()) => {
                if mail {
                    self.ports.wake.mail();
                }
                Ok(count > 0)
            }
            // Somebody cancelled one of them, or it expired; the next round sees that.
            Err(CommitError::Stale(_)) => Ok(true),
            Err(CommitError::Store(error)) => Err(error),
        }
    }
}
