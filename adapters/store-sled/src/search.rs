//! Search among all messages: a projection of the journal in files of its own, built behind the accept path.
//!
//! A thread of low priority reads which messages the journal speaks of, loads each as it stands now, and writes its row into the block of its
//! neighbours. So a row is never older than the position says. Nothing depends on the projection: it may be thrown away at any time and
//! is when it cannot be read, or when the machine went down without warning, because nothing of it is synced while it is open. It takes a byte or
//! two of memory and about a hundred bytes of disk for each message.

mod block;
mod blocks;

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use amtsbote_core::delivery::FailureReason;
use amtsbote_core::id::MessageId;
use amtsbote_core::port::{
    Cursor, Found, Search, SearchPage, StoreError, delivery_facets, facets, last_failure,
};
use serde::Deserialize;

use crate::committer::index_failed;
use crate::frame::{Found as Place, FrameKind, Position};
use crate::read::{garbled, readable};
use crate::record::{ChangeRecord, Forgotten, ForgottenRecord, decode_changes};
use crate::segment::SEGMENT;
use crate::store::Inner;
use crate::watch::guarded;
use block::{Damaged, Id, Row, View, hash};
use blocks::{BlockError, Blocks, Changes};

/// Messages brought up to date in one go; a block is written once for all of its own among them.
const BATCH: usize = 1_024;
/// Frames read in one go.
const FRAMES: usize = 1_024;
/// The journal is looked at so often when nobody searches.
const LOOK: Duration = Duration::from_millis(250);
/// Wait after a fault.
const AFTER_A_FAULT: Duration = Duration::from_secs(5);
/// While others write, the thread rests so many times as long as it worked; at most so long.
const REST: u32 = 4;
const REST_LONGEST: Duration = Duration::from_secs(1);
/// Whoever searches waits for so much of the journal, which takes a moment; what lags further is said to lag.
const WAIT_FOR: u64 = 4 << 20;
/// Nobody waits longer.
const WAIT_LONGEST: Duration = Duration::from_secs(5);
/// How long one call looks.
const LOOK_FOR: Duration = Duration::from_millis(100);
/// Position of everything.
const BEGINNING: Position = Position { segment: 0, offset: 0 };

/// Where the projection stands; shared by its thread and by those who search.
#[derive(Default)]
pub(crate) struct Projection {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    blocks: Option<Arc<Blocks>>,
    position: Option<Position>,
    /// Nothing goes on until it is opened again.
    faulty: bool,
    /// Somebody found damage in it.
    damaged: bool,
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
        let idle = |state: &mut State| !state.ended && !state.wanted && !state.damaged;
        let (mut state, _) =
            self.changed.wait_timeout_while(state, time, idle).unwrap_or_else(PoisonError::into_inner);
        state.wanted = false;
        !state.ended
    }

    /// Rests after a fault, unless the store ends.
    fn rest(&self) {
        let going_on = |state: &mut State| !state.ended;
        drop(self.changed.wait_timeout_while(self.state(), AFTER_A_FAULT, going_on));
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
        (state.blocks, state.faulty) = (None, true);
        self.changed.notify_all();
    }

    /// It is to be built anew; whoever searches waits for that, if it takes a moment.
    fn distrust(&self) {
        let mut state = self.state();
        (state.blocks, state.position, state.damaged) = (None, None, true);
        self.changed.notify_all();
    }

    fn is_damaged(&self) -> bool {
        self.state().damaged
    }

    fn begin(&self, blocks: Arc<Blocks>, position: Position) {
        let mut state = self.state();
        (state.blocks, state.position) = (Some(blocks), Some(position));
        (state.faulty, state.damaged) = (false, false);
        self.changed.notify_all();
    }

    fn reach(&self, position: Position) {
        self.state().position = Some(position);
        self.changed.notify_all();
    }

    /// Waits until everything before a position is known, if it is near, and not for ever.
    fn wait_for(&self, target: Position) {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            let position = state.position.unwrap_or(BEGINNING);
            let near = !state.faulty && !state.ended && distance(position, target) <= WAIT_FOR;
            if position >= target || !near || begun.elapsed() >= WAIT_LONGEST {
                return;
            }
            state.wanted = true;
            self.changed.notify_all();
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The blocks as they are, and how far that is.
    fn blocks(&self) -> Option<(Arc<Blocks>, Position)> {
        let state = self.state();
        Some((Arc::clone(state.blocks.as_ref()?), state.position.unwrap_or(BEGINNING)))
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
            match guarded(|| project(&folder, &inner)).unwrap_or(Err(Fault::Panicked)) {
                Ok(()) => {}
                Err(Fault::Blocks(BlockError::Damaged(_))) => {
                    tracing::warn!("The search is damaged; it is built anew from the journal.");
                    inner.search.distrust();
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "The search stops for a moment.");
                    inner.search.fail();
                    inner.search.rest();
                }
            }
        }
        let blocks = inner.search.state().blocks.take();
        close(&folder, blocks);
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
    #[error("it panicked")]
    Panicked,
    #[error(transparent)]
    Blocks(#[from] BlockError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Blocks(error.into())
    }
}

