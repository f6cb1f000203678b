//! One attempt to hand a message to a push channel.

use std::time::Duration;

use jiff::Timestamp;

use crate::delivery::{DeadReason, Delivery, FailureClass, FailureReason, Input, State};
use crate::id::MessageId;
use crate::mailbox::add;
use crate::port::{DeliveryOutcome, Handover, Observation, StoreError, StoredMessage};
use crate::route::{Recheck, Route};

use super::breaker::AttemptEnd;
use super::{DestinationPolicy, Engine};

impl Engine {
    /// Makes the attempt durable, calls the channel, commits the outcome.
    pub(super) async fn attempt(&self, id: MessageId) -> Result<AttemptEnd, StoreError> {
        let found = match self.ports.store.load(id).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(AttemptEnd::NotMade),
            Err(StoreError::Damaged { detail, .. }) => {
                return self.damaged(id, detail).await.map(|()| AttemptEnd::NotMade);
            }
            Err(error) => return Err(error),
        };
        let began = self.ports.clock.now();
        if let Some(hold) = self.ports.controls.holds().on_message(&found.message, found.route(), began) {
            let input = Input::Hold { hold: hold.key.clone(), reason: hold.reason.clone() };
            return self.step(id, &found.delivery, input).await.map(|_| AttemptEnd::NotMade);
        }
        let until = add(began, self.options.attempt_lease);
        let Some(mut started) = self.step(id, &found.delivery, Input::StartAttempt { until }).await? else {
            return Ok(AttemptEnd::NotMade);
        };
        let State::Attempting { token, .. } = started.state else { return Ok(AttemptEnd::NotMade) };
        // The worker gives up a little before its lease ends, so that what it says still counts.
        let give_up = self.options.attempt_lease * 9 / 10;
        let Ended { outcome, moved, was_asked } = tokio::select! {
            biased;
            () = self.ports.clock.sleep(give_up) => Ended::of(timed_out()),
            ended = self.deliver(&found, started.attempts) => ended,
        };
        if let Some(route) = moved {
            match self.step(id, &started, Input::EndpointChanged { token, route }).await? {
                Some(next) => started = next,
                None => return Ok(AttemptEnd::Unclear),
            }
        }
        self.observe(id, &found, &outcome, began);
        let end = if was_asked { end_of(&outcome) } else { AttemptEnd::Unclear };
        let input = self.judge(&started, token, outcome);
        if let Input::Failed { next: Err(_), ref reason, .. } = input {
            self.ports.observer.record(Observation::Dead { id, code: &reason.code });
        }
        if self.step(id, &started, input).await?.is_none() {
            tracing::warn!(message.id = %id, "An attempt ended after its lease; it will be repeated, marked.");
        }
        Ok(end)
    }

    async fn deliver(&self, found: &StoredMessage, attempt: u32) -> Ended {
        let (Some(route), Some(seal)) = (found.route(), found.seal()) else {
            let detail = "the record has no route or no seal";
            return Ended::unasked("damaged", detail);
        };
        let Some(channel) = self.channels.get(&route.destination.channel) else {
            let detail = format!("no {} channel is configured", route.destination.channel);
            return Ended::of(DeliveryOutcome::failed(FailureClass::Destination, "no-channel", detail));
        };
        let mut route = Box::new(route.clone());
        let mut moved = None;
        let now = self.ports.clock.now();
        if now.duration_since(route.decided_at).unsigned_abs() > self.options.recheck_after {
            match self.ports.router.recheck(&route, now).await {
                Recheck::Same => {}
                Recheck::Moved(newer) => {
                    route.clone_from(&newer);
                    moved = Some(newer);
                }
                Recheck::Withdrawn(detail) => {
                    // Of this service; the destination may be well.
                    return Ended::unasked("route-withdrawn", detail);
                }
            }
        }
        let handover = Handover {
            message: std::sync::Arc::clone(&found.message),
            route,
            seal: seal.clone(),
            attempt,
            store: std::sync::Arc::clone(&self.ports.store),
        };
        Ended { moved, ..Ended::of(channel.deliver(&handover).await) }
    }

    fn observe(&self, id: MessageId, found: &StoredMessage, outcome: &DeliveryOutcome, began: Timestamp) {
        let Some(destination) = &found.delivery.destination else { return };
        let failure = match outcome {
            DeliveryOutcome::Delivered(_) => None,
            DeliveryOutcome::Failed { class, reason, .. } => {
                tracing::warn!(
                    message.id = %id,
                    destination = %destination,
                    code = reason.code,
                    detail = reason.detail,
                    "An attempt failed."
                );
                Some(*class)
            }
        };
        let elapsed = self.ports.clock.now().duration_since(began).unsigned_abs();
        self.ports.observer.record(Observation::Attempt {
            id,
            channel: destination.channel,
            failure,
            elapsed,
        });
    }

    /// What the policy makes of an outcome.
    fn judge(&self, delivery: &Delivery, token: u64, outcome: DeliveryOutcome) -> Input {
        let (class, reason, retry_after) = match outcome {
            DeliveryOutcome::Delivered(proof) => return Input::Succeeded { token, proof },
            DeliveryOutcome::Failed { class, reason, retry_after } => (class, reason, retry_after),
        };
        let next = match class {
            FailureClass::Permanent => Err(DeadReason::Permanent { last: reason.clone() }),
            FailureClass::Transient => self.next_attempt(delivery, reason.clone(), retry_after),
            // Not the fault of the message: it comes back soon, and the breaker or the alarm decide about the destination.
            FailureClass::Destination | FailureClass::Ours => {
                Ok(add(self.ports.clock.now(), self.policy_of(delivery).retry.first()))
            }
        };
        Input::Failed { token, class, reason, next }
    }

    /// When the policy wants the next attempt, or why it wants none.
    fn next_attempt(
        &self,
        delivery: &Delivery,
        last: FailureReason,
        retry_after: Option<Duration>,
    ) -> Result<Timestamp, DeadReason> {
        let policy = &self.policy_of(delivery).retry;
        let failures = delivery.retries.failures + 1;
        let delay = policy.delay(failures, retry_after, self.ports.entropy.as_ref());
        let waited = delivery.retries.waited.unsigned_abs();
        if failures >= policy.max_attempts() {
            Err(DeadReason::AttemptsExhausted { last })
        } else if waited + delay > policy.max_age() {
            Err(DeadReason::TooOld { last })
        } else {
            Ok(add(self.ports.clock.now(), delay))
        }
    }

    pub(super) fn policy_of(&self, delivery: &Delivery) -> &DestinationPolicy {
        let policies = &self.options.policies;
        delivery.destination.as_ref().map_or(&policies.usual, |destination| policies.of(destination))
    }

    /// What becomes of an attempt whose worker was not heard of again.
    pub(super) fn lost(&self, id: MessageId, delivery: &Delivery) -> Input {
        let reason = FailureReason {
            code: "outcome-unknown".to_owned(),
            detail: "the worker ended without a word".to_owned(),
        };
        let next = self.next_attempt(delivery, reason, None);
        if next.is_err() || delivery.exchange_until.is_some() {
            self.ports.observer.record(Observation::Dead { id, code: "outcome-unknown" });
        }
        Input::Lost { next }
    }
}

