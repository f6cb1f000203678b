//! Driving port for departments: lease, download, acknowledge, answer (design section 4.1).
//!
//! Everything an account may not open is answered like what does not exist (promise P9).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::account::Account;
use crate::control::Controls;
use crate::delivery::{
    Delivery, Face, FailureReason, Input, ItemState, MailboxItem, Refusal, State, Transition,
};
use crate::hold::{Hold, HoldKey};
use crate::id::{LeaseId, MessageId};
use crate::key::PartyId;
use crate::message::{IdScheme, PartNumber};
use crate::port::{
    Change, Clock, CommitError, Entropy, MailboxPlace, MessageStore, PartReader, StoreError, StoredMessage,
};
use crate::route::{ChannelKind, Destination};
use crate::wake::Wake;

/// Why a mailbox request failed.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// No such message in any mailbox of the account.
    #[error("no such message")]
    Unknown,
    /// The state machine refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long a message that was taken over XTA cannot be leased.
pub const XTA_CLAIM: Duration = Duration::from_secs(300);
/// Fetches of one message by faces without leases that are written down. A reader that comes again and again without ever closing
/// must not fill the journal; it is no longer protected from those that lease.
const TAKES_NOTED: u32 = 64;
/// Messages with the same external id that are looked at.
const SAME_ID_MAX: usize = 16;

/// A granted lease.
#[derive(Debug)]
pub struct Lease {
    /// Token to be sent back.
    pub id: LeaseId,
    /// Deadline.
    pub until: Timestamp,
    /// What it covers, in the order of handing out; empty: there was nothing.
    pub messages: Vec<StoredMessage>,
}

/// What a department asks for.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest {
    /// At most so many messages.
    pub max: usize,
    /// For so long.
    pub duration: Duration,
    /// Wait so long for the first one.
    pub wait: Duration,
}

/// The mailboxes of this gateway.
pub struct Mailboxes {
    store: Arc<dyn MessageStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    controls: Arc<Controls>,
    wake: Arc<Wake>,
    keeper: Keeper,
}

impl Mailboxes {
    /// Mailboxes over their ports.
    pub fn new(
        store: Arc<dyn MessageStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        controls: Arc<Controls>,
        wake: Arc<Wake>,
    ) -> Self {
        let (own, time, signals) = (Arc::clone(&store), Arc::clone(&clock), Arc::clone(&wake));
        let keeper = Keeper { store: own, clock: time, wake: signals };
        Self { store, clock, entropy, controls, wake, keeper }
    }

