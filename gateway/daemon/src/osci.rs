//! Puts the OSCI intermediary together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::key::PartyId;
use amtsbote_core::message::Metadata;
use amtsbote_core::port::StoredMessage;
use amtsbote_osci::clients::{Trust, Unknown};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::certificate::{Certificate, Identity};
use amtsbote_osci::transfers::{TransferLimits, Transfers};
use amtsbote_osci::{MetadataCodec, OsciKeys, OsciOptions};
use async_trait::async_trait;

use crate::config::{KeyPair, OsciConfig};
use crate::wire::StartError;

/// Cards of one answer.
const CARDS: usize = 500;
/// Messages above a few megabytes that are parsed at the same time.
pub(crate) const LARGE_AT_ONCE: usize = 2;

/// The metadata of XTA is the XTA adapter's to know.
pub(crate) struct XtaMetadata;

#[async_trait]
impl MetadataCodec for XtaMetadata {
    async fn read(&self, element: &str, sender: &PartyId) -> Option<Metadata> {
        amtsbote_xta::read_carried(element, sender).await
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
        Some((account, addressees)) => {
            Unknown::StoreFor { account: account.clone(), addressees: addressees.clone() }
        }
    };
    Ok(Trust { unknown, authorities })
}

/// How the intermediary behaves. `folder`: where files without a name may lie.
fn options(config: &OsciConfig, folder: &Path) -> OsciOptions {
    for (on, key) in [
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
        cards: CARDS,
    }
}

/// What cannot be used of the configuration.
pub(crate) fn check(config: &OsciConfig) -> Result<(), StartError> {
    keys(config)?;
    trust(config).map(drop)
}
