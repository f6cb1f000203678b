//! What frames hold: versioned JSON records. Old versions stay readable.

use std::borrow::Cow;
use std::collections::BTreeSet;

use amtsbote_core::delivery::{Delivery, Event};
use amtsbote_core::id::MessageId;
use amtsbote_core::key::{AccountName, IdempotencyKey};
use amtsbote_core::message::{IdScheme, IntakeKey, Message};
use amtsbote_core::port::NoteKind;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::frame::Position;

/// Where the payload of a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PayloadPlace {
    /// Behind the record, in the same frame.
    Inline(u64),
    /// In a file named after the message.
    File(u64),
    /// Removed after its retention.
    Removed,
}

/// A message with everything known of it when the frame was written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v")]
pub(crate) enum MessageRecord<'a> {
    #[serde(rename = "1")]
    V1(#[serde(borrow = "'a")] MessageV1<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageV1<'a> {
    pub(crate) key: KeyV1<'a>,
    pub(crate) message: Cow<'a, Message>,
    pub(crate) delivery: Cow<'a, Delivery>,
    pub(crate) events: Cow<'a, [Event]>,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) answer: Bytes,
    pub(crate) payload: PayloadPlace,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyV1<'a> {
    pub(crate) account: Cow<'a, AccountName>,
    pub(crate) scheme: IdScheme,
    pub(crate) value: Cow<'a, IdempotencyKey>,
}

impl<'a> From<&'a IntakeKey> for KeyV1<'a> {
    fn from(key: &'a IntakeKey) -> Self {
        Self { account: Cow::Borrowed(&key.account), scheme: key.scheme, value: Cow::Borrowed(&key.value) }
    }
}

impl From<KeyV1<'_>> for IntakeKey {
    fn from(key: KeyV1<'_>) -> Self {
        Self { account: key.account.into_owned(), scheme: key.scheme, value: key.value.into_owned() }
    }
}

/// One entry of a frame of changes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v")]
#[expect(clippy::large_enum_variant, reason = "lives only while a frame is written or read")]
pub(crate) enum ChangeRecord<'a> {
    /// A change of one delivery.
    #[serde(rename = "1")]
    V1(#[serde(borrow = "'a")] ChangeV1<'a>),
    /// A note; since format 2.
    #[serde(rename = "note-1")]
    NoteV1(#[serde(borrow = "'a")] NoteV1<'a>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NoteV1<'a> {
    #[serde(with = "NoteKindName")]
    pub(crate) kind: NoteKind,
    pub(crate) name: Cow<'a, str>,
    /// JSON; absent: the note is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "NoteKind", rename_all = "lowercase")]
enum NoteKindName {
    Hold,
    Breaker,
    Job,
    Audit,
    Reservation,
    RemoteId,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChangeV1<'a> {
    pub(crate) id: MessageId,
    pub(crate) delivery: Cow<'a, Delivery>,
    pub(crate) events: Cow<'a, [Event]>,
    /// Bytes of the message's first frame that are no longer needed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) freed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Messages that are forgotten.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v")]
pub(crate) enum ForgottenRecord {
    #[serde(rename = "1")]
    V1 { messages: Vec<Forgotten> },
}

/// A message that is forgotten. Needed as long as one of its frames is still in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    pub(crate) id: MessageId,
    /// Segments that had frames of it.
    pub(crate) segments: BTreeSet<u32>,
}

/// The index on disk holds everything before a position.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v")]
pub(crate) enum CheckpointRecord {
    #[serde(rename = "1")]
    V1(Checkpoint),
}

/// A position, and how the segments are used at that position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) position: Position,
    /// Bytes still needed per segment.
    pub(crate) live: Vec<(u32, u64)>,
    /// Segments that still have bytes of payloads whose retention is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) stripped: Vec<(u32, Option<Timestamp>)>,
}

/// A record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record is cut off")]
    Short,
    #[error("the checksum of the record does not match")]
    Checksum,
    #[error("it is not what should be there")]
    Kind,
    #[error("the record is not readable: {0}")]
    Json(#[from] serde_json::Error),
}

/// Encodes a record that cannot fail to encode: plain data without maps.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Bytes, RecordError> {
    Ok(serde_json::to_vec(record)?.into())
}

