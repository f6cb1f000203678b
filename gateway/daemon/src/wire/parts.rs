//! Parts of the gateway, each from its section of the configuration.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amtsbote_amqp::{AmqpChannel, BrokerOptions};
use amtsbote_core::Timestamp;
use amtsbote_core::account::{AccountBook, Credential};
use amtsbote_core::port::{
    CertificateDirectory, Channel, Clock, Directory, DirectoryAnswer, DirectoryUnavailable, Entropy,
    Exchanger, MessageStore, ServiceQuery,
};
use amtsbote_core::route::{ChannelKind, RoutingTables, Sources, decode_area_table};
use amtsbote_dvdv::{DvdvDirectory, DvdvOptions};
use amtsbote_http::{Client, ClientOptions, Reach};
use amtsbote_store_sled::{StoreObserver, StoreOptions};
use amtsbote_telemetry::{DirectoryOutcome, Health, Metrics};
use amtsbote_tls::{ClientAuth, Identity, ServerTls, Trusted};
use amtsbote_webhook::{Secrets, Webhook, WebhookChannel};
use amtsbote_xta::{XtaChannel, XtaClient, XtaServer};
use async_trait::async_trait;
use tokio::net::TcpListener;

use super::StartError;
use crate::config::{
    BrokerConfig, Config, DirectoryConfig, KeyPair, RoutingConfig, TlsListener, WebhookConfig,
    XtaServerConfig,
};

/// Largest answer of a directory server.
const DIRECTORY_BODY: usize = 8 << 20;
/// Time for a connection to a remote server.
const CONNECT: Duration = Duration::from_secs(10);

pub(crate) fn configuration(what: impl Into<String>) -> impl FnOnce(&dyn std::error::Error) -> StartError {
    let what = what.into();
    move |error| StartError::Configuration { what, detail: chain(error) }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

pub(crate) struct CommitMetrics(Arc<Metrics>);

impl StoreObserver for CommitMetrics {
    fn committed(&self, frames: usize, elapsed: Duration) {
        self.0.committed(frames, elapsed);
    }
}

/// Tells health whether the directory answers.
pub(crate) struct WatchedDirectory {
    inner: Arc<DvdvDirectory>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Directory for WatchedDirectory {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn cached(&self, query: &ServiceQuery) -> Option<DirectoryAnswer> {
        self.inner.cached(query)
    }

    async fn find(&self, query: &ServiceQuery) -> Result<DirectoryAnswer, DirectoryUnavailable> {
        let asked = self.clock.now();
        let answer = self.inner.find(query).await;
        let (outcome, trouble) = match &answer {
            Ok(DirectoryAnswer::Found(record)) if record.stale => {
                (DirectoryOutcome::Stale, Some("answers are kept from earlier".to_owned()))
            }
            Ok(DirectoryAnswer::Found(_)) => (DirectoryOutcome::Found, None),
            Ok(_) => (DirectoryOutcome::Missing, None),
            Err(down) => (DirectoryOutcome::Unavailable, Some(down.reason.clone())),
        };
        self.metrics.directory_asked(outcome, self.clock.now().duration_since(asked).unsigned_abs());
        self.health.directory(trouble);
        answer
    }
}

pub(crate) fn load_tables(config: &RoutingConfig) -> Result<RoutingTables, StartError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| configuration(path.display().to_string())(&error))
    };
    let areas = std::fs::read(&config.areas)
        .map_err(|error| configuration(config.areas.display().to_string())(&error))?;
    let (areas, services, authorities) =
        (decode_area_table(&areas), read(&config.services)?, read(&config.authorities)?);
    let loaded = Sources { areas: &areas, services: &services, authorities: &authorities }.load();
    let loaded = loaded.map_err(|problems| StartError::Configuration {
        what: "routing tables".to_owned(),
        detail: problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })?;
    for warning in loaded.warnings {
        tracing::warn!(warning, "The routing tables will not decide everything.");
    }
    Ok(loaded.tables)
}

