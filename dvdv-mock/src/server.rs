//! The server: entry paths, authentication, faults, dispatch.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use amtsbote_certs::CertsError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::{Json, Router};
use http::{HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;

use crate::auth::{RegisteredClient, Tokens};
use crate::certificate::Certificates;
use crate::faults::{Fault, FaultRule, Script};
use crate::model::Directory;
use crate::operations;
use crate::problem::{Answer, empty, missing, unauthenticated};

/// Largest request body.
const BODY_MAX: usize = 8 << 20;

/// What time the mock believes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// The machine's clock.
    System,
    /// Always the same.
    Fixed(Timestamp),
}

/// How a lookup without a hit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// 404 with a problem.
    NotFound,
    /// 204 without a body.
    NoContent,
}

/// Which audiences an assertion may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AudienceCheck {
    /// Any.
    Off,
    /// The URL of the token endpoint that was called.
    OwnUrl,
    /// One of these.
    OneOf(Vec<String>),
}

/// Behaviour that differs between servers.
#[derive(Debug, Clone)]
pub struct MockOptions {
    /// Path in front of everything, for example `/dvdv2-backend`.
    pub prefix: String,
    /// Time.
    pub now: Now,
    /// Misses.
    pub miss: Miss,
    /// Seconds a token lives.
    pub token_life: u32,
    /// Audience of assertions.
    pub audience: AudienceCheck,
    /// Accept ES256 and ES384 beside RS256.
    pub accept_elliptic: bool,
    /// Refuse an assertion that was used before.
    pub refuse_replay: bool,
    /// Tokens accepted on the Bundesmaster path.
    pub bearers: BTreeSet<String>,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            prefix: "/dvdv2-backend".to_owned(),
            now: Now::System,
            miss: Miss::NotFound,
            token_life: 86_400,
            audience: AudienceCheck::OwnUrl,
            accept_elliptic: true,
            refuse_replay: false,
            bearers: BTreeSet::new(),
        }
    }
}

/// The mock. Shared by all connections.
pub struct Mock {
    directory: RwLock<Arc<Directory>>,
    now: RwLock<Now>,
    options: MockOptions,
    certificates: Certificates,
    tokens: Tokens,
    script: Script,
}

#[expect(clippy::disallowed_methods, reason = "the mock's only look at the machine's clock")]
fn system_now() -> Timestamp {
    Timestamp::now()
}

impl Mock {
    /// A mock over a directory.
    ///
    /// # Errors
    /// When it cannot make its authority.
    pub fn new(directory: Directory, options: MockOptions) -> Result<Arc<Self>, CertsError> {
        let started: SystemTime = match options.now {
            Now::System => system_now().into(),
            Now::Fixed(at) => at.into(),
        };
        Ok(Arc::new(Self {
            directory: RwLock::new(Arc::new(directory)),
            now: RwLock::new(options.now),
            options,
            certificates: Certificates::new(started)?,
            tokens: Tokens::default(),
            script: Script::default(),
        }))
    }

    /// Registers a certificate that may ask for tokens, as client certificate of the organisations of a category.
    pub fn register_client(&self, der: Vec<u8>, category: &str) {
        self.tokens.register(RegisteredClient { der, category: category.to_owned() });
    }

    /// Makes it another time.
    pub fn set_now(&self, now: Now) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Misbehaves by these rules from now on; an empty list ends it.
    pub fn script(&self, rules: Vec<FaultRule>) {
        self.script.replace(rules);
    }

    /// Forgets all tokens, as a restarted server does.
    pub fn forget_tokens(&self) {
        self.tokens.forget();
    }

    /// Puts another directory into force.
    pub fn replace_directory(&self, directory: Directory) {
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
    }

    /// Path in front of everything.
    pub fn options_prefix(&self) -> &str {
        &self.options.prefix
    }

