//! Fetches deliveries from our mailboxes at other people's intermediaries: fetch, commit here, and only then go on in the dialog, which
//! tells the intermediary that the last one arrived.
//!
//! What was committed and not confirmed is fetched again and recognised by its id. A delivery that cannot be taken ends the look: going on
//! would say that it arrived.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::Delivery;
use amtsbote_core::intake::{Intake, IntakeError, Submission, Target, UnusableCertificate};
use amtsbote_core::key::{AccountName, PartyId};
use amtsbote_core::message::{ExternalId, IdScheme, IntakeKey, Message};
use amtsbote_core::port::{Clock, MessageStore, StoreError};
use amtsbote_core::route::Route;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::clients::Trust;
use crate::codec::Problem;
use crate::codec::block::{Certificates, check_ids, custom_headers};
use crate::codec::card::ProcessCard;
use crate::codec::code::Code;
use crate::codec::content::ContentPackage;
use crate::codec::order::{Answer, FetchRule, Request};
use crate::deliveries::{KeepError, carry, keep, plan, unspoken};
use crate::reception::Received;
use crate::services::MetadataCodec;
use crate::session::{DialogError, Freight, OsciClient, Peer, Session, first_digits};

/// Deliveries of one dialog.
const PER_DIALOG: usize = 1_000;

/// One remote mailbox.
pub struct OsciPoller {
    /// Name of the intermediary in the configuration.
    pub name: String,
    /// The client with our keys; the cipher key owns the mailbox.
    pub client: OsciClient,
    /// Where it is.
    pub peer: Peer,
    /// Account here in whose name deliveries come in; ids of deliveries are its.
    pub account: AccountName,
    /// Party that counts as their sender, unless their metadata say more.
    pub sender: PartyId,
    /// Organisation they are for; somebody here has to serve it.
    pub recipient: PartyId,
    /// Time between two looks.
    pub every: Duration,
    /// Takes deliveries.
    pub intake: Arc<Intake>,
    /// Stages contents.
    pub store: Arc<dyn MessageStore>,
    /// Metadata of XTA.
    pub metadata: Arc<dyn MetadataCodec>,
    /// Whom we trust.
    pub trust: Trust,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why a delivery stays where it is.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Dialog(#[from] DialogError),
    #[error("the delivery: {0}")]
    Content(#[from] Problem),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error("the disk failed")]
    Io(#[from] std::io::Error),
    #[error("the intermediary answered with code {0}")]
    Code(String),
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
                    tracing::warn!(intermediary = self.name, error, "A remote mailbox was not emptied.");
                    return;
                }
            }
        }
    }

    /// One dialog; whether nothing is left.
    async fn empty(&self) -> Result<bool, Left> {
        let mut session = self.client.open(self.peer.clone()).await?;
        for _ in 0..PER_DIALOG {
            let Some((received, card)) = fetch(&mut session).await? else {
                session.close().await?;
                return Ok(true);
            };
            self.take(received, card).await?;
        }
        session.close().await?;
        Ok(false)
    }

    async fn take(&self, received: Received, card: ProcessCard) -> Result<(), Left> {
        let certificates = Certificates::read(&received.envelope)?;
        let custom = custom_headers(&received.envelope)?;
        let planned = {
            check_ids(&received.envelope)?;
            let package = ContentPackage::of(&received.envelope)?;
            package.check(&certificates, &received.part_ids(), &received)?;
            plan(&package, &received)?
        };
        let said = match custom.iter().find(|header| header.is_metadata()) {
            Some(header) => self.metadata.read(&header.text, &self.sender).await,
            None => None,
        };
        let usual = unspoken().ok_or(Problem::Structure("a service without name"))?;
        let mut metadata = said.unwrap_or(usual);
        metadata.subject = card.subject.or(metadata.subject);
        (metadata.recipient, metadata.area) = (Some(self.recipient.clone()), None);
        let (inspections, _) = self.trust.inspect(&certificates, self.clock.now());
        let kept = keep(planned, &received, self.store.stage().await?).await;
        let (parts, payload) = kept.map_err(|error| match error {
            KeepError::Store(error) => Left::Store(error),
            KeepError::Read(error) => Left::Io(error),
        })?;
        // One account may have mailboxes at several intermediaries, each with ids of its own.
        let value = format!("{}/{}", self.name, card.message_id);
        let value = value.parse().map_err(|_| Problem::Structure("a MessageId that is none"))?;
        let submission = Submission {
            key: IntakeKey { account: self.account.clone(), scheme: IdScheme::Osci, value },
            sender: self.sender.clone(),
            metadata,
            parts,
            payload,
            external_ids: vec![ExternalId { scheme: IdScheme::Osci, value: card.message_id }],
            carried: carry(&certificates, &custom, &inspections),
            canonical: Vec::new(),
            target: Target::LocalMailbox,
            reserved: None,
            unusable_certificate: UnusableCertificate::Wait,
        };
        // New or fetched before: either way it is safe here.
        self.intake.accept(submission, &nothing).await?;
        Ok(())
    }
}

/// The next delivery; asking for it says that the last one arrived.
async fn fetch(session: &mut Session) -> Result<Option<(Received, ProcessCard)>, Left> {
    let answered = session.ask(&Request::FetchDelivery(FetchRule::Next), Freight::default()).await?;
    let digits = first_digits(&answered.response);
    match answered.response.answer {
        Answer::FetchDelivery(_, Some(card)) if digits.starts_with('0') => {
            Ok(Some((answered.received, *card)))
        }
        _ if digits == Code::NoDelivery.digits() => Ok(None),
        _ => Err(Left::Code(digits)),
    }
}

/// The intermediary needs no answer that could be repeated.
fn nothing(_: &Message, _: &Delivery, _: Option<&Route>) -> Bytes {
    Bytes::new()
}
