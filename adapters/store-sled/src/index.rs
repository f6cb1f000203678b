//! The rebuildable index: sled plus what is committed but not yet in it.
//!
//! Three layers are read in this order: `young` takes every committed change at once; `old` is a former `young` that is being
//! written to sled; sled has the rest. Writing merges many changes of a message into one, and puts all keys of a message
//! into one sled batch, so that sled never shows half a message.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Bound, Deref};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use amtsbote_core::id::MessageId;

use crate::frame::Position;
use crate::keys::POSITION;
use crate::known::{IntakeHash, Known};
use crate::watch::guarded;

/// What sled may keep of its pages, as they would be on disk; in memory they take three to four times as much. Besides them it
/// keeps about 100 bytes for each message.
const CACHE: u64 = 8 << 20;
/// Messages whose keys go to sled in one batch; sled blocks its readers that long.
const BATCH: usize = 64;

/// How long the lock of a closed index is waited for.
const LOCK_LINGER: Duration = Duration::from_secs(10);

/// One change of one key, on behalf of a message.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) owner: MessageId,
    pub(crate) key: Vec<u8>,
    /// `None` removes the key.
    pub(crate) value: Option<Vec<u8>>,
}

/// A key with its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);
type Layer = BTreeMap<Vec<u8>, (MessageId, Option<Vec<u8>>)>;

#[derive(Debug, Default)]
struct Layers {
    young: Layer,
    /// Position behind the last change in `young`.
    position: Option<Position>,
    old: Arc<Layer>,
    known: Known,
}

/// The index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("sled failed")]
    Sled(#[from] sled::Error),
    #[error("sled panicked")]
    Panicked,
    #[error(transparent)]
    Garbled(#[from] crate::keys::Garbled),
    #[error("the index cannot be written")]
    Io(#[from] io::Error),
}

impl IndexError {
    /// Whether only room is missing.
    pub(crate) fn is_full(&self) -> bool {
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => full(error),
            Self::Sled(_) | Self::Panicked | Self::Garbled(_) => false,
        }
    }
}

/// Something that may panic when it is let go, in whichever thread does that last. sled does when a sync fails while it closes; what it could
/// not write then is in the journal. The thread had other work, and that must not die of it.
struct Quiet<T>(Option<T>);

impl<T> Quiet<T> {
    fn new(inner: T) -> Self {
        Self(Some(inner))
    }
}

impl<T> Deref for Quiet<T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "taken out by its end only")]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it ends")
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        if std::panic::catch_unwind(AssertUnwindSafe(|| drop(inner))).is_err() {
            tracing::warn!("An index was not closed in good order.");
        }
    }
}

/// The index.
pub(crate) struct Index {
    layers: RwLock<Layers>,
    sled: Quiet<sled::Db>,
    folder: PathBuf,
    /// Whether sled could not be read.
    failed: AtomicBool,
}

