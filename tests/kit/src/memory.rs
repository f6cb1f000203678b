//! A store in memory: the model of what every store does, and the ground the simulation stands on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, Event, ItemState, Placement};
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::{IntakeKey, Message, PartNumber, Priority, Sha256Digest};
use amtsbote_core::port::{
    Acceptance, Accepted, Change, CommitError, Cursor, DuplicateOf, HeadEntry, MessageStore, PartReader,
    PayloadWriter, Staged, StoreError, StoreStatus, StoredMessage, SubmissionFilter, Timer,
};
use amtsbote_core::route::Destination;
use async_trait::async_trait;
use bytes::Bytes;

/// The store. Clones share their content, so a "crashed" process can be followed by another on the same content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    messages: BTreeMap<MessageId, Entry>,
    keys: HashMap<IntakeKey, (MessageId, Sha256Digest)>,
    damaged: BTreeSet<MessageId>,
}

#[derive(Debug, Clone)]
struct Entry {
    message: Arc<Message>,
    delivery: Delivery,
    events: Vec<Event>,
    answer: Bytes,
    payload: Bytes,
}

/// Order inside a queue: class, deadline (none last), acceptance.
fn order(delivery: &Delivery, id: MessageId) -> (Priority, Timestamp, MessageId) {
    (delivery.priority, delivery.deadline.unwrap_or(Timestamp::MAX), id)
}

impl MemoryStore {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// All deliveries, for conservation checks.
    pub fn deliveries(&self) -> Vec<(MessageId, Delivery)> {
        self.content().messages.iter().map(|(id, entry)| (*id, entry.delivery.clone())).collect()
    }

    /// From now on the record of a message cannot be read.
    pub fn damage(&self, id: MessageId) {
        self.content().damaged.insert(id);
    }

    fn placed(&self, wanted: impl Fn(&Placement) -> bool) -> Vec<(MessageId, Delivery)> {
        self.deliveries().into_iter().filter(|(_, delivery)| wanted(&delivery.placement())).collect()
    }
}

struct MemoryWriter(Vec<Bytes>);

#[async_trait]
impl PayloadWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.0.push(bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Staged, StoreError> {
        Ok(Staged::Inline(self.0))
    }
}

struct MemoryReader(Option<Bytes>);

#[async_trait]
impl PartReader for MemoryReader {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.take())
    }
}

#[async_trait]
impl MessageStore for MemoryStore {
    async fn stage(&self) -> Result<Box<dyn PayloadWriter>, StoreError> {
        Ok(Box::new(MemoryWriter(Vec::new())))
    }

