//! What was learnt, and how long it may be believed.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::port::{DirectoryAnswer, ServiceQuery};
use moka::sync::Cache;

use crate::options::DvdvOptions;
use crate::wire::{Entry, answer};

/// What a server said about a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Learnt {
    Entry(Entry),
    NotValid { warning: String },
    NotListed,
}

#[derive(Debug)]
struct Kept {
    learnt: Learnt,
    at: Timestamp,
}

/// Bounded; the oldest unused entries go first. Ages are judged when reading, by the injected clock.
pub(crate) struct Memory {
    kept: Cache<ServiceQuery, Arc<Kept>>,
    fresh: Duration,
    negative: Duration,
    grace: Duration,
}

impl Memory {
    pub(crate) fn new(options: &DvdvOptions) -> Self {
        let DvdvOptions { entries, fresh, negative, grace, .. } = *options;
        Self { kept: Cache::new(entries), fresh, negative, grace }
    }

    pub(crate) fn keep(&self, query: ServiceQuery, learnt: Learnt, at: Timestamp) {
        self.kept.insert(query, Arc::new(Kept { learnt, at }));
    }

    /// An answer that is still fresh. A hit whose validity has ended since is asked again.
    pub(crate) fn fresh(&self, query: &ServiceQuery, now: Timestamp) -> Option<DirectoryAnswer> {
        let kept = self.kept.get(query)?;
        let age = now.duration_since(kept.at).unsigned_abs();
        match &kept.learnt {
            Learnt::Entry(entry) if age < self.fresh && entry.is_valid(now) => {
                Some(answer(entry, now, kept.at, false))
            }
            Learnt::NotValid { warning } if age < self.negative => {
                Some(DirectoryAnswer::NotValid { warning: warning.clone() })
            }
            Learnt::NotListed if age < self.negative => Some(DirectoryAnswer::NotListed),
            _ => None,
        }
    }

    /// A hit that may be used while no server answers. Misses are never believed beyond their time.
    pub(crate) fn stale(&self, query: &ServiceQuery, now: Timestamp) -> Option<DirectoryAnswer> {
        let kept = self.kept.get(query)?;
        let age = now.duration_since(kept.at).unsigned_abs();
        match &kept.learnt {
            Learnt::Entry(entry) if age < self.grace && entry.is_valid(now) && entry.unusable.is_none() => {
                Some(answer(entry, now, kept.at, true))
            }
            _ => None,
        }
    }
}
