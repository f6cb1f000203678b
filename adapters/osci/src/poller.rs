//! Fetches deliveries from our mailboxes at other people's intermediaries: fetch, commit here, and only then go on in the dialog, which
//! tells the intermediary that the last one arrived.
//!
//! What was committed and not confirmed is fetched again and recognised by its id. A delivery that cannot be taken ends its dialog: going on
//! would say that it arrived. Those behind it are then fetched by their ids.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::port::Clock;
use tokio_util::sync::CancellationToken;

use crate::codec::card::ProcessCard;
use crate::codec::code::Code;
use crate::codec::order::{Answer, CardRule, CardSelection, FetchRule, Part, Request};
use crate::inbound::{Inbound, NotTaken};
use crate::reception::Received;
use crate::session::{DialogError, Freight, OsciClient, Peer, Session, first_digits};

/// Deliveries of one dialog.
const PER_DIALOG: usize = 1_000;

/// One remote mailbox.
pub struct OsciPoller {
    /// The client with our keys; the cipher key owns the mailbox.
    pub client: OsciClient,
    /// Where it is.
    pub peer: Peer,
    /// Where deliveries go from here.
    pub inbound: Inbound,
    /// Time between two looks.
    pub every: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why a delivery stays where it is.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Dialog(#[from] DialogError),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    #[error("the intermediary answered with code {0}")]
    Code(String),
}

impl Left {
    /// Whether it is about one delivery, and will be the same next time.
    fn is_unusable(&self) -> bool {
        matches!(self, Self::Dialog(DialogError::Answer(_)) | Self::NotTaken(NotTaken::Content(_)))
    }
}

impl OsciPoller {
    /// Polls until stopped. A delivery that is being fetched is given up then; it is offered again.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(self.every) => {}
            }
        }
    }

    /// Fetches everything that is there now.
    pub async fn look(&self) {
        loop {
            match self.empty().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        intermediary = self.inbound.name,
                        error,
                        "A remote mailbox was not emptied."
                    );
                    return;
                }
            }
        }
    }

    /// One dialog; whether nothing is left that can be taken.
    async fn empty(&self) -> Result<bool, Left> {
        let mut session = self.client.open(self.peer.clone()).await?;
        for _ in 0..PER_DIALOG {
            match self.take(&mut session, FetchRule::Next).await {
                Ok(true) => {}
                Ok(false) => {
                    session.close().await?;
                    return Ok(true);
                }
                Err(left) if left.is_unusable() => {
                    self.complain("the next", &left);
                    return self.pass_by().await.map(|()| true);
                }
                Err(left) => return Err(left),
            }
        }
        session.close().await?;
        Ok(false)
    }

    /// Fetches a delivery and takes it in; whether there was one.
    async fn take(&self, session: &mut Session, rule: FetchRule) -> Result<bool, Left> {
        let Some((received, card)) = fetch(session, rule).await? else { return Ok(false) };
        self.inbound.take(received, card).await?;
        Ok(true)
    }

    fn complain(&self, delivery: &str, left: &Left) {
        let (intermediary, error) = (&self.inbound.name, left as &dyn std::error::Error);
        tracing::error!(
            intermediary,
            delivery,
            error,
            "A delivery cannot be taken in and stays where it is."
        );
    }

    /// Fetches what can be taken by ids, past what cannot.
    async fn pass_by(&self) -> Result<(), Left> {
        let mut session = self.client.open(self.peer.clone()).await?;
        let rule = CardRule {
            selection: CardSelection::All,
            part: Some(Part::Addressee),
            no_reception: true,
            limit: None,
        };
        for card in session.cards_by(rule).await? {
            match self.take(&mut session, FetchRule::Id(card.message_id.clone())).await {
                Ok(_) => {}
                Err(left) if left.is_unusable() => {
                    self.complain(&card.message_id, &left);
                    session = self.client.open(self.peer.clone()).await?;
                }
                Err(left) => return Err(left),
            }
        }
        Ok(session.close().await?)
    }
}

/// A delivery; asking for it says that the last one arrived.
async fn fetch(session: &mut Session, rule: FetchRule) -> Result<Option<(Received, ProcessCard)>, Left> {
    let answered = session.ask(&Request::FetchDelivery(rule), Freight::default()).await?;
    let digits = first_digits(&answered.response);
    match answered.response.answer {
        Answer::FetchDelivery(_, Some(card)) if digits.starts_with('0') => {
            Ok(Some((answered.received, *card)))
        }
        _ if digits == Code::NoDelivery.digits() => Ok(None),
        _ => Err(Left::Code(digits)),
    }
}
