//! Driving port for operators: hold and release, look after dead letters, see what waits. Every change is written into the
//! audit trail in the same step (design section 8).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};

use crate::audit::{self, AuditEntry};
use crate::control::Controls;
use crate::delivery::{Delivery, Input, Order, Refusal, State};
use crate::engine::{OpenBreaker, Policies};
use crate::hold::{Hold, HoldKey};
use crate::id::MessageId;
use crate::key::{AccountName, CaseId};
use crate::message::IdScheme;
use crate::port::{
    Change, Clock, CommitError, Cursor, DeadCursor, Entropy, HeadEntry, KeptNote, MessageStore, NoteKind,
    Search, SearchPage, StoreError, StoredMessage,
};
use crate::route::{ChannelKind, Destination, LookupRequest, Resolution, Route, Router};
use crate::wake::Wake;

mod bulk;

pub use bulk::{Bulk, BulkFailure, BulkProblem, Job, JobState};

/// Why an operator's request was refused. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// Nobody here knows what is to be held.
    #[error("no {0} of that name is known here")]
    UnknownTarget(&'static str),
    /// The end of a hold is over already.
    #[error("the end lies in the past")]
    EndsInThePast,
    /// There is no such hold.
    #[error("there is no such hold")]
    NotHeld,
    /// There is no such message.
    #[error("no such message")]
    UnknownMessage,
    /// There is no such bulk operation.
    #[error("no such bulk operation")]
    UnknownJob,
    /// The state of the message does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no other way for the message.
    #[error("there is no route: {}", .0.outcome.as_str())]
    NoRoute(Box<Resolution>),
    /// The bulk operation is not what anybody wants.
    #[error(transparent)]
    Bulk(#[from] BulkProblem),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to do with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// On its way again, with new retries.
    Redrive,
    /// Ask for the responsible authority anew, then on its way.
    Reroute,
    /// Give it up; the sender is told.
    Cancel,
}

impl Action {
    /// As written in requests and in the audit trail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Reroute => "reroute",
            Self::Cancel => "cancel",
        }
    }
}

/// Which dead letters. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadFilter {
    /// For one destination only.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "written")]
    pub destination: Option<Destination>,
    /// Of one sender's account only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountName>,
    /// Of one case only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case_id: Option<CaseId>,
    /// With one code of the last failure only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// That died before a time only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
}

/// A destination as `channel/prefix:key`.
mod written {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::route::Destination;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Destination>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(destination) => serializer.collect_str(destination),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Destination>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

impl DeadFilter {
    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a delivery passes; only dead ones do.
    pub fn matches(&self, delivery: &Delivery) -> bool {
        let State::Dead { reason } = &delivery.state else { return false };
        self.destination.as_ref().is_none_or(|wanted| delivery.destination.as_ref() == Some(wanted))
            && self.account.as_ref().is_none_or(|wanted| delivery.account == *wanted)
            && self.case_id.as_ref().is_none_or(|wanted| delivery.case_id.as_ref() == Some(wanted))
            && self.code.as_ref().is_none_or(|wanted| reason.last().code == *wanted)
            && self.before.is_none_or(|before| delivery.since < before)
    }
}

/// A destination with what waits for it and what stands in the way.
#[derive(Debug, Clone)]
pub struct DestinationStatus {
    /// Which.
    pub destination: Destination,
    /// Messages that are not with the department yet.
    pub messages: u64,
    /// When the one that was accepted first was accepted.
    pub oldest: Option<Timestamp>,
    /// Whether an operator holds it.
    pub hold: Option<Hold>,
    /// Whether it is out of order.
    pub breaker: Option<OpenBreaker>,
}

/// What waits, and what stands in the way.
#[derive(Debug, Clone)]
pub struct Overview {
    /// By destination.
    pub destinations: Vec<DestinationStatus>,
    /// Dead letters.
    pub dead: u64,
}

/// Messages that were found.
#[derive(Debug)]
pub struct FoundPage {
    /// The messages, newest first.
    pub messages: Vec<StoredMessage>,
    /// Where to go on, if there may be more.
    pub next: Option<Cursor>,
    /// Bytes of the journal the search does not know yet.
    pub behind: u64,
}

/// What the operations work with.
pub struct OperationPorts {
    /// Truth.
    pub store: Arc<dyn MessageStore>,
    /// The holds.
    pub controls: Arc<Controls>,
    /// Ways to authorities.
    pub router: Arc<Router>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of notes.
    pub entropy: Arc<dyn Entropy>,
    /// Signals.
    pub wake: Arc<Wake>,
    /// How destinations are served.
    pub policies: Policies,
}

/// What operators may do.
pub struct Operations {
    ports: OperationPorts,
    /// One change of a bulk operation at a time.
    job: Mutex<()>,
    submitted: Notify,
}

/// Dead letters read at a time.
const PAGE: usize = 256;
/// Dead letters looked at in one listing.
const SCAN: usize = 10_000;
/// Messages with the same external id that are found.
const SAME_ID_MAX: usize = 16;

impl Operations {
    /// Operations over their ports.
    pub fn new(ports: OperationPorts) -> Arc<Self> {
        Arc::new(Self { ports, job: Mutex::default(), submitted: Notify::default() })
    }

