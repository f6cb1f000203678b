//! One block of the search: up to some thousand messages with neighbouring ids, read and written as a whole.
//!
//! ```text
//! magic and version, 8 bytes       number of facets, of rows, bytes of the summary, u32 each
//! summary                          a Bloom filter over the facets
//! facets, ascending                hash u64, number of the row u32
//! rows, ascending                  id 16 bytes, length of the text u32
//! texts                            code, 0, detail of what went wrong last; empty if nothing did
//! CRC32C of all that, u32          everything little-endian
//! ```

use std::collections::BTreeMap;

use amtsbote_core::delivery::FailureReason;
use amtsbote_core::port::{Facet, FacetValue};
use sha2::{Digest as _, Sha256};

/// An id as it sorts.
pub(super) type Id = [u8; 16];

const MAGIC: [u8; 8] = *b"AMBSRCH1";
/// Bytes in front of the summary.
const HEAD: usize = 20;
/// Bits of a summary for each facet that is different from the others; one in a hundred blocks is then read in vain.
const BITS: usize = 10;
/// Bits that stand for one facet.
const PROBES: u64 = 7;
/// Bytes of a facet with the number of its row.
const ENTRY: usize = 12;
/// Bytes of an id with the length of its text.
const ROW: usize = 20;
/// Longest explanation of a failure that is kept.
const DETAIL: usize = 400;

/// The file is not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block is damaged")]
pub(super) struct Damaged;

/// What is known of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Ascending.
    pub(super) facets: Vec<u64>,
    pub(super) failure: Option<FailureReason>,
}

