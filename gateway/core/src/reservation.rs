//! Message ids that are given out before there is a message (XTA createMessageId, OSCI GetMessageId). A message that is handed in
//! under such an id gets it as its own.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::id::{MessageId, MessageIdSource};
use crate::key::AccountName;
use crate::port::{Clock, CommitError, Entropy, KeptNote, MessageStore, Note, NoteKind, StoreError};

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
        write(self.store.as_ref(), vec![note]).await.map(|()| id)
    }

    /// To whom an id was given out, as long as it waits.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn holder(&self, id: MessageId) -> Result<Option<AccountName>, StoreError> {
        let note = find(self.store.as_ref(), NoteKind::Reservation, id).await?;
        Ok(note.and_then(|note| note.read::<Reserved>()).map(|reserved| reserved.account))
    }
}

pub(crate) async fn write(store: &dyn MessageStore, notes: Vec<Note>) -> Result<(), StoreError> {
    match store.commit_with(Vec::new(), notes).await {
        Ok(()) | Err(CommitError::Stale(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
    }
}

pub(crate) async fn find(
    store: &dyn MessageStore,
    kind: NoteKind,
    id: MessageId,
) -> Result<Option<KeptNote>, StoreError> {
    let name = name(id);
    // Listings begin behind a name; cut short, it stands right before the whole.
    let before = &name[..name.len() - 1];
    let found = store.notes(kind, Some(before), 16).await?;
    Ok(found.into_iter().find(|note| note.name == name))
}

/// Takes back ids that waited too long, the oldest first; how many.
pub(crate) async fn expire(
    store: &dyn MessageStore,
    now: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let over = now.checked_sub(RESERVED_FOR).unwrap_or(Timestamp::MIN);
    let given_out = |name: &str| name.parse::<MessageId>().ok().and_then(|id| id.accepted_at());
    let notes = store.notes(NoteKind::Reservation, None, limit).await?;
    let old = notes.iter().filter(|note| given_out(&note.name).is_none_or(|at| at < over));
    let old: Vec<Note> = old.map(|note| Note::remove(NoteKind::Reservation, note.name.clone())).collect();
    let count = old.len();
    write(store, old).await?;
    Ok(count)
}

pub(crate) fn name(id: MessageId) -> String {
    id.uuid().as_hyphenated().to_string()
}
