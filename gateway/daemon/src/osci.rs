//! Puts the OSCI intermediary together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::account::AccountBook;
use amtsbote_core::intake::Intake;
use amtsbote_core::key::PartyId;
use amtsbote_core::port::{Clock, Entropy, MessageStore, StoredMessage};
use amtsbote_core::remote::Following;
use amtsbote_http::{Client, ClientOptions, Reach};
use amtsbote_osci::clients::{Trust, Unknown};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::certificate::{Certificate, Identity};
use amtsbote_osci::reception::Limits;
use amtsbote_osci::transfers::{TransferLimits, Transfers};
use amtsbote_osci::{
    Inbound, MetadataCodec, OsciChannel, OsciClient, OsciFollower, OsciKeys, OsciOptions, OsciPeer,
    OsciPoller, Own, Peer, Protection, Recipient, Said,
};
use async_trait::async_trait;

use crate::config::{Config, KeyPair, OsciConfig, OsciGuests, OsciInbound, OsciPeerConfig};
use crate::wire::StartError;

/// Time for a connection to another intermediary.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of the XML part of an answer of another intermediary, and of all of it.
const XML: usize = 64 << 20;
const MESSAGE: u64 = (1 << 30) + (64 << 20);
/// Cards of one answer.
const CARDS: usize = 500;
/// Messages above a few megabytes that are parsed at the same time.
pub(crate) const LARGE_AT_ONCE: usize = 2;

/// The metadata of XTA is the XTA adapter's to know.
pub(crate) struct XtaMetadata;

#[async_trait]
impl MetadataCodec for XtaMetadata {
    async fn read(&self, element: &str, sender: &PartyId) -> Option<Said> {
        let (metadata, message_id) = amtsbote_xta::read_carried(element, sender).await?;
        Some(Said { metadata, message_id })
    }

    async fn write(&self, message: &StoredMessage) -> String {
        amtsbote_xta::write_carried(message).await
    }
}

fn failed(path: &Path, detail: impl std::fmt::Display) -> StartError {
    StartError::Configuration { what: format!("osci: {}", path.display()), detail: detail.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|error| failed(path, error))
}

fn identity(pair: &KeyPair) -> Result<Identity, StartError> {
    let loaded = Identity::from_pem(&read(&pair.certificate)?, &read(&pair.key)?);
    loaded.map_err(|problem| failed(&pair.certificate, problem))
}

/// Loads the keys.
fn keys(config: &OsciConfig) -> Result<OsciKeys, StartError> {
    let cipher = config.cipher.iter().map(identity).collect::<Result<Vec<_>, _>>()?;
    for (key, pair) in cipher.iter().zip(&config.cipher) {
        if key.certificate().wrap(amtsbote_osci::codec::algorithm::KeyTransport::DEFAULT, &[0; 32]).is_err() {
            return Err(failed(&pair.certificate, "keys can be wrapped for RSA certificates only"));
        }
    }
    let signature = identity(&config.signature)?;
    if !signature.certificate().may_sign() {
        return Err(failed(&config.signature.certificate, "its key usage does not allow signatures"));
    }
    Ok(OsciKeys { cipher, signature })
}

/// What the intermediary and everything beside it need.
pub(crate) struct Intermediary {
    pub(crate) keys: Arc<OsciKeys>,
    pub(crate) trust: Trust,
    pub(crate) options: OsciOptions,
    folder: PathBuf,
}

impl Intermediary {
    /// Loads keys and makes folders, inside that of the store.
    pub(crate) fn load(config: &OsciConfig, store: &Path) -> Result<Self, StartError> {
        let folder = store.join("osci");
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        Ok(Self {
            keys: Arc::new(keys(config)?),
            trust: trust(config)?,
            options: options(config, &folder),
            folder,
        })
    }

    /// When the certificates end, with the names they have in metrics.
    pub(crate) fn expiries(&self) -> impl Iterator<Item = (&'static str, Timestamp)> {
        let cipher = self.keys.cipher.first().and_then(|key| key.certificate().expires());
        let signature = self.keys.signature.certificate().expires();
        cipher.map(|at| ("osci-cipher", at)).into_iter().chain(signature.map(|at| ("osci-signature", at)))
    }

