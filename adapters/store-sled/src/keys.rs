//! Keys of the index. One byte of kind, then fields that sort; big-endian.
//!
//! | key | value |
//! |---|---|
//! | `h` id | [`Head`] |
//! | `i` week, hash of the intake key | id, content digest |
//! | `p` id | to be prepared |
//! | `t` due, id | timer; destination |
//! | `a` due, id | alarm |
//! | `r` destination, 0, class, deadline, id | ready for an attempt |
//! | `m` mailbox, 0, class, deadline, id | available |
//! | `o` hold, 0, class, deadline, id | kept back by a hold |
//! | `x` since, id | dead |
//! | `d` stripped, since, id | finished |
//! | `l` lease, id | leased |
//! | `e` hash of an external id, id | |
//! | `k` destination, 0, hash of the ordering key, id | in line; its `r` or `m` key, which is only there for the first in line |
//! | `c` kind, name | [`NoteRow`] |
//! | `!position-5` | position up to which the index is complete |

use std::collections::BTreeSet;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{Delivery, ItemState, Placement};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::message::{IdScheme, IntakeKey, Message, Priority, Sha256Digest};
use amtsbote_core::port::{MailboxPlace, NoteKind};
use amtsbote_core::route::{ChannelKind, Destination};
use sha2::{Digest, Sha256};

use crate::frame::Position;
use crate::known::IntakeHash;

/// Its name changes with the format of the index: an index without it is rebuilt.
pub(crate) const POSITION: &[u8] = b"!position-5";

/// Where a piece of a message lies: the whole frame with its record first, then the entry of each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameRef {
    pub(crate) at: Position,
    /// Bytes that are still needed of it; for a change its whole length.
    pub(crate) weight: u32,
}

/// Where a message stands in the index besides its head; empty keys stand for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    /// The queue it stands in.
    pub(crate) queue: Vec<u8>,
    /// What the row of the queue says.
    pub(crate) value: Vec<u8>,
    pub(crate) lease: Vec<u8>,
    pub(crate) alarm: Vec<u8>,
    pub(crate) line: Vec<u8>,
}

impl Rows {
    /// The rows of a delivery.
    pub(crate) fn of(delivery: &Delivery, id: MessageId) -> Self {
        let queue = queue(delivery, id);
        let destination = delivery.destination.as_ref().filter(|_| queue.starts_with(b"t"));
        Self {
            value: destination.map_or_else(Vec::new, |destination| destination.to_string().into_bytes()),
            queue,
            lease: lease(delivery, id),
            alarm: alarm(delivery, id),
            line: line(delivery, id),
        }
    }

    /// Whether only the first in line may stand in the queue.
    pub(crate) fn is_gated(&self) -> bool {
        matches!(self.queue.first(), Some(b'r' | b'm'))
    }
}

/// What the index knows of a message. Binary, so that the committer needs no parsing of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: u64,
    pub(crate) intake: Vec<u8>,
    pub(crate) external: Vec<Vec<u8>>,
    pub(crate) queue: Vec<u8>,
    pub(crate) lease: Vec<u8>,
    pub(crate) alarm: Vec<u8>,
    pub(crate) line: Vec<u8>,
    pub(crate) frames: Vec<FrameRef>,
    /// Segments that have older frames of it, which were written again elsewhere.
    pub(crate) stale: Vec<u32>,
    /// Delivery as JSON.
    pub(crate) delivery: Vec<u8>,
}

