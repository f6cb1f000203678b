//! Looks for what the index has lost. sled may open after damage with keys missing and say nothing; the journal knows better.
//!
//! Reads all of the journal and all heads once, in pieces, beside the running store. Every message and note that the journal has
//! must be in the index, and every message in the queues its head names. What is missing twice is lost: the index is built anew.

use std::collections::BTreeSet;
use std::io;

use amtsbote_core::id::MessageId;
use amtsbote_core::port::StoreError;

use crate::committer::index_failed;
use crate::frame::{Found, FrameKind, Position};
use crate::keys::{self, Head, behind};
use crate::read::garbled;
use crate::record::{ChangeRecord, ForgottenRecord, decode_changes, decode_message};
use crate::store::Inner;

/// Heads read from the index at a time.
const PAGE: usize = 256;

/// What was looked at, and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Messages of the index that were looked at.
    pub messages: u64,
    /// What the index has lost, one sentence each, at most a hundred of them.
    pub lost: Vec<String>,
}

/// Sentences a report has at most.
const SENTENCES: usize = 100;

impl ScrubReport {
    fn lost(&mut self, what: impl FnOnce() -> String) {
        if self.lost.len() < SENTENCES {
            self.lost.push(what());
            // A note may have been written many times.
            self.lost.dedup();
        }
    }
}

/// Asked between two pieces of work; `false` ends the scrub. May block, so that others have the disk.
pub(crate) type GoOn<'a> = &'a dyn Fn() -> bool;

impl Inner {
    /// Looks at everything; `None` if it was ended early.
    pub(crate) fn scrub(&self, go_on: GoOn<'_>) -> Result<Option<ScrubReport>, StoreError> {
        let mut report = ScrubReport::default();
        let looked = self
            .scrub_journal(&mut report, go_on)
            .and_then(|all| Ok(all && self.scrub_heads(&mut report, go_on)?));
        self.judge_index();
        let all = looked?;
        if all && report.lost.is_empty() {
            self.judge_payload_files();
        }
        Ok(all.then_some(report))
    }

    fn scrub_journal(&self, report: &mut ScrubReport, go_on: GoOn<'_>) -> Result<bool, StoreError> {
        let mut missing = BTreeSet::new();
        // Frames are written before their changes can be seen; what is not committed yet is missing nowhere.
        let Some(reached) = self.index.reached().map_err(index_failed)? else { return Ok(true) };
        let segments = self.folder.segments().map_err(reading)?;
        for segment in segments.into_iter().filter(|segment| *segment <= reached.segment) {
            if !go_on() {
                return Ok(false);
            }
            self.each_frame(segment, |at, kind, body| match at < reached {
                true => self.compare(kind, body, &mut missing, report),
                false => Ok(()),
            })?;
        }
        if missing.is_empty() {
            return Ok(true);
        }
        // Most likely they were forgotten; that may be written in any later segment.
        for segment in self.folder.segments().map_err(reading)? {
            if !go_on() {
                return Ok(false);
            }
            self.each_frame(segment, |_, kind, body| {
                if kind == FrameKind::Forgotten
                    && let Ok(ForgottenRecord::V1 { messages }) = serde_json::from_slice(body)
                {
                    let forgotten: BTreeSet<MessageId> = messages.iter().map(|one| one.id).collect();
                    missing.retain(|id| !forgotten.contains(id));
                }
                Ok(())
            })?;
        }
        for id in missing {
            if self.head(id)?.is_none() {
                report.lost(|| format!("message {id} is in the journal and not in the index"));
            }
        }
        Ok(true)
    }

    /// Intact frames of a segment; one that was given back meanwhile has none.
    fn each_frame(
        &self,
        segment: u32,
        mut each: impl FnMut(Position, FrameKind, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let bytes = match self.folder.bytes(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(reading)?,
        };
        let mut offset = 0;
        loop {
            match self.folder.at(&bytes, offset).map_err(reading)? {
                Found::Frame(header, body) => {
                    each(Position { segment, offset }, header.kind, body)?;
                    offset += header.frame_length();
                }
                Found::Damage { next: Some(next) } => offset = next,
                Found::Damage { next: None } | Found::End => return Ok(()),
            }
        }
    }

    fn compare(
        &self,
        kind: FrameKind,
        body: &[u8],
        missing: &mut BTreeSet<MessageId>,
        report: &mut ScrubReport,
    ) -> Result<(), StoreError> {
        match kind {
            FrameKind::Accepted | FrameKind::Moved => {
                if let Ok((record, _)) = decode_message(body) {
                    let id = record.message.id;
                    if self.head(id)?.is_none() {
                        missing.insert(id);
                    }
                }
            }
            FrameKind::Changed => {
                for (_, record) in decode_changes(body).unwrap_or_default() {
                    // Changes of messages whose first frame is damaged belong to nobody; opening the store reports them.
                    if let ChangeRecord::NoteV1(note) = record
                        && note.value.is_some()
                        && self.index.get(&keys::note(note.kind, &note.name)).map_err(index_failed)?.is_none()
                    {
                        report.lost(|| {
                            format!("the note {} is in the journal and not in the index", note.name)
                        });
                    }
                }
            }
            FrameKind::Forgotten | FrameKind::Checkpoint => {}
        }
        Ok(())
    }

    fn scrub_heads(&self, report: &mut ScrubReport, go_on: GoOn<'_>) -> Result<bool, StoreError> {
        let mut from = b"h".to_vec();
        loop {
            if !go_on() {
                return Ok(false);
            }
            let rows = self.index.scan(&from, b"i", PAGE).map_err(index_failed)?;
            let Some((last, _)) = rows.last() else { return Ok(true) };
            from = [last.as_slice(), b"\0"].concat();
            for (key, value) in rows {
                let id = keys::id_of(&key).map_err(garbled)?;
                report.messages += 1;
                let head = Head::decode(&value).map_err(garbled)?;
                if let Some(what) = self.missing_row(&head)?
                    // It may have moved on between the two looks.
                    && self.head(id)?.as_ref() == Some(&head)
                {
                    report.lost(|| format!("message {id} is missing from {what}"));
                }
            }
        }
    }

    /// A row the head names that is not there.
    fn missing_row(&self, head: &Head) -> Result<Option<&'static str>, StoreError> {
        let has = |key: &[u8]| match key.is_empty() {
            true => Ok(true),
            false => self.index.get(key).map(|value| value.is_some()).map_err(index_failed),
        };
        for (key, what) in [
            (&head.lease, "the leases"),
            (&head.alarm, "the alarms"),
            (&head.line, "its line"),
            (&head.intake, "the intake keys"),
        ] {
            if !has(key)? {
                return Ok(Some(what));
            }
        }
        let waits_in_line = || -> Result<bool, StoreError> {
            let prefix = keys::line_prefix(&head.line);
            let first = self.index.scan(prefix, &behind(prefix), 1).map_err(index_failed)?;
            Ok(!head.line.is_empty() && first.first().is_some_and(|(key, _)| *key != head.line))
        };
        // The one in front may have gone between the two looks.
        let is_there = has(&head.queue)? || (head.rows().is_gated() && waits_in_line()?) || has(&head.queue)?;
        Ok((!is_there).then_some("its queue"))
    }
}

