//! The `MessageStore` over journal and index.

use std::borrow::Cow;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, EventKind};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::{IdScheme, IntakeKey, PartNumber, Priority, Sha256Digest};
use amtsbote_core::port::{
    Acceptance, Accepted, Change, CommitError, Cursor, DeadCursor, DuplicateOf, HeadEntry, KeptNote,
    MailboxPlace, MessageStore, Note, NoteKind, PartReader, PayloadWriter, Search, SearchPage, Staged,
    StoreError, StoreStatus, StoredMessage, SubmissionFilter, Tallies, Timer,
};
use amtsbote_core::route::Destination;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::committer::{Committer, Request, index_failed};
use crate::frame::{Body, FrameKind};
use crate::group::{NewMessage, NewNote, NewState};
use crate::index::Index;
use crate::keys::{self, Head, Rows};
use crate::known::IntakeHash;
use crate::payload::{InlineReader, Payloads, SpilledFile};
use crate::quarantine::Quarantine;
use crate::read::garbled;
use crate::record::{
    ChangeRecord, ChangeV1, ForgottenRecord, KeyV1, MessageRecord, MessageV1, NoteV1, PayloadPlace,
    RecordError, encode, encode_changes, encode_message,
};
use crate::recovery::{OpenReport, Recovered};
use crate::scrub::ScrubReport;
use crate::search::{self, Projection};
use crate::segment::{Folder, Tail};
use crate::shared::{Room, Shared, StoreOptions};
use crate::watch::{Watch, guarded};

/// Readers off the runtime at the same time. More gain nothing on one disk.
const READERS: usize = 16;

/// What readers and the committer share.
pub(crate) struct Inner {
    pub(crate) folder: Folder,
    pub(crate) index: Arc<Index>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) quarantine: Quarantine,
    pub(crate) search: Projection,
    payloads: Arc<Payloads>,
    /// Those that were there when the store was opened, until they are judged.
    payload_files: Mutex<Vec<MessageId>>,
    requests: Sender<Request>,
    readers: Arc<Semaphore>,
    /// Held from a payload file to its frame, one by the id of the message: two acceptances under one id do not meet.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

/// Acceptances with payload files that go on side by side, at most.
const TURNS: usize = 64;

/// An embedded store in one folder. Dropping it commits what was asked for and takes a checkpoint.
pub struct SledStore {
    pub(crate) parts: Arc<Parts>,
    watch: Option<Watch>,
    /// Held until the end; a second process is refused.
    _lock: std::fs::File,
}

/// Journal, index and committer at work. Dropping it ends the committer.
pub(crate) struct Running {
    pub(crate) inner: Arc<Inner>,
    committer: Option<std::thread::JoinHandle<()>>,
    projector: Option<std::thread::JoinHandle<()>>,
}

/// What the store and its watch share: what is at work, unless it is being brought up again.
pub(crate) struct Parts {
    running: RwLock<Option<Running>>,
    /// Why nothing is at work, and how it was when it last was.
    down: RwLock<StoreStatus>,
}

impl Running {
    pub(crate) fn start(
        root: &Path,
        folder: Folder,
        index: Index,
        recovered: Recovered,
        report: &OpenReport,
        options: &StoreOptions,
    ) -> io::Result<Self> {
        let Recovered { segment, length, group, live, stripped, .. } = recovered;
        let tail = Tail::resume(folder.clone(), segment, length, group)?;
        let damaged = report.damaged.len() as u64;
        let shared = Arc::new(Shared::new(options.clone(), root, (live, stripped), damaged));
        let index = Arc::new(index);
        let payloads = Arc::new(Payloads::open(root, Arc::clone(&shared))?);
        let payload_files = Mutex::new(payloads.stored()?);
        let (requests, receiver) = channel();
        let inner = Arc::new(Inner {
            folder,
            index: Arc::clone(&index),
            shared: Arc::clone(&shared),
            quarantine: Quarantine::of(root),
            search: Projection::default(),
            payloads,
            payload_files,
            requests,
            readers: Arc::new(Semaphore::new(READERS)),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        });
        if report.rebuilt.is_some() {
            inner.judge_payload_files();
        }
        inner.measure();
        let committer = Committer::new(tail, index, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("store-commit".to_owned()).spawn(move || {
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| committer.run(&receiver)));
            if ended.is_err() {
                shared.distrust_index("the committer died".to_owned());
            }
        })?;
        let projector = search::start(root, Arc::clone(&inner))?;
        Ok(Self { inner, committer: Some(thread), projector: Some(projector) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.inner.search.end();
        // The committer may already have ended after a fault; then there is nobody to tell or to wait for.
        drop(self.inner.requests.send(Request::Stop));
        drop(self.committer.take().map(std::thread::JoinHandle::join));
        drop(self.projector.take().map(std::thread::JoinHandle::join));
    }
}

impl Parts {
    pub(crate) fn inner(&self) -> Result<Arc<Inner>, StoreError> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        match running.as_ref() {
            Some(running) => Ok(Arc::clone(&running.inner)),
            None => Err(StoreError::Stopped { reason: self.status_when_down().stopped.unwrap_or_default() }),
        }
    }

