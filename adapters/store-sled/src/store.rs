//! The `MessageStore` over journal and index.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, Event};
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::{IntakeKey, PartNumber};
use amtsbote_core::port::{
    Acceptance, Accepted, Change, CommitError, Cursor, DuplicateOf, HeadEntry, MessageStore, PartReader,
    PayloadWriter, Staged, StoreError, StoreStatus, StoredMessage, SubmissionFilter, WorkItem,
};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::committer::{Committer, NewMessage, NewState, Request, Settler, index_failed};
use crate::frame::{Body, FrameKind};
use crate::index::{Index, IndexError};
use crate::keys::{self, Head};
use crate::payload::{InlineReader, Payloads, SpilledFile};
use crate::record::{
    ChangeV1, ForgottenRecord, KeyV1, MessageRecord, MessageV1, PayloadPlace, RecordError, decode_change,
    decode_message, encode, encode_changes, encode_message,
};
use crate::recovery::{OpenReport, Recovered};
use crate::segment::{Folder, Tail};
use crate::shared::{Shared, StoreOptions};

/// Heads looked at in one call of a listing.
const LISTING_SCAN: usize = 10_000;
/// Heads read from the index at a time.
const LISTING_PAGE: usize = 256;

/// What readers and the committer share.
pub(crate) struct Inner {
    pub(crate) folder: Folder,
    pub(crate) index: Arc<Index>,
    pub(crate) shared: Arc<Shared>,
    payloads: Arc<Payloads>,
    journal_bytes: AtomicU64,
}

/// An embedded store in one folder. Dropping it commits what was asked for and takes a checkpoint.
pub struct SledStore {
    inner: Arc<Inner>,
    requests: Sender<Request>,
    committer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held until the end; a second process is refused.
    _lock: std::fs::File,
}

impl SledStore {
    pub(crate) fn start(
        root: &Path,
        lock: std::fs::File,
        index: Index,
        recovered: Recovered,
        report: &OpenReport,
        options: StoreOptions,
    ) -> io::Result<Self> {
        let folder = Folder::new(root.join("journal"));
        let Recovered { segment, length, group, live } = recovered;
        let tail = Tail::resume(folder.clone(), segment, length, group)?;
        let damaged = report.damaged.len() as u64;
        let shared = Arc::new(Shared::new(options, root, live, damaged));
        let index = Arc::new(index);
        let payloads = Arc::new(Payloads::open(root, Arc::clone(&shared))?);
        let inner = Arc::new(Inner {
            folder,
            index: Arc::clone(&index),
            shared: Arc::clone(&shared),
            payloads,
            journal_bytes: AtomicU64::new(0),
        });
        inner.remove_unknown_payloads(root, report)?;
        inner.measure();
        let has_room = shared.has_room();
        let looked_for_room = std::time::Instant::now();
        let committer = Committer { tail, index, shared, settler: Settler::new(), looked_for_room, has_room };
        let (requests, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run(&receiver))?;
        Ok(Self { inner, requests, committer: Mutex::new(Some(thread)), _lock: lock })
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Stopped { reason: "the committer has ended".to_owned() };
        self.requests.send(request).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs something that reads files, off the async runtime.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let joined = spawn_blocking(move || read(&inner)).await;
        joined
            .map_err(|error| StoreError::Io { doing: "reading the store", source: io::Error::other(error) })?
    }

    /// Bytes a payload takes in the frame of its message.
    async fn inline_length(&self, id: MessageId) -> Result<u64, StoreError> {
        let inline = |_: &Head, record: MessageV1<'_>, _: &[u8]| match record.payload {
            PayloadPlace::Inline(length) => length,
            PayloadPlace::File(_) | PayloadPlace::Removed => 0,
        };
        Ok(self.reading(move |inner| inner.record(id, inline)).await?.unwrap_or(0))
    }

    fn list(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.inner.index.scan(from, until, limit).map_err(index_failed)?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // The committer may already have ended after a fault.
        drop(self.requests.send(Request::Stop));
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("The committer of the store died; the journal is replayed at the next start.");
        }
    }
}

fn garbled(error: keys::Garbled) -> StoreError {
    index_failed(IndexError::Garbled(error))
}

/// First key behind everything with a prefix.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn record_failed(error: RecordError) -> StoreError {
    StoreError::Io { doing: "encoding a record", source: io::Error::other(error) }
}

