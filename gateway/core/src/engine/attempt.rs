//! One attempt to hand a message to a push channel.

use jiff::Timestamp;

use crate::delivery::{DeadReason, Delivery, FailureClass, FailureReason, Input, State};
use crate::id::MessageId;
use crate::mailbox::add;
use crate::port::{DeliveryOutcome, Handover, Observation, StoreError, StoredMessage};
use crate::route::{Recheck, Route};

use super::Engine;

impl Engine {
    /// Makes the attempt durable, calls the channel, commits the outcome.
    pub(super) async fn attempt(&self, id: MessageId) -> Result<(), StoreError> {
        let found = match self.ports.store.load(id).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged { detail, .. }) => return self.damaged(id, detail).await,
            Err(error) => return Err(error),
        };
        let until = add(self.ports.clock.now(), self.options.attempt_lease);
        let Some(mut started) = self.step(id, &found.delivery, Input::StartAttempt { until }).await? else {
            return Ok(());
        };
        let State::Attempting { token, .. } = started.state else { return Ok(()) };
        let began = self.ports.clock.now();
        let (outcome, moved) = self.deliver(&found, started.attempts, until).await;
        if let Some(route) = moved {
            match self.step(id, &started, Input::EndpointChanged { token, route }).await? {
                Some(next) => started = next,
                None => return Ok(()),
            }
        }
        self.observe(id, &found, &outcome, began);
        let input = self.judge(&started, token, outcome);
        if let Input::Failed { next: Err(_), ref reason, .. } = input {
            self.ports.observer.record(Observation::Dead { id, code: &reason.code });
        }
        if self.step(id, &started, input).await?.is_none() {
            tracing::warn!(message.id = %id, "An attempt ended after its lease; it will be repeated, marked.");
        }
        Ok(())
    }

    async fn deliver(
        &self,
        found: &StoredMessage,
        attempt: u32,
        until: Timestamp,
    ) -> (DeliveryOutcome, Option<Box<Route>>) {
        let (Some(route), Some(seal)) = (found.route(), found.seal()) else {
            let detail = "the record has no route or no seal";
            return (DeliveryOutcome::failed(FailureClass::Permanent, "damaged", detail), None);
        };
        let Some(channel) = self.channels.get(&route.destination.channel) else {
            let detail = format!("no {} channel is configured", route.destination.channel);
            return (DeliveryOutcome::failed(FailureClass::Destination, "no-channel", detail), None);
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
                    return (
                        DeliveryOutcome::failed(FailureClass::Destination, "route-withdrawn", detail),
                        None,
                    );
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
        let outcome = tokio::select! {
            outcome = channel.deliver(&handover) => outcome,
            () = self.ports.clock.sleep_until(until) => {
                DeliveryOutcome::failed(FailureClass::Transient, "timeout", "no answer within the time of an attempt")
            }
        };
        (outcome, moved)
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
        let now = self.ports.clock.now();
        let age = now.duration_since(delivery.received_at).unsigned_abs();
        let delay = self.options.retry.delay(delivery.attempts, retry_after, self.ports.entropy.as_ref());
        let last: FailureReason = reason.clone();
        let next = if class == FailureClass::Permanent {
            Err(DeadReason::Permanent { last })
        } else if delivery.attempts >= self.options.retry.max_attempts() {
            Err(DeadReason::AttemptsExhausted { last })
        } else if age + delay > self.options.retry.max_age() {
            Err(DeadReason::TooOld { last })
        } else {
            Ok(add(now, delay))
        };
        Input::Failed { token, class, reason, next }
    }
}
