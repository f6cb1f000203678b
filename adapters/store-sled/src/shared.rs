//! What the committer tells everybody: whether it works, how fast, how much of each segment is still needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Takes the store's own measurements; implemented by whoever keeps metrics.
pub trait StoreObserver: Send + Sync {
    /// A group was committed.
    fn committed(&self, frames: usize, elapsed: Duration);
}

/// How a store is opened.
pub struct StoreOptions {
    /// Takes the store's measurements.
    pub observer: Box<dyn StoreObserver>,
    /// Free bytes of the disk below which nothing new is accepted.
    pub min_free: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { observer: Box::new(Unobserved), min_free: 64 << 20 }
    }
}

/// Ignores the measurements.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl StoreObserver for Unobserved {
    fn committed(&self, _: usize, _: Duration) {}
}

pub(crate) struct Shared {
    root: PathBuf,
    min_free: u64,
    stopped: RwLock<Option<String>>,
    live: Mutex<BTreeMap<u32, u64>>,
    /// Segments that cannot be emptied.
    spoiled: Mutex<BTreeSet<u32>>,
    quarantined: AtomicU64,
    full: AtomicBool,
    journal_bytes: AtomicU64,
    observer: Box<dyn StoreObserver>,
}

impl Shared {
    pub(crate) fn new(
        options: StoreOptions,
        root: &Path,
        live: BTreeMap<u32, u64>,
        quarantined: u64,
    ) -> Self {
        let StoreOptions { observer, min_free } = options;
        Self {
            root: root.to_owned(),
            min_free,
            stopped: RwLock::default(),
            live: Mutex::new(live),
            spoiled: Mutex::default(),
            quarantined: AtomicU64::new(quarantined),
            full: AtomicBool::new(false),
            journal_bytes: AtomicU64::new(0),
            observer,
        }
    }

    /// Whether new messages may still come. What is left then belongs to the index, to changes and to giving space back.
    pub(crate) fn has_room(&self) -> bool {
        match rustix::fs::statvfs(&self.root) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) >= self.min_free,
            // A disk that cannot be asked shows its fault when it is written.
            Err(_) => true,
        }
    }

    /// Asks the disk and remembers the answer; says so when it changes.
    pub(crate) fn look_for_room(&self) -> bool {
        let room = self.has_room();
        if self.full.swap(!room, Ordering::Relaxed) == room {
            match room {
                true => tracing::info!("The disk has room again; new messages are accepted."),
                false => tracing::error!("The disk has no room left; nothing new is accepted."),
            }
        }
        room
    }

    /// Bytes of all segments: counted as they are written, measured when segments go.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn journal_grew(&self, bytes: u64) {
        self.journal_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn journal_measured(&self, bytes: u64) {
        self.journal_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Nothing is committed any more. The first reason stays and is reported, whoever found it.
    pub(crate) fn stop(&self, reason: String) {
        let mut stopped = self.stopped.write().unwrap_or_else(PoisonError::into_inner);
        if stopped.is_none() {
            tracing::error!(reason, "The store stops; the journal is replayed at the next start.");
            *stopped = Some(reason);
        }
    }

    pub(crate) fn stopped(&self) -> Option<String> {
        self.stopped.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined.load(Ordering::Relaxed)
    }

    pub(crate) fn note_damage(&self) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, live: &[(u32, i64)], frames: usize, elapsed: Duration) {
        {
            let mut known = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            for (segment, change) in live {
                let bytes = known.entry(*segment).or_default();
                *bytes = bytes.saturating_add_signed(*change);
            }
        }
        if frames > 0 {
            self.observer.committed(frames, elapsed);
        }
    }

    /// Bytes still needed, per segment.
    pub(crate) fn live(&self) -> Vec<(u32, u64)> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(n, bytes)| (*n, *bytes))
            .collect()
    }

    pub(crate) fn spoil(&self, segment: u32) {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner).insert(segment);
    }

    pub(crate) fn is_spoiled(&self, segment: u32) -> bool {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner).contains(&segment)
    }

    pub(crate) fn drop_segment(&self, segment: u32) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }
}
