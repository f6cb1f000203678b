use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::note::{KeptNote, Note, NoteKind};
use super::search::{Search, SearchPage};
use crate::delivery::{Delivery, Event, SealRecord};
use crate::hold::HoldKey;
use crate::id::{LeaseId, MessageId};
use crate::key::{AccountName, CaseId, PartyId};
use crate::message::{IdScheme, IntakeKey, Message, PartNumber, Priority, Sha256Digest};
use crate::route::{Destination, Route};

/// Writes the payload of a submission that is not accepted yet. Dropped without [`PayloadWriter::finish`], it leaves nothing.
#[async_trait]
pub trait PayloadWriter: Send {
    /// Appends bytes. Large payloads go to disk as they come; memory stays bounded.
    ///
    /// # Errors
    /// When the store is full or sick.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Ends writing. The result is only worth something in an [`Acceptance`].
    ///
    /// # Errors
    /// When the store is full or sick.
    async fn finish(self: Box<Self>) -> Result<Staged, StoreError>;
}

/// A complete payload that waits for its acceptance.
#[derive(Debug)]
pub enum Staged {
    /// Small enough to travel inside the record.
    Inline(Vec<Bytes>),
    /// In a file of the store; removed again when dropped unused.
    File(Box<dyn StagedFile>),
}

/// A payload in a file the store understands.
pub trait StagedFile: Send + Sync + std::fmt::Debug {
    /// Lets the store that made it have it back.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// Everything that becomes durable in one step when a message is accepted.
#[derive(Debug)]
pub struct Acceptance {
    /// Key under which the intake is idempotent.
    pub key: IntakeKey,
    /// The message.
    pub message: Arc<Message>,
    /// Its delivery.
    pub delivery: Delivery,
    /// First lines of its ProcessCard, the route among them.
    pub events: Vec<Event>,
    /// Answer to the sender, repeated byte for byte to a duplicate.
    pub answer: Bytes,
    /// The body.
    pub payload: Staged,
}

/// A message that was accepted earlier under the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateOf {
    /// The message.
    pub id: MessageId,
    /// Digest of its content.
    pub content: Sha256Digest,
    /// The answer given then.
    pub answer: Bytes,
}

/// Result of [`MessageStore::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// The message is durable now.
    First,
    /// The key was used before; nothing was stored.
    Seen(DuplicateOf),
}

/// A change of one delivery, to be committed if nobody else changed it meanwhile.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which message.
    pub id: MessageId,
    /// Version the stored delivery must have.
    pub expected: u64,
    /// The delivery after the change.
    pub delivery: Delivery,
    /// Lines for the ProcessCard.
    pub events: Vec<Event>,
}

/// Why the store cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room left; intake stops.
    #[error("the store has no room left")]
    Full,
    /// A record cannot be read; it is quarantined.
    #[error("a record of message {id} is damaged")]
    Damaged {
        /// Which message.
        id: MessageId,
        /// What is wrong.
        detail: String,
    },
    /// The payload is gone after its retention.
    #[error("the payload of message {id} was removed after its retention")]
    Removed {
        /// Which message.
        id: MessageId,
    },
    /// The disk fails.
    #[error("the store failed while {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The store has stopped after an earlier fault; nothing is accepted or handed out.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a change was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else changed the delivery first. Nothing of the whole batch was committed.
    #[error("message {0} was changed by somebody else")]
    Stale(MessageId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stored message with everything that happened to it.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// The message.
    pub message: Arc<Message>,
    /// Where it stands.
    pub delivery: Delivery,
    /// Its ProcessCard.
    pub events: Vec<Event>,
}

impl StoredMessage {
    /// The route in force: the last decision on the ProcessCard.
    pub fn route(&self) -> Option<&Route> {
        self.events.iter().rev().find_map(|event| match &event.kind {
            crate::delivery::EventKind::Routed { route } => Some(route.as_ref()),
            _ => None,
        })
    }

    /// The seal over the document.
    pub fn seal(&self) -> Option<&SealRecord> {
        self.events.iter().rev().find_map(|event| match &event.kind {
            crate::delivery::EventKind::Sealed(seal) => Some(seal),
            _ => None,
        })
    }
}

/// A delivery without its message.
#[derive(Debug, Clone)]
pub struct HeadEntry {
    /// Which message.
    pub id: MessageId,
    /// Where it stands.
    pub delivery: Delivery,
}

/// A message that waits for a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Which message.
    pub id: MessageId,
    /// When it is due.
    pub due: Timestamp,
}

/// Which messages: those an account handed in, and those that go to some organisations.
#[derive(Debug, Clone, Default)]
pub struct SubmissionFilter {
    /// Who handed them in.
    pub account: Option<AccountName>,
    /// Where they go.
    pub organizations: Vec<PartyId>,
    /// Of one case only.
    pub case_id: Option<CaseId>,
    /// In one shown state only.
    pub state: Option<String>,
}