    /// The policy in force for a destination.
    pub fn policies(&self) -> &Policies {
        &self.ports.policies
    }

    /// All holds.
    pub fn holds(&self) -> Vec<Hold> {
        self.ports.controls.holds().iter().cloned().collect()
    }

    /// Holds something, or changes the hold on it. Returns the hold, and the one it replaces.
    ///
    /// # Errors
    /// When what is to be held is unknown here, or the end is over.
    pub async fn hold(
        &self,
        key: HoldKey,
        order: Order,
        until: Option<Timestamp>,
    ) -> Result<(Hold, Option<Hold>), OperationError> {
        let now = self.ports.clock.now();
        if until.is_some_and(|until| until <= now) {
            return Err(OperationError::EndsInThePast);
        }
        if !self.is_known(&key).await? {
            return Err(OperationError::UnknownTarget(key.scope()));
        }
        let services = match &key {
            HoldKey::Service(service) => self.ports.router.tables().services_of(service),
            HoldKey::Destination(_) | HoldKey::Account(_) | HoldKey::Message(_) => None,
        };
        let services = services.unwrap_or_default();
        let hold = Hold { key, services, reason: order.reason, since: now, until, by: order.by };
        let before = self.ports.controls.put(hold.clone()).await?;
        Ok((hold, before))
    }

    async fn is_known(&self, key: &HoldKey) -> Result<bool, StoreError> {
        let (tables, accounts) = (self.ports.router.tables(), self.ports.router.accounts());
        Ok(match key {
            HoldKey::Account(name) => accounts.iter().any(|account| account.name == *name),
            HoldKey::Service(service) => tables.services_of(service).is_some(),
            HoldKey::Message(id) => {
                let head = self.ports.store.head(*id).await?;
                head.is_some_and(|delivery| !delivery.is_finished())
            }
            HoldKey::Destination(destination) => {
                let organization = &destination.organization;
                tables.organizations().any(|key| key == organization)
                    || accounts.iter().any(|account| account.opens(organization))
                    || self
                        .ports
                        .store
                        .tally()
                        .await?
                        .waiting
                        .iter()
                        .any(|tally| tally.destination == *destination)
            }
        })
    }

    /// Releases what was held; a reason goes into the audit trail.
    ///
    /// # Errors
    /// [`OperationError::NotHeld`].
    pub async fn release(
        &self,
        key: &HoldKey,
        by: AccountName,
        reason: Option<String>,
    ) -> Result<Hold, OperationError> {
        let lifted = self.ports.controls.lift(key, by, reason, self.ports.clock.now()).await?;
        lifted.ok_or(OperationError::NotHeld)
    }

