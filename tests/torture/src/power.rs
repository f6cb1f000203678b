//! What a power failure leaves of the files of a killed program: everything that was synced, and a seeded choice of the rest.
//!
//! Reads the log of the shim. A change of a file is durable when a later sync of the same file has completed; that a file was made,
//! renamed or removed, when a later sync of its folder has. Of the rest, writes are dropped whole, in sectors, or behind a
//! point in time; changes of a folder are dropped behind a point in time, as file systems keep their order. What is dropped is
//! taken back, newest first.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::rngs::StdRng;

/// A disk writes whole sectors.
const SECTOR: u64 = 512;

/// A line of the shim's log.
#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    file: u64,
    folder: u64,
    path: PathBuf,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, length: u64, size: u64, old: Vec<u8> },
    Truncate { old_size: u64, new_size: u64, cut: Vec<u8> },
    Synced { before: u64 },
    Created,
    Renamed { to: PathBuf, target: u64, stash: Option<PathBuf> },
    Removed { stash: Option<PathBuf> },
    Folder,
}

/// How the disk loses what was not synced.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// Nothing of it was written.
    All,
    /// Everything behind a point in time is gone.
    Behind(u64),
    /// Each sector was written or not, in any order.
    Sectors,
    /// All of it was written.
    Nothing,
}

/// What was taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Writes and cuts, whole or in part.
    pub(crate) writes: usize,
    /// Files that were made, renamed or removed.
    pub(crate) names: usize,
}

/// Takes back, below `root`, what was not durable when the program that wrote the log was killed.
///
/// # Errors
/// When the log or a file cannot be read or written.
pub(crate) fn fail(log: &Path, root: &Path, random: &mut StdRng) -> io::Result<Loss> {
    let entries = match std::fs::read(log) {
        Ok(bytes) => read_log(&bytes),
        // Killed before it had written anything.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let last = entries.last().map_or(1, |entry| entry.number);
    let mode = match random.random_range(0..10) {
        0..3 => Mode::All,
        3..6 => Mode::Behind(random.random_range(0..=last)),
        6..9 => Mode::Sectors,
        _ => Mode::Nothing,
    };
    let undone: Vec<&Entry> = volatile(&entries);
    let mut paths = inodes(root)?;
    let mut cuts: HashMap<u64, u64> = HashMap::new();
    let mut loss = Loss::default();
    for entry in undone.iter().rev() {
        let is_name = !matches!(entry.change, Change::Write { .. } | Change::Truncate { .. });
        let dropped = match mode {
            Mode::All => true,
            Mode::Behind(point) => entry.number > point,
            Mode::Nothing => false,
            Mode::Sectors if is_name => {
                entry.number > *cuts.entry(entry.folder).or_insert_with(|| random.random_range(0..=last))
            }
            Mode::Sectors => true,
        };
        if !dropped {
            continue;
        }
        let whole = !matches!(mode, Mode::Sectors);
        let done = take_back(entry, whole, &mut paths, random).map_err(|error| {
            let kind = match &entry.change {
                Change::Write { .. } => "write".to_owned(),
                Change::Truncate { .. } => "cut".to_owned(),
                Change::Renamed { to, stash, .. } => format!("renamed to {} over {stash:?}", to.display()),
                Change::Removed { stash } => format!("removed, kept in {stash:?}"),
                Change::Synced { .. } => "sync".to_owned(),
                Change::Created => "made".to_owned(),
                Change::Folder => "folder made".to_owned(),
            };
            let path = entry.path.display();
            io::Error::new(error.kind(), format!("taking back {path}, {kind}: {error}"))
        })?;
        match is_name {
            true => loss.names += usize::from(done),
            false => loss.writes += usize::from(done),
        }
    }
    Ok(loss)
}

/// Changes that no sync has made durable, oldest first.
fn volatile(entries: &[Entry]) -> Vec<&Entry> {
    let mut synced: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in entries {
        if let Change::Synced { before } = entry.change {
            let until = synced.entry(entry.file).or_default();
            *until = (*until).max(before);
        }
    }
    let durable = |inode: u64, number: u64| synced.get(&inode).is_some_and(|until| number < *until);
    let is_volatile = |entry: &&Entry| match &entry.change {
        Change::Synced { .. } => false,
        Change::Write { .. } | Change::Truncate { .. } => !durable(entry.file, entry.number),
        Change::Renamed { target, .. } => !durable(*target, entry.number),
        Change::Created | Change::Removed { .. } | Change::Folder => !durable(entry.folder, entry.number),
    };
    entries.iter().filter(is_volatile).collect()
}

/// Where every file below a folder is.
fn inodes(root: &Path) -> io::Result<HashMap<u64, PathBuf>> {
    let (mut found, mut open) = (HashMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(entry.path());
            }
            found.insert(meta.ino(), entry.path());
        }
    }
    Ok(found)
}

