//! Driving port for everything that hands messages in: check, route, commit, answer.
//!
//! Invariant: an answer is given only for what the store has made durable (promise P1); the proof is [`Committed`], which
//! nothing outside this module can make.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::delivery::{Delivery, Event, EventKind, FailureReason};
use crate::id::{MessageId, MessageIdSource};
use crate::key::{AreaKey, PartyId};
use crate::mailbox::add;
use crate::message::{Carried, ExternalId, IntakeKey, Message, Metadata, Part, Sha256Digest, content_digest};
use crate::port::{
    Acceptance, Accepted, Clock, DuplicateOf, Entropy, IntakeOutcome, MessageStore, Observation, Observer,
    Staged, StoreError,
};
use crate::route::{ChannelKind, Endpoint, LookupRequest, OutcomeKind, Resolution, Route, Router};
use crate::wake::Wake;

/// What a face hands in after it has received everything.
#[derive(Debug)]
pub struct Submission {
    /// Key under which the intake is idempotent.
    pub key: IntakeKey,
    /// Party it is submitted for.
    pub sender: PartyId,
    /// What the author said.
    pub metadata: Metadata,
    /// Document first.
    pub parts: Vec<Part>,
    /// The body.
    pub payload: Staged,
    /// Ids the sender gave it.
    pub external_ids: Vec<ExternalId>,
    /// Metadata of the protocol it came in.
    pub carried: Vec<Carried>,
    /// What its author says in `carried`, in a form in which equal statements are equal bytes.
    pub canonical: Vec<u8>,
    /// How it finds its way.
    pub target: Target,
    /// The id that was given out for it before; `None`: it gets one.
    pub reserved: Option<MessageId>,
    /// What happens if the recipient's certificate cannot be used now.
    pub unusable_certificate: UnusableCertificate,
}

/// What happens to a submission whose recipient is known, but not its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnusableCertificate {
    /// It is refused at once, so that the sender can tell somebody.
    Refuse,
    /// It is accepted and waits for a better one, like for a directory that is down.
    Wait,
}

/// How a submission finds its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By its metadata: responsibility resolution, or the named recipient and its service.
    Resolved,
    /// It answers an earlier message: into the recipient's mailbox here.
    Reply,
    /// It names no service: into the recipient's mailbox here, if somebody here serves the recipient.
    LocalMailbox,
    /// Its sender names the address of the recipient.
    Given(Endpoint),
}

/// Proof that a message is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    id: MessageId,
    answer: Bytes,
}

impl Committed {
    /// The message.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The stored answer to the sender.
    pub fn answer(&self) -> &Bytes {
        &self.answer
    }
}

/// Good end of an intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A new message.
    New(Committed),
    /// Same key, same content: the proof of the first.
    Repeated(Committed),
}

/// A field of the metadata that contradicts the others or the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct MetadataProblem {
    /// Name of the field as on the wire.
    pub field: &'static str,
    /// What is wrong, without the value.
    pub problem: &'static str,
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The author's statements contradict each other.
    #[error("metadata refused: {0}")]
    Metadata(MetadataProblem),
    /// There is no route, with the explanation.
    #[error("no route: {}", .0.outcome.as_str())]
    Refused(Box<Resolution>),
    /// The key was used for other content.
    #[error("the key was used for other content, message {0}")]
    Conflict(MessageId),
    /// Its sender wants to wait for the answer, but its way cannot be found now.
    #[error("the way cannot be found now")]
    RouteOpen,
    /// Its sender wants to wait for the answer, and nothing on its way answers at once.
    #[error("the recipient does not answer at once")]
    OnlyAsynchronous,
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Renders the answer that is stored with a message and repeated to duplicates.
pub type RenderAnswer<'a> = &'a (dyn Fn(&Message, &Delivery, Option<&Route>) -> Bytes + Sync);

/// Takes submissions.
pub struct Intake {
    store: Arc<dyn MessageStore>,
    router: Arc<Router>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    observer: Arc<dyn Observer>,
    wake: Arc<Wake>,
    ids: MessageIdSource,
    deadline_warning: Duration,
}

/// How long before a deadline is spoken of, unless configured otherwise.
pub const DEADLINE_WARNING: Duration = Duration::from_secs(24 * 3600);

impl Intake {
    /// An intake over its ports.
    pub fn new(
        store: Arc<dyn MessageStore>,
        router: Arc<Router>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        observer: Arc<dyn Observer>,
        wake: Arc<Wake>,
    ) -> Self {
        let (ids, deadline_warning) = (MessageIdSource::default(), DEADLINE_WARNING);
        Self { store, router, clock, entropy, observer, wake, ids, deadline_warning }
    }

