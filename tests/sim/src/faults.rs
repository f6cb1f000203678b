//! A store whose commits fail as often as the seed says, and engines that are broken on purpose.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{DeadReason, Delivery, Event, EventKind, FailureClass, FailureReason, State};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::{IdScheme, IntakeKey, PartNumber, Priority};
use amtsbote_core::port::{
    Acceptance, Accepted, Change, CommitError, Cursor, DeadCursor, DuplicateOf, HeadEntry, KeptNote,
    MailboxPlace, MessageStore, Note, NoteKind, PartReader, PayloadWriter, Search, SearchPage, StoreError,
    StoreStatus, StoredMessage, SubmissionFilter, Tallies, Timer,
};
use amtsbote_core::route::Destination;
use amtsbote_testkit::memory::MemoryStore;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A way in which an engine could be wrong; the simulation has to notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// As it should be.
    None,
    /// The number of the attempt is not made durable before the attempt.
    ForgetsAttempts,
    /// The channel is called although the start of the first attempt was not written.
    DeliversBeforeCommitting,
    /// A failed attempt is dead-lettered at once.
    GivesUpEarly,
    /// A lost lease is not noticed: the last writer wins.
    IgnoresVersions,
    /// A failed attempt is taken for a success.
    TakesFailureForSuccess,
    /// Ordering keys are not kept.
    ForgetsLines,
    /// A destination that is out of order uses up the retries of its messages.
    ChargesOutages,
    /// Senders are not told.
    ForgetsNotices,
}

/// Memory with faults in front of it. What a fault hides behind an error may have happened or not, as on a real disk.
pub struct FaultyStore {
    inner: MemoryStore,
    random: Mutex<StdRng>,
    per_mille: AtomicU64,
    faults: AtomicU64,
    breakage: Breakage,
    /// Messages whose first attempt a broken engine did not write.
    skipped: Mutex<BTreeSet<MessageId>>,
    quiet: AtomicBool,
}

impl FaultyStore {
    /// Faults for a seed, in so many of a thousand commits.
    pub fn new(inner: MemoryStore, seed: u64, per_mille: u64, breakage: Breakage) -> Arc<Self> {
        Arc::new(Self {
            inner,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            per_mille: AtomicU64::new(per_mille),
            faults: AtomicU64::new(0),
            breakage,
            skipped: Mutex::default(),
            quiet: AtomicBool::new(false),
        })
    }

    /// No more faults.
    pub fn heal(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// Faults so far.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Whether this call fails, and if so, whether it takes effect all the same.
    fn fault(&self) -> Option<bool> {
        if self.quiet.load(Ordering::Relaxed) {
            return None;
        }
        let mut random = self.random.lock().unwrap();
        let fails = random.random_range(0..1000) < self.per_mille.load(Ordering::Relaxed);
        if fails {
            self.faults.fetch_add(1, Ordering::Relaxed);
            Some(random.random_bool(0.5))
        } else {
            None
        }
    }

    /// Now and then a commit takes longer than the lease of whoever asked for it.
    fn slowness(&self) -> Duration {
        let mut random = self.random.lock().unwrap();
        if !self.quiet.load(Ordering::Relaxed) && random.random_range(0..100) < 2 {
            Duration::from_secs(random.random_range(1..40))
        } else {
            Duration::from_millis(1)
        }
    }

    fn break_it(&self, changes: &mut [Change]) {
        for change in changes {
            match self.breakage {
                Breakage::None | Breakage::DeliversBeforeCommitting => {}
                Breakage::GivesUpEarly => {
                    if matches!(change.delivery.state, State::Waiting { .. }) && change.delivery.attempts > 0
                    {
                        let last = FailureReason { code: "early".to_owned(), detail: String::new() };
                        change.delivery.state = State::Dead { reason: DeadReason::TooOld { last } };
                    }
                }
                Breakage::ForgetsAttempts => change.delivery.attempts = change.delivery.attempts.min(1),
                Breakage::IgnoresVersions => {
                    if let Some((_, current)) =
                        self.inner.deliveries().into_iter().find(|(id, _)| *id == change.id)
                    {
                        change.expected = current.version;
                        change.delivery.version = current.version + 1;
                    }
                }
                Breakage::ForgetsLines => change.delivery.line = None,
                Breakage::ForgetsNotices => change.delivery.notice_due = None,
                Breakage::ChargesOutages => {
                    let outage = |event: &Event| {
                        matches!(
                            event.kind,
                            EventKind::AttemptFailed { class: FailureClass::Destination, .. }
                        )
                    };
                    if change.events.iter().any(outage) {
                        change.delivery.retries.failures += 60;
                    }
                }
                Breakage::TakesFailureForSuccess => {
                    if matches!(change.delivery.state, State::Waiting { .. }) && change.delivery.attempts > 0
                    {
                        change.delivery.state = State::Delivered;
                    }
                }
            }
        }
    }
}

fn failure() -> StoreError {
    StoreError::Io { doing: "simulating", source: std::io::Error::other("scripted") }
}

#[async_trait]
impl MessageStore for FaultyStore {
    async fn stage(&self) -> Result<Box<dyn PayloadWriter>, StoreError> {
        self.inner.stage().await
    }