/// How an attempt ended.
struct Ended {
    outcome: DeliveryOutcome,
    /// The newer route it took.
    moved: Option<Box<Route>>,
    /// Whether the destination had a part in it.
    was_asked: bool,
}

impl Ended {
    fn of(outcome: DeliveryOutcome) -> Self {
        Self { outcome, moved: None, was_asked: true }
    }

    /// Given up for good without asking the destination.
    fn unasked(code: &str, detail: impl Into<String>) -> Self {
        let outcome = DeliveryOutcome::failed(FailureClass::Permanent, code, detail);
        Self { outcome, moved: None, was_asked: false }
    }
}

/// What an outcome says about the destination as a whole.
fn end_of(outcome: &DeliveryOutcome) -> AttemptEnd {
    match outcome {
        DeliveryOutcome::Delivered(_) | DeliveryOutcome::Failed { class: FailureClass::Permanent, .. } => {
            AttemptEnd::Answered
        }
        DeliveryOutcome::Failed { class: FailureClass::Transient, .. } => AttemptEnd::Unclear,
        DeliveryOutcome::Failed { class: FailureClass::Ours, .. } => AttemptEnd::Ours,
        DeliveryOutcome::Failed { class: FailureClass::Destination, reason, retry_after } => {
            AttemptEnd::OutOfOrder { reason: reason.clone(), retry_after: *retry_after }
        }
    }
}

fn timed_out() -> DeliveryOutcome {
    DeliveryOutcome::failed(FailureClass::Transient, "timeout", "no answer within the time of an attempt")
}
