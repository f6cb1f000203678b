//! What the intermediary works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::account::{Account, AccountBook};
use amtsbote_core::exchange::Exchanges;
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::Intake;
use amtsbote_core::key::{AccountName, PartyId};
use amtsbote_core::mailbox::Mailboxes;
use amtsbote_core::message::{ExternalId, IdScheme, Metadata};
use amtsbote_core::port::{CertificateDirectory, Clock, Entropy, MessageStore, StoreError, StoredMessage};
use amtsbote_core::reservation::Reservations;
use amtsbote_core::submissions::Submissions;
use amtsbote_http::{InFlight, Quotas};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::clients::Trust;
use crate::codec::algorithm::Policy;
use crate::codec::block::{Certificates, Features};
use crate::codec::certificate::Identity;
use crate::dialogs::Dialogs;
use crate::reception::Limits;
use crate::recipient::Recipient;
use crate::transfers::Transfers;

/// What the metadata of XTA say of a delivery.
#[derive(Debug, Clone)]
pub struct Said {
    /// What core can know.
    pub metadata: Metadata,
    /// The id it has there.
    pub message_id: Option<String>,
}

impl Said {
    /// The id as core keeps it.
    pub(crate) fn external_id(&self) -> Option<ExternalId> {
        let value = self.message_id.clone()?;
        Some(ExternalId { scheme: IdScheme::Xta, value })
    }
}

/// The metadata of XTA, which OSCI carries in a header block. What it says is not this adapter's to know.
#[async_trait]
pub trait MetadataCodec: Send + Sync {
    /// What an element `MessageMetaData` says; `None` if it is not readable.
    async fn read(&self, element: &str, sender: &PartyId) -> Option<Said>;

    /// A message in that form.
    async fn write(&self, message: &StoredMessage) -> String;
}

/// Ids that are given out for deliveries.
#[async_trait]
pub trait DeliveryIds: Send + Sync {
    /// Gives one out; durable when it returns.
    ///
    /// # Errors
    /// When the store fails.
    async fn give(&self, account: &Account) -> Result<String, StoreError>;

    /// To whom an id was given out, and the message it will name; `None` if it was not given out here.
    ///
    /// # Errors
    /// When the store fails.
    async fn holder(&self, id: &str) -> Result<Option<(AccountName, Option<MessageId>)>, StoreError>;
}

#[async_trait]
impl DeliveryIds for Reservations {
    async fn give(&self, account: &Account) -> Result<String, StoreError> {
        Ok(self.reserve(account).await?.uuid().as_hyphenated().to_string())
    }

    async fn holder(&self, id: &str) -> Result<Option<(AccountName, Option<MessageId>)>, StoreError> {
        // Each id has one spelling.
        let Ok(own) = id.parse::<MessageId>() else { return Ok(None) };
        if own.uuid().as_hyphenated().to_string() != id {
            return Ok(None);
        }
        Ok(self.holder(own).await?.map(|account| (account, Some(own))))
    }
}

/// How the intermediary behaves.
#[derive(Debug, Clone)]
pub struct OsciOptions {
    /// Bytes of the XML part of a message.
    pub xml_limit: usize,
    /// Bytes of a message as it comes.
    pub message_limit: u64,
    /// Algorithms besides the usual.
    pub policy: Policy,
    /// Orders outside of dialogs need no signature: whoever knows a certificate can send in its owner's name.
    pub unsigned_orders: bool,
    /// Where files without a name may lie.
    pub folder: PathBuf,
    /// The directory is asked about addressees whose certificate no account has.
    pub directory_addressees: bool,
    /// Cards of one answer, if the client wants no fewer.
    pub cards: usize,
}

/// Keys of the intermediary; the first cipher key is the one others encrypt for now, the others are older ones.
#[derive(Debug, Clone)]
pub struct OsciKeys {
    /// What others encrypt for.
    pub cipher: Vec<Identity>,
    /// Signs all responses.
    pub signature: Identity,
}

impl OsciKeys {
    /// What responses tell of them: deployed clients accept the signature certificate only.
    pub(crate) fn shown(&self) -> Certificates {
        use crate::codec::block::CertificateRole::SignatureIntermediary;
        Certificates::default().with(SignatureIntermediary, self.signature.certificate())
    }
}

/// What the intermediary works with.
pub struct Services {
    /// Takes deliveries.
    pub intake: Arc<Intake>,
    /// Has them pushed.
    pub exchanges: Arc<Exchanges>,
    /// Follows them.
    pub submissions: Arc<Submissions>,
    /// Hands them out.
    pub mailboxes: Arc<Mailboxes>,
    /// Gives ids out.
    pub ids: Arc<dyn DeliveryIds>,
    /// Keeps contents.
    pub store: Arc<dyn MessageStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Who may call; replaced while running.
    pub accounts: Arc<ArcSwap<AccountBook>>,
    /// Whom we trust.
    pub trust: Trust,
    /// Who strangers are, and whom others encrypt for.
    pub directory: Arc<dyn CertificateDirectory>,
    /// Our keys.
    pub keys: Arc<OsciKeys>,
    /// Metadata of XTA.
    pub metadata: Arc<dyn MetadataCodec>,
    /// How often an account may call.
    pub quotas: Arc<Quotas>,
    /// Memory for bodies.
    pub in_flight: Arc<InFlight>,
    /// Limits.
    pub options: OsciOptions,
    /// Open dialogs.
    pub dialogs: Dialogs,
    /// Intermediaries that push to us.
    pub recipients: Vec<Recipient>,
    /// Messages in chunks.
    pub transfers: Arc<Transfers>,
    /// Messages that are being verified, which takes memory.
    pub large: Arc<Semaphore>,
}

impl Services {
    /// Everything that opens what is encrypted for us.
    pub(crate) fn cipher_keys(&self) -> Vec<Identity> {
        let recipients = self.recipients.iter().map(|recipient| recipient.own.cipher.clone());
        self.keys.cipher.iter().cloned().chain(recipients).collect()
    }

    /// What we say we can do.
    pub(crate) fn features(&self) -> Features {
        let limits = &self.transfers.limits;
        Features {
            max_chunk: Some(limits.max_chunk),
            min_chunk: Some(limits.min_chunk),
            max_message: Some(limits.max_message),
            timeout: Some(limits.timeout.as_secs()),
            ..Features::all()
        }
    }

    /// What is taken from strangers.
    pub(crate) fn reception_limits(&self) -> Limits {
        self.options.limits()
    }
}

impl OsciOptions {
    /// What is taken from strangers.
    pub fn limits(&self) -> Limits {
        let options = self;
        Limits {
            xml: options.xml_limit,
            message: options.message_limit,
            policy: options.policy,
            folder: options.folder.clone(),
        }
    }
}

/// Time without a word after which a dialog ends.
pub const DIALOG_IDLE: Duration = Duration::from_secs(15 * 60);