    /// Gives ids behind the one that was given last, also if the clock was set back since: acceptance decides the order of
    /// messages with the same ordering key.
    #[must_use]
    pub fn going_on_after(self, newest: Option<MessageId>) -> Self {
        if let Some(newest) = newest {
            self.ids.go_on_after(newest);
        }
        self
    }

    /// Speaks of deadlines so long before they pass.
    #[must_use]
    pub fn warning_before_deadlines(self, lead: Duration) -> Self {
        Self { deadline_warning: lead, ..self }
    }

    /// Accepts a submission. Cancel-safe until the store commits; after that the message is accepted even if the caller is gone.
    ///
    /// # Errors
    /// See [`IntakeError`]; nothing is stored then and the key is not used up.
    pub async fn accept(
        &self,
        submission: Submission,
        render: RenderAnswer<'_>,
    ) -> Result<Admission, IntakeError> {
        self.accept_in(submission, None, render).await
    }

    /// Accepts a submission whose sender waits for the answer.
    ///
    /// # Errors
    /// As [`Self::accept`], and [`IntakeError::OnlyAsynchronous`].
    pub(crate) async fn accept_exchange(
        &self,
        submission: Submission,
        exchange: Exchange<'_>,
    ) -> Result<Admission, IntakeError> {
        self.accept_in(submission, Some(exchange), &|_, _, _| Bytes::new()).await
    }

    async fn accept_in(
        &self,
        submission: Submission,
        exchange: Option<Exchange<'_>>,
        render: RenderAnswer<'_>,
    ) -> Result<Admission, IntakeError> {
        let (started, scheme) = (self.clock.now(), submission.key.scheme);
        let result = self.admit(submission, exchange, started, render).await;
        let outcome = match &result {
            Ok(Admission::New(_)) => IntakeOutcome::Accepted,
            Ok(Admission::Repeated(_)) => IntakeOutcome::Duplicate,
            Err(IntakeError::Conflict(_)) => IntakeOutcome::Conflict,
            Err(
                IntakeError::Metadata(_)
                | IntakeError::Refused(_)
                | IntakeError::OnlyAsynchronous
                | IntakeError::RouteOpen,
            ) => IntakeOutcome::Refused,
            Err(IntakeError::Store(_)) => IntakeOutcome::Failed,
        };
        let elapsed = self.clock.now().duration_since(started).unsigned_abs();
        self.observer.record(Observation::Intake { scheme, outcome, elapsed });
        result
    }

    async fn admit(
        &self,
        submission: Submission,
        exchange: Option<Exchange<'_>>,
        now: Timestamp,
        render: RenderAnswer<'_>,
    ) -> Result<Admission, IntakeError> {
        let content = content_digest(&submission.metadata, &submission.canonical, &submission.parts);
        let examined = match self.examine(&submission, now).await {
            Ok(route) => check_exchange(route, exchange, &submission.metadata, now),
            Err(refusal) => Err(refusal),
        };
        let route = match examined {
            Ok(route) => route,
            // A duplicate stays a duplicate even if it would be refused today.
            Err(refusal) => {
                let earlier = self.store.intake(&submission.key).await?;
                return earlier.map_or(Err(refusal), |earlier| repeated(earlier, content));
            }
        };
        let id = submission.reserved.unwrap_or_else(|| self.ids.next(now, self.entropy.as_ref()));
        let message = Arc::new(Message {
            id,
            received_at: now,
            account: submission.key.account.clone(),
            sender: submission.sender,
            metadata: submission.metadata,
            parts: submission.parts,
            content,
            external_ids: submission.external_ids,
            carried: submission.carried,
        });
        let (delivery, events) = first_state(&message, route.as_deref().map_err(String::as_str), now);
        let delivery = delivery.warned_before(self.deadline_warning);
        let delivery = match exchange {
            Some(exchange) => delivery.answered_until(add(now, exchange.within)),
            None => delivery,
        };
        let answer = render(&message, &delivery, route.as_deref().ok());
        let acceptance = Acceptance {
            key: submission.key,
            message,
            delivery,
            events,
            answer: answer.clone(),
            payload: submission.payload,
        };
        match self.store.accept(acceptance).await? {
            Accepted::First => {
                self.wake.work();
                Ok(Admission::New(Committed { id, answer }))
            }
            Accepted::Seen(earlier) => repeated(earlier, content),
        }
    }

