//! Messages that travel in chunks, kept on disk until they are whole, so that a transfer goes on after any interruption (supplement of
//! 2017). Both ways: chunks that come in, and packages that are handed out in chunks and must not change meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::id::MessageId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

/// Transfers of one client at the same time, each way.
const PER_CLIENT: usize = 16;

/// Bounds of transfers, sizes in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferLimits {
    /// Of a chunk.
    pub max_chunk: u64,
    /// Of a chunk that is not the last.
    pub min_chunk: u64,
    /// Of the whole.
    pub max_message: u64,
    /// From the first chunk to the last.
    pub timeout: Duration,
}

/// Whose transfer it is, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransferKey {
    /// A name for the client that nobody can make up.
    pub(crate) client: String,
    /// Id of the delivery, and whatever else makes the transfer another.
    pub(crate) what: String,
}

impl TransferKey {
    fn folder(&self, root: &Path) -> PathBuf {
        root.join(digest(&self.client)).join(digest(&self.what))
    }
}

/// Names of files are digests: what clients say never names one.
fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// What is known of a transfer that comes in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) began: Timestamp,
    pub(crate) total: u64,
    /// KiB of each chunk but the last.
    pub(crate) size: u64,
    /// SHA-256 of the addressee's certificate, hex.
    pub(crate) addressee: String,
}

/// How the whole turned out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) codes: Vec<String>,
    pub(crate) message: Option<MessageId>,
}

/// Transfers of all clients.
pub struct Transfers {
    root: PathBuf,
    pub(crate) limits: TransferLimits,
    locks: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a file that is either there with all its bytes, durably, or not at all.
fn write_durably(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name)).map_err(|error| error.error)?;
    sync_folder(folder)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

const BEGUN: &str = "begun.json";
const OUTCOME: &str = "outcome.json";
const PACKAGE: &str = "package";

