//! The delivery engine: takes due work from the store, lets the state machine decide, acts, commits.
//!
//! Invariants: every attempt is committed before its channel is called (promise P2); a worker's result counts only with
//! its fencing token (P6); all fan-out holds a permit (P8). The engine keeps nothing that the store does not have, so
//! it may die at any instant. Not here: which state follows which (`delivery`), how a channel works (adapters).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::control::Controls;
use crate::id::{MessageId, MessageIdSource};
use crate::mailbox::add;
use crate::message::Priority;
use crate::port::{
    Channel, Clock, Entropy, MessageStore, Note, NoteKind, Observation, Observer, Sealer, StoreError,
};
use crate::route::{ChannelKind, Destination, Router};
use crate::wake::Wake;

mod attempt;
mod breaker;
mod lanes;
mod notice;
mod prepare;
mod release;
mod retention;
mod timers;

pub use breaker::{BreakerPolicy, OpenBreaker};
pub use lanes::{DestinationPolicy, Policies};
pub use notice::NOTICE_TYPE;
pub use retention::Retention;

use breaker::{AttemptEnd, Turn};
use lanes::Lanes;

/// How the engine works.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Messages routed and sealed at the same time.
    pub prepare_concurrency: usize,
    /// Attempts at the same time, over all destinations.
    pub attempt_concurrency: usize,
    /// How long an attempt may take before it counts as lost.
    pub attempt_lease: Duration,
    /// How destinations are served.
    pub policies: Policies,
    /// How often the directory is asked for an open route.
    pub route_retry: Duration,
    /// How long a route may stay open.
    pub route_max_wait: Duration,
    /// Age of a decision after which it is checked again before an attempt.
    pub recheck_after: Duration,
    /// How long payloads and records are kept.
    pub retention: Retention,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            prepare_concurrency: 32,
            attempt_concurrency: 64,
            attempt_lease: Duration::from_secs(60),
            policies: Policies::default(),
            route_retry: Duration::from_secs(30),
            route_max_wait: Duration::from_secs(24 * 3600),
            recheck_after: Duration::from_secs(600),
            retention: Retention::default(),
        }
    }
}

/// What the engine works with.
pub struct EnginePorts {
    /// Truth.
    pub store: Arc<dyn MessageStore>,
    /// Ways to authorities.
    pub router: Arc<Router>,
    /// Signs documents.
    pub sealer: Arc<dyn Sealer>,
    /// What operators hold.
    pub controls: Arc<Controls>,
    /// Push channels.
    pub channels: Vec<Arc<dyn Channel>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Log and metrics.
    pub observer: Arc<dyn Observer>,
    /// Signals.
    pub wake: Arc<Wake>,
}

/// The engine. [`Engine::run`] is its life.
pub struct Engine {
    ports: EnginePorts,
    channels: BTreeMap<ChannelKind, Arc<dyn Channel>>,
    options: EngineOptions,
    held: AtomicBool,
    notice_ids: MessageIdSource,
}

/// After a fault of the store or the sealer the engine rests for so long.
const REST: Duration = Duration::from_secs(1);
/// The engine looks at its work at least so often, so that its health can be told from its silence.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Destinations read from the store at a time.
const DESTINATION_PAGE: usize = 64;

/// What a task works on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    Prepare(MessageId),
    Notify(MessageId),
    Attempt(MessageId, Destination),
}

/// Work in flight; owned by the loop, no locks.
#[derive(Default)]
struct InFlight {
    tasks: JoinSet<Result<AttemptEnd, StoreError>>,
    jobs: HashMap<tokio::task::Id, Job>,
    preparing: BTreeSet<MessageId>,
    notifying: BTreeSet<MessageId>,
    attempting: BTreeSet<MessageId>,
    lanes: Lanes,
    cursor: Option<MessageId>,
    /// What has happened to breakers and is not durable yet.
    notes: Vec<Note>,
    /// When the holds are read again.
    refresh_at: Option<Timestamp>,
}

/// What the end of a task means for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Well,
    /// The store or the sealer has a fault.
    Rest,
    /// The worker panicked while it prepared a message; it would again.
    Died(MessageId),
}

