//! One action on many dead letters. A job is durable before it begins and is committed together with what it has done, so
//! that a restart goes on exactly where it ended (promise P6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Action, DeadFilter, OperationError, Operations, PAGE};
use crate::audit::AuditEntry;
use crate::delivery::{Input, Order};
use crate::id::MessageId;
use crate::key::AccountName;
use crate::mailbox::add;
use crate::port::{Change, CommitError, DeadCursor, HeadEntry, KeptNote, Note, NoteKind, StoreError};

/// Messages handled in one commit.
const BATCH: usize = 64;
/// Failures a job shows.
const SHOWN_FAILURES: usize = 20;
/// How long finished jobs are shown.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// After a fault of the store a job rests for so long.
const REST: Duration = Duration::from_secs(1);

/// When each running job may go on.
type Paced = HashMap<String, Timestamp>;

/// No batch of a job has to wait longer.
const LONGEST_PACE: Duration = Duration::from_secs(64);

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bulk {
    /// What to do.
    pub action: Action,
    /// With which.
    pub filter: DeadFilter,
    /// Must be said if the filter lets everything through.
    pub all: bool,
    /// Messages per second; `None`: as fast as the store commits.
    pub rate: Option<u32>,
}

/// A bulk operation that nobody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BulkProblem {
    /// The filter lets everything through and `all` is not set.
    #[error("the filter matches everything; say so with `all`")]
    Everything,
    /// Nothing passes the filter.
    #[error("the filter matches nothing")]
    Nothing,
    /// A rate of zero never ends.
    #[error("the rate must be at least one per second")]
    Rate,
}

/// Whether a job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It has messages left.
    Running,
    /// It has seen all.
    Done,
    /// An operator stopped it.
    Stopped,
}

/// A message a job could not do anything with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkFailure {
    /// Which.
    pub id: MessageId,
    /// Why.
    pub problem: String,
}

/// A bulk operation with its progress. The JSON form is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its name.
    pub id: String,
    /// What it does.
    pub action: Action,
    /// With which; only messages that were dead when the job was submitted.
    pub filter: DeadFilter,
    /// Messages per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Who ordered it.
    pub by: AccountName,
    /// Why.
    pub reason: String,
    /// When.
    pub created_at: Timestamp,
    /// Whether it goes on.
    pub state: JobState,
    /// Messages that passed the filter when it was submitted.
    pub total: u64,
    /// Messages the action was applied to.
    pub done: u64,
    /// Messages that could not take the action.
    pub failed: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<BulkFailure>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<(Timestamp, MessageId)>,
}

impl Job {
    fn note(&self) -> Note {
        Note::keep(NoteKind::Job, self.id.clone(), self)
    }

    fn fail(&mut self, id: MessageId, problem: String) {
        self.failed += 1;
        if self.failures.len() < SHOWN_FAILURES {
            self.failures.push(BulkFailure { id, problem });
        }
    }

    fn end(&mut self, state: JobState, now: Timestamp) {
        (self.state, self.finished_at) = (state, Some(now));
    }
}

