//! Identifiers of messages and leases. Parsed once at the edge; nothing else gets in.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::port::Entropy;

/// Identity of an accepted message: a UUIDv7, written `urn:uuid:<uuid>`.
///
/// Ids made by one [`MessageIdSource`] sort by the time they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

/// The text is not a message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a message id (expected urn:uuid:<uuid>)")]
pub struct InvalidMessageId;

impl MessageId {
    /// The sixteen bytes of the UUID; they sort like the ids.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Restores an id from [`Self::as_bytes`].
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Milliseconds since 1970 in the id.
    fn millis(&self) -> u64 {
        self.as_bytes()[..6].iter().fold(0, |millis, byte| millis << 8 | u64::from(*byte))
    }

    /// When the message was accepted, as the id has it.
    pub fn accepted_at(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.millis().cast_signed()).ok()
    }

    /// The bytes with which ids made at a time begin to sort.
    pub fn first_bytes_at(at: Timestamp) -> [u8; 16] {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes
    }

    /// The bare UUID, as OSCI and XTA embed it.
    pub fn uuid(&self) -> Uuid {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_urn())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    /// Accepts the URN form and the bare hyphenated UUID.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix("urn:uuid:").unwrap_or(text);
        if bare.len() != 36 {
            return Err(InvalidMessageId);
        }
        Uuid::try_parse(bare).map(Self).map_err(|_| InvalidMessageId)
    }
}

impl Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Makes message ids that never go backwards, even within one millisecond or when the clock does.
#[derive(Debug, Default)]
pub struct MessageIdSource {
    last: Mutex<(u64, u16)>,
}

impl MessageIdSource {
    /// Goes on behind an id that was given earlier, whatever the clock says.
    pub fn go_on_after(&self, id: MessageId) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max((id.millis(), 0x0fff));
    }

    /// Next id: 48 bits of milliseconds, 12 bits of counter, 62 random bits (RFC 9562 section 6.2, method 1).
    pub fn next(&self, now: Timestamp, entropy: &dyn Entropy) -> MessageId {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let (millis, counter) = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = match *last {
                (previous, counter) if millis <= previous && counter < 0x0fff => (previous, counter + 1),
                (previous, _) if millis <= previous => (previous + 1, 0),
                _ => (millis, 0),
            };
            *last
        };
        let mut bytes = [0_u8; 16];
        entropy.fill(&mut bytes[8..]);
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&(0x7000 | counter).to_be_bytes());
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        MessageId::from_bytes(bytes)
    }
}

/// Secret that proves ownership of a mailbox lease; one per lease, whatever number of messages it covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(Uuid);

/// The text is not a lease token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a lease token")]
pub struct InvalidLeaseId;

impl LeaseId {
    /// A fresh, unguessable token (128 random bits).
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0_u8; 16];
        entropy.fill(&mut bytes);
        Self(Uuid::from_bytes(bytes))
    }

    /// What stands for text that is no token: no lease has it.
    pub const NEVER: Self = Self(Uuid::nil());

    /// The bytes under which a store finds the lease.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_hyphenated())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId([secret])")
    }
}

impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 36 {
            return Err(InvalidLeaseId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidLeaseId)
    }
}

impl Serialize for LeaseId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;
    impl Entropy for Zeros {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    #[test]
    fn ids_grow_within_one_millisecond_and_when_the_clock_goes_back() {
        let source = MessageIdSource::default();
        let now = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
        let earlier = Timestamp::from_millisecond(1_600_000_000_000).unwrap();
        let mut last = source.next(now, &Zeros);
        for round in 0..10_000 {
            let next = source.next(if round % 2 == 0 { now } else { earlier }, &Zeros);
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        assert_eq!(last.uuid().get_version_num(), 7);
    }

    #[test]
    fn ids_are_read_with_and_without_the_urn_prefix() {
        let id = MessageIdSource::default().next(Timestamp::UNIX_EPOCH, &Zeros);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.uuid().to_string().parse(), Ok(id));
        assert_eq!("urn:uuid:xyz".parse::<MessageId>(), Err(InvalidMessageId));
        assert_eq!("".parse::<LeaseId>(), Err(InvalidLeaseId));
    }
}
