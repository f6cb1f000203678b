//! Looks whether departments have taken what lies in a folder.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::id::MessageId;
use amtsbote_core::port::{Clock, StoreError};
use amtsbote_core::remote::{Following, RemoteProgress};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::channel::{Acknowledgement, Folder, place_of};
use crate::place::{Place, Seen};

/// Messages that are looked at at a time.
const PAGE: usize = 256;

/// Follows what was put into one folder.
pub struct FolderWatcher {
    /// Name of the folder.
    pub name: String,
    /// The folder.
    pub folder: Folder,
    /// What is followed.
    pub following: Following,
    /// Time between two looks.
    pub every: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("the folder cannot be read")]
    Folder(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the folder is not the one messages were put into; is it mounted?")]
    NotOurs,
    #[error("a worker ended without a word")]
    Worker,
}

impl FolderWatcher {
    /// Looks until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut quiet = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(self.every) => {}
            }
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            // Once is enough for an outage that may last.
            if let (Err(error), false) = (&looked, quiet) {
                let error = error as &dyn std::error::Error;
                tracing::warn!(folder = self.name, error, "Nobody can say what departments have taken.");
            }
            quiet = looked.is_err();
        }
    }

    async fn look(&self) -> Result<(), Stopped> {
        let mut after = None;
        loop {
            let page = self.following.open(&place_of(&self.name), after, PAGE).await?;
            for (message, id) in page.messages {
                self.look_for(message, id).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn look_for(&self, message: MessageId, id: String) -> Result<(), Stopped> {
        let seen = self.in_folder({
            let id = id.clone();
            move |place| place.look(&id)
        });
        let Seen { there, acknowledged } = seen.await?.ok_or(Stopped::NotOurs)?;
        let taken = match self.folder.acknowledgement {
            Acknowledgement::File => acknowledged || !there,
            Acknowledgement::None | Acknowledgement::Removal => !there,
        };
        if !taken {
            return Ok(());
        }
        // Removed first: should the process die in between, what is gone is taken, too.
        if there && self.folder.acknowledgement == Acknowledgement::File {
            self.in_folder(move |place| place.remove(&id)).await?;
        }
        let progress = RemoteProgress { received: Some(self.clock.now()), ..RemoteProgress::default() };
        Ok(self.following.note(message, progress).await?)
    }

    async fn in_folder<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Stopped> {
        let path: PathBuf = self.folder.path.clone();
        let done = spawn_blocking(move || work(&Place::open(&path)?));
        Ok(done.await.map_err(|_| Stopped::Worker)??)
    }
}
