//! The holds in force: durable in the store, at hand for everybody who hands something out.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::account::GATEWAY;
use crate::audit::AuditEntry;
use crate::hold::{Hold, HoldBook, HoldKey};
use crate::key::AccountName;
use crate::port::{CommitError, Entropy, MessageStore, Note, NoteKind, StoreError};
use crate::wake::Wake;

/// Holds a page of the store's notes brings.
const PAGE: usize = 256;

/// The holds. Reading is free; changes are durable before they count.
pub struct Controls {
    store: Arc<dyn MessageStore>,
    entropy: Arc<dyn Entropy>,
    wake: Arc<Wake>,
    holds: ArcSwap<HoldBook>,
    changing: Mutex<()>,
}

impl Controls {
    /// Reads what the store keeps.
    ///
    /// # Errors
    /// When the store is sick.
    pub async fn load(
        store: Arc<dyn MessageStore>,
        entropy: Arc<dyn Entropy>,
        wake: Arc<Wake>,
    ) -> Result<Arc<Self>, StoreError> {
        let holds = ArcSwap::from_pointee(read(store.as_ref()).await?);
        Ok(Arc::new(Self { store, entropy, wake, holds, changing: Mutex::default() }))
    }

    /// Reads again what the store keeps: another process may have changed it.
    ///
    /// # Errors
    /// When the store is sick; the holds known so far stay in force.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        self.holds.store(Arc::new(read(self.store.as_ref()).await?));
        Ok(())
    }

    /// All holds.
    pub fn holds(&self) -> Arc<HoldBook> {
        self.holds.load_full()
    }

    /// Sets or replaces a hold. Returns the one it replaces.
    pub(crate) async fn put(&self, hold: Hold) -> Result<Option<Hold>, StoreError> {
        let _changing = self.changing.lock().await;
        let mut book = HoldBook::clone(&self.holds.load());
        let before = book.put(hold.clone());
        let entry = entry("hold", &hold, before.as_ref(), Some(&hold), hold.since, hold.by.clone());
        let note = Note::keep(NoteKind::Hold, hold.key.to_string(), &hold);
        self.commit(vec![note, entry.note(self.entropy.as_ref())]).await?;
        self.holds.store(Arc::new(book));
        self.wake.work();
        Ok(before)
    }

    /// Takes a hold away; `None` if there was none. `by` and `reason` go into the audit trail.
    pub(crate) async fn lift(
        &self,
        key: &HoldKey,
        by: AccountName,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Option<Hold>, StoreError> {
        self.lift_if(key, |_| true, by, reason, now).await
    }

    /// The same, if the hold that is there when nobody else changes it is the one that is meant.
    async fn lift_if(
        &self,
        key: &HoldKey,
        is_meant: impl FnOnce(&Hold) -> bool,
        by: AccountName,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Option<Hold>, StoreError> {
        let _changing = self.changing.lock().await;
        let mut book = HoldBook::clone(&self.holds.load());
        let Some(hold) = book.lift(key).filter(is_meant) else { return Ok(None) };
        let mut entry = entry("release", &hold, Some(&hold), None, now, by);
        entry.reason = reason;
        self.commit(vec![Note::remove(NoteKind::Hold, key.to_string()), entry.note(self.entropy.as_ref())])
            .await?;
        self.holds.store(Arc::new(book));
        self.wake.work();
        self.wake.mail();
        Ok(Some(hold))
    }

    /// Takes away holds whose end has come.
    pub(crate) async fn end_overdue(&self, now: Timestamp) -> Result<(), StoreError> {
        let book = self.holds();
        if book.next_end().is_none_or(|end| end > now) {
            return Ok(());
        }
        for hold in book.iter().filter(|hold| !hold.is_in_force(now)) {
            let reason = Some("its end has come".to_owned());
            let is_over = |hold: &Hold| !hold.is_in_force(now);
            let Ok(gateway) = GATEWAY.parse() else { continue };
            if self.lift_if(&hold.key, is_over, gateway, reason, now).await?.is_some() {
                tracing::info!(hold = %hold.key, "A hold has reached its end.");
            }
        }
        Ok(())
    }

    async fn commit(&self, notes: Vec<Note>) -> Result<(), StoreError> {
        match self.store.commit_with(Vec::new(), notes).await {
            Ok(()) | Err(CommitError::Stale(_)) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
        }
    }
}

/// The holds a store keeps.
async fn read(store: &dyn MessageStore) -> Result<HoldBook, StoreError> {
    let (mut book, mut after) = (HoldBook::default(), None);
    loop {
        let page = store.notes(NoteKind::Hold, after.as_deref(), PAGE).await?;
        for note in &page {
            match note.read::<Hold>() {
                Some(hold) => drop(book.put(hold)),
                None => tracing::error!(name = note.name, "A stored hold cannot be read; it does not hold."),
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.name.clone()),
            _ => return Ok(book),
        }
    }
}

fn entry(
    action: &str,
    hold: &Hold,
    before: Option<&Hold>,
    after: Option<&Hold>,
    at: Timestamp,
    by: AccountName,
) -> AuditEntry {
    let shown = |hold: Option<&Hold>| hold.and_then(|hold| serde_json::to_value(hold).ok());
    AuditEntry {
        at,
        by,
        action: action.to_owned(),
        target: hold.key.to_string(),
        reason: Some(hold.reason.clone()),
        before: shown(before),
        after: shown(after),
    }
}