    /// Messages in chunks; those that began too long ago are forgotten.
    pub(crate) fn transfers(
        &self,
        config: &OsciConfig,
        now: Timestamp,
    ) -> Result<Arc<Transfers>, StartError> {
        let limits = TransferLimits {
            max_chunk: config.max_chunk,
            min_chunk: config.min_chunk,
            max_message: config.message_limit / 1024,
            timeout: config.chunk_timeout,
        };
        let folder = self.folder.join("chunks");
        let opened = Transfers::open(&folder, limits).and_then(|opened| opened.sweep(now).map(|()| opened));
        opened.map(Arc::new).map_err(|error| failed(&folder, error))
    }
}

/// Whom the intermediary trusts.
fn trust(config: &OsciConfig) -> Result<Trust, StartError> {
    let mut authorities = Vec::new();
    for path in &config.authorities {
        let certificate = Certificate::from_pem(&read(path)?);
        authorities.push(certificate.map_err(|problem| failed(path, problem))?);
    }
    let unknown = match &config.guests {
        None => Unknown::Refuse,
        Some(OsciGuests { account, addressees, categories }) => Unknown::StoreFor {
            account: account.clone(),
            addressees: addressees.clone(),
            categories: categories.clone(),
        },
    };
    Ok(Trust { unknown, authorities })
}

/// How the intermediary behaves. `folder`: where files without a name may lie.
fn options(config: &OsciConfig, folder: &Path) -> OsciOptions {
    for (on, key) in [
        (config.legacy_ciphers, "osci.legacy_ciphers"),
        (config.rsa15, "osci.dangerously_accept_rsa15"),
        (config.unsigned_orders, "osci.dangerously_accept_unsigned_orders"),
    ] {
        if on {
            tracing::warn!(key, "The intermediary accepts what it should not.");
        }
    }
    OsciOptions {
        xml_limit: usize::try_from(config.xml_limit).unwrap_or(usize::MAX),
        message_limit: config.message_limit,
        policy: Policy { legacy_ciphers: config.legacy_ciphers, rsa15: config.rsa15 },
        unsigned_orders: config.unsigned_orders,
        folder: folder.to_owned(),
        directory_addressees: config.directory_addressees,
        cards: CARDS,
    }
}

/// A client with our keys at another intermediary, and where that is.
fn client(
    name: &str,
    config: &OsciPeerConfig,
    entropy: &Arc<dyn Entropy>,
    folder: &Path,
) -> Result<(OsciClient, Peer), StartError> {
    let unusable = |error: &dyn std::error::Error| StartError::Configuration {
        what: format!("OSCI intermediary {name}"),
        detail: error.to_string(),
    };
    let certificate =
        |path: &Path| Certificate::from_pem(&read(path)?).map_err(|problem| failed(path, problem));
    let own = Own { cipher: identity(&config.cipher)?, signature: identity(&config.signature)? };
    let options = ClientOptions {
        reach: Reach::Anywhere,
        connect: CONNECT.min(config.attempt),
        total: config.attempt,
        body: 0,
    };
    let tls = crate::wire::client_tls(&config.authorities)?;
    let http = Client::new(tls, options).map_err(|error| unusable(&error))?;
    let limits = Limits { xml: XML, message: MESSAGE, policy: Policy::default(), folder: folder.to_owned() };
    let peer = Peer {
        url: config.url.clone(),
        cipher: certificate(&config.intermediary_cipher)?,
        signature: Some(certificate(&config.intermediary_signature)?),
    };
    Ok((OsciClient::new(http, Arc::clone(entropy), limits, own), peer))
}

/// Another intermediary that pushes to us.
fn recipient(config: &OsciPeerConfig, inbound: Inbound) -> Result<Recipient, StartError> {
    let path = &config.intermediary_signature;
    let intermediary = Certificate::from_pem(&read(path)?).map_err(|problem| failed(path, problem))?;
    let own = Own { cipher: identity(&config.cipher)?, signature: identity(&config.signature)? };
    Ok(Recipient { own, intermediary, inbound })
}

