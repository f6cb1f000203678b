//! Asks other people's intermediaries what became of deliveries that were stored there: their process cards end up on ours.

use std::collections::BTreeMap;
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
            self.complain(&error);
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
                match self.ask_for(&mut open, page.messages).await {
                    Ok(()) => session = Some(open),
                    // One delivery of these may be what it is about; those behind them are asked for all the same.
                    Err(Stopped::Dialog(error @ (DialogError::Fault(_) | DialogError::Answer(_)))) => {
                        self.complain(&error);
                    }
                    Err(error) => return Err(error),
                }
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

    async fn ask_for(
        &self,
        session: &mut Session,
        messages: Vec<(MessageId, String)>,
    ) -> Result<(), Stopped> {
        let mut wanted: BTreeMap<String, MessageId> =
            messages.into_iter().map(|(message, id)| (id, message)).collect();
        // An intermediary may tell of fewer at a time than it was asked for.
        while !wanted.is_empty() {
            let before = wanted.len();
            for card in session.cards(wanted.keys().cloned().collect()).await? {
                let Some(message) = wanted.remove(&card.message_id) else { continue };
                let progress = RemoteProgress { fetched: card.forwarding, received: card.reception };
                if progress != RemoteProgress::default() {
                    self.following.note(message, progress).await?;
                }
            }
            if wanted.len() == before {
                break;
            }
        }
        Ok(())
    }

    fn complain(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(intermediary = self.name, error, "Deliveries could not be followed.");
    }
}
