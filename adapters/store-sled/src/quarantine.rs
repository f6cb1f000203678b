//! Where bytes go that nobody can read: kept durably under a free name, never overwritten, never deleted by the store, except
//! for indexes, which can be made anew.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::frame::Position;
use crate::segment::sync_folder;

/// The folder of the quarantine; made when it is needed.
#[derive(Debug, Clone)]
pub(crate) struct Quarantine(PathBuf);

impl Quarantine {
    pub(crate) fn of(root: &Path) -> Self {
        Self(root.join("quarantine"))
    }

    /// Where something of a name lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Keeps the bytes `at.offset..end` of a segment; durable when this returns.
    pub(crate) fn keep_bytes(&self, segment: &[u8], at: Position, end: u64, what: &str) -> io::Result<()> {
        let place = |offset| usize::try_from(offset).map_err(io::Error::other);
        let bytes = segment.get(place(at.offset)?..place(end)?).unwrap_or_default();
        let name = format!("{:08}-{}.{what}", at.segment, at.offset);
        // Found again at every start until a checkpoint lies behind it.
        if std::fs::read(self.0.join(&name)).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        let path = self.free(&name)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_folder(&self.0)
    }

    /// Adds lines to a file, without those that stand there already; durable when this returns.
    pub(crate) fn add(&self, name: &str, lines: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        let known = std::fs::read(&path).unwrap_or_default();
        let known: BTreeSet<&[u8]> = known.split_inclusive(|byte| *byte == b'\n').collect();
        let mut new =
            lines.split_inclusive(|byte| *byte == b'\n').filter(|line| !known.contains(line)).peekable();
        if new.peek().is_none() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.0)?;
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        for line in new {
            file.write_all(line)?;
        }
        file.sync_all()?;
        sync_folder(&self.0)
    }

    /// Moves a file or folder here; durable when this returns.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("unnamed");
        std::fs::rename(path, self.free(name)?)?;
        sync_folder(&self.0)?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    /// Moves a folder here in the place of an earlier one of the same name; for what can be made anew.
    pub(crate) fn replace(&self, path: &Path) -> io::Result<()> {
        let earlier = self.0.join(path.file_name().unwrap_or_default());
        match std::fs::remove_dir_all(earlier) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.take(path),
        }
    }

    /// A path that is not taken: the name itself, or the name with a number.
    fn free(&self, name: &str) -> io::Result<PathBuf> {
        std::fs::create_dir_all(&self.0)?;
        let plain = self.0.join(name);
        if !plain.exists() {
            return Ok(plain);
        }
        let numbered = (2..10_000).map(|number| self.0.join(format!("{name}.{number}")));
        numbered.into_iter().find(|path| !path.exists()).ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }
}
