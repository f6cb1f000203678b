//! Messages at other people's servers: the ids they gave out for them.

use std::sync::Arc;

use crate::id::MessageId;
use crate::port::{MessageStore, Note, NoteKind, StoreError};
use crate::reservation::{find, name, write};

/// Ids that others gave out for messages of ours. A hand-over whose outcome nobody knows is repeated under the same id, so it has to outlive
/// the process.
pub struct RemoteIds {
    store: Arc<dyn MessageStore>,
}

impl RemoteIds {
    /// Remote ids over their port.
    pub fn new(store: Arc<dyn MessageStore>) -> Self {
        Self { store }
    }

    /// The id under which a message was handed over before, or was about to be.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, message: MessageId) -> Result<Option<String>, StoreError> {
        let note = find(self.store.as_ref(), NoteKind::RemoteId, message).await?;
        Ok(note.and_then(|note| note.read()))
    }

    /// Remembers an id, instead of an earlier one; durable when it returns.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keep(&self, message: MessageId, id: &str) -> Result<(), StoreError> {
        write(self.store.as_ref(), vec![Note::keep(NoteKind::RemoteId, name(message), &id)]).await
    }

    /// The message was handed over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget(&self, message: MessageId) -> Result<(), StoreError> {
        write(self.store.as_ref(), vec![Note::remove(NoteKind::RemoteId, name(message))]).await
    }
}