    async fn intake(&self, key: &IntakeKey) -> Result<Option<DuplicateOf>, StoreError> {
        self.inner.intake(key).await
    }

    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        match self.fault() {
            Some(true) => drop(self.inner.accept(acceptance).await?),
            Some(false) => {}
            None => {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                return self.inner.accept(acceptance).await;
            }
        }
        Err(failure())
    }

    async fn commit_with(&self, mut changes: Vec<Change>, notes: Vec<Note>) -> Result<(), CommitError> {
        let starts = |change: &Change| matches!(change.delivery.state, State::Attempting { .. });
        if self.breakage == Breakage::DeliversBeforeCommitting
            && !changes.is_empty()
            && changes.iter().all(starts)
            && self.skipped.lock().unwrap().insert(changes[0].id)
        {
            return Ok(());
        }
        match self.fault() {
            Some(true) => {
                self.break_it(&mut changes);
                self.inner.commit_with(changes, notes).await?;
            }
            Some(false) => {}
            None => {
                tokio::time::sleep(self.slowness()).await;
                self.break_it(&mut changes);
                return self.inner.commit_with(changes, notes).await;
            }
        }
        Err(failure().into())
    }

    async fn head(&self, id: MessageId) -> Result<Option<Delivery>, StoreError> {
        self.inner.head(id).await
    }

    async fn load(&self, id: MessageId) -> Result<Option<StoredMessage>, StoreError> {
        self.inner.load(id).await
    }

    async fn open_part(
        &self,
        id: MessageId,
        part: PartNumber,
        offset: u64,
    ) -> Result<Option<Box<dyn PartReader>>, StoreError> {
        self.inner.open_part(id, part, offset).await
    }

    async fn to_prepare(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        self.inner.to_prepare(after, limit).await
    }

    async fn timers(&self, limit: usize) -> Result<Vec<Timer>, StoreError> {
        self.inner.timers(limit).await
    }

    async fn waiting_destinations(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        self.inner.waiting_destinations(after, limit).await
    }

    async fn ready(
        &self,
        destination: &Destination,
        from: Priority,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.inner.ready(destination, from, limit).await
    }

    async fn mailbox(
        &self,
        mailbox: &PartyId,
        after: Option<MailboxPlace>,
        limit: usize,
    ) -> Result<Vec<MailboxPlace>, StoreError> {
        self.inner.mailbox(mailbox, after, limit).await
    }

    async fn by_external_id(
        &self,
        scheme: IdScheme,
        value: &str,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.inner.by_external_id(scheme, value, limit).await
    }

    async fn notes(
        &self,
        kind: NoteKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeptNote>, StoreError> {
        self.inner.notes(kind, after, limit).await
    }

    async fn holding(&self, after: Option<&HoldKey>, limit: usize) -> Result<Vec<HoldKey>, StoreError> {
        self.inner.holding(after, limit).await
    }

    async fn held(&self, hold: &HoldKey, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        self.inner.held(hold, limit).await
    }

    async fn dead(&self, after: Option<DeadCursor>, limit: usize) -> Result<Vec<HeadEntry>, StoreError> {
        self.inner.dead(after, limit).await
    }

    async fn tally(&self) -> Result<Tallies, StoreError> {
        self.inner.tally().await
    }

    async fn newest(&self) -> Result<Option<MessageId>, StoreError> {
        self.inner.newest().await
    }

    async fn leased(&self, lease: LeaseId) -> Result<Vec<MessageId>, StoreError> {
        self.inner.leased(lease).await
    }

    async fn submissions(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), StoreError> {
        self.inner.submissions(filter, after, limit).await
    }

    async fn search(
        &self,
        search: &Search,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<SearchPage, StoreError> {
        self.inner.search(search, after, limit).await
    }

    async fn finished(
        &self,
        before: Timestamp,
        stripped: bool,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.inner.finished(before, stripped, limit).await
    }

    async fn forget(&self, ids: Vec<MessageId>) -> Result<(), StoreError> {
        self.inner.forget(ids).await
    }

    async fn reclaim(&self, now: Timestamp) -> Result<(), StoreError> {
        self.inner.reclaim(now).await
    }

    fn status(&self) -> StoreStatus {
        self.inner.status()
    }
}