impl From<Damaged> for Fault {
    fn from(damaged: Damaged) -> Self {
        Self::Blocks(damaged.into())
    }
}

/// Opens the projection and keeps it up to date until the end.
fn project(folder: &Path, inner: &Inner) -> Result<(), Fault> {
    let worked = open(folder, inner).and_then(|blocks| follow(&Arc::new(blocks), inner));
    // What cannot be read is of no use to anybody; it is built anew.
    if let Err(Fault::Blocks(BlockError::Damaged(_))) = &worked {
        Blocks::discard(folder)?;
    }
    worked
}

fn follow(blocks: &Arc<Blocks>, inner: &Inner) -> Result<(), Fault> {
    if inner.search.has_ended() {
        // Perhaps not all blocks were read.
        return Ok(());
    }
    let mut position = blocks.position()?.unwrap_or(BEGINNING);
    let end = inner.index.reached().map_err(index_failed)?.unwrap_or(BEGINNING);
    if position > end {
        // Of another journal.
        return Err(Damaged.into());
    }
    inner.search.begin(Arc::clone(blocks), position);
    loop {
        let end = inner.index.reached().map_err(index_failed)?.unwrap_or(BEGINNING);
        if position >= end {
            if !inner.search.pause(LOOK) {
                return Ok(());
            }
            if inner.search.is_damaged() {
                return Err(Damaged.into());
            }
            continue;
        }
        if inner.search.has_ended() {
            return Ok(());
        }
        if inner.search.is_damaged() {
            return Err(Damaged.into());
        }
        let began = Instant::now();
        let (ids, next) = spoken_of(inner, position, end)?;
        let mut changes = Changes::new();
        for id in ids {
            changes.insert(*id.as_bytes(), now(inner, id)?);
            if inner.search.has_ended() {
                return Ok(());
            }
        }
        match blocks.apply(changes, next) {
            // What is there can be searched all the same.
            Err(BlockError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                inner.search.rest();
                continue;
            }
            applied => applied?,
        }
        position = next;
        inner.search.reach(position);
        // Others write: they come first, unless somebody waits.
        let busy = inner.index.reached().map_err(index_failed)? > Some(end);
        if busy && !inner.search.pause((began.elapsed() * REST).min(REST_LONGEST)) {
            return Ok(());
        }
    }
}

/// Says that rows may be half written until it is gone: under which run of the system they are open.
fn mark(folder: &Path) -> PathBuf {
    folder.with_extension("open")
}

fn open(folder: &Path, inner: &Inner) -> Result<Blocks, Fault> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // What a killed process wrote is there as long as the system runs; after a power cut nobody knows.
    let trusted = match std::fs::read_to_string(mark(folder)) {
        Ok(since) => !boot.is_empty() && since == boot,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !trusted && folder.exists() {
        tracing::warn!("The search is built anew from the journal.");
        Blocks::discard(folder)?;
    }
    std::fs::write(mark(folder), boot)?;
    Ok(Blocks::open(folder, || inner.search.has_ended())?)
}

