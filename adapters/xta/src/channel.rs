//! Delivery to remote XTA servers: the gateway hands in as an author of theirs.
//!
//! Ids are kept, so that a repeated hand-over is recognised: a server that says the id is taken is asked for its report before the
//! attempt counts as failed.

use std::collections::BTreeMap;
use std::io;

use amtsbote_core::delivery::{FailureClass, FailureReason, Proof};
use amtsbote_core::message::{CarriedKind, ExternalId, IdScheme, Message, PartNumber};
use amtsbote_core::port::{
    Channel, DeliveryOutcome, ExchangeOutcome, Exchanger, Handover, InstantAnswer, PartReader, StoreError,
};
use amtsbote_core::route::{ChannelKind, Endpoint};
use amtsbote_soap::{Element, Name, XmlLimits};
use async_trait::async_trait;
use axum::http::StatusCode;
use futures::{StreamExt as _, stream};

use crate::client::{CallError, ContentStream, Fetched, RemoteFault, XtaClient};
use crate::content::{ContentError, Order, Spool, container};
use crate::fault::Refused;
use crate::mapping::{Understood, View, order_for, understand_from, wants_root};
use crate::metadata::{Added, MetaData, identifier, party};
use crate::names::META;
use crate::send::carry;

/// Code of a failure: the server wants the other of sendMessage and sendMessageSync.
pub(crate) const WRONG_MODE: &str = "wrong-mode";

/// A configured server.
pub struct XtaServer {
    /// The client with our account there.
    pub client: XtaClient,
    /// Identifier the server knows us as an author by. Absent: authors keep their own, which the server has to know.
    pub author: Option<String>,
    /// Identifier of the gateway as sender in orders.
    pub sender: Option<String>,
}

/// The XTA channel over named servers.
pub struct XtaChannel {
    servers: BTreeMap<String, XtaServer>,
}

impl XtaChannel {
    /// A channel over some servers. Connects when first needed.
    pub fn new(servers: BTreeMap<String, XtaServer>) -> Self {
        Self { servers }
    }

    /// The server an address means: `xta://NAME` of the configuration, or the send port of the directory.
    fn find(&self, address: &str) -> Option<(&str, &XtaServer)> {
        if let Some(name) = address.strip_prefix("xta://") {
            return self.servers.get_key_value(name).map(|(name, server)| (name.as_str(), server));
        }
        let mut servers = self.servers.iter();
        servers
            .find(|(_, server)| server.client.sends_to(address))
            .map(|(name, server)| (name.as_str(), server))
    }
}

#[async_trait]
impl Channel for XtaChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Xta
    }

    fn accepts(&self, endpoint: &Endpoint) -> Result<(), String> {
        let found = self.find(&endpoint.address);
        found.map(drop).ok_or_else(|| "no XTA server with this send port is configured".to_owned())
    }

    async fn deliver(&self, handover: &Handover) -> DeliveryOutcome {
        let Some((name, server)) = self.find(&handover.route.endpoint.address) else {
            let detail = "no XTA server with this send port is configured";
            return DeliveryOutcome::failed(FailureClass::Destination, "no-server", detail);
        };
        let Outgoing { order, headers, contents } = match outgoing(server, handover).await {
            Ok(outgoing) => outgoing,
            Err(outcome) => return outcome,
        };
        let body = container(&handover.message);
        match server.client.send(headers, body, contents, &mut Spool::none()).await {
            Ok(()) => DeliveryOutcome::Delivered(Proof(format!("accepted by XTA server {name}"))),
            Err(CallError::Fault(RemoteFault { number: 9024, .. })) => {
                taken(server, name, handover, &order).await
            }
            Err(error) => failure(&error),
        }
    }
}

