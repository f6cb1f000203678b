//! Iterators over mailboxes (`MsgBoxRequestID`). They live in memory: after a restart their ids are unknown, and the answer says so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amtsbote_core::id::MessageId;
use amtsbote_core::key::AccountName;
use amtsbote_core::port::Entropy;
use tokio::time::Instant;
use uuid::Uuid;

/// Unused iterators are forgotten after so long.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Iterators of one account; the one that was not used for longest goes first.
const PER_ACCOUNT: usize = 50;
/// Form of their ids.
const PREFIX: &str = "urn:de:xta:requestid:amtsbote:";

/// What an iterator goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Pages of a list.
    List,
    /// Messages one by one.
    Messages,
}

/// What is left of a snapshot of ids.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    pub(crate) of: Of,
    /// Sent last, and sent again if it did not arrive.
    pub(crate) page: Vec<MessageId>,
    pub(crate) rest: VecDeque<MessageId>,
    /// Entries of a page.
    pub(crate) size: usize,
    /// Whether a list shows attributes only.
    pub(crate) attributes: bool,
}

struct Kept {
    account: AccountName,
    cursor: Cursor,
    used: Instant,
}

/// The open iterators of mailboxes; none at the start.
#[derive(Default)]
pub struct Cursors(Mutex<HashMap<String, Kept>>);

impl Cursors {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Kept>) -> T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, one| one.used.elapsed() < IDLE);
        work(&mut kept)
    }

    /// Opens an iterator and gives it an id.
    pub(crate) fn open(&self, account: &AccountName, cursor: Cursor, entropy: &dyn Entropy) -> String {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        let id = format!("{PREFIX}{}", Uuid::from_bytes(bytes).as_hyphenated());
        self.with(|kept| {
            let own = kept.iter().filter(|(_, one)| one.account == *account);
            if own.clone().count() >= PER_ACCOUNT
                && let Some(oldest) = own.min_by_key(|(_, one)| one.used).map(|(id, _)| id.clone())
            {
                kept.remove(&oldest);
            }
            kept.insert(id.clone(), Kept { account: account.clone(), cursor, used: Instant::now() });
        });
        id
    }

    /// An iterator of the account, to go on with.
    pub(crate) fn get(&self, account: &AccountName, of: Of, id: &str) -> Option<Cursor> {
        self.with(|kept| {
            let one = kept.get_mut(id).filter(|one| one.account == *account && one.cursor.of == of)?;
            one.used = Instant::now();
            Some(one.cursor.clone())
        })
    }

    /// Remembers how far an iterator has come.
    pub(crate) fn put(&self, id: &str, cursor: Cursor) {
        self.with(|kept| {
            if let Some(one) = kept.get_mut(id) {
                one.cursor = cursor;
            }
        });
    }

    /// Forgets an iterator of the account, if there is one.
    pub(crate) fn close(&self, account: &AccountName, id: &str) {
        self.with(|kept| {
            if kept.get(id).is_some_and(|one| one.account == *account) {
                kept.remove(id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use amtsbote_testkit::seeded::SeededEntropy;

    use super::*;

    fn cursor(of: Of) -> Cursor {
        Cursor { of, page: Vec::new(), rest: VecDeque::new(), size: 1, attributes: false }
    }

    #[tokio::test(start_paused = true)]
    async fn iterators_belong_to_one_account_and_end() {
        let (cursors, entropy) = (Cursors::default(), SeededEntropy::new(1));
        let (one, other): (AccountName, AccountName) = ("one".parse().unwrap(), "other".parse().unwrap());
        let id = cursors.open(&one, cursor(Of::List), &entropy);
        assert!(cursors.get(&one, Of::List, &id).is_some());
        assert!(
            cursors.get(&one, Of::Messages, &id).is_none() && cursors.get(&other, Of::List, &id).is_none()
        );
        cursors.close(&other, &id);
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        assert!(cursors.get(&one, Of::List, &id).is_some(), "used in time");
        tokio::time::advance(IDLE).await;
        assert!(cursors.get(&one, Of::List, &id).is_none(), "unused for too long");
        let foreign = cursors.open(&other, cursor(Of::List), &entropy);
        let ids: Vec<_> = (0..=PER_ACCOUNT).map(|_| cursors.open(&one, cursor(Of::List), &entropy)).collect();
        let left = ids.iter().filter(|id| cursors.get(&one, Of::List, id).is_some()).count();
        assert_eq!(left, PER_ACCOUNT);
        assert!(cursors.get(&other, Of::List, &foreign).is_some());
    }
}
