//! Examines a store that no process has: every checksum, every reference, and the index against the journal. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use amtsbote_core::id::MessageId;
use amtsbote_core::message::{Part, Sha256Digest};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::frame::{Found, FrameKind, Position};
use crate::index::{Index, IndexError, Row};
use crate::keys::{self, Head, POSITION};
use crate::quarantine::Quarantine;
use crate::record::{ChangeRecord, ForgottenRecord, PayloadPlace, decode_changes, decode_message};
use crate::recovery::{OpenReport, Replay, last_checkpoint};
use crate::segment::Folder;
use crate::{OpenError, read_salt, take_lock};

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable word: `journal`, `tail`, `message`, `payload`, `index` or `leftover`.
    pub kind: &'static str,
    /// Whether something that was acknowledged is hurt. What is not serious is put right when the store is opened.
    pub serious: bool,
    /// The message it concerns, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageId>,
    /// One sentence.
    pub detail: String,
}

/// Result of an examination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Examination {
    /// Segments of the journal.
    pub segments: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Intact frames.
    pub frames: u64,
    /// Messages.
    pub messages: u64,
    /// Payload files.
    pub payload_files: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Things in the quarantine.
    pub quarantined: u64,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Places of the journal that cannot be read: segment, beginning, end.
    #[serde(skip)]
    damaged: Vec<(u32, u64, u64)>,
}

impl Examination {
    /// Whether nothing that was acknowledged is hurt.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| !finding.serious)
    }
}

/// What an examination says while it works: what it looks at, how much of it is done, and how much there is.
pub type Progress<'a> = &'a dyn Fn(&str, u64, u64);

/// What is remembered of examinations, in the quarantine.
const FINDINGS: &str = "findings.ndjson";
/// Bytes of a payload file read at a time.
const READ: usize = 1 << 20;
/// Rows of an index compared at a time.
const PAGE: usize = 1_024;

/// Examines a store. Needs as much free room for a while as its index takes, beside it.
///
/// # Errors
/// [`OpenError`]: another process has it, it has another format, or it cannot be read at all.
pub fn examine(root: &Path, progress: Progress<'_>) -> Result<Examination, OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    if !root.join("format").exists() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "there is no store in this folder")));
    }
    let _lock = take_lock(root)?;
    let folder = Folder::new(root.join("journal"), read_salt(root)?.0);
    let mut doctor =
        Doctor { root, folder, progress, report: Examination::default(), payloads: BTreeMap::new() };
    doctor.examine().map_err(failed)?;
    let mut report = doctor.report;
    report.findings.sort_by(|a, b| b.serious.cmp(&a.serious).then_with(|| a.cmp(b)));
    Ok(report)
}

struct Doctor<'a> {
    root: &'a Path,
    folder: Folder,
    progress: Progress<'a>,
    report: Examination,
    /// Messages whose payload is in a file, with its parts, as the journal has them.
    payloads: BTreeMap<MessageId, Vec<Part>>,
}

