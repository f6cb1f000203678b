//! The `Channel` port over folders.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::{FailureClass, Proof};
use amtsbote_core::port::{Channel, Clock, DeliveryOutcome, Handover, MessageStore, StoreError};
use amtsbote_core::remote::{RemoteId, RemoteIds};
use amtsbote_core::route::{ChannelKind, Endpoint};
use async_trait::async_trait;
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use crate::description::{DESCRIPTION, SIGNATURE, describe, file_name};
use crate::place::{Begun, Draft, Place};

/// How a department says that it has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acknowledgement {
    /// Not at all.
    None,
    /// It takes the files away.
    #[default]
    Removal,
    /// It puts a file `acknowledged` beside them; the gateway removes all of them then.
    File,
}

/// A configured folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where.
    pub path: PathBuf,
    /// How messages are acknowledged.
    pub acknowledgement: Acknowledgement,
    /// Time for one hand-over; a network file system may hang.
    pub attempt: Duration,
}

/// Delivery into folders by name.
pub struct FolderChannel {
    folders: BTreeMap<String, Folder>,
    ids: RemoteIds,
    clock: Arc<dyn Clock>,
}

/// Name under which what lies in a folder is followed.
pub(crate) fn place_of(name: &str) -> String {
    format!("folder:{name}")
}

/// Why a hand-over failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the folder cannot be written")]
    Folder(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the message has no document")]
    NoDocument,
    #[error("a worker ended without a word")]
    Worker,
}

impl Failed {
    /// Whatever is wrong with the folder concerns everything that goes there.
    fn outcome(&self) -> DeliveryOutcome {
        let (class, code, detail) = match self {
            Self::Folder(error) => {
                let (code, detail) = explain(error);
                (FailureClass::Destination, code, detail.to_owned())
            }
            Self::Store(error) => (FailureClass::Ours, "store", error.to_string()),
            Self::Worker => (FailureClass::Ours, "internal", self.to_string()),
            Self::NoDocument => (FailureClass::Permanent, "damaged", self.to_string()),
        };
        DeliveryOutcome::failed(class, code, detail)
    }
}

/// What is wrong with a folder, and what an operator can do about it.
fn explain(error: &io::Error) -> (&'static str, &'static str) {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => ("folder-full", "the folder's file system has no room left"),
        Some(Errno::ACCESS | Errno::PERM) => ("folder-denied", "the gateway may not write into the folder"),
        Some(Errno::ROFS) => ("folder-denied", "the folder's file system is read-only"),
        Some(Errno::NOENT | Errno::STALE) => ("folder-missing", "the folder is not there; is it mounted?"),
        Some(Errno::NOTDIR | Errno::LOOP) => ("folder-refused", "the path is a symbolic link or no folder"),
        _ => ("folder-failed", "the folder's file system failed"),
    }
}

impl FolderChannel {
    /// Folders by name.
    pub fn new(
        folders: BTreeMap<String, Folder>,
        store: Arc<dyn MessageStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { folders, ids: RemoteIds::new(store), clock }
    }

    /// The folder an address means: `folder://NAME`, or the path a directory lists, which has to be a configured one.
    fn find(&self, address: &str) -> Option<(&str, &Folder)> {
        if let Some(name) = address.strip_prefix("folder://") {
            return self.folders.get_key_value(name).map(|(name, folder)| (name.as_str(), folder));
        }
        let listed: serde_json::Value = serde_json::from_str(address).ok()?;
        let path = Path::new(listed.get("path")?.as_str()?);
        let found = self.folders.iter().find(|(_, folder)| folder.path == path);
        found.map(|(name, folder)| (name.as_str(), folder))
    }

