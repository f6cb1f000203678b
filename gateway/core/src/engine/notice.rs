//! Tells senders how their messages ended: a small message of the gateway in the sender's own mailbox.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::Engine;
use crate::account::GATEWAY;
use crate::delivery::{Delivery, Event, EventKind, Input, RejectReason, State};
use crate::id::MessageId;
use crate::key::{AccountName, IdempotencyKey, PartyId};
use crate::mailbox::add;
use crate::message::{IdScheme, IntakeKey, Message, Metadata, Part, Priority, Sha256Digest, content_digest};
use crate::port::{Acceptance, Accepted, Staged, StoreError, StoredMessage};
use crate::route::LookupRequest;

/// Media type of a notice.
pub const NOTICE_TYPE: &str = "application/vnd.amtsbote.notice+json";
/// Without room for a notice it is tried again after so long.
const PUT_OFF: Duration = Duration::from_secs(300);
/// Party in whose name notices are sent.
const SENDER: &str = "amtsbote:gateway";

impl Engine {
    /// Tells the sender how a message ended, once: a notice has an intake key of its own. While the store takes nothing new the
    /// notice stays owed, so that other timers do not wait behind it.
    pub(super) async fn notify(&self, id: MessageId, delivery: &Delivery) -> Result<(), StoreError> {
        let told = match self.ports.store.load(id).await {
            Ok(Some(found)) => self.tell(&found).await,
            Ok(None) => return Ok(()),
            Err(error) => Err(error),
        };
        let input = match told {
            Ok(notice) => Input::Notified { notice },
            // What cannot be read cannot be told; the operator knows of it as a dead letter.
            Err(StoreError::Damaged { .. }) => Input::Notified { notice: None },
            Err(StoreError::Full) => Input::NoticePutOff { until: add(self.ports.clock.now(), PUT_OFF) },
            Err(error) => return Err(error),
        };
        self.step(id, delivery, input).await.map(|_| ())
    }

    /// Puts a notice into the sender's mailbox; `None` if nobody here opens it.
    async fn tell(&self, found: &StoredMessage) -> Result<Option<MessageId>, StoreError> {
        let to = found.message.reply_to().clone();
        if !self.ports.router.accounts().iter().any(|account| account.opens(&to)) {
            return Ok(None);
        }
        let Some(acceptance) = self.notice(found, to).await else { return Ok(None) };
        let id = acceptance.message.id;
        let id = match self.ports.store.accept(acceptance).await? {
            Accepted::First => id,
            Accepted::Seen(earlier) => earlier.id,
        };
        self.ports.wake.work();
        Ok(Some(id))
    }

    async fn notice(&self, found: &StoredMessage, to: PartyId) -> Option<Acceptance> {
        let now = self.ports.clock.now();
        let (about, delivery) = (&found.message, &found.delivery);
        let document = render(found);
        let metadata = Metadata {
            recipient: Some(to.clone()),
            area: None,
            subject: None,
            priority: Priority::Normal,
            not_before: None,
            expires_at: None,
            deadline: None,
            ordering_key: None,
            reply_to: None,
            message_type: None,
            business_scenario: None,
            in_reply_to: Some(about.id),
            ..about.metadata.clone()
        };
        let parts = vec![Part {
            name: Some("notice.json".to_owned()),
            media_type: NOTICE_TYPE.to_owned(),
            size: document.len() as u64,
            sha256: Sha256Digest::of(&document),
            offset: 0,
            attributes: BTreeMap::new(),
        }];
        let gateway: AccountName = GATEWAY.parse().ok()?;
        let key: IdempotencyKey =
            format!("notice-{}-{}", about.id.uuid(), delivery.since.as_millisecond()).parse().ok()?;
        let request = LookupRequest::Reply { service: metadata.service.clone(), recipient: to };
        let route = self.ports.router.resolve(&request, now).await.route?;
        let message = Message {
            id: self.notice_ids.next(now, self.ports.entropy.as_ref()),
            received_at: now,
            account: gateway.clone(),
            sender: SENDER.parse().ok()?,
            content: content_digest(&metadata, b"", &parts),
            metadata,
            parts,
            external_ids: Vec::new(),
            carried: Vec::new(),
        };
        let events = vec![
            Event { at: now, kind: EventKind::Received { account: gateway.clone() } },
            Event { at: now, kind: EventKind::Routed { route: route.clone() } },
        ];
        Some(Acceptance {
            key: IntakeKey { account: gateway, scheme: IdScheme::Client, value: key },
            delivery: Delivery::new(&message, Some(&route)),
            message: std::sync::Arc::new(message),
            events,
            answer: Bytes::new(),
            payload: Staged::Inline(vec![document]),
        })
    }
}

/// What the sender reads: codes and times, nothing that other systems wrote into their errors.
fn render(found: &StoredMessage) -> Bytes {
    let (message, delivery) = (&found.message, &found.delivery);
    let reason = match &delivery.state {
        State::Rejected { reason: RejectReason::Route { outcome } } => {
            json!({ "code": "no-route", "outcome": outcome.as_str() })
        }
        State::Rejected { reason: RejectReason::Unroutable } => json!({ "code": "unroutable" }),
        State::Rejected { reason: RejectReason::IdTaken } => json!({ "code": "id-taken" }),
        State::Rejected { reason: RejectReason::Department { code, detail } } => {
            json!({ "code": code, "detail": detail })
        }
        State::Dead { reason } => json!({ "code": reason.last().code }),
        _ => serde_json::Value::Null,
    };
    let notice = json!({
        "message": message.id,
        "externalIds": message.external_ids,
        "caseId": message.metadata.case_id,
        "receivedAt": message.received_at,
        "state": delivery.state.as_str(),
        "since": delivery.since,
        "reason": reason,
    });
    notice.to_string().into()
}