impl Index {
    /// Opens or creates the index in a folder, and reads all intake keys. A damaged sled may panic.
    pub(crate) fn open(folder: &Path) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let sled = Quiet::new(patiently(|| config.open())?);
        let mut known = Known::default();
        for key in sled.range(b"i".as_slice()..b"j".as_slice()).keys() {
            let (week, hash) = crate::keys::intake_parts(&key?).ok_or(crate::keys::Garbled)?;
            known.insert(week, &hash);
        }
        let layers = Layers { known, ..Layers::default() };
        let (layers, failed) = (RwLock::new(layers), AtomicBool::new(false));
        Ok(Self { layers, sled, folder: folder.to_owned(), failed })
    }

    /// Up to where the index on disk is complete.
    pub(crate) fn position(&self) -> Result<Option<Position>, IndexError> {
        let value = self.sled.get(POSITION)?;
        Ok(value.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| crate::keys::Garbled)).transpose()?)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        {
            let layers = self.read();
            if let Some((_, value)) = layers.young.get(key).or_else(|| layers.old.get(key)) {
                return Ok(value.clone());
            }
        }
        self.watched(|| Ok(self.sled.get(key)?.map(|value| value.to_vec())))
    }

    /// Reads sled, in which damage shows as an error or as a panic, and remembers if that fails.
    pub(crate) fn watched<T>(&self, read: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
        let result = guarded(read).unwrap_or(Err(IndexError::Panicked));
        if result.is_err() {
            self.failed.store(true, Relaxed);
        }
        result
    }

    /// Whether sled could not be read since it was opened.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Whether an intake key may have been used. Memory only.
    pub(crate) fn may_know(&self, hash: &IntakeHash) -> bool {
        !self.read().known.weeks(hash).is_empty()
    }

    /// Reads an intake key in whichever week it was used.
    pub(crate) fn intake(&self, hash: &IntakeHash) -> Result<Option<Vec<u8>>, IndexError> {
        let weeks = self.read().known.weeks(hash);
        for week in weeks {
            if let Some(value) = self.get(&crate::keys::intake(hash, week))? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Keys in a range, merged over all layers, at most `limit`; `from` is inclusive, `until` exclusive.
    pub(crate) fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Row>, IndexError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let layers = self.read();
        let bounds = || (Bound::Included(from), Bound::Excluded(until));
        let (young, old) = (layers.young.range::<[u8], _>(bounds()), layers.old.range::<[u8], _>(bounds()));
        self.watched(|| merge(young, old, self.sled.range(from..until), Ordering::Less, limit))
    }

    /// The same from the end; for listings that begin with the newest.
    pub(crate) fn scan_back(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Row>, IndexError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let layers = self.read();
        let bounds = || (Bound::Included(from), Bound::Excluded(until));
        let (young, old) = (layers.young.range::<[u8], _>(bounds()), layers.old.range::<[u8], _>(bounds()));
        let sled = || self.sled.range(from..until).rev();
        self.watched(|| merge(young.rev(), old.rev(), sled(), Ordering::Greater, limit))
    }

    /// Position behind the last change that readers see; what lies behind it in the journal may still be on its way.
    pub(crate) fn reached(&self) -> Result<Option<Position>, IndexError> {
        let seen = self.read().position;
        if seen.is_some() { Ok(seen) } else { self.position() }
    }

    /// Takes committed changes; visible to every later read. `position` lies behind the last of them.
    pub(crate) fn apply(&self, ops: Vec<Op>, position: Position) {
        let mut layers = self.write();
        for op in ops {
            if let (Some((week, hash)), true) = (crate::keys::intake_parts(&op.key), op.value.is_some()) {
                layers.known.insert(week, &hash);
            }
            layers.young.insert(op.key, (op.owner, op.value));
        }
        layers.position = Some(position);
    }

    /// Changes that sled does not hold yet.
    pub(crate) fn lag(&self) -> u64 {
        let layers = self.read();
        (layers.young.len() + layers.old.len()) as u64
    }

    /// Changes that have gathered since the last [`Self::settle`] began.
    pub(crate) fn gathered(&self) -> usize {
        self.read().young.len()
    }

    /// Closes what has gathered, to be moved into sled by [`Self::settle`]; the position up to which that will be complete.
    pub(crate) fn close(&self) -> Option<Position> {
        let mut layers = self.write();
        if layers.old.is_empty() {
            layers.old = Arc::new(std::mem::take(&mut layers.young));
        }
        layers.position
    }

    /// Moves what was closed into sled. Called by one thread at a time. On failure the changes stay readable in memory, and
    /// in the journal.
    pub(crate) fn settle(&self, position: Option<Position>) -> Result<(), IndexError> {
        let old = Arc::clone(&self.read().old);
        let mut owners: BTreeMap<MessageId, Vec<_>> = BTreeMap::new();
        for (key, (owner, value)) in old.iter() {
            owners.entry(*owner).or_default().push((key, value));
        }
        let owners: Vec<_> = owners.into_values().collect();
        for chunk in owners.chunks(BATCH) {
            let mut batch = sled::Batch::default();
            for (key, value) in chunk.iter().flatten() {
                match value {
                    Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                    None => batch.remove(key.as_slice()),
                }
            }
            self.sled.apply_batch(batch)?;
        }
        if let Some(position) = position {
            self.sled.insert(POSITION, serde_json::to_vec(&position).map_err(|_| crate::keys::Garbled)?)?;
        }
        self.write().old = Arc::default();
        // Thousands of entries: freed while nobody waits for the lock.
        drop(old);
        Ok(())
    }

    /// Puts everything that was settled on stable storage. sled's own flush does not: it ends in `sync_file_range`.
    pub(crate) fn sync(&self) -> Result<(), IndexError> {
        self.sled.flush()?;
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // sled replaces its snapshot files while we look.
            match File::open(&path) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }
}

