//! Answers "was this intake key never used?" from memory, so that accepting a message needs no look into sled.
//!
//! One Bloom filter per week of intake keys. It may wrongly say "perhaps" (then sled is asked), never wrongly "never".

use std::collections::BTreeMap;

/// SHA-256 of an intake key, cut.
pub(crate) type IntakeHash = [u8; 16];

/// Bits of a filter: 2 MiB. With a million keys in a week one new key in 500 is looked up in vain, with three million one in 14.
const BITS: u32 = 1 << 24;

/// Filters of all weeks that have keys.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<u32, Filter>);

impl Known {
    pub(crate) fn insert(&mut self, week: u32, hash: &IntakeHash) {
        self.0.entry(week).or_insert_with(Filter::empty).insert(hash);
    }

    /// Weeks that may have the key, newest first.
    pub(crate) fn weeks(&self, hash: &IntakeHash) -> Vec<u32> {
        self.0.iter().rev().filter(|(_, filter)| filter.may_have(hash)).map(|(week, _)| *week).collect()
    }
}

#[derive(Debug)]
struct Filter(Box<[u64]>);

impl Filter {
    fn empty() -> Self {
        Self(vec![0; (BITS / u64::BITS) as usize].into_boxed_slice())
    }

    /// The hash is uniform already, so each quarter of it is a place of its own.
    fn places(hash: &IntakeHash) -> impl Iterator<Item = (usize, u64)> {
        hash.as_chunks::<4>().0.iter().map(|quarter| {
            let bit = u32::from_be_bytes(*quarter) % BITS;
            ((bit / u64::BITS) as usize, 1 << (bit % u64::BITS))
        })
    }

    fn insert(&mut self, hash: &IntakeHash) {
        for (word, bit) in Self::places(hash) {
            self.0[word] |= bit;
        }
    }

    fn may_have(&self, hash: &IntakeHash) -> bool {
        Self::places(hash).all(|(word, bit)| self.0[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn hash(number: u32) -> IntakeHash {
        *Sha256::digest(number.to_be_bytes()).first_chunk().unwrap()
    }

    #[test]
    fn what_was_inserted_is_always_found_and_little_else() {
        let mut known = Known::default();
        for number in 0..100_000 {
            known.insert(2_900 + number % 3, &hash(number));
        }
        for number in 0..100_000 {
            assert!(known.weeks(&hash(number)).contains(&(2_900 + number % 3)));
        }
        let wrong = (100_000..200_000).filter(|number| !known.weeks(&hash(*number)).is_empty()).count();
        assert!(wrong < 10, "{wrong}");
    }

    #[test]
    fn the_newest_week_comes_first() {
        let mut known = Known::default();
        for week in [7, 9, 8] {
            known.insert(week, &hash(1));
        }
        assert_eq!(known.weeks(&hash(1)), [9, 8, 7]);
    }
}
