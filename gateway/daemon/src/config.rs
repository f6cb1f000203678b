//! Configuration: a TOML file is read key by key, every problem is reported at once with its remedy, and what comes out has no
//! half-set values.

mod folder;
mod osci;
mod reader;
mod schema;
mod webhook;
mod xta;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amtsbote_amqp::Login;
use amtsbote_core::account::Account;
use amtsbote_core::engine::EngineOptions;
use amtsbote_core::key::AccountName;
use amtsbote_dvdv::EntryPath;
use amtsbote_http::Limits;
use amtsbote_rest::RestLimits;
use amtsbote_store_sled::RoomLimits;
use amtsbote_telemetry::LogOptions;
use amtsbote_xta::{Urls, XtaOptions};
use url::Url;

pub use folder::FolderConfig;
pub use osci::{OsciConfig, OsciGuests, OsciInbound, OsciPeerConfig};
pub use reader::ConfigIssue;
pub use webhook::WebhookConfig;

/// The commented file with all keys.
pub const REFERENCE: &str = include_str!("../amtsbote.reference.toml");

/// Certificate chain and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Chain, PEM.
    pub certificate: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
}

/// A listener with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsListener {
    /// Address.
    pub listen: SocketAddr,
    /// What we show.
    pub identity: KeyPair,
    /// Authorities of clients.
    pub client_authorities: Vec<PathBuf>,
}

/// A named broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Virtual host.
    pub vhost: String,
    /// Authority for TLS; `None`: plain.
    pub tls: Option<BrokerTls>,
    /// How to log in; the password is read when connecting is set up.
    pub login: LoginConfig,
    /// Whether queues are declared.
    pub declare_queues: bool,
}

/// A remote XTA server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XtaServerConfig {
    /// Its three ports.
    pub urls: Urls,
    /// Our certificate there.
    pub identity: KeyPair,
    /// Authorities of its certificate.
    pub authorities: Vec<PathBuf>,
    /// Identifier by which we call.
    pub identifier: String,
    /// Identifier it knows us as an author by; absent: authors keep their own.
    pub author: Option<String>,
    /// Time for one hand-over.
    pub attempt: Duration,
    /// Whether and how our mailbox there is polled.
    pub poll: Option<XtaPoll>,
}

/// How a remote mailbox is polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XtaPoll {
    /// Time between two looks.
    pub every: Duration,
    /// Account in whose name orders come in.
    pub account: AccountName,
}

/// TLS to a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerTls {
    /// Authority of the broker.
    pub authority: PathBuf,
    /// Our certificate, if the broker wants one.
    pub identity: Option<KeyPair>,
}

/// Login to a broker, secrets by path only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginConfig {
    /// By password.
    Password {
        /// Name.
        username: String,
        /// File with the password.
        password_file: PathBuf,
    },
    /// By certificate.
    Certificate,
}

impl LoginConfig {
    /// Reads the secret.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(&self) -> std::io::Result<Login> {
        Ok(match self {
            Self::Certificate => Login::Certificate,
            Self::Password { username, password_file } => Login::Password {
                username: username.clone(),
                password: amtsbote_amqp::Secret::new(
                    std::fs::read_to_string(password_file)?.trim_end().to_owned(),
                ),
            },
        })
    }
}

/// The directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// Base URLs, primary first.
    pub servers: Vec<Url>,
    /// Which door.
    pub entry: EntryPath,
    /// Authorities of the servers.
    pub authorities: Vec<PathBuf>,
    /// Time for one request.
    pub attempt: Duration,
    /// Time for a look-up.
    pub total: Duration,
    /// Further tries.
    pub retries: u32,
    /// How long a hit is fresh.
    pub fresh: Duration,
    /// How long a miss is believed.
    pub negative: Duration,
    /// How old a hit may be while the directory is down.
    pub grace: Duration,
}

/// Files of the routing tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingConfig {
    /// Area table.
    pub areas: PathBuf,
    /// Service catalogue.
    pub services: PathBuf,
    /// Authorities.
    pub authorities: PathBuf,
}

/// An account as configured; certificates are loaded later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountConfig {
    /// Everything but the credentials from files.
    pub account: Account,
    /// Certificates that are pinned by their content.
    pub certificates: Vec<PathBuf>,
    /// Cipher certificates of OSCI.
    pub osci_cipher: Vec<PathBuf>,
    /// Signature certificates of OSCI.
    pub osci_signature: Vec<PathBuf>,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where messages are kept.
    pub store: PathBuf,
    /// How much room the store may take.
    pub room: RoomLimits,
    /// Portals and departments.
    pub exchange: TlsListener,
    /// Operators.
    pub operator: Option<TlsListener>,
    /// Metrics and health, plain.
    pub telemetry: Option<SocketAddr>,
    /// Bounds of connections.
    pub limits: Limits,
    /// Bounds of bodies.
    pub rest: RestLimits,
    /// The XTA face.
    pub xta: XtaOptions,
    /// The OSCI intermediary.
    pub osci: Option<OsciConfig>,
    /// Key of the seal.
    pub seal: KeyPair,
    /// The directory.
    pub directory: DirectoryConfig,
    /// Tables.
    pub routing: RoutingConfig,
    /// Engine, retry, retention.
    pub engine: EngineOptions,
    /// Accept only; nothing is sealed or delivered.
    pub hold: bool,
    /// Time for attempts at shutdown.
    pub drain: Duration,
    /// How long before a deadline somebody is told.
    pub deadline_warning: Duration,
    /// Brokers by name.
    pub brokers: BTreeMap<String, BrokerConfig>,
    /// Remote XTA servers by name.
    pub xta_servers: BTreeMap<String, XtaServerConfig>,
    /// Endpoints of departments by name.
    pub webhooks: BTreeMap<String, WebhookConfig>,
    /// Hot folders by name.
    pub folders: BTreeMap<String, FolderConfig>,
    /// Other OSCI intermediaries by name.
    pub osci_peers: BTreeMap<String, OsciPeerConfig>,
    /// Largest document inside an AMQP message.
    pub inline_max: u64,
    /// Accounts.
    pub accounts: Vec<AccountConfig>,
    /// Logs.
    pub log: LogOptions,
}

impl Config {
    /// Reads a configuration; relative paths are relative to `base`.
    ///
    /// # Errors
    /// Every problem found.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<ConfigIssue>> {
        schema::read(text, base).0
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Every problem found; an unreadable file is one.
    pub fn load(path: &Path) -> Result<Self, Vec<ConfigIssue>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            vec![ConfigIssue {
                key: path.display().to_string(),
                problem: format!("cannot be read: {error}"),
                remedy: "name an existing file with --config".to_owned(),
            }]
        })?;
        let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse(&text, base)
    }
}

#[cfg(test)]
mod tests;
