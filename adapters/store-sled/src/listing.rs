//! Lists of work, mailboxes and submissions, straight from the index.

use std::collections::BTreeMap;

use amtsbote_core::Timestamp;
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::Priority;
use amtsbote_core::port::{
    Cursor, DeadCursor, HeadEntry, KeptNote, MailboxPlace, NoteKind, StoreError, SubmissionFilter, Tallies,
    Tally, Timer,
};
use amtsbote_core::route::Destination;

use crate::committer::index_failed;
use crate::keys::{self, Head, NoteRow, behind};
use crate::read::garbled;
use crate::store::Inner;

/// Heads looked at in one call of a listing.
const LISTING_SCAN: usize = 10_000;
/// Heads read from the index at a time.
const LISTING_PAGE: usize = 256;

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
            let (prefix, destination) = keys::name_of(&key).map_err(garbled)?;
            from = behind(prefix);
            found.push(destination.parse().map_err(|_| garbled(keys::Garbled))?);
        }
        Ok(found)
    }

    pub(crate) fn holding(&self, after: Option<&HoldKey>, limit: usize) -> Result<Vec<HoldKey>, StoreError> {
        let mut found = Vec::new();
        let mut from = after.map_or(b"o".to_vec(), |one| behind(&keys::held_prefix(one)));
        while found.len() < limit
            && let Some(key) = self.keys(&from, b"p", 1)?.pop()
        {
            let (prefix, hold) = keys::name_of(&key).map_err(garbled)?;
            from = behind(prefix);
            found.push(hold.parse().map_err(|_| garbled(keys::Garbled))?);
        }
        Ok(found)
    }

    pub(crate) fn held(&self, hold: &HoldKey, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let prefix = keys::held_prefix(hold);
        ids(&self.keys(&prefix, &behind(&prefix), limit)?)
    }

    pub(crate) fn dead(&self, after: Option<DeadCursor>, limit: usize) -> Result<Vec<HeadEntry>, StoreError> {
        let from = after.map_or(b"x".to_vec(), |DeadCursor { since, id }| {
            [keys::dead(since, id).as_slice(), b"\0"].concat()
        });
        let mut found = Vec::new();
        for id in ids(&self.keys(&from, b"y", limit)?)? {
            // Somebody may have sent it on its way since.
            if let Some(head) = self.head(id)? {
                found.push(HeadEntry { id, delivery: head.parse_delivery().map_err(garbled)? });
            }
        }
        Ok(found)
    }

    /// Counts all queues in pieces, so that nobody waits for the index meanwhile.
    pub(crate) fn tally(&self) -> Result<Tallies, StoreError> {
        let mut found: BTreeMap<Destination, Tally> = BTreeMap::new();
        let (mut line, mut dead) = (Vec::new(), 0);
        for queue in [b"t", b"r", b"m", b"o", b"k", b"x"] {
            let (mut from, until) = (queue.to_vec(), behind(queue));
            loop {
                let rows = self.index.scan(&from, &until, LISTING_PAGE).map_err(index_failed)?;
                let Some((last, _)) = rows.last() else { break };
                from = [last.as_slice(), b"\0"].concat();
                for (key, value) in rows {
                    let id = keys::id_of(&key).map_err(garbled)?;
                    let destination = match queue {
                        b"o" => self.head(id)?.and_then(|head| head.parse_delivery().ok()?.destination),
                        // The first in line was counted in its queue.
                        b"k" if keys::line_prefix(&key) != line => {
                            line = keys::line_prefix(&key).to_vec();
                            None
                        }
                        b"k" => keys::destination_of(&value, b"").map_err(garbled)?,
                        _ => keys::destination_of(&key, &value).map_err(garbled)?,
                    };
                    dead += u64::from(queue == b"x");
                    let Some(destination) = destination else { continue };
                    let blank = |destination: &Destination| Tally {
                        destination: destination.clone(),
                        messages: 0,
                        oldest: id,
                    };
                    let tally = found.entry(destination).or_insert_with_key(blank);
                    tally.messages += 1;
                    tally.oldest = tally.oldest.min(id);
                }
            }
        }
        Ok(Tallies { waiting: found.into_values().collect(), dead })
    }

    pub(crate) fn newest(&self) -> Result<Option<MessageId>, StoreError> {
        let rows = self.index.scan_back(b"h", b"i", 1).map_err(index_failed)?;
        rows.first().map(|(key, _)| keys::id_of(key).map_err(garbled)).transpose()
    }

    pub(crate) fn notes(
        &self,
        kind: NoteKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeptNote>, StoreError> {
        let prefix = keys::notes(kind);
        let until = behind(&prefix);
        let mut from =
            after.map_or_else(|| prefix.clone(), |name| [&keys::note(kind, name), b"\0".as_slice()].concat());
        let mut found = Vec::new();
        while found.len() < limit {
            let rows = self.index.scan(&from, &until, LISTING_PAGE).map_err(index_failed)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), b"\0"].concat();
            for (key, row) in rows {
                let name = std::str::from_utf8(&key[prefix.len()..]).map_err(|_| garbled(keys::Garbled))?;
                if let Some(value) = NoteRow::decode(&row).map_err(garbled)?.value {
                    found.push(KeptNote { name: name.to_owned(), value });
                }
            }
        }
        found.truncate(limit);
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

    pub(crate) fn mailbox(
        &self,
        mailbox: &PartyId,
        after: Option<MailboxPlace>,
        limit: usize,
    ) -> Result<Vec<MailboxPlace>, StoreError> {
        let prefix = keys::mailbox_prefix(mailbox.as_str());
        let from = after.map_or_else(|| prefix.clone(), |after| keys::mailbox_behind(&prefix, after));
        let keys = self.keys(&from, &behind(&prefix), limit)?;
        keys.iter().map(|key| keys::mailbox_place(key).map_err(garbled)).collect()
    }

    /// Ids at the ends of all keys with a prefix.
    pub(crate) fn under(&self, prefix: &[u8], limit: usize) -> Result<Vec<MessageId>, StoreError> {
        ids(&self.keys(prefix, &behind(prefix), limit)?)
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
