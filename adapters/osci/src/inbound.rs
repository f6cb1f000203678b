//! Deliveries that come from other people's intermediaries, fetched or pushed, on their way into a mailbox here.

use std::sync::Arc;

use amtsbote_core::delivery::Delivery;
use amtsbote_core::intake::{Intake, IntakeError, Submission, Target, UnusableCertificate};
use amtsbote_core::key::{AccountName, PartyId};
use amtsbote_core::message::{ExternalId, IdScheme, IntakeKey, Message};
use amtsbote_core::port::{Clock, Entropy, MessageStore, StoreError};
use amtsbote_core::route::Route;
use bytes::Bytes;

use crate::clients::Trust;
use crate::codec::Problem;
use crate::codec::block::{Certificates, custom_headers};
use crate::codec::card::ProcessCard;
use crate::deliveries::{KeepError, carry, checked, keep, unspoken};
use crate::dialogs::challenge;
use crate::reception::Received;
use crate::server::in_thread;
use crate::services::{MetadataCodec, Said};

/// Takes deliveries of one intermediary in.
#[derive(Clone)]
pub struct Inbound {
    /// Name of the intermediary in the configuration.
    pub name: String,
    /// Account here in whose name deliveries come in; ids of deliveries are its.
    pub account: AccountName,
    /// Party that counts as their sender.
    pub sender: PartyId,
    /// Organisation they are for; somebody here has to serve it.
    pub recipient: PartyId,
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
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Why a delivery was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Something is wrong with it.
    #[error("the delivery: {0}")]
    Content(#[from] Problem),
    /// The store cannot.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no way for it.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The disk cannot.
    #[error("the disk failed")]
    Io(#[from] std::io::Error),
}

impl From<KeepError> for NotTaken {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Store(error) => Self::Store(error),
            KeepError::Read(error) => Self::Io(error),
        }
    }
}

impl Inbound {
    /// Takes a delivery in; safe here when it returns. One that was taken before is recognised by its id.
    pub(crate) async fn take(&self, received: Received, card: ProcessCard) -> Result<(), NotTaken> {
        let submission = self.submission(received, Some(card)).await?;
        self.intake.accept(submission, &nothing).await?;
        Ok(())
    }

    /// A delivery as core is handed it, its content in the store. Without a card it has no id, and is another one every time.
    pub(crate) async fn submission(
        &self,
        received: Received,
        card: Option<ProcessCard>,
    ) -> Result<Submission, NotTaken> {
        let certificates = Certificates::read(&received.envelope)?;
        let custom = custom_headers(&received.envelope)?;
        let (planned, certificates, received) = in_thread(move || {
            let planned = checked(&received, &certificates)?;
            Ok::<_, Problem>((planned, certificates, received))
        })
        .await
        .map_err(|_| std::io::Error::other("a worker ended without a word"))??;
        let said = match custom.iter().find(|header| header.is_metadata()) {
            Some(header) => self.metadata.read(&header.text, &self.sender).await,
            None => None,
        };
        let usual = unspoken().ok_or(Problem::Structure("a service without name"))?;
        let by_xta = said.as_ref().and_then(Said::external_id);
        let mut metadata = said.map_or(usual, |said| said.metadata);
        let (id, subject) = card.map_or((None, None), |card| (Some(card.message_id), card.subject));
        metadata.subject = subject.or(metadata.subject);
        (metadata.recipient, metadata.area) = (Some(self.recipient.clone()), None);
        let (inspections, _) = self.trust.inspect(&certificates, self.clock.now());
        let (parts, payload) = keep(planned, &received, self.store.stage().await?).await?;
        // One account may have mailboxes at several intermediaries, each with ids of its own.
        let value = match &id {
            Some(id) => format!("{}/{id}", self.name),
            None => format!("{}/{}", self.name, challenge(self.entropy.as_ref())),
        };
        let value = value.parse().map_err(|_| Problem::Structure("a MessageId that is none"))?;
        let external = id.map(|value| ExternalId { scheme: IdScheme::Osci, value });
        Ok(Submission {
            key: IntakeKey { account: self.account.clone(), scheme: IdScheme::Osci, value },
            sender: self.sender.clone(),
            metadata,
            parts,
            payload,
            external_ids: external.into_iter().chain(by_xta).collect(),
            carried: carry(&certificates, &custom, &inspections),
            canonical: Vec::new(),
            target: Target::LocalMailbox,
            reserved: None,
            unusable_certificate: UnusableCertificate::Wait,
        })
    }
}

/// Intermediaries need no answer that could be repeated.
fn nothing(_: &Message, _: &Delivery, _: Option<&Route>) -> Bytes {
    Bytes::new()
}