impl Inner {
    pub(crate) fn head(&self, id: MessageId) -> Result<Option<Head>, StoreError> {
        let bytes = self.index.get(&keys::head(id)).map_err(index_failed)?;
        bytes.map(|bytes| Head::decode(&bytes).map_err(garbled)).transpose()
    }

    /// Body of the frame with the record of a message, then the entries of its changes.
    pub(crate) fn read_frames(&self, id: MessageId, head: &Head) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut bodies = Vec::with_capacity(head.frames.len());
        for (number, frame) in head.frames.iter().enumerate() {
            let read = match number {
                0 => self.folder.read(frame.at).map(|found| found.map(|(_, body)| body)),
                _ => self.folder.read_bytes(frame.at, frame.weight),
            };
            match read.map_err(|source| StoreError::Io { doing: "reading the journal", source })? {
                Some(body) => bodies.push(body),
                None => {
                    self.shared.note_damage();
                    let (segment, offset) = (frame.at.segment, frame.at.offset);
                    let detail = format!("frame at {offset} of segment {segment:08} is damaged");
                    return Err(StoreError::Damaged { id, detail });
                }
            }
        }
        if bodies.is_empty() {
            return Err(StoreError::Damaged { id, detail: "no frame is known".to_owned() });
        }
        Ok(bodies)
    }

    /// Delivery and events as the frames tell them.
    pub(crate) fn replay_frames(
        &self,
        id: MessageId,
        head: &Head,
        frames: &[Vec<u8>],
    ) -> Result<(Delivery, Vec<Event>), StoreError> {
        let damaged = |error: RecordError| StoreError::Damaged { id, detail: error.to_string() };
        let (first, rest) = frames.split_first().ok_or_else(|| damaged(RecordError::Short))?;
        let mut events = decode_message(first).map_err(damaged)?.0.events.into_owned();
        for entry in rest {
            events.extend(decode_change(entry).map_err(damaged)?.0.events.into_owned());
        }
        Ok((head.parse_delivery().map_err(garbled)?, events))
    }

    /// Does something with the frames of a message. A segment that goes meanwhile is not damage, so it is tried again if the
    /// message has moved.
    fn with_frames<T>(
        &self,
        id: MessageId,
        read: impl Fn(&Head, &[Vec<u8>]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(mut head) = self.head(id)? else { return Ok(None) };
        loop {
            match self.read_frames(id, &head) {
                Ok(frames) => return read(&head, &frames).map(Some),
                Err(error) => match self.head(id)? {
                    Some(now) if now.frames != head.frames => head = now,
                    Some(_) => return Err(error),
                    None => return Ok(None),
                },
            }
        }
    }

    fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError> {
        self.with_frames(id, |head, frames| {
            let damaged = |error: RecordError| StoreError::Damaged { id, detail: error.to_string() };
            let (record, _) = decode_message(&frames[0]).map_err(damaged)?;
            let message = Arc::new(record.message.into_owned());
            let (delivery, events) = self.replay_frames(id, head, frames)?;
            Ok(StoredMessage { message, delivery, events })
        })
    }

    /// The record of a message and the payload that lies behind it.
    fn record<T>(
        &self,
        id: MessageId,
        read: impl Fn(&Head, MessageV1<'_>, &[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        self.with_frames(id, |head, frames| {
            let damaged = |error: RecordError| StoreError::Damaged { id, detail: error.to_string() };
            let (record, end) = decode_message(&frames[0]).map_err(damaged)?;
            Ok(read(head, record, &frames[0][end..]))
        })
    }

    fn measure(&self) {
        let sizes = self.folder.segments().map(|segments| {
            segments
                .iter()
                .filter_map(|segment| std::fs::metadata(self.folder.path(*segment)).ok())
                .map(|m| m.len())
                .sum()
        });
        if let Ok(bytes) = sizes {
            self.journal_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// Payload files without a message were never acknowledged; after damage they are kept for whoever repairs it.
    fn remove_unknown_payloads(&self, root: &Path, report: &OpenReport) -> io::Result<()> {
        let failed = |error: StoreError| io::Error::other(error);
        for id in self.payloads.stored()? {
            let head = self.head(id).map_err(failed)?;
            let stripped = match &head {
                Some(head) => head.parse_delivery().map_err(io::Error::other)?.stripped,
                None => false,
            };
            if head.is_none() && !report.damaged.is_empty() {
                let name = format!("{}.payload", id.uuid().as_hyphenated());
                std::fs::create_dir_all(root.join("quarantine"))?;
                std::fs::rename(root.join("payload").join(&name), root.join("quarantine").join(&name))?;
            } else if head.is_none() || stripped {
                self.payloads.remove(id)?;
            }
        }
        Ok(())
    }

    fn intake_keys(&self, key: &IntakeKey, received: Timestamp) -> Vec<Vec<u8>> {
        let now = keys::week(received);
        let earlier = self.index.weeks().into_iter().filter(|week| *week != now);
        std::iter::once(now).chain(earlier).map(|week| keys::intake(key, week)).collect()
    }
}

#[async_trait]
impl MessageStore for SledStore {
    async fn stage(&self) -> Result<Box<dyn PayloadWriter>, StoreError> {
        if let Some(reason) = self.inner.shared.stopped() {
            return Err(StoreError::Stopped { reason });
        }
        Ok(self.inner.payloads.writer())
    }

    async fn intake(&self, key: &IntakeKey) -> Result<Option<DuplicateOf>, StoreError> {
        for week in self.inner.index.weeks() {
            if let Some(value) = self.inner.index.get(&keys::intake(key, week)).map_err(index_failed)? {
                let (id, content) = keys::parse_intake_value(&value).map_err(garbled)?;
                let answer =
                    self.reading(move |inner| inner.record(id, |_, record, _| record.answer)).await?;
                return Ok(answer.map(|answer| DuplicateOf { id, content, answer }));
            }
        }
        Ok(None)
    }

    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        let Acceptance { key, message, delivery, events, answer, payload } = acceptance;
        let id = message.id;
        let (place, inline) = match payload {
            Staged::Inline(pieces) => {
                let length = pieces.iter().map(|piece| piece.len() as u64).sum();
                (PayloadPlace::Inline(length), pieces)
            }
            Staged::File(file) => {
                let foreign = || StoreError::Io {
                    doing: "keeping a payload file",
                    source: io::Error::other("it was staged by another store"),
                };
                let file = file.into_any().downcast::<SpilledFile>().map_err(|_| foreign())?;
                let length = self.reading(move |inner| inner.payloads.keep(*file, id)).await?;
                (PayloadPlace::File(length), Vec::new())
            }
        };
        let record = MessageRecord::V1(MessageV1 {
            key: KeyV1::from(&key),
            message: Cow::Borrowed(&message),
            delivery: Cow::Borrowed(&delivery),
            events: Cow::Borrowed(&events),
            answer,
            payload: place,
        });
        let mut pieces = Vec::with_capacity(1 + inline.len());
        pieces.push(encode_message(&record).map_err(record_failed)?);
        pieces.extend(inline);
        let body = Body::new(FrameKind::Accepted, pieces);
        let asked = self.inner.index.generation();
        let intake = self.inner.intake_keys(&key, message.received_at);
        let mut taken = None;
        for key in &intake {
            taken = self.inner.index.get(key).map_err(index_failed)?;
            if taken.is_some() {
                break;
            }
        }
        let outcome = if let Some(value) = taken {
            Ok(Some(keys::parse_intake_value(&value).map_err(garbled)?))
        } else {
            let (done, answer) = oneshot::channel();
            let message = NewMessage {
                id,
                content: message.content,
                intake,
                asked,
                version: delivery.version,
                queue: keys::queue(&delivery, id),
                lease: Vec::new(),
                delivery: serde_json::to_vec(&delivery).map_err(|error| record_failed(error.into()))?,
            };
            self.ask(Request::Accept { body, message, done }, answer).await
        };
        if !matches!(outcome, Ok(None)) && matches!(place, PayloadPlace::File(_)) {
            let removed = move |inner: &Inner| {
                inner
                    .payloads
                    .remove(id)
                    .map_err(|source| StoreError::Io { doing: "removing a payload file", source })
            };
            self.reading(removed).await?;
        }
        match outcome? {
            None => Ok(Accepted::First),
            Some((id, content)) => {
                let answer =
                    self.reading(move |inner| inner.record(id, |_, record, _| record.answer)).await?;
                let answer =
                    answer.ok_or(StoreError::Damaged { id, detail: "the record is missing".to_owned() })?;
                Ok(Accepted::Seen(DuplicateOf { id, content, answer }))
            }
        }
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut records = Vec::with_capacity(changes.len());
        let mut states = Vec::with_capacity(changes.len());
        for Change { id, delivery, events, .. } in &changes {
            let freed = if delivery.stripped { self.inline_length(*id).await? } else { 0 };
            let (delivery, events) = (Cow::Borrowed(delivery), Cow::Borrowed(events.as_slice()));
            records.push(ChangeV1 { id: *id, delivery, events, freed });
        }
        let freed: Vec<u64> = records.iter().map(|record| record.freed).collect();
        let (body, entries) = encode_changes(records).map_err(record_failed)?;
        for ((Change { id, expected, delivery, .. }, entry), freed) in changes.iter().zip(entries).zip(freed)
        {
            states.push(NewState {
                id: *id,
                expected: *expected,
                version: delivery.version,
                queue: keys::queue(delivery, *id),
                lease: keys::lease(delivery, *id),
                delivery: serde_json::to_vec(delivery).map_err(|error| record_failed(error.into()))?,
                freed,
                entry,
            });
        }
        let body = Body::new(FrameKind::Changed, vec![body]);
        let gone =
            || CommitError::Store(StoreError::Stopped { reason: "the committer has ended".to_owned() });
        let (done, answer) = oneshot::channel();
        self.requests.send(Request::Change { body, states, done }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        for id in changes.iter().filter(|change| change.delivery.stripped).map(|change| change.id) {
            let removed = move |inner: &Inner| {
                inner
                    .payloads
                    .remove(id)
                    .map_err(|source| StoreError::Io { doing: "removing a payload file", source })
            };
            self.reading(removed).await?;
        }
        Ok(())
    }

    async fn head(&self, id: MessageId) -> Result<Option<Delivery>, StoreError> {
        self.inner.head(id)?.map(|head| head.parse_delivery().map_err(garbled)).transpose()
    }

    async fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError> {
        self.reading(move |inner| inner.load(id)).await
    }

    async fn open_part(
        &self,
        id: MessageId,
        part: PartNumber,
        offset: u64,
    ) -> Result<Option<Box<dyn PartReader>>, StoreError> {
        let read = move |head: &Head, record: MessageV1<'_>, inline: &[u8]| {
            let stripped = head.parse_delivery().map_err(garbled)?.stripped;
            let Some(part) = record.message.parts.get(usize::from(part)).cloned() else { return Ok(None) };
            match record.payload {
                PayloadPlace::Removed => Err(StoreError::Removed { id }),
                _ if stripped => Err(StoreError::Removed { id }),
                PayloadPlace::File(_) => Ok(Some((part, None))),
                PayloadPlace::Inline(_) => {
                    let slice = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                    let start = part.offset + offset.min(part.size);
                    let bytes = inline.get(slice(start)..slice(part.offset + part.size));
                    let bytes = bytes.map(Bytes::copy_from_slice);
                    let missing =
                        || StoreError::Damaged { id, detail: "the payload is too short".to_owned() };
                    Ok(Some((part, Some(bytes.ok_or_else(missing)?))))
                }
            }
        };
        match self.reading(move |inner| inner.record(id, read)?.transpose().map(Option::flatten)).await? {
            None => Ok(None),
            Some((_, Some(bytes))) => Ok(Some(Box::new(InlineReader(Some(bytes))))),
            Some((part, None)) => self.inner.payloads.reader(id, &part, offset).await.map(Some),
        }
    }

    async fn to_prepare(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<WorkItem>, StoreError> {
        let from = after.map_or(b"p".to_vec(), |id| [b"p", id.as_bytes().as_slice(), b"\0"].concat());
        let rows = self.list(&from, b"q", limit)?;
        let item = |key: Vec<u8>| {
            Ok(WorkItem { id: keys::id_of(&key).map_err(garbled)?, due: None, destination: None })
        };
        rows.into_iter().map(item).collect()
    }

    async fn timers(&self, limit: usize) -> Result<Vec<WorkItem>, StoreError> {
        let rows = self.list(b"t", b"u", limit)?;
        let item = |key: Vec<u8>| {
            let due = Some(keys::due_of(&key).map_err(garbled)?);
            Ok(WorkItem { id: keys::id_of(&key).map_err(garbled)?, due, destination: None })
        };
        rows.into_iter().map(item).collect()
    }

    async fn ready(&self, share: usize, limit: usize) -> Result<Vec<WorkItem>, StoreError> {
        let mut items = Vec::new();
        let mut from = b"r".to_vec();
        // From the first key of one destination straight to the first key of the next.
        while items.len() < limit
            && let Some(key) = self.list(&from, b"s", 1)?.pop()
        {
            let (prefix, destination) = keys::destination_of(&key).map_err(garbled)?;
            from = behind(prefix);
            for key in self.list(prefix, &from, share.min(limit - items.len()))? {
                let id = keys::id_of(&key).map_err(garbled)?;
                items.push(WorkItem { id, due: None, destination: Some(destination.clone()) });
            }
        }
        Ok(items)
    }

    async fn mailbox(&self, mailbox: &PartyId, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::mailbox_prefix(mailbox.as_str());
        let rows = self.list(&prefix, &behind(&prefix), limit)?;
        rows.iter().map(|key| keys::id_of(key).map_err(garbled)).collect()
    }

    async fn leased(&self, lease: LeaseId) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::lease_prefix(lease);
        let rows = self.list(&prefix, &behind(&prefix), usize::MAX)?;
        rows.iter().map(|key| keys::id_of(key).map_err(garbled)).collect()
    }

    async fn submissions(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), StoreError> {
        let mut until = after.map_or(b"i".to_vec(), |Cursor(id)| keys::head(id));
        let (mut found, mut looked_at) = (Vec::new(), 0);
        loop {
            let rows = self.inner.index.scan_back(b"h", &until, LISTING_PAGE).map_err(index_failed)?;
            let end = rows.len() < LISTING_PAGE;
            for (key, value) in rows {
                let id = keys::id_of(&key).map_err(garbled)?;
                if found.len() == limit || looked_at == LISTING_SCAN {
                    let last = keys::id_of(&until).map_err(garbled)?;
                    return Ok((found, Some(Cursor(last))));
                }
                looked_at += 1;
                until = key;
                let delivery =
                    Head::decode(&value).and_then(|head| head.parse_delivery()).map_err(garbled)?;
                if filter.matches(&delivery) {
                    found.push(HeadEntry { id, delivery });
                }
            }
            if end {
                return Ok((found, None));
            }
        }
    }

    async fn finished(
        &self,
        before: Timestamp,
        stripped: bool,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let rows =
            self.list(&keys::finished_prefix(stripped), &keys::finished_bound(stripped, before), limit)?;
        rows.iter().map(|key| keys::id_of(key).map_err(garbled)).collect()
    }

    async fn forget(&self, ids: Vec<MessageId>) -> Result<(), StoreError> {
        let record = encode(&ForgottenRecord::V1 { ids: ids.clone() }).map_err(record_failed)?;
        let body = Body::new(FrameKind::Forgotten, vec![record]);
        let (done, answer) = oneshot::channel();
        self.ask(Request::Forget { body, ids: ids.clone(), done }, answer).await?;
        self.reading(move |inner| {
            for id in ids {
                let removed = inner.payloads.remove(id);
                removed.map_err(|source| StoreError::Io { doing: "removing a payload file", source })?;
            }
            Ok(())
        })
        .await
    }

    async fn reclaim(&self, _: Timestamp) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io { doing: "giving space back", source };
        let segments = self.reading(move |inner| inner.worth_emptying().map_err(failed)).await?;
        for segment in segments {
            let remains = self.reading(move |inner| inner.remains(segment)).await?;
            for id in remains.messages {
                while let Some((version, body)) =
                    self.reading(move |inner| inner.rewritten(segment, id)).await?
                {
                    let (done, answer) = oneshot::channel();
                    if self.ask(Request::Move { body, id, version, done }, answer).await? {
                        break;
                    }
                }
            }
            if !self.reading(move |inner| inner.is_oldest(segment).map_err(failed)).await? {
                for record in
                    remains.forgotten.into_iter().filter(|bytes| crate::space::is_forgotten_record(bytes))
                {
                    let body = Body::new(FrameKind::Forgotten, vec![record]);
                    let (done, answer) = oneshot::channel();
                    self.ask(Request::Keep { body, done }, answer).await?;
                }
            }
            let (done, answer) = oneshot::channel();
            self.ask(Request::Checkpoint { done }, answer).await?;
            self.reading(move |inner| inner.folder.remove(segment).map_err(failed)).await?;
            self.inner.shared.drop_segment(segment);
            tracing::info!(segment, "A segment of the journal was emptied and removed.");
        }
        self.reading(|inner| {
            inner.measure();
            Ok(())
        })
        .await
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            stopped: self.inner.shared.stopped(),
            journal_bytes: self.inner.journal_bytes.load(Ordering::Relaxed),
            index_lag: self.inner.index.lag(),
            quarantined: self.inner.shared.quarantined(),
        }
    }
}