impl SubmissionFilter {
    /// Whether a delivery passes.
    pub fn matches(&self, delivery: &Delivery) -> bool {
        let goes_there = |destination: &Destination| self.organizations.contains(&destination.organization);
        (self.account.as_ref() == Some(&delivery.account)
            || delivery.destination.as_ref().is_some_and(goes_there))
            && self.case_id.as_ref().is_none_or(|wanted| delivery.case_id.as_ref() == Some(wanted))
            && self.state.as_deref().is_none_or(|wanted| delivery.shown_state() == wanted)
    }
}

/// Where a message stands in its mailbox. Orders like the handing out: class, deadline (none last), acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxPlace {
    /// First order.
    pub class: Priority,
    /// Second order, none last.
    pub deadline: Option<Timestamp>,
    /// Which message.
    pub id: MessageId,
}

/// Where a listing of dead letters continues; oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadCursor {
    /// When the last one seen died.
    pub since: Timestamp,
    /// Which it was.
    pub id: MessageId,
}

/// What waits, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Where it goes.
    pub destination: Destination,
    /// Messages that are not with their department yet, however they wait.
    pub messages: u64,
    /// The one that was accepted first.
    pub oldest: MessageId,
}

/// Everything that waits, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Per destination.
    pub waiting: Vec<Tally>,
    /// Dead letters.
    pub dead: u64,
}

/// Where a listing continues; newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub MessageId);

/// Reads one part in pieces. Cancel-safe.
#[async_trait]
pub trait PartReader: Send {
    /// Next piece; `None` at the end.
    ///
    /// # Errors
    /// When the store cannot read on.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Why it does not commit, if it does not.
    pub stopped: Option<String>,
    /// Whether it refuses new messages for want of room.
    pub full: bool,
    /// Why somebody should give it more room, before it is full.
    pub low: Option<String>,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Committed changes that the index does not hold yet.
    pub index_lag: u64,
    /// Bytes of the journal that the search does not know yet.
    pub search_lag: u64,
    /// Reports about damaged records since the start.
    pub quarantined: u64,
}

/// Keeps messages. The contract, proven by one suite for every store:
///
/// - [`accept`](Self::accept) and [`commit`](Self::commit) return only after the change is on stable storage (promise P1), and are
///   atomic: all of it or nothing, whatever instant the process dies at. Once called they finish even if the caller is gone.
/// - The check of an intake key and the storing of its message are one step; a concurrent duplicate waits for the first.
/// - `commit` compares versions: a change is taken only if the stored version is the expected one.
/// - What was written is seen by every later read.
/// - Listings are bounded by `limit`, in the documented order.
/// - Of messages with the same ordering key and destination only the first that is still [in line](Delivery::line_key) is
///   ready or in its mailbox; when it leaves the line, in whatever way, the next one follows in the same step.
#[async_trait]
pub trait MessageStore: Send + Sync {
    /// Begins a payload.
    ///
    /// # Errors
    /// When the store is full or sick.
    async fn stage(&self) -> Result<Box<dyn PayloadWriter>, StoreError>;

    /// What is known of an intake key. For submissions that would be refused; [`Self::accept`] checks by itself.
    ///
    /// # Errors
    /// When the store is sick.
    async fn intake(&self, key: &IntakeKey) -> Result<Option<DuplicateOf>, StoreError>;

    /// Makes a message durable, unless its key was used before.
    ///
    /// # Errors
    /// When the store is full or sick; nothing is stored then.
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError>;