/// The index entry is cut off or garbled; the index has to be rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of the index is garbled")]
pub(crate) struct Garbled;

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(64 + self.queue.len() + self.frames.len() * 16 + self.delivery.len());
        bytes.extend_from_slice(&self.version.to_be_bytes());
        for field in [&self.intake, &self.queue, &self.lease, &self.alarm, &self.line] {
            bytes.extend_from_slice(&u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes.extend_from_slice(&u16::try_from(self.external.len()).unwrap_or(u16::MAX).to_be_bytes());
        for key in &self.external {
            bytes.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(key);
        }
        bytes.extend_from_slice(&u32::try_from(self.frames.len()).unwrap_or(u32::MAX).to_be_bytes());
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.at.segment.to_be_bytes());
            bytes.extend_from_slice(&frame.at.offset.to_be_bytes());
            bytes.extend_from_slice(&frame.weight.to_be_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(self.stale.len()).unwrap_or(u32::MAX).to_be_bytes());
        for segment in &self.stale {
            bytes.extend_from_slice(&segment.to_be_bytes());
        }
        bytes.extend_from_slice(&self.delivery);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Garbled> {
        let mut rest = Fields(bytes);
        let version = rest.u64()?;
        let intake = rest.field()?.to_vec();
        let queue = rest.field()?.to_vec();
        let lease = rest.field()?.to_vec();
        let alarm = rest.field()?.to_vec();
        let line = rest.field()?.to_vec();
        let count = rest.u16()?;
        let external = (0..count).map(|_| rest.field().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        let count = rest.u32()?;
        let mut frames = Vec::with_capacity(count.min(1024) as usize);
        for _ in 0..count {
            let at = Position { segment: rest.u32()?, offset: rest.u64()? };
            frames.push(FrameRef { at, weight: rest.u32()? });
        }
        let count = rest.u32()?;
        let mut stale = Vec::with_capacity(count.min(1024) as usize);
        for _ in 0..count {
            stale.push(rest.u32()?);
        }
        Ok(Self {
            version,
            intake,
            external,
            queue,
            lease,
            alarm,
            line,
            frames,
            stale,
            delivery: rest.0.to_vec(),
        })
    }

    /// All segments that have frames of the message, needed or not.
    pub(crate) fn segments(&self) -> BTreeSet<u32> {
        self.stale.iter().copied().chain(self.frames.iter().map(|frame| frame.at.segment)).collect()
    }

    /// The rows the message has besides its head.
    pub(crate) fn rows(&self) -> Rows {
        Rows {
            queue: self.queue.clone(),
            value: Vec::new(),
            lease: self.lease.clone(),
            alarm: self.alarm.clone(),
            line: self.line.clone(),
        }
    }

    pub(crate) fn parse_delivery(&self) -> Result<Delivery, Garbled> {
        serde_json::from_slice(&self.delivery).map_err(|_| Garbled)
    }
}

/// What the index knows of a note: where its entry lies, and what it says. A note that was taken away stays as long as an
/// older frame of it may be in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoteRow {
    pub(crate) entry: FrameRef,
    pub(crate) value: Option<String>,
}

impl NoteRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let FrameRef { at, weight } = self.entry;
        let mut bytes = Vec::with_capacity(17 + self.value.as_ref().map_or(0, String::len));
        bytes.extend_from_slice(&at.segment.to_be_bytes());
        bytes.extend_from_slice(&at.offset.to_be_bytes());
        bytes.extend_from_slice(&weight.to_be_bytes());
        bytes.push(u8::from(self.value.is_some()));
        bytes.extend_from_slice(self.value.as_deref().unwrap_or_default().as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Garbled> {
        let mut rest = Fields(bytes);
        let at = Position { segment: rest.u32()?, offset: rest.u64()? };
        let entry = FrameRef { at, weight: rest.u32()? };
        let kept = rest.take(1)? == [1];
        let text = std::str::from_utf8(rest.0).map_err(|_| Garbled)?;
        Ok(Self { entry, value: kept.then(|| text.to_owned()) })
    }
}

/// First key behind everything with a prefix.
pub(crate) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, Garbled> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| Garbled)
    }

    fn u32(&mut self) -> Result<u32, Garbled> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Garbled)
    }

    fn u16(&mut self) -> Result<u16, Garbled> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| Garbled)
    }

    fn field(&mut self) -> Result<&'a [u8], Garbled> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

pub(crate) fn head(id: MessageId) -> Vec<u8> {
    [b"h", id.as_bytes().as_slice()].concat()
}

/// An intake key, without the week.
pub(crate) fn intake_hash(key: &IntakeKey) -> IntakeHash {
    let mut hasher = Sha256::new();
    for field in [key.account.as_str(), scheme_name(key.scheme), key.value.as_str()] {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let mut cut = IntakeHash::default();
    cut.copy_from_slice(&hash[..16]);
    cut
}

/// Key of an intake key in the partition of the week in which the message was received.
pub(crate) fn intake(hash: &IntakeHash, week: u32) -> Vec<u8> {
    [b"i".as_slice(), &week.to_be_bytes(), hash].concat()
}

/// Week and hash, if a key of the index is an intake key.
pub(crate) fn intake_parts(key: &[u8]) -> Option<(u32, IntakeHash)> {
    let (week, hash) = key.strip_prefix(b"i")?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*week), hash.try_into().ok()?))
}

fn scheme_name(scheme: IdScheme) -> &'static str {
    match scheme {
        IdScheme::Client => "client",
        IdScheme::Xta => "xta",
        IdScheme::Osci => "osci",
    }
}

/// Prefix of everything somebody gave this id, whatever its case.
pub(crate) fn external_prefix(scheme: IdScheme, value: &str) -> Vec<u8> {
    let hash =
        Sha256::new().chain_update(scheme_name(scheme)).chain_update("\0").chain_update(value.to_lowercase());
    [b"e".as_slice(), &hash.finalize()[..16]].concat()
}

