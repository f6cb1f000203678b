//! The one writer. Collects whatever has queued up, writes it as one group, syncs once, completes the waiters.
//!
//! Invariants: nothing is visible or answered before its group is on stable storage; the check of versions and intake keys and
//! the write are one step, because only this thread does either. If a sync fails nobody knows what is on disk, so the store
//! stops; a full disk only fails the group.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use amtsbote_core::id::MessageId;
use amtsbote_core::port::{CommitError, StoreError};
use tokio::sync::oneshot;

use crate::frame::{Body, Position};
use crate::group::{Group, NewMessage, NewNote, NewState, Taken};
use crate::index::{Index, IndexError};
use crate::payload::write_error;
use crate::record::{Checkpoint, CheckpointRecord, encode};
use crate::segment::Tail;
use crate::shared::Shared;

/// At most so many bytes in one group, so that one sync does not take for ever.
const GROUP_BYTES: u64 = 16 << 20;
/// At most so many frames in one group.
const GROUP_FRAMES: usize = 1024;
/// Changes in memory after which the index is settled.
const SETTLE_AT: usize = 16_384;
/// The index is settled at least so often.
const SETTLE_EVERY: Duration = Duration::from_millis(500);
/// Changes in memory at which the committer waits for the index (promise P8).
const LAG_MAX: u64 = 65_536;
/// A checkpoint is taken so often while there is something to take.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// A request to the committer.
pub(crate) enum Request {
    Accept {
        body: Body,
        message: NewMessage,
        done: oneshot::Sender<Result<Option<Taken>, StoreError>>,
    },
    Change {
        body: Body,
        states: Vec<NewState>,
        notes: Vec<NewNote>,
        done: oneshot::Sender<Result<(), CommitError>>,
    },
    Forget {
        body: Body,
        ids: Vec<MessageId>,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Writes a message again, if it is still at the version.
    Move {
        body: Body,
        id: MessageId,
        version: u64,
        done: oneshot::Sender<Result<bool, StoreError>>,
    },
    /// Writes notes again, if all of them still lie where they were seen.
    MoveNotes {
        body: Body,
        notes: Vec<(NewNote, Position)>,
        done: oneshot::Sender<Result<bool, StoreError>>,
    },
    /// Writes records of forgotten messages again.
    Keep {
        body: Body,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Closes the open segment, if it is still this one.
    Close {
        segment: u32,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Takes a checkpoint now.
    Checkpoint {
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Ends the thread after everything before it.
    Stop,
}

impl Request {
    fn body(&self) -> Option<&Body> {
        match self {
            Self::Accept { body, .. }
            | Self::Change { body, .. }
            | Self::Forget { body, .. }
            | Self::Move { body, .. }
            | Self::MoveNotes { body, .. }
            | Self::Keep { body, .. } => Some(body),
            Self::Close { .. } | Self::Checkpoint { .. } | Self::Stop => None,
        }
    }

    fn fail(self, error: impl Fn() -> StoreError) {
        // A caller that is gone does not need its answer.
        match self {
            Self::Accept { done, .. } => drop(done.send(Err(error()))),
            Self::Change { done, .. } => drop(done.send(Err(error().into()))),
            Self::Move { done, .. } | Self::MoveNotes { done, .. } => drop(done.send(Err(error()))),
            Self::Forget { done, .. }
            | Self::Keep { done, .. }
            | Self::Close { done, .. }
            | Self::Checkpoint { done } => {
                drop(done.send(Err(error())));
            }
            Self::Stop => {}
        }
    }
}

/// Answer to a request whose frame is durable, or that needed none.
enum Reply {
    Accepted(Option<Taken>),
    Changed(Result<(), CommitError>),
    Done,
    Moved(bool),
}

pub(crate) struct Committer {
    tail: Tail,
    index: Arc<Index>,
    shared: Arc<Shared>,
    settler: Settler,
    looked_for_room: Instant,
    has_room: bool,
}

/// The disk is asked for its free space so often.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);

/// Refuses new messages; everything else goes on.
fn refuse_new(batch: Vec<Request>) -> Vec<Request> {
    let (new, rest): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|request| matches!(request, Request::Accept { .. }));
    for request in new {
        request.fail(|| StoreError::Full);
    }
    rest
}

impl Committer {
    pub(crate) fn new(tail: Tail, index: Arc<Index>, shared: Arc<Shared>) -> Self {
        let has_room = shared.look_for_room();
        Self { tail, index, shared, settler: Settler::new(), looked_for_room: Instant::now(), has_room }
    }

    /// Runs until [`Request::Stop`] or until every sender is gone.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let first = match requests.recv_timeout(SETTLE_EVERY) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => {
                    self.upkeep();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (batch, stop) = collect(first, requests);
            self.commit(batch);
            self.upkeep();
            if stop {
                break;
            }
        }
        if self.shared.stopped().is_none()
            && let Err(error) = self.checkpoint_now()
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "No checkpoint at shutdown; the next start replays more."
            );
        }
    }

    fn upkeep(&mut self) {
        if self.shared.stopped().is_some() {
            return;
        }
        self.look_for_room();
        if let Err(error) = self.settler.tend(&self.index, &self.shared) {
            self.shared.distrust_index(format!("the index cannot be written: {error}"));
            return;
        }
        if self.settler.checkpoint_is_due()
            && let Err(error) = self.checkpoint()
        {
            // The journal still has everything; a full disk must not stop what needs no space.
            tracing::warn!(error = &error as &dyn std::error::Error, "No checkpoint could be taken.");
        }
    }

    fn look_for_room(&mut self) {
        if self.looked_for_room.elapsed() >= LOOK_FOR_ROOM {
            self.looked_for_room = Instant::now();
            self.has_room = self.shared.look_for_room();
        }
    }

    fn checkpoint_now(&mut self) -> Result<(), StoreError> {
        self.settler.now(&self.index, &self.shared).map_err(index_failed)?;
        self.checkpoint()
    }

    /// Writes up to where the index is on stable storage. A failed write or sync of the journal stops the store, as always.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let Some(checkpoint) = self.settler.synced(&self.index, &self.shared)? else { return Ok(()) };
        let position = checkpoint.position;
        let bytes = encode(&CheckpointRecord::V1(checkpoint)).map_err(|error| StoreError::Io {
            doing: "writing a checkpoint",
            source: io::Error::other(error),
        })?;
        let body = Body::new(crate::frame::FrameKind::Checkpoint, vec![bytes]);
        self.write(&[&body]).map_err(|failure| failure.error())?;
        self.settler.checkpointed = Some(position);
        Ok(())
    }

    fn commit(&mut self, batch: Vec<Request>) {
        if let Some(reason) = self.shared.stopped() {
            for request in batch {
                request.fail(|| StoreError::Stopped { reason: reason.clone() });
            }
            return;
        }
        let started = Instant::now();
        let mut group = Group::default();
        let mut replies = Vec::with_capacity(batch.len());
        let mut written: Vec<usize> = Vec::with_capacity(batch.len());
        // Positions are known before writing: the group goes behind the tail, frame after frame.
        self.look_for_room();
        let batch = if self.has_room { batch } else { refuse_new(batch) };
        let mut at = match self.tail.next_group() {
            Ok(at) => at,
            Err(error) => {
                let failure = self.judge(write_error("opening a segment", error));
                for request in batch {
                    request.fail(|| failure.error());
                }
                return;
            }
        };
        for (number, request) in batch.iter().enumerate() {
            match decide(&mut group, &self.index, request, at) {
                Ok((reply, writes)) => {
                    if let (true, Some(body)) = (writes, request.body()) {
                        at.offset += crate::frame::HEADER as u64 + body.length;
                        written.push(number);
                    }
                    replies.push(reply);
                }
                Err(error) => {
                    let reason = format!("the index cannot be read: {error}");
                    self.shared.distrust_index(reason.clone());
                    for request in batch {
                        request.fail(|| StoreError::Stopped { reason: reason.clone() });
                    }
                    return;
                }
            }
        }
        let bodies: Vec<&Body> = written.iter().filter_map(|number| batch[*number].body()).collect();
        if let Err(failure) = self.write(&bodies) {
            for request in batch {
                request.fail(|| failure.error());
            }
            return;
        }
        let count = written.len();
        self.index.apply(std::mem::take(&mut group.ops), self.tail.position());
        self.shared.committed(&group, count, started.elapsed());
        for (request, reply) in batch.into_iter().zip(replies) {
            self.answer(request, reply);
        }
    }

    fn answer(&mut self, request: Request, reply: Reply) {
        // A caller that is gone does not need its answer.
        match (request, reply) {
            (Request::Accept { done, .. }, Reply::Accepted(taken)) => drop(done.send(Ok(taken))),
            (Request::Change { done, .. }, Reply::Changed(result)) => drop(done.send(result)),
            (Request::Move { done, .. } | Request::MoveNotes { done, .. }, Reply::Moved(moved)) => {
                drop(done.send(Ok(moved)));
            }
            (Request::Forget { done, .. } | Request::Keep { done, .. }, _) => drop(done.send(Ok(()))),
            (Request::Close { segment, done }, _) => {
                let closed = match self.tail.position().segment == segment {
                    true => self.tail.rotate().map_err(|error| write_error("opening a segment", error)),
                    false => Ok(()),
                };
                drop(done.send(closed.map_err(|error| self.judge(error).error())));
            }
            (Request::Checkpoint { done }, _) => {
                drop(done.send(self.checkpoint_now()));
            }
            (
                Request::Accept { .. }
                | Request::Change { .. }
                | Request::Move { .. }
                | Request::MoveNotes { .. }
                | Request::Stop,
                _,
            ) => {}
        }
    }

    fn write(&mut self, bodies: &[&Body]) -> Result<(), WriteFailure> {
        if bodies.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.tail.append(bodies) {
            return Err(self.judge(write_error("appending to the journal", error)));
        }
        let header = crate::frame::HEADER as u64;
        self.shared.journal_grew(bodies.iter().map(|body| header + body.length).sum());
        self.tail
            .sync()
            .map_err(|error| self.stop(&StoreError::Io { doing: "syncing the journal", source: error }))
    }

    /// A full disk only fails the group, because nothing of it stayed; everything else stops the store.
    fn judge(&self, error: StoreError) -> WriteFailure {
        match error {
            StoreError::Full => WriteFailure::Full,
            other => self.stop(&other),
        }
    }

    fn stop(&self, error: &StoreError) -> WriteFailure {
        let reason = match error {
            StoreError::Io { doing, source } => format!("{doing} failed: {source}"),
            other => other.to_string(),
        };
        self.shared.stop(reason.clone());
        WriteFailure::Stopped(reason)
    }
}