impl Doctor<'_> {
    fn find(&mut self, kind: &'static str, serious: bool, message: Option<MessageId>, detail: String) {
        self.report.findings.push(Finding { kind, serious, message, detail });
    }

    fn find_damage(&mut self, segment: u32, begin: u64, end: u64, what: &str) {
        self.report.damaged.push((segment, begin, end));
        self.find("journal", true, None, format!("segment {segment:08}, bytes {begin} to {end}: {what}"));
    }

    fn examine(&mut self) -> io::Result<()> {
        self.journal()?;
        let work = tempfile::Builder::new().prefix("examine-").tempdir_in(self.root)?;
        let expected = self.expected_index(work.path())?;
        if let Some(expected) = &expected {
            self.messages(expected)?;
            self.index(expected, work.path())?;
        }
        self.payload_files()?;
        let quarantine = std::fs::read_dir(self.root.join("quarantine"));
        self.report.quarantined = quarantine.map_or(0, |entries| entries.count() as u64);
        Ok(())
    }

    /// Every checksum of the journal.
    fn journal(&mut self) -> io::Result<()> {
        let segments = self.folder.segments()?;
        let total = segments.len() as u64;
        let mut gone: BTreeSet<MessageId> = BTreeSet::new();
        for (number, segment) in segments.iter().enumerate() {
            (self.progress)("journal", number as u64, total);
            let is_last = number + 1 == segments.len();
            let bytes = match self.folder.bytes(*segment) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.find("journal", true, None, format!("segment {segment:08} cannot be read: {error}"));
                    continue;
                }
            };
            self.report.segments += 1;
            self.report.journal_bytes += bytes.len() as u64;
            self.segment(*segment, &bytes, is_last, &mut gone)?;
        }
        self.payloads.retain(|id, _| !gone.contains(id));
        Ok(())
    }

    fn segment(
        &mut self,
        segment: u32,
        bytes: &[u8],
        is_last: bool,
        gone: &mut BTreeSet<MessageId>,
    ) -> io::Result<()> {
        let (mut offset, length) = (0, bytes.len() as u64);
        loop {
            match self.folder.at(bytes, offset)? {
                Found::Frame(header, body) => {
                    let end = offset + header.frame_length();
                    match self.frame(header.kind, body, gone) {
                        Ok(()) => self.report.frames += 1,
                        Err(error) => self.find_damage(segment, offset, end, &error.to_string()),
                    }
                    offset = end;
                }
                Found::Damage { next: Some(next) } => {
                    self.find_damage(segment, offset, next, "the checksum does not match");
                    offset = next;
                }
                Found::Damage { next: None } if is_last => {
                    let detail = format!(
                        "segment {segment:08}, bytes {offset} to {length}: a write that never ended, or the end is damaged"
                    );
                    self.report.damaged.push((segment, offset, length));
                    self.find("tail", false, None, detail);
                    return Ok(());
                }
                Found::Damage { next: None } => {
                    self.find_damage(segment, offset, length, "the end of a closed segment is damaged");
                    return Ok(());
                }
                Found::End => return Ok(()),
            }
        }
    }

    fn frame(
        &mut self,
        kind: FrameKind,
        body: &[u8],
        gone: &mut BTreeSet<MessageId>,
    ) -> Result<(), crate::record::RecordError> {
        match kind {
            FrameKind::Accepted | FrameKind::Moved => {
                let (record, _) = decode_message(body)?;
                let id = record.message.id;
                match record.payload {
                    PayloadPlace::File(_) if !record.delivery.stripped => {
                        self.payloads.insert(id, record.message.parts.clone());
                    }
                    _ => drop(self.payloads.remove(&id)),
                }
            }
            FrameKind::Changed => {
                for (_, record) in decode_changes(body)? {
                    if let ChangeRecord::V1(change) = record
                        && change.delivery.stripped
                    {
                        gone.insert(change.id);
                    }
                }
            }
            FrameKind::Forgotten => {
                let ForgottenRecord::V1 { messages } = serde_json::from_slice(body)?;
                gone.extend(messages.into_iter().map(|one| one.id));
            }
            FrameKind::Checkpoint => {}
        }
        Ok(())
    }

    /// The index as the journal says it should be.
    fn expected_index(&mut self, work: &Path) -> io::Result<Option<Index>> {
        (self.progress)("replay", 0, 1);
        let built = || -> Result<(Index, OpenReport), String> {
            let index = Index::open(&work.join("expected")).map_err(|error| error.to_string())?;
            let mut report = OpenReport::default();
            // What it would put aside goes into the working folder, which goes with it.
            let replay = Replay::new(&self.folder, &index, work, &mut report);
            replay.run(None).map_err(|error| error.to_string())?;
            Ok((index, report))
        };
        match built() {
            Ok((index, report)) => {
                for id in report.lost {
                    let detail = "only changes of it are left; its record is damaged".to_owned();
                    self.find("message", true, Some(id), detail);
                }
                Ok(Some(index))
            }
            Err(error) => {
                self.find("journal", true, None, format!("the journal cannot be replayed: {error}"));
                Ok(None)
            }
        }
    }

    /// Counts the messages.
    fn messages(&mut self, expected: &Index) -> io::Result<()> {
        let mut from = b"h".to_vec();
        loop {
            let rows = expected.scan(&from, b"i", PAGE).map_err(io::Error::other)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_slice(), b"\0"].concat();
            self.report.messages += rows.len() as u64;
        }
    }

    /// The index on disk against the one the journal says, on a copy: sled changes what it opens.
    fn index(&mut self, expected: &Index, work: &Path) -> io::Result<()> {
        let (original, copy) = (self.root.join("index"), work.join("copy"));
        if !original.exists() {
            self.find(
                "index",
                false,
                None,
                "there is no index; it is built when the store is opened".to_owned(),
            );
            return Ok(());
        }
        self.report.index_bytes = copy_folder(&original, &copy)?;
        let compared = std::panic::catch_unwind(AssertUnwindSafe(|| self.compare(expected, &copy)));
        match compared.unwrap_or(Err(IndexError::Panicked)) {
            Ok(findings) => {
                // The index often knows better what became of a message than the rest of the journal does.
                self.report.findings.retain(|one| {
                    one.message.is_none() || findings.iter().all(|other| other.message != one.message)
                });
                self.report.findings.extend(findings);
            }
            Err(error) => {
                let detail = format!("the index cannot be read and will be built anew: {error}");
                self.find("index", false, None, detail);
            }
        }
        Ok(())
    }

    fn compare(&self, expected: &Index, copy: &Path) -> Result<Vec<Finding>, IndexError> {
        let index = Index::open(copy)?;
        let (position, checkpoint) = (index.position()?, last_checkpoint(&self.folder)?);
        let stale = || Finding {
            kind: "index",
            serious: false,
            message: None,
            detail: "the index is older than the last checkpoint and will be built anew".to_owned(),
        };
        if position.is_none() || checkpoint.as_ref().map(|checkpoint| checkpoint.position) > position {
            return Ok(vec![stale()]);
        }
        let mut findings = self.hurt(&index)?;
        // What is wrong with these is wrong with the journal, not with the index.
        let hurt: BTreeSet<MessageId> = findings.iter().filter_map(|finding| finding.message).collect();
        // What came after the index was written last, as a start would do it.
        let work = copy.parent().unwrap_or(copy);
        let replayed = Replay::new(&self.folder, &index, work, &mut OpenReport::default()).run(checkpoint);
        if let Err(error) = replayed {
            return Err(IndexError::Io(io::Error::other(error)));
        }
        let (mut from, end) = (Vec::new(), [0xff_u8; 2]);
        loop {
            (self.progress)("index", findings.len() as u64, self.report.messages);
            let wanted = expected.scan(&from, &end, PAGE)?;
            let until = wanted.last().map_or(end.to_vec(), |(key, _)| [key.as_slice(), b"\0"].concat());
            let found = index.scan(&from, &until, usize::MAX)?;
            compare_rows(&wanted, &found, &hurt, &mut findings);
            if wanted.is_empty() {
                return Ok(findings);
            }
            from = until;
        }
    }

    /// Messages that the index says to lie where the journal cannot be read.
    fn hurt(&self, index: &Index) -> Result<Vec<Finding>, IndexError> {
        let (mut findings, mut from) = (Vec::new(), b"h".to_vec());
        while !self.report.damaged.is_empty() {
            let rows = index.scan(&from, b"i", PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), b"\0"].concat();
            for (key, value) in rows {
                let head = Head::decode(&value)?;
                let lies_in = |at: crate::frame::Position| {
                    self.report.damaged.iter().any(|(segment, begin, end)| {
                        at.segment == *segment && (*begin..*end).contains(&at.offset)
                    })
                };
                let Some(number) = head.frames.iter().position(|frame| lies_in(frame.at)) else { continue };
                let detail = match number {
                    0 => "its record and payload cannot be read".to_owned(),
                    number => format!("change {number} of it cannot be read"),
                };
                let message = keys::id_of(&key).ok();
                findings.push(Finding { kind: "message", serious: true, message, detail });
            }
        }
        Ok(findings)
    }

    /// Large payloads against the digests of their messages.
    fn payload_files(&mut self) -> io::Result<()> {
        let payloads = std::mem::take(&mut self.payloads);
        let (folder, total) = (self.root.join("payload"), payloads.len() as u64);
        let mut known: BTreeSet<PathBuf> = BTreeSet::new();
        for (number, (id, parts)) in payloads.into_iter().enumerate() {
            (self.progress)("payloads", number as u64, total);
            let path = folder.join(format!("{}.payload", id.uuid().as_hyphenated()));
            match check_payload(&path, &parts) {
                Ok(None) => self.report.payload_files += 1,
                Ok(Some(problem)) => self.find("payload", true, Some(id), problem),
                Err(error) => self.find("payload", true, Some(id), format!("cannot be read: {error}")),
            }
            known.insert(path);
        }
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if !known.contains(&path) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.find("leftover", false, None, format!("payload file {name} belongs to no message"));
            }
        }
        Ok(())
    }
}