impl Engine {
    /// An engine over its ports.
    pub fn new(ports: EnginePorts, options: EngineOptions) -> Arc<Self> {
        let channels = ports.channels.iter().map(|channel| (channel.kind(), Arc::clone(channel))).collect();
        let (held, notice_ids) = (AtomicBool::new(false), MessageIdSource::default());
        Arc::new(Self { ports, channels, options, held, notice_ids })
    }

    /// Holds or releases everything after acceptance: nothing is routed, sealed or handed to a push channel while held. What
    /// was sealed before still becomes available in mailboxes when its `notBefore` has come.
    pub fn hold_all(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
        self.ports.wake.work();
    }

    /// Works until stopped, then gives attempts that are under way up to `drain`. Returns the number cut off; those will be
    /// delivered again, marked.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, drain: Duration) -> usize {
        let mut flight = InFlight::default();
        while let Err(error) = self.take_up(&mut flight).await {
            tracing::error!(error = &error as &dyn std::error::Error, "The engine waits for the store.");
            tokio::select! {
                () = stop.cancelled() => return 0,
                () = self.ports.clock.sleep(REST) => {}
            }
        }
        while !stop.is_cancelled() {
            let wait = match self.round(&mut flight).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "The engine rests because the store failed."
                    );
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.ports.clock.sleep(REST) => {}
                    }
                    continue;
                }
            };
            self.pause(&mut flight, wait, &stop).await;
        }
        let mut deadline = self.ports.clock.sleep(drain);
        while !flight.tasks.is_empty() {
            tokio::select! {
                _ = flight.tasks.join_next() => {}
                () = &mut deadline => break,
            }
        }
        drop(deadline);
        let cut = flight.tasks.len();
        flight.tasks.shutdown().await;
        cut
    }

    /// Destinations that were out of order when the last process ended still are. What had piled up there, or here, is let go
    /// slowly.
    async fn take_up(&self, flight: &mut InFlight) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.ports.store.notes(NoteKind::Breaker, after.as_deref(), DESTINATION_PAGE).await?;
            for open in page.iter().filter_map(crate::port::KeptNote::read) {
                flight.lanes.reopen(open);
            }
            match page.into_iter().last() {
                Some(last) => after = Some(last.name),
                None => break,
            }
        }
        let (mut after, now) = (None, self.ports.clock.now());
        loop {
            let page = self.ports.store.waiting_destinations(after.as_ref(), DESTINATION_PAGE).await?;
            for destination in &page {
                flight.lanes.release(destination, now);
            }
            match page.into_iter().last() {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Waits for work, a finished task, a timer, or the end.
    async fn pause(
        self: &Arc<Self>,
        flight: &mut InFlight,
        until: Option<Timestamp>,
        stop: &CancellationToken,
    ) {
        let held = self.held.load(Ordering::Relaxed);
        let mut settled = Vec::new();
        tokio::select! {
            () = stop.cancelled() => {}
            // While everything is held new work changes nothing; the heartbeat notices the release.
            () = self.ports.wake.on_work(), if !held => {}
            () = self.ports.clock.sleep(HEARTBEAT) => {}
            () = self.ports.clock.sleep_until(until.unwrap_or(Timestamp::MAX)), if until.is_some() => {}
            Some(done) = flight.tasks.join_next_with_id() => settled.push(self.settle(flight, done)),
        }
        while let Some(done) = flight.tasks.try_join_next_with_id() {
            settled.push(self.settle(flight, done));
        }
        if !flight.notes.is_empty() {
            match self.ports.store.commit_with(Vec::new(), flight.notes.clone()).await {
                Ok(()) => flight.notes.clear(),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "The state of a breaker is not stored yet."
                    );
                }
            }
        }
        for one in &settled {
            if let Settled::Died(id) = one
                && let Err(error) = self.damaged(*id, "the worker died on this message".to_owned()).await
            {
                tracing::error!(message.id = %id, error = &error as &dyn std::error::Error, "The message stays queued.");
            }
        }
        if settled.iter().any(|one| *one != Settled::Well) {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.ports.clock.sleep(REST) => {}
            }
        }
    }

    /// Starts as much work as there are free slots. Returns the next timer.
    async fn round(self: &Arc<Self>, flight: &mut InFlight) -> Result<Option<Timestamp>, StoreError> {
        let (next, lag) = self.fire_timers(flight).await?;
        let now = self.ports.clock.now();
        // A time further ahead was set before the wall clock was set back.
        if flight.refresh_at.is_none_or(|at| at <= now || at > add(now, HEARTBEAT)) {
            self.ports.controls.refresh().await?;
            flight.refresh_at = Some(add(now, HEARTBEAT));
        }
        let more = self.release_held(flight).await?.then(|| self.ports.clock.now());
        let hold_ends = self.ports.controls.holds().next_end();
        let next = [next, more, hold_ends].into_iter().flatten().min();
        let paced = match self.held.load(Ordering::Relaxed) {
            true => None,
            false => {
                self.start_preparing(flight).await?;
                self.start_attempts(flight).await?
            }
        };
        // Only who got through all of it moves.
        self.ports.observer.record(Observation::Scheduled { lag, at: now });
        Ok([next, paced].into_iter().flatten().min())
    }

    async fn start_preparing(self: &Arc<Self>, flight: &mut InFlight) -> Result<(), StoreError> {
        let free = self.options.prepare_concurrency.saturating_sub(flight.preparing.len());
        if free == 0 {
            return Ok(());
        }
        let window = self.options.prepare_concurrency + free;
        let items = self.ports.store.to_prepare(flight.cursor, window).await?;
        // Behind the last item the next look starts from the front again, where slow ones and late comers are.
        let whole = items.len() < window;
        let mut started = 0;
        for id in items {
            if started == free {
                break;
            }
            flight.cursor = Some(id);
            if flight.preparing.insert(id) {
                started += 1;
                let engine = Arc::clone(self);
                let task =
                    flight.tasks.spawn(async move { engine.prepare(id).await.map(|()| AttemptEnd::NotMade) });
                flight.jobs.insert(task.id(), Job::Prepare(id));
            }
        }
        if whole && started < free {
            flight.cursor = None;
        }
        Ok(())
    }

    /// Gives free slots to the destinations with due work, in turns. Returns when a destination that is paced may go on.
    async fn start_attempts(
        self: &Arc<Self>,
        flight: &mut InFlight,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut free = self.options.attempt_concurrency.saturating_sub(flight.attempting.len());
        let (mut paced, mut seen) = (None, BTreeSet::new());
        let (mut after, mut wrapped) = (flight.lanes.cursor.clone(), flight.lanes.cursor.is_none());
        while free > 0 {
            let page = self.ports.store.waiting_destinations(after.as_ref(), DESTINATION_PAGE).await?;
            let last = page.len() < DESTINATION_PAGE;
            for destination in page {
                if free == 0 || !seen.insert(destination.clone()) {
                    return Ok(paced);
                }
                let (policy, now) = (self.options.policies.of(&destination), self.ports.clock.now());
                if self.ports.controls.holds().on_destination(&destination, now).is_some() {
                    flight.lanes.hold(&destination);
                    after = Some(destination);
                    continue;
                }
                match flight.lanes.room(&destination, policy, now) {
                    Ok(room) => {
                        // The last quarter of all slots is for destinations that have none: those that hang cannot take all.
                        let kept = self.options.attempt_concurrency / 4;
                        let own = usize::from(flight.lanes.is_quiet(&destination));
                        let wanted = room.min(free.saturating_sub(kept).max(own));
                        if wanted == 0 {
                            after = Some(destination);
                            continue;
                        }
                        let started = self.start_some(flight, &destination, wanted).await?;
                        free -= started;
                        if started < wanted {
                            flight.lanes.drained(&destination, now);
                        }
                        if started > 0 {
                            flight.lanes.cursor = Some(destination.clone());
                        }
                    }
                    Err(until) => paced = [paced, until].into_iter().flatten().min(),
                }
                after = Some(destination);
            }
            match (last, wrapped) {
                (true, true) => break,
                (true, false) => (after, wrapped) = (None, true),
                (false, _) => {}
            }
        }
        Ok(paced)
    }

    /// Starts up to `room` attempts at a destination, in its order; one of eight picks goes to the lower class.
    async fn start_some(
        self: &Arc<Self>,
        flight: &mut InFlight,
        destination: &Destination,
        room: usize,
    ) -> Result<usize, StoreError> {
        let policy = self.options.policies.of(destination);
        // Those that were started a moment ago may still be listed.
        let listed = room + policy.concurrency;
        let mut all = self.ports.store.ready(destination, Priority::High, listed).await?.into_iter();
        let mut normal = None;
        let mut started = 0;
        while started < room {
            let mut pick = None;
            if flight.lanes.is_normal_turn(destination) {
                if normal.is_none() {
                    let ids = self.ports.store.ready(destination, Priority::Normal, listed).await?;
                    normal = Some(ids.into_iter());
                }
                pick = normal.as_mut().and_then(|ids| ids.find(|id| !flight.attempting.contains(id)));
            }
            let Some(id) = pick.or_else(|| all.find(|id| !flight.attempting.contains(id))) else { break };
            flight.attempting.insert(id);
            flight.lanes.begin(destination, policy, self.ports.clock.now());
            let engine = Arc::clone(self);
            let task = flight.tasks.spawn(async move { engine.attempt(id).await });
            flight.jobs.insert(task.id(), Job::Attempt(id, destination.clone()));
            started += 1;
        }
        Ok(started)
    }
}