/// Turns a failure of the index into the store's words.
pub(crate) fn index_failed(error: IndexError) -> StoreError {
    StoreError::Io { doing: "using the index", source: io::Error::other(error) }
}

enum WriteFailure {
    Full,
    Stopped(String),
}

impl WriteFailure {
    fn error(&self) -> StoreError {
        match self {
            Self::Full => StoreError::Full,
            Self::Stopped(reason) => StoreError::Stopped { reason: reason.clone() },
        }
    }
}

fn collect(first: Request, requests: &Receiver<Request>) -> (Vec<Request>, bool) {
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(request) = next {
        if matches!(request, Request::Stop) {
            return (batch, true);
        }
        bytes += request.body().map_or(0, |body| body.length);
        batch.push(request);
        next =
            if bytes < GROUP_BYTES && batch.len() < GROUP_FRAMES { requests.try_recv().ok() } else { None };
    }
    (batch, false)
}

/// What a request leads to, given everything before it; whether its frame is to be written at `at`.
fn decide(
    group: &mut Group,
    index: &Index,
    request: &Request,
    at: Position,
) -> Result<(Reply, bool), IndexError> {
    Ok(match request {
        Request::Accept { message, body, .. } => match group.taken(index, message)? {
            Some(taken) => (Reply::Accepted(Some(taken)), false),
            None => {
                group.accept(index, message, at, body.length)?;
                (Reply::Accepted(None), true)
            }
        },
        Request::Change { states, notes, .. } => {
            let mut heads = Vec::with_capacity(states.len());
            for state in states {
                match group.head(index, state.id)? {
                    Some(head) if head.version == state.expected => heads.push(head),
                    _ => return Ok((Reply::Changed(Err(CommitError::Stale(state.id))), false)),
                }
            }
            for (state, head) in states.iter().zip(heads) {
                group.change(index, state, head, at)?;
            }
            for note in notes {
                group.note(index, note, at)?;
            }
            (Reply::Changed(Ok(())), true)
        }
        Request::Forget { ids, .. } => {
            for id in ids {
                if let Some(head) = group.head(index, *id)? {
                    group.forget(index, *id, head)?;
                }
            }
            (Reply::Done, true)
        }
        Request::Move { id, version, body, .. } => match group.head(index, *id)? {
            Some(head) if head.version == *version => {
                group.relocate(*id, head, at, body.length);
                (Reply::Moved(true), true)
            }
            _ => (Reply::Moved(false), false),
        },
        Request::MoveNotes { notes, .. } => {
            for (note, seen) in notes {
                if !group.note_is_at(index, &note.key, *seen)? {
                    return Ok((Reply::Moved(false), false));
                }
            }
            for (note, _) in notes {
                group.note(index, note, at)?;
            }
            (Reply::Moved(true), true)
        }
        Request::Keep { .. } => (Reply::Done, true),
        Request::Close { .. } | Request::Checkpoint { .. } | Request::Stop => (Reply::Done, false),
    })
}