impl Transfers {
    /// Transfers whose files lie in a folder of their own.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path, limits: TransferLimits) -> io::Result<Self> {
        for way in ["in", "out"] {
            fs::create_dir_all(root.join(way))?;
        }
        sync_folder(root)?;
        Ok(Self { root: root.to_owned(), limits, locks: Mutex::default() })
    }

    fn incoming(&self, key: &TransferKey) -> Incoming {
        Incoming { folder: key.folder(&self.root.join("in")) }
    }

    /// The transfer of a key that comes in, if nobody else is at it.
    pub(crate) fn lock(&self, key: &TransferKey) -> Option<(Incoming, OwnedMutexGuard<()>)> {
        let transfer = self.incoming(key);
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds one holds a second reference.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        let lock = Arc::clone(locks.entry(transfer.folder.clone()).or_default());
        drop(locks);
        let guard = lock.try_lock_owned().ok()?;
        Some((transfer, guard))
    }

    /// The frozen package of a key.
    pub(crate) fn outgoing(&self, key: &TransferKey) -> Outgoing {
        Outgoing { folder: key.folder(&self.root.join("out")) }
    }

    /// Whether a client may begin another transfer. Blocks.
    pub(crate) fn has_room(&self, key: &TransferKey, way: &str) -> io::Result<bool> {
        let folder = self.root.join(way).join(digest(&key.client));
        match fs::read_dir(folder) {
            Ok(entries) => {
                let mut running = 0;
                for entry in entries {
                    // What is over is kept only so that its client can be told.
                    running += usize::from(!entry?.path().join(OUTCOME).exists());
                }
                Ok(running < PER_CLIENT)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Forgets what began too long ago. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sweep(&self, now: Timestamp) -> io::Result<()> {
        // What is over is kept for a while, so that clients can be told.
        let keep = self.limits.timeout * 2;
        for way in ["in", "out"] {
            for client in fs::read_dir(self.root.join(way))? {
                let client = client?.path();
                for transfer in fs::read_dir(&client)? {
                    let transfer = transfer?.path();
                    let begun: Option<Stamp> = read_json(&transfer.join(BEGUN))?;
                    let fresh =
                        begun.is_some_and(|begun| now.duration_since(begun.began).unsigned_abs() <= keep);
                    let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
                    let busy = locks.get(&transfer).is_some_and(|lock| Arc::strong_count(lock) > 1);
                    drop(locks);
                    if !fresh && !busy {
                        fs::remove_dir_all(&transfer)?;
                    }
                }
                // Only empty ones can be removed.
                match fs::remove_dir(&client) {
                    Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Stamp {
    began: Timestamp,
}

/// A transfer that comes in. Everything here blocks.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    folder: PathBuf,
}

impl Incoming {
    pub(crate) fn begun(&self) -> io::Result<Option<Begun>> {
        read_json(&self.folder.join(BEGUN))
    }

    pub(crate) fn begin(&self, begun: &Begun) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut above = self.folder.ancestors().skip(1).take(2);
        above.try_for_each(sync_folder)?;
        write_durably(&self.folder, BEGUN, |file| file.write_all(&serde_json::to_vec(begun)?))
    }

    /// Numbers of the chunks that are there.
    pub(crate) fn received(&self) -> io::Result<BTreeSet<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries?,
        };
        let mut numbers = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".chunk")?.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// Keeps a chunk, durably.
    pub(crate) fn keep(
        &self,
        number: u64,
        mut next: impl FnMut() -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<()> {
        write_durably(&self.folder, &format!("{number}.chunk"), |file| {
            while let Some(piece) = next()? {
                file.write_all(&piece)?;
            }
            Ok(())
        })
    }

    pub(crate) fn chunk(&self, number: u64) -> io::Result<File> {
        File::open(self.folder.join(format!("{number}.chunk")))
    }

    pub(crate) fn outcome(&self) -> io::Result<Option<Outcome>> {
        read_json(&self.folder.join(OUTCOME))
    }

    /// Notes how the whole turned out; its chunks are not needed any more.
    pub(crate) fn end(&self, outcome: &Outcome) -> io::Result<()> {
        write_durably(&self.folder, OUTCOME, |file| file.write_all(&serde_json::to_vec(outcome)?))?;
        self.remove_chunks()
    }

    fn remove_chunks(&self) -> io::Result<()> {
        for number in self.received()? {
            fs::remove_file(self.folder.join(format!("{number}.chunk")))?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn discard(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A package that is handed out in chunks. Everything here blocks.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    folder: PathBuf,
}

impl Outgoing {
    /// The package, if it was frozen before.
    pub(crate) fn package(&self) -> io::Result<Option<File>> {
        match File::open(self.folder.join(PACKAGE)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to freeze a package.
    pub(crate) fn begin(&self, now: Timestamp) -> io::Result<tempfile::NamedTempFile> {
        fs::create_dir_all(&self.folder)?;
        let stamp = serde_json::json!({ "began": now });
        fs::write(self.folder.join(BEGUN), stamp.to_string())?;
        tempfile::NamedTempFile::new_in(&self.folder)
    }

    /// The package is whole. After a crash it may be made anew, so nothing has to be durable.
    /// Whoever comes second gets what the first one made.
    pub(crate) fn freeze(&self, file: tempfile::NamedTempFile) -> io::Result<File> {
        match file.persist_noclobber(self.folder.join(PACKAGE)) {
            Ok(file) => Ok(file),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                File::open(self.folder.join(PACKAGE))
            }
            Err(error) => Err(error.error),
        }
    }

    /// It was received.
    pub(crate) fn discard(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// SHA-256 of a range of a file. Blocks.
pub(crate) fn digest_range(file: &File, mut from: u64, mut left: u64) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..length], from)?;
        hasher.update(&buffer[..length]);
        (from, left) = (from + length as u64, left - length as u64);
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TransferLimits =
        TransferLimits { max_chunk: 10, min_chunk: 1, max_message: 100, timeout: Duration::from_secs(3600) };

    fn key(what: &str) -> TransferKey {
        TransferKey { client: "alice".to_owned(), what: what.to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_transfer_goes_on_after_a_restart_and_is_forgotten_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let begun = Begun { began: at(0), total: 2, size: 1, addressee: "x".to_owned() };
        {
            let transfers = Transfers::open(folder.path(), LIMITS).unwrap();
            let (transfer, guard) = transfers.lock(&key("a")).unwrap();
            assert!(transfers.lock(&key("a")).is_none(), "somebody is at it");
            assert!(transfers.lock(&key("b")).is_some());
            transfer.begin(&begun).unwrap();
            let mut pieces = vec![b"two".to_vec()];
            transfer.keep(2, || Ok(pieces.pop())).unwrap();
            drop(guard);
        }
        let transfers = Transfers::open(folder.path(), LIMITS).unwrap();
        let (transfer, _guard) = transfers.lock(&key("a")).unwrap();
        assert_eq!(transfer.begun().unwrap().unwrap().total, 2);
        assert_eq!(transfer.received().unwrap(), BTreeSet::from([2]));
        transfer.end(&Outcome { codes: vec!["0800".to_owned()], message: None }).unwrap();
        assert!(transfer.received().unwrap().is_empty());
        transfers.sweep(at(7_000)).unwrap();
        assert_eq!(transfer.outcome().unwrap().unwrap().codes, ["0800"]);
        transfers.sweep(at(7_201)).unwrap();
        assert!(transfer.outcome().unwrap().is_some(), "somebody is at it");
        drop(_guard);
        transfers.sweep(at(7_201)).unwrap();
        assert!(transfer.outcome().unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path().join("in")).unwrap().count(), 0);
    }

    #[test]
    fn a_client_has_so_many_transfers_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let transfers = Transfers::open(folder.path(), LIMITS).unwrap();
        for n in 0..PER_CLIENT {
            assert!(transfers.has_room(&key("x"), "out").unwrap());
            transfers.outgoing(&key(&n.to_string())).begin(at(0)).unwrap();
        }
        assert!(!transfers.has_room(&key("x"), "out").unwrap());
        transfers.outgoing(&key("0")).discard().unwrap();
        assert!(transfers.has_room(&key("x"), "out").unwrap());
    }
}