/// A task that has ended, with its result.
type Done = Result<(tokio::task::Id, Result<AttemptEnd, StoreError>), JoinError>;

impl Engine {
    /// Gives the slot back and learns from the end what it says about the destination.
    fn settle(&self, flight: &mut InFlight, done: Done) -> Settled {
        let task = done.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
        let job = flight.jobs.remove(&task);
        let (end, settled) = judge_end(done, job.as_ref());
        match job {
            Some(Job::Prepare(id)) => drop(flight.preparing.remove(&id)),
            Some(Job::Notify(id)) => drop(flight.notifying.remove(&id)),
            Some(Job::Attempt(id, destination)) => {
                flight.attempting.remove(&id);
                self.end_attempt(flight, &destination, end);
            }
            None => {}
        }
        settled
    }

    fn end_attempt(&self, flight: &mut InFlight, destination: &Destination, end: AttemptEnd) {
        let (policy, now) = (self.options.policies.of(destination), self.ports.clock.now());
        let turn = flight.lanes.end(destination, policy, end, now);
        let name = destination.to_string();
        match turn {
            Turn::Same => {}
            Turn::Open(open) => {
                let reason = Some(&open.reason);
                self.ports.observer.record(Observation::Breaker { destination, reason });
                flight.notes.push(Note::keep(NoteKind::Breaker, name, &open));
            }
            Turn::Closed => {
                self.ports.observer.record(Observation::Breaker { destination, reason: None });
                flight.notes.push(Note::remove(NoteKind::Breaker, name));
            }
        }
    }
}

/// What the end of a task says about the destination and about the engine.
fn judge_end(done: Done, job: Option<&Job>) -> (AttemptEnd, Settled) {
    match done {
        Ok((_, Ok(AttemptEnd::Ours))) => {
            tracing::error!(?job, "The gateway itself is out of order; the engine rests.");
            (AttemptEnd::Ours, Settled::Rest)
        }
        Ok((_, Ok(end))) => (end, Settled::Well),
        Ok((_, Err(error))) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(?job, error, "Work on a message stopped because the store failed.");
            (AttemptEnd::NotMade, Settled::Rest)
        }
        Err(error) => {
            // A panic is a bug. An attempt is repeated when its lease runs out.
            let error = &error as &dyn std::error::Error;
            tracing::error!(?job, error, "A worker of the engine died.");
            let settled = match job {
                Some(Job::Prepare(id)) => Settled::Died(*id),
                Some(Job::Notify(_) | Job::Attempt(..)) | None => Settled::Rest,
            };
            (AttemptEnd::Unclear, settled)
        }
    }
}