    async fn intake(&self, key: &IntakeKey) -> Result<Option<DuplicateOf>, StoreError> {
        let content = self.content();
        Ok(content.keys.get(key).map(|(id, digest)| DuplicateOf {
            id: *id,
            content: *digest,
            answer: content.messages[id].answer.clone(),
        }))
    }

    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        if let Some(earlier) = self.intake(&acceptance.key).await? {
            return Ok(Accepted::Seen(earlier));
        }
        let Staged::Inline(pieces) = acceptance.payload else {
            panic!("this payload was staged by another store");
        };
        let mut content = self.content();
        let id = acceptance.message.id;
        content.keys.insert(acceptance.key, (id, acceptance.message.content));
        content.messages.insert(
            id,
            Entry {
                message: acceptance.message,
                delivery: acceptance.delivery,
                events: acceptance.events,
                answer: acceptance.answer,
                payload: pieces.concat().into(),
            },
        );
        Ok(Accepted::First)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let mut content = self.content();
        for change in &changes {
            let current = content.messages.get(&change.id).map(|entry| entry.delivery.version);
            if current != Some(change.expected) {
                return Err(CommitError::Stale(change.id));
            }
        }
        for change in changes {
            let entry = content.messages.get_mut(&change.id).unwrap();
            if change.delivery.stripped {
                entry.payload = Bytes::new();
            }
            entry.delivery = change.delivery;
            entry.events.extend(change.events);
        }
        Ok(())
    }

    async fn head(&self, id: MessageId) -> Result<Option<Delivery>, StoreError> {
        Ok(self.content().messages.get(&id).map(|entry| entry.delivery.clone()))
    }

    async fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError> {
        let content = self.content();
        if content.damaged.contains(&id) {
            return Err(StoreError::Damaged { id, detail: "scripted".to_owned() });
        }
        Ok(content.messages.get(&id).map(|entry| StoredMessage {
            message: Arc::clone(&entry.message),
            delivery: entry.delivery.clone(),
            events: entry.events.clone(),
        }))
    }

    async fn open_part(
        &self,
        id: MessageId,
        part: PartNumber,
        offset: u64,
    ) -> Result<Option<Box<dyn PartReader>>, StoreError> {
        let content = self.content();
        let Some(entry) = content.messages.get(&id) else { return Ok(None) };
        let Some(part) = entry.message.parts.get(usize::from(part)) else { return Ok(None) };
        if entry.delivery.stripped {
            return Err(StoreError::Removed { id });
        }
        let start = usize::try_from(part.offset + offset.min(part.size)).unwrap();
        let end = usize::try_from(part.offset + part.size).unwrap();
        let bytes = entry.payload.slice(start..end);
        Ok(Some(Box::new(MemoryReader((!bytes.is_empty()).then_some(bytes)))))
    }

    async fn to_prepare(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let found = self.placed(|placement| *placement == Placement::Prepare).into_iter().map(|(id, _)| id);
        Ok(found.filter(|id| after.is_none_or(|after| *id > after)).take(limit).collect())
    }

    async fn timers(&self, limit: usize) -> Result<Vec<Timer>, StoreError> {
        let timers = |(id, delivery): (MessageId, Delivery)| {
            let placed = match delivery.placement() {
                Placement::Timer { due } => Some(due),
                _ => None,
            };
            placed.into_iter().chain(delivery.alarm()).map(move |due| Timer { id, due })
        };
        let mut found: Vec<Timer> = self.deliveries().into_iter().flat_map(timers).collect();
        found.sort_by_key(|timer| (timer.due, timer.id));
        found.truncate(limit);
        Ok(found)
    }

    async fn waiting_destinations(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        let waiting = |(_, delivery): (MessageId, Delivery)| match delivery.placement() {
            Placement::Ready { destination, .. } => Some(destination),
            _ => None,
        };
        let all: BTreeSet<Destination> = self.deliveries().into_iter().filter_map(waiting).collect();
        Ok(all.into_iter().filter(|one| after.is_none_or(|after| one > after)).take(limit).collect())
    }

    async fn ready(
        &self,
        destination: &Destination,
        from: Priority,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let ready = |placement: &Placement| matches!(placement, Placement::Ready { destination: one, class, .. } if one == destination && *class >= from);
        let mut found: Vec<_> =
            self.placed(ready).into_iter().map(|(id, delivery)| (order(&delivery, id), id)).collect();
        found.sort();
        Ok(found.into_iter().take(limit).map(|(_, id)| id).collect())
    }

    async fn mailbox(&self, mailbox: &PartyId, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let found = self.placed(
            |placement| matches!(placement, Placement::Available { mailbox: one, .. } if one == mailbox),
        );
        let mut found: Vec<_> = found.into_iter().map(|(id, delivery)| order(&delivery, id)).collect();
        found.sort();
        Ok(found.into_iter().map(|(_, _, id)| id).take(limit).collect())
    }

    async fn leased(&self, lease: LeaseId) -> Result<Vec<MessageId>, StoreError> {
        let holds = |delivery: &Delivery| {
            let state = delivery.item.as_ref().map(|item| &item.state);
            matches!(state, Some(ItemState::Leased { lease: one, .. }) if *one == lease)
        };
        Ok(self.deliveries().into_iter().filter(|(_, delivery)| holds(delivery)).map(|(id, _)| id).collect())
    }

    async fn submissions(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), StoreError> {
        let matching = self.deliveries().into_iter().rev().filter(|(id, delivery)| {
            after.is_none_or(|Cursor(after)| *id < after) && filter.matches(delivery)
        });
        let mut found: Vec<HeadEntry> =
            matching.take(limit + 1).map(|(id, delivery)| HeadEntry { id, delivery }).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let cursor = found.last().filter(|_| more).map(|last| Cursor(last.id));
        Ok((found, cursor))
    }

    async fn finished(
        &self,
        before: Timestamp,
        stripped: bool,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let found = self.placed(|placement| {
            matches!(placement, Placement::Finished { since, stripped: one } if *since < before && *one == stripped)
        });
        Ok(found.into_iter().map(|(id, _)| id).take(limit).collect())
    }

    async fn forget(&self, ids: Vec<MessageId>) -> Result<(), StoreError> {
        let mut content = self.content();
        for id in ids {
            content.messages.remove(&id);
            content.keys.retain(|_, (owner, _)| *owner != id);
        }
        Ok(())
    }

    async fn reclaim(&self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }
}
