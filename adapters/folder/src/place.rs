//! A folder on disk. Everything here blocks.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Shows that the folder is the one, and not what lies below a file system that is not there at the moment.
const MARKER: &str = ".amtsbote-folder";
/// A department that wants to keep the files puts this beside them.
pub(crate) const ACKNOWLEDGED: &str = "acknowledged";
/// Rights before the mask of the process: the group of the folder reads and takes away.
const FILE: Mode = Mode::from_raw_mode(0o660);
const FOLDER: Mode = Mode::from_raw_mode(0o770);

/// An open folder.
pub(crate) struct Place {
    root: OwnedFd,
}

/// What a hand-over begins with.
pub(crate) enum Begun {
    /// An earlier attempt put it there, and nobody has taken it yet.
    There,
    /// Files can be written.
    Draft(Draft),
}

/// A message that is being written.
pub(crate) struct Draft {
    place: Place,
    files: OwnedFd,
    hidden: String,
    name: String,
}

/// How a message lies in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its files are there.
    pub(crate) there: bool,
    /// A department says that it has it.
    pub(crate) acknowledged: bool,
}

fn folder_at(root: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, name, flags, Mode::empty())
}

/// Network file systems may refuse to sync folders; renames are durable there when they are answered.
fn sync(folder: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(folder) {
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        synced => synced,
    }
}

fn is_there(root: &OwnedFd, name: &str) -> Result<bool, Errno> {
    match rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Place {
    /// Opens a folder, which must be none behind a symbolic link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: folder_at(CWD, path)? })
    }

    /// Marks the folder as ours, so that it can be told from the empty one below a file system that is not there.
    pub(crate) fn mark(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, MARKER, flags, FILE)?;
        Ok(())
    }

    /// Begins a message, or says that it is there.
    pub(crate) fn begin(self, name: &str) -> io::Result<Begun> {
        if is_there(&self.root, name)? {
            return Ok(Begun::There);
        }
        let hidden = format!(".{name}.part");
        // What a process that died left behind.
        self.remove(&hidden)?;
        rustix::fs::mkdirat(&self.root, &hidden, FOLDER)?;
        let files = folder_at(&self.root, &hidden)?;
        Ok(Begun::Draft(Draft { place: self, files, hidden, name: name.to_owned() }))
    }

    /// How a message lies here; `None` if this is not the folder it was put into.
    pub(crate) fn look(&self, name: &str) -> io::Result<Option<Seen>> {
        if !is_there(&self.root, MARKER)? {
            return Ok(None);
        }
        let files = match folder_at(&self.root, name) {
            Ok(files) => files,
            Err(Errno::NOENT) => return Ok(Some(Seen { there: false, acknowledged: false })),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Seen { there: true, acknowledged: is_there(&files, ACKNOWLEDGED)? }))
    }

    /// Removes a message with its files; nothing happens if it is not there.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let files = match folder_at(&self.root, name) {
            Ok(files) => files,
            Err(Errno::NOENT) => return Ok(()),
            // Something else has the name.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Ok(rustix::fs::unlinkat(&self.root, name, AtFlags::empty())?);
            }
            Err(error) => return Err(error.into()),
        };
        for entry in Dir::read_from(&files)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let flags = match entry.file_type() {
                FileType::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            rustix::fs::unlinkat(&files, name, flags)?;
        }
        rustix::fs::unlinkat(&self.root, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }
}

impl Draft {
    /// A new file of the message.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.files, name, flags, FILE)?))
    }

    /// Lets the message appear. Its files were synced before.
    pub(crate) fn publish(self) -> io::Result<()> {
        sync(&self.files)?;
        let root = &self.place.root;
        let renamed = rustix::fs::renameat_with(root, &self.hidden, root, &self.name, RenameFlags::NOREPLACE);
        let renamed = match renamed {
            // Network file systems do not know the flag. A folder with files is never replaced.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                rustix::fs::renameat(root, &self.hidden, root, &self.name)
            }
            renamed => renamed,
        };
        match renamed {
            Ok(()) => Ok(sync(root)?),
            // Another attempt that was believed dead was faster.
            Err(Errno::EXIST | Errno::NOTEMPTY) => self.place.remove(&self.hidden),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn put(folder: &Path, name: &str) {
        let Begun::Draft(draft) = Place::open(folder).unwrap().begin(name).unwrap() else {
            panic!("it is there already")
        };
        draft.create("document.xml").unwrap().write_all(b"<a/>").unwrap();
        assert!(!folder.join(name).exists(), "nobody sees it before it is whole");
        draft.publish().unwrap();
    }

    #[test]
    fn a_message_appears_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "one");
        assert_eq!(std::fs::read(folder.path().join("one/document.xml")).unwrap(), b"<a/>");
        let again = Place::open(folder.path()).unwrap().begin("one").unwrap();
        assert!(matches!(again, Begun::There));
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(names, ["one"]);
    }

    #[test]
    fn what_a_dead_process_left_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".one.part")).unwrap();
        std::fs::write(folder.path().join(".one.part/document.xml"), b"half").unwrap();
        put(folder.path(), "one");
        assert_eq!(std::fs::read(folder.path().join("one/document.xml")).unwrap(), b"<a/>");
        // Of two attempts the one that is faster wins; the other leaves nothing.
        let Begun::Draft(late) = Place::open(folder.path()).unwrap().begin("two").unwrap() else { panic!() };
        late.create("document.xml").unwrap().write_all(b"late").unwrap();
        std::fs::create_dir(folder.path().join("two")).unwrap();
        std::fs::write(folder.path().join("two/document.xml"), b"first").unwrap();
        late.publish().unwrap();
        assert_eq!(std::fs::read(folder.path().join("two/document.xml")).unwrap(), b"first");
        assert!(!folder.path().join(".two.part").exists());
    }

    #[test]
    fn links_lead_nowhere() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(elsewhere.path().join("treasure"), b"precious").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        assert!(Place::open(&link).is_err());
        // Somebody expects the hidden name.
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join(".one.part")).unwrap();
        put(folder.path(), "one");
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("two")).unwrap();
        Place::open(folder.path()).unwrap().remove("two").unwrap();
        assert_eq!(std::fs::read(elsewhere.path().join("treasure")).unwrap(), b"precious");
    }

    #[test]
    fn a_folder_that_is_not_there_says_nothing_about_messages() {
        let folder = tempfile::tempdir().unwrap();
        let place = || Place::open(folder.path()).unwrap();
        assert_eq!(place().look("one").unwrap(), None, "perhaps its file system is not mounted");
        place().mark().unwrap();
        place().mark().unwrap();
        put(folder.path(), "one");
        assert_eq!(place().look("one").unwrap(), Some(Seen { there: true, acknowledged: false }));
        std::fs::write(folder.path().join("one").join(ACKNOWLEDGED), b"").unwrap();
        assert_eq!(place().look("one").unwrap(), Some(Seen { there: true, acknowledged: true }));
        place().remove("one").unwrap();
        assert_eq!(place().look("one").unwrap(), Some(Seen { there: false, acknowledged: false }));
    }
}
