//! What operators did: who, what, before and after. Committed together with what was done.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::AccountName;
use crate::port::{Entropy, MessageStore, Note, NoteKind, StoreError};

/// One action of an operator. The JSON form is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: AccountName,
    /// Stable word, such as `hold` or `redrive`.
    pub action: String,
    /// To what.
    pub target: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl AuditEntry {
    /// The note that keeps it. Names of younger entries sort first.
    pub(crate) fn note(&self, entropy: &dyn Entropy) -> Note {
        let age = u64::MAX - self.at.as_millisecond().max(0).cast_unsigned();
        let mut salt = [0_u8; 8];
        entropy.fill(&mut salt);
        Note::keep(NoteKind::Audit, format!("{age:020}-{}", hex::encode(salt)), self)
    }
}

/// A page of the audit trail, newest first, and where the next one begins.
///
/// # Errors
/// When the store is sick.
pub async fn list(
    store: &dyn MessageStore,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<AuditEntry>, Option<String>), StoreError> {
    let notes = store.notes(NoteKind::Audit, after, limit).await?;
    let next = notes.last().filter(|_| notes.len() == limit).map(|last| last.name.clone());
    Ok((notes.iter().filter_map(crate::port::KeptNote::read).collect(), next))
}