pub(crate) fn load_accounts(config: &Config) -> Result<AccountBook, StartError> {
    let mut accounts = Vec::new();
    for entry in &config.accounts {
        let mut account = entry.account.clone();
        for path in &entry.certificates {
            let certificates = amtsbote_tls::load_certificates(path)
                .map_err(|error| configuration(format!("account {}", account.name))(&error))?;
            if let Some(leaf) = certificates.first() {
                account.credentials.push(Credential::Pinned(sha256(leaf)));
            }
        }
        for (paths, credential) in [
            (&entry.osci_cipher, Credential::OsciCipher as fn([u8; 32]) -> Credential),
            (&entry.osci_signature, Credential::OsciSignature),
        ] {
            for path in paths {
                let certificates = amtsbote_tls::load_certificates(path)
                    .map_err(|error| configuration(format!("account {}", account.name))(&error))?;
                account.credentials.extend(certificates.first().map(|leaf| credential(sha256(leaf))));
            }
        }
        accounts.push(account);
    }
    AccountBook::try_new(accounts).map_err(|conflicts| StartError::Configuration {
        what: "accounts".to_owned(),
        detail: conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    *amtsbote_core::message::Sha256Digest::of(bytes).as_bytes()
}

pub(crate) fn tls_material(
    listener: &TlsListener,
    accounts: &AccountBook,
) -> Result<(Identity, Trusted), StartError> {
    let failed = |error: amtsbote_tls::MaterialError| configuration("TLS")(&error);
    let identity = Identity::load(&listener.identity.certificate, &listener.identity.key).map_err(failed)?;
    let mut authorities = Vec::new();
    for path in &listener.client_authorities {
        authorities.extend(amtsbote_tls::load_certificates(path).map_err(failed)?);
    }
    Ok((identity, Trusted { pins: accounts.pinned().copied().collect::<HashSet<_>>(), authorities }))
}

pub(crate) fn build_tls(
    listener: &TlsListener,
    accounts: &AccountBook,
    auth: ClientAuth,
) -> Result<(Arc<ServerTls>, Option<Timestamp>), StartError> {
    let (identity, trusted) = tls_material(listener, accounts)?;
    let expires = identity.expires().and_then(|at| Timestamp::try_from(at).ok());
    let tls = ServerTls::new(identity, trusted, auth).map_err(|error| configuration("TLS")(&error))?;
    Ok((Arc::new(tls), expires))
}

/// TLS for everybody, without certificates of clients.
pub(crate) fn server_tls(pair: &KeyPair) -> Result<Arc<ServerTls>, StartError> {
    let failed = |error: &dyn std::error::Error| configuration("osci")(error);
    let identity = Identity::load(&pair.certificate, &pair.key).map_err(|error| failed(&error))?;
    let trusted = Trusted { pins: HashSet::new(), authorities: Vec::new() };
    let tls = ServerTls::new(identity, trusted, ClientAuth::Requested).map_err(|error| failed(&error))?;
    Ok(Arc::new(tls))
}

/// For recipients whose addresses strangers name; which may be called is the pusher's to know.
pub(crate) fn push_client(authorities: &[PathBuf], within: Duration) -> Result<Client, StartError> {
    let options = ClientOptions {
        reach: Reach::Anywhere,
        connect: CONNECT.min(within),
        total: within,
        body: DIRECTORY_BODY,
    };
    Client::new(client_tls(authorities)?, options).map_err(|error| configuration("osci")(&error))
}

/// TLS of a client that trusts some authorities and shows no certificate.
pub(crate) fn client_tls(authorities: &[PathBuf]) -> Result<amtsbote_tls::ClientConfig, StartError> {
    let mut loaded = Vec::new();
    for path in authorities {
        let certificates = amtsbote_tls::load_certificates(path);
        loaded.extend(certificates.map_err(|error| configuration("authorities")(&error))?);
    }
    amtsbote_tls::client_config(loaded, None).map_err(|error| configuration("authorities")(&error))
}

/// One directory, asked about services and about certificates.
pub(crate) type Directories = (Arc<dyn Directory>, Arc<dyn CertificateDirectory>);

pub(crate) fn build_directory(
    config: &DirectoryConfig,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    watch: (&Arc<Health>, &Arc<Metrics>),
) -> Result<Directories, StartError> {
    let options = ClientOptions {
        reach: Reach::Anywhere,
        connect: config.attempt,
        total: config.attempt,
        body: DIRECTORY_BODY,
    };
    let failed = |error: &dyn std::error::Error| configuration("directory")(error);
    let client = Client::new(client_tls(&config.authorities)?, options).map_err(|error| failed(&error))?;
    let options = DvdvOptions {
        attempt: config.attempt,
        total: config.total,
        retries: config.retries,
        fresh: config.fresh,
        negative: config.negative,
        grace: config.grace,
        ..DvdvOptions::new(config.servers.clone(), config.entry.clone())
    };
    let inner = DvdvDirectory::new(client, options, Arc::clone(clock), Arc::clone(entropy));
    let inner = Arc::new(inner.map_err(|error| failed(&error))?);
    let (health, metrics) = (Arc::clone(watch.0), Arc::clone(watch.1));
    let watched = WatchedDirectory { inner: Arc::clone(&inner), health, metrics, clock: Arc::clone(clock) };
    Ok((Arc::new(watched), inner))
}

pub(crate) fn build_broker(name: &str, config: &BrokerConfig) -> Result<BrokerOptions, StartError> {
    let failed = |error: &dyn std::error::Error| configuration(format!("broker {name}"))(error);
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            let authorities =
                amtsbote_tls::load_certificates(&tls.authority).map_err(|error| failed(&error))?;
            let identity =
                tls.identity.as_ref().map(|pair| Identity::load(&pair.certificate, &pair.key)).transpose();
            let identity = identity.map_err(|error| failed(&error))?;
            let config =
                amtsbote_tls::client_config(authorities, identity).map_err(|error| failed(&error))?;
            Some(Arc::new(config))
        }
    };
    Ok(BrokerOptions {
        host: config.host.clone(),
        port: config.port,
        vhost: config.vhost.clone(),
        tls,
        login: config.login.load().map_err(|error| failed(&error))?,
        declare_queues: config.declare_queues,
    })
}