/// Opens sled. Threads of an index that was closed a moment ago in this process may still hold its lock; other processes are
/// kept out by the store's own lock before.
#[expect(clippy::disallowed_methods, reason = "opening blocks anyway")]
fn patiently(open: impl Fn() -> sled::Result<sled::Db>) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && begun.elapsed() < LOCK_LINGER =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

/// Merges three sorted sequences; the first has the newest values. `first` tells which of two keys comes first.
fn merge<'a>(
    young: impl Iterator<Item = (&'a Vec<u8>, &'a (MessageId, Option<Vec<u8>>))>,
    old: impl Iterator<Item = (&'a Vec<u8>, &'a (MessageId, Option<Vec<u8>>))>,
    mut sled: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
    first: Ordering,
    limit: usize,
) -> Result<Vec<Row>, IndexError> {
    let (mut young, mut old) = (young.peekable(), old.peekable());
    let mut stored = sled.next().transpose()?;
    let mut found = Vec::new();
    while found.len() < limit {
        let candidates = [
            young.peek().map(|(key, _)| key.as_slice()),
            old.peek().map(|(key, _)| key.as_slice()),
            stored.as_ref().map(|(key, _)| key.as_ref()),
        ];
        let next = candidates.into_iter().flatten().reduce(|a, b| if b.cmp(a) == first { b } else { a });
        let Some(key) = next.map(<[u8]>::to_vec) else { break };
        let mut value = None;
        if stored.as_ref().is_some_and(|(one, _)| *one == key) {
            value = stored.take().map(|(_, value)| value.to_vec());
            stored = sled.next().transpose()?;
        }
        if let Some((_, (_, newer))) = old.next_if(|(one, _)| **one == key) {
            value.clone_from(newer);
        }
        if let Some((_, (_, newest))) = young.next_if(|(one, _)| **one == key) {
            value.clone_from(newest);
        }
        found.extend(value.map(|value| (key, value)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sick;

    impl Drop for Sick {
        fn drop(&mut self) {
            panic!("a sync failed");
        }
    }

    #[test]
    fn whoever_lets_go_last_survives_it() {
        let shared = Arc::new(Quiet::new(Sick));
        let last = Arc::clone(&shared);
        drop(shared);
        // With the usual drop this thread would end here.
        assert!(std::thread::spawn(move || drop(last)).join().is_ok());
    }

    fn op(key: &str, value: Option<&str>) -> Op {
        Op {
            owner: MessageId::from_bytes([1; 16]),
            key: key.as_bytes().to_vec(),
            value: value.map(|value| value.as_bytes().to_vec()),
        }
    }

    fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    fn all(index: &Index) -> String {
        let rows = index.scan(b"a", b"z", 99).unwrap();
        let mut back = index.scan_back(b"a", b"z", 99).unwrap();
        back.reverse();
        assert_eq!(rows, back);
        rows.into_iter().map(|(key, value)| String::from_utf8([key, value].concat()).unwrap() + " ").collect()
    }

    #[test]
    fn newer_layers_win_and_removals_hide() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(folder.path()).unwrap();
        index.apply(vec![op("a", Some("1")), op("b", Some("1")), op("c", Some("1"))], at(1));
        let position = index.close();
        assert_eq!(position, Some(at(1)));
        index.settle(position).unwrap();
        index.apply(vec![op("b", None), op("d", Some("1"))], at(2));
        assert_eq!(all(&index), "a1 c1 d1 ");
        index.apply(vec![op("a", Some("2"))], at(3));
        index.settle(index.close()).unwrap();
        assert_eq!(all(&index), "a2 c1 d1 ");
        assert_eq!(index.get(b"b").unwrap(), None);
        assert_eq!(index.scan(b"a", b"z", 2).unwrap().len(), 2);
        index.sync().unwrap();
        drop(index);
        assert_eq!(all(&Index::open(folder.path()).unwrap()), "a2 c1 d1 ");
    }
}
