//! Message ids that are given out before there is a message (XTA createMessageId, OSCI GetMessageId). A message that is handed in
//! under such an id gets it as its own.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::id::{MessageId, MessageIdSource};
use crate::key::AccountName;
use crate::port::{Clock, CommitError, Entropy, MessageStore, Note, NoteKind, StoreError};

/// How long an id waits for its message.
pub const RESERVED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, Serialize, Deserialize)]
struct Reserved {
    account: AccountName,
}

/// Gives ids out and remembers to whom.
pub struct Reservations {
    store: Arc<dyn MessageStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    ids: MessageIdSource,
}

impl Reservations {
    /// Reservations over their ports.
    pub fn new(store: Arc<dyn MessageStore>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { store, clock, entropy, ids: MessageIdSource::default() }
    }

    /// Gives out an id; durable when it returns.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn reserve(&self, account: &Account) -> Result<MessageId, StoreError> {
        let id = self.ids.next(self.clock.now(), self.entropy.as_ref());
        let note = Note::keep(NoteKind::Reservation, name(id), &Reserved { account: account.name.clone() });
        match self.store.commit_with(Vec::new(), vec![note]).await {
            Ok(()) | Err(CommitError::Stale(_)) => Ok(id),
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    /// To whom an id was given out, as long as it waits.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn holder(&self, id: MessageId) -> Result<Option<AccountName>, StoreError> {
        let name = name(id);
        // Listings begin behind a name; cut short, it stands right before the whole.
        let before = &name[..name.len() - 1];
        let found = self.store.notes(NoteKind::Reservation, Some(before), 16).await?;
        let note = found.iter().find(|note| note.name == name);
        Ok(note.and_then(|note| note.read::<Reserved>()).map(|reserved| reserved.account))
    }
}

/// Takes back ids that waited too long, the oldest first; how many.
pub(crate) async fn expire(
    store: &dyn MessageStore,
    now: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let over = now.checked_sub(RESERVED_FOR).unwrap_or(Timestamp::MIN);
    let notes = store.notes(NoteKind::Reservation, None, limit).await?;
    let given_out = |name: &str| name.parse::<MessageId>().ok().and_then(|id| id.accepted_at());
    let old: Vec<Note> = notes
        .iter()
        .filter(|note| given_out(&note.name).is_none_or(|at| at < over))
        .map(|note| Note::remove(NoteKind::Reservation, note.name.clone()))
        .collect();
    let count = old.len();
    match store.commit_with(Vec::new(), old).await {
        Ok(()) | Err(CommitError::Stale(_)) => Ok(count),
        Err(CommitError::Store(error)) => Err(error),
    }
}

fn name(id: MessageId) -> String {
    id.uuid().as_hyphenated().to_string()
}
