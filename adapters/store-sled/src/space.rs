//! Gives space back: segments that hold little of use are emptied into the end of the journal and removed.
//!
//! Safe at any instant: a segment goes only after everything of it that is still needed was written again and the index
//! that points there is on stable storage. The counts of live bytes only choose where to look.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use amtsbote_core::id::MessageId;
use amtsbote_core::port::{NoteKind, StoreError};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;

use crate::committer::{Request, index_failed};
use crate::frame::{Body, Found, FrameKind, Position};
use crate::group::NewNote;
use crate::keys::{self, Head, NoteRow};
use crate::read::{garbled, message_of};
use crate::record::{
    ChangeRecord, Forgotten, ForgottenRecord, MessageRecord, NoteV1, PayloadPlace, RecordError,
    decode_changes, decode_message, encode, encode_changes, encode_message,
};
use crate::store::Inner;

/// A segment is emptied when less than this share of it is needed.
const WORTH: u64 = 4;
/// A segment is emptied when bytes of payloads whose retention is over have stood there for so long, however much else of it is
/// needed.
const STRIPPED_STAYS: SignedDuration = SignedDuration::from_hours(24);

/// Notes to be written again, with where they were seen.
type SeenNotes = Vec<(NewNote, Position)>;

/// What of a segment may still be needed.
#[derive(Default)]
struct Remains {
    messages: BTreeSet<MessageId>,
    forgotten: Vec<Forgotten>,
    notes: BTreeSet<(NoteKind, String)>,
}

impl Inner {
    /// Closed segments that are worth emptying, oldest first.
    fn worth_emptying(&self, stripped: &BTreeMap<u32, Timestamp>, now: Timestamp) -> io::Result<Vec<u32>> {
        let live = self.shared.live();
        let segments = self.folder.segments()?;
        let Some((_, closed)) = segments.split_last() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for segment in closed {
            let size = std::fs::metadata(self.folder.path(*segment))?.len();
            let needed = live.iter().find(|(number, _)| number == segment).map_or(0, |(_, bytes)| *bytes);
            let is_worth_it = needed < size / WORTH || has_to_go(stripped, *segment, now);
            if is_worth_it && !self.shared.is_spoiled(*segment) {
                found.push(*segment);
            }
        }
        Ok(found)
    }

    /// Empties what is worth it. A segment with a message that cannot be written again stays where it is.
    pub(crate) async fn empty_segments(self: &Arc<Self>, now: Timestamp) -> Result<(), StoreError> {
        let existing = self.reading(|inner| inner.folder.segments().map_err(reclaiming)).await?;
        let stripped = self.shared.stripped(&existing, now);
        if let Some((last, _)) = stripped.last_key_value()
            && has_to_go(&stripped, *last, now)
        {
            let (done, answer) = oneshot::channel();
            self.ask::<_, StoreError>(Request::Close { segment: *last, done }, answer).await?;
        }
        let worth = move |inner: &Self| inner.worth_emptying(&stripped, now).map_err(reclaiming);
        for segment in self.reading(worth).await? {
            match self.empty(segment).await {
                Err(StoreError::Damaged { id, detail }) => {
                    tracing::warn!(segment, %id, detail, "A segment of the journal cannot be given back.");
                    self.shared.spoil(segment);
                }
                done => done?,
            }
        }
        self.reading(|inner| {
            inner.measure();
            Ok(())
        })
        .await
    }

    async fn empty(self: &Arc<Self>, segment: u32) -> Result<(), StoreError> {
        let Remains { messages, forgotten, notes } =
            self.reading(move |inner| inner.remains(segment)).await?;
        for id in messages {
            while let Some((version, body)) = self.reading(move |inner| inner.rewritten(segment, id)).await? {
                let (done, answer) = oneshot::channel();
                if self.ask::<_, StoreError>(Request::Move { body, id, version, done }, answer).await? {
                    break;
                }
            }
        }
        let notes = Arc::new(notes);
        loop {
            let seen = Arc::clone(&notes);
            let Some((body, notes)) = self.reading(move |inner| inner.notes_of(segment, &seen)).await? else {
                break;
            };
            let (done, answer) = oneshot::channel();
            self.ask::<_, StoreError>(Request::MoveNotes { body, notes, done }, answer).await?;
        }
        let existing = self.reading(|inner| inner.folder.segments().map_err(reclaiming)).await?;
        let needed = |one: &Forgotten| one.segments.iter().any(|n| *n != segment && existing.contains(n));
        let kept: Vec<Forgotten> = forgotten.into_iter().filter(needed).collect();
        if !kept.is_empty() {
            let failed = |error| reclaiming(io::Error::other(error));
            let record = encode(&ForgottenRecord::V1 { messages: kept }).map_err(failed)?;
            let (done, answer) = oneshot::channel();
            let body = Body::new(FrameKind::Forgotten, vec![record]);
            self.ask::<_, StoreError>(Request::Keep { body, done }, answer).await?;
        }
        let (done, answer) = oneshot::channel();
        self.ask::<_, StoreError>(Request::Checkpoint { done }, answer).await?;
        self.reading(move |inner| inner.folder.remove(segment).map_err(reclaiming)).await?;
        self.shared.drop_segment(segment);
        tracing::info!(segment, "A segment of the journal was emptied and removed.");
        Ok(())
    }