/// Body of a message frame: length of the record (u32), record, inline payload.
pub(crate) fn encode_message(record: &MessageRecord<'_>) -> Result<Bytes, RecordError> {
    let mut writer = BytesMut::with_capacity(2048).writer();
    writer.get_mut().put_u32_le(0);
    serde_json::to_writer(&mut writer, record)?;
    let mut bytes = writer.into_inner();
    let length = u32::try_from(bytes.len() - 4).map_err(|_| RecordError::Short)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes.freeze())
}

/// Bytes in front of each entry of a changes frame: length and CRC32C, so that one entry can be read and checked alone.
pub(crate) const ENTRY: usize = 8;

/// Where an entry lies in the body of its frame, head included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// Body of a changes frame, and where each change lies in it.
pub(crate) fn encode_changes(records: &[ChangeRecord<'_>]) -> Result<(Bytes, Vec<Entry>), RecordError> {
    let (mut body, mut entries) =
        (BytesMut::with_capacity(records.len() * 1024), Vec::with_capacity(records.len()));
    for record in records {
        let json = serde_json::to_vec(record)?;
        let length = u32::try_from(json.len()).map_err(|_| RecordError::Short)?;
        entries.push(Entry { offset: body.len() as u64, length: length + ENTRY as u32 });
        body.put_u32_le(length);
        body.put_u32_le(crc32c::crc32c(&json));
        body.put_slice(&json);
    }
    Ok((body.freeze(), entries))
}

/// The change of a delivery at the beginning of some bytes.
pub(crate) fn decode_change(bytes: &[u8]) -> Result<ChangeV1<'_>, RecordError> {
    match decode_entry(bytes)? {
        (ChangeRecord::V1(change), _) => Ok(change),
        (ChangeRecord::NoteV1(_), _) => Err(RecordError::Kind),
    }
}

/// The entry at the beginning of some bytes, and where the next one begins.
fn decode_entry(bytes: &[u8]) -> Result<(ChangeRecord<'_>, usize), RecordError> {
    let field = |at: usize| {
        let field: Option<[u8; 4]> = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
        field.map(u32::from_le_bytes).ok_or(RecordError::Short)
    };
    let end = ENTRY + field(0)? as usize;
    let json = bytes.get(ENTRY..end).ok_or(RecordError::Short)?;
    if crc32c::crc32c(json) != field(4)? {
        return Err(RecordError::Checksum);
    }
    Ok((serde_json::from_slice(json)?, end))
}

/// All entries of a frame with their places.
pub(crate) fn decode_changes(body: &[u8]) -> Result<Vec<(Entry, ChangeRecord<'_>)>, RecordError> {
    let (mut changes, mut offset) = (Vec::new(), 0);
    while offset < body.len() {
        let (change, end) = decode_entry(&body[offset..])?;
        let length = u32::try_from(end).map_err(|_| RecordError::Short)?;
        changes.push((Entry { offset: offset as u64, length }, change));
        offset += end;
    }
    Ok(changes)
}

/// Splits the body of a message frame into record and payload.
pub(crate) fn decode_message(body: &[u8]) -> Result<(MessageV1<'_>, usize), RecordError> {
    let length: [u8; 4] = body.get(..4).and_then(|bytes| bytes.try_into().ok()).ok_or(RecordError::Short)?;
    let end = 4 + u32::from_le_bytes(length) as usize;
    let MessageRecord::V1(record) = serde_json::from_slice(body.get(4..end).ok_or(RecordError::Short)?)?;
    Ok((record, end))
}

fn to_base64<S: serde::Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(serde::de::Error::custom)
}
