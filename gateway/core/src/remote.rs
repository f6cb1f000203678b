//! Messages at other people's servers: the ids they gave out for them, and what became of them there.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::delivery::{Delivery, EventKind, Input, RemoteStage, State};
use crate::id::MessageId;
use crate::port::{Change, Clock, CommitError, KeptNote, MessageStore, Note, NoteKind, StoreError};
use crate::reservation::{find, name, write};

/// The id under which a server knows a message of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteId {
    /// Name of the server in the configuration; empty if nobody wrote it down.
    pub place: String,
    /// The id.
    pub id: String,
}

impl RemoteId {
    /// Earlier versions kept the id alone.
    fn of(note: &KeptNote) -> Option<Self> {
        note.read().or_else(|| Some(Self { place: String::new(), id: note.read()? }))
    }
}

/// How long a message is followed, and its remote id remembered, after it was handed over or came to its end here.
const FOLLOWED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Ids that others gave out for messages of ours. A hand-over whose outcome nobody knows is repeated under the same id, so it has to outlive
/// the process.
pub struct RemoteIds {
    store: Arc<dyn MessageStore>,
}

impl RemoteIds {
    /// Remote ids over their port.
    pub fn new(store: Arc<dyn MessageStore>) -> Self {
        Self { store }
    }

    /// The id under which a message was handed over before, or was about to be.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, message: MessageId) -> Result<Option<RemoteId>, StoreError> {
        let note = find(self.store.as_ref(), NoteKind::RemoteId, message).await?;
        Ok(note.as_ref().and_then(RemoteId::of))
    }

    /// Remembers an id, instead of an earlier one; durable when it returns.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keep(&self, message: MessageId, id: &RemoteId) -> Result<(), StoreError> {
        write(self.store.as_ref(), vec![Note::keep(NoteKind::RemoteId, name(message), id)]).await
    }

    /// The id is of no use any more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget(&self, message: MessageId) -> Result<(), StoreError> {
        write(self.store.as_ref(), vec![Note::remove(NoteKind::RemoteId, name(message))]).await
    }
}

/// What a server says became of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoteProgress {
    /// When its recipient fetched it.
    pub fetched: Option<Timestamp>,
    /// When its recipient confirmed it.
    pub received: Option<Timestamp>,
}

/// A page of messages that are followed.
#[derive(Debug, Default)]
pub struct Followed {
    /// Messages, and their ids there.
    pub messages: Vec<(MessageId, String)>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<MessageId>,
}

/// Follows messages after they were handed over, until they were received there or 30 days have passed.
pub struct Following {
    store: Arc<dyn MessageStore>,
    clock: Arc<dyn Clock>,
}

impl Following {
    /// Following over its ports.
    pub fn new(store: Arc<dyn MessageStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Messages that were handed over to a server and are not known to be received there, oldest first, among the next `limit` remote ids after
    /// `after`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(
        &self,
        place: &str,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Followed, StoreError> {
        let after = after.map(name);
        let notes = self.store.notes(NoteKind::RemoteId, after.as_deref(), limit).await?;
        let last = notes.last().filter(|_| notes.len() == limit);
        let mut page = Followed { messages: Vec::new(), next: last.and_then(|note| note.name.parse().ok()) };
        for note in &notes {
            let (Ok(message), Some(remote)) = (note.name.parse::<MessageId>(), RemoteId::of(note)) else {
                continue;
            };
            if remote.place != place {
                continue;
            }
            match self.store.head(message).await? {
                Some(delivery) if delivery.state == State::Delivered && delivery.item.is_none() => {
                    page.messages.push((message, remote.id));
                }
                Some(_) => {}
                None => {
                    write(self.store.as_ref(), vec![Note::remove(NoteKind::RemoteId, name(message))]).await?
                }
            }
        }
        Ok(page)
    }

    /// Puts what a server says on the ProcessCard, each fact once. What was received is not followed any more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn note(&self, message: MessageId, progress: RemoteProgress) -> Result<(), StoreError> {
        let told = [(RemoteStage::Fetched, progress.fetched), (RemoteStage::Received, progress.received)];
        loop {
            let Some(stored) = self.store.load(message).await? else { return Ok(()) };
            let known = |stage: RemoteStage| {
                let is_it =
                    |kind: &EventKind| matches!(kind, EventKind::Remote { stage: one, .. } if *one == stage);
                stored.events.iter().any(|event| is_it(&event.kind))
            };
            let (mut delivery, mut events) = (stored.delivery.clone(), Vec::new());
            for (stage, at) in told {
                let Some(remote_at) = at.filter(|_| !known(stage)) else { continue };
                // Not delivered any more, or not yet: then it says nothing about this hand-over.
                let Ok(next) = delivery.apply(Input::Remote { stage, remote_at }, self.clock.now()) else {
                    return Ok(());
                };
                (delivery, events) = (next.delivery, [events, next.events].concat());
            }
            let expected = stored.delivery.version;
            let changes = match events.is_empty() {
                true => Vec::new(),
                false => vec![Change { id: message, expected, delivery, events }],
            };
            let over = progress.received.map(|_| Note::remove(NoteKind::RemoteId, name(message)));
            match self.store.commit_with(changes, over.into_iter().collect()).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
    }
}

/// Takes back remote ids of messages that came to their end long ago. Those that are still on their way keep theirs, however old they are.
pub(crate) async fn expire(store: &dyn MessageStore, now: Timestamp, limit: usize) -> Result<(), StoreError> {
    let over = now.checked_sub(FOLLOWED_FOR).unwrap_or(Timestamp::MIN);
    let mut after: Option<String> = None;
    loop {
        let notes = store.notes(NoteKind::RemoteId, after.as_deref(), limit).await?;
        let mut old = Vec::new();
        for note in &notes {
            let Ok(message) = note.name.parse::<MessageId>() else {
                old.push(Note::remove(NoteKind::RemoteId, note.name.clone()));
                continue;
            };
            // Names sort by acceptance; nothing behind this one is old enough.
            if message.accepted_at().is_some_and(|at| at >= over) {
                return write(store, old).await;
            }
            let ended = |delivery: &Delivery| delivery.is_finished() && delivery.since < over;
            if store.head(message).await?.as_ref().is_none_or(ended) {
                old.push(Note::remove(NoteKind::RemoteId, note.name.clone()));
            }
        }
        write(store, old).await?;
        match notes.last() {
            Some(last) if notes.len() == limit => after = Some(last.name.clone()),
            _ => return Ok(()),
        }
    }
}
