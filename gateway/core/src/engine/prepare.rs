//! From accepted to ready: open routes are resolved, documents sealed.

use crate::delivery::{Delivery, FailureReason, Input, ItemState, Placement, RejectReason, State};
use crate::id::MessageId;
use crate::mailbox::add;
use crate::message::{ExternalId, Message};
use crate::port::{Change, CommitError, Observation, SealRequest, StoreError, StoredMessage};
use crate::route::{ChannelKind, LookupRequest, OutcomeKind};

use super::Engine;

/// Messages with the same external id that are looked at.
const SAME_ID_MAX: usize = 16;

impl Engine {
    /// Routes and seals one message. Idempotent: run twice, the second commit is stale.
    pub(super) async fn prepare(&self, id: MessageId) -> Result<(), StoreError> {
        let found = match self.ports.store.load(id).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged { detail, .. }) => return self.damaged(id, detail).await,
            Err(error) => return Err(error),
        };
        if found.delivery.placement() != Placement::Prepare {
            return Ok(());
        }
        let mut delivery = found.delivery.clone();
        let mut events = Vec::new();
        if delivery.destination.is_none() {
            let input = self.route_input(&found.message.metadata, &delivery).await;
            let Ok(next) = delivery.apply(input, self.ports.clock.now()) else { return Ok(()) };
            delivery = next.delivery;
            events = next.events;
        }
        if let Some(first) = self.first_arrival(&found.message, &delivery).await? {
            let input = match first.message.content == found.message.content {
                true => Input::SecondArrival { first: first.message.id },
                false => Input::Refused(RejectReason::IdTaken),
            };
            let Ok(next) = delivery.apply(input, self.ports.clock.now()) else { return Ok(()) };
            delivery = next.delivery;
            events.extend(next.events);
        }
        if delivery.destination.is_some() && matches!(delivery.state, State::Accepted { .. }) {
            let Some(document) = found.message.parts.first() else {
                return self.damaged(id, "the message has no document".to_owned()).await;
            };
            let request = SealRequest { document: document.sha256, at: self.ports.clock.now() };
            if delivery.line.is_some() {
                let dead_head = self.policy_of(&delivery).dead_head;
                let Ok(next) = delivery.apply(Input::DeadHead(dead_head), self.ports.clock.now()) else {
                    return Ok(());
                };
                delivery = next.delivery;
            }
            match self.ports.sealer.seal(request).await {
                Ok(seal) => {
                    let Ok(next) = delivery.apply(Input::Sealed(seal), self.ports.clock.now()) else {
                        return Ok(());
                    };
                    delivery = next.delivery;
                    events.extend(next.events);
                }
                Err(error) => {
                    tracing::error!(message.id = %id, error = &error as &dyn std::error::Error, "Sealing failed; the message waits.");
                    self.ports.observer.record(Observation::SealFailed { id });
                    let retry_at = add(self.ports.clock.now(), self.options.route_retry);
                    let Ok(next) = delivery.apply(Input::SealFailed { retry_at }, self.ports.clock.now())
                    else {
                        return Ok(());
                    };
                    delivery = next.delivery;
                    events.extend(next.events);
                }
            }
        }
        let mail = matches!(delivery.placement(), Placement::Available { .. });
        let change = Change { id, expected: found.delivery.version, delivery, events };
        match self.ports.store.commit(vec![change]).await {
            Ok(()) => {
                if mail {
                    self.ports.wake.mail();
                }
                Ok(())
            }
            Err(CommitError::Stale(_)) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    /// The message under the same id of XTA or OSCI that reached the mailbox before this one, or will. Of two that are under way at the
    /// same time the one that was accepted later yields.
    async fn first_arrival(
        &self,
        message: &Message,
        delivery: &Delivery,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let Some(destination) = delivery.destination.as_ref().filter(|to| to.channel == ChannelKind::Mailbox)
        else {
            return Ok(None);
        };
        for external in message.arrival_ids() {
            let same = self.ports.store.by_external_id(external.scheme, &external.value, SAME_ID_MAX).await?;
            for id in same.into_iter().filter(|id| *id != message.id) {
                let Some(other) = self.ports.store.head(id).await? else { continue };
                let under_way = matches!(other.state, State::Accepted { .. } | State::Waiting { .. });
                let arrived = other.item.as_ref().is_some_and(|item| item.state != ItemState::Gone);
                if other.destination.as_ref() != Some(destination)
                    || !(arrived || under_way && id < message.id)
                {
                    continue;
                }
                match self.ports.store.load(id).await {
                    Ok(Some(first)) => {
                        let same = |one: &ExternalId| {
                            one.scheme == external.scheme && one.value.eq_ignore_ascii_case(&external.value)
                        };
                        if first.message.arrival_ids().any(same) {
                            return Ok(Some(first));
                        }
                    }
                    // What cannot be read cannot be compared.
                    Ok(None) | Err(StoreError::Damaged { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    async fn route_input(&self, metadata: &crate::message::Metadata, delivery: &Delivery) -> Input {
        let now = self.ports.clock.now();
        let Some(request) = LookupRequest::of(metadata) else {
            return Input::Refused(RejectReason::Route { outcome: OutcomeKind::BadRequest });
        };
        let resolution = self.ports.router.resolve(&request, now).await;
        match (resolution.route, resolution.outcome) {
            (Some(route), _) => Input::Routed(route),
            // Neither a directory that is down nor a certificate that cannot be used says that there is no way.
            (None, outcome @ (OutcomeKind::DirectoryUnavailable | OutcomeKind::CertificateUnusable)) => {
                let waited = now.duration_since(delivery.received_at).unsigned_abs();
                if waited >= self.options.route_max_wait {
                    return Input::Refused(RejectReason::Unroutable);
                }
                Input::RouteOpen {
                    reason: FailureReason {
                        code: outcome.as_str().to_ascii_lowercase().replace('_', "-"),
                        detail: resolution.unavailable.unwrap_or_default(),
                    },
                    retry_at: add(now, self.options.route_retry),
                }
            }
            (None, outcome) => Input::Refused(RejectReason::Route { outcome }),
        }
    }

    /// Dead-letters a message whose record or payload cannot be read; the head still can.
    pub(super) async fn damaged(&self, id: MessageId, detail: String) -> Result<(), StoreError> {
        let Some(delivery) = self.ports.store.head(id).await? else { return Ok(()) };
        self.ports.observer.record(Observation::Dead { id, code: "damaged" });
        let reason = FailureReason { code: "damaged".to_owned(), detail };
        self.step(id, &delivery, Input::Damaged(reason)).await.map(|_| ())
    }

    /// Applies and commits one input; `None` if it does not fit any more.
    pub(super) async fn step(
        &self,
        id: MessageId,
        delivery: &Delivery,
        input: Input,
    ) -> Result<Option<Delivery>, StoreError> {
        let Ok(next) = delivery.apply(input, self.ports.clock.now()) else { return Ok(None) };
        let change =
            Change { id, expected: delivery.version, delivery: next.delivery.clone(), events: next.events };
        match self.ports.store.commit(vec![change]).await {
            Ok(()) => Ok(Some(next.delivery)),
            Err(CommitError::Stale(_)) => Ok(None),
            Err(CommitError::Store(error)) => Err(error),
        }
    }
}
