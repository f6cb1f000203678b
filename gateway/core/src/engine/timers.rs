//! Moves what has come due, many in one commit, so that a mass of it keeps nobody waiting.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::breaker::AttemptEnd;
use super::{Engine, InFlight, Job};
use crate::delivery::{Delivery, Input, Placement, State, Transition};
use crate::id::MessageId;
use crate::port::{Change, CommitError, Observation, StoreError, Timer};

/// Timers looked at in one round.
const TIMER_BATCH: usize = 256;

/// A message whose time has come, with what it was before.
struct Move {
    change: Change,
    before: Delivery,
}

impl Engine {
    /// Moves everything that is due, in one commit. Returns when the next timer fires, at once if there are more, and how late the
    /// most overdue one was.
    pub(super) async fn fire_timers(
        self: &Arc<Self>,
        flight: &mut InFlight,
    ) -> Result<(Option<Timestamp>, Duration), StoreError> {
        let now = self.ports.clock.now();
        let first = self.ports.store.timers(1).await?.first().map(|timer| timer.due);
        if first.is_none_or(|first| first > now) {
            return Ok((first, Duration::ZERO));
        }
        let items = self.ports.store.timers(TIMER_BATCH).await?;
        let full = items.len() >= TIMER_BATCH;
        let (due, later): (Vec<Timer>, Vec<Timer>) = items.into_iter().partition(|timer| timer.due <= now);
        // Who waits for a notice that is being written does not wait for the scheduler.
        let late = due.iter().find(|timer| !flight.notifying.contains(&timer.id));
        let lag = late.map(|first| now.duration_since(first.due).unsigned_abs()).unwrap_or_default();
        let (mut seen, mut moves) = (flight.notifying.clone(), Vec::new());
        for Timer { id, .. } in due {
            // A message with a timer and an alarm is there twice; the second has its turn in the next round.
            if !seen.insert(id) {
                continue;
            }
            let Some(delivery) = self.ports.store.head(id).await? else { continue };
            if delivery.notice_due.is_some() {
                self.start_notice(flight, id, delivery);
            } else {
                moves.extend(self.when_due(id, delivery, now));
            }
        }
        let moved = self.commit_moves(moves).await?;
        let next = if full && moved { Some(now) } else { later.first().map(|timer| timer.due) };
        Ok((next, lag))
    }

    /// What becomes of a message whose time has come.
    fn when_due(&self, id: MessageId, before: Delivery, now: Timestamp) -> Option<Move> {
        let input = match before.state {
            State::Attempting { .. } => self.lost(id, &before),
            _ => Input::Due,
        };
        let Transition { delivery, events } = before.apply(input, now).ok()?;
        Some(Move { change: Change { id, expected: before.version, delivery, events }, before })
    }

    /// Commits what has come due; what somebody else changed meanwhile is left out. Whether anything moved.
    async fn commit_moves(&self, mut moves: Vec<Move>) -> Result<bool, StoreError> {
        while !moves.is_empty() {
            let changes = moves.iter().map(|one| one.change.clone()).collect();
            match self.ports.store.commit(changes).await {
                Ok(()) => break,
                Err(CommitError::Stale(stale)) => moves.retain(|one| one.change.id != stale),
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        let mut mail = false;
        for Move { change: Change { id, delivery, .. }, before } in &moves {
            if delivery.deadline_watch != before.deadline_watch {
                let missed = delivery.deadline_watch.is_none();
                self.ports.observer.record(Observation::Deadline { id: *id, missed });
            }
            mail |= matches!(delivery.placement(), Placement::Available { .. });
        }
        if mail {
            self.ports.wake.mail();
        }
        Ok(!moves.is_empty())
    }

    /// Tells a sender, beside the scheduling of everything else; others have their turn when it is done.
    fn start_notice(self: &Arc<Self>, flight: &mut InFlight, id: MessageId, delivery: Delivery) {
        if flight.notifying.len() < self.options.prepare_concurrency && flight.notifying.insert(id) {
            let engine = Arc::clone(self);
            let telling = async move { engine.notify(id, &delivery).await.map(|()| AttemptEnd::NotMade) };
            let task = flight.tasks.spawn(telling);
            flight.jobs.insert(task.id(), Job::Notify(id));
        }
    }
}
