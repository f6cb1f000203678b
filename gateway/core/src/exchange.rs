//! Driving port for senders that wait for the answer of the recipient (XTA sendMessageSync, OSCI MediateDelivery; design section 4.3).
//!
//! A synchronous message is accepted durably and handed over exactly once, within a time limit. It ends delivered, with the answer
//! stored as a message of its own, or dead: the recipient does not have it, or nobody knows. Nobody tries it again. A sender that hangs
//! up changes nothing of that; one that comes again is told how it ended. What a killed process leaves behind the engine ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::account::GATEWAY;
use crate::control::Controls;
use crate::delivery::{
    DeadReason, Delivery, Event, EventKind, FailureClass, FailureReason, Input, Proof, State,
};
use crate::id::{MessageId, MessageIdSource};
use crate::intake::{Admission, Exchange, Intake, IntakeError, Submission};
use crate::message::{IdScheme, IntakeKey, Message, Metadata, content_digest};
use crate::port::{
    Acceptance, Accepted, Change, Clock, CommitError, Entropy, ExchangeOutcome, Exchanger, Handover,
    InstantAnswer, MessageStore, Observation, Observer, SealRequest, Sealer, StoreError, StoredMessage,
};
use crate::route::ChannelKind;

/// How long a sender waits for the answer, unless configured otherwise.
pub const EXCHANGE_WITHIN: Duration = Duration::from_secs(25);
/// Time after that in which what is known is still written down.
const GRACE: Duration = Duration::from_secs(10);
/// Exchanges at the same time.
const EXCHANGES_MAX: usize = 256;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It was not accepted.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// Too many senders wait already; it was not accepted.
    #[error("too many exchanges at the same time")]
    Overloaded,
    /// It was handed in before, and is under way.
    #[error("the exchange is under way")]
    UnderWay,
    /// The recipient does not have it, or refused it.
    #[error("it was not delivered: {}", .0.code)]
    Failed(FailureReason),
    /// Nobody knows whether the recipient has it.
    #[error("nobody knows whether it was delivered: {}", .0.code)]
    Unknown(FailureReason),
    /// The store failed. If it was accepted, the engine ends it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How an exchange went.
#[derive(Debug, Clone)]
pub struct Exchanged {
    /// What was handed over.
    pub request: StoredMessage,
    /// What came back, if an answer was wanted.
    pub answer: Option<StoredMessage>,
}

/// What exchanges work with.
pub struct ExchangePorts {
    /// Takes messages.
    pub intake: Arc<Intake>,
    /// Truth.
    pub store: Arc<dyn MessageStore>,
    /// Signs documents.
    pub sealer: Arc<dyn Sealer>,
    /// What operators hold.
    pub controls: Arc<Controls>,
    /// What answers at once.
    pub exchangers: Vec<Arc<dyn Exchanger>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness of ids.
    pub entropy: Arc<dyn Entropy>,
    /// Log and metrics.
    pub observer: Arc<dyn Observer>,
}

/// Synchronous messages.
pub struct Exchanges {
    ports: ExchangePorts,
    channels: Vec<ChannelKind>,
    within: Duration,
    permits: Arc<Semaphore>,
    ids: MessageIdSource,
}

impl Exchanges {
    /// Exchanges over their ports, each within a time.
    pub fn new(ports: ExchangePorts, within: Duration) -> Arc<Self> {
        let channels = ports.exchangers.iter().map(|one| one.kind()).collect();
        let (permits, ids) = (Arc::new(Semaphore::new(EXCHANGES_MAX)), MessageIdSource::default());
        Arc::new(Self { ports, channels, within, permits, ids })
    }

