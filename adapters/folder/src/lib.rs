//! Delivers messages into hot folders, the way old systems exchange files.
//!
//! ```text
//! <folder>/.<uuid>.part/...      being written, nobody looks there
//! <folder>/<uuid>/message.json   everything the gateway knows of the message, and the names of its files
//! <folder>/<uuid>/document.xml   the document; signature.p7s is its seal (detached CMS)
//! <folder>/<uuid>/attachment-1.pdf ...
//! ```
//!
//! A message appears with one rename, whole and on stable storage, or not at all; that works on network file systems, too. Names are
//! made by the gateway: nothing a sender wrote becomes a path. Symbolic links are not followed, so whoever may write into the folder
//! cannot send the gateway elsewhere. Whatever keeps the folder from being written concerns its destination as a whole.

mod channel;
mod description;
mod place;
mod watcher;

pub use channel::{Acknowledgement, Folder, FolderChannel};
pub use watcher::FolderWatcher;
