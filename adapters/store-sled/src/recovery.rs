//! Opening a store: find the last checkpoint, replay what follows, cut a torn tail, put damaged frames aside.
//!
//! Replay is idempotent: versions in the journal only grow, and what the index already has is skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use amtsbote_core::id::MessageId;
use jiff::Timestamp;

use crate::frame::{Found, FrameKind, Header, Position};
use crate::group::{Group, NewMessage, NewNote, NewState};
use crate::index::{Index, IndexError};
use crate::keys::{self, Rows};
use crate::quarantine::Quarantine;
use crate::record::{
    ChangeRecord, ChangeV1, Checkpoint, CheckpointRecord, Entry, Forgotten, ForgottenRecord, RecordError,
    decode_changes, decode_message,
};
use crate::segment::Folder;

/// What was found while opening a store; worth a log line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Frames read since the last checkpoint.
    pub replayed: u64,
    /// Why the index was built anew, if it was.
    pub rebuilt: Option<String>,
    /// Bytes behind the last intact frame: a write that was never acknowledged, kept in the quarantine all the same.
    pub cut: u64,
    /// Damaged places that were copied to the quarantine, one sentence each.
    pub damaged: Vec<String>,
    /// Messages that are lost: only changes of them are left, or only the index that was put aside knows of them.
    pub lost: Vec<MessageId>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error("the journal cannot be read")]
    Io(#[from] io::Error),
    #[error("the index failed")]
    Index(#[from] IndexError),
    #[error("{0}")]
    Unusable(&'static str),
}

/// What recovery hands to the committer.
pub(crate) struct Recovered {
    pub(crate) segment: u32,
    pub(crate) length: u64,
    pub(crate) group: u64,
    pub(crate) live: BTreeMap<u32, u64>,
    /// Segments with bytes of payloads whose retention is over.
    pub(crate) stripped: BTreeMap<u32, Option<Timestamp>>,
    /// Messages that were forgotten in what was replayed.
    pub(crate) forgotten: BTreeSet<MessageId>,
}

/// The newest checkpoint of the journal.
pub(crate) fn last_checkpoint(folder: &Folder) -> io::Result<Option<Checkpoint>> {
    for segment in folder.segments()?.into_iter().rev() {
        let bytes = folder.bytes(segment)?;
        let (mut offset, mut newest) = (0, None);
        loop {
            match folder.at(&bytes, offset)? {
                Found::Frame(header, body) => {
                    if header.kind == FrameKind::Checkpoint
                        && let Ok(CheckpointRecord::V1(checkpoint)) = serde_json::from_slice(body)
                    {
                        newest = Some(checkpoint);
                    }
                    offset += header.frame_length();
                }
                Found::Damage { next: Some(next) } => offset = next,
                Found::Damage { next: None } | Found::End => break,
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
    }
    Ok(None)
}

/// Replays one store into its index.
pub(crate) struct Replay<'a> {
    folder: &'a Folder,
    index: &'a Index,
    quarantine: Quarantine,
    report: &'a mut OpenReport,
    live: BTreeMap<u32, i64>,
    stripped: BTreeMap<u32, Option<Timestamp>>,
    forgotten: BTreeSet<MessageId>,
    orphans: BTreeSet<MessageId>,
}

/// Changes gathered in memory before they are moved into sled.
const SETTLE_AT: usize = 16_384;

impl<'a> Replay<'a> {
    pub(crate) fn new(folder: &'a Folder, index: &'a Index, root: &Path, report: &'a mut OpenReport) -> Self {
        Self {
            folder,
            index,
            quarantine: Quarantine::of(root),
            report,
            live: BTreeMap::new(),
            stripped: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            orphans: BTreeSet::new(),
        }
    }

    /// Replays everything from `from` on.
    pub(crate) fn run(mut self, from: Option<Checkpoint>) -> Result<Recovered, RecoveryError> {
        let position = Position { segment: 0, offset: 0 };
        let beginning = Checkpoint { position, live: Vec::new(), stripped: Vec::new() };
        let Checkpoint { position: start, live, stripped } = from.unwrap_or(beginning);
        self.stripped = stripped.into_iter().collect();
        self.live = live.into_iter().map(|(segment, bytes)| (segment, bytes.cast_signed())).collect();
        let segments = self.folder.segments()?;
        let (live, stripped, forgotten) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut recovered = Recovered { segment: 1, length: 0, group: 1, live, stripped, forgotten };
        for segment in segments.iter().copied().filter(|segment| *segment >= start.segment) {
            let begin = if segment == start.segment { start.offset } else { 0 };
            let is_last = segments.last() == Some(&segment);
            recovered.length = self.segment(segment, begin, is_last, &mut recovered.group)?;
            recovered.segment = segment;
        }
        self.index.settle(self.index.close())?;
        self.report.lost = self.orphans.difference(&self.forgotten).copied().collect();
        recovered.forgotten = self.forgotten;
        self.stripped.retain(|segment, _| segments.contains(segment));
        recovered.stripped = self.stripped;
        recovered.live = self.live.into_iter().map(|(n, bytes)| (n, bytes.max(0).cast_unsigned())).collect();
        Ok(recovered)
    }

    /// Replays a segment; returns where its last intact frame ends.
    fn segment(
        &mut self,
        segment: u32,
        begin: u64,
        is_last: bool,
        group: &mut u64,
    ) -> Result<u64, RecoveryError> {
        let bytes = self.folder.bytes(segment)?;
        let (mut offset, mut end) = (begin, begin);
        loop {
            match self.folder.at(&bytes, offset)? {
                Found::Frame(header, body) => {
                    let at = Position { segment, offset };
                    offset += header.frame_length();
                    end = offset;
                    *group = header.group + 1;
                    self.report.replayed += 1;
                    match self.frame(at, header, body)? {
                        Ok(()) => {}
                        Err(error) => self.put_aside(&bytes, at, offset, &error.to_string())?,
                    }
                    if self.index.gathered() >= SETTLE_AT {
                        self.index.settle(self.index.close())?;
                    }
                }
                Found::Damage { next: Some(next) } => {
                    let at = Position { segment, offset };
                    self.put_aside(&bytes, at, next, "the checksum does not match")?;
                    offset = next;
                }
                Found::Damage { next: None } => {
                    let at = Position { segment, offset };
                    let length = bytes.len() as u64 - offset;
                    if is_last {
                        self.quarantine.keep_bytes(&bytes, at, bytes.len() as u64, "tail")?;
                        self.report.cut = length;
                    } else {
                        self.put_aside(
                            &bytes,
                            at,
                            bytes.len() as u64,
                            "the end of a closed segment is damaged",
                        )?;
                    }
                    return Ok(end);
                }
                Found::End => return Ok(end.max(begin)),
            }
        }
    }

    fn put_aside(&mut self, bytes: &[u8], at: Position, end: u64, why: &str) -> io::Result<()> {
        self.quarantine.keep_bytes(bytes, at, end, "frame")?;
        let (segment, offset) = (at.segment, at.offset);
        self.report.damaged.push(format!("segment {segment:08}, bytes {offset} to {end}: {why}"));
        Ok(())
    }

    /// Replays one frame. The inner error means that its record cannot be read.
    fn frame(
        &mut self,
        at: Position,
        header: Header,
        body: &[u8],
    ) -> Result<Result<(), RecordError>, IndexError> {
        let mut group = Group::default();
        let result = match header.kind {
            FrameKind::Checkpoint => Ok(()),
            FrameKind::Accepted | FrameKind::Moved => self.message(&mut group, at, header, body)?,
            FrameKind::Changed => self.changes(&mut group, at, body)?,
            FrameKind::Forgotten => self.forget(&mut group, body)?,
        };
        for (segment, change) in &group.live {
            *self.live.entry(*segment).or_default() += change;
        }
        for segment in &group.stripped {
            self.stripped.entry(*segment).or_default();
        }
        let end = Position { segment: at.segment, offset: at.offset + header.frame_length() };
        self.index.apply(group.ops, end);
        Ok(result)
    }

    fn message(
        &mut self,
        group: &mut Group,
        at: Position,
        header: Header,
        body: &[u8],
    ) -> Result<Result<(), RecordError>, IndexError> {
        let (record, _) = match decode_message(body) {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Err(error)),
        };
        let id = record.message.id;
        let delivery = record.delivery.as_ref();
        match group.head(self.index, id)? {
            Some(head) if head.version > delivery.version => {}
            Some(head) if head.version == delivery.version => {
                if header.kind == FrameKind::Moved && head.frames.first().is_none_or(|first| first.at < at) {
                    group.relocate(id, head, at, header.length);
                }
            }
            older => {
                let message = NewMessage {
                    id,
                    content: record.message.content,
                    intake: keys::intake_hash(&record.key.into()),
                    week: keys::week(record.message.received_at),
                    version: delivery.version,
                    rows: Rows::of(delivery, id),
                    external: keys::external(&record.message),
                    delivery: match serde_json::to_vec(delivery) {
                        Ok(bytes) => bytes,
                        Err(error) => return Ok(Err(error.into())),
                    },
                };
                self.orphans.remove(&id);
                if let (Some(head), true) = (&older, delivery.stripped) {
                    group.note_stripped(head, 1);
                }
                match older {
                    Some(head) => group.replace(self.index, &head, &message, at, header.length)?,
                    None => group.accept(self.index, &message, at, header.length)?,
                }
            }
        }
        Ok(Ok(()))
    }

    fn changes(
        &mut self,
        group: &mut Group,
        at: Position,
        body: &[u8],
    ) -> Result<Result<(), RecordError>, IndexError> {
        let changes = match decode_changes(body) {
            Ok(changes) => changes,
            Err(error) => return Ok(Err(error)),
        };
        for (entry, record) in changes {
            match record {
                ChangeRecord::V1(change) => {
                    if let Err(error) = self.change(group, at, entry, &change)? {
                        return Ok(Err(error));
                    }
                }
                ChangeRecord::NoteV1(note) => {
                    let (key, value) = (keys::note(note.kind, &note.name), note.value.map(Into::into));
                    group.note(self.index, &NewNote { key, value, entry }, at)?;
                }
            }
        }
        Ok(Ok(()))
    }

    fn change(
        &mut self,
        group: &mut Group,
        at: Position,
        entry: Entry,
        change: &ChangeV1<'_>,
    ) -> Result<Result<(), RecordError>, IndexError> {
        match group.head(self.index, change.id)? {
            Some(head) if head.version >= change.delivery.version => group.note_stripped(&head, change.freed),
            Some(head) => {
                let delivery = match serde_json::to_vec(&change.delivery) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(Err(error.into())),
                };
                let state = NewState {
                    id: change.id,
                    expected: head.version,
                    version: change.delivery.version,
                    rows: Rows::of(&change.delivery, change.id),
                    delivery,
                    freed: change.freed,
                    entry,
                };
                group.change(self.index, &state, head, at)?;
            }
            None => {
                self.orphans.insert(change.id);
            }
        }
        Ok(Ok(()))
    }

    fn forget(&mut self, group: &mut Group, body: &[u8]) -> Result<Result<(), RecordError>, IndexError> {
        let ForgottenRecord::V1 { messages } = match serde_json::from_slice(body) {
            Ok(record) => record,
            Err(error) => return Ok(Err(error.into())),
        };
        for Forgotten { id, .. } in messages {
            self.forgotten.insert(id);
            if let Some(head) = group.head(self.index, id)? {
                group.forget(self.index, id, head)?;
            }
        }
        Ok(Ok(()))
    }
}