/// The channel over all other intermediaries.
pub(crate) fn channel(
    config: &BTreeMap<String, OsciPeerConfig>,
    store: &Arc<dyn MessageStore>,
    entropy: &Arc<dyn Entropy>,
    folder: &Path,
) -> Result<OsciChannel, StartError> {
    let folder = folder.join("osci");
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    let mut peers = BTreeMap::new();
    for (name, config) in config {
        let (client, peer) = client(name, config, entropy, &folder)?;
        let recipient = match &config.recipient {
            Some(path) => Some(Certificate::from_pem(&read(path)?).map_err(|problem| failed(path, problem))?),
            None => None,
        };
        let sign = if config.sign { Some(identity(&config.signature)?) } else { None };
        let protection = Protection { sign, encrypt: config.encrypt };
        peers.insert(name.clone(), OsciPeer { client, peer, recipient, protection });
    }
    Ok(OsciChannel::new(peers, Arc::clone(store), Arc::new(XtaMetadata), folder))
}

/// What the exchange with other intermediaries works with.
pub(crate) struct Surroundings<'a> {
    pub(crate) intake: &'a Arc<Intake>,
    pub(crate) store: &'a Arc<dyn MessageStore>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) entropy: &'a Arc<dyn Entropy>,
    pub(crate) accounts: &'a AccountBook,
}

/// Everything beside the channel that has to do with other intermediaries.
#[derive(Default)]
pub(crate) struct Partners {
    /// Fetch our mailboxes there.
    pub(crate) pollers: Vec<OsciPoller>,
    /// Ask what became of our deliveries there.
    pub(crate) followers: Vec<OsciFollower>,
    /// Take what is pushed to us.
    pub(crate) recipients: Vec<Recipient>,
}

/// Puts it together.
pub(crate) fn partners(config: &Config, ports: &Surroundings<'_>) -> Result<Partners, StartError> {
    let folder = config.store.join("osci");
    let mut partners = Partners::default();
    for (name, peer_config) in &config.osci_peers {
        let (client, peer) = client(name, peer_config, ports.entropy, &folder)?;
        partners.followers.push(OsciFollower {
            name: name.clone(),
            client: client.clone(),
            peer: peer.clone(),
            following: Following::new(Arc::clone(ports.store), Arc::clone(ports.clock)),
            every: peer_config.follow,
            clock: Arc::clone(ports.clock),
        });
        let Some(wanted) = &peer_config.inbound else { continue };
        let inbound = inbound(name, wanted, ports)?;
        if let Some(every) = wanted.poll {
            let (inbound, clock) = (inbound.clone(), Arc::clone(ports.clock));
            partners.pollers.push(OsciPoller { client, peer, inbound, every, clock });
        }
        if wanted.push {
            partners.recipients.push(recipient(peer_config, inbound)?);
        }
    }
    Ok(partners)
}

/// How deliveries come in from another intermediary.
fn inbound(name: &str, wanted: &OsciInbound, ports: &Surroundings<'_>) -> Result<Inbound, StartError> {
    let account = ports.accounts.iter().find(|account| account.name == wanted.account);
    let sender = account.and_then(|account| account.parties.first().cloned());
    let nobody = || StartError::Configuration {
        what: format!("OSCI intermediary {name}"),
        detail: format!("account {} does not exist or has no party", wanted.account),
    };
    Ok(Inbound {
        name: name.to_owned(),
        account: wanted.account.clone(),
        sender: sender.ok_or_else(nobody)?,
        recipient: wanted.organization.clone(),
        intake: Arc::clone(ports.intake),
        store: Arc::clone(ports.store),
        metadata: Arc::new(XtaMetadata),
        trust: Trust::default(),
        clock: Arc::clone(ports.clock),
        entropy: Arc::clone(ports.entropy),
    })
}

/// What cannot be used of another intermediary.
pub(crate) fn check_peer(config: &OsciPeerConfig) -> Result<(), StartError> {
    identity(&config.cipher)?;
    identity(&config.signature)?;
    let certificates =
        [Some(&config.intermediary_cipher), Some(&config.intermediary_signature), config.recipient.as_ref()];
    for path in certificates.into_iter().flatten() {
        Certificate::from_pem(&read(path)?).map_err(|problem| failed(path, problem))?;
    }
    Ok(())
}

/// What cannot be used of the configuration.
pub(crate) fn check(config: &OsciConfig) -> Result<(), StartError> {
    keys(config)?;
    trust(config).map(drop)
}
