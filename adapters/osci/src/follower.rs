//! Asks other people's intermediaries what became of deliveries that were stored there: their process cards end up on ours.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::id::MessageId;
use amtsbote_core::port::{Clock, StoreError};
use amtsbote_core::remote::{Following, RemoteProgress};
use tokio_util::sync::CancellationToken;

use crate::session::{DialogError, OsciClient, Peer, Session};

/// Deliveries one order asks for; intermediaries limit their answers.
const BATCH: usize = 100;

/// Follows what was stored at one intermediary.
pub struct OsciFollower {
    /// Its name.
    pub name: String,
    /// The client with our keys.
    pub client: OsciClient,
    /// Where it is.
    pub peer: Peer,
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
    #[error(transparent)]
    Dialog(#[from] DialogError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OsciFollower {
    /// Looks until stopped.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(self.every) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
        }
    }

    /// Asks once for everything that is not known to be received.
    pub async fn look(&self) {
        if let Err(error) = self.ask().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(intermediary = self.name, error, "Deliveries could not be followed.");
        }
    }

    async fn ask(&self) -> Result<(), Stopped> {
        let (mut session, mut after) = (None, None);
        loop {
            let page = self.following.open(&self.name, after, BATCH).await?;
            if !page.messages.is_empty() {
                let mut open = match session.take() {
                    Some(open) => open,
                    None => self.client.open(self.peer.clone()).await?,
                };
                self.ask_for(&mut open, &page.messages).await?;
                session = Some(open);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        match session {
            Some(session) => Ok(session.close().await?),
            None => Ok(()),
        }
    }

    async fn ask_for(&self, session: &mut Session, messages: &[(MessageId, String)]) -> Result<(), Stopped> {
        let cards = session.cards(messages.iter().map(|(_, id)| id.clone()).collect()).await?;
        for (message, id) in messages {
            let Some(card) = cards.iter().find(|card| card.message_id == *id) else { continue };
            let progress = RemoteProgress { fetched: card.forwarding, received: card.reception };
            self.following.note(*message, progress).await?;
        }
        Ok(())
    }
}