#[async_trait]
impl Exchanger for XtaChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Xta
    }

    async fn exchange(&self, handover: &Handover) -> ExchangeOutcome {
        let failed = |outcome: DeliveryOutcome| match outcome {
            DeliveryOutcome::Failed { reason, .. } => ExchangeOutcome::Failed(reason),
            DeliveryOutcome::Delivered(proof) => ExchangeOutcome::Unknown(said("unexpected", proof.0)),
        };
        let Some((name, server)) = self.find(&handover.route.endpoint.address) else {
            return ExchangeOutcome::Failed(said(
                "no-server",
                "no XTA server with this send port is configured",
            ));
        };
        let Outgoing { headers, contents, .. } = match outgoing(server, handover).await {
            Ok(outgoing) => outgoing,
            Err(outcome) => return failed(outcome),
        };
        let mut spool = match handover.stage().await {
            Ok(writer) => Spool::new(writer, ANSWER_MAX),
            Err(error) => return ExchangeOutcome::Failed(said("store", error.to_string())),
        };
        let body = container(&handover.message);
        let fetched = match server.client.send_sync(headers, body, contents, &mut spool).await {
            Ok(fetched) => fetched,
            Err(error @ (CallError::Fault(_) | CallError::Unreachable(_) | CallError::Status { .. })) => {
                return failed(failure(&error));
            }
            Err(error @ (CallError::Unknown(_) | CallError::Answer(_) | CallError::Unexpected)) => {
                return ExchangeOutcome::Unknown(said("outcome-unknown", error.to_string()));
            }
        };
        let proof = Proof(format!("answered by XTA server {name}"));
        match answer_of(handover, fetched, spool, proof).await {
            Ok(answer) => ExchangeOutcome::Answered(Box::new(answer)),
            // The recipient has it; what it says about it is useless.
            Err(_) => ExchangeOutcome::Unknown(said("answer-unreadable", "the answer is no valid order")),
        }
    }
}

/// Bytes of the contents of an answer.
const ANSWER_MAX: u64 = 40 << 20;

fn said(code: &str, detail: impl Into<String>) -> FailureReason {
    FailureReason { code: code.to_owned(), detail: detail.into() }
}

/// An order as it goes to a server.
struct Outgoing {
    order: MetaData,
    headers: Vec<Element>,
    contents: Vec<(String, ContentStream)>,
}

async fn outgoing(server: &XtaServer, handover: &Handover) -> Result<Outgoing, DeliveryOutcome> {
    let contents = contents(handover).await?;
    let message = &handover.message;
    let (mut order, _) = order_for(message, Some(&handover.route), View::Reader, root(handover).await).await;
    if let Some(author) = server.author.as_deref().filter(|author| *author != identifier(&order.author)) {
        // Whoever wrote it takes the answers.
        let original = identifier(&order.author);
        order.reply_to.get_or_insert_with(|| party("ReplyTo", &original, None));
        order.author = party("Author", author, None);
    }
    let added = Added {
        initial_send: Some(message.received_at),
        sender: server.sender.clone(),
        size: message.payload_size(),
        ..Added::default()
    };
    let headers = [order.write(&added)].into_iter().chain(tokens(message).await).collect();
    Ok(Outgoing { order, headers, contents })
}

/// The answer of a recipient as a message.
async fn answer_of(
    handover: &Handover,
    fetched: Fetched,
    spool: Spool,
    proof: Proof,
) -> Result<InstantAnswer, Refused> {
    let (order, _) = MetaData::read(&fetched.metadata.element)?;
    let Understood { metadata, .. } = understand_from(&order, handover.message.sender.clone(), None)?;
    let (parts, payload) = spool.finish(Order::of(&fetched.container)?).await?;
    let external_ids = vec![ExternalId { scheme: IdScheme::Xta, value: order.message_id.clone() }];
    let carried = vec![carry(&fetched.metadata, CarriedKind::XtaMetadata, "MessageMetaData")?];
    Ok(InstantAnswer { proof, metadata, parts, payload, external_ids, carried })
}

/// The id is taken. By an earlier attempt of ours the message is there; otherwise somebody else uses the id.
async fn taken(server: &XtaServer, name: &str, handover: &Handover, order: &MetaData) -> DeliveryOutcome {
    let other = || {
        let detail = "the server knows the MessageID from another order";
        DeliveryOutcome::failed(FailureClass::Permanent, "id-taken", detail)
    };
    if !handover.redelivered() {
        return other();
    }
    match server.client.report(&order.message_id, &mut Spool::none()).await {
        Ok(Some(reported)) if is_ours(&reported, order, handover.message.payload_size()) => {
            DeliveryOutcome::Delivered(Proof(format!("accepted by XTA server {name}, at an earlier attempt")))
        }
        Ok(_) => other(),
        Err(error) => failure(&error),
    }
}

