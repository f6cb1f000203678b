//! Segment files of the journal: numbered, append-only, read by position.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::frame::{self, Body, Found, HEADER, Header, Position, Salt};

/// A segment is closed at this size. Whoever looks through one reads it as a whole.
pub(crate) const SEGMENT: u64 = 16 << 20;
/// Slices one system call takes (IOV_MAX).
const SLICES: usize = 1024;

/// The folder of the journal.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    salt: Salt,
}

impl Folder {
    pub(crate) fn new(path: PathBuf, salt: Salt) -> Self {
        Self { path, salt }
    }

    pub(crate) fn path(&self, segment: u32) -> PathBuf {
        self.path.join(format!("{segment:08}.journal"))
    }

    /// All bytes of a segment.
    pub(crate) fn bytes(&self, segment: u32) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(segment))
    }

    /// What stands at `offset` of a segment's bytes.
    pub(crate) fn at<'a>(&self, segment: &'a [u8], offset: u64) -> io::Result<Found<'a>> {
        frame::at(segment, offset, self.salt)
    }

    /// Numbers of all segments, ascending.
    pub(crate) fn segments(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".journal")).map(str::parse);
            if let Some(Ok(number)) = number {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads one frame, checked; `None` if it is damaged or gone.
    pub(crate) fn read(&self, at: Position) -> io::Result<Option<(Header, Vec<u8>)>> {
        let file = match File::open(self.path(at.segment)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut head = [0; HEADER];
        if let Err(error) = file.read_exact_at(&mut head, at.offset) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
        }
        let Some(header) = Header::decode(&head, self.salt) else { return Ok(None) };
        let mut body = vec![0; usize::try_from(header.length).map_err(io::Error::other)?];
        if let Err(error) = file.read_exact_at(&mut body, at.offset + HEADER as u64) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
        }
        Ok((crc32c::crc32c(&body) == header.body_crc).then_some((header, body)))
    }

    /// Reads some bytes that are no whole frame; `None` if the segment or the bytes are gone.
    pub(crate) fn read_bytes(&self, at: Position, length: u32) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; length as usize];
        let read =
            File::open(self.path(at.segment)).and_then(|file| file.read_exact_at(&mut bytes, at.offset));
        match read {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a segment.
    pub(crate) fn remove(&self, segment: u32) -> io::Result<()> {
        std::fs::remove_file(self.path(segment))?;
        sync_folder(&self.path)
    }
}

/// Makes creations, renames and removals in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The end of the journal, where the committer writes.
#[derive(Debug)]
pub(crate) struct Tail {
    folder: Folder,
    file: File,
    segment: u32,
    length: u64,
    group: u64,
}

impl Tail {
    /// Continues a segment behind `length` good bytes; what lies behind is cut off.
    pub(crate) fn resume(folder: Folder, segment: u32, length: u64, group: u64) -> io::Result<Self> {
        let path = folder.path(segment);
        match renew(&path, length) {
            // Without room the bytes stay where they are.
            Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
        }
        file.sync_all()?;
        sync_folder(&folder.path)?;
        Ok(Self { folder, file, segment, length, group })
    }

    /// Where the next frame will begin.
    pub(crate) fn position(&self) -> Position {
        Position { segment: self.segment, offset: self.length }
    }

    /// Where the next group will begin; opens a new segment when this one is full.
    pub(crate) fn next_group(&mut self) -> io::Result<Position> {
        if self.length >= SEGMENT {
            self.rotate()?;
        }
        Ok(self.position())
    }

    /// Appends frames as one group behind [`Self::next_group`], without syncing. On failure nothing of it stays.
    pub(crate) fn append(&mut self, bodies: &[&Body]) -> io::Result<()> {
        let mut headers = Vec::with_capacity(bodies.len());
        let mut end = self.length;
        for body in bodies {
            let header = body.header(self.group);
            end += header.frame_length();
            headers.push(header.encode(self.folder.salt));
        }
        let pieces = headers.iter().zip(bodies).flat_map(|(header, body)| {
            std::iter::once(IoSlice::new(header)).chain(body.pieces.iter().map(|piece| IoSlice::new(piece)))
        });
        if let Err(error) = write_all(&mut self.file, pieces.collect()) {
            // Half a group must not stay in front of later ones.
            let stays = |error| io::Error::other(format!("half a group cannot be taken back: {error}"));
            self.file.set_len(self.length).map_err(stays)?;
            return Err(error);
        }
        self.length = end;
        self.group += 1;
        Ok(())
    }

    /// Puts everything appended so far on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Closes the segment and opens the next.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        *self = Self::resume(self.folder.clone(), self.segment + 1, 0, self.group)?;
        Ok(())
    }
}

/// Writes the good bytes of a segment into a new file that takes its place. After a failed sync the system may hold bytes that it
/// will never write, and a later sync of the same file would not say so.
fn renew(path: &Path, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let new = path.with_extension("new");
    let mut copy = File::create(&new)?;
    let copied = io::copy(&mut File::open(path)?.take(length), &mut copy).and_then(|_| copy.sync_all());
    if let Err(error) = copied {
        std::fs::remove_file(&new)?;
        return Err(error);
    }
    std::fs::rename(&new, path)
}

fn write_all(file: &mut File, mut slices: Vec<IoSlice<'_>>) -> io::Result<()> {
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let count = left.len().min(SLICES);
        match file.write_vectored(&left[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
