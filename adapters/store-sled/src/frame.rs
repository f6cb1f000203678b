//! Frames of the journal: a fixed header, then the body. Little-endian.
//!
//! ```text
//! 0  magic   "AMBJ"        16 group    u64, number of the write it belongs to
//! 4  kind    u8            24 body crc u32, CRC32C over the body
//! 5  zero    3 bytes       28 head crc u32, CRC32C over bytes 0..28, seeded with the salt
//! 8  length  u64, of the body
//! ```
//!
//! The salt is a random number of the store. Payloads lie in the journal as they came; without knowing the salt nobody can
//! upload bytes that a search behind a damaged place would take for a frame.
//!
//! A frame is the unit of atomicity: what one call commits is one frame. The group number tells which frames were synced
//! together: a later group was only begun after the earlier one was on stable storage.

use std::io;

/// Bytes of a header.
pub(crate) const HEADER: usize = 32;
const MAGIC: [u8; 4] = *b"AMBJ";
/// Longest body: an inline payload with its record, or a batch of changes. Longer lengths are damage.
pub(crate) const MAX_BODY: u64 = 64 << 20;

/// Seed of the header checksums of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u32);

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// A new message with its payload or a reference to it.
    Accepted,
    /// Changes of one or more deliveries.
    Changed,
    /// Messages that are forgotten.
    Forgotten,
    /// The index holds everything before a position.
    Checkpoint,
    /// A message as it stands now, written again so that an old segment can go.
    Moved,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Accepted => 1,
            Self::Changed => 2,
            Self::Forgotten => 3,
            Self::Checkpoint => 4,
            Self::Moved => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Accepted, Self::Changed, Self::Forgotten, Self::Checkpoint, Self::Moved]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// A header that was read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FrameKind,
    pub(crate) length: u64,
    pub(crate) group: u64,
    pub(crate) body_crc: u32,
}

impl Header {
    pub(crate) fn encode(&self, salt: Salt) -> [u8; HEADER] {
        let mut bytes = [0_u8; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind.code();
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.group.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(salt.0, &bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if the bytes are not an intact one.
    pub(crate) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        if bytes[..4] != MAGIC || u32_at(28)? != crc32c::crc32c_append(salt.0, &bytes[..28]) {
            return None;
        }
        let length = u64_at(8).filter(|length| *length <= MAX_BODY)?;
        Some(Self {
            kind: FrameKind::from_code(bytes[4])?,
            length,
            group: u64_at(16)?,
            body_crc: u32_at(24)?,
        })
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_length(&self) -> u64 {
        HEADER as u64 + self.length
    }
}

/// A body split so that large payloads are not copied: record first, then payload pieces.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) kind: FrameKind,
    pub(crate) pieces: Vec<bytes::Bytes>,
    pub(crate) length: u64,
    crc: u32,
}

impl Body {
    /// Computes length and checksum; done by the caller so that the committer has little to do.
    pub(crate) fn new(kind: FrameKind, pieces: Vec<bytes::Bytes>) -> Self {
        let crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { kind, pieces, length, crc }
    }

    pub(crate) fn header(&self, group: u64) -> Header {
        Header { kind: self.kind, length: self.length, group, body_crc: self.crc }
    }
}

/// Where a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// An intact frame.
    Frame(Header, &'a [u8]),
    /// Nothing intact; the next intact frame, if any, begins at `next`.
    Damage { next: Option<u64> },
    /// The end of the segment.
    End,
}

/// Reads what stands at `offset` of a segment's bytes.
pub(crate) fn at(segment: &[u8], offset: u64, salt: Salt) -> io::Result<Found<'_>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    if start >= segment.len() {
        return Ok(Found::End);
    }
    if let Some((header, body)) = intact(&segment[start..], salt) {
        return Ok(Found::Frame(header, body));
    }
    let next = (start + 1..segment.len())
        .filter(|place| segment[*place..].starts_with(&MAGIC))
        .find(|place| intact(&segment[*place..], salt).is_some());
    Ok(Found::Damage { next: next.map(|place| place as u64) })
}

fn intact(bytes: &[u8], salt: Salt) -> Option<(Header, &[u8])> {
    let header = Header::decode(bytes, salt)?;
    let end = HEADER + usize::try_from(header.length).ok()?;
    let body = bytes.get(HEADER..end)?;
    (crc32c::crc32c(body) == header.body_crc).then_some((header, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: Salt = Salt(7);

    fn frame(kind: FrameKind, group: u64, body: &[u8]) -> Vec<u8> {
        let body = Body::new(kind, vec![bytes::Bytes::copy_from_slice(body)]);
        let mut bytes = body.header(group).encode(SALT).to_vec();
        bytes.extend_from_slice(&body.pieces[0]);
        bytes
    }

    #[test]
    fn a_frame_reads_back() {
        let bytes = frame(FrameKind::Changed, 7, b"hello");
        let Found::Frame(header, body) = at(&bytes, 0, SALT).unwrap() else { panic!() };
        assert_eq!((header.kind, header.group, body), (FrameKind::Changed, 7, b"hello".as_slice()));
        assert_eq!(at(&bytes, header.frame_length(), SALT).unwrap(), Found::End);
    }

    #[test]
    fn a_frame_of_another_store_inside_a_torn_payload_is_not_executed() {
        let forged = Body::new(FrameKind::Forgotten, vec![bytes::Bytes::from_static(b"forged")]);
        let mut payload = forged.header(2).encode(Salt(8)).to_vec();
        payload.extend_from_slice(b"forged");
        let mut bytes = frame(FrameKind::Accepted, 1, &payload);
        bytes.pop();
        assert_eq!(at(&bytes, 0, SALT).unwrap(), Found::Damage { next: None });
        let own = frame(FrameKind::Forgotten, 2, b"own");
        let begin = bytes.len() as u64;
        bytes.extend(own);
        assert_eq!(at(&bytes, 0, SALT).unwrap(), Found::Damage { next: Some(begin) });
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed_and_the_next_frame_is_found(place in 0_usize..37, bit in 0_u8..8) {
            let first = frame(FrameKind::Changed, 1, b"hello");
            let mut bytes = first.clone();
            bytes.extend(frame(FrameKind::Forgotten, 2, b"world"));
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(at(&bytes, 0, SALT).unwrap(), Found::Damage { next: Some(first.len() as u64) });
        }
    }
}
