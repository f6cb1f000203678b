//! The `Channel` and `Exchanger` ports over HTTPS.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::{FailureClass, FailureReason, Proof};
use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::port::{
    Channel, Clock, DeliveryOutcome, Entropy, ExchangeOutcome, Exchanger, Handover, InstantAnswer, StoreError,
};
use amtsbote_core::route::{ChannelKind, Endpoint};
use amtsbote_http::{Client, ClientError, Streamed};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::body::{Body, Format};
use crate::sign::Secrets;

/// Bytes of a description in headers; servers take 8 KiB of headers at the least.
const DESCRIPTION_MAX: usize = 4 << 10;
/// Bytes of an answer to whoever waits for one.
const ANSWER_MAX: usize = 16 << 20;

/// Which addresses an endpoint of the configuration stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// This one.
    Url(Url),
    /// Every HTTPS address a directory lists that is no other endpoint's.
    Directory,
}

/// A configured endpoint.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where.
    pub address: Address,
    /// Calls it: bounded in time, with our certificate, and only where it may.
    pub client: Client,
    /// Shared with the receiver.
    pub secrets: Secrets,
    /// What a request holds.
    pub format: Format,
}

/// Delivery to endpoints by name.
pub struct WebhookChannel {
    webhooks: BTreeMap<String, Webhook>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NotPosted {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the message has no document")]
    NoDocument,
    #[error("no endpoint with this address is configured")]
    Unknown,
}

impl NotPosted {
    fn classify(&self) -> (FailureClass, &'static str, String) {
        use FailureClass::{Destination, Ours, Permanent, Transient};
        match self {
            Self::Store(error) => (Ours, "store", error.to_string()),
            Self::NoDocument => (Permanent, "damaged", self.to_string()),
            Self::Unknown => (Destination, "no-webhook", self.to_string()),
            Self::Client(ClientError::Forbidden) => {
                (Destination, "webhook-forbidden", "the address is internal".to_owned())
            }
            Self::Client(ClientError::Failed(error)) if error.is_connect() => {
                (Destination, "unreachable", "the endpoint cannot be reached".to_owned())
            }
            Self::Client(ClientError::Timeout) => {
                (Transient, "outcome-unknown", "the endpoint did not answer in time".to_owned())
            }
            Self::Client(_) => (Transient, "outcome-unknown", "the answer did not come".to_owned()),
        }
    }

    fn outcome(&self) -> DeliveryOutcome {
        let (class, code, detail) = self.classify();
        DeliveryOutcome::failed(class, code, detail)
    }
}

/// What a status means for the next attempt; `None` is success.
fn of_status(status: StatusCode) -> Option<(FailureClass, &'static str)> {
    use FailureClass::{Destination, Permanent, Transient};
    match status.as_u16() {
        200..=299 => None,
        // Where it leads is not asked: the address is the operator's to change.
        300..=399 => Some((Destination, "webhook-redirects")),
        401 | 402 | 403 | 404 | 405 | 407 => Some((Destination, "webhook-refuses")),
        410 => Some((Destination, "webhook-gone")),
        408 | 425 => Some((Transient, "webhook-failed")),
        429 | 502 | 503 | 504 => Some((Destination, "webhook-overloaded")),
        400..=499 => Some((Permanent, "webhook-rejected")),
        _ => Some((Transient, "webhook-failed")),
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(at.duration_since(now).try_into().unwrap_or_default())
}

/// JSON in a header: everything that is not ASCII is escaped.
fn in_header(value: &serde_json::Value) -> Option<HeaderValue> {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c.is_ascii() {
            true => text.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}")),
        }
    }
    HeaderValue::from_str(&text).ok().filter(|value| value.len() <= DESCRIPTION_MAX)
}

impl WebhookChannel {
    /// Endpoints by name.
    pub fn new(
        webhooks: BTreeMap<String, Webhook>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { webhooks, clock, entropy }
    }

