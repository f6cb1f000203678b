//! Search among all messages: a projection of the journal in a sled of its own, built behind the accept path.
//!
//! A thread of low priority reads which messages the journal speaks of, loads each as it stands now, and writes its row. So a row is
//! never older than the position says. Nothing depends on the projection: it may be thrown away at any time and is
//! when it cannot be read, or when the machine went down without warning (sled does not survive that reliably).
//!
//! ```text
//! p                        position in the journal up to which rows are complete
//! r id                     row: its facets, and what went wrong last
//! f facet hash8 id         one for each facet
//! ```

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use amtsbote_core::delivery::FailureReason;
use amtsbote_core::id::MessageId;
use amtsbote_core::port::{
    Cursor, Facet, FacetValue, Found, Search, SearchPage, StoreError, delivery_facets, facets, last_failure,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::committer::index_failed;
use crate::frame::{Found as Place, FrameKind, Position};
use crate::keys::Garbled;
use crate::read::garbled;
use crate::record::{ChangeRecord, Forgotten, ForgottenRecord, decode_changes};
use crate::segment::SEGMENT;
use crate::store::Inner;
use crate::watch::guarded;

/// What sled may keep of its pages, as they would be on disk.
const CACHE: u64 = 4 << 20;
/// Messages brought up to date in one go.
const BATCH: usize = 256;
/// Frames read in one go.
const FRAMES: usize = 1_024;
/// The journal is looked at so often when nobody searches.
const LOOK: Duration = Duration::from_millis(250);
/// Wait after a fault.
const AFTER_A_FAULT: Duration = Duration::from_secs(5);
/// Whoever searches waits for so much of the journal, which takes a moment; what lags further is said to lag.
const WAIT_FOR: u64 = 4 << 20;
/// How long one call looks.
const LOOK_FOR: Duration = Duration::from_millis(100);
/// Longest explanation of a failure that is kept.
const DETAIL: usize = 400;
/// Position of everything.
const BEGINNING: Position = Position { segment: 0, offset: 0 };

type Id = [u8; 16];

/// Where the projection stands; shared by its thread and by those who search.
#[derive(Default)]
pub(crate) struct Projection {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rows: Option<Rows>,
    position: Option<Position>,
    /// Nothing goes on until it is opened again.
    faulty: bool,
    /// Somebody waits.
    wanted: bool,
    ended: bool,
}

impl Projection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to where it is complete.
    pub(crate) fn position(&self) -> Position {
        self.state().position.unwrap_or(BEGINNING)
    }

    /// Waits until something happens or the time is over; whether to go on.
    fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let idle = |state: &mut State| !state.ended && !state.wanted;
        let (mut state, _) =
            self.changed.wait_timeout_while(state, time, idle).unwrap_or_else(PoisonError::into_inner);
        state.wanted = false;
        !state.ended
    }

    fn has_ended(&self) -> bool {
        self.state().ended
    }

    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    fn fail(&self) {
        let mut state = self.state();
        (state.rows, state.faulty) = (None, true);
        self.changed.notify_all();
    }

    fn begin(&self, rows: Rows, position: Position) {
        let mut state = self.state();
        (state.rows, state.position, state.faulty) = (Some(rows), Some(position), false);
        self.changed.notify_all();
    }

    fn reach(&self, position: Position) {
        self.state().position = Some(position);
        self.changed.notify_all();
    }

    /// Rows that know everything before a position, if they are near; otherwise as they are.
    fn rows_at(&self, target: Position) -> Option<(Rows, Position)> {
        let mut state = self.state();
        loop {
            let position = state.position.unwrap_or(BEGINNING);
            let waits = !state.faulty && !state.ended && distance(position, target) <= WAIT_FOR;
            if position >= target || !waits {
                return state.rows.clone().map(|rows| (rows, position));
            }
            state.wanted = true;
            self.changed.notify_all();
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Bytes of the journal between two positions; segments in between count as full.
fn distance(from: Position, to: Position) -> u64 {
    match from.segment.cmp(&to.segment) {
        Ordering::Equal => to.offset.saturating_sub(from.offset),
        Ordering::Greater => 0,
        Ordering::Less => {
            let between = u64::from(to.segment - from.segment.max(1)) * SEGMENT;
            (between + to.offset).saturating_sub(from.offset)
        }
    }
}

/// Begins to project; the thread ends with [`Projection::end`].
pub(crate) fn start(root: &Path, inner: Arc<Inner>) -> io::Result<JoinHandle<()>> {
    let folder = root.join("search");
    let thread = std::thread::Builder::new().name("store-search".to_owned());
    thread.spawn(move || {
        step_back();
        while !inner.search.has_ended() {
            if let Err(error) = guarded(|| project(&folder, &inner)).unwrap_or(Err(Fault::Panicked)) {
                inner.search.fail();
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "The search stops for a moment.");
                inner.search.pause(AFTER_A_FAULT);
            }
        }
        let rows = inner.search.state().rows.take();
        if guarded(|| close(&folder, rows)).is_none() {
            tracing::warn!("The search was not closed in good order; it is built anew.");
        }
    })
}

/// Everybody else comes first.
fn step_back() {
    let thread = Some(rustix::thread::gettid());
    if let Err(error) = rustix::process::setpriority_process(thread, 10) {
        tracing::debug!(%error, "The search works with usual priority.");
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("sled failed")]
    Sled(#[from] sled::Error),
    #[error("sled panicked")]
    Panicked,
    #[error("a row cannot be read")]
    Row(#[from] Garbled),
    #[error("its files cannot be used")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens the projection and keeps it up to date until the end.
fn project(folder: &Path, inner: &Inner) -> Result<(), Fault> {
    let rows = open(folder)?;
    let mut position = rows.position()?;
    let end = inner.index.reached().map_err(index_failed)?.unwrap_or(BEGINNING);
    if position > end {
        // Of another journal.
        drop(rows);
        std::fs::remove_dir_all(folder)?;
        return Ok(());
    }
    inner.search.begin(rows.clone(), position);
    loop {
        let end = inner.index.reached().map_err(index_failed)?.unwrap_or(BEGINNING);
        if position >= end {
            if !inner.search.pause(LOOK) {
                return Ok(());
            }
            continue;
        }
        if inner.search.has_ended() {
            return Ok(());
        }
        let (ids, next) = spoken_of(inner, position, end)?;
        rows.bring_up_to_date(inner, &ids, next)?;
        position = next;
        inner.search.reach(position);
    }
}

/// Says that rows may be half written until it is gone: under which run of the system they are open.
fn mark(folder: &Path) -> PathBuf {
    folder.with_extension("open")
}

fn open(folder: &Path) -> Result<Rows, Fault> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let open_since = std::fs::read_to_string(mark(folder)).ok();
    // What a killed process wrote is there as long as the system runs; after a power cut nobody knows.
    let trusted = open_since.is_none_or(|since| !boot.is_empty() && since == boot);
    let opened = trusted.then(|| guarded(|| Rows::open(folder)).unwrap_or(Err(Fault::Panicked)));
    std::fs::write(mark(folder), boot)?;
    match opened {
        Some(Ok(rows)) => Ok(rows),
        Some(Err(Fault::Sled(sled::Error::Io(error)))) if error.kind() == io::ErrorKind::StorageFull => {
            Err(error.into())
        }
        _ => {
            if folder.exists() {
                tracing::warn!("The search is built anew from the journal.");
                std::fs::remove_dir_all(folder)?;
            }
            Rows::open(folder)
        }
    }
}

fn close(folder: &Path, rows: Option<Rows>) {
    let closed = rows.map_or(Ok(()), |rows| rows.sync(folder)).and_then(|()| {
        std::fs::remove_file(mark(folder))?;
        Ok(())
    });
    if let Err(error) = closed {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "The search was not synced.");
    }
}

/// Messages that the journal speaks of from a position on, and up to where that was read.
fn spoken_of(inner: &Inner, from: Position, end: Position) -> Result<(Vec<MessageId>, Position), Fault> {
    let (mut ids, mut at, mut frames) = (Vec::new(), from, 0);
    while at < end && ids.len() < BATCH && frames < FRAMES {
        frames += 1;
        match inner.folder.read(at)? {
            Some((header, body)) => {
                ids.extend(ids_of(header.kind, &body));
                at.offset += header.frame_length();
            }
            None => at = next_place(inner, at, end)?,
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok((ids, at))
}

/// Where the journal goes on behind a damaged place, the end of a segment, or a segment that has gone.
fn next_place(inner: &Inner, at: Position, end: Position) -> Result<Position, Fault> {
    if let Ok(bytes) = inner.folder.bytes(at.segment)
        && let Place::Damage { next: Some(next) } = inner.folder.at(&bytes, at.offset)?
    {
        return Ok(Position { offset: next, ..at });
    }
    let next = inner.folder.segments()?.into_iter().find(|segment| *segment > at.segment);
    Ok(next.map_or(end, |segment| Position { segment, offset: 0 }.min(end)))
}

/// Messages a frame speaks of; none if it cannot be read, which others report.
fn ids_of(kind: FrameKind, body: &[u8]) -> Vec<MessageId> {
    #[derive(Deserialize)]
    struct Record {
        message: OnlyId,
    }
    #[derive(Deserialize)]
    struct OnlyId {
        id: MessageId,
    }
    match kind {
        FrameKind::Accepted | FrameKind::Moved => {
            let length = body.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
            let record = body.get(4..4 + length).and_then(|record| serde_json::from_slice(record).ok());
            record.map(|record: Record| record.message.id).into_iter().collect()
        }
        FrameKind::Changed => {
            let id = |record| match record {
                ChangeRecord::V1(change) => Some(change.id),
                ChangeRecord::NoteV1(_) => None,
            };
            let records = decode_changes(body).unwrap_or_default();
            records.into_iter().filter_map(|(_, record)| id(record)).collect()
        }
        FrameKind::Forgotten => match serde_json::from_slice(body) {
            Ok(ForgottenRecord::V1 { messages }) => {
                messages.into_iter().map(|Forgotten { id, .. }| id).collect()
            }
            Err(_) => Vec::new(),
        },
        FrameKind::Checkpoint => Vec::new(),
    }
}

/// The rows of the projection.
#[derive(Clone)]
struct Rows(sled::Db);

/// What is known of a message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    /// Keys of its facets, without its id.
    facets: Vec<[u8; FACET]>,
    failure: Option<FailureReason>,
}

/// Bytes of a facet and its value.
const FACET: usize = 10;

fn facet(value: &FacetValue) -> [u8; FACET] {
    let (kind, text) = value;
    let kind = match kind {
        Facet::Account => b'a',
        Facet::Case => b'c',
        Facet::Party => b'p',
        Facet::Destination => b'd',
        Facet::Service => b's',
        Facet::State => b't',
        Facet::Code => b'e',
        Facet::AtRisk => b'l',
    };
    let hash = Sha256::digest(text);
    let mut key = [b'f'; FACET];
    key[1] = kind;
    key[2..].copy_from_slice(&hash[..FACET - 2]);
    key
}

impl Row {
    fn new(facets: &[FacetValue], failure: Option<&FailureReason>) -> Self {
        let failure = failure.cloned().map(|failure| {
            let end = failure.detail.floor_char_boundary(DETAIL);
            FailureReason { detail: failure.detail[..end].to_owned(), ..failure }
        });
        Self { facets: facets.iter().map(facet).collect(), failure }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(self.facets.len()).unwrap_or(u8::MAX)];
        bytes.extend(self.facets.iter().flatten());
        if let Some(FailureReason { code, detail }) = &self.failure {
            bytes.extend_from_slice([code, "\0", detail].concat().as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Garbled> {
        let (count, rest) = bytes.split_first().ok_or(Garbled)?;
        let (facets, rest) = rest.split_at_checked(usize::from(*count) * FACET).ok_or(Garbled)?;
        let (facets, _) = facets.as_chunks::<FACET>();
        let text = std::str::from_utf8(rest).map_err(|_| Garbled)?;
        let failure = text
            .split_once('\0')
            .map(|(code, detail)| FailureReason { code: code.to_owned(), detail: detail.to_owned() });
        Ok(Self { facets: facets.to_vec(), failure })
    }
}

fn row_key(id: &Id) -> Vec<u8> {
    [b"r".as_slice(), id].concat()
}

impl Rows {
    fn open(folder: &Path) -> Result<Self, Fault> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let rows = Self(config.open()?);
        rows.position()?;
        Ok(rows)
    }

    fn position(&self) -> Result<Position, Fault> {
        let value = self.0.get("p")?;
        let position = value.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| Garbled)).transpose()?;
        Ok(position.unwrap_or(BEGINNING))
    }

    fn row(&self, id: &Id) -> Result<Option<Row>, Fault> {
        let bytes = self.0.get(row_key(id))?;
        Ok(bytes.map(|bytes| Row::decode(&bytes)).transpose()?)
    }

    /// Writes messages as they stand now, and the position up to which that holds, in one step.
    fn bring_up_to_date(&self, inner: &Inner, ids: &[MessageId], position: Position) -> Result<(), Fault> {
        let mut batch = sled::Batch::default();
        for id in ids {
            let bytes = id.as_bytes();
            let (old, new) = (self.row(bytes)?, now(inner, *id)?);
            if old == new {
                continue;
            }
            let known = old.map(|row| row.facets).unwrap_or_default();
            let wanted = new.as_ref().map(|row| row.facets.as_slice()).unwrap_or_default();
            for gone in known.iter().filter(|facet| !wanted.contains(facet)) {
                batch.remove([gone.as_slice(), bytes].concat());
            }
            for added in wanted.iter().filter(|facet| !known.contains(facet)) {
                batch.insert([added.as_slice(), bytes].concat(), b"".as_slice());
            }
            match new {
                Some(row) => batch.insert(row_key(bytes), row.encode()),
                None => batch.remove(row_key(bytes)),
            }
        }
        batch.insert(b"p", serde_json::to_vec(&position).map_err(|_| Garbled)?);
        self.0.apply_batch(batch)?;
        Ok(())
    }

    /// The last id of a facet, or of all, that lies in a range; `until` exclusive.
    fn last_in(&self, prefix: &[u8], from: &Id, until: &Id) -> Result<Option<Id>, Fault> {
        if from >= until {
            return Ok(None);
        }
        let (from, until) = ([prefix, from].concat(), [prefix, until].concat());
        let Some(key) = self.0.range(from..until).keys().next_back().transpose()? else { return Ok(None) };
        Ok(Some(*key.last_chunk::<16>().ok_or(Garbled)?))
    }

    fn sync(&self, folder: &Path) -> Result<(), Fault> {
        self.0.flush()?;
        for entry in std::fs::read_dir(folder)? {
            match std::fs::File::open(entry?.path()) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A message as it stands now. Of a damaged one at least the delivery is known.
fn now(inner: &Inner, id: MessageId) -> Result<Option<Row>, Fault> {
    match inner.load(id) {
        Ok(stored) => Ok(stored.map(|stored| {
            let facets = facets(&stored.message, &stored.delivery, &stored.events);
            Row::new(&facets, last_failure(&stored.events))
        })),
        Err(StoreError::Damaged { .. }) => {
            let Some(head) = inner.head(id)? else { return Ok(None) };
            Ok(Some(Row::new(&delivery_facets(&head.parse_delivery()?), None)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The id behind this one.
fn after(id: &Id) -> Id {
    u128::from_be_bytes(*id).saturating_add(1).to_be_bytes()
}

/// Looks for ids that all prefixes have, from the last to the first.
struct Meeting<'a> {
    rows: &'a Rows,
    prefixes: Vec<Vec<u8>>,
    from: Id,
    /// Everything from here on was looked at.
    until: Id,
}

impl Meeting<'_> {
    /// The next id all have, if there is one; `Err` in the result's inside if only some had what was looked at.
    fn step(&mut self) -> Result<Option<Result<Id, ()>>, Fault> {
        let (mut lowest, mut agreed) = (None, true);
        for prefix in &self.prefixes {
            let Some(id) = self.rows.last_in(prefix, &self.from, &self.until)? else { return Ok(None) };
            agreed &= lowest.is_none_or(|lowest| lowest == id);
            lowest = Some(lowest.map_or(id, |lowest: Id| lowest.min(id)));
        }
        let Some(lowest) = lowest else { return Ok(None) };
        self.until = if agreed { lowest } else { after(&lowest) };
        Ok(Some(if agreed { Ok(lowest) } else { Err(()) }))
    }
}

impl Inner {
    /// Bytes of the journal the search does not know.
    pub(crate) fn search_lag(&self) -> u64 {
        let end = self.index.reached().ok().flatten().unwrap_or(BEGINNING);
        distance(self.search.position(), end)
    }

    pub(crate) fn search(
        &self,
        search: &Search,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<SearchPage, StoreError> {
        let end = self.index.reached().map_err(index_failed)?.unwrap_or(BEGINNING);
        let Some((rows, position)) = self.search.rows_at(end) else {
            return Ok(SearchPage { behind: distance(BEGINNING, end), ..SearchPage::default() });
        };
        let behind = distance(position, end);
        let looked = guarded(|| self.look(&rows, search, cursor, limit)).unwrap_or(Err(Fault::Panicked));
        let (found, next) = looked.map_err(|fault| match fault {
            Fault::Store(error) => error,
            other => StoreError::Io { doing: "searching", source: io::Error::other(other) },
        })?;
        Ok(SearchPage { found, next, behind })
    }

    fn look(
        &self,
        rows: &Rows,
        search: &Search,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<Found>, Option<Cursor>), Fault> {
        let begun = Instant::now();
        let mut prefixes: Vec<Vec<u8>> = search.facets().iter().map(|value| facet(value).to_vec()).collect();
        if prefixes.is_empty() {
            prefixes.push(b"r".to_vec());
        }
        let before = search.before.map_or([0xff; 16], MessageId::first_bytes_at);
        let until = cursor.map_or(before, |Cursor(id)| before.min(*id.as_bytes()));
        let from = search.since.map_or([0; 16], MessageId::first_bytes_at);
        let mut meeting = Meeting { rows, prefixes, from, until };
        let mut found = Vec::new();
        loop {
            let here = meeting.until;
            let over = found.len() == limit || begun.elapsed() >= LOOK_FOR;
            let Some(met) = meeting.step()? else { return Ok((found, None)) };
            if over {
                return Ok((found, Some(Cursor(MessageId::from_bytes(here)))));
            }
            let Ok(id) = met else { continue };
            let Some(row) = rows.row(&id)? else { continue };
            let id = MessageId::from_bytes(id);
            if !search.speaks_of(row.failure.as_ref()) {
                continue;
            }
            let Some(head) = self.head(id)? else { continue };
            let delivery = head.parse_delivery().map_err(garbled)?;
            if search.allows(&delivery) {
                found.push(Found { id, delivery, failure: row.failure });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back() {
        let failure = FailureReason { code: "refused".to_owned(), detail: "ä".repeat(300) };
        let facets = [(Facet::Account, "portal".to_owned()), (Facet::State, "dead".to_owned())];
        let row = Row::new(&facets, Some(&failure));
        assert!(row.failure.as_ref().is_some_and(|failure| failure.detail.len() <= DETAIL));
        assert_eq!(Row::decode(&row.encode()), Ok(row));
        assert_eq!(Row::decode(&Row::default().encode()), Ok(Row::default()));
        assert_eq!(Row::decode(&[2, 0]), Err(Garbled));
    }

    #[test]
    fn distances_are_bytes_of_the_journal() {
        let at = |segment, offset| Position { segment, offset };
        assert_eq!(distance(at(1, 10), at(1, 30)), 20);
        assert_eq!(distance(BEGINNING, at(1, 30)), 30);
        assert_eq!(distance(at(1, 10), at(2, 0)), SEGMENT - 10);
        assert_eq!(distance(at(3, 0), at(2, 5)), 0);
    }

    #[test]
    fn ids_that_all_have_are_met_from_the_last_on() {
        let folder = tempfile::tempdir().unwrap();
        let rows = Rows::open(folder.path()).unwrap();
        let id = |n: u8| [n; 16];
        for (prefix, all) in [(b"x", vec![1, 3, 5, 7, 9]), (b"y", vec![2, 3, 4, 7, 8])] {
            for n in all {
                rows.0.insert([prefix.as_slice(), &id(n)].concat(), b"".as_slice()).unwrap();
            }
        }
        let (from, until) = (id(2), id(9));
        let prefixes = vec![b"x".to_vec(), b"y".to_vec()];
        let mut meeting = Meeting { rows: &rows, prefixes, from, until };
        let mut met = Vec::new();
        while let Some(step) = meeting.step().unwrap() {
            met.extend(step.ok());
        }
        assert_eq!(met, [id(7), id(3)]);
    }
}
