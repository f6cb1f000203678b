//! The blocks of the search in their folder. One thread writes, many read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::block::{Block, Damaged, Id, Row, Summary, View};
use crate::frame::Position;
use serde::{Deserialize, Serialize};

/// Messages of a block before the next one begins. A block is read and written as a whole.
const FULL: usize = 4_096;

#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error("the files of the search cannot be used")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// All blocks, by the first id each may hold. In memory are only their summaries, a byte or two for each message.
pub(super) struct Blocks {
    folder: PathBuf,
    summaries: RwLock<BTreeMap<Id, Summary>>,
}

/// What is to become of messages: their rows, or nothing.
pub(super) type Changes = BTreeMap<Id, Option<Row>>;

/// How far the blocks are, and how many there have to be.
#[derive(Serialize, Deserialize)]
struct Reached {
    position: Position,
    blocks: usize,
}

/// Reads a block. One that is gone or cannot be read is damage of the search, not of the disk.
fn read(path: &Path) -> Result<Vec<u8>, BlockError> {
    std::fs::read(path).map_err(|error| {
        let unreadable = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        match error.kind() {
            io::ErrorKind::NotFound => Damaged.into(),
            _ if unreadable => Damaged.into(),
            _ => error.into(),
        }
    })
}

impl Blocks {
    /// Throws everything away. What is left by a process that dies meanwhile counts as nothing.
    pub(super) fn discard(folder: &Path) -> io::Result<()> {
        let absent = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        absent(std::fs::remove_file(folder.join("position")))?;
        absent(std::fs::remove_dir_all(folder))
    }