    fn status_when_down(&self) -> StoreStatus {
        self.down.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes everything down that has stopped.
    pub(crate) fn take_down(&self, status: StoreStatus) -> Option<Running> {
        *self.down.write().unwrap_or_else(PoisonError::into_inner) = status;
        self.running.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn put_up(&self, running: Running) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }

    pub(crate) fn status(&self) -> StoreStatus {
        self.inner().map_or_else(|_| self.status_when_down(), |inner| inner.status())
    }
}

impl SledStore {
    pub(crate) fn new(
        root: &Path,
        lock: std::fs::File,
        options: StoreOptions,
        running: Running,
        scrub: bool,
    ) -> io::Result<Self> {
        let (running, down) = (RwLock::new(Some(running)), RwLock::default());
        let parts = Arc::new(Parts { running, down });
        let watch = Watch::start(root.to_owned(), options, Arc::clone(&parts), scrub)?;
        Ok(Self { parts, watch: Some(watch), _lock: lock })
    }

    /// Looks now for what the index has lost; blocks. The store does this by itself once after it was opened.
    ///
    /// # Errors
    /// When the store is sick.
    pub fn scrub(&self) -> Result<ScrubReport, StoreError> {
        Ok(self.parts.inner()?.scrub(&|| true)?.unwrap_or_default())
    }

    fn inner(&self) -> Result<Arc<Inner>, StoreError> {
        self.parts.inner()
    }

    /// Runs something that reads files or sled, off the async runtime.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner()?.reading(read).await
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        drop(self.watch.take());
        let running = self.parts.take_down(StoreStatus::default());
        if guarded(|| drop(running)).is_none() {
            tracing::error!("The index panicked while it was closed; it is built anew at the next start.");
        }
    }
}

fn removes_payload(change: &Change) -> bool {
    change.events.iter().any(|event| matches!(event.kind, EventKind::PayloadRemoved))
}

fn record_failed(error: RecordError) -> StoreError {
    StoreError::Io { doing: "encoding a record", source: io::Error::other(error) }
}