/// Rows that are missing, of no message, or different.
fn compare_rows(wanted: &[Row], found: &[Row], hurt: &BTreeSet<MessageId>, findings: &mut Vec<Finding>) {
    let (wanted, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (wanted.iter().cloned().collect(), found.iter().cloned().collect());
    let mut find = |key: &[u8], value: &[u8], what: &str| {
        let message = owner(key, value);
        if message.is_some_and(|id| hurt.contains(&id)) {
            return;
        }
        let kind = key.first().copied().map_or('?', char::from);
        let detail = format!("a row of kind `{kind}` {what}; the index will be built anew");
        findings.push(Finding { kind: "index", serious: false, message, detail });
    };
    for (key, value) in &wanted {
        match found.get(key) {
            _ if key.as_slice() == POSITION => {}
            None => find(key, value, "is missing"),
            Some(other) if !same(key, value, other) => find(key, value, "differs from the journal"),
            Some(_) => {}
        }
    }
    for (key, value) in
        found.iter().filter(|(key, _)| !wanted.contains_key(*key) && key.as_slice() != POSITION)
    {
        find(key, value, "belongs to nothing in the journal");
    }
}

/// The message a row belongs to.
fn owner(key: &[u8], value: &[u8]) -> Option<MessageId> {
    match key.first() {
        Some(b'c') => None,
        Some(b'i') => keys::parse_intake_value(value).ok().map(|(id, _)| id),
        _ => keys::id_of(key).ok(),
    }
}

fn without_places(head: Head) -> Head {
    Head { frames: Vec::new(), stale: Vec::new(), ..head }
}

/// Whether two values mean the same: heads may list other frames after a segment was emptied.
fn same(key: &[u8], one: &[u8], other: &[u8]) -> bool {
    if !key.starts_with(b"h") {
        return one == other;
    }
    match (Head::decode(one), Head::decode(other)) {
        (Ok(one), Ok(other)) => without_places(one) == without_places(other),
        _ => false,
    }
}

fn check_payload(path: &Path, parts: &[Part]) -> io::Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some("the payload file is missing".to_owned()));
        }
        Err(error) => return Err(error),
    };
    let mut buffer = vec![0; READ];
    for (number, part) in parts.iter().enumerate() {
        // Parts lie in the order in which they came, which need not be theirs.
        file.seek(SeekFrom::Start(part.offset))?;
        let mut hasher = Sha256::new();
        let mut left = part.size;
        while left > 0 {
            let wanted = usize::try_from(left.min(READ as u64)).map_err(io::Error::other)?;
            let read = file.read(&mut buffer[..wanted])?;
            if read == 0 {
                return Ok(Some(format!("the payload file ends inside part {number}")));
            }
            hasher.update(&buffer[..read]);
            left -= read as u64;
        }
        if Sha256Digest::from(hasher) != part.sha256 {
            return Ok(Some(format!("part {number} does not have its digest")));
        }
    }
    Ok(None)
}

