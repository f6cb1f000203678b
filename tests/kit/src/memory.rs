//! A store in memory: the model of what every store does, and the ground the simulation stands on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, Event, ItemState, Placement};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::{OrderingKey, PartyId};
use amtsbote_core::message::{IdScheme, IntakeKey, Message, PartNumber, Priority, Sha256Digest};
use amtsbote_core::port::{
    Acceptance, Accepted, Change, CommitError, Cursor, DeadCursor, DuplicateOf, Found, HeadEntry, KeptNote,
    MailboxPlace, MessageStore, Note, NoteKind, PartReader, PayloadWriter, Search, SearchPage, Staged,
    StoreError, StoreStatus, StoredMessage, SubmissionFilter, Tallies, Tally, Timer, last_failure,
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
    damaged_payloads: BTreeSet<MessageId>,
    notes: BTreeMap<(NoteKind, String), String>,
    full: bool,
    commit_time: Duration,
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

    /// Whether there is room for new messages. What is there already may change all the same.
    pub fn set_full(&self, full: bool) {
        self.content().full = full;
    }

    /// How long each commit of changes takes from now on, by the clock of tokio.
    pub fn set_commit_time(&self, time: Duration) {
        self.content().commit_time = time;
    }

    /// From now on the payload of a message cannot be read.
    pub fn damage_payload(&self, id: MessageId) {
        self.content().damaged_payloads.insert(id);
    }

    /// From now on the record of a message cannot be read.
    pub fn damage(&self, id: MessageId) {
        self.content().damaged.insert(id);
    }

    fn placed(&self, wanted: impl Fn(&Placement) -> bool) -> Vec<(MessageId, Delivery)> {
        let content = self.content();
        let found = content.messages.iter().filter(|(_, entry)| wanted(&entry.delivery.placement()));
        found.map(|(id, entry)| (*id, entry.delivery.clone())).collect()
    }

    /// Those among them that no other message with the same ordering key stands in front of.
    fn first_in_line(&self, mut found: Vec<(MessageId, Delivery)>) -> Vec<(MessageId, Delivery)> {
        if found.iter().all(|(_, delivery)| delivery.line.is_none()) {
            return found;
        }
        let mut heads: BTreeMap<(Destination, OrderingKey), MessageId> = BTreeMap::new();
        for (id, entry) in &self.content().messages {
            if let Some((destination, key)) = entry.delivery.line_key() {
                heads.entry((destination.clone(), key.clone())).or_insert(*id);
            }
        }
        found.retain(|(id, delivery)| {
            let line = delivery.line_key().map(|(destination, key)| (destination.clone(), key.clone()));
            line.is_none_or(|line| heads.get(&line) == Some(id))
        });
        found
    }

    fn in_order(found: Vec<(MessageId, Delivery)>, limit: usize) -> Vec<MessageId> {
        let mut found: Vec<_> = found.into_iter().map(|(id, delivery)| order(&delivery, id)).collect();
        found.sort();
        found.into_iter().map(|(_, _, id)| id).take(limit).collect()
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
        let same_id = self
            .content()
            .messages
            .get(&acceptance.message.id)
            .map(|one| (one.message.content, one.answer.clone()));
        if let Some((content, answer)) = same_id {
            return Ok(Accepted::Seen(DuplicateOf { id: acceptance.message.id, content, answer }));
        }
        if self.content().full {
            return Err(StoreError::Full);
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

    async fn commit_with(&self, changes: Vec<Change>, notes: Vec<Note>) -> Result<(), CommitError> {
        let time = self.content().commit_time;
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
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
        for Note { kind, name, value } in notes {
            match value {
                Some(value) => drop(content.notes.insert((kind, name), value)),
                None => drop(content.notes.remove(&(kind, name))),
            }
        }
        Ok(())
    }

    async fn notes(
        &self,
        kind: NoteKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeptNote>, StoreError> {
        let content = self.content();
        let of_kind = content
            .notes
            .iter()
            .filter(|((one, name), _)| *one == kind && after.is_none_or(|after| name.as_str() > after));
        let kept = of_kind.map(|((_, name), value)| KeptNote { name: name.clone(), value: value.clone() });
        Ok(kept.take(limit).collect())
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
        if content.damaged_payloads.contains(&id) {
            return Err(StoreError::Damaged { id, detail: "scripted".to_owned() });
        }
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
        let content = self.content();
        let first = |due: fn(&Delivery) -> Option<Timestamp>| {
            let timers = content.messages.iter();
            let timers = timers.filter_map(|(id, entry)| Some(Timer { id: *id, due: due(&entry.delivery)? }));
            let mut found: Vec<Timer> = timers.collect();
            found.sort_by_key(|timer| (timer.due, timer.id));
            found.truncate(limit);
            found
        };
        let placed = first(|delivery| match delivery.placement() {
            Placement::Timer { due } => Some(due),
            _ => None,
        });
        let mut found = [placed, first(Delivery::alarm)].concat();
        found.sort_by_key(|timer| (timer.due, timer.id));
        Ok(found)
    }

    async fn waiting_destinations(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        let ready = self.placed(|placement| matches!(placement, Placement::Ready { .. }));
        let all: BTreeSet<Destination> =
            self.first_in_line(ready).into_iter().filter_map(|(_, delivery)| delivery.destination).collect();
        Ok(all.into_iter().filter(|one| after.is_none_or(|after| one > after)).take(limit).collect())
    }

    async fn ready(
        &self,
        destination: &Destination,
        from: Priority,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let ready = |placement: &Placement| matches!(placement, Placement::Ready { destination: one, class, .. } if one == destination && *class >= from);
        Ok(Self::in_order(self.first_in_line(self.placed(ready)), limit))
    }

    async fn mailbox(
        &self,
        mailbox: &PartyId,
        after: Option<MailboxPlace>,
        limit: usize,
    ) -> Result<Vec<MailboxPlace>, StoreError> {
        let found = self.placed(
            |placement| matches!(placement, Placement::Available { mailbox: one, .. } if one == mailbox),
        );
        let place = |(id, delivery): &(MessageId, Delivery)| MailboxPlace {
            class: delivery.priority,
            deadline: delivery.deadline,
            id: *id,
        };
        let key = |place: &MailboxPlace| (place.class, place.deadline.unwrap_or(Timestamp::MAX), place.id);
        let mut places: Vec<MailboxPlace> = self.first_in_line(found).iter().map(place).collect();
        places.sort_by_key(key);
        places.retain(|place| after.is_none_or(|after| key(place) > key(&after)));
        places.truncate(limit);
        Ok(places)
    }

    async fn by_external_id(
        &self,
        scheme: IdScheme,
        value: &str,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let content = self.content();
        let named = |entry: &Entry| {
            let mut ids = entry.message.external_ids.iter();
            ids.any(|id| id.scheme == scheme && id.value.to_lowercase() == value.to_lowercase())
        };
        let found = content.messages.iter().filter(|(_, entry)| scheme != IdScheme::Client && named(entry));
        Ok(found.map(|(id, _)| *id).take(limit).collect())
    }

    async fn holding(&self, after: Option<&HoldKey>, limit: usize) -> Result<Vec<HoldKey>, StoreError> {
        let content = self.content();
        let held = content.messages.values().filter_map(|entry| entry.delivery.held.clone());
        let all: BTreeMap<String, HoldKey> = held.map(|hold| (hold.to_string(), hold)).collect();
        let after = after.map(ToString::to_string);
        let later = all.into_iter().filter(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        Ok(later.map(|(_, hold)| hold).take(limit).collect())
    }

    async fn held(&self, hold: &HoldKey, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let held =
            |placement: &Placement| matches!(placement, Placement::Held { hold: one, .. } if one == hold);
        Ok(Self::in_order(self.placed(held), limit))
    }

    async fn dead(&self, after: Option<DeadCursor>, limit: usize) -> Result<Vec<HeadEntry>, StoreError> {
        let dead = self.placed(|placement| matches!(placement, Placement::Dead { .. }));
        let mut found: Vec<(DeadCursor, HeadEntry)> = dead
            .into_iter()
            .map(|(id, delivery)| (DeadCursor { since: delivery.since, id }, HeadEntry { id, delivery }))
            .filter(|(place, _)| after.is_none_or(|after| *place > after))
            .collect();
        found.sort_by_key(|(place, _)| *place);
        Ok(found.into_iter().map(|(_, entry)| entry).take(limit).collect())
    }

    async fn tally(&self) -> Result<Tallies, StoreError> {
        let mut found: BTreeMap<Destination, Tally> = BTreeMap::new();
        for (id, delivery) in self.deliveries() {
            let waits = match delivery.placement() {
                Placement::Timer { .. }
                | Placement::Ready { .. }
                | Placement::Available { .. }
                | Placement::Held { .. } => true,
                Placement::Prepare | Placement::Finished { .. } | Placement::Dead { .. } => false,
            };
            if let (true, Some(destination)) = (waits, delivery.destination) {
                let blank = |destination: &Destination| Tally {
                    destination: destination.clone(),
                    messages: 0,
                    oldest: id,
                };
                found.entry(destination).or_insert_with_key(blank).messages += 1;
            }
        }
        let dead = self.placed(|placement| matches!(placement, Placement::Dead { .. })).len() as u64;
        Ok(Tallies { waiting: found.into_values().collect(), dead })
    }

    async fn newest(&self) -> Result<Option<MessageId>, StoreError> {
        Ok(self.content().messages.keys().next_back().copied())
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

    async fn search(
        &self,
        search: &Search,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<SearchPage, StoreError> {
        let content = self.content();
        let stored = content.messages.iter().rev().map(|(id, entry)| {
            let (message, delivery) = (Arc::clone(&entry.message), entry.delivery.clone());
            (*id, StoredMessage { message, delivery, events: entry.events.clone() })
        });
        let matching = stored
            .filter(|(id, stored)| after.is_none_or(|Cursor(after)| *id < after) && search.matches(stored));
        let mut found: Vec<Found> = matching
            .take(limit + 1)
            .map(|(id, stored)| {
                let failure = last_failure(&stored.events).cloned();
                Found { id, delivery: stored.delivery, failure }
            })
            .collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| Cursor(last.id));
        Ok(SearchPage { found, next, behind: 0 })
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
