//! Embedded message store: an append-only journal is the truth, sled its rebuildable index (ADR 0002).
//!
//! ```text
//! DIR/format       version of the layout, and a random number that seeds the checksums
//! DIR/lock         held by the running process
//! DIR/journal/     segments of checksummed frames; one group = one write + one fdatasync
//! DIR/payload/     large payloads, one file each, durable before their frame
//! DIR/staging/     uploads in progress; emptied at start
//! DIR/index/       sled; may be deleted at any time while nothing runs
//! DIR/search/      blocks for operators' search; the same, and nothing depends on it
//! DIR/quarantine/  bytes that could not be read; never deleted by the store
//! ```
//!
//! Invariants: an answer is given only after the fdatasync of its group; the index never knows more than the journal; nothing
//! is deleted because it is broken. Not here: which state follows which; that is core's.

mod committer;
mod doctor;
mod frame;
mod group;
mod index;
mod keys;
mod known;
mod listing;
mod payload;
mod quarantine;
mod read;
mod record;
mod recovery;
mod scrub;
mod search;
mod segment;
mod shared;
mod space;
mod store;
mod watch;

use std::fs::{File, OpenOptions};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

pub use doctor::{Examination, Finding, Progress, discard_index, examine, put_aside};
pub use recovery::OpenReport;
pub use scrub::ScrubReport;
pub use shared::{RoomLimits, StoreObserver, StoreOptions, Unobserved};
pub use store::SledStore;

use store::Running;

use amtsbote_core::id::MessageId;
use frame::Salt;
use index::{Index, IndexError};
use quarantine::Quarantine;
use recovery::{RecoveryError, Replay, last_checkpoint};
use segment::{Folder, sync_folder};

/// Since 2 there are notes among the changes; since 4 messages may carry metadata of their protocol, be taken without a lease, and
/// have reserved ids.
const FORMAT: &str = "amtsbote-store 4";
/// Formats that are read, too; a store gets the newest format when it is opened.
const OLDER: [&str; 1] = ["amtsbote-store 3"];
/// The same from before the file had a checksum.
const UNCHECKED: [&str; 2] = ["amtsbote-store 1", "amtsbote-store 2"];

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store in {0} is in use by another process")]
    InUse(PathBuf),
    /// It was written by another version.
    #[error("the store in {folder} has the format `{found}`, this version reads `{}`", FORMAT)]
    Format {
        /// Where.
        folder: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The file that says how to read the journal is missing or damaged; without it nothing could be told from damage.
    #[error("the file `format` of the store in {folder} {problem}; put it back from a backup")]
    FormatHurt {
        /// Where.
        folder: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
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
/// put aside and rebuilt. After a fault the store opens itself again as soon as that works. Blocks; call it before the async
/// runtime is busy.
///
/// # Errors
/// [`OpenError`]; the store is not changed then.
pub fn open(root: &Path, options: StoreOptions) -> Result<(SledStore, OpenReport), OpenError> {
    make_folders(root).map_err(|source| OpenError::Io { folder: root.to_owned(), source })?;
    let lock = take_lock(root)?;
    let (running, report) = bring_up(root, &options, false)?;
    // An index that was just built lacks nothing.
    let store = SledStore::new(root, lock, options, running, report.rebuilt.is_none())
        .map_err(|source| OpenError::Io { folder: root.to_owned(), source })?;
    Ok((store, report))
}

/// Brings journal, index and committer up. The caller holds the lock.
fn bring_up(root: &Path, options: &StoreOptions, fresh: bool) -> Result<(Running, OpenReport), OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    let folder = Folder::new(root.join("journal"), read_format(root)?);
    let checkpoint = last_checkpoint(&folder).map_err(failed)?;
    // Damage in sled shows as an error or as a panic, at opening or at any read.
    let usable = std::panic::catch_unwind(AssertUnwindSafe(|| {
        if fresh {
            return Err(RecoveryError::Unusable("the index was not to be trusted any more"));
        }
        let index = usable_index(root, checkpoint.as_ref().map(|checkpoint| checkpoint.position))?;
        let mut report = OpenReport::default();
        let recovered = Replay::new(&folder, &index, root, &mut report).run(checkpoint)?;
        Ok((index, recovered, report))
    }));
    let (index, recovered, report) = match usable.unwrap_or_else(|_| Err(IndexError::Panicked.into())) {
        Ok(all) => all,
        Err(RecoveryError::Io(error)) => return Err(failed(error)),
        Err(unusable) => {
            let mut report = OpenReport::default();
            if !folder.segments().map_err(failed)?.is_empty() {
                report.rebuilt = Some(describe(&unusable));
            }
            let rebuilt = fresh_index(root).map_err(RecoveryError::from).and_then(|index| {
                let recovered = Replay::new(&folder, &index, root, &mut report).run(None)?;
                Ok((index, recovered))
            });
            let (index, recovered) = rebuilt.map_err(|error| failed(io::Error::other(error)))?;
            let known = std::panic::catch_unwind(AssertUnwindSafe(|| known_to_old_index(root, &index)));
            let gone = known.unwrap_or(Err(IndexError::Panicked)).unwrap_or_default();
            report.lost.extend(gone.into_iter().filter(|id| !recovered.forgotten.contains(id)));
            (index, recovered, report)
        }
    };
    let running = Running::start(root, folder, index, recovered, &report, options).map_err(failed)?;
    Ok((running, report))
}

/// Makes all folders, durably, before anything is written into them.
fn make_folders(root: &Path) -> io::Result<()> {
    for name in ["journal", "payload"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    sync_folder(root)?;
    root.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_folder)
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

/// The salt of a store, and whether its format is an older one.
fn read_salt(root: &Path) -> Result<(Salt, bool), OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    let found = std::fs::read_to_string(root.join("format")).map_err(failed)?;
    let salt = |format: &str| found.strip_prefix(format)?.trim().strip_prefix("salt ");
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let hurt = |problem| OpenError::FormatHurt { folder: root.to_owned(), problem };
    for format in std::iter::once(FORMAT).chain(OLDER) {
        let Some(rest) = salt(format) else { continue };
        let salt = rest.split(' ').next().and_then(hex).map(Salt);
        let salt = salt.filter(|salt| found.trim() == format_line(format, *salt));
        return salt.map(|salt| (salt, format != FORMAT)).ok_or_else(|| hurt("is damaged"));
    }
    let unchecked = UNCHECKED.into_iter().find_map(|format| hex(salt(format)?));
    unchecked
        .map(|salt| (Salt(salt), true))
        .ok_or_else(|| OpenError::Format { folder: root.to_owned(), found: found.trim().to_owned() })
}

/// What stands in the file `format`; nothing else protects the salt.
fn format_line(format: &str, salt: Salt) -> String {
    let line = format!("{format} salt {:08x}", salt.0);
    let check = crc32c::crc32c(line.as_bytes());
    format!("{line} check {check:08x}")
}

/// Reads the salt of the store; writes the newest format for a new store, and for one of an older format.
fn read_format(root: &Path) -> Result<Salt, OpenError> {
    let failed = |source| OpenError::Io { folder: root.to_owned(), source };
    match read_salt(root) {
        Ok((salt, false)) => Ok(salt),
        Ok((salt, true)) => write_format(root, salt).map_err(failed),
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            if std::fs::read_dir(root.join("journal")).map_err(failed)?.next().is_some() {
                return Err(OpenError::FormatHurt { folder: root.to_owned(), problem: "is missing" });
            }
            write_format(root, Salt(rand::random())).map_err(failed)
        }
        Err(error) => Err(error),
    }
}