fn take_back(
    entry: &Entry,
    whole: bool,
    paths: &mut HashMap<u64, PathBuf>,
    random: &mut StdRng,
) -> io::Result<bool> {
    match &entry.change {
        Change::Write { offset, length, size, old } => {
            let Some(path) = paths.get(&entry.file) else { return Ok(false) };
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            unwrite(&file, *offset, *length, *size, old, whole, random)
        }
        Change::Truncate { old_size, new_size, cut } => {
            let Some(path) = paths.get(&entry.file) else { return Ok(false) };
            let file = OpenOptions::new().write(true).open(path)?;
            if file.metadata()?.len() != *new_size {
                return Ok(false);
            }
            file.set_len(*old_size)?;
            file.write_all_at(cut, *new_size)?;
            Ok(true)
        }
        // A file that was renamed since, durably, is held by its new folder.
        Change::Created if paths.get(&entry.file) != Some(&entry.path) => Ok(false),
        Change::Created => remove_file(entry.file, paths),
        Change::Folder => {
            let Some(path) = paths.remove(&entry.file) else { return Ok(false) };
            paths.retain(|_, one| !one.starts_with(&path));
            std::fs::remove_dir_all(path).map(|()| true)
        }
        Change::Renamed { to, stash, .. } => {
            // A rename that was noted and did not happen before the kill, or whose old name was durably given to another since.
            if paths.get(&entry.file) != Some(to) || entry.path.exists() {
                return Ok(false);
            }
            std::fs::rename(to, &entry.path)?;
            // With a folder everything in it moves.
            for path in paths.values_mut() {
                *path = match path.strip_prefix(to) {
                    Ok(within) if within.as_os_str().is_empty() => entry.path.clone(),
                    Ok(within) => entry.path.join(within),
                    Err(_) => continue,
                };
            }
            bring_back(stash.as_deref(), to, paths)?;
            Ok(true)
        }
        Change::Removed { stash } => bring_back(stash.as_deref(), &entry.path, paths),
        Change::Synced { .. } => Ok(false),
    }
}

fn remove_file(inode: u64, paths: &mut HashMap<u64, PathBuf>) -> io::Result<bool> {
    paths.remove(&inode).map_or(Ok(false), |path| std::fs::remove_file(path).map(|()| true))
}

fn bring_back(stash: Option<&Path>, to: &Path, paths: &mut HashMap<u64, PathBuf>) -> io::Result<bool> {
    let (Some(stash), false) = (stash, to.exists()) else { return Ok(false) };
    if !to.parent().is_some_and(Path::exists) {
        return Ok(false);
    }
    std::fs::hard_link(stash, to)?;
    paths.insert(std::fs::metadata(to)?.ino(), to.to_owned());
    Ok(true)
}