    /// Leases available messages, waiting for the first if asked to, at most until the process ends. Cancel-safe: a lease the
    /// caller never saw runs out.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn lease(&self, account: &Account, request: LeaseRequest) -> Result<Lease, MailboxError> {
        let mut given_up = request.wait.is_zero();
        let mut wait = self.clock.sleep(request.wait);
        loop {
            let mail = self.wake.on_mail();
            tokio::pin!(mail);
            mail.as_mut().enable();
            let lease = self.lease_now(account, request).await?;
            if !lease.messages.is_empty() || given_up || self.wake.is_closed() {
                return Ok(lease);
            }
            tokio::select! {
                () = mail => {}
                () = self.wake.closed() => {}
                () = &mut wait => given_up = true,
            }
        }
    }

    /// One look at the mailboxes; all messages of a lease are committed together.
    async fn lease_now(&self, account: &Account, request: LeaseRequest) -> Result<Lease, MailboxError> {
        loop {
            let id = LeaseId::generate(self.entropy.as_ref());
            let now = self.clock.now();
            let until = add(now, request.duration);
            let mut changes = Vec::new();
            for mailbox in account.mailboxes().filter(|mailbox| !self.is_held(mailbox, now)) {
                let mut after = None;
                while changes.len() < request.max {
                    let wanted = request.max - changes.len();
                    let places = self.store.mailbox(mailbox, after, wanted).await?;
                    for candidate in places.iter().map(|place| place.id) {
                        let Some(delivery) = self.store.head(candidate).await? else { continue };
                        let input = match self.hold_on(candidate).await? {
                            Some(hold) => Input::Hold { hold: hold.key, reason: hold.reason },
                            None => Input::Lease { lease: id, account: account.name.clone(), until },
                        };
                        if let Ok(next) = delivery.apply(input, now) {
                            changes.push(change(candidate, &delivery, next));
                        }
                    }
                    // More may stand behind those that a face without leases has taken.
                    after = places.last().copied().filter(|_| places.len() == wanted);
                    if after.is_none() {
                        break;
                    }
                }
            }
            // A message that turned out to be expired or held is committed with the others, but not handed out.
            let leased = |one: &&Change| one.delivery.item.as_ref().is_some_and(holds(id));
            let ids: Vec<MessageId> = changes.iter().filter(leased).map(|one| one.id).collect();
            let nothing_left = changes.is_empty();
            match self.store.commit(changes).await {
                Ok(()) if ids.is_empty() && !nothing_left => {}
                Ok(()) => {
                    let mut messages = Vec::with_capacity(ids.len());
                    for id in ids {
                        messages.extend(self.load(id).await?);
                    }
                    if messages.is_empty() && !nothing_left {
                        continue;
                    }
                    return Ok(Lease { id, until, messages });
                }
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Gives the holder of a lease more time.
    ///
    /// # Errors
    /// [`Refusal::LeaseLost`] if any message of it is lost or the lease is unknown.
    pub async fn extend(
        &self,
        account: &Account,
        lease: LeaseId,
        duration: Duration,
    ) -> Result<(Timestamp, Vec<MessageId>), MailboxError> {
        loop {
            let now = self.clock.now();
            let until = add(now, duration);
            let ids = self.store.leased(lease).await?;
            let mut changes = Vec::with_capacity(ids.len());
            for id in &ids {
                let Some(delivery) = self.store.head(*id).await? else { continue };
                if delivery.item.as_ref().is_some_and(|item| account.opens(&item.mailbox)) {
                    match delivery.apply(Input::Extend { lease, until }, now) {
                        Ok(next) => changes.push(change(*id, &delivery, next)),
                        // Acknowledged or given back since the list was made.
                        Err(_) if !delivery.item.as_ref().is_some_and(holds(lease)) => {}
                        Err(refusal) => return Err(refusal.into()),
                    }
                }
            }
            if changes.is_empty() {
                return Err(Refusal::LeaseLost.into());
            }
            match self.store.commit(changes).await {
                Ok(()) => return Ok((until, ids)),
                // One of them was acknowledged or downloaded meanwhile; that ends nothing.
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// The department takes responsibility. A repeat under the same lease succeeds without effect.
    ///
    /// # Errors
    /// [`Refusal::WrongLease`], [`Refusal::LeaseLost`], [`Refusal::Finished`], or unknown.
    pub async fn acknowledge(
        &self,
        account: &Account,
        id: MessageId,
        lease: LeaseId,
        face: Face,
    ) -> Result<StoredMessage, MailboxError> {
        let input = Input::Acknowledge { lease, account: account.name.clone(), face };
        self.change(account, id, input).await
    }

    /// The department refuses the message for good; the sender is told why.
    ///
    /// # Errors
    /// As for [`Self::acknowledge`].
    pub async fn reject(
        &self,
        account: &Account,
        id: MessageId,
        lease: LeaseId,
        code: String,
        detail: String,
    ) -> Result<StoredMessage, MailboxError> {
        self.change(account, id, Input::Reject { lease, code, detail }).await
    }

    /// Gives a leased message back.
    ///
    /// # Errors
    /// As for [`Self::acknowledge`].
    pub async fn release(
        &self,
        account: &Account,
        id: MessageId,
        lease: LeaseId,
    ) -> Result<StoredMessage, MailboxError> {
        let input = Input::Release { lease, account: account.name.clone() };
        let released = self.change(account, id, input).await?;
        self.wake.mail();
        Ok(released)
    }

    /// Available messages of all mailboxes of the account, without leasing them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, account: &Account, limit: usize) -> Result<Vec<StoredMessage>, MailboxError> {
        let mut messages = Vec::new();
        let now = self.clock.now();
        for mailbox in account.mailboxes().filter(|mailbox| !self.is_held(mailbox, now)) {
            for place in self.store.mailbox(mailbox, None, limit - messages.len()).await? {
                let found = self.load(place.id).await?;
                messages.extend(found.filter(|found| self.hold_on_message(found).is_none()));
            }
            if messages.len() >= limit {
                break;
            }
        }
        Ok(messages)
    }

    /// A message in one of the account's mailboxes, or one that was pushed to an organisation it serves: a push channel may
    /// hand over references to parts that are fetched here. What the sender withdrew in time was never here.
    ///
    /// # Errors
    /// [`MailboxError::Unknown`] if there is none the account may open.
    pub async fn open(&self, account: &Account, id: MessageId) -> Result<StoredMessage, MailboxError> {
        let message = self.store.load(id).await?.ok_or(MailboxError::Unknown)?;
        let delivery = &message.delivery;
        let handed_out =
            (delivery.item.is_some() || delivery.attempts > 0) && delivery.state != State::Cancelled;
        match &delivery.destination {
            Some(destination) if handed_out && account.opens(&destination.organization) => Ok(message),
            _ => Err(MailboxError::Unknown),
        }
    }

    /// Places in a mailbox behind `after`, in the order of handing out, for faces without leases. A mailbox that is held shows nothing.
    ///
    /// # Errors
    /// [`MailboxError::Unknown`] if the account may not open the mailbox.
    pub async fn look(
        &self,
        account: &Account,
        mailbox: &PartyId,
        after: Option<MailboxPlace>,
        limit: usize,
    ) -> Result<Vec<MailboxPlace>, MailboxError> {
        if !account.opens(mailbox) {
            return Err(MailboxError::Unknown);
        }
        if self.is_held(mailbox, self.clock.now()) {
            return Ok(Vec::new());
        }
        Ok(self.store.mailbox(mailbox, after, limit).await?)
    }

    /// Messages in mailboxes of the account, or pushed to organisations it serves, that somebody gave this id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn find(
        &self,
        account: &Account,
        scheme: IdScheme,
        value: &str,
    ) -> Result<Vec<StoredMessage>, MailboxError> {
        let mut found = Vec::new();
        for id in self.store.by_external_id(scheme, value, SAME_ID_MAX).await? {
            match self.open(account, id).await {
                Ok(message) => found.push(message),
                Err(MailboxError::Unknown) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Hands a whole message over by a face without leases, durably before the first byte. Leases are refused for the time of `claim`,
    /// other readers of such faces are not; taking it again is allowed and noted.
    ///
    /// # Errors
    /// [`Refusal::NotNow`] while somebody holds a lease, [`Refusal::Finished`], [`Refusal::Held`], or unknown.
    pub async fn take(
        &self,
        account: &Account,
        id: MessageId,
        face: Face,
        claim: Duration,
    ) -> Result<StoredMessage, MailboxError> {
        let message = self.open(account, id).await?;
        let now = self.clock.now();
        let held = message.delivery.item.as_ref().is_some_and(|item| self.is_held(&item.mailbox, now));
        if held || self.hold_on_message(&message).is_some() {
            return Err(Refusal::Held.into());
        }
        let input = Input::Take { account: account.name.clone(), face, until: add(now, claim) };
        let noted = message.delivery.attempts < TAKES_NOTED
            || message.delivery.apply(input.clone(), now)?.delivery.state == State::Expired;
        let taken = if noted { self.change(account, id, input).await? } else { message };
        match taken.delivery.item.as_ref().map(|item| &item.state) {
            Some(ItemState::Available) => Ok(taken),
            // Its time was over.
            _ => Err(Refusal::Finished.into()),
        }
    }

    /// A reader of a face without leases takes responsibility for messages: for all of them, or for none. Repeats succeed without
    /// effect.
    ///
    /// # Errors
    /// [`MailboxError::Unknown`] if the account may not open one of them, [`Refusal::NotNow`] while somebody holds a lease on one,
    /// [`Refusal::Finished`] if one is over in another way.
    pub async fn close(
        &self,
        account: &Account,
        ids: &BTreeSet<MessageId>,
        face: Face,
    ) -> Result<(), MailboxError> {
        loop {
            let mut changes = Vec::new();
            for id in ids {
                let message = self.open(account, *id).await?;
                let item = message.delivery.item.as_ref().ok_or(MailboxError::Unknown)?;
                if matches!(item.state, ItemState::Acknowledged { .. }) {
                    continue;
                }
                let input = Input::Close { account: account.name.clone(), face };
                changes.push(change(
                    *id,
                    &message.delivery,
                    message.delivery.apply(input, self.clock.now())?,
                ));
            }
            let done: Vec<Delivery> = changes.iter().map(|change| change.delivery.clone()).collect();
            match self.store.commit(changes).await {
                Ok(()) => {
                    done.iter().for_each(|delivery| self.wake.after(delivery));
                    return Ok(());
                }
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Reads a part of a message that was [taken](Self::take).
    ///
    /// # Errors
    /// [`MailboxError::Unknown`] if there is no such part.
    pub async fn read_taken(
        &self,
        id: MessageId,
        part: PartNumber,
    ) -> Result<Box<dyn PartReader>, MailboxError> {
        self.read_from(id, part, 0).await
    }

    /// Reads a part; the first reading makes the message `fetched`, durably before the first byte.
    ///
    /// # Errors
    /// [`MailboxError::Unknown`] if there is no such part, [`Refusal::Finished`] if the message is no longer offered.
    pub async fn read(
        &self,
        account: &Account,
        id: MessageId,
        part: PartNumber,
        offset: u64,
    ) -> Result<Box<dyn PartReader>, MailboxError> {
        let message = self.open(account, id).await?;
        match &message.delivery.item {
            Some(MailboxItem { state: ItemState::Gone, .. }) => return Err(Refusal::Finished.into()),
            Some(MailboxItem { state: ItemState::Available, mailbox, .. })
                if self.is_held(mailbox, self.clock.now()) || self.hold_on_message(&message).is_some() =>
            {
                return Err(Refusal::Held.into());
            }
            Some(item) if item.first_fetched_at.is_none() => {
                match self.change(account, id, Input::Fetch { account: account.name.clone() }).await {
                    Ok(_) | Err(MailboxError::Refused(Refusal::NotNow)) => {}
                    Err(error) => return Err(error),
                }
            }
            Some(_) | None => {}
        }
        self.read_from(id, part, offset).await
    }

    async fn read_from(
        &self,
        id: MessageId,
        part: PartNumber,
        offset: u64,
    ) -> Result<Box<dyn PartReader>, MailboxError> {
        match self.store.open_part(id, part, offset).await {
            Ok(Some(reader)) => Ok(Box::new(WatchedReader { reader, keeper: self.keeper.clone(), id })),
            Ok(None) => Err(MailboxError::Unknown),
            Err(StoreError::Damaged { detail, .. }) => {
                self.keeper.give_up(id, detail).await?;
                Err(Refusal::Finished.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes on a message's ProcessCard that it was answered.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replied(
        &self,
        account: &Account,
        id: MessageId,
        reply: MessageId,
    ) -> Result<(), MailboxError> {
        self.change(account, id, Input::Replied { reply }).await.map(|_| ())
    }

    /// Whether an operator holds a mailbox as a whole.
    fn is_held(&self, mailbox: &PartyId, now: Timestamp) -> bool {
        let destination = Destination { organization: mailbox.clone(), channel: ChannelKind::Mailbox };
        self.controls.holds().on_destination(&destination, now).is_some()
    }

    /// What keeps a message back by itself, its account or its service. The message is only read if there is any such hold.
    async fn hold_on(&self, id: MessageId) -> Result<Option<Hold>, StoreError> {
        let book = self.controls.holds();
        if book.iter().all(|hold| matches!(hold.key, HoldKey::Destination(_))) {
            return Ok(None);
        }
        Ok(self.load(id).await?.and_then(|found| self.hold_on_message(&found)))
    }

    fn hold_on_message(&self, found: &StoredMessage) -> Option<Hold> {
        self.controls.holds().on_message(&found.message, found.route(), self.clock.now()).cloned()
    }

    /// A message for handing out. A damaged one is dead-lettered, so that it does not stand in the way of the others.
    async fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError> {
        match self.store.load(id).await {
            Err(StoreError::Damaged { detail, .. }) => self.keeper.give_up(id, detail).await.map(|()| None),
            other => other,
        }
    }

    /// Applies an input to the newest version of a message the account may open, again if somebody else was faster.
    async fn change(
        &self,
        account: &Account,
        id: MessageId,
        input: Input,
    ) -> Result<StoredMessage, MailboxError> {
        loop {
            let mut message = self.open(account, id).await?;
            if is_repeat(&message, &input) {
                return Ok(message);
            }
            let next = message.delivery.apply(input.clone(), self.clock.now())?;
            let change = change(id, &message.delivery, next.clone());
            match self.store.commit(vec![change]).await {
                Ok(()) => {
                    self.wake.after(&next.delivery);
                    message.delivery = next.delivery;
                    message.events.extend(next.events);
                    return Ok(message);
                }
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }
}

/// Dead-letters what is damaged.
#[derive(Clone)]
struct Keeper {
    store: Arc<dyn MessageStore>,
    clock: Arc<dyn Clock>,
    wake: Arc<Wake>,
}

impl Keeper {
    async fn give_up(&self, id: MessageId, detail: String) -> Result<(), StoreError> {
        tracing::error!(message.id = %id, detail, "A message in a mailbox is damaged; it is dead-lettered.");
        let last = FailureReason { code: "damaged".to_owned(), detail };
        while let Some(delivery) = self.store.head(id).await?
            && let Ok(next) = delivery.apply(Input::Damaged(last.clone()), self.clock.now())
        {
            let after = next.delivery.clone();
            match self.store.commit(vec![change(id, &delivery, next)]).await {
                Ok(()) => {
                    self.wake.after(&after);
                    break;
                }
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads a part; what turns out to be damaged on the way is dead-lettered, or it would be leased again and again.
struct WatchedReader {
    reader: Box<dyn PartReader>,
    keeper: Keeper,
    id: MessageId,
}

#[async_trait]
impl PartReader for WatchedReader {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let read = self.reader.next().await;
        if let Err(StoreError::Damaged { detail, .. }) = &read {
            self.keeper.give_up(self.id, detail.clone()).await?;
        }
        read
    }
}

fn change(id: MessageId, before: &Delivery, after: Transition) -> Change {
    Change { id, expected: before.version, delivery: after.delivery, events: after.events }
}

/// Whether a message was already acknowledged under the same lease.
fn is_repeat(message: &StoredMessage, input: &Input) -> bool {
    let state = message.delivery.item.as_ref().map(|item| &item.state);
    matches!((state, input), (Some(ItemState::Acknowledged { lease: earlier, .. }), Input::Acknowledge { lease, .. }) if *earlier == Some(*lease))
}

fn holds(id: LeaseId) -> impl Fn(&crate::delivery::MailboxItem) -> bool {
    move |item| matches!(item.state, ItemState::Leased { lease, .. } if lease == id)
}

/// `at + duration` in whole milliseconds, rounded up, at most the end of time. Stores order by milliseconds, so a finer time would
/// seem due before it is.
pub(crate) fn add(at: Timestamp, duration: Duration) -> Timestamp {
    let millis = i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at.as_millisecond().saturating_add(millis)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_whole_milliseconds_and_never_early() {
        let start = Timestamp::from_millisecond(1_000).unwrap();
        assert_eq!(add(start, Duration::from_nanos(1)).as_nanosecond(), 1_001_000_000);
        assert_eq!(add(start, Duration::from_millis(5)).as_millisecond(), 1_005);
        assert_eq!(add(start, Duration::MAX), Timestamp::MAX);
    }
}