    /// Commits changes of several deliveries, all or none.
    ///
    /// # Errors
    /// [`CommitError::Stale`] if any version differs.
    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        self.commit_with(changes, Vec::new()).await
    }

    /// Commits changes together with notes, all or none.
    ///
    /// # Errors
    /// [`CommitError::Stale`] if any version differs.
    async fn commit_with(&self, changes: Vec<Change>, notes: Vec<Note>) -> Result<(), CommitError>;

    /// Notes of a kind by name, beginning after `after`.
    ///
    /// # Errors
    /// When the store is sick.
    async fn notes(
        &self,
        kind: NoteKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeptNote>, StoreError>;

    /// A delivery.
    ///
    /// # Errors
    /// When the store is sick.
    async fn head(&self, id: MessageId) -> Result<Option<Delivery>, StoreError>;

    /// A message with its delivery and its ProcessCard.
    ///
    /// # Errors
    /// When the store is sick or the record is damaged.
    async fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError>;

    /// Opens a part at an offset; `None` if there is no such message or part.
    ///
    /// # Errors
    /// When the payload is gone or damaged, or the store is sick.
    async fn open_part(
        &self,
        id: MessageId,
        part: PartNumber,
        offset: u64,
    ) -> Result<Option<Box<dyn PartReader>>, StoreError>;

    /// Messages to be routed and sealed, oldest first, after `after`.
    ///
    /// # Errors
    /// When the store is sick.
    async fn to_prepare(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<MessageId>, StoreError>;

    /// Timers, the most overdue first, also those that lie in the future: up to `limit` of
    /// [`Placement::Timer`](crate::delivery::Placement) and up to `limit` of [`Delivery::alarm`], so that neither waits behind the
    /// other. A message with both is there twice.
    ///
    /// # Errors
    /// When the store is sick.
    async fn timers(&self, limit: usize) -> Result<Vec<Timer>, StoreError>;

    /// Destinations with messages that are ready for an attempt, each once, after `after` in an order of the store's own that does
    /// not change.
    ///
    /// # Errors
    /// When the store is sick.
    async fn waiting_destinations(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<Destination>, StoreError>;

    /// Messages ready for an attempt at a destination: class, deadline, acceptance. Begins with the first of class `from`.
    ///
    /// # Errors
    /// When the store is sick.
    async fn ready(
        &self,
        destination: &Destination,
        from: Priority,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError>;

    /// Items free in a mailbox, in the order of handing out: class, deadline, acceptance; beginning behind `after`.
    ///
    /// # Errors
    /// When the store is sick.
    async fn mailbox(
        &self,
        mailbox: &PartyId,
        after: Option<MailboxPlace>,
        limit: usize,
    ) -> Result<Vec<MailboxPlace>, StoreError>;

    /// Messages to which somebody gave this id; ids are compared without regard to case. Oldest first. Several accounts may use the
    /// same id. Ids of the scheme `client` are not found.
    ///
    /// # Errors
    /// When the store is sick.
    async fn by_external_id(
        &self,
        scheme: IdScheme,
        value: &str,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError>;

    /// What holds single messages back, each hold once, after `after` in an order of the store's own that does not change.
    ///
    /// # Errors
    /// When the store is sick.
    async fn holding(&self, after: Option<&HoldKey>, limit: usize) -> Result<Vec<HoldKey>, StoreError>;

    /// Messages a hold keeps back, in the order in which they go on: class, deadline, acceptance.
    ///
    /// # Errors
    /// When the store is sick.
    async fn held(&self, hold: &HoldKey, limit: usize) -> Result<Vec<MessageId>, StoreError>;

    /// Dead letters, those that died first first, beginning after the cursor.
    ///
    /// # Errors
    /// When the store is sick.
    async fn dead(&self, after: Option<DeadCursor>, limit: usize) -> Result<Vec<HeadEntry>, StoreError>;

    /// Counts what waits. Reads every queue; for a look every few seconds, not for every request.
    ///
    /// # Errors
    /// When the store is sick.
    async fn tally(&self) -> Result<Tallies, StoreError>;

    /// The message that was accepted last.
    ///
    /// # Errors
    /// When the store is sick.
    async fn newest(&self) -> Result<Option<MessageId>, StoreError>;

    /// Messages a lease holds.
    ///
    /// # Errors
    /// When the store is sick.
    async fn leased(&self, lease: LeaseId) -> Result<Vec<MessageId>, StoreError>;

    /// Messages that pass a filter, newest first, beginning after the cursor. May return fewer than `limit` together with a
    /// cursor when it has looked at enough for one call.
    ///
    /// # Errors
    /// When the store is sick.
    async fn submissions(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), StoreError>;

    /// Messages that pass a search, newest first, beginning after the cursor. What was committed a moment ago may be missing; the
    /// answer says so. A call looks for a tenth of a second at most and may return fewer than `limit` together with a cursor.
    ///
    /// # Errors
    /// When the store is sick.
    async fn search(
        &self,
        search: &Search,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<SearchPage, StoreError>;

    /// Messages finished before a time; with or without their payload.
    ///
    /// # Errors
    /// When the store is sick.
    async fn finished(
        &self,
        before: Timestamp,
        stripped: bool,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError>;

    /// Forgets finished messages altogether, their intake keys included.
    ///
    /// # Errors
    /// When the store is sick.
    async fn forget(&self, ids: Vec<MessageId>) -> Result<(), StoreError>;

    /// Gives space of removed payloads and forgotten messages back. May do nothing; called regularly.
    ///
    /// # Errors
    /// When the store is sick.
    async fn reclaim(&self, now: Timestamp) -> Result<(), StoreError>;

    /// How the store is. Cheap.
    fn status(&self) -> StoreStatus;
}