/// Copies the files of a folder; their bytes.
fn copy_folder(from: &Path, to: &Path) -> io::Result<u64> {
    std::fs::create_dir_all(to)?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        bytes += match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => std::fs::copy(entry.path(), target)?,
        };
    }
    Ok(bytes)
}

/// Puts into the quarantine what an examination found unreadable in the journal, and adds all its findings to `findings.ndjson`
/// there: once the index is built anew nobody else may know which messages are lost. The journal stays as it is; what of it is
/// still needed goes on hurting, until retention ends that.
///
/// # Errors
/// [`OpenError`].
pub fn put_aside(root: &Path, found: &Examination) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    let _lock = take_lock(root)?;
    let (folder, quarantine) = (Folder::new(root.join("journal"), read_salt(root)?.0), Quarantine::of(root));
    for (segment, begin, end) in &found.damaged {
        let bytes = folder.bytes(*segment).map_err(failed)?;
        let at = Position { segment: *segment, offset: *begin };
        quarantine.keep_bytes(&bytes, at, *end, "frame").map_err(failed)?;
    }
    let mut lines = Vec::new();
    for finding in found.findings.iter().filter(|finding| finding.serious) {
        serde_json::to_writer(&mut lines, finding).map_err(|error| failed(error.into()))?;
        lines.push(b'\n');
    }
    quarantine.add(FINDINGS, &lines).map_err(failed)
}

/// Puts the index aside, so that the next opening builds it anew; for an index that has grown far beyond what it holds.
///
/// # Errors
/// [`OpenError`].
pub fn discard_index(root: &Path) -> Result<(), OpenError> {
    let _lock = take_lock(root)?;
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    let index = root.join("index");
    if index.exists() {
        Quarantine::of(root).replace(&index).map_err(failed)?;
    }
    let search = root.join("search");
    if search.exists() {
        std::fs::remove_dir_all(search).map_err(failed)?;
    }
    Ok(())
}