/// What stands for a facet and its value. Sixty-four bits: two values never meet by chance, and whoever makes them meet on purpose only
/// shows up where an operator did not look for them.
pub(super) fn hash((kind, text): &FacetValue) -> u64 {
    let kind: u8 = match kind {
        Facet::Account => 1,
        Facet::Case => 2,
        Facet::Party => 3,
        Facet::Destination => 4,
        Facet::Service => 5,
        Facet::State => 6,
        Facet::Code => 7,
        Facet::AtRisk => 8,
    };
    let digest: [u8; 32] = Sha256::new().chain_update([kind]).chain_update(text).finalize().into();
    digest.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Row {
    pub(super) fn new(facets: &[FacetValue], failure: Option<&FailureReason>) -> Self {
        let mut facets: Vec<u64> = facets.iter().map(hash).collect();
        facets.sort_unstable();
        let failure = failure.cloned().map(|failure| {
            let end = failure.detail.floor_char_boundary(DETAIL);
            FailureReason { detail: failure.detail[..end].to_owned(), ..failure }
        });
        Self { facets, failure }
    }

    fn text(&self) -> String {
        self.failure
            .as_ref()
            .map_or_else(String::new, |FailureReason { code, detail }| format!("{code}\0{detail}"))
    }
}

/// Tells which facets a block certainly does not have. A Bloom filter; the facets are hashes already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary(Box<[u8]>);

impl Summary {
    /// Of facets that are sorted.
    fn of(facets: &[(u64, u32)]) -> Self {
        let mut different: Vec<u64> = facets.iter().map(|(facet, _)| *facet).collect();
        different.dedup();
        let mut summary = Self(vec![0; (different.len() * BITS).div_ceil(8).max(1)].into());
        for facet in different {
            for bit in summary.bits(facet) {
                summary.0[bit / 8] |= 1 << (bit % 8);
            }
        }
        summary
    }

    fn bits(&self, facet: u64) -> impl Iterator<Item = usize> + use<> {
        let (count, step) = (self.0.len() as u64 * 8, facet.rotate_left(32) | 1);
        (0..PROBES).map(move |probe| {
            let bit = facet.wrapping_add(step.wrapping_mul(probe)) % count;
            usize::try_from(bit).unwrap_or(0)
        })
    }

    /// Whether a block may have a message with all facets.
    pub(super) fn may_have(&self, facets: &[u64]) -> bool {
        facets.iter().all(|facet| self.bits(*facet).all(|bit| self.0[bit / 8] & (1 << (bit % 8)) != 0))
    }
}

/// The messages of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Block(pub(super) BTreeMap<Id, Row>);

impl Block {
    /// Bytes of the file, and its summary.
    pub(super) fn encode(&self) -> (Vec<u8>, Summary) {
        let mut facets: Vec<(u64, u32)> = Vec::new();
        let mut rows = Vec::with_capacity(self.0.len() * ROW);
        let mut texts = Vec::new();
        for (number, (id, row)) in (0_u32..).zip(&self.0) {
            facets.extend(row.facets.iter().map(|facet| (*facet, number)));
            let text = row.text();
            rows.extend_from_slice(id);
            rows.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
            texts.extend_from_slice(text.as_bytes());
        }
        facets.sort_unstable();
        let summary = Summary::of(&facets);
        let mut bytes = MAGIC.to_vec();
        for count in [facets.len(), self.0.len(), summary.0.len()] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&summary.0);
        for (facet, number) in facets {
            bytes.extend_from_slice(&facet.to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend(rows);
        bytes.extend(texts);
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        (bytes, summary)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let view = View::new(bytes)?;
        let mut rows: Vec<(Id, Row)> = Vec::with_capacity(view.count());
        for number in 0..view.count() {
            let failure = view.failure(number).ok_or(Damaged)?;
            rows.push((view.id(number).ok_or(Damaged)?, Row { facets: Vec::new(), failure }));
        }
        for entry in 0..view.entries() {
            let (facet, number) = view.entry(entry).ok_or(Damaged)?;
            rows.get_mut(number).ok_or(Damaged)?.1.facets.push(facet);
        }
        Ok(Self(rows.into_iter().collect()))
    }
}

/// Reads a block without taking it apart.
pub(super) struct View<'a> {
    summary: &'a [u8],
    facets: &'a [u8],
    rows: &'a [u8],
    texts: &'a [u8],
    /// Where the text of each row begins.
    begins: Vec<usize>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

impl<'a> View<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(Damaged)?;
        if !body.starts_with(&MAGIC) || crc32c::crc32c(body) != u32::from_le_bytes(*check) {
            return Err(Damaged);
        }
        let count = |at| u32_at(body, at).ok_or(Damaged);
        let (facets, rows, summary) = (count(8)?, count(12)?, count(16)?);
        let (summary, rest) = body[HEAD..].split_at_checked(summary).ok_or(Damaged)?;
        let (facets, rest) = rest.split_at_checked(facets * ENTRY).ok_or(Damaged)?;
        let (rows, texts) = rest.split_at_checked(rows * ROW).ok_or(Damaged)?;
        let mut begin = 0;
        let begins = rows.chunks_exact(ROW).map(|row| {
            let here = begin;
            begin += u32_at(row, 16).unwrap_or(0);
            here
        });
        Ok(Self { summary, begins: begins.collect(), facets, rows, texts })
    }

    pub(super) fn summary(&self) -> Summary {
        Summary(self.summary.into())
    }

    pub(super) fn count(&self) -> usize {
        self.begins.len()
    }

    fn entries(&self) -> usize {
        self.facets.len() / ENTRY
    }

    fn entry(&self, place: usize) -> Option<(u64, usize)> {
        let bytes = self.facets.get(place * ENTRY..(place + 1) * ENTRY)?;
        Some((u64::from_le_bytes(*bytes.first_chunk()?), u32_at(bytes, 8)?))
    }

    pub(super) fn id(&self, number: usize) -> Option<Id> {
        self.rows.get(number * ROW..)?.first_chunk().copied()
    }

    /// What went wrong last with a message; `None` if the text cannot be read.
    pub(super) fn failure(&self, number: usize) -> Option<Option<FailureReason>> {
        let begin = *self.begins.get(number)?;
        let text = self.texts.get(begin..begin + u32_at(self.rows, number * ROW + 16)?)?;
        let text = std::str::from_utf8(text).ok()?;
        Some(
            text.split_once('\0')
                .map(|(code, detail)| FailureReason { code: code.to_owned(), detail: detail.to_owned() }),
        )
    }

    /// Numbers of the rows that have a facet, ascending.
    fn having(&self, facet: u64) -> Vec<usize> {
        let (mut low, mut high) = (0, self.entries());
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle).is_some_and(|(one, _)| one < facet) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let from = (low..).map_while(|place| self.entry(place));
        from.take_while(|(one, _)| *one == facet).map(|(_, number)| number).collect()
    }

    /// Numbers of the rows that have all facets, ascending; all rows if there are none.
    pub(super) fn having_all(&self, facets: &[u64]) -> Vec<usize> {
        let mut lists = facets.iter().map(|facet| self.having(*facet)).collect::<Vec<_>>();
        // The shortest decides.
        lists.sort_by_key(Vec::len);
        let mut lists = lists.into_iter();
        let Some(mut found) = lists.next() else { return (0..self.count()).collect() };
        for list in lists {
            found.retain(|number| list.binary_search(number).is_ok());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        let failure = FailureReason { code: "refused".to_owned(), detail: "ä".repeat(300) };
        let facets = |state: &str, n: u8| {
            [
                (Facet::Account, "portal".to_owned()),
                (Facet::State, state.to_owned()),
                (Facet::Case, n.to_string()),
            ]
        };
        let rows = (0..5_u8).map(|n| {
            let (state, failure) = if n % 2 == 0 { ("dead", Some(&failure)) } else { ("queued", None) };
            ([n; 16], Row::new(&facets(state, n), failure))
        });
        Block(rows.collect())
    }

    #[test]
    fn a_block_reads_back_and_damage_is_noticed() {
        let (bytes, summary) = block().encode();
        assert_eq!(Block::decode(&bytes), Ok(block()));
        assert_eq!(View::new(&bytes).unwrap().summary(), summary);
        assert!(block().0[&[0; 16]].failure.as_ref().is_some_and(|failure| failure.detail.len() <= DETAIL));
        assert_eq!(Block::decode(&Block::default().encode().0), Ok(Block::default()));
        for place in 0..bytes.len() {
            let mut hurt = bytes.clone();
            hurt[place] ^= 4;
            assert_eq!(Block::decode(&hurt), Err(Damaged), "at {place}");
            assert_eq!(Block::decode(&bytes[..place]), Err(Damaged), "cut at {place}");
        }
    }

    #[test]
    fn a_summary_forgets_nothing_and_rules_most_out() {
        let case = |n: u32| hash(&(Facet::Case, n.to_string()));
        let mut facets: Vec<(u64, u32)> = (0..4_000).map(|n| (case(n), n)).collect();
        facets.sort_unstable();
        let summary = Summary::of(&facets);
        assert!((0..4_000).all(|n| summary.may_have(&[case(n)])) && summary.may_have(&[]));
        let mistaken = (4_000..14_000).filter(|n| summary.may_have(&[case(*n)])).count();
        assert!(mistaken < 300, "{mistaken} of 10000");
        assert!(!Summary::of(&[]).may_have(&[case(1)]));
    }

    #[test]
    fn rows_are_found_by_all_facets() {
        let bytes = block().encode().0;
        let view = View::new(&bytes).unwrap();
        let hashes = |facets: &[(Facet, &str)]| {
            facets.iter().map(|(facet, text)| hash(&(*facet, (*text).to_owned()))).collect::<Vec<_>>()
        };
        assert_eq!(view.having_all(&hashes(&[(Facet::State, "dead")])), [0, 2, 4]);
        assert_eq!(view.having_all(&hashes(&[(Facet::Account, "portal"), (Facet::Case, "3")])), [3]);
        assert!(view.having_all(&hashes(&[(Facet::State, "dead"), (Facet::Case, "3")])).is_empty());
        assert!(view.having_all(&hashes(&[(Facet::Account, "3")])).is_empty());
        assert_eq!(view.having_all(&[]), [0, 1, 2, 3, 4]);
        assert_eq!((view.id(4), view.failure(1), view.id(5)), (Some([4; 16]), Some(None), None));
    }
}