    /// Opens or creates them. Reads all of them once, as long as nobody says `ended`.
    pub(super) fn open(folder: &Path, ended: impl Fn() -> bool) -> Result<Self, BlockError> {
        std::fs::create_dir_all(folder)?;
        let mut summaries = BTreeMap::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if ended() {
                break;
            }
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".block"));
            let mut bytes = Id::default();
            if id.is_some_and(|id| hex::decode_to_slice(id, &mut bytes).is_ok()) {
                summaries.insert(bytes, View::new(&read(&entry.path())?)?.summary());
            }
        }
        Ok(Self { folder: folder.to_owned(), summaries: RwLock::new(summaries) })
    }

    fn path(&self, first: &Id) -> PathBuf {
        self.folder.join(format!("{}.block", hex::encode(first)))
    }

    /// Up to which position of the journal they are complete.
    pub(super) fn position(&self) -> Result<Option<Position>, BlockError> {
        match std::fs::read(self.folder.join("position")) {
            Ok(bytes) => {
                let Reached { position, blocks } = serde_json::from_slice(&bytes).map_err(|_| Damaged)?;
                let found = self.summaries.read().unwrap_or_else(PoisonError::into_inner).len();
                if found == blocks { Ok(Some(position)) } else { Err(Damaged.into()) }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of the block with the last ids below one that may have a message with all facets; `None` if there is none. What is looked for further has
    /// ids below the returned one.
    pub(super) fn below(&self, until: &Id, facets: &[u64]) -> Result<Option<(Id, Vec<u8>)>, BlockError> {
        // Held while reading: what is split meanwhile would be missed.
        let summaries = self.summaries.read().unwrap_or_else(PoisonError::into_inner);
        let mut before = summaries.range(..*until).rev();
        let Some((first, _)) = before.find(|(_, summary)| summary.may_have(facets)) else { return Ok(None) };
        Ok(Some((*first, read(&self.path(first))?)))
    }

    /// Writes changes, then the position up to which everything is complete. Nothing is synced.
    pub(super) fn apply(&self, changes: Changes, position: Position) -> Result<(), BlockError> {
        let mut by_block: BTreeMap<Option<Id>, Changes> = BTreeMap::new();
        {
            let summaries = self.summaries.read().unwrap_or_else(PoisonError::into_inner);
            for (id, row) in changes {
                let block = summaries.range(..=id).next_back().map(|(first, _)| *first);
                by_block.entry(block).or_default().insert(id, row);
            }
        }
        for (first, changes) in by_block {
            self.change(first, changes)?;
        }
        let blocks = self.summaries.read().unwrap_or_else(PoisonError::into_inner).len();
        let bytes = serde_json::to_vec(&Reached { position, blocks }).map_err(io::Error::other)?;
        self.replace(&self.folder.join("position"), &bytes)?;
        Ok(())
    }

    /// Changes one block; what does not fit becomes blocks of its own.
    fn change(&self, first: Option<Id>, changes: Changes) -> Result<(), BlockError> {
        let mut block = match &first {
            Some(first) => Block::decode(&read(&self.path(first))?)?,
            None => Block::default(),
        };
        let before = block.clone();
        for (id, row) in changes {
            match row {
                Some(row) => drop(block.0.insert(id, row)),
                None => drop(block.0.remove(&id)),
            }
        }
        if block == before {
            return Ok(());
        }
        let rows: Vec<(Id, Row)> = block.0.into_iter().collect();
        let mut summaries = self.summaries.write().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() {
            if let Some(first) = first {
                std::fs::remove_file(self.path(&first))?;
                summaries.remove(&first);
            }
            return Ok(());
        }
        // What does not fit is written before the block is cut: if that ends half-way, nothing is missing.
        for (number, rows) in rows.chunks(FULL).enumerate().rev() {
            // The first one keeps its name, so that it still takes what comes before its first message.
            let name = first.filter(|_| number == 0).unwrap_or(rows[0].0);
            let (bytes, summary) = Block(rows.iter().cloned().collect()).encode();
            self.replace(&self.path(&name), &bytes)?;
            summaries.insert(name, summary);
        }
        Ok(())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = self.folder.join("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(new, path)
    }

    /// Puts everything on stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            std::fs::File::open(entry?.path())?.sync_all()?;
        }
        std::fs::File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use amtsbote_core::port::Facet;
    use proptest::prelude::*;

    use super::*;

    const AT: Position = Position { segment: 1, offset: 2 };

    fn id(n: u32) -> Id {
        u128::from(n).to_be_bytes()
    }

    fn row(n: u32) -> Row {
        Row::new(&[(Facet::Case, n.to_string())], None)
    }

    fn all(blocks: &Blocks) -> Vec<(Id, Row)> {
        let (mut found, mut until) = (Vec::new(), [0xff; 16]);
        while let Some((first, bytes)) = blocks.below(&until, &[]).unwrap() {
            found.extend(Block::decode(&bytes).unwrap().0.into_iter().rev());
            until = first;
        }
        found.reverse();
        found
    }

    #[test]
    fn full_blocks_are_followed_by_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = Blocks::open(folder.path(), || false).unwrap();
        assert_eq!(blocks.position().unwrap(), None);
        for from in (0..10_000).step_by(1_000) {
            let changes = (from..from + 1_000).map(|n| (id(n), Some(row(n)))).collect();
            blocks.apply(changes, AT).unwrap();
        }
        assert!(blocks.summaries.read().unwrap().len() >= 3);
        assert_eq!(all(&blocks), (0..10_000).map(|n| (id(n), row(n))).collect::<Vec<_>>());
        let again = Blocks::open(folder.path(), || false).unwrap();
        assert_eq!((again.position().unwrap(), all(&again).len()), (Some(AT), 10_000));
        again.apply((0..10_000).map(|n| (id(n), None)).collect(), AT).unwrap();
        assert!(all(&again).is_empty() && again.summaries.read().unwrap().is_empty());
    }

    #[test]
    fn a_split_that_ends_half_way_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = Blocks::open(folder.path(), || false).unwrap();
        let even = (0..4_096).map(|n| (id(2 * n), Some(row(2 * n)))).collect();
        blocks.apply(even, AT).unwrap();
        // The place of the overflow is taken by a folder, so that it cannot be written.
        let odd: Changes = [(id(1), Some(row(1)))].into();
        let overflow = blocks.path(&id(8_190));
        std::fs::create_dir_all(overflow.join("x")).unwrap();
        assert!(blocks.apply(odd.clone(), AT).is_err());
        assert_eq!(all(&blocks).len(), 4_096, "as before");
        std::fs::remove_dir_all(&overflow).unwrap();
        blocks.apply(odd, AT).unwrap();
        assert_eq!(all(&blocks).len(), 4_097);
        std::fs::remove_file(overflow).unwrap();
        let again = Blocks::open(folder.path(), || false).unwrap();
        assert!(matches!(again.position(), Err(BlockError::Damaged(_))), "a block is missing");
        Blocks::discard(folder.path()).unwrap();
        Blocks::discard(folder.path()).unwrap();
    }

    proptest! {
        #[test]
        fn blocks_hold_what_a_map_would(steps in prop::collection::vec((0_u32..40, any::<bool>()), 0..200)) {
            let folder = tempfile::tempdir().unwrap();
            let blocks = Blocks::open(folder.path(), || false).unwrap();
            let mut model = BTreeMap::new();
            for chunk in steps.chunks(7) {
                let changes: Changes = chunk.iter().map(|(n, there)| (id(*n), there.then(|| row(*n)))).collect();
                for (id, row) in changes.clone() {
                    match row {
                        Some(row) => drop(model.insert(id, row)),
                        None => drop(model.remove(&id)),
                    }
                }
                blocks.apply(changes, AT).unwrap();
            }
            prop_assert_eq!(all(&blocks), model.into_iter().collect::<Vec<_>>());
        }
    }
}