fn reading(source: io::Error) -> StoreError {
    StoreError::Io { doing: "looking through the journal", source }
}

#[cfg(test)]
mod tests {
    use amtsbote_core::delivery::Input;
    use amtsbote_core::port::{Change, MessageStore, Note, NoteKind};
    use amtsbote_core::route::ChannelKind;
    use amtsbote_testkit::samples::{Acceptances, metadata, route, seal};
    use amtsbote_testkit::time::noon;

    use crate::index::Op;
    use crate::{SledStore, StoreOptions, open};

    /// Some messages with every kind of row, and a note.
    async fn fill(store: &SledStore) -> Acceptances {
        let samples = Acceptances::default();
        for n in 0..12 {
            let mut metadata = metadata();
            metadata.ordering_key = (n % 3 == 0).then(|| "line".parse().unwrap());
            metadata.deadline = Some(noon() + std::time::Duration::from_secs(3600));
            let route = route(amtsbote_testkit::samples::OFFICE, ChannelKind::Amqp);
            let acceptance = samples.make(&n.to_string(), metadata, b"x", Some(&route));
            let id = acceptance.message.id;
            drop(store.accept(acceptance).await.unwrap());
            let before = store.head(id).await.unwrap().unwrap();
            let next = before.apply(Input::Sealed(seal()), noon()).unwrap();
            let change =
                Change { id, expected: before.version, delivery: next.delivery, events: next.events };
            store.commit_with(vec![change], vec![Note::keep(NoteKind::Hold, "held", &1)]).await.unwrap();
        }
        samples
    }

    /// A store that does not look for itself while somebody takes rows away.
    fn unwatched(folder: &std::path::Path) -> SledStore {
        crate::make_folders(folder).unwrap();
        let (lock, options) = (crate::take_lock(folder).unwrap(), StoreOptions::default());
        let (running, _) = crate::bring_up(folder, &options, false).unwrap();
        SledStore::new(folder, lock, options, running, false).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_row_that_is_lost_is_named_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = unwatched(folder.path());
        fill(&store).await;
        assert_eq!(store.scrub().unwrap().lost, Vec::<String>::new());
        let rows = store.parts.inner().unwrap().index.scan(b"", b"~", 1_000).unwrap();
        let kinds: std::collections::BTreeSet<u8> = rows.iter().map(|(key, _)| key[0]).collect();
        assert_eq!(kinds, b"achikr".iter().copied().collect());
        for (key, value) in rows {
            let inner = store.parts.inner().unwrap();
            let owner = amtsbote_core::id::MessageId::from_bytes([0; 16]);
            let position = crate::frame::Position { segment: 9, offset: 0 };
            let put = |value| inner.index.apply(vec![Op { owner, key: key.clone(), value }], position);
            put(None);
            let lost = store.scrub().unwrap().lost;
            assert!(!lost.is_empty(), "{}", String::from_utf8_lossy(&key));
            put(Some(value));
        }
        assert_eq!(store.scrub().unwrap().lost, Vec::<String>::new());
    }

    /// A frame is written, and synced, before anybody sees its changes: under a slow disk that takes a while.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_just_being_committed_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path(), StoreOptions::default()).unwrap();
        let samples = fill(&store).await;
        let index = &store.parts.inner().unwrap().index;
        let before = index.reached().unwrap().unwrap();
        let rows = || index.scan(b"", b"~", 1_000).unwrap();
        let known = rows();
        let newest = samples.routed("newest", b"x", ChannelKind::Amqp);
        let owner = newest.message.id;
        drop(store.accept(newest).await.unwrap());
        let note = Note::keep(NoteKind::Hold, "newest", &1);
        store.commit_with(Vec::new(), vec![note]).await.unwrap();
        let added = rows().into_iter().filter(|row| !known.contains(row));
        let unseen = added.map(|(key, _)| Op { owner, key, value: None }).collect();
        index.apply(unseen, before);
        assert_eq!(store.scrub().unwrap().lost, Vec::<String>::new());
    }
}
