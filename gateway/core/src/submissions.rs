//! Driving port for portals after the hand-in: follow, list, withdraw. A portal sees its own submissions only.

use std::sync::Arc;

use crate::account::Account;
use crate::delivery::{EventKind, Input, Refusal};
use crate::id::MessageId;
use crate::message::IdScheme;
use crate::port::{
    Change, Clock, CommitError, Cursor, HeadEntry, MessageStore, StoreError, StoredMessage, SubmissionFilter,
};
use crate::wake::Wake;

/// Why a request about a submission failed.
#[derive(Debug, thiserror::Error)]
pub enum SubmissionError {
    /// The account has no such submission.
    #[error("no such submission")]
    Unknown,
    /// The state machine refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Messages with the same external id that are looked at.
const SAME_ID_MAX: usize = 16;
/// Repetitions that are noted.
const REPEATS_NOTED: usize = 10;

/// What portals may ask about their submissions.
pub struct Submissions {
    store: Arc<dyn MessageStore>,
    clock: Arc<dyn Clock>,
    wake: Arc<Wake>,
}

impl Submissions {
    /// Submissions over their ports.
    pub fn new(store: Arc<dyn MessageStore>, clock: Arc<dyn Clock>, wake: Arc<Wake>) -> Self {
        Self { store, clock, wake }
    }

    /// One of the account's submissions.
    ///
    /// # Errors
    /// [`SubmissionError::Unknown`] also for those of others.
    pub async fn find(&self, account: &Account, id: MessageId) -> Result<StoredMessage, SubmissionError> {
        let message = self.store.load(id).await?.ok_or(SubmissionError::Unknown)?;
        if message.message.account == account.name { Ok(message) } else { Err(SubmissionError::Unknown) }
    }

    /// The account's submission with this external id.
    ///
    /// # Errors
    /// [`SubmissionError::Unknown`] also for those of others.
    pub async fn find_external(
        &self,
        account: &Account,
        scheme: IdScheme,
        value: &str,
    ) -> Result<StoredMessage, SubmissionError> {
        for id in self.store.by_external_id(scheme, value, SAME_ID_MAX).await? {
            match self.find(account, id).await {
                Err(SubmissionError::Unknown) => {}
                found => return found,
            }
        }
        Err(SubmissionError::Unknown)
    }

    /// Notes on the ProcessCard that a submission was handed in again; the first few times.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn note_repeat(&self, account: &Account, id: MessageId) -> Result<(), SubmissionError> {
        loop {
            let found = self.find(account, id).await?;
            let before = found.events.iter().filter(|event| event.kind == EventKind::Repeated).count();
            if before >= REPEATS_NOTED {
                return Ok(());
            }
            let next = found.delivery.apply(Input::Repeated, self.clock.now())?;
            let expected = found.delivery.version;
            let change = Change { id, expected, delivery: next.delivery, events: next.events };
            match self.store.commit(vec![change]).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// The account's submissions, newest first; possibly a short page with a cursor.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), SubmissionError> {
        Ok(self.store.submissions(filter, after, limit).await?)
    }

    /// Withdraws a submission that was not handed out yet. Withdrawing twice succeeds without effect.
    ///
    /// # Errors
    /// [`Refusal::HandedOut`] or [`Refusal::Finished`].
    pub async fn cancel(&self, account: &Account, id: MessageId) -> Result<StoredMessage, SubmissionError> {
        loop {
            let mut found = self.find(account, id).await?;
            if found.delivery.state == crate::delivery::State::Cancelled {
                return Ok(found);
            }
            let next =
                found.delivery.apply(Input::Cancel { account: account.name.clone() }, self.clock.now())?;
            let change = Change {
                id,
                expected: found.delivery.version,
                delivery: next.delivery.clone(),
                events: next.events.clone(),
            };
            match self.store.commit(vec![change]).await {
                Ok(()) => {
                    self.wake.after(&next.delivery);
                    found.delivery = next.delivery;
                    found.events.extend(next.events);
                    return Ok(found);
                }
                Err(CommitError::Stale(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }
}