    async fn put(&self, name: &str, folder: &Folder, handover: &Handover) -> Result<Proof, Failed> {
        let message = &handover.message;
        let id = message.id.uuid().as_hyphenated().to_string();
        let proof = Proof(format!("in folder {name} as {id}"));
        let follows = folder.acknowledgement != Acknowledgement::None;
        if follows {
            // Remembered before it is there: a department may be fast.
            let remote = RemoteId { place: place_of(name), id: id.clone() };
            self.ids.keep(message.id, &remote).await?;
        }
        let path = folder.path.clone();
        let begun = blocking(move || {
            let place = Place::open(&path)?;
            if follows {
                place.mark()?;
            }
            place.begin(&id)
        });
        let draft = match begun.await? {
            Begun::There => return Ok(proof),
            Begun::Draft(draft) => Arc::new(draft),
        };
        if message.parts.is_empty() {
            return Err(Failed::NoDocument);
        }
        for (number, part) in message.parts.iter().enumerate() {
            let opened = handover.open(u16::try_from(number).unwrap_or(u16::MAX)).await?;
            let mut reader = opened.ok_or(Failed::NoDocument)?.reader;
            let mut file = create(&draft, file_name(number, part)).await?;
            while let Some(piece) = reader.next().await? {
                file = blocking(move || file.write_all(&piece).map(|()| file)).await?;
            }
            blocking(move || file.sync_all()).await?;
        }
        whole(&draft, SIGNATURE, handover.seal.signature.to_vec()).await?;
        let description = serde_json::to_vec_pretty(&describe(handover)).map_err(io::Error::other)?;
        whole(&draft, DESCRIPTION, description).await?;
        let draft = Arc::into_inner(draft).ok_or(Failed::Worker)?;
        blocking(move || draft.publish()).await?;
        Ok(proof)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failed> {
    spawn_blocking(work).await.map_err(|_| Failed::Worker)?.map_err(Failed::Folder)
}

async fn create(draft: &Arc<Draft>, name: String) -> Result<File, Failed> {
    let draft = Arc::clone(draft);
    blocking(move || draft.create(&name)).await
}

/// Writes a file at once.
async fn whole(draft: &Arc<Draft>, name: &str, bytes: Vec<u8>) -> Result<(), Failed> {
    let mut file = create(draft, name.to_owned()).await?;
    blocking(move || file.write_all(&bytes).and_then(|()| file.sync_all())).await
}

#[async_trait]
impl Channel for FolderChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Folder
    }

    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String> {
        self.find(&endpoint.address)
            .map(drop)
            .ok_or_else(|| "no folder of this name is configured".to_owned())
    }

    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome {
        let Some((name, folder)) = self.find(&handover.route.endpoint.address) else {
            let detail = "no folder of this name is configured";
            return DeliveryOutcome::failed(FailureClass::Destination, "no-folder", detail);
        };
        tokio::select! {
            put = self.put(name, folder, handover) => match put {
                Ok(proof) => DeliveryOutcome::Delivered(proof),
                Err(failed) => {
                    tracing::debug!(folder = name, error = &failed as &dyn std::error::Error, "A message was not put into a folder.");
                    failed.outcome()
                }
            },
            () = self.clock.sleep(folder.attempt) => {
                let detail = "the folder's file system does not answer in time";
                DeliveryOutcome::failed(FailureClass::Destination, "folder-hangs", detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wrong_with_a_folder_has_a_name() {
        for (errno, code) in [
            (Errno::NOSPC, "folder-full"),
            (Errno::DQUOT, "folder-full"),
            (Errno::ACCESS, "folder-denied"),
            (Errno::ROFS, "folder-denied"),
            (Errno::NOENT, "folder-missing"),
            (Errno::STALE, "folder-missing"),
            (Errno::LOOP, "folder-refused"),
            (Errno::NOTDIR, "folder-refused"),
            (Errno::IO, "folder-failed"),
        ] {
            let failed = Failed::Folder(errno.into());
            let DeliveryOutcome::Failed { class, reason, .. } = failed.outcome() else { panic!("{code}") };
            assert_eq!((class, reason.code.as_str()), (FailureClass::Destination, code));
        }
    }
}
