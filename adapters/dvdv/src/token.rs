//! Access tokens: one per server, refreshed in time, one refresh at a time, and only the refused token is dropped.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::Timestamp;
use amtsbote_core::port::{Clock, Entropy};
use amtsbote_http::Client;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use sha1::{Digest, Sha1};
use tokio::sync::Mutex;
use url::Url;

use crate::options::EntryPath;
use crate::servers::AskError;
use crate::wire::TokenReply;

/// Life of a token whose server does not say (the public client assumes the same).
const UNKNOWN_LIFE: i64 = 300;
/// Life of an assertion.
const ASSERTION_LIFE: i64 = 60;

#[derive(Debug, Clone)]
struct Token {
    value: Arc<str>,
    refresh_at: Timestamp,
}

/// The tokens of one server.
pub(crate) struct Tokens {
    current: Mutex<Option<Token>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
}

/// What a request for a token needs.
pub(crate) struct TokenRequest<'a> {
    pub(crate) client: &'a Client,
    pub(crate) base: &'a Url,
    pub(crate) entry: &'a EntryPath,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) entropy: &'a dyn Entropy,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { current: Mutex::new(None) }
    }

    /// The value for `Authorization`, if this door needs one.
    pub(crate) async fn authorization(
        &self,
        request: &TokenRequest<'_>,
    ) -> Result<Option<Arc<str>>, AskError> {
        match request.entry {
            EntryPath::Intern => Ok(None),
            EntryPath::Bundesmaster { token } => {
                let text = std::fs::read_to_string(token)
                    .map_err(|source| AskError::Key { detail: source.to_string() })?;
                Ok(Some(format!("Bearer {}", text.trim()).into()))
            }
            EntryPath::Standalone { .. } => {
                // Holding the lock makes everybody wait for one refresh.
                let mut current = self.current.lock().await;
                let now = request.clock.now();
                if let Some(token) = current.as_ref().filter(|token| now < token.refresh_at) {
                    return Ok(Some(Arc::clone(&token.value)));
                }
                let token = fetch(request, now).await?;
                let value = Arc::clone(&token.value);
                *current = Some(token);
                Ok(Some(value))
            }
        }
    }

    /// Drops exactly the token that was refused, not a newer one somebody has fetched meanwhile.
    pub(crate) async fn refused(&self, value: &str) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| &*token.value == value) {
            *current = None;
        }
    }
}

async fn fetch(request: &TokenRequest<'_>, now: Timestamp) -> Result<Token, AskError> {
    let url = join(request.base, "extern/standaloneauth/token")?;
    let assertion = assertion(request, url.as_str(), now)?;
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
        .append_pair("client_assertion", &assertion)
        .finish();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let reply = request.client.exchange(Method::POST, url, headers, Bytes::from(form)).await;
    let reply = reply.map_err(AskError::Unreachable)?;
    match reply.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
            return Err(AskError::Refused { status: reply.status });
        }
        status => return Err(AskError::technical(status, &reply.headers)),
    }
    let token: TokenReply =
        serde_json::from_slice(&reply.body).map_err(|_| AskError::Garbled { what: "the token answer" })?;
    let life = token.expires_in.unwrap_or(UNKNOWN_LIFE).max(1);
    // Half a minute before the end, but never so early that every request asks for a token.
    let usable = Duration::from_secs((life - 30).max(life / 2).unsigned_abs());
    Ok(Token {
        value: format!("EmbeddedBearer {}", token.access_token).into(),
        refresh_at: now.checked_add(usable).unwrap_or(Timestamp::MAX),
    })
}

/// The signed assertion. Key and certificate are read every time, so that a rotated one works without a restart.
fn assertion(request: &TokenRequest<'_>, token_url: &str, now: Timestamp) -> Result<String, AskError> {
    let EntryPath::Standalone { certificate, key, audience } = request.entry else {
        return Err(AskError::Key { detail: "no key is configured for this entry path".to_owned() });
    };
    let failed = |detail: String| AskError::Key { detail };
    let der = CertificateDer::from_pem_file(certificate).map_err(|error| failed(error.to_string()))?;
    let subject = format!("fp:{}", hex::encode(Sha1::digest(&der)));
    let pem = std::fs::read(key).map_err(|error| failed(error.to_string()))?;
    let (algorithm, signing) = match EncodingKey::from_rsa_pem(&pem) {
        Ok(signing) => (Algorithm::RS256, signing),
        Err(_) => {
            (Algorithm::ES256, EncodingKey::from_ec_pem(&pem).map_err(|error| failed(error.to_string()))?)
        }
    };
    let mut id = [0; 16];
    request.entropy.fill(&mut id);
    let issued = now.as_second();
    let claims = Claims {
        iss: &subject,
        sub: &subject,
        aud: audience.as_deref().unwrap_or(token_url),
        iat: issued,
        nbf: issued,
        exp: issued + ASSERTION_LIFE,
        jti: uuid::Builder::from_random_bytes(id).into_uuid().to_string(),
    };
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &signing)
        .map_err(|error| failed(error.to_string()))
}

/// Appends to a base URL with its path, by hand: entry paths contain slashes that must stay.
pub(crate) fn join(base: &Url, path: &str) -> Result<Url, AskError> {
    let text = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    text.parse().map_err(|_| AskError::Garbled { what: "the address of the server" })
}