/// Keys under which a message is found by the ids others gave it. Keys of intake are not among them.
pub(crate) fn external(message: &Message) -> Vec<Vec<u8>> {
    let ids = message.external_ids.iter().filter(|id| id.scheme != IdScheme::Client);
    ids.map(|id| [external_prefix(id.scheme, &id.value).as_slice(), message.id.as_bytes()].concat()).collect()
}

/// Number of the week since 1970.
pub(crate) fn week(at: Timestamp) -> u32 {
    u32::try_from(at.as_second().div_euclid(7 * 24 * 3600)).unwrap_or(0)
}

pub(crate) fn intake_value(id: MessageId, content: Sha256Digest) -> Vec<u8> {
    [id.as_bytes().as_slice(), content.as_bytes()].concat()
}

pub(crate) fn parse_intake_value(value: &[u8]) -> Result<(MessageId, Sha256Digest), Garbled> {
    let (id, content) = value.split_at_checked(16).ok_or(Garbled)?;
    let id: [u8; 16] = id.try_into().map_err(|_| Garbled)?;
    let content: [u8; 32] = content.try_into().map_err(|_| Garbled)?;
    Ok((MessageId::from_bytes(id), content.into()))
}

/// A time that sorts as bytes, also before 1970.
fn sortable(at: Timestamp) -> [u8; 8] {
    (at.as_millisecond().cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn from_sortable(bytes: &[u8]) -> Option<Timestamp> {
    let raw = u64::from_be_bytes(bytes.try_into().ok()?) ^ (1 << 63);
    Timestamp::from_millisecond(raw.cast_signed()).ok()
}

fn class_byte(class: Priority) -> u8 {
    match class {
        Priority::High => 0,
        Priority::Normal => 1,
    }
}

fn order(class: Priority, deadline: Option<Timestamp>, id: MessageId) -> Vec<u8> {
    let class = class_byte(class);
    let deadline = deadline.map_or([0xff; 8], sortable);
    [[class].as_slice(), &deadline, id.as_bytes()].concat()
}

/// Prefix of everything ready for one destination.
pub(crate) fn ready_prefix(destination: &Destination) -> Vec<u8> {
    [b"r", destination.to_string().as_bytes(), b"\0"].concat()
}

/// First key of a class among everything ready for one destination.
pub(crate) fn ready_from(destination: &Destination, class: Priority) -> Vec<u8> {
    [ready_prefix(destination).as_slice(), &[class_byte(class)]].concat()
}

pub(crate) fn mailbox_prefix(mailbox: &str) -> Vec<u8> {
    [b"m", mailbox.as_bytes(), b"\0"].concat()
}

/// First key behind a place in a mailbox.
pub(crate) fn mailbox_behind(prefix: &[u8], place: MailboxPlace) -> Vec<u8> {
    [prefix, &order(place.class, place.deadline, place.id), b"\0"].concat()
}

/// The place a key of a mailbox stands for.
pub(crate) fn mailbox_place(key: &[u8]) -> Result<MailboxPlace, Garbled> {
    let at = key.len().checked_sub(25).ok_or(Garbled)?;
    let class = match key[at] {
        0 => Priority::High,
        _ => Priority::Normal,
    };
    let deadline = Some(&key[at + 1..at + 9]).filter(|bytes| **bytes != [0xff; 8]).and_then(from_sortable);
    Ok(MailboxPlace { class, deadline, id: id_of(key)? })
}

pub(crate) fn finished_prefix(stripped: bool) -> Vec<u8> {
    vec![b'd', u8::from(stripped)]
}

/// First key of finished messages that are not before a time.
pub(crate) fn finished_bound(stripped: bool, before: Timestamp) -> Vec<u8> {
    [finished_prefix(stripped).as_slice(), &sortable(before)].concat()
}

pub(crate) fn held_prefix(hold: &HoldKey) -> Vec<u8> {
    [b"o", hold.to_string().as_bytes(), b"\0"].concat()
}

/// Key of a dead letter.
pub(crate) fn dead(since: Timestamp, id: MessageId) -> Vec<u8> {
    [b"x".as_slice(), &sortable(since), id.as_bytes()].concat()
}

/// Prefix of everything in line for the same ordering key.
pub(crate) fn line_prefix(line: &[u8]) -> &[u8] {
    &line[..line.len().saturating_sub(16)]
}

fn line(delivery: &Delivery, id: MessageId) -> Vec<u8> {
    let Some((destination, key)) = delivery.line_key() else { return Vec::new() };
    let hash: [u8; 32] = Sha256::digest(key.as_str()).into();
    [b"k", destination.to_string().as_bytes(), b"\0", &hash[..16], id.as_bytes()].concat()
}

/// Prefix of all notes of a kind.
pub(crate) fn notes(kind: NoteKind) -> Vec<u8> {
    let kind = match kind {
        NoteKind::Hold => b'h',
        NoteKind::Breaker => b'b',
        NoteKind::Job => b'j',
        NoteKind::Audit => b'a',
        NoteKind::Reservation => b'r',
        NoteKind::RemoteId => b'm',
    };
    vec![b'c', kind]
}

/// Key of a note.
pub(crate) fn note(kind: NoteKind, name: &str) -> Vec<u8> {
    [notes(kind).as_slice(), name.as_bytes()].concat()
}

/// Key of the queue a delivery stands in; empty for those that stand in none.
fn queue(delivery: &Delivery, id: MessageId) -> Vec<u8> {
    match delivery.placement() {
        Placement::Prepare => [b"p", id.as_bytes().as_slice()].concat(),
        Placement::Timer { due } => [b"t".as_slice(), &sortable(due), id.as_bytes()].concat(),
        Placement::Ready { destination, class, deadline } => {
            [ready_prefix(&destination), order(class, deadline, id)].concat()
        }
        Placement::Available { mailbox, class, deadline } => {
            [mailbox_prefix(mailbox.as_str()), order(class, deadline, id)].concat()
        }
        Placement::Finished { since, stripped } => {
            [finished_bound(stripped, since).as_slice(), id.as_bytes()].concat()
        }
        Placement::Held { hold, class, deadline } => {
            [held_prefix(&hold), order(class, deadline, id)].concat()
        }
        Placement::Dead { since } => dead(since, id),
    }
}

/// Key of the alarm of a delivery; empty if it has none.
fn alarm(delivery: &Delivery, id: MessageId) -> Vec<u8> {
    match delivery.alarm() {
        Some(due) => [b"a".as_slice(), &sortable(due), id.as_bytes()].concat(),
        None => Vec::new(),
    }
}

/// Key under which a leased message is found by its lease; empty if it is not leased.
fn lease(delivery: &Delivery, id: MessageId) -> Vec<u8> {
    match delivery.item.as_ref().map(|item| &item.state) {
        Some(ItemState::Leased { lease, .. }) => [lease_prefix(*lease).as_slice(), id.as_bytes()].concat(),
        _ => Vec::new(),
    }
}

pub(crate) fn lease_prefix(lease: LeaseId) -> Vec<u8> {
    [b"l", lease.as_bytes().as_slice()].concat()
}

/// Id at the end of any key that has one.
pub(crate) fn id_of(key: &[u8]) -> Result<MessageId, Garbled> {
    key.last_chunk::<16>().map(|id| MessageId::from_bytes(*id)).ok_or(Garbled)
}

/// Due time of a timer key.
pub(crate) fn due_of(key: &[u8]) -> Result<Timestamp, Garbled> {
    key.get(1..9).and_then(from_sortable).ok_or(Garbled)
}

/// Prefix of a key and the name in it, which ends with a zero byte.
pub(crate) fn name_of(key: &[u8]) -> Result<(&[u8], &str), Garbled> {
    let end = key.iter().position(|byte| *byte == 0).ok_or(Garbled)?;
    let name = std::str::from_utf8(key.get(1..end).ok_or(Garbled)?).map_err(|_| Garbled)?;
    Ok((&key[..=end], name))
}

/// Where a message waits according to its queue: the destination of a timer, ready or mailbox row.
pub(crate) fn destination_of(key: &[u8], value: &[u8]) -> Result<Option<Destination>, Garbled> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Garbled);
    match key.first() {
        Some(b't') if value.is_empty() => Ok(None),
        Some(b't') => text(value)?.parse().map(Some).map_err(|_| Garbled),
        Some(b'r') => name_of(key)?.1.parse().map(Some).map_err(|_| Garbled),
        Some(b'm') => {
            let organization = name_of(key)?.1.parse().map_err(|_| Garbled)?;
            Ok(Some(Destination { organization, channel: ChannelKind::Mailbox }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let head = Head {
            version: 3,
            intake: vec![1; 21],
            external: vec![b"e1".to_vec(), b"e22".to_vec()],
            queue: b"pxyz".to_vec(),
            lease: Vec::new(),
            alarm: b"a123".to_vec(),
            line: b"kxyz".to_vec(),
            frames: vec![FrameRef { at: Position { segment: 1, offset: 99 }, weight: 7 }],
            stale: vec![4, 9],
            delivery: b"{}".to_vec(),
        };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head));
        for end in 0..bytes.len() - 2 {
            assert_eq!(Head::decode(&bytes[..end]), Err(Garbled), "cut at {end}");
        }
    }

    #[test]
    fn times_sort_as_bytes() {
        let times = [-5_000, -1, 0, 1, 1_700_000_000_000].map(|ms| Timestamp::from_millisecond(ms).unwrap());
        let keys = times.map(sortable);
        assert!(keys.is_sorted());
        assert_eq!(keys.map(|key| from_sortable(&key).unwrap()), times);
    }
}