    /// Messages to be forgotten, with the segments that have frames of them.
    pub(crate) fn forgotten(&self, ids: &[MessageId]) -> Result<Vec<Forgotten>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let segments = self.head(*id)?.map(|head| head.segments()).unwrap_or_default();
            found.push(Forgotten { id: *id, segments });
        }
        Ok(found)
    }

    /// The frame that replaces the notes of a segment; `None` if none of them lies there any more. That a note was taken away is
    /// written again as long as there are older segments.
    fn notes_of(
        &self,
        segment: u32,
        notes: &BTreeSet<(NoteKind, String)>,
    ) -> Result<Option<(Body, SeenNotes)>, StoreError> {
        let is_oldest = self.folder.segments().map_err(reclaiming)?.first() == Some(&segment);
        let (mut records, mut seen) = (Vec::new(), Vec::new());
        for (kind, name) in notes {
            let key = keys::note(*kind, name);
            let Some(row) = self.index.get(&key).map_err(index_failed)? else { continue };
            let NoteRow { entry, value } = NoteRow::decode(&row).map_err(garbled)?;
            if entry.at.segment == segment && (value.is_some() || !is_oldest) {
                let value = value.map(Cow::Owned);
                records.push(ChangeRecord::NoteV1(NoteV1 { kind: *kind, name: Cow::Borrowed(name), value }));
                seen.push((key, entry.at));
            }
        }
        if records.is_empty() {
            return Ok(None);
        }
        let failed = |error| reclaiming(io::Error::other(error));
        let (bytes, entries) = encode_changes(&records).map_err(failed)?;
        let values = records.into_iter().map(|record| match record {
            ChangeRecord::NoteV1(note) => note.value.map(Cow::into_owned),
            ChangeRecord::V1(_) => None,
        });
        let notes = values.zip(entries).zip(seen);
        let notes = notes.map(|((value, entry), (key, at))| (NewNote { key, value, entry }, at)).collect();
        Ok(Some((Body::new(FrameKind::Changed, vec![bytes]), notes)))
    }

    /// Reads what a segment holds. What cannot be read is copied to the quarantine.
    fn remains(&self, segment: u32) -> Result<Remains, StoreError> {
        let bytes = self.folder.bytes(segment).map_err(reclaiming)?;
        let mut remains = Remains::default();
        let mut offset = 0;
        loop {
            let at = Position { segment, offset };
            let (end, readable) = match self.folder.at(&bytes, offset).map_err(reclaiming)? {
                Found::Frame(header, body) => {
                    (offset + header.frame_length(), remains.add(header.kind, body).is_ok())
                }
                Found::Damage { next } => (next.unwrap_or(bytes.len() as u64), false),
                Found::End => return Ok(remains),
            };
            if !readable {
                self.quarantine.keep_bytes(&bytes, at, end, "frame").map_err(reclaiming)?;
                self.shared.note_damage();
            }
            offset = end;
        }
    }

    /// The frame that replaces all frames of a message, if one of them lies in the segment.
    fn rewritten(&self, segment: u32, id: MessageId) -> Result<Option<(u64, Body)>, StoreError> {
        let Some(head) = self.head(id)? else { return Ok(None) };
        if !head.frames.iter().any(|frame| frame.at.segment == segment) {
            return Ok(None);
        }
        let body = self.rewrite(id, &head)?;
        Ok(Some((head.version, body)))
    }

    fn rewrite(&self, id: MessageId, head: &Head) -> Result<Body, StoreError> {
        let damaged = |error: RecordError| StoreError::Damaged { id, detail: error.to_string() };
        let frames = self.read_frames(id, head)?;
        let (mut record, end) = message_of(id, &frames[0])?;
        let (delivery, events) = self.replay_frames(id, head, &frames)?;
        record.delivery = std::borrow::Cow::Owned(delivery);
        record.events = std::borrow::Cow::Owned(events);
        let mut pieces = Vec::new();
        if record.delivery.stripped {
            record.payload = PayloadPlace::Removed;
        } else if matches!(record.payload, PayloadPlace::Inline(_)) {
            pieces.push(Bytes::copy_from_slice(&frames[0][end..]));
        }
        pieces.insert(0, encode_message(&MessageRecord::V1(record)).map_err(damaged)?);
        Ok(Body::new(FrameKind::Moved, pieces))
    }
}

impl Remains {
    fn add(&mut self, kind: FrameKind, body: &[u8]) -> Result<(), RecordError> {
        match kind {
            FrameKind::Accepted | FrameKind::Moved => {
                self.messages.insert(decode_message(body)?.0.message.id);
            }
            FrameKind::Changed => {
                for (_, record) in decode_changes(body)? {
                    match record {
                        ChangeRecord::V1(change) => drop(self.messages.insert(change.id)),
                        ChangeRecord::NoteV1(note) => {
                            self.notes.insert((note.kind, note.name.into_owned()));
                        }
                    }
                }
            }
            FrameKind::Forgotten => {
                let ForgottenRecord::V1 { messages } = serde_json::from_slice(body)?;
                self.forgotten.extend(messages);
            }
            FrameKind::Checkpoint => {}
        }
        Ok(())
    }
}

fn has_to_go(stripped: &BTreeMap<u32, Timestamp>, segment: u32, now: Timestamp) -> bool {
    stripped.get(&segment).is_some_and(|since| now.duration_since(*since) >= STRIPPED_STAYS)
}

fn reclaiming(source: io::Error) -> StoreError {
    StoreError::Io { doing: "giving space back", source }
}
