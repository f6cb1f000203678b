//! New orders for [`XtaClient::send`](crate::XtaClient::send).

use amtsbote_core::account::Account;
use amtsbote_core::key::PartyId;
use amtsbote_core::message::Metadata;
use amtsbote_core::port::StoredMessage;
use amtsbote_soap::write::{Prefixes, write_whole};
use amtsbote_soap::{Content, Element, XmlLimits};

use crate::fault::{ErrorCode, Refused};
use crate::mapping::{View, order_of, understand, understand_from};
use crate::metadata::{Added, MetaData, code, is_id, party, undefined_scenario};
use crate::names::{ADDRESSING, LIST_ELEMENT_NAME, META, NO_SCENARIO, XTA};

/// An order of an author that has nothing but the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// MessageID.
    pub id: String,
    /// Identifier of the author.
    pub author: String,
    /// Identifier of the reader.
    pub reader: String,
    /// Service URI.
    pub service: String,
    /// One line for people.
    pub subject: String,
    /// The author's case.
    pub case: String,
    /// Name and namespace of the document's root element.
    pub message_type: (String, String),
}

impl NewOrder {
    /// `MessageMetaData`.
    pub fn metadata(&self) -> Element {
        let requester = Element::new(META, "Requester").with_text(&self.case);
        let message_type =
            code(Element::new(META, "MessageType"), LIST_ELEMENT_NAME, "1.0", &self.message_type.0);
        let order = MetaData {
            test: false,
            origin: None,
            not_before: None,
            obsolete_after: None,
            service_quality: None,
            receipt_requests: None,
            author: party("Author", &self.author, None),
            reply_to: None,
            reader: party("Reader", &self.reader, None),
            other_destinations: None,
            message_id: self.id.clone(),
            in_reply_to: Vec::new(),
            process_ref: Some(Element::new(META, "ProcessRef").with(requester)),
            subject: Some(self.subject.clone()),
            service: self.service.clone(),
            scenario: undefined_scenario(NO_SCENARIO),
            message_type: message_type.with_attribute("payloadSchema", &self.message_type.1),
            properties: None,
        };
        order.write(&Added::default())
    }
}

/// `GenericContentContainer` of contents numbered in this order, the document first: media type and file name of each.
pub fn container_of(contents: &[(&str, &str)]) -> Element {
    let contents = contents.iter().enumerate().map(|(number, (media_type, name))| {
        let element = Element::new(XTA, if number == 0 { "Message" } else { "Attachment" });
        let mut element =
            element.with_attribute("contentType", *media_type).with_attribute("filename", *name);
        element.content.push(Content::Binary(number));
        element
    });
    let inner = Element::new(XTA, "ContentContainer").with_all(contents);
    Element::new(XTA, "GenericContentContainer").with(inner)
}

/// The number of the document's content in a container that was fetched; `None` if it is encrypted.
pub fn document_of(container: &Element) -> Option<usize> {
    container.descend(XTA, &["ContentContainer", "Message"]).and_then(Element::binary)
}

/// What core learns from the metadata of an order, read as the send port reads it for an account. For tools and benchmarks.
///
/// # Errors
/// The number of the fault the send port would answer with.
pub fn metadata_of(order: &Element, account: &Account) -> Result<Metadata, ErrorCode> {
    let read = MetaData::read(order).and_then(|(order, _)| understand(&order, account));
    read.map(|understood| understood.metadata).map_err(|refused| match refused {
        Refused::Modelled { code, .. } => code,
        Refused::Plain(_) => ErrorCode::Internal,
    })
}

/// What core can know of an order that came in another protocol, from a sender that is known by that, and its MessageID; `None` if it is no
/// order. The reader it names counts as recipient.
pub async fn read_carried(order: &str, sender: &PartyId) -> Option<(Metadata, Option<String>)> {
    let element = amtsbote_soap::parse(order.as_bytes(), XmlLimits::default()).await.ok()?;
    let (order, _) = MetaData::read(&element).ok()?;
    let metadata = understand_from(&order, sender.clone(), None).ok()?.metadata;
    Some((metadata, Some(order.message_id).filter(|id| is_id(id))))
}

/// The order of a message for protocols that carry it, as its reader sees it.
pub async fn write_carried(stored: &StoredMessage) -> String {
    let (order, _) = order_of(stored, View::Reader, None, None).await;
    String::from_utf8(write_whole(&order, CARRIED)).unwrap_or_default()
}

/// Declared on orders that travel in other protocols.
const CARRIED: &Prefixes = &[("meta", META), ("wsa", ADDRESSING)];
