//! Payloads: small ones travel in the journal, large ones stream into a file of their own.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amtsbote_core::id::MessageId;
use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::port::{PartReader, PayloadWriter, Staged, StagedFile, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::segment::sync_folder;
use crate::shared::Shared;

/// Payloads up to this size stay in memory and go into the journal.
const INLINE_MAX: usize = 1 << 20;
/// Bytes collected before they are written to the file.
const CHUNK: usize = 1 << 20;
/// Bytes after which a growing file is synced, so that the end does not have to wait for all of it.
const SYNC_EVERY: u64 = 32 << 20;
/// Bytes read at a time.
const READ: usize = 256 << 10;

/// Folders of payload files.
pub(crate) struct Payloads {
    staging: PathBuf,
    stored: PathBuf,
    shared: Arc<Shared>,
}

/// Number of the next file that is uploaded. It goes on when a store is opened again: an upload from before must not find the
/// file of another under its name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Maps a failed write to the store's words.
pub(crate) fn write_error(doing: &'static str, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full
        }
        _ => StoreError::Io { doing, source },
    }
}

impl Payloads {
    /// Opens the folders; whatever was being uploaded when the process ended is removed.
    pub(crate) fn open(root: &Path, shared: Arc<Shared>) -> io::Result<Self> {
        let (staging, stored) = (root.join("staging"), root.join("payload"));
        if staging.exists() {
            std::fs::remove_dir_all(&staging)?;
        }
        std::fs::create_dir_all(&staging)?;
        std::fs::create_dir_all(&stored)?;
        Ok(Self { staging, stored, shared })
    }

    pub(crate) fn writer(self: &Arc<Self>) -> Box<dyn PayloadWriter> {
        Box::new(Writer { payloads: Arc::clone(self), pieces: Vec::new(), pending: 0, spilled: None })
    }

    pub(crate) fn path(&self, id: MessageId) -> PathBuf {
        self.stored.join(format!("{}.payload", id.uuid().as_hyphenated()))
    }

    /// Gives a staged file its final, durable place.
    pub(crate) fn keep(&self, staged: SpilledFile, id: MessageId) -> Result<u64, StoreError> {
        let keep = || {
            staged.file.sync_all()?;
            std::fs::rename(&staged.path, self.path(id))?;
            sync_folder(&self.stored)
        };
        keep().map_err(|error| write_error("keeping a payload file", error))?;
        Ok(staged.length)
    }

    /// Removes a payload file, if there is one.
    pub(crate) fn remove(&self, id: MessageId) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Messages that have a payload file.
    pub(crate) fn stored(&self) -> io::Result<Vec<MessageId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.stored)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".payload")).map(str::parse);
            if let Some(Ok(id)) = id {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Opens a part inside a payload file.
    pub(crate) async fn reader(
        &self,
        id: MessageId,
        part: &Part,
        offset: u64,
    ) -> Result<Box<dyn PartReader>, StoreError> {
        let path = self.path(id);
        let start = part.offset + offset.min(part.size);
        let left = part.size - offset.min(part.size);
        let opened = spawn_blocking(move || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        });
        let file = match opened.await {
            Ok(Ok(file)) => file,
            Ok(Err(source)) => return Err(damaged_or_io(id, source)),
            Err(source) => {
                return Err(StoreError::Io { doing: "opening a payload", source: io::Error::other(source) });
            }
        };
        let check = (offset == 0).then(|| (Sha256::new(), part.sha256));
        Ok(Box::new(FileReader { id, file: Some(file), left, check }))
    }
}

fn damaged_or_io(id: MessageId, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::NotFound => {
            StoreError::Damaged { id, detail: "the payload file is missing".to_owned() }
        }
        io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { id, detail: "the payload file is too short".to_owned() }
        }
        _ => StoreError::Io { doing: "reading a payload", source },
    }
}