impl Inner {
    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus {
            stopped: self.shared.stopped(),
            full: self.shared.room() == Room::None,
            low: match self.shared.room() {
                Room::Low(why) => Some(why.to_owned()),
                Room::Enough | Room::None => None,
            },
            journal_bytes: self.shared.journal_bytes(),
            index_lag: self.index.lag(),
            search_lag: self.search_lag(),
            quarantined: self.shared.quarantined(),
        }
    }

    pub(crate) fn measure(&self) {
        let sizes = self.folder.segments().map(|segments| {
            segments
                .iter()
                .filter_map(|segment| std::fs::metadata(self.folder.path(*segment)).ok())
                .map(|m| m.len())
                .sum()
        });
        if let Ok(bytes) = sizes {
            self.shared.journal_measured(bytes);
        }
    }

    /// Judges the payload files that were there when the store was opened, once. Only an index that has everything the journal has
    /// may say that a file belongs to nobody.
    pub(crate) fn judge_payload_files(&self) {
        let files = std::mem::take(&mut *self.payload_files.lock().unwrap_or_else(PoisonError::into_inner));
        for id in files {
            if let Err(error) = self.judge_payload_file(id) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%id, error, "A payload file stays although it may not be needed.");
            }
        }
    }

    /// The file of a stripped message goes. One without a message was most likely never acknowledged, but only the index says so,
    /// so it is put aside.
    fn judge_payload_file(&self, id: MessageId) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io { doing: "looking at a payload file", source };
        match self.head(id)? {
            Some(head) if head.parse_delivery().map_err(garbled)?.stripped => {
                self.payloads.remove(id).map_err(failed)
            }
            Some(_) => Ok(()),
            None => {
                self.quarantine.take(&self.payloads.path(id)).map_err(failed)?;
                tracing::warn!(%id, "A payload file without a message was put into the quarantine.");
                Ok(())
            }
        }
    }

    pub(crate) async fn reading<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |source| StoreError::Io { doing: "reading the store", source };
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let permit = permit.map_err(|error| failed(io::Error::other(error)))?;
        let inner = Arc::clone(self);
        // The permit goes along: the read goes on when its caller has gone.
        let joined = spawn_blocking(move || {
            let result = read(&inner);
            drop(permit);
            result
        });
        let joined = joined.await;
        self.judge_index();
        joined.map_err(|error| failed(io::Error::other(error)))?
    }

    /// Without its index the store stops; it is built anew from the journal.
    pub(crate) fn judge_index(&self) {
        if self.index.has_failed() && !self.shared.is_index_suspect() {
            self.shared.distrust_index("the index cannot be read".to_owned());
        }
    }

    pub(crate) async fn ask<T, E: From<StoreError>>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, E>>,
    ) -> Result<T, E> {
        let gone = || StoreError::Stopped { reason: "the committer has ended".to_owned() };
        self.requests.send(request).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    fn duplicate(&self, hash: &IntakeHash) -> Result<Option<DuplicateOf>, StoreError> {
        let Some(value) = self.index.intake(hash).map_err(index_failed)? else { return Ok(None) };
        let (id, content) = keys::parse_intake_value(&value).map_err(garbled)?;
        self.duplicate_of(id, content).map(Some)
    }

    fn duplicate_of(&self, id: MessageId, content: Sha256Digest) -> Result<DuplicateOf, StoreError> {
        let answer = self.record(id, |_, record, _| record.answer)?;
        let missing = || StoreError::Damaged { id, detail: "the record is missing".to_owned() };
        Ok(DuplicateOf { id, content, answer: answer.ok_or_else(missing)? })
    }

    /// The message that has this id already.
    fn accepted_as(&self, id: MessageId) -> Result<Option<DuplicateOf>, StoreError> {
        self.record(id, |_, record, _| DuplicateOf {
            id,
            content: record.message.content,
            answer: record.answer,
        })
    }

    fn remove_payload(&self, id: MessageId) -> Result<(), StoreError> {
        let removed = self.payloads.remove(id);
        removed.map_err(|source| StoreError::Io { doing: "removing a payload file", source })
    }

    async fn accept(self: Arc<Self>, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        let Acceptance { key, message, delivery, events, answer, payload } = acceptance;
        let id = message.id;
        let intake = keys::intake_hash(&key);
        let turn = match &payload {
            Staged::File(_) => Some(self.turns[usize::from(id.uuid().as_bytes()[15]) % TURNS].lock().await),
            Staged::Inline(_) => None,
        };
        if self.index.may_know(&intake)
            && let Some(earlier) = self.reading(move |inner| inner.duplicate(&intake)).await?
        {
            return Ok(Accepted::Seen(earlier));
        }
        // The file must not take the place of another's.
        if turn.is_some()
            && let Some(earlier) = self.reading(move |inner| inner.accepted_as(id)).await?
        {
            return Ok(Accepted::Seen(earlier));
        }
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
        let message = NewMessage {
            id,
            content: message.content,
            intake,
            week: keys::week(message.received_at),
            version: delivery.version,
            rows: Rows::of(&delivery, id),
            external: keys::external(&message),
            delivery: serde_json::to_vec(&delivery).map_err(|error| record_failed(error.into()))?,
        };
        let (done, answer) = oneshot::channel();
        let outcome = self.ask(Request::Accept { body, message, done }, answer).await;
        // Only if it is certain that nothing was written; after a fault the frame may be there at the next start.
        let unwritten = matches!(outcome, Ok(Some(_)) | Err(StoreError::Full));
        if unwritten && matches!(place, PayloadPlace::File(_)) {
            self.reading(move |inner| inner.remove_payload(id)).await?;
        }
        match outcome? {
            None => Ok(Accepted::First),
            Some((id, content)) => {
                self.reading(move |inner| inner.duplicate_of(id, content)).await.map(Accepted::Seen)
            }
        }
    }
}

