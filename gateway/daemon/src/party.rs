//! Commands of portals and departments: a folder of documents in, a folder of messages out. Thin clients of the exchange listener; both
//! can be cut off at any time and go on where they were.

mod mailbox;
mod submit;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amtsbote_http::{Client, ClientError, ClientOptions, Reach, Reply, Streamed};
use amtsbote_tls::Identity;
use bytes::Bytes;
use clap::Args;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::Value;
use url::Url;

pub use mailbox::MailboxArguments;
pub use submit::SubmitArguments;

use crate::operator::CommandError;

/// Where the gateway is, and as whom to speak.
#[derive(Debug, Clone, Args)]
pub struct PartyConnection {
    /// Address of the exchange listener
    #[arg(id = "exchange_url", long = "url", env = "AMTSBOTE_URL", default_value = "https://127.0.0.1:8443")]
    url: Url,
    /// Authority of the gateway's certificate (PEM)
    #[arg(long, env = "AMTSBOTE_CA")]
    ca: Option<PathBuf>,
    /// Certificate of the account (PEM)
    #[arg(long, env = "AMTSBOTE_CERTIFICATE")]
    certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(id = "certificate_key", long = "key", value_name = "KEY", env = "AMTSBOTE_KEY")]
    key: Option<PathBuf>,
    /// Take all that from the lab.json of a running demo
    #[arg(long, env = "AMTSBOTE_LAB", requires = "account", conflicts_with_all = ["ca", "certificate", "certificate_key"])]
    lab: Option<PathBuf>,
    /// Account of the demo to speak as, such as portal-a
    #[arg(long, requires = "lab")]
    account: Option<String>,
}

/// Under which a submission is taken once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn usage(error: impl std::fmt::Display) -> CommandError {
    CommandError::Usage(error.to_string())
}

/// Longest answer that is not a document.
const ANSWER: usize = 16 << 20;
/// Longest time for one message.
const TOTAL: Duration = Duration::from_secs(3600);

impl PartyConnection {
    fn connect(&self) -> Result<Party, CommandError> {
        let needed = |path: &Option<PathBuf>, option: &str| {
            let missing = || {
                usage(format!("--{option} is missing (or AMTSBOTE_{}); see --help", option.to_uppercase()))
            };
            path.clone().ok_or_else(missing)
        };
        let (url, ca, certificate, key) = match &self.lab {
            Some(lab) => self.read_lab(lab)?,
            None => (
                self.url.clone(),
                needed(&self.ca, "ca")?,
                needed(&self.certificate, "certificate")?,
                needed(&self.key, "key")?,
            ),
        };
        let authorities = amtsbote_tls::load_certificates(&ca).map_err(usage)?;
        let identity = Identity::load(&certificate, &key).map_err(usage)?;
        let tls = amtsbote_tls::client_config(authorities, Some(identity)).map_err(usage)?;
        let options = ClientOptions {
            reach: Reach::Anywhere,
            connect: Duration::from_secs(5),
            total: TOTAL,
            body: ANSWER,
        };
        Ok(Party { client: Client::new(tls, options).map_err(usage)?, url })
    }

    fn read_lab(&self, path: &Path) -> Result<(Url, PathBuf, PathBuf, PathBuf), CommandError> {
        let failed = |problem: &dyn std::fmt::Display| usage(format!("{}: {problem}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        let lab: Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let name = self.account.as_deref().unwrap_or_default();
        let accounts = lab["accounts"].as_array().map_or(&[][..], Vec::as_slice);
        let account = accounts.iter().find(|account| account["name"] == name);
        let account = account.ok_or_else(|| failed(&format!("names no account {name}")))?;
        let file = |value: &Value| folder.join(value.as_str().unwrap_or_default());
        let url = lab["exchange"].as_str().unwrap_or_default().parse().map_err(|error| failed(&error))?;
        Ok((url, file(&lab["ca"]), file(&account["certificate"]), file(&account["key"])))
    }
}

/// A connection to the exchange listener.
struct Party {
    client: Client,
    url: Url,
}

impl Party {
    fn at(&self, path: &str) -> Result<Url, CommandError> {
        self.url.join(path).map_err(usage)
    }

    fn unavailable(&self, error: &ClientError) -> CommandError {
        let problem = match error {
            ClientError::Timeout => "does not answer in time".to_owned(),
            error => {
                let mut cause: &dyn std::error::Error = error;
                while let Some(next) = cause.source() {
                    cause = next;
                }
                format!("cannot be reached: {cause}")
            }
        };
        CommandError::Unavailable { url: self.url.clone(), problem }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, CommandError> {
        let answered = self.client.exchange(method, self.at(path)?, headers, body).await;
        answered.map_err(|error| self.unavailable(&error))
    }

    async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<Streamed, CommandError> {
        let answered = self.client.stream(method, self.at(path)?, headers, body).await;
        answered.map_err(|error| self.unavailable(&error))
    }
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What a refusal says.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let title = problem["title"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    let more = ["detail", "field", "outcome"].iter().filter_map(|name| problem[*name].as_str());
    std::iter::once(title.as_str()).chain(more).collect::<Vec<_>>().join(": ")
}

/// How far a long work is, for people who watch.
struct ProgressBar {
    total: usize,
    live: bool,
}

impl ProgressBar {
    fn new(total: usize) -> Self {
        Self { total, live: std::io::stderr().is_terminal() }
    }

    fn show(&self, done: usize) {
        const WIDTH: usize = 30;
        if self.live {
            let full = (done * WIDTH).checked_div(self.total).unwrap_or(WIDTH).min(WIDTH);
            eprint!("\r[{}{}] {done} of {} ", "#".repeat(full), "-".repeat(WIDTH - full), self.total);
        }
    }

    fn end(&self) {
        if self.live {
            eprintln!();
        }
    }
}

fn failed_to(what: &str, path: &Path) -> impl Fn(std::io::Error) -> CommandError {
    let text = format!("{what} {}", path.display());
    move |error| CommandError::Output(format!("{text}: {error}"))
}