    /// Writes into the audit trail that somebody takes dead letters with their whole history.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn exporting(&self, filter: &DeadFilter, by: AccountName) -> Result<(), OperationError> {
        let entry = AuditEntry {
            at: self.ports.clock.now(),
            by,
            action: "export".to_owned(),
            target: "dead-letters".to_owned(),
            reason: None,
            before: None,
            after: serde_json::to_value(filter).ok(),
        };
        self.commit(Vec::new(), vec![entry.note(self.ports.entropy.as_ref())]).await
    }

    /// All destinations for which something waits, or which are held or out of order; and the number of dead letters. Reads all
    /// queues.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn overview(&self) -> Result<Overview, OperationError> {
        let mut found = BTreeMap::new();
        let blank = |destination: &Destination| DestinationStatus {
            destination: destination.clone(),
            messages: 0,
            oldest: None,
            hold: None,
            breaker: None,
        };
        let tallies = self.ports.store.tally().await?;
        for tally in tallies.waiting {
            let one = found.entry(tally.destination).or_insert_with_key(blank);
            (one.messages, one.oldest) = (tally.messages, tally.oldest.accepted_at());
        }
        for hold in self.holds() {
            if let HoldKey::Destination(destination) = hold.key.clone() {
                found.entry(destination).or_insert_with_key(blank).hold = Some(hold);
            }
        }
        for open in self.breakers().await? {
            let one = found.entry(open.destination.clone()).or_insert_with_key(blank);
            one.breaker = Some(open);
        }
        Ok(Overview { destinations: found.into_values().collect(), dead: tallies.dead })
    }

    /// All open breakers.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn breakers(&self) -> Result<Vec<OpenBreaker>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.ports.store.notes(NoteKind::Breaker, after.as_deref(), PAGE).await?;
            found.extend(page.iter().filter_map(KeptNote::read));
            match page.into_iter().last() {
                Some(last) => after = Some(last.name),
                None => return Ok(found),
            }
        }
    }

    /// Dead letters, those that died first first; possibly a short page with a cursor.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<DeadCursor>), OperationError> {
        let (mut found, mut cursor, mut looked_at) = (Vec::new(), after, 0);
        while looked_at < SCAN {
            let page = self.ports.store.dead(cursor, PAGE).await?;
            if page.is_empty() {
                return Ok((found, None));
            }
            for entry in page {
                if found.len() == limit {
                    return Ok((found, cursor));
                }
                looked_at += 1;
                cursor = Some(DeadCursor { since: entry.delivery.since, id: entry.id });
                if filter.matches(&entry.delivery) {
                    found.push(entry);
                }
            }
        }
        Ok((found, cursor))
    }

    /// Ways to authorities.
    pub fn router(&self) -> &Router {
        &self.ports.router
    }

    /// Messages with an id, whoever gave it: `urn:uuid:…`, the bare UUID, XTA's form of it, or an id of XTA or OSCI.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn find(&self, id: &str) -> Result<Vec<StoredMessage>, OperationError> {
        let id = id.trim();
        let own =
            id.strip_prefix("urn:uuid:").or(id.strip_prefix("urn:de:xta:messageid:amtsbote:")).unwrap_or(id);
        let mut ids: Vec<MessageId> = own.parse().ok().into_iter().collect();
        for scheme in [IdScheme::Xta, IdScheme::Osci] {
            ids.extend(self.ports.store.by_external_id(scheme, id, SAME_ID_MAX).await?);
        }
        ids.sort_unstable();
        ids.dedup();
        let mut found = Vec::new();
        for id in ids {
            found.extend(self.ports.store.load(id).await?);
        }
        Ok(found)
    }

    /// Messages that pass a search, newest first; possibly a short page with a cursor.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn search(
        &self,
        search: &Search,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<FoundPage, OperationError> {
        let SearchPage { found, next, behind } = self.ports.store.search(search, after, limit).await?;
        let mut messages = Vec::with_capacity(found.len());
        for one in found {
            match self.ports.store.load(one.id).await {
                Ok(stored) => messages.extend(stored),
                // One that cannot be read must not hide the others; the doctor names it.
                Err(StoreError::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(FoundPage { messages, next, behind })
    }

    /// Writes into the audit trail that somebody reads what people wrote in a message.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn reading(&self, id: MessageId, by: AccountName) -> Result<(), OperationError> {
        let entry = AuditEntry {
            at: self.ports.clock.now(),
            by,
            action: "read".to_owned(),
            target: id.to_string(),
            reason: None,
            before: None,
            after: None,
        };
        self.commit(Vec::new(), vec![entry.note(self.ports.entropy.as_ref())]).await
    }

    /// Writes into the audit trail that somebody signed in to the console with a role.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn signed_in(&self, by: AccountName, role: &str) -> Result<(), OperationError> {
        let entry = AuditEntry {
            at: self.ports.clock.now(),
            by,
            action: "sign-in".to_owned(),
            target: "console".to_owned(),
            reason: None,
            before: None,
            after: Some(role.into()),
        };
        self.commit(Vec::new(), vec![entry.note(self.ports.entropy.as_ref())]).await
    }

    /// A message with everything that happened to it.
    ///
    /// # Errors
    /// [`OperationError::UnknownMessage`].
    pub async fn message(&self, id: MessageId) -> Result<StoredMessage, OperationError> {
        self.ports.store.load(id).await?.ok_or(OperationError::UnknownMessage)
    }

    /// Does something with one message. `Cancel` and `Reroute` are possible as long as it is not handed out.
    ///
    /// # Errors
    /// When the message is unknown, its state does not allow it, or there is no route.
    pub async fn act(&self, action: Action, id: MessageId, order: Order) -> Result<Delivery, OperationError> {
        loop {
            let delivery = self.ports.store.head(id).await?.ok_or(OperationError::UnknownMessage)?;
            let now = self.ports.clock.now();
            let input = match action {
                Action::Redrive => Input::Redrive(order.clone()),
                Action::Cancel => Input::Withdraw(order.clone()),
                Action::Reroute => {
                    let route = self.route(id).await?;
                    Input::Reroute { order: order.clone(), route }
                }
            };
            let next = delivery.apply(input, now)?;
            let entry = AuditEntry {
                at: now,
                by: order.by.clone(),
                action: action.as_str().to_owned(),
                target: id.to_string(),
                reason: Some(order.reason.clone()),
                before: Some(delivery.shown_state().into()),
                after: Some(next.delivery.shown_state().into()),
            };
            let (expected, after) = (delivery.version, next.delivery.clone());
            let change = Change { id, expected, delivery: next.delivery, events: next.events };
            let note = entry.note(self.ports.entropy.as_ref());
            match self.ports.store.commit_with(vec![change], vec![note]).await {
                Ok(()) => {
                    self.wake();
                    return Ok(after);
                }
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// The way a message would go today.
    async fn route(&self, id: MessageId) -> Result<Box<Route>, OperationError> {
        let found = self.message(id).await?;
        let metadata = &found.message.metadata;
        let was_reply = found.route().is_some_and(|route| {
            route.destination.channel == ChannelKind::Mailbox && metadata.in_reply_to.is_some()
        });
        let request = match (&metadata.recipient, was_reply) {
            (Some(recipient), true) => {
                LookupRequest::Reply { service: metadata.service.clone(), recipient: recipient.clone() }
            }
            _ => LookupRequest::of(metadata).ok_or(Refusal::NotNow)?,
        };
        let mut resolution = self.ports.router.resolve(&request, self.ports.clock.now()).await;
        resolution.route.take().ok_or_else(|| OperationError::NoRoute(Box::new(resolution)))
    }

    /// A page of the audit trail, newest first.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn audit(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<AuditEntry>, Option<String>), OperationError> {
        Ok(audit::list(self.ports.store.as_ref(), after, limit).await?)
    }

    fn wake(&self) {
        self.ports.wake.work();
        self.ports.wake.mail();
    }
}