#[async_trait]
impl MessageStore for SledStore {
    async fn stage(&self) -> Result<Box<dyn PayloadWriter>, StoreError> {
        let inner = self.inner()?;
        match inner.shared.stopped() {
            Some(reason) => Err(StoreError::Stopped { reason }),
            None => Ok(inner.payloads.writer()),
        }
    }

    async fn intake(&self, key: &IntakeKey) -> Result<Option<DuplicateOf>, StoreError> {
        let hash = keys::intake_hash(key);
        self.reading(move |inner| inner.duplicate(&hash)).await
    }

    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        let inline = matches!(acceptance.payload, Staged::Inline(_));
        let accepted = self.inner()?.accept(acceptance);
        if inline {
            return accepted.await;
        }
        // Between the file and its frame nobody may hang up, or the file would stay behind.
        let joined = tokio::spawn(accepted).await;
        joined.map_err(|error| StoreError::Io {
            doing: "accepting a message",
            source: io::Error::other(error),
        })?
    }

    async fn commit_with(&self, changes: Vec<Change>, notes: Vec<Note>) -> Result<(), CommitError> {
        if changes.is_empty() && notes.is_empty() {
            return Ok(());
        }
        let mut records = Vec::with_capacity(changes.len() + notes.len());
        let mut freed = Vec::with_capacity(changes.len());
        for change in &changes {
            let id = change.id;
            freed.push(match removes_payload(change) {
                true => self.reading(move |inner| inner.inline_length(id)).await?,
                false => 0,
            });
        }
        for (Change { id, delivery, events, .. }, freed) in changes.iter().zip(&freed) {
            let (delivery, events) = (Cow::Borrowed(delivery), Cow::Borrowed(events.as_slice()));
            records.push(ChangeRecord::V1(ChangeV1 { id: *id, delivery, events, freed: *freed }));
        }
        for Note { kind, name, value } in &notes {
            let (name, value) = (Cow::Borrowed(name.as_str()), value.as_deref().map(Cow::Borrowed));
            records.push(ChangeRecord::NoteV1(NoteV1 { kind: *kind, name, value }));
        }
        let (body, mut entries) = encode_changes(&records).map_err(record_failed)?;
        let of_notes = entries.split_off(changes.len());
        let mut states = Vec::with_capacity(changes.len());
        for ((Change { id, expected, delivery, .. }, entry), freed) in changes.iter().zip(entries).zip(freed)
        {
            states.push(NewState {
                id: *id,
                expected: *expected,
                version: delivery.version,
                rows: Rows::of(delivery, *id),
                delivery: serde_json::to_vec(delivery).map_err(|error| record_failed(error.into()))?,
                freed,
                entry,
            });
        }
        let notes = notes.into_iter().zip(of_notes).map(|(Note { kind, name, value }, entry)| NewNote {
            key: keys::note(kind, &name),
            value,
            entry,
        });
        let body = Body::new(FrameKind::Changed, vec![body]);
        let (done, answer) = oneshot::channel();
        self.inner()?.ask(Request::Change { body, states, notes: notes.collect(), done }, answer).await?;
        for id in changes.iter().filter(|change| removes_payload(change)).map(|change| change.id) {
            self.reading(move |inner| inner.remove_payload(id)).await?;
        }
        Ok(())
    }

    async fn notes(
        &self,
        kind: NoteKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeptNote>, StoreError> {
        let after = after.map(str::to_owned);
        self.reading(move |inner| inner.notes(kind, after.as_deref(), limit)).await
    }

    async fn head(&self, id: MessageId) -> Result<Option<Delivery>, StoreError> {
        let head = self.reading(move |inner| inner.head(id)).await?;
        head.map(|head| head.parse_delivery().map_err(garbled)).transpose()
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
            Some((part, None)) => self.inner()?.payloads.reader(id, &part, offset).await.map(Some),
        }
    }

    async fn to_prepare(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        self.reading(move |inner| inner.to_prepare(after, limit)).await
    }

    async fn timers(&self, limit: usize) -> Result<Vec<Timer>, StoreError> {
        self.reading(move |inner| inner.timers(limit)).await
    }

    async fn waiting_destinations(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        let after = after.cloned();
        self.reading(move |inner| inner.waiting_destinations(after.as_ref(), limit)).await
    }

    async fn ready(
        &self,
        destination: &Destination,
        from: Priority,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let destination = destination.clone();
        self.reading(move |inner| inner.ready(&destination, from, limit)).await
    }

    async fn mailbox(
        &self,
        mailbox: &PartyId,
        after: Option<MailboxPlace>,
        limit: usize,
    ) -> Result<Vec<MailboxPlace>, StoreError> {
        let mailbox = mailbox.clone();
        self.reading(move |inner| inner.mailbox(&mailbox, after, limit)).await
    }

    async fn by_external_id(
        &self,
        scheme: IdScheme,
        value: &str,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::external_prefix(scheme, value);
        self.reading(move |inner| inner.under(&prefix, limit)).await
    }

    async fn holding(&self, after: Option<&HoldKey>, limit: usize) -> Result<Vec<HoldKey>, StoreError> {
        let after = after.cloned();
        self.reading(move |inner| inner.holding(after.as_ref(), limit)).await
    }

    async fn held(&self, hold: &HoldKey, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let hold = hold.clone();
        self.reading(move |inner| inner.held(&hold, limit)).await
    }

    async fn dead(&self, after: Option<DeadCursor>, limit: usize) -> Result<Vec<HeadEntry>, StoreError> {
        self.reading(move |inner| inner.dead(after, limit)).await
    }

    async fn tally(&self) -> Result<Tallies, StoreError> {
        self.reading(Inner::tally).await
    }

    async fn newest(&self) -> Result<Option<MessageId>, StoreError> {
        self.reading(Inner::newest).await
    }

    async fn leased(&self, lease: LeaseId) -> Result<Vec<MessageId>, StoreError> {
        self.reading(move |inner| inner.leased(lease)).await
    }

    async fn submissions(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), StoreError> {
        let filter = filter.clone();
        self.reading(move |inner| inner.submissions(&filter, after, limit)).await
    }

    async fn search(
        &self,
        search: &Search,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<SearchPage, StoreError> {
        let search = search.clone();
        // Waits outside of the readers: what everybody reads must not wait for it.
        let inner = self.inner()?;
        let waited = spawn_blocking(move || inner.await_search()).await;
        waited.map_err(|error| StoreError::Io { doing: "searching", source: io::Error::other(error) })?;
        self.reading(move |inner| inner.search(&search, after, limit)).await
    }

    async fn finished(
        &self,
        before: Timestamp,
        stripped: bool,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.reading(move |inner| inner.finished(before, stripped, limit)).await
    }

    async fn forget(&self, ids: Vec<MessageId>) -> Result<(), StoreError> {
        let of = ids.clone();
        let messages = self.reading(move |inner| inner.forgotten(&of)).await?;
        let record = encode(&ForgottenRecord::V1 { messages }).map_err(record_failed)?;
        let body = Body::new(FrameKind::Forgotten, vec![record]);
        let (done, answer) = oneshot::channel();
        self.inner()?.ask::<_, StoreError>(Request::Forget { body, ids: ids.clone(), done }, answer).await?;
        self.reading(move |inner| ids.into_iter().try_for_each(|id| inner.remove_payload(id))).await
    }

    async fn reclaim(&self, now: Timestamp) -> Result<(), StoreError> {
        self.inner()?.empty_segments(now).await
    }

    fn status(&self) -> StoreStatus {
        self.parts.status()
    }
}
