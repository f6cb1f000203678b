//! What one group of requests changes, on top of the index, before it is durable. Also how replay applies a frame.

use std::collections::HashMap;

use amtsbote_core::id::MessageId;
use amtsbote_core::message::Sha256Digest;

use crate::frame::Position;
use crate::index::{Index, IndexError, Op};
use crate::keys::{self, FrameRef, Head};
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
    pub(crate) queue: Vec<u8>,
    /// Only a message that was written again can be leased already.
    pub(crate) lease: Vec<u8>,
    pub(crate) alarm: Vec<u8>,
    pub(crate) delivery: Vec<u8>,
}

/// What a change of one message replaces.
#[derive(Debug)]
pub(crate) struct NewState {
    pub(crate) id: MessageId,
    pub(crate) expected: u64,
    pub(crate) version: u64,
    pub(crate) queue: Vec<u8>,
    pub(crate) lease: Vec<u8>,
    pub(crate) alarm: Vec<u8>,
    pub(crate) delivery: Vec<u8>,
    /// Bytes of the first frame that are no longer needed, when the payload goes.
    pub(crate) freed: u64,
    /// Where the change lies in its frame.
    pub(crate) entry: Entry,
}

/// What accept finds when the key is taken.
pub(crate) type Taken = (MessageId, Sha256Digest);

/// Changes of one group, on top of the index, before they are durable.
#[derive(Default)]
pub(crate) struct Group {
    heads: HashMap<MessageId, Option<Head>>,
    intakes: HashMap<IntakeHash, Taken>,
    pub(crate) ops: Vec<Op>,
    pub(crate) live: Vec<(u32, i64)>,
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
        let value = index.intake(&message.intake)?;
        Ok(value.map(|value| keys::parse_intake_value(&value)).transpose()?)
    }

    pub(crate) fn accept(&mut self, message: &NewMessage, at: Position, length: u64) {
        let weight = u32::try_from(length).unwrap_or(u32::MAX);
        self.live.push((at.segment, i64::from(weight)));
        let intake = keys::intake(&message.intake, message.week);
        self.intakes.insert(message.intake, (message.id, message.content));
        self.put(message.id, message.lease.clone(), Some(Vec::new()));
        self.put(message.id, message.alarm.clone(), Some(Vec::new()));
        self.put(message.id, intake.clone(), Some(keys::intake_value(message.id, message.content)));
        self.put(message.id, message.queue.clone(), Some(Vec::new()));
        let head = Head {
            version: message.version,
            intake,
            queue: message.queue.clone(),
            lease: message.lease.clone(),
            alarm: message.alarm.clone(),
            frames: vec![FrameRef { at, weight }],
            delivery: message.delivery.clone(),
        };
        self.put_head(message.id, head);
    }

    /// Takes back the queues of an older state that is replaced as a whole.
    pub(crate) fn replace(&mut self, id: MessageId, old: Head) {
        for key in [old.queue, old.lease, old.alarm] {
            self.put(id, key, None);
        }
    }

    pub(crate) fn change(&mut self, state: &NewState, mut head: Head, frame: Position) {
        if let Some(first) = head.frames.first_mut() {
            let freed = u32::try_from(state.freed).unwrap_or(u32::MAX).min(first.weight);
            first.weight -= freed;
            self.live.push((first.at.segment, -i64::from(freed)));
        }
        let at = Position {
            segment: frame.segment,
            offset: frame.offset + crate::frame::HEADER as u64 + state.entry.offset,
        };
        self.live.push((at.segment, i64::from(state.entry.length)));
        head.frames.push(FrameRef { at, weight: state.entry.length });
        let (queue, lease, alarm) = (&mut head.queue, &mut head.lease, &mut head.alarm);
        for (old, new) in [(queue, &state.queue), (lease, &state.lease), (alarm, &state.alarm)] {
            if old != new {
                self.put(state.id, std::mem::replace(old, new.clone()), None);
                self.put(state.id, new.clone(), Some(Vec::new()));
            }
        }
        head.version = state.version;
        head.delivery.clone_from(&state.delivery);
        self.put_head(state.id, head);
    }

    pub(crate) fn forget(&mut self, index: &Index, id: MessageId, head: Head) -> Result<(), IndexError> {
        for frame in &head.frames {
            self.live.push((frame.at.segment, -i64::from(frame.weight)));
        }
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
        for key in [keys::head(id), head.queue, head.lease, head.alarm] {
            self.put(id, key, None);
        }
        self.heads.insert(id, None);
        Ok(())
    }

    pub(crate) fn relocate(&mut self, id: MessageId, mut head: Head, at: Position, length: u64) {
        for frame in &head.frames {
            self.live.push((frame.at.segment, -i64::from(frame.weight)));
        }
        let weight = u32::try_from(length).unwrap_or(u32::MAX);
        self.live.push((at.segment, i64::from(weight)));
        head.frames = vec![FrameRef { at, weight }];
        self.put_head(id, head);
    }
}
