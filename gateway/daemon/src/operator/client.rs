//! How commands reach the gateway.

use std::path::{Path, PathBuf};
use std::time::Duration;

use amtsbote_http::{Client, ClientError, ClientOptions, Reach};
use amtsbote_tls::Identity;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use url::Url;

use super::table::clean;

/// Longest answer: an export of very many dead letters.
const ANSWER: usize = 1 << 30;

/// Where the gateway is, and who asks.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Address of the operator listener
    #[arg(
        id = "operator_url",
        long = "url",
        env = "AMTSBOTE_OPERATOR_URL",
        default_value = "https://127.0.0.1:9443"
    )]
    url: Url,
    /// Authority of the gateway's certificate (PEM)
    #[arg(long, env = "AMTSBOTE_OPERATOR_CA")]
    ca: Option<PathBuf>,
    /// Certificate of an operator's account (PEM)
    #[arg(long, env = "AMTSBOTE_OPERATOR_CERTIFICATE")]
    certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(id = "certificate_key", long = "key", value_name = "KEY", env = "AMTSBOTE_OPERATOR_KEY")]
    key: Option<PathBuf>,
    /// Take all that from the lab.json of a running demo
    #[arg(long, env = "AMTSBOTE_LAB", conflicts_with_all = ["ca", "certificate", "certificate_key"])]
    lab: Option<PathBuf>,
    /// Print the answer as it came
    #[arg(long)]
    pub(super) json: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The gateway refuses.
    #[error("{title}{}", detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: u16,
        /// Kind of problem.
        title: String,
        /// What was wrong this time.
        detail: Option<String>,
    },
    /// The gateway cannot be reached, or cannot answer now.
    #[error("the gateway at {url} {problem}")]
    Unavailable {
        /// Where.
        url: Url,
        /// What happened.
        problem: String,
    },
    /// It was carried out, but not on everything.
    #[error("{0}")]
    Incomplete(String),
    /// The result cannot be written.
    #[error("cannot write: {0}")]
    Output(String),
}

impl CommandError {
    /// Exit code: 1 not everything was done, 64 bad usage, 70 internal, 75 a dependency is missing or busy.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Incomplete(_) => 1,
            Self::Usage(_) => 64,
            Self::Refused { status, .. } if *status < 500 => 64,
            Self::Refused { .. } | Self::Unavailable { .. } => 75,
            Self::Output(_) => 70,
        }
    }
}

fn usage(error: impl std::fmt::Display) -> CommandError {
    CommandError::Usage(error.to_string())
}

/// What a connection needs once all of it is known.
struct Access {
    url: Url,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Connection {
    pub(super) fn client(&self) -> Result<OperatorClient, CommandError> {
        let Access { url, ca, certificate, key } = self.access()?;
        let authorities = amtsbote_tls::load_certificates(&ca).map_err(usage)?;
        let identity = Identity::load(&certificate, &key).map_err(usage)?;
        let tls = amtsbote_tls::client_config(authorities, Some(identity)).map_err(usage)?;
        let seconds = Duration::from_secs;
        let options =
            ClientOptions { reach: Reach::Anywhere, connect: seconds(5), total: seconds(600), body: ANSWER };
        let inner = Client::new(tls, options).map_err(usage)?;
        Ok(OperatorClient { inner, url })
    }

    fn access(&self) -> Result<Access, CommandError> {
        if let Some(lab) = &self.lab {
            return from_lab(lab);
        }
        let needed = |path: &Option<PathBuf>, option: &str| {
            let missing = || {
                usage(format!(
                    "--{option} is missing (or AMTSBOTE_OPERATOR_{}); see --help",
                    option.to_uppercase()
                ))
            };
            path.clone().ok_or_else(missing)
        };
        Ok(Access {
            url: self.url.clone(),
            ca: needed(&self.ca, "ca")?,
            certificate: needed(&self.certificate, "certificate")?,
            key: needed(&self.key, "key")?,
        })
    }
}

fn from_lab(path: &Path) -> Result<Access, CommandError> {
    let failed = |problem: &dyn std::fmt::Display| usage(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let lab: Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let read = |value: &Value, name: &'static str| {
        value.as_str().map(str::to_owned).ok_or_else(|| failed(&format!("names no {name}")))
    };
    let accounts = lab["accounts"].as_array().map_or(&[][..], Vec::as_slice);
    let operates = |account: &&Value| {
        account["roles"].as_array().is_some_and(|roles| roles.iter().any(|role| role == "operator"))
    };
    let account = accounts.iter().find(operates).unwrap_or(&Value::Null);
    Ok(Access {
        url: read(&lab["operator"], "operator")?.parse().map_err(|error| failed(&error))?,
        ca: folder.join(read(&lab["ca"], "ca")?),
        certificate: folder.join(read(&account["certificate"], "account of an operator")?),
        key: folder.join(read(&account["key"], "account of an operator")?),
    })
}

pub(super) struct OperatorClient {
    inner: Client,
    url: Url,
}

impl OperatorClient {
    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CommandError> {
        let bytes = self.get_raw(path, query).await?;
        self.parse(&bytes)
    }

    pub(super) async fn get_raw(&self, path: &str, query: &[(&str, String)]) -> Result<Bytes, CommandError> {
        let mut url = self.at(path)?;
        url.query_pairs_mut().extend_pairs(query);
        self.exchange(Method::GET, url, Bytes::new()).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let bytes = self.exchange(method, self.at(path)?, body).await?;
        self.parse(&bytes)
    }

    fn at(&self, path: &str) -> Result<Url, CommandError> {
        self.url.join(path).map_err(usage)
    }

    fn unavailable(&self, problem: impl Into<String>) -> CommandError {
        CommandError::Unavailable { url: self.url.clone(), problem: problem.into() }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Value, CommandError> {
        serde_json::from_slice(bytes).map_err(|_| self.unavailable("does not answer in JSON"))
    }

    async fn exchange(&self, method: Method, url: Url, body: Bytes) -> Result<Bytes, CommandError> {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let headers: HeaderMap = (!body.is_empty()).then_some(json).into_iter().collect();
        let reply = self.inner.exchange(method, url, headers, body).await.map_err(|error| match error {
            ClientError::Timeout => self.unavailable("does not answer in time"),
            error => self.unavailable(format!("cannot be reached: {}", chain(&error))),
        })?;
        if reply.status.is_success() { Ok(reply.body) } else { Err(refused(reply.status, &reply.body)) }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => chain(cause),
        None => error.to_string(),
    }
}

fn refused(status: StatusCode, body: &[u8]) -> CommandError {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name: &str| problem[name].as_str().map(str::to_owned);
    CommandError::Refused {
        status: status.as_u16(),
        title: clean(&member("title").unwrap_or_else(|| status.to_string())),
        detail: member("detail")
            .or_else(|| member("field").map(|field| format!("field {field}")))
            .map(|detail| clean(&detail)),
    }
}