/// Writes the newest format; before anything of it is.
fn write_format(root: &Path, salt: Salt) -> io::Result<Salt> {
    let new = root.join("format.new");
    std::fs::write(&new, format_line(FORMAT, salt) + "\n")?;
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, root.join("format"))?;
    sync_folder(root)?;
    Ok(salt)
}

/// The index, if it is at least as far as the last checkpoint says.
fn usable_index(root: &Path, checkpoint: Option<frame::Position>) -> Result<Index, RecoveryError> {
    let unusable = |reason| Err(RecoveryError::Unusable(reason));
    let folder = root.join("index");
    if !folder.exists() {
        return unusable("the index is missing");
    }
    let Some(checkpoint) = checkpoint else { return unusable("the journal has no checkpoint") };
    let index = Index::open(&folder)?;
    match index.position()? {
        Some(position) if position >= checkpoint => Ok(index),
        _ => unusable("the index is older than the last checkpoint"),
    }
}

/// Messages that the index that was put aside knows and the new one does not: the journal has lost them.
fn known_to_old_index(root: &Path, index: &Index) -> Result<Vec<MessageId>, IndexError> {
    let old = Quarantine::of(root).path("index");
    if !old.exists() {
        return Ok(Vec::new());
    }
    let old = Index::open(&old)?;
    let (mut lost, mut from) = (Vec::new(), b"h".to_vec());
    loop {
        let rows = old.scan(&from, b"i", 1_024)?;
        let Some((last, _)) = rows.last() else { return Ok(lost) };
        from = [last.as_slice(), b"\0"].concat();
        for (key, _) in rows {
            if index.get(&key)?.is_none() {
                lost.push(keys::id_of(&key)?);
            }
        }
    }
}

fn describe(error: &RecoveryError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Puts an old index aside and creates a new one. Only the last one is kept: it holds nothing that is not in the journal.
fn fresh_index(root: &Path) -> Result<Index, IndexError> {
    let folder = root.join("index");
    if folder.exists() {
        Quarantine::of(root).replace(&folder)?;
    }
    Index::open(&folder)
}