    /// The endpoint an address means: `webhook://NAME`, or the address of the directory.
    fn find(&self, address: &str) -> Option<(&str, &Webhook, Url)> {
        if let Some(name) = address.strip_prefix("webhook://") {
            let (name, webhook) = self.webhooks.get_key_value(name)?;
            let Address::Url(url) = &webhook.address else { return None };
            return Some((name, webhook, url.clone()));
        }
        let url = address.parse::<Url>().ok().filter(|url| url.scheme() == "https")?;
        let is = |wanted: &Address| {
            let found = self.webhooks.iter().find(|(_, webhook)| webhook.address == *wanted);
            found.map(|(name, webhook)| (name.as_str(), webhook))
        };
        let (name, webhook) = is(&Address::Url(url.clone())).or_else(|| is(&Address::Directory))?;
        Some((name, webhook, url))
    }

    async fn post(&self, handover: &Handover) -> Result<(String, Streamed), NotPosted> {
        let found = self.find(&handover.route.endpoint.address).ok_or(NotPosted::Unknown)?;
        let (name, webhook, url) = found;
        let body = Body::of(handover, webhook.format, &self.boundary()).ok_or(NotPosted::NoDocument)?;
        let (id, seconds) = (handover.message.id.to_string(), self.clock.now().as_second());
        let mut signer = webhook.secrets.sign(&id, seconds);
        let mut stream = std::pin::pin!(body.open(handover).await?);
        while let Some(bytes) = stream.try_next().await? {
            signer.update(&bytes);
        }
        let mut headers = headers(handover, webhook.format);
        headers.insert(CONTENT_TYPE, body.content_type.clone());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.length));
        headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(seconds));
        for (header, text) in [("webhook-id", id), ("webhook-signature", signer.finish())] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(HeaderName::from_static(header), value);
            }
        }
        let stream = body.open(handover).await?.map_err(io::Error::other).boxed();
        Ok((name.to_owned(), webhook.client.stream(Method::POST, url, headers, stream).await?))
    }

    /// Stands in none of the contents: nobody knows it before.
    fn boundary(&self) -> String {
        let mut bytes = [0; 24];
        self.entropy.fill(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What stands in headers, whatever the body holds.
fn headers(handover: &Handover, format: Format) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("amtsbote-attempt", Some(HeaderValue::from(handover.attempt)));
    let redelivered = if handover.redelivered() { "true" } else { "false" };
    add("amtsbote-redelivered", Some(HeaderValue::from_static(redelivered)));
    add("amtsbote-signature", HeaderValue::from_str(&STANDARD.encode(&handover.seal.signature)).ok());
    if format == Format::Document {
        let id = &handover.message.id;
        let href = |number: usize, _: &Part| match number {
            0 => ("href", format!("/v1/mailbox/messages/{id}/document")),
            n => ("href", format!("/v1/mailbox/messages/{id}/attachments/{n}")),
        };
        add("amtsbote-message", in_header(&handover.describe(href)));
    }
    headers
}

#[async_trait]
impl Channel for WebhookChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Webhook
    }

    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String> {
        let found = self.find(&endpoint.address);
        found.map(drop).ok_or_else(|| "no webhook with this address is configured".to_owned())
    }

    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome {
        let (name, answer) = match self.post(handover).await {
            Ok(posted) => posted,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "A webhook did not answer.");
                return error.outcome();
            }
        };
        let status = answer.status;
        let Some((class, code)) = of_status(status) else {
            return DeliveryOutcome::Delivered(Proof(format!(
                "answered with {} by webhook {name}",
                status.as_u16()
            )));
        };
        let detail = format!("the endpoint answered with status {}", status.as_u16());
        let reason = FailureReason { code: code.to_owned(), detail };
        DeliveryOutcome::Failed { class, reason, retry_after: retry_after(&answer.headers, self.clock.now()) }
    }
}

