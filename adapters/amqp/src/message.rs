//! What goes into an AMQP message: the document as body, everything else as properties and headers.

use amtsbote_core::delivery::FailureClass;
use amtsbote_core::port::{DeliveryOutcome, Handover, StoreError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde_json::json;

/// A message ready to be published.
pub(crate) struct Publication {
    pub(crate) id: String,
    pub(crate) body: Vec<u8>,
    /// Bytes of the properties, rounded up; they have to fit into one frame (AMQP 0-9-1, 4.2.6).
    pub(crate) head: usize,
    pub(crate) properties: BasicProperties,
}

fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

/// Builds the message of a hand-over.
pub(crate) async fn build(handover: &Handover, inline_max: u64) -> Result<Publication, Box<DeliveryOutcome>> {
    let message = &handover.message;
    let Some(document) = message.parts.first() else {
        return Err(damaged("the message has no document"));
    };
    let inline = document.size <= inline_max;
    let body = if inline { read_document(handover).await? } else { Vec::new() };
    let id = message.id.to_string();
    let href = |n: usize| match n {
        0 => format!("/v1/mailbox/messages/{id}/document"),
        n => format!("/v1/mailbox/messages/{id}/attachments/{n}"),
    };
    let referenced = message.parts.iter().enumerate().filter(|(n, _)| *n > 0 || !inline);
    let parts: Vec<_> = referenced
        .map(|(n, part)| {
            json!({
                "n": n, "name": part.name, "mediaType": part.media_type, "size": part.size,
                "sha256": part.sha256.to_string(), "href": href(n),
            })
        })
        .collect();
    let mut headers = FieldTable::default();
    let mut head = 2048;
    let mut header = |name: &str, value: AMQPValue| {
        let text = if let AMQPValue::LongString(text) = &value { text.as_bytes().len() } else { 8 };
        head += name.len() + text + 8;
        headers.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    header("amtsbote-attempt", AMQPValue::LongInt(i32::try_from(handover.attempt).unwrap_or(i32::MAX)));
    header("amtsbote-redelivered", AMQPValue::Boolean(handover.redelivered()));
    let service = Some(&handover.route.service).filter(|service| !service.is_empty()).cloned();
    header("amtsbote-service", text(&service.unwrap_or_else(|| message.metadata.service.to_string())));
    header("amtsbote-external-ids", text(&json!(message.external_ids).to_string()));
    header("amtsbote-recipient", text(handover.route.organization.key.as_str()));
    header("amtsbote-sender", text(message.sender.as_str()));
    header("amtsbote-document", text(if inline { "inline" } else { "referenced" }));
    header("amtsbote-document-sha256", text(&document.sha256.to_string()));
    header("amtsbote-parts", text(&json!(parts).to_string()));
    header("amtsbote-signature", text(&STANDARD.encode(&handover.seal.signature)));
    header("amtsbote-metadata", text(&serde_json::to_string(&message.metadata).unwrap_or_default()));
    let seconds = u64::try_from(message.received_at.as_second()).unwrap_or_default();
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_timestamp(seconds)
        .with_message_id(id.as_str().into())
        .with_headers(headers);
    if let Some(media_type) = short(&document.media_type) {
        properties = properties.with_content_type(media_type);
    }
    if let Some(case) = message.metadata.case_id.as_ref().and_then(|case| short(case.as_str())) {
        properties = properties.with_correlation_id(case);
    }
    Ok(Publication { id, body, head, properties })
}

async fn read_document(handover: &Handover) -> Result<Vec<u8>, Box<DeliveryOutcome>> {
    let mut part = match handover.open(0).await {
        Ok(Some(part)) => part,
        Ok(None) => return Err(damaged("the message has no document")),
        Err(error) => return Err(unreadable(&error)),
    };
    let mut body = Vec::with_capacity(usize::try_from(part.part.size).unwrap_or_default());
    loop {
        match part.reader.next().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => return Ok(body),
            Err(error) => return Err(unreadable(&error)),
        }
    }
}

fn damaged(detail: &str) -> Box<DeliveryOutcome> {
    Box::new(DeliveryOutcome::failed(FailureClass::Permanent, "damaged", detail))
}

fn unreadable(error: &StoreError) -> Box<DeliveryOutcome> {
    match error {
        StoreError::Damaged { .. } | StoreError::Removed { .. } => damaged(&error.to_string()),
        StoreError::Full | StoreError::Io { .. } | StoreError::Stopped { .. } => {
            Box::new(DeliveryOutcome::failed(FailureClass::Ours, "store-unavailable", error.to_string()))
        }
    }
}