/// Makes everything durable. Without blocks nobody knows what is, and the mark stays.
fn close(folder: &Path, blocks: Option<Arc<Blocks>>) {
    let Some(blocks) = blocks else { return };
    let closed = blocks.sync().and_then(|()| std::fs::remove_file(mark(folder)));
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
        match readable(inner.folder.read(at))? {
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
    let bytes = match readable(inner.folder.bytes(at.segment).map(Some)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => read?,
    };
    if let Some(bytes) = bytes
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

/// A message as it stands now. Of a damaged one at least the delivery is known.
fn now(inner: &Inner, id: MessageId) -> Result<Option<Row>, Fault> {
    match inner.load(id) {
        Ok(stored) => Ok(stored.map(|stored| {
            let facets = facets(&stored.message, &stored.delivery, &stored.events);
            Row::new(&facets, last_failure(&stored.events))
        })),
        Err(StoreError::Damaged { .. }) => {
            let Some(head) = inner.head(id)? else { return Ok(None) };
            let delivery = head.parse_delivery().map_err(garbled)?;
            Ok(Some(Row::new(&delivery_facets(&delivery), None)))
        }
        Err(error) => Err(error.into()),
    }
}

impl Inner {
    /// Bytes of the journal the search does not know.
    pub(crate) fn search_lag(&self) -> u64 {
        let end = self.index.reached().ok().flatten().unwrap_or(BEGINNING);
        distance(self.search.position(), end)
    }

    /// Waits for the search to know what is committed now, if that takes a moment. Blocks; reads nothing.
    pub(crate) fn await_search(&self) {
        if let Ok(Some(end)) = self.index.reached() {
            self.search.wait_for(end);
        }
    }

    pub(crate) fn search(
        &self,
        search: &Search,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<SearchPage, StoreError> {
        let end = self.index.reached().map_err(index_failed)?.unwrap_or(BEGINNING);
        let Some((blocks, position)) = self.search.blocks() else {
            return Ok(SearchPage { behind: distance(BEGINNING, end), ..SearchPage::default() });
        };
        let behind = distance(position, end);
        let looked = guarded(|| self.look(&blocks, search, cursor, limit)).unwrap_or(Err(Fault::Panicked));
        if let Err(Fault::Blocks(BlockError::Damaged(_))) = &looked {
            self.search.distrust();
        }
        let (found, next) = looked.map_err(|fault| match fault {
            Fault::Store(error) => error,
            other => StoreError::Io { doing: "searching", source: io::Error::other(other) },
        })?;
        Ok(SearchPage { found, next, behind })
    }

    fn look(
        &self,
        blocks: &Blocks,
        search: &Search,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<Found>, Option<Cursor>), Fault> {
        let begun = Instant::now();
        let facets: Vec<u64> = search.facets().iter().map(hash).collect();
        let before = search.before.map_or([0xff; 16], MessageId::first_bytes_at);
        let from = search.since.map_or([0; 16], MessageId::first_bytes_at);
        let mut until = cursor.map_or(before, |Cursor(id)| before.min(*id.as_bytes()));
        let mut found = Vec::new();
        // Each call gets on by one row or block at least.
        let mut got_on = false;
        while until > from
            && let Some((first, bytes)) = blocks.below(&until, &facets)?
        {
            let view = View::new(&bytes)?;
            for number in view.having_all(&facets).into_iter().rev() {
                let id: Id = view.id(number).ok_or(Damaged)?;
                if id >= until {
                    continue;
                }
                if id < from {
                    return Ok((found, None));
                }
                if found.len() == limit || (got_on && begun.elapsed() >= LOOK_FOR) {
                    return Ok((found, Some(Cursor(MessageId::from_bytes(until)))));
                }
                (until, got_on) = (id, true);
                let failure = view.failure(number).ok_or(Damaged)?;
                if search.speaks_of(failure.as_ref()) {
                    found.extend(self.as_it_stands(search, id, failure)?);
                }
            }
            // Everything of this block was looked at.
            (until, got_on) = (until.min(first), true);
            if begun.elapsed() >= LOOK_FOR {
                return Ok((found, Some(Cursor(MessageId::from_bytes(until)))));
            }
        }
        Ok((found, None))
    }

    /// A message that was found, if it still is what was looked for.
    fn as_it_stands(
        &self,
        search: &Search,
        id: Id,
        failure: Option<FailureReason>,
    ) -> Result<Option<Found>, Fault> {
        let id = MessageId::from_bytes(id);
        let Some(head) = self.head(id)? else { return Ok(None) };
        let delivery = head.parse_delivery().map_err(garbled)?;
        Ok(search.allows(&delivery).then_some(Found { id, delivery, failure }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_bytes_of_the_journal() {
        let at = |segment, offset| Position { segment, offset };
        assert_eq!(distance(at(1, 10), at(1, 30)), 20);
        assert_eq!(distance(BEGINNING, at(1, 30)), 30);
        assert_eq!(distance(at(1, 10), at(2, 0)), SEGMENT - 10);
        assert_eq!(distance(at(3, 0), at(2, 5)), 0);
    }
}