/// Moves committed changes into sled on a thread of its own, so that the committer can go on.
struct Settler {
    work: Option<JoinHandle<Result<Option<Checkpoint>, IndexError>>>,
    settled: Option<Checkpoint>,
    checkpointed: Option<Position>,
    last: Instant,
    last_checkpoint: Instant,
}

impl Settler {
    fn new() -> Self {
        let now = Instant::now();
        Self { work: None, settled: None, checkpointed: None, last: now, last_checkpoint: now }
    }

    fn collect(&mut self) -> Result<(), IndexError> {
        if let Some(work) = self.work.take() {
            let settled = work.join().map_err(|_| IndexError::Panicked)??;
            self.settled = settled.or(self.settled.take());
        }
        Ok(())
    }

    /// Starts settling when enough has gathered or enough time has passed; waits when far too much has gathered.
    fn tend(&mut self, index: &Arc<Index>, shared: &Shared) -> Result<(), IndexError> {
        if self.work.as_ref().is_some_and(JoinHandle::is_finished) || index.lag() > LAG_MAX {
            self.collect()?;
        }
        let gathered = index.gathered();
        let due = gathered >= SETTLE_AT || (gathered > 0 && self.last.elapsed() >= SETTLE_EVERY);
        if self.work.is_none() && due {
            self.last = Instant::now();
            let position = index.close();
            let settled = position.map(|position| shared.checkpoint(position));
            let index = Arc::clone(index);
            let settle = move || index.settle(position).map(|()| settled);
            self.work = Some(std::thread::Builder::new().name("store-index".to_owned()).spawn(settle)?);
        }
        Ok(())
    }

    /// Settles everything, in this thread.
    fn now(&mut self, index: &Arc<Index>, shared: &Shared) -> Result<(), IndexError> {
        self.collect()?;
        let position = index.close();
        index.settle(position)?;
        self.settled = position.map(|position| shared.checkpoint(position)).or(self.settled.take());
        Ok(())
    }

    fn checkpoint_is_due(&self) -> bool {
        let settled = self.settled.as_ref().map(|settled| settled.position);
        settled != self.checkpointed && self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY
    }

    /// Syncs the index; up to where it is now on stable storage, if that is news.
    fn synced(&mut self, index: &Arc<Index>, shared: &Shared) -> Result<Option<Checkpoint>, StoreError> {
        self.last_checkpoint = Instant::now();
        let Some(settled) = self.settled.clone().filter(|one| Some(one.position) != self.checkpointed) else {
            return Ok(None);
        };
        if let Err(error) = index.sync() {
            // After a failed sync nobody knows what of the index is on disk, and a later one may seem to succeed.
            if !error.is_full() {
                shared.distrust_index(format!("the index cannot be synced: {error}"));
            }
            return Err(index_failed(error));
        }
        Ok(Some(settled))
    }
}