    /// Everything the mock serves. `/_mock/faults` (PUT, a JSON list of rules) and `/_mock/tokens` (DELETE) steer it.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/_mock/faults", axum::routing::put(put_faults))
            .route("/_mock/tokens", axum::routing::delete(delete_tokens))
            .fallback(answer)
            .with_state(Arc::clone(self))
    }

    pub(crate) fn now(&self) -> Timestamp {
        match *self.now.read().unwrap_or_else(PoisonError::into_inner) {
            Now::System => system_now(),
            Now::Fixed(at) => at,
        }
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn options(&self) -> &MockOptions {
        &self.options
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    pub(crate) fn clients(&self) -> Vec<RegisteredClient> {
        self.tokens.clients()
    }

    /// The function of a path and whether its caller may ask.
    fn admit<'a>(&self, path: &'a str, request: &Request) -> Result<&'a str, Box<Answer>> {
        let path =
            path.strip_prefix(&self.options.prefix).ok_or_else(|| Box::new(empty(StatusCode::NOT_FOUND)))?;
        if path == "/extern/standaloneauth/token" {
            return Ok("token");
        }
        let entries = [
            "/intern/directory/v2/",
            "/extern/standaloneauth/directory/v2/",
            "/extern/bundesmasterauth/directory/v2/",
        ];
        let found =
            entries.iter().find_map(|entry| path.strip_prefix(entry).map(|function| (*entry, function)));
        let Some((entry, function)) = found else { return Err(Box::new(empty(StatusCode::NOT_FOUND))) };
        if entry.contains("standaloneauth") {
            self.tokens.check(request.headers(), self.now()).map_err(|why| Box::new(unauthenticated(why)))?;
        } else if entry.contains("bundesmasterauth") {
            let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token = value.and_then(|value| value.strip_prefix("Bearer "));
            if !token.is_some_and(|token| self.options.bearers.contains(token)) {
                return Err(Box::new(unauthenticated("the token is unknown")));
            }
        }
        Ok(function)
    }
}

async fn put_faults(State(mock): State<Arc<Mock>>, Json(rules): Json<Vec<FaultRule>>) -> StatusCode {
    mock.script(rules);
    StatusCode::NO_CONTENT
}

async fn delete_tokens(State(mock): State<Arc<Mock>>) -> StatusCode {
    mock.forget_tokens();
    StatusCode::NO_CONTENT
}

async fn answer(State(mock): State<Arc<Mock>>, request: Request) -> Answer {
    let uri = request.uri().clone();
    let function = match mock.admit(uri.path(), &request) {
        Ok(function) => function,
        Err(answer) => return *answer,
    };
    let name = function.strip_prefix("batch/").unwrap_or(function);
    let faults = mock.script.next(name);
    let mut reset = false;
    for fault in &faults {
        match fault {
            Fault::Latency { milliseconds } => tokio::time::sleep(Duration::from_millis(*milliseconds)).await,
            Fault::Status { code, retry_after } => return failing(*code, *retry_after),
            Fault::Unauthorized => return unauthenticated("scripted"),
            Fault::EmptyBody => return empty(StatusCode::OK),
            Fault::Reset => reset = true,
            _ => {}
        }
    }
    let method = request.method().clone();
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let Ok(body) = axum::body::to_bytes(request.into_body(), BODY_MAX).await else {
        return empty(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    let result = tokio::task::spawn_blocking({
        let (mock, faults, function) = (Arc::clone(&mock), faults.clone(), function.to_owned());
        move || dispatch(&mock, &method, &function, &host, uri.query(), &body, &faults)
    });
    let Ok(result) = result.await else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    if reset || faults.contains(&Fault::Truncated) {
        return cut(result, reset).await;
    }
    result
}

fn dispatch(
    mock: &Mock,
    method: &Method,
    function: &str,
    host: &str,
    query: Option<&str>,
    body: &str,
    faults: &[Fault],
) -> Answer {
    let not_allowed = || empty(StatusCode::METHOD_NOT_ALLOWED);
    if function == "token" {
        if method != Method::POST {
            return not_allowed();
        }
        let own = format!("://{host}{}/extern/standaloneauth/token", mock.options.prefix);
        return mock.tokens.issue(body, &own, mock.now(), &mock.options);
    }
    if let Some(function) = function.strip_prefix("batch/") {
        if method != Method::POST {
            return not_allowed();
        }
        return operations::post(mock, function, body, faults)
            .unwrap_or_else(|| empty(StatusCode::NOT_FOUND));
    }
    if method != Method::GET {
        return not_allowed();
    }
    // Servlet containers refuse these characters before the application sees them.
    if query.is_some_and(|query| query.contains(['{', '}', '"', '|', '\\', '^'])) {
        return empty(StatusCode::BAD_REQUEST);
    }
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let request_json = pairs.into_owned().find(|(name, _)| name == "request_json").map(|(_, value)| value);
    operations::get(mock, function, request_json.as_deref(), faults)
        .unwrap_or_else(|| empty(StatusCode::NOT_FOUND))
}

fn failing(code: u16, retry_after: Option<u64>) -> Answer {
    let mut answer = empty(StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Sends half of an answer, then either ends properly or breaks the connection.
async fn cut(answer: Answer, reset: bool) -> Answer {
    let (parts, body) = answer.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return missing("body") };
    let half = bytes.slice(..bytes.len() / 2);
    let mut response = if reset {
        let pieces = [Ok(half), Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))];
        http::Response::new(Body::from_stream(futures::stream::iter(pieces)))
    } else {
        http::Response::new(Body::from(half))
    };
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    response
}