#[async_trait]
impl Exchanger for WebhookChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Webhook
    }

    async fn exchange(&self, handover: &Handover) -> ExchangeOutcome {
        let (name, answer) = match self.post(handover).await {
            Ok(posted) => posted,
            Err(error) => {
                let (class, code, detail) = error.classify();
                let reason = FailureReason { code: code.to_owned(), detail };
                return match class {
                    FailureClass::Transient => ExchangeOutcome::Unknown(reason),
                    _ => ExchangeOutcome::Failed(reason),
                };
            }
        };
        let status = answer.status;
        if let Some((_, code)) = of_status(status) {
            let detail = format!("the endpoint answered with status {}", status.as_u16());
            let reason = FailureReason { code: code.to_owned(), detail };
            // Something behind it may have taken it, except where it says that it did not even try.
            return match status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
                true => ExchangeOutcome::Unknown(reason),
                false => ExchangeOutcome::Failed(reason),
            };
        }
        let lost = |detail: &str| {
            ExchangeOutcome::Unknown(FailureReason {
                code: "no-answer".to_owned(),
                detail: detail.to_owned(),
            })
        };
        let media_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or("application/octet-stream").to_owned();
        let content = match read(answer).await {
            Ok(content) if !content.is_empty() => content,
            Ok(_) => return lost("the endpoint took it and answered nothing"),
            Err(detail) => return lost(&detail),
        };
        let proof = Proof(format!("answered with {} by webhook {name}", status.as_u16()));
        match keep(handover, content, media_type, proof).await {
            Ok(answer) => ExchangeOutcome::Answered(Box::new(answer)),
            Err(error) => lost(&error.to_string()),
        }
    }
}

/// The whole body of an answer.
async fn read(answer: Streamed) -> Result<Bytes, String> {
    let (mut body, mut content) = (answer.body, BytesMut::new());
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|_| "the answer was cut off".to_owned())?;
        if content.len() + piece.len() > ANSWER_MAX {
            return Err(format!("the answer is larger than {ANSWER_MAX} bytes"));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.freeze())
}

/// The answer as a message of the recipient.
async fn keep(
    handover: &Handover,
    content: Bytes,
    media_type: String,
    proof: Proof,
) -> Result<InstantAnswer, StoreError> {
    let (size, sha256) = (content.len() as u64, Sha256Digest::of(&content));
    let part = Part { name: None, media_type, size, sha256, offset: 0, attributes: BTreeMap::new() };
    let mut writer = handover.stage().await?;
    writer.write(content).await?;
    let metadata = handover.message.metadata.of_answer();
    Ok(InstantAnswer {
        proof,
        metadata,
        parts: vec![part],
        payload: writer.finish().await?,
        external_ids: Vec::new(),
        carried: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        use FailureClass::{Destination, Permanent, Transient};
        for status in [200, 202, 204] {
            assert_eq!(of_status(StatusCode::from_u16(status).unwrap()), None);
        }
        for (status, class) in [
            (301, Destination),
            (307, Destination),
            (400, Permanent),
            (401, Destination),
            (404, Destination),
            (408, Transient),
            (410, Destination),
            (413, Permanent),
            (422, Permanent),
            (429, Destination),
            (500, Transient),
            (503, Destination),
            (599, Transient),
        ] {
            assert_eq!(of_status(StatusCode::from_u16(status).unwrap()).unwrap().0, class, "{status}");
        }
    }

    #[test]
    fn receivers_say_when_to_come_again_in_two_ways() {
        let now: jiff::Timestamp = "2026-11-23T02:00:00Z".parse().unwrap();
        let ask = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(ask("120"), Some(Duration::from_secs(120)));
        assert_eq!(ask("Mon, 23 Nov 2026 02:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(ask("Mon, 23 Nov 2026 01:00:00 GMT"), Some(Duration::ZERO), "it is over");
        assert_eq!(ask("soon"), None);
    }

    #[test]
    fn descriptions_fit_into_a_header_or_stay_out() {
        let value = in_header(&serde_json::json!({ "subject": "Köln \u{1f600}\r\n" })).unwrap();
        assert_eq!(value, "{\"subject\":\"K\\u00f6ln \\ud83d\\ude00\\r\\n\"}");
        let read: serde_json::Value = serde_json::from_slice(value.as_bytes()).unwrap();
        assert_eq!(read["subject"], "Köln \u{1f600}\r\n");
        assert!(in_header(&serde_json::json!({ "subject": "x".repeat(5_000) })).is_none());
    }
}
