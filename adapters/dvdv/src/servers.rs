//! Asks the servers: the active one first, the others when it fails technically, back to the primary after a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::port::{Clock, Entropy};
use amtsbote_http::{Client, ClientError, Reply};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::options::DvdvOptions;
use crate::token::{TokenRequest, Tokens, join};
use crate::wire::ProblemReply;

/// Only unreserved characters stay (RFC 3986); servlet containers refuse much else.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection, no answer in time, or the answer was cut off.
    #[error("a server cannot be reached")]
    Unreachable(#[source] ClientError),
    /// The server says that it cannot.
    #[error("a server answered {status}")]
    Technical {
        /// What it said.
        status: StatusCode,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server refuses us: certificate not registered, no permission.
    #[error("the directory refuses us with {status}")]
    Refused {
        /// What it said.
        status: StatusCode,
    },
    /// The key for assertions cannot be used.
    #[error("the key for the directory cannot be used: {detail}")]
    Key {
        /// What is wrong.
        detail: String,
    },
    /// The answer is no answer of a DVDV server; mostly a wrong base URL.
    #[error("{what} is not what a DVDV server sends")]
    Garbled {
        /// Which part.
        what: &'static str,
    },
    /// Out of time.
    #[error("no server answered in time")]
    OutOfTime,
}

impl AskError {
    pub(crate) fn technical(status: StatusCode, headers: &HeaderMap) -> Self {
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Technical { status, retry_after: seconds.map(Duration::from_secs) }
    }

    /// Whether another server, or the same one later, may do better.
    fn is_technical(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Technical { .. } => true,
            Self::Refused { .. } | Self::Key { .. } | Self::Garbled { .. } | Self::OutOfTime => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Technical { retry_after, .. } => *retry_after,
            Self::Unreachable(_)
            | Self::Refused { .. }
            | Self::Key { .. }
            | Self::Garbled { .. }
            | Self::OutOfTime => None,
        }
    }
}

/// What a server said to a question.
#[derive(Debug)]
pub(crate) enum Said {
    /// 200 with a body.
    Body(Bytes),
    /// A miss, with the warning of an entry that is not valid.
    Nothing { warning: Option<String> },
}

struct Server {
    base: Url,
    tokens: Tokens,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    number: usize,
    since: Timestamp,
}

/// The servers of one directory.
pub(crate) struct Servers {
    servers: Vec<Server>,
    active: Mutex<Active>,
    client: Client,
    options: DvdvOptions,
    pub(crate) clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Servers {
    pub(crate) fn new(
        client: Client,
        options: DvdvOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let servers =
            options.servers.iter().map(|base| Server { base: base.clone(), tokens: Tokens::new() }).collect();
        let active = Mutex::new(Active { number: 0, since: Timestamp::MIN });
        Self { servers, active, client, options, clock, entropy }
    }

    /// Asks a function with a JSON question. Bounded by the total time. Cancel-safe.
    pub(crate) async fn ask(&self, function: &str, question: &serde_json::Value) -> Result<Said, AskError> {
        tokio::select! {
            answer = self.ask_until_answered(function, question) => answer,
            () = self.clock.sleep(self.options.total) => Err(AskError::OutOfTime),
        }
    }

    async fn ask_until_answered(
        &self,
        function: &str,
        question: &serde_json::Value,
    ) -> Result<Said, AskError> {
        let mut pause = self.options.pause;
        let mut tries_left = self.options.retries;
        loop {
            let error = match self.ask_all(function, question).await {
                Err(error) if error.is_technical() && tries_left > 0 => error,
                answer => return answer,
            };
            tries_left -= 1;
            let jittered = pause.mul_f64(1.0 - 0.5 * self.entropy.unit());
            let wait = jittered.max(error.retry_after().unwrap_or_default());
            self.clock.sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Every server once, the active one first.
    async fn ask_all(&self, function: &str, question: &serde_json::Value) -> Result<Said, AskError> {
        let first = self.first();
        let others = (0..self.servers.len()).filter(|number| *number != first);
        let mut last = AskError::OutOfTime;
        for number in std::iter::once(first).chain(others) {
            match self.ask_one(&self.servers[number], function, question).await {
                Err(error) if error.is_technical() => {
                    tracing::warn!(
                        server = number,
                        function,
                        error = &error as &dyn std::error::Error,
                        "A directory server did not answer."
                    );
                    last = error;
                    self.activate(number);
                }
                answer => {
                    self.activate(number);
                    return answer;
                }
            }
        }
        Err(last)
    }

    fn first(&self) -> usize {
        let active = *self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let away = self.clock.now().duration_since(active.since).unsigned_abs();
        if active.number != 0 && away >= self.options.return_to_primary { 0 } else { active.number }
    }

    fn activate(&self, number: usize) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.number != number {
            *active = Active { number, since: self.clock.now() };
        }
    }

    async fn ask_one(
        &self,
        server: &Server,
        function: &str,
        question: &serde_json::Value,
    ) -> Result<Said, AskError> {
        let path = format!("{}/v2/{function}", self.options.entry.segment());
        let mut url = join(&server.base, &path)?;
        url.set_query(Some(&format!("request_json={}", utf8_percent_encode(&question.to_string(), QUERY))));
        let request = TokenRequest {
            client: &self.client,
            base: &server.base,
            entry: &self.options.entry,
            clock: self.clock.as_ref(),
            entropy: self.entropy.as_ref(),
        };
        let mut token = server.tokens.authorization(&request).await?;
        let mut reply = self.get(&url, token.as_deref()).await?;
        if reply.status == StatusCode::UNAUTHORIZED
            && let Some(refused) = token
        {
            server.tokens.refused(&refused).await;
            token = server.tokens.authorization(&request).await?;
            reply = self.get(&url, token.as_deref()).await?;
        }
        understand(&reply)
    }

    async fn get(&self, url: &Url, token: Option<&str>) -> Result<Reply, AskError> {
        let mut headers = HeaderMap::new();
        headers
            .insert(header::ACCEPT, HeaderValue::from_static("application/json, application/problem+json"));
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(token).map_err(|_| AskError::Garbled { what: "the token" })?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        self.client
            .exchange(Method::GET, url.clone(), headers, Bytes::new())
            .await
            .map_err(AskError::Unreachable)
    }
}

fn understand(reply: &Reply) -> Result<Said, AskError> {
    let problem = || {
        let problem = serde_json::from_slice::<ProblemReply>(&reply.body).ok();
        problem.and_then(|problem| problem.kind).unwrap_or_default()
    };
    match reply.status {
        StatusCode::OK if reply.body.is_empty() => Ok(Said::Nothing { warning: None }),
        StatusCode::OK => Ok(Said::Body(reply.body.clone())),
        StatusCode::NO_CONTENT => {
            let warning = reply.headers.get("dvdv-warning-msg").and_then(|value| value.to_str().ok());
            Ok(Said::Nothing { warning: warning.map(crate::wire::decode_words) })
        }
        StatusCode::NOT_FOUND if problem().ends_with("ENTITY_NOT_FOUND") => {
            Ok(Said::Nothing { warning: None })
        }
        // A proxy, or a wrong base URL: taking it for a miss would hide every authority.
        StatusCode::NOT_FOUND => {
            Err(AskError::Garbled { what: "a 404 without a problem of type ENTITY_NOT_FOUND" })
        }
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(AskError::Refused { status }),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            Err(AskError::technical(status, &reply.headers))
        }
        _ => Err(AskError::Garbled { what: "the status of an answer" }),
    }
}
