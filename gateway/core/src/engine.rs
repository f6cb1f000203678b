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

use crate::delivery::{Input, Placement, State};
use crate::id::MessageId;
use crate::mailbox::add;
use crate::message::Priority;
use crate::port::{Channel, Clock, Entropy, MessageStore, Observation, Observer, Sealer, StoreError, Timer};
use crate::route::{ChannelKind, Destination, Router};
use crate::wake::Wake;

mod attempt;
mod lanes;
mod prepare;
mod retention;

pub use lanes::{DestinationPolicy, Policies};
pub use retention::Retention;

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
}

/// After a fault of the store or the sealer the engine rests for so long.
const REST: Duration = Duration::from_secs(1);
/// The engine looks at its work at least so often, so that its health can be told from its silence.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Timers looked at in one round.
const TIMER_BATCH: usize = 256;
/// Destinations read from the store at a time.
const DESTINATION_PAGE: usize = 64;

/// What a task works on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    Prepare(MessageId),
    Attempt(MessageId, Destination),
}

/// Work in flight; owned by the loop, no locks.
#[derive(Default)]
struct InFlight {
    tasks: JoinSet<Result<(), StoreError>>,
    jobs: HashMap<tokio::task::Id, Job>,
    preparing: BTreeSet<MessageId>,
    attempting: BTreeSet<MessageId>,
    lanes: Lanes,
    cursor: Option<MessageId>,
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
        Arc::new(Self { ports, channels, options, held: AtomicBool::new(false) })
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
        while !stop.is_cancelled() {
            let wait = match self.round(&mut flight).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "The engine rests because the store failed."
                    );
                    Some(add(self.ports.clock.now(), REST))
                }
            };
            self.pause(&mut flight, wait, &stop).await;
        }
        let deadline = add(self.ports.clock.now(), drain);
        while !flight.tasks.is_empty() {
            tokio::select! {
                _ = flight.tasks.join_next() => {}
                () = self.ports.clock.sleep_until(deadline) => break,
            }
        }
        let cut = flight.tasks.len();
        flight.tasks.shutdown().await;
        cut
    }

    /// Waits for work, a finished task, a timer, or the end.
    async fn pause(
        self: &Arc<Self>,
        flight: &mut InFlight,
        until: Option<Timestamp>,
        stop: &CancellationToken,
    ) {
        let held = self.held.load(Ordering::Relaxed);
        let latest = add(self.ports.clock.now(), HEARTBEAT);
        let timer = self.ports.clock.sleep_until(until.map_or(latest, |at| at.min(latest)));
        let mut settled = Vec::new();
        tokio::select! {
            () = stop.cancelled() => {}
            // While everything is held new work changes nothing; the heartbeat notices the release.
            () = self.ports.wake.on_work(), if !held => {}
            () = timer => {}
            Some(done) = flight.tasks.join_next_with_id() => settled.push(flight.settle(done, self.ports.clock.now())),
        }
        while let Some(done) = flight.tasks.try_join_next_with_id() {
            settled.push(flight.settle(done, self.ports.clock.now()));
        }
        for one in &settled {
            if let Settled::Died(id) = one
                && let Err(error) = self.damaged(*id, "the worker died on this message".to_owned()).await
            {
                tracing::error!(message.id = %id, error = &error as &dyn std::error::Error, "The message stays queued.");
            }
        }
        if settled.iter().any(|one| *one != Settled::Well) {
            let at = add(self.ports.clock.now(), REST);
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.ports.clock.sleep_until(at) => {}
            }
        }
    }

    /// Starts as much work as there are free slots. Returns the next timer.
    async fn round(self: &Arc<Self>, flight: &mut InFlight) -> Result<Option<Timestamp>, StoreError> {
        let next = self.fire_timers().await?;
        if self.held.load(Ordering::Relaxed) {
            return Ok(next);
        }
        self.start_preparing(flight).await?;
        let paced = self.start_attempts(flight).await?;
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
                let task = flight.tasks.spawn(async move { engine.prepare(id).await });
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
                let policy = self.options.policies.of(&destination);
                match flight.lanes.room(&destination, policy, self.ports.clock.now()) {
                    Ok(room) => {
                        let started = self.start_some(flight, &destination, room.min(free)).await?;
                        free -= started;
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

    /// Moves everything that is due. Returns when the next timer fires, at once if there are more.
    async fn fire_timers(&self) -> Result<Option<Timestamp>, StoreError> {
        let now = self.ports.clock.now();
        let first = self.ports.store.timers(1).await?.pop().map(|timer| timer.due);
        if first.is_none_or(|first| first > now) {
            self.ports.observer.record(Observation::Scheduled { lag: Duration::ZERO, at: now });
            return Ok(first);
        }
        let items = self.ports.store.timers(TIMER_BATCH).await?;
        let full = items.len() == TIMER_BATCH;
        let (due, later): (Vec<Timer>, Vec<Timer>) = items.into_iter().partition(|timer| timer.due <= now);
        let overdue = due.first().map(|first| now.duration_since(first.due).unsigned_abs());
        self.ports.observer.record(Observation::Scheduled { lag: overdue.unwrap_or_default(), at: now });
        let mut mail = false;
        for Timer { id, .. } in due {
            let Some(delivery) = self.ports.store.head(id).await? else { continue };
            let input = match delivery.state {
                State::Attempting { .. } => self.lost(id, &delivery),
                _ => Input::Due,
            };
            let next = self.step(id, &delivery, input).await?;
            if let Some(next) = next.as_ref().filter(|next| next.deadline_watch != delivery.deadline_watch) {
                let missed = next.deadline_watch.is_none();
                self.ports.observer.record(Observation::Deadline { id, missed });
            }
            mail |= next.is_some_and(|next| matches!(next.placement(), Placement::Available { .. }));
        }
        if mail {
            self.ports.wake.mail();
        }
        Ok(later.first().map(|timer| timer.due).or(full.then_some(now)))
    }
}

/// A task that has ended, with its result.
type Done = Result<(tokio::task::Id, Result<(), StoreError>), JoinError>;

impl InFlight {
    /// Gives the slot back.
    fn settle(&mut self, done: Done, now: Timestamp) -> Settled {
        let task = done.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
        let job = self.jobs.remove(&task);
        match &job {
            Some(Job::Prepare(id)) => drop(self.preparing.remove(id)),
            Some(Job::Attempt(id, destination)) => {
                self.attempting.remove(id);
                self.lanes.end(destination, now);
            }
            None => {}
        }
        match (done, job) {
            (Ok((_, Ok(()))), _) => Settled::Well,
            (Ok((_, Err(error))), job) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(?job, error, "Work on a message stopped because the store failed.");
                Settled::Rest
            }
            (Err(error), job) => {
                // A panic is a bug. An attempt is repeated when its lease runs out.
                tracing::error!(
                    ?job,
                    error = &error as &dyn std::error::Error,
                    "A worker of the engine died."
                );
                match job {
                    Some(Job::Prepare(id)) => Settled::Died(id),
                    Some(Job::Attempt(..)) | None => Settled::Rest,
                }
            }
        }
    }
}
