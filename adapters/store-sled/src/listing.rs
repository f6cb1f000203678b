//! Lists of work, mailboxes and submissions, straight from the index.

use amtsbote_core::Timestamp;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::Priority;
use amtsbote_core::port::{Cursor, HeadEntry, StoreError, SubmissionFilter, Timer};
use amtsbote_core::route::Destination;

use crate::committer::index_failed;
use crate::keys::{self, Head};
use crate::read::garbled;
use crate::store::Inner;

/// Heads looked at in one call of a listing.
const LISTING_SCAN: usize = 10_000;
/// Heads read from the index at a time.
const LISTING_PAGE: usize = 256;

/// First key behind everything with a prefix.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn ids(keys: &[Vec<u8>]) -> Result<Vec<MessageId>, StoreError> {
    keys.iter().map(|key| keys::id_of(key).map_err(garbled)).collect()
}

impl Inner {
    fn keys(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.index.scan(from, until, limit).map_err(index_failed)?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    pub(crate) fn to_prepare(
        &self,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let from = after.map_or(b"p".to_vec(), |id| [b"p", id.as_bytes().as_slice(), b"\0"].concat());
        ids(&self.keys(&from, b"q", limit)?)
    }

    pub(crate) fn timers(&self, limit: usize) -> Result<Vec<Timer>, StoreError> {
        let timer = |key: Vec<u8>| {
            let due = keys::due_of(&key).map_err(garbled)?;
            Ok(Timer { id: keys::id_of(&key).map_err(garbled)?, due })
        };
        let (timers, alarms) = (self.keys(b"t", b"u", limit)?, self.keys(b"a", b"b", limit)?);
        let mut found =
            timers.into_iter().chain(alarms).map(timer).collect::<Result<Vec<_>, StoreError>>()?;
        found.sort_by_key(|timer| (timer.due, timer.id));
        found.truncate(limit);
        Ok(found)
    }

    pub(crate) fn waiting_destinations(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        let mut found = Vec::new();
        let mut from = after.map_or(b"r".to_vec(), |one| behind(&keys::ready_prefix(one)));
        // From the first key of one destination straight to the first key of the next.
        while found.len() < limit
            && let Some(key) = self.keys(&from, b"s", 1)?.pop()
        {
            let (prefix, destination) = keys::destination_of(&key).map_err(garbled)?;
            from = behind(prefix);
            found.push(destination);
        }
        Ok(found)
    }

    pub(crate) fn ready(
        &self,
        destination: &Destination,
        from: Priority,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::ready_prefix(destination);
        ids(&self.keys(&keys::ready_from(destination, from), &behind(&prefix), limit)?)
    }

    pub(crate) fn mailbox(&self, mailbox: &PartyId, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::mailbox_prefix(mailbox.as_str());
        ids(&self.keys(&prefix, &behind(&prefix), limit)?)
    }

    pub(crate) fn leased(&self, lease: LeaseId) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::lease_prefix(lease);
        ids(&self.keys(&prefix, &behind(&prefix), usize::MAX)?)
    }

    pub(crate) fn submissions(
        &self,
        filter: &SubmissionFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<HeadEntry>, Option<Cursor>), StoreError> {
        let mut until = after.map_or(b"i".to_vec(), |Cursor(id)| keys::head(id));
        let (mut found, mut looked_at) = (Vec::new(), 0);
        loop {
            let rows = self.index.scan_back(b"h", &until, LISTING_PAGE).map_err(index_failed)?;
            let end = rows.len() < LISTING_PAGE;
            for (key, value) in rows {
                let id = keys::id_of(&key).map_err(garbled)?;
                if found.len() == limit || looked_at == LISTING_SCAN {
                    let last = keys::id_of(&until).map_err(garbled)?;
                    return Ok((found, Some(Cursor(last))));
                }
                looked_at += 1;
                until = key;
                let delivery =
                    Head::decode(&value).and_then(|head| head.parse_delivery()).map_err(garbled)?;
                if filter.matches(&delivery) {
                    found.push(HeadEntry { id, delivery });
                }
            }
            if end {
                return Ok((found, None));
            }
        }
    }

    pub(crate) fn finished(
        &self,
        before: Timestamp,
        stripped: bool,
        limit: usize,
    ) -> Result<Vec<MessageId>, StoreError> {
        let (from, until) = (keys::finished_prefix(stripped), keys::finished_bound(stripped, before));
        ids(&self.keys(&from, &until, limit)?)
    }
}
