//! Bytes of a message while it is being looked at: in memory as long as they are few, else in a file without a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that stay in memory.
const MEMORY: usize = 1 << 20;

/// Collects bytes.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    written: u64,
}

impl Spool {
    /// An empty one; its file, if it needs one, is made in this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), memory: Vec::new(), file: None, written: 0 }
    }

    /// Appends bytes. Blocks when it goes to the file.
    ///
    /// # Errors
    /// When the disk is full or sick.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > MEMORY {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile_in(&self.folder)?),
            };
            file.write_all_at(&self.memory, self.written)?;
            self.written += self.memory.len() as u64;
            self.memory.clear();
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.written + self.memory.len() as u64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing more comes; from now on it is read.
    ///
    /// # Errors
    /// When the disk is full or sick.
    pub fn finish(mut self) -> io::Result<Spooled> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.memory, self.written)?;
            self.written += self.memory.len() as u64;
            self.memory.clear();
        }
        Ok(Spooled(Arc::new(self)))
    }
}

/// Bytes that were collected. Clones share them.
#[derive(Debug, Clone)]
pub struct Spooled(Arc<Spool>);

impl Spooled {
    /// All bytes.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether reading touches no disk.
    pub fn is_in_memory(&self) -> bool {
        self.0.file.is_none()
    }

    /// Up to `length` bytes from a place; fewer only at the end. Blocks if they lie in the file.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&self, from: u64, length: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len().saturating_sub(from)).unwrap_or(usize::MAX);
        let length = length.min(left);
        match &self.0.file {
            None => {
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.0.memory.len());
                Ok(self.0.memory[from..from + length].to_vec())
            }
            Some(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, from)?;
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_matter_where_the_bytes_lie() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 10, MEMORY, MEMORY + 1, 3 * MEMORY + 7] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut spool = Spool::new(folder.path());
            for piece in bytes.chunks(100_000) {
                spool.write(piece).unwrap();
            }
            let spooled = spool.finish().unwrap();
            assert_eq!((spooled.len(), spooled.is_in_memory()), (size as u64, size <= MEMORY));
            assert_eq!(spooled.read(0, size + 1).unwrap(), bytes);
            let half = size / 2;
            assert_eq!(spooled.read(half as u64, 5).unwrap(), &bytes[half..size.min(half + 5)]);
            assert!(spooled.read(size as u64 + 3, 5).unwrap().is_empty());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        }
    }
}