/// Whether an order that a server reports is the one that was sent to it, as far as a report tells.
fn is_ours(reported: &Element, sent: &MetaData, size: u64) -> bool {
    let reported_size = reported.text_of(META, "MsgSize").and_then(|size| size.parse::<u64>().ok());
    let Ok((reported, _)) = MetaData::read(reported) else { return false };
    let parties = |order: &MetaData| {
        (identifier(&order.author), identifier(&order.reader), order.reply_to.as_ref().map(identifier))
    };
    parties(&reported) == parties(sent)
        && reported.service == sent.service
        && reported_size.is_none_or(|reported| reported == size || reported == 0)
}

/// Certificates the author gave the reader.
async fn tokens(message: &Message) -> Option<Element> {
    let tokens = message.carried(CarriedKind::XtaTokens)?;
    amtsbote_soap::parse(tokens.as_bytes(), XmlLimits::default()).await.ok()
}

/// The name of the document's root element, if that tells the type of the message.
async fn root(handover: &Handover) -> Option<Name> {
    if !wants_root(&handover.message) {
        return None;
    }
    crate::root_of(handover.open(0).await.ok()??.reader).await
}

async fn contents(handover: &Handover) -> Result<Vec<(String, ContentStream)>, DeliveryOutcome> {
    let mut contents = Vec::with_capacity(handover.message.parts.len());
    for number in 0..handover.message.parts.len() {
        let number = PartNumber::try_from(number).unwrap_or(PartNumber::MAX);
        match handover.open(number).await {
            Ok(Some(part)) => contents.push((part.part.media_type.clone(), content(part.reader))),
            Ok(None) => {
                let detail = "a part of the message is missing";
                return Err(DeliveryOutcome::failed(FailureClass::Permanent, "damaged", detail));
            }
            Err(error @ (StoreError::Damaged { .. } | StoreError::Removed { .. })) => {
                return Err(DeliveryOutcome::failed(FailureClass::Permanent, "damaged", error.to_string()));
            }
            Err(error) => {
                return Err(DeliveryOutcome::failed(FailureClass::Ours, "store", error.to_string()));
            }
        }
    }
    Ok(contents)
}

fn content(reader: Box<dyn PartReader>) -> ContentStream {
    stream::try_unfold(reader, |mut reader| async move {
        let next = reader.next().await.map_err(io::Error::other)?;
        Ok(next.map(|bytes| (bytes, reader)))
    })
    .boxed()
}

/// Which class each failure is of. Decided by the number of the fault, then by its exception, then by status.
fn failure(error: &CallError<ContentError>) -> DeliveryOutcome {
    let (class, code) = match error {
        CallError::Unreachable(_) => (FailureClass::Destination, "server-unreachable"),
        CallError::Unknown(_) => (FailureClass::Transient, "outcome-unknown"),
        CallError::Fault(fault) => classify(fault),
        CallError::Status { status, .. } => match *status {
            StatusCode::PAYLOAD_TOO_LARGE => (FailureClass::Permanent, "too-large"),
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::TOO_MANY_REQUESTS => (FailureClass::Destination, "status"),
            // Perhaps only this message is what it does not like.
            status if status.is_client_error() => (FailureClass::Transient, "status"),
            _ => (FailureClass::Destination, "status"),
        },
        CallError::Answer(_) | CallError::Unexpected => (FailureClass::Transient, "outcome-unknown"),
    };
    let retry_after = match error {
        CallError::Status { retry_after: Some(seconds), .. } => {
            Some(std::time::Duration::from_secs(*seconds))
        }
        _ => None,
    };
    match DeliveryOutcome::failed(class, code, error.to_string()) {
        DeliveryOutcome::Failed { class, reason, .. } => {
            DeliveryOutcome::Failed { class, reason, retry_after }
        }
        delivered @ DeliveryOutcome::Delivered(_) => delivered,
    }
}