/// A payload file that is not accepted yet; removed again when dropped.
#[derive(Debug)]
pub(crate) struct SpilledFile {
    file: File,
    path: PathBuf,
    length: u64,
    unsynced: u64,
}

impl SpilledFile {
    fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
            self.length += piece.len() as u64;
            self.unsynced += piece.len() as u64;
        }
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Drop for SpilledFile {
    fn drop(&mut self) {
        // After `keep` the file has moved and there is nothing to remove; leftovers are removed at the next start.
        drop(std::fs::remove_file(&self.path));
    }
}

impl StagedFile for SpilledFile {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

struct Writer {
    payloads: Arc<Payloads>,
    pieces: Vec<Bytes>,
    pending: usize,
    spilled: Option<SpilledFile>,
}

impl Writer {
    async fn spill(&mut self) -> Result<(), StoreError> {
        let pieces = std::mem::take(&mut self.pieces);
        self.pending = 0;
        let spilled = self.spilled.take();
        let payloads = Arc::clone(&self.payloads);
        let written = spawn_blocking(move || {
            if !payloads.shared.look_for_room() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut file = match spilled {
                Some(file) => file,
                None => {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    let path = payloads.staging.join(format!("{number}.upload"));
                    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
                    SpilledFile { file, path, length: 0, unsynced: 0 }
                }
            };
            file.append(&pieces)?;
            Ok(file)
        });
        match written.await {
            Ok(Ok(file)) => {
                self.spilled = Some(file);
                Ok(())
            }
            Ok(Err(error)) => Err(write_error("writing a payload file", error)),
            Err(error) => Err(write_error("writing a payload file", io::Error::other(error))),
        }
    }
}

#[async_trait]
impl PayloadWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.pending += bytes.len();
        self.pieces.push(bytes);
        if self.pending > if self.spilled.is_some() { CHUNK } else { INLINE_MAX } {
            self.spill().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Staged, StoreError> {
        if self.spilled.is_none() {
            return Ok(Staged::Inline(std::mem::take(&mut self.pieces)));
        }
        self.spill().await?;
        match self.spilled.take() {
            Some(file) => Ok(Staged::File(Box::new(file))),
            None => Ok(Staged::Inline(Vec::new())),
        }
    }
}

/// Reads a part of a payload file. Of a whole part the last piece is only given away if the digest is right.
struct FileReader {
    id: MessageId,
    file: Option<File>,
    left: u64,
    check: Option<(Sha256, Sha256Digest)>,
}

#[async_trait]
impl PartReader for FileReader {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(mut file) = self.file.take() else {
            let source = io::Error::other("an earlier read was given up half-way");
            return Err(StoreError::Io { doing: "reading a payload", source });
        };
        let wanted = usize::try_from(self.left).unwrap_or(READ).min(READ);
        let read = spawn_blocking(move || {
            let mut buffer = vec![0; wanted];
            file.read_exact(&mut buffer)?;
            Ok((file, buffer))
        });
        match read.await {
            Ok(Ok((file, buffer))) => {
                self.file = Some(file);
                self.left -= buffer.len() as u64;
                if let Some((hasher, _)) = &mut self.check {
                    hasher.update(&buffer);
                }
                // Judged before the last piece leaves: with it the receiver would believe to have everything.
                if self.left == 0
                    && let Some((hasher, expected)) = self.check.take()
                    && Sha256Digest::from(hasher) != expected
                {
                    let detail = "the payload differs from its digest".to_owned();
                    return Err(StoreError::Damaged { id: self.id, detail });
                }
                Ok(Some(buffer.into()))
            }
            Ok(Err(source)) => Err(damaged_or_io(self.id, source)),
            Err(source) => {
                Err(StoreError::Io { doing: "reading a payload", source: io::Error::other(source) })
            }
        }
    }
}

/// A part that came whole with its frame.
pub(crate) struct InlineReader(pub(crate) Option<Bytes>);

#[async_trait]
impl PartReader for InlineReader {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.take().filter(|bytes| !bytes.is_empty()))
    }
}