/// Everything that messages can be pushed to, by name.
pub(crate) fn ways(config: &Config) -> BTreeSet<(ChannelKind, String)> {
    let named = |kind: ChannelKind| move |name: &String| (kind, name.clone());
    let brokers = config.brokers.keys().map(named(ChannelKind::Amqp));
    let servers = config.xta_servers.keys().map(named(ChannelKind::Xta));
    let intermediaries = config.osci_peers.keys().map(named(ChannelKind::Osci));
    let folders = config.folders.keys().map(named(ChannelKind::Folder));
    let webhooks = config.webhooks.keys().map(named(ChannelKind::Webhook));
    brokers.chain(servers).chain(intermediaries).chain(folders).chain(webhooks).collect()
}

pub(crate) fn build_channels(
    config: &Config,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Channels, StartError> {
    let mut brokers = BTreeMap::new();
    for (name, broker) in &config.brokers {
        brokers.insert(name.clone(), build_broker(name, broker)?);
    }
    let mut servers = BTreeMap::new();
    for (name, server) in &config.xta_servers {
        let client = build_xta_client(name, server, entropy)?;
        let (author, sender) = (server.author.clone(), config.xta.sender.clone());
        servers.insert(name.clone(), XtaServer { client, author, sender });
    }
    let xta = Arc::new(XtaChannel::new(servers));
    let mut webhooks = BTreeMap::new();
    for (name, webhook) in &config.webhooks {
        webhooks.insert(name.clone(), build_webhook(name, webhook)?);
    }
    let webhooks = Arc::new(WebhookChannel::new(webhooks, Arc::clone(clock), Arc::clone(entropy)));
    let amqp = Arc::new(AmqpChannel::new(brokers, config.inline_max, clock));
    Ok(Channels {
        push: vec![amqp, Arc::clone(&xta) as _, Arc::clone(&webhooks) as _],
        answering: vec![xta, webhooks],
    })
}

/// The ways out of the gateway.
pub(crate) struct Channels {
    pub(crate) push: Vec<Arc<dyn Channel>>,
    /// Those whose other end can answer at once.
    pub(crate) answering: Vec<Arc<dyn Exchanger>>,
}

pub(crate) fn build_webhook(name: &str, config: &WebhookConfig) -> Result<Webhook, StartError> {
    let failed = |error: &dyn std::error::Error| configuration(format!("webhook {name}"))(error);
    let mut authorities = Vec::new();
    for path in &config.authorities {
        authorities.extend(amtsbote_tls::load_certificates(path).map_err(|error| failed(&error))?);
    }
    let identity = config.identity.as_ref();
    let identity = identity.map(|pair| Identity::load(&pair.certificate, &pair.key)).transpose();
    let identity = identity.map_err(|error| failed(&error))?;
    let tls = amtsbote_tls::client_config(authorities, identity).map_err(|error| failed(&error))?;
    let options = ClientOptions {
        reach: config.reach,
        connect: config.attempt.min(CONNECT),
        total: config.attempt,
        body: DIRECTORY_BODY,
    };
    Ok(Webhook {
        address: config.address.clone(),
        client: Client::new(tls, options).map_err(|error| failed(&error))?,
        secrets: Secrets::load(&config.secrets).map_err(|error| failed(&error))?,
        format: config.format,
    })
}

pub(crate) fn build_xta_client(
    name: &str,
    config: &XtaServerConfig,
    entropy: &Arc<dyn Entropy>,
) -> Result<XtaClient, StartError> {
    let failed = |error: &dyn std::error::Error| configuration(format!("XTA server {name}"))(error);
    let mut authorities = Vec::new();
    for path in &config.authorities {
        authorities.extend(amtsbote_tls::load_certificates(path).map_err(|error| failed(&error))?);
    }
    let identity = Identity::load(&config.identity.certificate, &config.identity.key);
    let identity = identity.map_err(|error| failed(&error))?;
    let tls = amtsbote_tls::client_config(authorities, Some(identity)).map_err(|error| failed(&error))?;
    let options = ClientOptions {
        reach: Reach::Anywhere,
        connect: config.attempt.min(CONNECT),
        total: config.attempt,
        body: DIRECTORY_BODY,
    };
    let http = Client::new(tls, options).map_err(|error| failed(&error))?;
    Ok(XtaClient::new(http, config.urls.clone(), config.identifier.clone(), Arc::clone(entropy)))
}

pub(crate) async fn bind(what: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error: std::io::Error| StartError::Dependency {
        what: format!("{what} listener on {address}"),
        detail: error.to_string(),
    };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

pub(crate) fn open_store(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn MessageStore>, StartError> {
    let observer = Arc::new(CommitMetrics(Arc::clone(metrics)));
    let options = StoreOptions { observer, room: config.room };
    let opened = amtsbote_store_sled::open(&config.store, options);
    let (store, report) =
        opened.map_err(|error| StartError::Dependency { what: "store".to_owned(), detail: chain(&error) })?;
    for damage in &report.damaged {
        tracing::error!(damage, "A damaged part of the journal was put into quarantine.");
    }
    for id in &report.lost {
        tracing::error!(message.id = %id, "This message is lost: its record in the journal is damaged. `amtsbote doctor` tells more.");
    }
    if let Some(reason) = &report.rebuilt {
        tracing::warn!(reason, "The index was rebuilt from the journal.");
    }
    tracing::info!(frames = report.replayed, cut = report.cut, "The store is open.");
    Ok(Arc::new(store))
}
