//! A push channel in memory that remembers every hand-over and follows a script of failures.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use amtsbote_core::delivery::{FailureClass, Proof};
use amtsbote_core::id::MessageId;
use amtsbote_core::message::Sha256Digest;
use amtsbote_core::port::{Channel, DeliveryOutcome, Handover, MessageStore};
use amtsbote_core::route::{ChannelKind, Endpoint};
use async_trait::async_trait;

/// One hand-over as the destination saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which message.
    pub id: MessageId,
    /// Number of the attempt it was told.
    pub attempt: u32,
    /// Digest of the document it read.
    pub document: Sha256Digest,
    /// Whether the witness, if there is one, knew of the attempt when it arrived (promise P2).
    pub durable: bool,
}

/// What the channel does with the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Takes the message.
    Take,
    /// Fails before anything arrived.
    Fail(FailureClass),
    /// Takes the message but reports a failure: the answer was lost.
    TakeSilently,
    /// Takes the message and never answers.
    Hang,
}

/// Decides what the channel does with an attempt.
pub type Script = dyn Fn(MessageId, u32) -> Act + Send + Sync;

/// The channel; it plays AMQP.
pub struct FakeChannel {
    seen: Mutex<Vec<Seen>>,
    script: Box<Script>,
    witness: Option<Arc<dyn MessageStore>>,
}

impl FakeChannel {
    /// A channel that takes everything.
    pub fn taking() -> Self {
        Self::scripted(|_, _| Act::Take)
    }

    /// A channel that does what the script says.
    pub fn scripted(script: impl Fn(MessageId, u32) -> Act + Send + Sync + 'static) -> Self {
        Self { seen: Mutex::default(), script: Box::new(script), witness: None }
    }

    /// Asks a store at every hand-over whether the attempt is written down there.
    #[must_use]
    pub fn witnessed_by(self, store: Arc<dyn MessageStore>) -> Self {
        Self { witness: Some(store), ..self }
    }

    /// Everything that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn arrive(&self, handover: &Handover) {
        let mut document = Vec::new();
        let mut part = handover.open(0).await.unwrap().expect("every message has a document");
        while let Some(bytes) = part.reader.next().await.unwrap() {
            document.extend_from_slice(&bytes);
        }
        let document = Sha256Digest::of(&document);
        let (id, attempt) = (handover.message.id, handover.attempt);
        let durable = match &self.witness {
            Some(store) => store.head(id).await.unwrap().is_some_and(|head| head.attempts >= attempt),
            None => true,
        };
        self.seen.lock().unwrap().push(Seen { id, attempt, document, durable });
    }
}

#[async_trait]
impl Channel for FakeChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Amqp
    }

    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String> {
        if endpoint.address.contains("unusable") { Err("scripted".to_owned()) } else { Ok(()) }
    }

    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let act = (self.script)(handover.message.id, handover.attempt);
        match act {
            Act::Take => {
                self.arrive(handover).await;
                DeliveryOutcome::Delivered(Proof("taken".to_owned()))
            }
            Act::Fail(class) => DeliveryOutcome::failed(class, "scripted", "scripted failure"),
            Act::TakeSilently => {
                self.arrive(handover).await;
                DeliveryOutcome::failed(FailureClass::Transient, "answer-lost", "the answer was lost")
            }
            Act::Hang => {
                self.arrive(handover).await;
                std::future::pending().await
            }
        }
    }
}
