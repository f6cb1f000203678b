//! Embedded message store: an append-only journal is the truth, sled its rebuildable index (ADR 0002).
//!
//! ```text
//! DIR/format       version of the layout
//! DIR/lock         held by the running process
//! DIR/journal/     segments of checksummed frames; one group = one write + one fdatasync
//! DIR/payload/     large payloads, one file each, durable before their frame
//! DIR/staging/     uploads in progress; emptied at start
//! DIR/index/       sled; may be deleted at any time while nothing runs
//! DIR/quarantine/  bytes that could not be read; never deleted by the store
//! ```
//!
//! Invariants: an answer is given only after the fdatasync of its group; the index never knows more than the journal; nothing
//! is deleted because it is broken. Not here: which state follows which; that is core's.

mod committer;
mod frame;
mod index;
mod keys;
mod payload;
mod record;
mod recovery;
mod segment;
mod shared;
mod space;
mod store;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

pub use recovery::OpenReport;
pub use shared::{StoreObserver, StoreOptions, Unobserved};
pub use store::SledStore;

use index::{Index, IndexError};
use recovery::{RecoveryError, Replay, last_checkpoint};
use segment::{Folder, sync_folder};

const FORMAT: &str = "amtsbote-store 1\n";

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store in {0} is in use by another process")]
    InUse(PathBuf),
    /// It was written by another version.
    #[error("the store in {folder} has the format `{found}`, this version reads `{}`", FORMAT.trim())]
    Format {
        /// Where.
        folder: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The folder cannot be used.
    #[error("the store in {folder} cannot be opened")]
    Io {
        /// Where.
        folder: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Opens a store, creating it in an empty folder. Replays the journal since the last checkpoint; a missing or damaged index is
/// put aside and rebuilt. Blocks; call it before the async runtime is busy.
///
/// # Errors
/// [`OpenError`]; the store is not changed then.
pub fn open(root: &Path, options: StoreOptions) -> Result<(SledStore, OpenReport), OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    std::fs::create_dir_all(root.join("journal")).map_err(failed)?;
    let lock = take_lock(root)?;
    check_format(root)?;
    let folder = Folder::new(root.join("journal"));
    let checkpoint = last_checkpoint(&folder).map_err(failed)?;
    let mut report = OpenReport::default();
    let (index, from) = match usable_index(root, checkpoint.as_ref().map(|checkpoint| checkpoint.position)) {
        Ok(index) => (index, checkpoint),
        Err(reason) => {
            if !folder.segments().map_err(failed)?.is_empty() {
                report.rebuilt = Some(reason);
            }
            (fresh_index(root).map_err(|error| failed(io::Error::other(error)))?, None)
        }
    };
    let recovered = match Replay::new(&folder, &index, root, &mut report).run(from) {
        Ok(recovered) => recovered,
        // The index opened but cannot be used: once more from the beginning, with a new one.
        Err(RecoveryError::Index(error)) => {
            drop(index);
            report = OpenReport { rebuilt: Some(error.to_string()), ..OpenReport::default() };
            let index = fresh_index(root).map_err(|error| failed(io::Error::other(error)))?;
            let recovered = Replay::new(&folder, &index, root, &mut report).run(None);
            let recovered = recovered.map_err(|error| failed(io::Error::other(error)))?;
            return start(root, lock, index, recovered, report, options);
        }
        Err(RecoveryError::Io(error)) => return Err(failed(error)),
    };
    start(root, lock, index, recovered, report, options)
}

fn start(
    root: &Path,
    lock: File,
    index: Index,
    recovered: recovery::Recovered,
    report: OpenReport,
    options: StoreOptions,
) -> Result<(SledStore, OpenReport), OpenError> {
    let store = SledStore::start(root, lock, index, recovered, &report, options)
        .map_err(|source| OpenError::Io { folder: root.to_owned(), source })?;
    Ok((store, report))
}

fn take_lock(root: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(root.join("lock"))
        .map_err(failed)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(root.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn check_format(root: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    let path = root.join("format");
    match std::fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(OpenError::Format { folder: root.to_owned(), found: found.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::write(&path, FORMAT).and_then(|()| File::open(&path)?.sync_all()).map_err(failed)?;
            sync_folder(root).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The index, if it is at least as far as the last checkpoint says.
fn usable_index(root: &Path, checkpoint: Option<frame::Position>) -> Result<Index, String> {
    let folder = root.join("index");
    if !folder.exists() {
        return Err("the index is missing".to_owned());
    }
    let checkpoint = checkpoint.ok_or("the journal has no checkpoint")?;
    let index = Index::open(&folder).map_err(|error| describe(&error))?;
    match index.position() {
        Ok(Some(position)) if position >= checkpoint => Ok(index),
        Ok(_) => Err("the index is older than the last checkpoint".to_owned()),
        Err(error) => Err(describe(&error)),
    }
}

fn describe(error: &IndexError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Puts an old index aside and creates a new one.
fn fresh_index(root: &Path) -> Result<Index, IndexError> {
    let folder = root.join("index");
    if folder.exists() {
        let quarantine = root.join("quarantine");
        std::fs::create_dir_all(&quarantine)?;
        let free = (1..).map(|n| quarantine.join(format!("index-{n}"))).find(|path| !path.exists());
        if let Some(free) = free {
            std::fs::rename(&folder, free)?;
        }
    }
    Index::open(&folder)
}
