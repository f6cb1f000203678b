use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::store::{MessageStore, PartReader, PayloadWriter, Staged, StoreError};
use crate::delivery::{FailureClass, FailureReason, Proof, SealRecord};
use crate::message::{Carried, ExternalId, Message, Metadata, Part, PartNumber};
use crate::route::{ChannelKind, Endpoint, Route};

/// One hand-over of a message to its destination.
pub struct Handover {
    /// What.
    pub message: Arc<Message>,
    /// Where.
    pub route: Box<Route>,
    /// Seal over the document.
    pub seal: SealRecord,
    /// From 1; above 1 the receiver must be told (design section 4.5).
    pub attempt: u32,
    pub(crate) store: Arc<dyn MessageStore>,
}

/// A part and a way to read it.
pub struct HandoverPart<'a> {
    /// Description.
    pub part: &'a Part,
    /// Content from the first byte.
    pub reader: Box<dyn PartReader>,
}

impl Handover {
    /// Opens a part for reading.
    ///
    /// # Errors
    /// When the store cannot read it.
    pub async fn open(&self, number: PartNumber) -> Result<Option<HandoverPart<'_>>, StoreError> {
        let Some(part) = self.message.parts.get(usize::from(number)) else { return Ok(None) };
        let reader = self.store.open_part(self.message.id, number, 0).await?;
        Ok(reader.map(|reader| HandoverPart { part, reader }))
    }

    /// The message in the words of the mailbox (design section 8), for channels that tell it as JSON. `place` says where the receiver finds a
    /// part, by number, as the name of a member and its value.
    pub fn describe(&self, place: impl Fn(usize, &Part) -> (&'static str, String)) -> serde_json::Value {
        let message = &self.message;
        let part = |(number, part): (usize, &Part)| {
            let (member, value) = place(number, part);
            json!({
                "name": part.name, "mediaType": part.media_type, "size": part.size,
                "sha256": part.sha256.to_string(), member: value,
            })
        };
        let mut parts = message.parts.iter().enumerate().map(part);
        let document = parts.next();
        json!({
            "id": message.id, "attempt": self.attempt, "redelivered": self.redelivered(),
            "receivedAt": message.received_at, "sender": message.sender,
            "recipient": self.route.organization.key, "service": message.metadata.service.to_string(),
            "caseId": message.metadata.case_id, "externalIds": message.external_ids,
            "metadata": message.metadata, "document": document, "attachments": parts.collect::<Vec<_>>(),
        })
    }

    /// Begins to keep content that comes back.
    ///
    /// # Errors
    /// When the store takes nothing.
    pub async fn stage(&self) -> Result<Box<dyn PayloadWriter>, StoreError> {
        self.store.stage().await
    }

    /// Whether an earlier attempt may have reached the destination.
    pub fn redelivered(&self) -> bool {
        self.attempt > 1
    }
}

/// Result of one attempt; it carries what the next step needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "dropping an outcome loses a message"]
pub enum DeliveryOutcome {
    /// The destination has it durably.
    Delivered(Proof),
    /// It has not, or nobody knows.
    Failed {
        /// Who has to act.
        class: FailureClass,
        /// What went wrong; no payload, no personal data.
        reason: FailureReason,
        /// The peer's wish for the next attempt.
        retry_after: Option<Duration>,
    },
}

impl DeliveryOutcome {
    /// A failure without a hint from the peer.
    pub fn failed(class: FailureClass, code: &str, detail: impl Into<String>) -> Self {
        Self::Failed {
            class,
            reason: FailureReason { code: code.to_owned(), detail: detail.into() },
            retry_after: None,
        }
    }
}

/// Delivers messages one way. The number of the attempt is durable before [`Channel::deliver`] is called.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Which way.
    fn kind(&self) -> ChannelKind;

    /// Whether the endpoint can be used at all, by configuration; cheap, no I/O.
    ///
    /// # Errors
    /// The reason, for the trace of a route.
    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String>;

    /// Hands one message over. Bounded in time by the adapter. If cancelled, the outcome counts as unknown and the message is
    /// delivered again, marked.
    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome;
}

/// What a recipient answered at once.
#[derive(Debug)]
pub struct InstantAnswer {
    /// Evidence that the recipient has the message.
    pub proof: Proof,
    /// What the recipient says about its answer.
    pub metadata: Metadata,
    /// Document first.
    pub parts: Vec<Part>,
    /// The body.
    pub payload: Staged,
    /// Ids the recipient gave it.
    pub external_ids: Vec<ExternalId>,
    /// Metadata of the protocol it came in.
    pub carried: Vec<Carried>,
}

/// Result of one exchange.
#[derive(Debug)]
#[must_use = "dropping an outcome loses an answer"]
pub enum ExchangeOutcome {
    /// The recipient has it and answered.
    Answered(Box<InstantAnswer>),
    /// The recipient has it, and an answer was not wanted.
    Delivered(Proof),
    /// The recipient does not have it, or does not want it.
    Failed(FailureReason),
    /// Nobody knows whether the recipient has it.
    Unknown(FailureReason),
}

/// Hands messages to recipients that answer at once.
#[async_trait]
pub trait Exchanger: Send + Sync {
    /// Which way.
    fn kind(&self) -> ChannelKind;

    /// Hands one message over, once, and brings the answer. If cancelled, the outcome is unknown.
    async fn exchange(&self, handover: &Handover) -> ExchangeOutcome;
}
