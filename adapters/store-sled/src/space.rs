//! Gives space back: segments that hold little of use are emptied into the end of the journal and removed.
//!
//! Safe at any instant: a segment goes only after everything of it that is still needed was written again and the index
//! that points there is on stable storage. The counts of live bytes only choose where to look.

use std::collections::BTreeSet;
use std::io;

use amtsbote_core::id::MessageId;
use amtsbote_core::port::StoreError;
use bytes::Bytes;

use crate::frame::{self, Body, Found, FrameKind};
use crate::keys::Head;
use crate::record::{
    ForgottenRecord, MessageRecord, PayloadPlace, RecordError, decode_changes, decode_message, encode_message,
};
use crate::store::Inner;

/// A segment is emptied when less than this share of it is needed.
const WORTH: u64 = 4;

/// What of a segment may still be needed.
pub(crate) struct Remains {
    pub(crate) messages: BTreeSet<MessageId>,
    /// Records of forgotten messages, byte for byte.
    pub(crate) forgotten: Vec<Bytes>,
}

impl Inner {
    /// Closed segments that are worth emptying, oldest first.
    pub(crate) fn worth_emptying(&self) -> io::Result<Vec<u32>> {
        let live = self.shared.live();
        let segments = self.folder.segments()?;
        let Some((_, closed)) = segments.split_last() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for segment in closed {
            let size = std::fs::metadata(self.folder.path(*segment))?.len();
            let needed = live.iter().find(|(number, _)| number == segment).map_or(0, |(_, bytes)| *bytes);
            if needed < size / WORTH {
                found.push(*segment);
            }
        }
        Ok(found)
    }

    /// Reads what a segment holds.
    pub(crate) fn remains(&self, segment: u32) -> Result<Remains, StoreError> {
        let failed = |source| StoreError::Io { doing: "reading a segment", source };
        let bytes = std::fs::read(self.folder.path(segment)).map_err(failed)?;
        let mut remains = Remains { messages: BTreeSet::new(), forgotten: Vec::new() };
        let mut offset = 0;
        loop {
            match frame::at(&bytes, offset).map_err(failed)? {
                Found::Frame(header, body) => {
                    offset += header.frame_length();
                    match header.kind {
                        FrameKind::Accepted | FrameKind::Moved => {
                            if let Ok((record, _)) = decode_message(body) {
                                remains.messages.insert(record.message.id);
                            }
                        }
                        FrameKind::Changed => {
                            if let Ok(changes) = decode_changes(body) {
                                remains.messages.extend(changes.iter().map(|(_, change)| change.id));
                            }
                        }
                        FrameKind::Forgotten => remains.forgotten.push(Bytes::copy_from_slice(body)),
                        FrameKind::Checkpoint => {}
                    }
                }
                Found::Damage { next: Some(next) } => offset = next,
                Found::Damage { next: None } | Found::End => return Ok(remains),
            }
        }
    }

    /// The frame that replaces all frames of a message, if one of them lies in the segment.
    pub(crate) fn rewritten(&self, segment: u32, id: MessageId) -> Result<Option<(u64, Body)>, StoreError> {
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
        let (mut record, end) = decode_message(&frames[0]).map_err(damaged)?;
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

    /// Whether records of forgotten messages in this segment still protect against older frames.
    pub(crate) fn is_oldest(&self, segment: u32) -> io::Result<bool> {
        Ok(self.folder.segments()?.first() == Some(&segment))
    }
}

/// Whether a record of forgotten messages can be read; an unreadable one is not carried on.
pub(crate) fn is_forgotten_record(bytes: &[u8]) -> bool {
    serde_json::from_slice::<ForgottenRecord>(bytes).is_ok()
}
