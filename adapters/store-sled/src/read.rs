//! Reads messages: the head from the index, everything else from the journal.

use std::io;
use std::sync::Arc;

use amtsbote_core::delivery::{Delivery, Event};
use amtsbote_core::id::MessageId;
use amtsbote_core::port::{StoreError, StoredMessage};

use crate::committer::index_failed;
use crate::index::IndexError;
use crate::keys::{self, Head};
use crate::record::{MessageV1, PayloadPlace, RecordError, decode_change, decode_message};
use crate::store::Inner;

/// An entry of the index that cannot be read.
pub(crate) fn garbled(error: keys::Garbled) -> StoreError {
    index_failed(IndexError::Garbled(error))
}

/// A sector the disk cannot read is damage of what lies there, not of the store.
pub(crate) fn readable<T>(read: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(None),
        other => other,
    }
}

/// The record of a message and where its payload begins. A record of another message is damage: nobody may see it.
pub(crate) fn message_of(id: MessageId, frame: &[u8]) -> Result<(MessageV1<'_>, usize), StoreError> {
    let damaged = |detail: String| StoreError::Damaged { id, detail };
    let (record, end) = decode_message(frame).map_err(|error| damaged(error.to_string()))?;
    if record.message.id == id {
        Ok((record, end))
    } else {
        Err(damaged("the record of another message".to_owned()))
    }
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
            match readable(read).map_err(|source| StoreError::Io { doing: "reading the journal", source })? {
                Some(body) => bodies.push(body),
                None => {
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
        let mut events = message_of(id, first)?.0.events.into_owned();
        for entry in rest {
            let change = decode_change(entry).map_err(damaged)?;
            if change.id != id {
                return Err(StoreError::Damaged { id, detail: "a change of another message".to_owned() });
            }
            events.extend(change.events.into_owned());
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
                    Some(_) => {
                        self.shared.note_damage();
                        return Err(error);
                    }
                    None => return Ok(None),
                },
            }
        }
    }

    pub(crate) fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError> {
        self.with_frames(id, |head, frames| {
            let (record, _) = message_of(id, &frames[0])?;
            let message = Arc::new(record.message.into_owned());
            let (delivery, events) = self.replay_frames(id, head, frames)?;
            Ok(StoredMessage { message, delivery, events })
        })
    }

    /// The record of a message and the payload that lies behind it.
    pub(crate) fn record<T>(
        &self,
        id: MessageId,
        read: impl Fn(&Head, MessageV1<'_>, &[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        self.with_frames(id, |head, frames| {
            let (record, end) = message_of(id, &frames[0])?;
            Ok(read(head, record, &frames[0][end..]))
        })
    }

    /// Bytes a payload takes in the frame of its message; nothing if the record is damaged.
    pub(crate) fn inline_length(&self, id: MessageId) -> Result<u64, StoreError> {
        let inline = |_: &Head, record: MessageV1<'_>, _: &[u8]| match record.payload {
            PayloadPlace::Inline(length) => length,
            PayloadPlace::File(_) | PayloadPlace::Removed => 0,
        };
        match self.record(id, inline) {
            Ok(length) => Ok(length.unwrap_or(0)),
            Err(StoreError::Damaged { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }
}