impl Operations {
    /// How many dead letters pass a filter now. Reads all of them.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn count(&self, filter: &DeadFilter) -> Result<u64, OperationError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.ports.store.dead(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(count) };
            after = Some(DeadCursor { since: last.delivery.since, id: last.id });
            count += page.iter().filter(|entry| filter.matches(&entry.delivery)).count() as u64;
        }
    }

    /// How many messages a bulk operation would touch.
    ///
    /// # Errors
    /// [`BulkProblem::Everything`], [`BulkProblem::Rate`].
    pub async fn preview(&self, bulk: &Bulk) -> Result<u64, OperationError> {
        if bulk.filter.is_empty() && !bulk.all {
            return Err(BulkProblem::Everything.into());
        }
        if bulk.rate == Some(0) {
            return Err(BulkProblem::Rate.into());
        }
        self.count(&bulk.filter).await
    }

    /// Takes a bulk operation; it is durable and will end, whatever happens to the process.
    ///
    /// # Errors
    /// A [`BulkProblem`].
    pub async fn submit(&self, bulk: Bulk, order: Order) -> Result<Job, OperationError> {
        let total = self.preview(&bulk).await?;
        if total == 0 {
            return Err(BulkProblem::Nothing.into());
        }
        let now = self.ports.clock.now();
        let mut name = [0_u8; 8];
        self.ports.entropy.fill(&mut name);
        let job = Job {
            id: hex::encode(name),
            action: bulk.action,
            filter: bulk.filter,
            rate: bulk.rate,
            by: order.by.clone(),
            reason: order.reason.clone(),
            created_at: now,
            state: JobState::Running,
            total,
            done: 0,
            failed: 0,
            failures: Vec::new(),
            finished_at: None,
            cursor: None,
        };
        let entry = AuditEntry {
            at: now,
            by: order.by,
            action: format!("bulk-{}", job.action.as_str()),
            target: format!("bulk/{}", job.id),
            reason: Some(order.reason),
            before: None,
            after: serde_json::to_value(&job).ok(),
        };
        let mut notes = vec![job.note(), entry.note(self.ports.entropy.as_ref())];
        let old = |job: &Job| job.finished_at.is_some_and(|end| add(end, KEPT) < now);
        for gone in self.jobs().await?.into_iter().filter(old) {
            notes.push(Note::remove(NoteKind::Job, gone.id));
        }
        self.commit(Vec::new(), notes).await?;
        self.submitted.notify_one();
        Ok(job)
    }

    /// All bulk operations that are remembered.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn jobs(&self) -> Result<Vec<Job>, OperationError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.ports.store.notes(NoteKind::Job, after.as_deref(), PAGE).await?;
            found.extend(page.iter().filter_map(KeptNote::read::<Job>));
            match page.into_iter().last() {
                Some(last) => after = Some(last.name),
                None => break,
            }
        }
        found.sort_by_key(|job: &Job| std::cmp::Reverse(job.created_at));
        Ok(found)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`OperationError::UnknownJob`].
    pub async fn job(&self, id: &str) -> Result<Job, OperationError> {
        self.jobs().await?.into_iter().find(|job| job.id == id).ok_or(OperationError::UnknownJob)
    }

    /// Stops a bulk operation; what it has done stays done. Stopping twice succeeds without effect.
    ///
    /// # Errors
    /// [`OperationError::UnknownJob`].
    pub async fn stop_job(&self, id: &str, order: Order) -> Result<Job, OperationError> {
        let _one = self.job.lock().await;
        let mut job = self.job(id).await?;
        if job.state != JobState::Running {
            return Ok(job);
        }
        let now = self.ports.clock.now();
        job.end(JobState::Stopped, now);
        let entry = AuditEntry {
            at: now,
            by: order.by,
            action: "bulk-stop".to_owned(),
            target: format!("bulk/{id}"),
            reason: Some(order.reason),
            before: None,
            after: serde_json::to_value(&job).ok(),
        };
        self.commit(Vec::new(), vec![job.note(), entry.note(self.ports.entropy.as_ref())]).await?;
        Ok(job)
    }

    /// Works on bulk operations until stopped, on each at its own pace; begins with those an earlier process left.
    pub async fn run_jobs(self: Arc<Self>, stop: CancellationToken) {
        let mut paced = Paced::new();
        loop {
            let pause = match self.advance(&mut paced).await {
                Ok(Some(pause)) => pause,
                Ok(None) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.submitted.notified() => continue,
                    }
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "A bulk operation waits because the store failed.");
                    REST
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.submitted.notified() => {}
                () = self.ports.clock.sleep(pause) => {}
            }
        }
    }

    /// One batch of the job that has waited longest for its turn; how long nobody wants another. `None`: there is nothing to do.
    async fn advance(&self, paced: &mut Paced) -> Result<Option<Duration>, OperationError> {
        let _one = self.job.lock().await;
        let mut running = self.jobs().await?;
        running.retain(|job| job.state == JobState::Running);
        paced.retain(|id, _| running.iter().any(|job| job.id == *id));
        let turn = |job: &Job| paced.get(&job.id).copied().unwrap_or(job.created_at);
        let Some(next) = running.iter().map(turn).min() else { return Ok(None) };
        let now = self.ports.clock.now();
        let left = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        // More than the longest pace is left only when the wall clock was set back.
        if !left.is_zero() && left <= LONGEST_PACE {
            return Ok(Some(left));
        }
        let Some(mut job) = running.into_iter().find(|job| turn(job) == next) else { return Ok(None) };
        let batch = job.rate.map_or(BATCH, |rate| BATCH.min(rate as usize));
        let after = job.cursor.map(|(since, id)| DeadCursor { since, id });
        let page = self.ports.store.dead(after, PAGE).await?;
        let seen_all = page.is_empty();
        let mut chosen = Vec::new();
        for entry in page {
            if entry.delivery.since > job.created_at || chosen.len() == batch {
                break;
            }
            job.cursor = Some((entry.delivery.since, entry.id));
            if job.filter.matches(&entry.delivery) {
                chosen.push(entry);
            }
        }
        let moved = job.cursor != after.map(|cursor| (cursor.since, cursor.id));
        if seen_all || !moved {
            job.end(JobState::Done, self.ports.clock.now());
            tracing::info!(job = job.id, done = job.done, failed = job.failed, "A bulk operation is done.");
        }
        paced.insert(job.id.clone(), add(now, pace(job.rate, chosen.len())));
        self.apply_to(job, chosen).await?;
        Ok(Some(Duration::ZERO))
    }

    /// Commits a batch together with the progress of its job. Messages that somebody else changes meanwhile are left out.
    async fn apply_to(&self, mut job: Job, chosen: Vec<HeadEntry>) -> Result<(), OperationError> {
        let order = Order { by: job.by.clone(), reason: job.reason.clone() };
        let mut changes = Vec::with_capacity(chosen.len());
        for HeadEntry { id, delivery } in chosen {
            let input = match job.action {
                Action::Redrive => Input::Redrive(order.clone()),
                Action::Cancel => Input::Withdraw(order.clone()),
                Action::Reroute => match self.route(id).await {
                    Ok(route) => Input::Reroute { order: order.clone(), route },
                    Err(OperationError::Store(
                        error @ (StoreError::Io { .. } | StoreError::Stopped { .. }),
                    )) => {
                        return Err(error.into());
                    }
                    Err(error) => {
                        job.fail(id, error.to_string());
                        continue;
                    }
                },
            };
            match delivery.apply(input, self.ports.clock.now()) {
                Ok(next) => {
                    let expected = delivery.version;
                    changes.push(Change { id, expected, delivery: next.delivery, events: next.events });
                }
                Err(refusal) => job.fail(id, refusal.to_string()),
            }
        }
        loop {
            let mut after = job.clone();
            after.done += changes.len() as u64;
            match self.ports.store.commit_with(changes.clone(), vec![after.note()]).await {
                Ok(()) => {
                    self.wake();
                    return Ok(());
                }
                Err(CommitError::Stale(stale)) => {
                    changes.retain(|change| change.id != stale);
                    job.fail(stale, "somebody else changed it at the same time".to_owned());
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn commit(&self, changes: Vec<Change>, notes: Vec<Note>) -> Result<(), OperationError> {
        match self.ports.store.commit_with(changes, notes).await {
            Ok(()) | Err(CommitError::Stale(_)) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}

/// How long a number of messages may take at a rate per second.
fn pace(rate: Option<u32>, count: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs(count.into()) / rate.max(1))
}
