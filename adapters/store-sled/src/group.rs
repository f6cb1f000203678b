//! What one group of requests changes, on top of the index, before it is durable. Also how replay applies a frame.

use std::collections::{BTreeMap, HashMap};

use amtsbote_core::id::MessageId;
use amtsbote_core::message::Sha256Digest;

use crate::frame::Position;
use crate::index::{Index, IndexError, Op, Row};
use crate::keys::{self, FrameRef, Head, NoteRow, Rows};
use crate::known::IntakeHash;
use crate::record::Entry;

/// What an acceptance adds.
#[derive(Debug)]
pub(crate) struct NewMessage {
    pub(crate) id: MessageId,
    pub(crate) content: Sha256Digest,
    pub(crate) intake: IntakeHash,
    /// In which the message was received.
    pub(crate) week: u32,
    pub(crate) version: u64,
    pub(crate) rows: Rows,
    /// Rows under which others find it by ids of their own.
    pub(crate) external: Vec<Vec<u8>>,
    pub(crate) delivery: Vec<u8>,
}

/// What a change of one message replaces.
#[derive(Debug)]
pub(crate) struct NewState {
    pub(crate) id: MessageId,
    pub(crate) expected: u64,
    pub(crate) version: u64,
    pub(crate) rows: Rows,
    pub(crate) delivery: Vec<u8>,
    /// Bytes of the first frame that are no longer needed, when the payload goes.
    pub(crate) freed: u64,
    /// Where the change lies in its frame.
    pub(crate) entry: Entry,
}

/// A note that is kept or taken away.
#[derive(Debug)]
pub(crate) struct NewNote {
    /// Its key in the index.
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<String>,
    /// Where it lies in its frame.
    pub(crate) entry: Entry,
}

/// Stands in for the message that owns a row: notes belong to none.
const NOBODY: MessageId = MessageId::from_bytes([0; 16]);

/// What accept finds when the key is taken.
pub(crate) type Taken = (MessageId, Sha256Digest);

/// Changes of one group, on top of the index, before they are durable.
#[derive(Default)]
pub(crate) struct Group {
    heads: HashMap<MessageId, Option<Head>>,
    intakes: HashMap<IntakeHash, Taken>,
    notes: HashMap<Vec<u8>, FrameRef>,
    lines: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(crate) ops: Vec<Op>,
    pub(crate) live: Vec<(u32, i64)>,
    /// Segments with bytes of payloads that nobody needs any more.
    pub(crate) stripped: Vec<u32>,
}

impl Group {
    fn put(&mut self, owner: MessageId, key: Vec<u8>, value: Option<Vec<u8>>) {
        if !key.is_empty() {
            self.ops.push(Op { owner, key, value });
        }
    }

    fn put_head(&mut self, id: MessageId, head: Head) {
        self.put(id, keys::head(id), Some(head.encode()));
        self.heads.insert(id, Some(head));
    }

    pub(crate) fn head(&self, index: &Index, id: MessageId) -> Result<Option<Head>, IndexError> {
        if let Some(head) = self.heads.get(&id) {
            return Ok(head.clone());
        }
        let bytes = index.get(&keys::head(id))?;
        Ok(bytes.map(|bytes| Head::decode(&bytes)).transpose()?)
    }

    pub(crate) fn taken(&self, index: &Index, message: &NewMessage) -> Result<Option<Taken>, IndexError> {
        if let Some(taken) = self.intakes.get(&message.intake) {
            return Ok(Some(*taken));
        }
        if let Some(value) = index.intake(&message.intake)? {
            return Ok(Some(keys::parse_intake_value(&value)?));
        }
        // An id that was given out before can come a second time under another key.
        let Some(head) = self.head(index, message.id)? else { return Ok(None) };
        if let Some(taken) = self.intakes.values().find(|(id, _)| *id == message.id) {
            return Ok(Some(*taken));
        }
        let value = index.get(&head.intake)?.map(|value| keys::parse_intake_value(&value)).transpose()?;
        Ok(Some(value.unwrap_or((message.id, Sha256Digest::of(b"")))))
    }

