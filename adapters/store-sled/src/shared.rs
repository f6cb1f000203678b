//! What the committer tells everybody: whether it works, how fast, how much of each segment is still needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::frame::Position;
use crate::group::Group;
use crate::record::Checkpoint;

/// Takes the store's own measurements; implemented by whoever keeps metrics.
pub trait StoreObserver: Send + Sync {
    /// A group was committed.
    fn committed(&self, frames: usize, elapsed: Duration);
}

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Takes the store's measurements.
    pub observer: Arc<dyn StoreObserver>,
    /// How much room it may take.
    pub room: RoomLimits,
}

/// When the store speaks of its room, and when it takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomLimits {
    /// Free bytes of the disk below which nothing new is accepted.
    pub min_free: u64,
    /// Free bytes below which somebody should act.
    pub low_free: u64,
    /// Bytes of the journal above which nothing new is accepted; nine tenths of it are high.
    pub max_journal: Option<u64>,
}

impl Default for RoomLimits {
    /// 64 MiB and 512 MiB free, a journal of any size.
    fn default() -> Self {
        Self { min_free: 64 << 20, low_free: 512 << 20, max_journal: None }
    }
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// Why somebody should act.
    Low(&'static str),
    /// Nothing new is accepted.
    None,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { observer: Arc::new(Unobserved), room: RoomLimits::default() }
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
    limits: RoomLimits,
    stopped: RwLock<Option<String>>,
    live: Mutex<BTreeMap<u32, u64>>,
    /// Segments with bytes of payloads whose retention is over, and when giving space back saw that first.
    stripped: Mutex<BTreeMap<u32, Option<Timestamp>>>,
    /// Segments that cannot be emptied.
    spoiled: Mutex<BTreeSet<u32>>,
    quarantined: AtomicU64,
    room: Mutex<Room>,
    journal_bytes: AtomicU64,
    observer: Arc<dyn StoreObserver>,
    /// Whether the index cannot be trusted any more.
    suspect: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        options: StoreOptions,
        root: &Path,
        (live, stripped): (BTreeMap<u32, u64>, BTreeMap<u32, Option<Timestamp>>),
        quarantined: u64,
    ) -> Self {
        let StoreOptions { observer, room: limits } = options;
        Self {
            root: root.to_owned(),
            limits,
            stopped: RwLock::default(),
            live: Mutex::new(live),
            stripped: Mutex::new(stripped),
            spoiled: Mutex::default(),
            quarantined: AtomicU64::new(quarantined),
            room: Mutex::new(Room::Enough),
            journal_bytes: AtomicU64::new(0),
            observer,
            suspect: AtomicBool::new(false),
        }
    }

    /// Stops because the index cannot be trusted; it is built anew when the store is opened again.
    pub(crate) fn distrust_index(&self, reason: String) {
        self.suspect.store(true, Ordering::Relaxed);
        self.stop(reason);
    }

    pub(crate) fn is_index_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// How much room there is now. What is left at the end belongs to the index, to changes and to giving space back.
    fn judge_room(&self) -> Room {
        let RoomLimits { min_free, low_free, max_journal } = self.limits;
        let journal = self.journal_bytes();
        // A disk that cannot be asked shows its fault when it is written.
        let disk = rustix::fs::statvfs(&self.root);
        let free = disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free < min_free || max_journal.is_some_and(|most| journal >= most) {
            Room::None
        } else if free < low_free {
            Room::Low("the disk of the store is nearly full")
        } else if max_journal.is_some_and(|most| journal >= most / 10 * 9) {
            Room::Low("the journal has nearly reached its limit")
        } else {
            Room::Enough
        }
    }

    /// Looks how much room there is and says so when that changes. Whether new messages may come.
    pub(crate) fn look_for_room(&self) -> bool {
        let room = self.judge_room();
        let mut known = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != room {
            match room {
                Room::Enough => tracing::info!("The store has enough room again."),
                Room::Low(why) => tracing::warn!(why, "The store has little room left."),
                Room::None => tracing::error!("The store has no room left; nothing new is accepted."),
            }
            *known = room;
        }
        room != Room::None
    }

    pub(crate) fn room(&self) -> Room {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Nothing is committed any more. The first reason stays and is reported, whoever found it.
    pub(crate) fn stop(&self, reason: String) {
        let mut stopped = self.stopped.write().unwrap_or_else(PoisonError::into_inner);
        if stopped.is_none() {
            tracing::error!(reason, "The store stops; it is opened again as soon as that works.");
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

    pub(crate) fn committed(&self, group: &Group, frames: usize, elapsed: Duration) {
        {
            let mut known = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            for (segment, change) in &group.live {
                let bytes = known.entry(*segment).or_default();
                *bytes = bytes.saturating_add_signed(*change);
            }
        }
        let mut stripped = self.stripped.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in &group.stripped {
            stripped.entry(*segment).or_default();
        }
        drop(stripped);
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

    /// How segments are used behind a position.
    pub(crate) fn checkpoint(&self, position: Position) -> Checkpoint {
        let stripped = self.stripped.lock().unwrap_or_else(PoisonError::into_inner);
        let stripped = stripped.iter().map(|(segment, since)| (*segment, *since)).collect();
        Checkpoint { position, live: self.live(), stripped }
    }

    /// Those of the existing segments with bytes of payloads whose retention is over, and since when that is known.
    pub(crate) fn stripped(&self, existing: &[u32], now: Timestamp) -> BTreeMap<u32, Timestamp> {
        let mut stripped = self.stripped.lock().unwrap_or_else(PoisonError::into_inner);
        stripped.retain(|segment, _| existing.binary_search(segment).is_ok());
        stripped.iter_mut().map(|(segment, since)| (*segment, *since.get_or_insert(now))).collect()
    }

    pub(crate) fn spoil(&self, segment: u32) {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner).insert(segment);
    }

    pub(crate) fn is_spoiled(&self, segment: u32) -> bool {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner).contains(&segment)
    }

    pub(crate) fn drop_segment(&self, segment: u32) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
        self.stripped.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }
}
