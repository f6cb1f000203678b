//! Delivery to remote XTA servers: the gateway hands in as an author of theirs.
//!
//! Ids are kept, so that a repeated hand-over is recognised: a server that says the id is taken is asked for its report before the
//! attempt counts as failed.

use std::collections::BTreeMap;
use std::io;

use amtsbote_core::delivery::{FailureClass, Proof};
use amtsbote_core::message::PartNumber;
use amtsbote_core::port::{Channel, DeliveryOutcome, Handover, PartReader, StoreError};
use amtsbote_core::route::{ChannelKind, Endpoint};
use amtsbote_soap::Name;
use async_trait::async_trait;
use axum::http::StatusCode;
use futures::{StreamExt as _, stream};

use crate::client::{CallError, ContentStream, RemoteFault, XtaClient};
use crate::content::{ContentError, Spool, container};
use crate::mapping::{View, order_for, wants_root};
use crate::metadata::{Added, identifier, party};

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
        let contents = match contents(handover).await {
            Ok(contents) => contents,
            Err(outcome) => return outcome,
        };
        let message = &handover.message;
        let (mut order, _) =
            order_for(message, Some(&handover.route), View::Reader, root(handover).await).await;
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
        let (id, metadata) = (order.message_id.clone(), order.write(&added));
        let sent = server.client.send(metadata, container(message), contents, &mut Spool::none()).await;
        match sent {
            Ok(()) => DeliveryOutcome::Delivered(Proof(format!("accepted by XTA server {name}"))),
            Err(CallError::Fault(RemoteFault { number: 9024, .. })) => {
                taken(server, name, handover, &id).await
            }
            Err(error) => failure(&error),
        }
    }
}

/// The id is taken. By an earlier attempt of ours the message is there; otherwise somebody else uses the id.
async fn taken(server: &XtaServer, name: &str, handover: &Handover, id: &str) -> DeliveryOutcome {
    if !handover.redelivered() {
        let detail = "the server knows the MessageID from another order";
        return DeliveryOutcome::failed(FailureClass::Permanent, "id-taken", detail);
    }
    match server.client.is_known(id, &mut Spool::none()).await {
        Ok(true) => {
            DeliveryOutcome::Delivered(Proof(format!("accepted by XTA server {name}, at an earlier attempt")))
        }
        Ok(false) => {
            let detail = "the server knows the MessageID from another order";
            DeliveryOutcome::failed(FailureClass::Permanent, "id-taken", detail)
        }
        Err(error) => failure(&error),
    }
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
            StatusCode::REQUEST_TIMEOUT => (FailureClass::Transient, "status"),
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
        9080 | 9081 => (FailureClass::Permanent, "wrong-mode"),
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
}