    /// Puts a message into its queue and its line, and takes it out of those it stood in before. Who becomes the first in line
    /// by that, or no longer is, appears in its queue or disappears. All that belongs to this message's batch of the index, so
    /// that a crash never shows half of it.
    fn place(&mut self, index: &Index, id: MessageId, old: &Rows, new: &Rows) -> Result<(), IndexError> {
        let visible = self.stand_in_line(index, id, &old.line, new)?;
        let moves = [(&old.lease, &new.lease), (&old.alarm, &new.alarm)];
        for (old, new) in moves.into_iter().filter(|(old, new)| old != new) {
            self.put(id, old.clone(), None);
            self.put(id, new.clone(), Some(Vec::new()));
        }
        if old.queue != new.queue {
            self.put(id, old.queue.clone(), None);
        }
        if !visible {
            self.put(id, new.queue.clone(), None);
        } else if old.queue != new.queue || old.line != new.line {
            self.put(id, new.queue.clone(), Some(new.value.clone()));
        }
        Ok(())
    }

    /// Whether the message may appear in its queue.
    fn stand_in_line(
        &mut self,
        index: &Index,
        id: MessageId,
        old: &[u8],
        new: &Rows,
    ) -> Result<bool, IndexError> {
        if !old.is_empty() && old != new.line {
            let first = self.first_in_line(index, old)?;
            self.put_line(id, old.to_vec(), None);
            if first.is_some_and(|(first, _)| first == old)
                && let Some((_, queue)) = self.first_in_line(index, old)?
            {
                self.put(id, queue, Some(Vec::new()));
            }
        }
        if new.line.is_empty() {
            return Ok(true);
        }
        let queue = if new.is_gated() { new.queue.clone() } else { Vec::new() };
        let first = self.first_in_line(index, &new.line)?;
        self.put_line(id, new.line.clone(), Some(queue));
        match first {
            Some((first, _)) if first < new.line => Ok(!new.is_gated()),
            Some((first, queue)) if first > new.line => {
                self.put(id, queue, None);
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    fn put_line(&mut self, owner: MessageId, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.put(owner, key.clone(), value.clone());
        self.lines.insert(key, value);
    }

    /// The first that stands in the same line, with the queue it would appear in.
    fn first_in_line(&self, index: &Index, line: &[u8]) -> Result<Option<Row>, IndexError> {
        let prefix = keys::line_prefix(line);
        let end = keys::behind(prefix);
        let changed = || self.lines.range(prefix.to_vec()..end.clone());
        let rows = index.scan(prefix, &end, changed().count() + 1)?;
        let stored = rows.into_iter().find(|(key, _)| !self.lines.contains_key(key));
        let new = changed().find_map(|(key, value)| Some((key.clone(), value.clone()?)));
        Ok([stored, new].into_iter().flatten().min())
    }

    pub(crate) fn accept(
        &mut self,
        index: &Index,
        message: &NewMessage,
        at: Position,
        length: u64,
    ) -> Result<(), IndexError> {
        let weight = u32::try_from(length).unwrap_or(u32::MAX);
        self.live.push((at.segment, i64::from(weight)));
        let intake = keys::intake(&message.intake, message.week);
        self.intakes.insert(message.intake, (message.id, message.content));
        self.put(message.id, intake.clone(), Some(keys::intake_value(message.id, message.content)));
        self.place(index, message.id, &Rows::default(), &message.rows)?;
        let Rows { queue, lease, alarm, line, .. } = message.rows.clone();
        let frames = vec![FrameRef { at, weight }];
        for key in &message.external {
            self.put(message.id, key.clone(), Some(Vec::new()));
        }
        let (version, delivery, stale) = (message.version, message.delivery.clone(), Vec::new());
        let external = message.external.clone();
        self.put_head(
            message.id,
            Head { version, intake, external, queue, lease, alarm, line, frames, stale, delivery },
        );
        Ok(())
    }

    /// A newer state of a message that is already known, written again as a whole; what lay in between is gone.
    pub(crate) fn replace(
        &mut self,
        index: &Index,
        old: &Head,
        message: &NewMessage,
        at: Position,
        length: u64,
    ) -> Result<(), IndexError> {
        for frame in &old.frames {
            self.live.push((frame.at.segment, -i64::from(frame.weight)));
        }
        self.place(index, message.id, &old.rows(), &Rows::default())?;
        self.accept(index, message, at, length)?;
        if let Some(Some(head)) = self.heads.get(&message.id) {
            self.put_head(message.id, Head { stale: old.segments().into_iter().collect(), ..head.clone() });
        }
        Ok(())
    }

    pub(crate) fn change(
        &mut self,
        index: &Index,
        state: &NewState,
        mut head: Head,
        frame: Position,
    ) -> Result<(), IndexError> {
        if let Some(first) = head.frames.first_mut() {
            let freed = u32::try_from(state.freed).unwrap_or(u32::MAX).min(first.weight);
            first.weight -= freed;
            self.live.push((first.at.segment, -i64::from(freed)));
        }
        self.note_stripped(&head, state.freed);
        let entry = entry_at(frame, state.entry);
        self.live.push((entry.at.segment, i64::from(entry.weight)));
        head.frames.push(entry);
        self.place(index, state.id, &head.rows(), &state.rows)?;
        let Rows { queue, lease, alarm, line, .. } = state.rows.clone();
        (head.queue, head.lease, head.alarm, head.line) = (queue, lease, alarm, line);
        head.version = state.version;
        head.delivery.clone_from(&state.delivery);
        self.put_head(state.id, head);
        Ok(())
    }

    /// Notes where bytes of a payload stand that nobody needs any more, if there are any.
    pub(crate) fn note_stripped(&mut self, head: &Head, freed: u64) {
        if freed > 0 {
            self.stripped.extend(head.frames.first().map(|first| first.at.segment));
            self.stripped.extend(&head.stale);
        }
    }

    /// Whether a note still lies where somebody saw it.
    pub(crate) fn note_is_at(&self, index: &Index, key: &[u8], at: Position) -> Result<bool, IndexError> {
        Ok(self.noted(index, key)?.is_some_and(|entry| entry.at == at))
    }

    fn noted(&self, index: &Index, key: &[u8]) -> Result<Option<FrameRef>, IndexError> {
        if let Some(entry) = self.notes.get(key) {
            return Ok(Some(*entry));
        }
        let row = index.get(key)?;
        Ok(row.map(|row| NoteRow::decode(&row)).transpose()?.map(|row| row.entry))
    }

    pub(crate) fn note(&mut self, index: &Index, note: &NewNote, frame: Position) -> Result<(), IndexError> {
        if let Some(old) = self.noted(index, &note.key)? {
            self.live.push((old.at.segment, -i64::from(old.weight)));
        }
        let entry = entry_at(frame, note.entry);
        self.live.push((entry.at.segment, i64::from(entry.weight)));
        self.notes.insert(note.key.clone(), entry);
        self.put(NOBODY, note.key.clone(), Some(NoteRow { entry, value: note.value.clone() }.encode()));
        Ok(())
    }

    pub(crate) fn forget(&mut self, index: &Index, id: MessageId, head: Head) -> Result<(), IndexError> {
        for frame in &head.frames {
            self.live.push((frame.at.segment, -i64::from(frame.weight)));
        }
        self.place(index, id, &head.rows(), &Rows::default())?;
        // By now the key may belong to a younger message.
        let owner = match keys::intake_parts(&head.intake).and_then(|(_, hash)| self.intakes.get(&hash)) {
            Some((owner, _)) => Some(*owner),
            None => match index.get(&head.intake)? {
                Some(value) => Some(keys::parse_intake_value(&value)?.0),
                None => None,
            },
        };
        if owner == Some(id) {
            self.put(id, head.intake, None);
        }
        for key in head.external {
            self.put(id, key, None);
        }
        self.put(id, keys::head(id), None);
        self.heads.insert(id, None);
        Ok(())
    }

    /// The message was written again as a whole. What is left of it elsewhere must not come back when it is forgotten, so it is
    /// remembered where that lies.
    pub(crate) fn relocate(&mut self, id: MessageId, mut head: Head, at: Position, length: u64) {
        head.stale = head.segments().into_iter().collect();
        for frame in &head.frames {
            self.live.push((frame.at.segment, -i64::from(frame.weight)));
        }
        let weight = u32::try_from(length).unwrap_or(u32::MAX);
        self.live.push((at.segment, i64::from(weight)));
        head.frames = vec![FrameRef { at, weight }];
        self.put_head(id, head);
    }
}

/// Where an entry of a frame lies in the journal.
fn entry_at(frame: Position, entry: Entry) -> FrameRef {
    let offset = frame.offset + crate::frame::HEADER as u64 + entry.offset;
    FrameRef { at: Position { segment: frame.segment, offset }, weight: entry.length }
}