/// Gives the sectors of a write their old content; what lies behind the old end becomes zeros or goes.
fn unwrite(
    file: &File,
    offset: u64,
    length: u64,
    size: u64,
    old: &[u8],
    whole: bool,
    random: &mut StdRng,
) -> io::Result<bool> {
    let now = file.metadata()?.len();
    let end = (offset + length).min(now);
    if offset >= end {
        return Ok(false);
    }
    let mut content = vec![0; usize::try_from(end - offset).map_err(io::Error::other)?];
    file.read_exact_at(&mut content, offset)?;
    let (mut place, mut any) = (offset, false);
    while place < end {
        let next = ((place / SECTOR + 1) * SECTOR).min(end);
        if whole || random.random_bool(0.5) {
            for at in place..next {
                let index = usize::try_from(at - offset).map_err(io::Error::other)?;
                content[index] = old.get(index).copied().unwrap_or(0);
            }
            any = true;
        }
        place = next;
    }
    file.write_all_at(&content, offset)?;
    if whole && end == now && size < now {
        file.set_len(size.max(offset))?;
    }
    Ok(any)
}

fn read_log(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    // The last record may be cut off by the kill; then its change has not begun.
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let Some((record, behind)) = behind.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            break;
        };
        rest = behind;
        entries.extend(parse(record));
    }
    entries.sort_by_key(|entry: &Entry| entry.number);
    entries
}

fn parse(record: &[u8]) -> Option<Entry> {
    let (kind, rest) = record.split_first()?;
    let (numbers, rest) = rest.split_at_checked(48)?;
    let mut fields = [0_u64; 6];
    for (field, bytes) in fields.iter_mut().zip(numbers.chunks_exact(8)) {
        *field = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    let text = |rest: &[u8]| -> Option<(Vec<u8>, usize)> {
        let length = u32::from_le_bytes(*rest.first_chunk::<4>()?) as usize;
        Some((rest.get(4..4 + length)?.to_vec(), 4 + length))
    };
    let (path, used) = text(rest)?;
    let (more, _) = text(&rest[used..])?;
    let path_of = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let stash = |bytes: &[u8]| (!bytes.is_empty()).then(|| path_of(bytes));
    let [number, file, folder, a, b, c] = fields;
    let change = match kind {
        1 => Change::Write { offset: a, length: b, size: c, old: more },
        2 => Change::Truncate { old_size: a, new_size: b, cut: more },
        3 => Change::Synced { before: a },
        4 => Change::Created,
        5 => {
            let zero = more.iter().position(|byte| *byte == 0)?;
            Change::Renamed { to: path_of(&more[..zero]), target: a, stash: stash(&more[zero + 1..]) }
        }
        6 => Change::Removed { stash: stash(&more) },
        7 => Change::Folder,
        _ => return None,
    };
    Some(Entry { number, file, folder, path: path_of(&path), change })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn inode(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn what_lies_in_a_folder_that_was_moved_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let (index, aside) = (root.path().join("index"), root.path().join("quarantine"));
        std::fs::create_dir_all(aside.join("index")).unwrap();
        let (db, moved) = (index.join("db"), aside.join("index"));
        std::fs::write(moved.join("db"), b"newer").unwrap();
        let mut paths = inodes(root.path()).unwrap();
        let (file, target) = (inode(&moved.join("db")), inode(&aside));
        let entry =
            |path: &Path, file, change| Entry { number: 1, file, folder: 0, path: path.to_owned(), change };
        let rename = Change::Renamed { to: moved.clone(), target, stash: None };
        let rename = entry(&index, inode(&moved), rename);
        let write = Change::Write { offset: 0, length: 5, size: 5, old: b"older".to_vec() };
        let write = entry(&db, file, write);
        let random = &mut StdRng::seed_from_u64(1);
        for change in [&rename, &write] {
            assert!(take_back(change, true, &mut paths, random).unwrap());
        }
        assert_eq!(std::fs::read(&db).unwrap(), b"older");
        assert!(!moved.exists());
        assert!(!take_back(&rename, true, &mut paths, random).unwrap(), "it is taken back once");
        let made = entry(&index, inode(&index), Change::Folder);
        assert!(take_back(&made, true, &mut paths, random).unwrap());
        assert!(!take_back(&write, true, &mut paths, random).unwrap(), "it went with its folder");
    }
}