    /// The route, or why it is still open.
    async fn examine(
        &self,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<Result<Box<Route>, String>, IntakeError> {
        check(&submission.metadata, now).map_err(IntakeError::Metadata)?;
        let recipient = submission.metadata.recipient.clone().ok_or(IntakeError::Metadata(NO_TARGET));
        let request = match &submission.target {
            Target::Resolved => {
                LookupRequest::of(&submission.metadata).ok_or(IntakeError::Metadata(NO_TARGET))?
            }
            Target::Reply => {
                LookupRequest::Reply { service: submission.metadata.service.clone(), recipient: recipient? }
            }
            Target::LocalMailbox => LookupRequest::Mailbox { recipient: recipient? },
            Target::Given(endpoint) => {
                LookupRequest::Given { recipient: recipient?, endpoint: endpoint.clone() }
            }
        };
        let mut resolution = self.router.resolve(&request, now).await;
        match (resolution.route.take(), resolution.outcome) {
            (Some(route), _) => Ok(Ok(route)),
            (None, OutcomeKind::DirectoryUnavailable) => {
                Ok(Err(resolution.unavailable.unwrap_or_else(|| "no answer".to_owned())))
            }
            (None, OutcomeKind::CertificateUnusable)
                if submission.unusable_certificate == UnusableCertificate::Wait =>
            {
                Ok(Err("the recipient's certificate cannot be used".to_owned()))
            }
            (None, _) => Err(IntakeError::Refused(Box::new(resolution))),
        }
    }
}

/// How a sender waits for the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange<'a> {
    /// For so long.
    pub(crate) within: Duration,
    /// What answers at once.
    pub(crate) channels: &'a [ChannelKind],
}

/// Only what can go at once, to somebody who answers at once, can be waited for.
fn check_exchange(
    route: Result<Box<Route>, String>,
    exchange: Option<Exchange<'_>>,
    metadata: &Metadata,
    now: Timestamp,
) -> Result<Result<Box<Route>, String>, IntakeError> {
    let Some(exchange) = exchange else { return Ok(route) };
    if metadata.not_before.is_some_and(|start| start > now) {
        let problem = "a message whose sender waits for the answer cannot wait itself";
        return Err(IntakeError::Metadata(MetadataProblem { field: "notBefore", problem }));
    }
    match route {
        Ok(route) if exchange.channels.contains(&route.destination.channel) => Ok(Ok(route)),
        Ok(_) => Err(IntakeError::OnlyAsynchronous),
        Err(_) => Err(IntakeError::RouteOpen),
    }
}

const NO_TARGET: MetadataProblem =
    MetadataProblem { field: "area", problem: "either area or recipient is required" };

fn repeated(earlier: DuplicateOf, content: Sha256Digest) -> Result<Admission, IntakeError> {
    if earlier.content != content {
        return Err(IntakeError::Conflict(earlier.id));
    }
    Ok(Admission::Repeated(Committed { id: earlier.id, answer: earlier.answer }))
}

fn first_state(message: &Message, route: Result<&Route, &str>, now: Timestamp) -> (Delivery, Vec<Event>) {
    let delivery = Delivery::new(message, route.ok());
    let received = EventKind::Received { account: message.account.clone() };
    let second = match route {
        Ok(route) => EventKind::Routed { route: Box::new(route.clone()) },
        Err(reason) => EventKind::RouteOpen {
            reason: FailureReason { code: "directory-unavailable".to_owned(), detail: reason.to_owned() },
            retry_at: now,
        },
    };
    (delivery, vec![Event { at: now, kind: received }, Event { at: now, kind: second }])
}

/// Statements that contradict each other or the clock. Shapes were checked when the fields were parsed.
fn check(metadata: &Metadata, now: Timestamp) -> Result<(), MetadataProblem> {
    let wrong = |field, problem| Err(MetadataProblem { field, problem });
    if metadata.recipient.is_some() && metadata.area.is_some() {
        return wrong("area", "must be absent when a recipient is named");
    }
    if matches!(metadata.area, Some(AreaKey::Plz(_))) {
        return wrong("area", "a postcode does not decide; name the municipality by ars or ags");
    }
    if metadata.expires_at.is_some_and(|end| end <= now) {
        return wrong("expiresAt", "lies in the past");
    }
    if metadata.deadline.is_some_and(|end| end <= now) {
        return wrong("deadline", "lies in the past");
    }
    if let (Some(start), Some(end)) = (metadata.not_before, metadata.expires_at)
        && start >= end
    {
        return wrong("notBefore", "must be before expiresAt");
    }
    if let (Some(start), Some(end)) = (metadata.not_before, metadata.deadline)
        && start >= end
    {
        return wrong("notBefore", "must be before the deadline");
    }
    Ok(())
}