    /// Hands a message over and brings the answer. If cancelled, it goes on without the caller.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn exchange(self: &Arc<Self>, submission: Submission) -> Result<Exchanged, ExchangeError> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| ExchangeError::Overloaded)?;
        let exchanges = Arc::clone(self);
        let going_on = tokio::spawn(async move {
            let _permit = permit;
            exchanges.run(submission).await
        });
        going_on.await.unwrap_or_else(|_| {
            Err(ExchangeError::Unknown(reason("outcome-unknown", "the worker ended without a word")))
        })
    }

    async fn run(&self, submission: Submission) -> Result<Exchanged, ExchangeError> {
        let exchange = Exchange { within: self.within + GRACE, channels: &self.channels };
        let id = match self.ports.intake.accept_exchange(submission, exchange).await? {
            Admission::New(proof) => {
                self.hand_over(proof.id()).await?;
                proof.id()
            }
            Admission::Repeated(proof) => proof.id(),
        };
        self.outcome(id).await
    }

    /// How an exchange ended; only the store says so.
    async fn outcome(&self, id: MessageId) -> Result<Exchanged, ExchangeError> {
        let found = self.load(id).await?;
        if found.delivery.exchange_until.is_none() {
            // It was handed in before without waiting.
            return Err(IntakeError::Conflict(id).into());
        }
        match &found.delivery.state {
            State::Delivered => {
                let answer = found.events.iter().rev().find_map(|event| match event.kind {
                    EventKind::Replied { reply } => Some(reply),
                    _ => None,
                });
                let answer = match answer {
                    Some(reply) => Some(self.load(reply).await?),
                    None => None,
                };
                Ok(Exchanged { request: found, answer })
            }
            State::Dead { reason: DeadReason::SyncUnknown { last } } => {
                Err(ExchangeError::Unknown(last.clone()))
            }
            State::Dead { reason } => Err(ExchangeError::Failed(reason.last().clone())),
            State::Cancelled | State::Expired | State::Rejected { .. } => {
                Err(ExchangeError::Failed(reason(found.delivery.state.as_str(), "it ended before")))
            }
            State::Accepted { .. }
            | State::Queued
            | State::Waiting { .. }
            | State::Attempting { .. }
            | State::Fetched
            | State::Acknowledged => Err(ExchangeError::UnderWay),
        }
    }

    async fn load(&self, id: MessageId) -> Result<StoredMessage, ExchangeError> {
        let missing = || StoreError::Damaged { id, detail: "the record is missing".to_owned() };
        Ok(self.ports.store.load(id).await?.ok_or_else(missing)?)
    }

    /// The one attempt. What it leads to is written down before this returns, or somebody else has ended the exchange.
    async fn hand_over(&self, id: MessageId) -> Result<(), ExchangeError> {
        let found = self.load(id).await?;
        let began = self.ports.clock.now();
        let holds = self.ports.controls.holds();
        let on_destination =
            found.delivery.destination.as_ref().and_then(|one| holds.on_destination(one, began));
        if on_destination.or_else(|| holds.on_message(&found.message, found.route(), began)).is_some() {
            let held = reason("held", "an operator holds the destination or the message");
            return self.write(id, &found.delivery, vec![Input::Unanswered(held)]).await.map(drop);
        }
        let (Some(route), Some(document)) = (found.route(), found.message.parts.first()) else {
            let damaged = reason("damaged", "the record has no route or no document");
            return self.write(id, &found.delivery, vec![Input::Unanswered(damaged)]).await.map(drop);
        };
        let seal = match self.ports.sealer.seal(SealRequest { document: document.sha256, at: began }).await {
            Ok(seal) => seal,
            Err(error) => {
                tracing::error!(message.id = %id, error = &error as &dyn std::error::Error, "Sealing failed.");
                self.ports.observer.record(Observation::SealFailed { id });
                let failed = reason("seal-failed", "the gateway cannot sign now");
                return self.write(id, &found.delivery, vec![Input::Unanswered(failed)]).await.map(drop);
            }
        };
        let until = found.delivery.exchange_until.unwrap_or(began);
        let begin = vec![Input::Sealed(seal.clone()), Input::StartAttempt { until }];
        let Some(started) = self.write(id, &found.delivery, begin).await? else { return Ok(()) };
        let State::Attempting { token, .. } = started.state else { return Ok(()) };
        let handover = Handover {
            message: Arc::clone(&found.message),
            route: Box::new(route.clone()),
            seal,
            attempt: started.attempts,
            store: Arc::clone(&self.ports.store),
        };
        let channel = route.destination.channel;
        let ended = tokio::select! {
            biased;
            ended = self.ask(channel, &handover) => ended,
            () = self.ports.clock.sleep(self.within) => {
                ExchangeOutcome::Unknown(reason("timeout", "no answer within the time of an exchange"))
            }
        };
        let (failure, inputs) = match ended {
            ExchangeOutcome::Answered(answer) => {
                let proof = answer.proof.clone();
                match self.keep(&found, *answer).await {
                    Ok(reply) => (None, vec![Input::Succeeded { token, proof }, Input::Replied { reply }]),
                    Err(error) => {
                        tracing::error!(message.id = %id, error = &error as &dyn std::error::Error, "An answer cannot be kept.");
                        let lost =
                            reason("answer-not-kept", "the recipient answered; the answer cannot be kept");
                        failed(token, FailureClass::Ours, lost)
                    }
                }
            }
            ExchangeOutcome::Delivered(proof) => (None, vec![Input::Succeeded { token, proof }]),
            ExchangeOutcome::Failed(last) => failed(token, FailureClass::Permanent, last),
            ExchangeOutcome::Unknown(last) => failed(token, FailureClass::Transient, last),
        };
        let elapsed = self.ports.clock.now().duration_since(began).unsigned_abs();
        self.ports.observer.record(Observation::Attempt { id, channel, failure, elapsed });
        if let Some(Input::Failed { reason, .. }) = inputs.first() {
            tracing::warn!(message.id = %id, code = reason.code, detail = reason.detail, "An exchange failed.");
            self.ports.observer.record(Observation::Dead { id, code: &reason.code });
        }
        self.write(id, &started, inputs).await.map(drop)
    }

    async fn ask(&self, channel: ChannelKind, handover: &Handover) -> ExchangeOutcome {
        match self.ports.exchangers.iter().find(|one| one.kind() == channel) {
            Some(exchanger) => exchanger.exchange(handover).await,
            None => ExchangeOutcome::Failed(reason("no-channel", "nothing answers at once on this way")),
        }
    }

    /// Stores the answer as a message of the recipient, once for each exchange.
    async fn keep(&self, about: &StoredMessage, answer: InstantAnswer) -> Result<MessageId, StoreError> {
        let now = self.ports.clock.now();
        let asked = &about.message;
        let unusable = || StoreError::Damaged { id: asked.id, detail: "it has no recipient".to_owned() };
        let sender = about.delivery.destination.as_ref().ok_or_else(unusable)?.organization.clone();
        let to = asked.reply_to().clone();
        let metadata = Metadata {
            recipient: Some(to.clone()),
            area: None,
            in_reply_to: Some(asked.id),
            ordering_key: None,
            ..answer.metadata
        };
        let gateway = GATEWAY.parse().map_err(|_| unusable())?;
        let value = format!("answer-{}", asked.id.uuid()).parse().map_err(|_| unusable())?;
        let key = IntakeKey { account: gateway, scheme: IdScheme::Client, value };
        let message = Message {
            id: self.ids.next(now, self.ports.entropy.as_ref()),
            received_at: now,
            account: key.account.clone(),
            sender,
            content: content_digest(&metadata, b"", &answer.parts),
            metadata,
            parts: answer.parts,
            external_ids: answer.external_ids,
            carried: answer.carried,
        };
        let proof = Some(Proof("answer to a sender that waited for it".to_owned()));
        let events = vec![
            Event { at: now, kind: EventKind::Received { account: key.account.clone() } },
            Event { at: now, kind: EventKind::Delivered { proof, mailbox: None } },
        ];
        let (id, delivery) = (message.id, Delivery::new(&message, None).handed_back(to));
        let (message, answered) = (Arc::new(message), Bytes::new());
        let acceptance =
            Acceptance { key, message, delivery, events, answer: answered, payload: answer.payload };
        match self.ports.store.accept(acceptance).await? {
            Accepted::First => Ok(id),
            Accepted::Seen(earlier) => Ok(earlier.id),
        }
    }

    /// Applies inputs one after the other and commits them together; `None` if somebody else was faster.
    async fn write(
        &self,
        id: MessageId,
        before: &Delivery,
        inputs: Vec<Input>,
    ) -> Result<Option<Delivery>, ExchangeError> {
        let (mut delivery, mut events) = (before.clone(), Vec::new());
        for input in inputs {
            // What ended on the way (its time is over) takes no more.
            let Ok(next) = delivery.apply(input, self.ports.clock.now()) else { break };
            delivery = next.delivery;
            events.extend(next.events);
        }
        if delivery.version == before.version {
            return Ok(None);
        }
        let change = Change { id, expected: before.version, delivery: delivery.clone(), events };
        match self.ports.store.commit(vec![change]).await {
            Ok(()) => Ok(Some(delivery)),
            Err(CommitError::Stale(_)) => Ok(None),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}

fn reason(code: &str, detail: &str) -> FailureReason {
    FailureReason { code: code.to_owned(), detail: detail.to_owned() }
}

/// The end of an attempt without an answer.
fn failed(token: u64, class: FailureClass, reason: FailureReason) -> (Option<FailureClass>, Vec<Input>) {
    let last = reason.clone();
    let dead = match class {
        FailureClass::Permanent => DeadReason::SyncFailed { last },
        FailureClass::Transient | FailureClass::Destination | FailureClass::Ours => {
            DeadReason::SyncUnknown { last }
        }
    };
    (Some(class), vec![Input::Failed { token, class, reason, next: Err(dead) }])
}
