//! The console's key on this host: whoever can read the store's folder can make links that sign in.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use amtsbote_console::{Grant, Links};
use amtsbote_core::account::Role;
use amtsbote_core::key::AccountName;
use amtsbote_core::port::{Clock as _, Entropy};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::SystemClock;
use crate::config::{Config, ConfigIssue};
use crate::system::SystemEntropy;

/// What a running gateway leaves in the folder of its store for those who make links.
#[derive(Serialize, Deserialize)]
struct ConsoleFile {
    /// Address of the console.
    url: String,
    /// In hex; of this run of the gateway only.
    secret: String,
}

fn path(store: &Path) -> PathBuf {
    store.join("console.json")
}

/// Makes the secret of this run, and writes it where only the gateway's user can read it. On a full disk nobody can make links, but certificates sign
/// in all the same.
pub(crate) fn open(store: &Path, operator: SocketAddr, entropy: &dyn Entropy) -> Links {
    let mut secret = [0_u8; 32];
    entropy.fill(&mut secret);
    let file = ConsoleFile { url: address(operator), secret: hex::encode(secret) };
    if let Err(error) = write(store, &file) {
        tracing::error!(error = &error as &dyn std::error::Error, "No links to the console can be made.");
    }
    Links::new(&secret)
}

fn write(store: &Path, file: &ConsoleFile) -> io::Result<()> {
    let new = store.join("console.json.new");
    // The mode counts for new files only.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(serde_json::to_string(file)?.as_bytes())?;
    drop(out);
    std::fs::rename(new, path(store))
}

/// How a browser on this host reaches a listener.
fn address(mut listener: SocketAddr) -> String {
    if listener.ip().is_unspecified() {
        listener.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("https://{listener}")
}

/// What a link lets its bearer be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkRole {
    /// Look, without what people wrote.
    Viewer,
    /// Look and act.
    Operator,
    /// The same, and what is kept for administrators.
    Administrator,
}

impl From<LinkRole> for Role {
    fn from(role: LinkRole) -> Self {
        match role {
            LinkRole::Viewer => Self::Viewer,
            LinkRole::Operator => Self::Operator,
            LinkRole::Administrator => Self::Administrator,
        }
    }
}

/// Makes a link that signs a browser in to the console.
#[derive(Debug, Args)]
pub struct ConsoleLinkArguments {
    /// Configuration of the running gateway (TOML)
    #[arg(long, required_unless_present = "store", conflicts_with = "store")]
    config: Option<PathBuf>,
    /// Folder of its store instead
    #[arg(long)]
    store: Option<PathBuf>,
    /// What the link lets its bearer be
    #[arg(long, value_enum, default_value = "viewer")]
    role: LinkRole,
    /// Address under which the browser reaches the operator listener, if not the one of this host
    #[arg(long)]
    url: Option<url::Url>,
}

/// Why no link was made.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleLinkError {
    /// The configuration cannot be read.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Configuration(Vec<ConfigIssue>),
    /// There is no gateway, or the file is somebody else's.
    #[error(
        "{path}: {problem}; is the gateway running with an operator listener, and may you read its store?"
    )]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
}

impl ConsoleLinkError {
    /// Exit code: 64 bad configuration, 75 no gateway.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 64,
            Self::Unreadable { .. } => 75,
        }
    }
}

impl ConsoleLinkArguments {
    /// The link.
    ///
    /// # Errors
    /// [`ConsoleLinkError`].
    pub fn run(self) -> Result<String, ConsoleLinkError> {
        let store = match (self.store, self.config) {
            (Some(store), _) => store,
            (None, Some(config)) => Config::load(&config).map_err(ConsoleLinkError::Configuration)?.store,
            (None, None) => PathBuf::new(),
        };
        link(&store, self.role.into(), self.url.as_ref())
    }
}

/// A link to the console of the gateway that runs on a store.
///
/// # Errors
/// [`ConsoleLinkError::Unreadable`].
pub fn link(store: &Path, role: Role, url: Option<&url::Url>) -> Result<String, ConsoleLinkError> {
    let path = path(store);
    let failed = |problem: String| ConsoleLinkError::Unreadable { path: path.clone(), problem };
    let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    let file: ConsoleFile = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let secret = hex::decode(&file.secret).map_err(|error| failed(error.to_string()))?;
    let grant = Grant { name: name().map_err(failed)?, role };
    let token = Links::new(&secret).make(&grant, SystemClock.now(), &SystemEntropy);
    let base = url.map_or(file.url, |url| url.as_str().trim_end_matches('/').to_owned());
    Ok(format!("{base}/console/sign-in?token={token}"))
}

/// Name in the audit trail: who made the link, as far as the system knows.
fn name() -> Result<AccountName, String> {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let user = user.unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = "console-".chars().chain(user.chars().map(plain)).take(64).collect();
    name.parse().map_err(|error| format!("{error}"))
}