fn classify(fault: &RemoteFault) -> (FailureClass, &'static str) {
    match fault.number {
        // Our account or our certificate: no message gets through.
        9010..=9012 => (FailureClass::Destination, "account-refused"),
        9013 => (FailureClass::Permanent, "service-not-booked"),
        9014 => (FailureClass::Permanent, "author-refused"),
        9020..=9022 => (FailureClass::Permanent, "order-refused"),
        9023 => (FailureClass::Permanent, "too-large"),
        9024 => (FailureClass::Permanent, "id-taken"),
        9030..=9032 => (FailureClass::Transient, "server-failed"),
        9050..=9060 => (FailureClass::Permanent, "content-refused"),
        9080 | 9081 => (FailureClass::Permanent, WRONG_MODE),
        _ => match (fault.exception.as_str(), fault.code.as_str()) {
            ("PermissionDeniedException", _) => (FailureClass::Destination, "account-refused"),
            ("XTAWSTechnicalProblemException", _) | ("", "Receiver" | "Server") => {
                (FailureClass::Transient, "server-failed")
            }
            _ => (FailureClass::Permanent, "order-refused"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ADDRESSING;

    #[test]
    fn every_number_has_its_class() {
        let class = |code: &str, exception: &str, number| {
            classify(&RemoteFault { code: code.to_owned(), exception: exception.to_owned(), number }).0
        };
        for (number, expected) in [
            (9010, FailureClass::Destination),
            (9012, FailureClass::Destination),
            (9013, FailureClass::Permanent),
            (9022, FailureClass::Permanent),
            (9023, FailureClass::Permanent),
            (9030, FailureClass::Transient),
            (9032, FailureClass::Transient),
            (9060, FailureClass::Permanent),
            (9080, FailureClass::Permanent),
        ] {
            assert_eq!(class("Receiver", "AnyException", number), expected, "{number}");
        }
        assert_eq!(class("Sender", "PermissionDeniedException", 9999), FailureClass::Destination);
        assert_eq!(class("Sender", "XTAWSTechnicalProblemException", 0), FailureClass::Transient);
        assert_eq!(class("Receiver", "", 0), FailureClass::Transient);
        assert_eq!(class("Sender", "", 0), FailureClass::Permanent);
    }

    /// An order as a server reports it.
    fn reported(author: &str, reader: &str, service: &str, size: &str) -> Element {
        let inside = |name: &str, text: &str| Element::new(META, name).with_text(text);
        let code = Element::new("", "code").with_text("0401");
        let kind = Element::new(META, "MessageType").with_attribute("payloadSchema", "urn:schema").with(code);
        let id = Element::new(ADDRESSING, "MessageID").with_text("urn:de:xta:messageid:test:1");
        Element::new(META, "MessageMetaData")
            .with(Element::new(META, "Originators").with(party("Author", author, None)))
            .with(Element::new(META, "Destinations").with(party("Reader", reader, None)))
            .with(Element::new(META, "MsgIdentification").with(id))
            .with(Element::new(META, "Qualifier").with(inside("Service", service)).with(kind))
            .with(inside("MsgSize", size))
    }

    #[test]
    fn an_id_is_ours_if_the_reported_order_is() {
        let (sent, _) = MetaData::read(&reported("ags:1", "ags:2", "urn:a", "7")).unwrap();
        for (author, reader, service, size, expected) in [
            ("ags:1", "ags:2", "urn:a", "7", true),
            ("ags:1", "ags:2", "urn:a", "0", true),
            ("ags:9", "ags:2", "urn:a", "7", false),
            ("ags:1", "ags:9", "urn:a", "7", false),
            ("ags:1", "ags:2", "urn:b", "7", false),
            ("ags:1", "ags:2", "urn:a", "8", false),
        ] {
            let ours = is_ours(&reported(author, reader, service, size), &sent, 7);
            assert_eq!(ours, expected, "{author} {reader} {service} {size}");
        }
        assert!(!is_ours(&Element::new(META, "MessageMetaData"), &sent, 7), "unreadable");
    }

    #[test]
    fn a_status_without_soap_has_its_class() {
        for (status, expected) in [
            (400, FailureClass::Transient),
            (401, FailureClass::Destination),
            (404, FailureClass::Destination),
            (408, FailureClass::Transient),
            (413, FailureClass::Permanent),
            (415, FailureClass::Transient),
            (429, FailureClass::Destination),
            (502, FailureClass::Destination),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            match failure(&CallError::Status { status, retry_after: None }) {
                DeliveryOutcome::Failed { class, .. } => assert_eq!(class, expected, "{status}"),
                DeliveryOutcome::Delivered(_) => panic!("{status} is no delivery"),
            }
        }
    }
}
