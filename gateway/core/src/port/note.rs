//! Small durable records beside the messages.

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteKind {
    /// A hold of an operator.
    Hold,
    /// An open breaker.
    Breaker,
    /// A bulk operation.
    Job,
    /// What an operator did.
    Audit,
    /// A message id that was given out in advance.
    Reservation,
    /// The id under which a message is handed to somebody who gives ids out.
    RemoteId,
}

/// A note to be kept under its name, or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// About what.
    pub kind: NoteKind,
    /// Name among its kind, at most 1,200 bytes; sorts in listings.
    pub name: String,
    /// JSON; `None` takes the note away.
    pub value: Option<String>,
}

impl Note {
    /// A note that is kept.
    pub fn keep<T: serde::Serialize>(kind: NoteKind, name: impl Into<String>, value: &T) -> Self {
        // Plain records of strings and numbers always have a JSON form.
        let value = serde_json::to_string(value).unwrap_or_default();
        Self { kind, name: name.into(), value: Some(value) }
    }

    /// Takes a note away.
    pub fn remove(kind: NoteKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), value: None }
    }
}

/// A note as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptNote {
    /// Its name.
    pub name: String,
    /// JSON.
    pub value: String,
}

impl KeptNote {
    /// What it says; `None` if it says nothing of that shape.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.value).ok()
    }
}
