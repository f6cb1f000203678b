//! The one place where an XTA order becomes a message, and any message an XTA order (design section 4.4).
//!
//! | XTA | message |
//! |---|---|
//! | Originators/Author | sender |
//! | Originators/ReplyTo | replyTo, if the account owns it |
//! | Destinations/Reader | recipient; `amtsbote:zustaendig`: area from the property `area` |
//! | Qualifier/Service | service (`uri`) |
//! | Qualifier/Subject | subject |
//! | MsgIdentification/MessageID | external id of scheme `xta` |
//! | MsgIdentification/In-Reply-To | inReplyTo, if it is an id of this gateway |
//! | ProcessRef/Requester, Responder | caseId, processRef |
//! | NotBefore, ObsoleteAfter | notBefore, expiresAt (24:00 in Berlin) |
//! | BusinessScenario, MessageType | businessScenario, messageType |
//!
//! What an XTA order says besides is carried along as it came and comes out again at the other end.

use amtsbote_core::Timestamp;
use amtsbote_core::account::Account;
use amtsbote_core::delivery::EventKind;
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::Target;
use amtsbote_core::key::{AreaKey, PartyId, ServiceKey, SpecificationUri};
use amtsbote_core::message::{CarriedKind, IdScheme, Message, MessageType, Metadata, Priority};
use amtsbote_core::port::StoredMessage;
use amtsbote_core::route::Route;
use amtsbote_soap::{Element, Name, XmlLimits};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{ToSpan as _, Zoned};

use crate::fault::{ErrorCode, Refused, wrong};
use crate::metadata::{Added, MetaData, Repair, code, identifier, is_uri, party, undefined_scenario};
use crate::names::{LIST_ELEMENT_NAME, LIST_PROPERTIES, META, NO_SCENARIO, NO_TYPE, RESPONSIBLE};

/// Ids of messages that have none of XTA.
const OWN_ID: &str = "urn:de:xta:messageid:amtsbote:";
/// Stands for the service of an order that names none.
const NO_SERVICE: &str = "urn:amtsbote:service:unnamed";
/// Ids of services in catalogues that are no URIs.
const CATALOGUE: &str = "urn:amtsbote:service:";
/// Days of an ObsoleteAfter end here.
const ZONE: &str = "Europe/Berlin";

/// The XTA MessageID of a message.
pub(crate) fn xta_id(message: &Message) -> String {
    message.external_id(IdScheme::Xta).map_or_else(|| own_id(message.id), str::to_owned)
}

/// The id of a message, or of one that is reserved, in XTA's form.
pub(crate) fn own_id(id: MessageId) -> String {
    format!("{OWN_ID}{}", id.uuid().as_hyphenated())
}

/// The message an id of [`own_id`]'s form names. Ids compare without regard to case, but otherwise each has one spelling.
pub(crate) fn parse_own_id(id: &str) -> Option<MessageId> {
    let id = id.to_ascii_lowercase();
    let parsed = id.strip_prefix(OWN_ID)?.parse::<MessageId>().ok()?;
    (parsed.uuid().get_version_num() == 7 && own_id(parsed) == id).then_some(parsed)
}

/// What core needs to know of an order.
pub(crate) struct Understood {
    pub(crate) sender: PartyId,
    pub(crate) metadata: Metadata,
    pub(crate) target: Target,
}

/// Reads an order of an account for core.
pub(crate) fn understand(order: &MetaData, account: &Account) -> Result<Understood, Refused> {
    let author = identifier(&order.author);
    let sender = account.parties.iter().find(|party| party.as_str() == author).cloned();
    let sender = sender.ok_or(wrong(ErrorCode::ForeignIdentifier, "Author"))?;
    let reply_to = order.reply_to.as_ref().map(identifier);
    let reply_to = account.parties.iter().find(|party| Some(party.as_str()) == reply_to.as_deref()).cloned();
    understand_from(order, sender, reply_to)
}

/// Reads an order of a known sender for core.
pub(crate) fn understand_from(
    order: &MetaData,
    sender: PartyId,
    reply_to: Option<PartyId>,
) -> Result<Understood, Refused> {
    let reader = identifier(&order.reader);
    let (recipient, area) = if reader == RESPONSIBLE {
        let area =
            order.property(LIST_PROPERTIES, "area").ok_or(wrong(ErrorCode::WrongParameters, "area"))?;
        let area = area.parse::<AreaKey>().map_err(|_| wrong(ErrorCode::WrongParameters, "area"))?;
        (None, Some(area))
    } else {
        (Some(reader.parse().map_err(|_| wrong(ErrorCode::WrongParameters, "Reader"))?), None)
    };
    let (service, target) = match order.service.as_str() {
        "" if recipient.is_none() => return Err(wrong(ErrorCode::WrongParameters, "Service")),
        "" => (NO_SERVICE.to_owned(), Target::LocalMailbox),
        service => (service.to_owned(), Target::Resolved),
    };
    let process = |end: &str| order.process_ref.as_ref().and_then(|process| process.text_of(META, end));
    let metadata = Metadata {
        service: read_service(&service)?,
        area,
        recipient,
        subject: order.subject.clone(),
        case_id: process("Requester").and_then(|text| text.parse().ok()),
        priority: Priority::Normal,
        not_before: order.not_before,
        expires_at: order.obsolete_after.map(end_of_day).transpose()?,
        deadline: None,
        ordering_key: None,
        reply_to,
        message_type: read_type(&order.message_type),
        business_scenario: scenario_text(&order.scenario),
        in_reply_to: order.in_reply_to.iter().find_map(|id| parse_own_id(id)),
        process_ref: process("Responder"),
    };
    Ok(Understood { sender, metadata, target })
}

/// A service by URI; those of our own form name a key of a catalogue.
pub(crate) fn read_service(service: &str) -> Result<ServiceKey, Refused> {
    let unreadable = wrong(ErrorCode::NoUri, "Service");
    if let Some(key) = service.strip_prefix(CATALOGUE).filter(|_| service != NO_SERVICE) {
        return key.parse().map_err(|_| unreadable);
    }
    if service.starts_with("urn:de:fim:leika:leistung:") {
        return service.parse().map_err(|_| unreadable);
    }
    service.parse::<SpecificationUri>().map(ServiceKey::Uri).map_err(|_| unreadable)
}

fn read_type(element: &Element) -> Option<MessageType> {
    Some(MessageType {
        code: element.text_of("", "code")?,
        payload_schema: element.attribute("payloadSchema")?.to_owned(),
        list_uri: element.attribute("listURI").map(str::to_owned),
        list_version: element.attribute("listVersionID").map(str::to_owned),
    })
}

fn scenario_text(element: &Element) -> Option<String> {
    let text = match element.child(META, "Defined") {
        Some(defined) => defined.text_of("", "code"),
        None => element.text_of(META, "Undefined"),
    };
    text.filter(|text| text != NO_SCENARIO)
}

/// 24:00 of a day in Berlin.
fn end_of_day(date: Date) -> Result<Timestamp, Refused> {
    let wrong = || wrong(ErrorCode::WrongParameters, "ObsoleteAfter");
    let next = date.checked_add(1.day()).map_err(|_| wrong())?;
    let zone = TimeZone::get(ZONE).map_err(|_| ErrorCode::Internal)?;
    next.to_zoned(zone).map(|midnight| midnight.timestamp()).map_err(|_| wrong())
}

/// The last day at whose end something is not over before `end`.
fn last_day(end: Timestamp) -> Option<Date> {
    let local: Zoned = end.to_zoned(TimeZone::get(ZONE).ok()?);
    let midnight = local.start_of_day().is_ok_and(|start| start == local);
    if midnight { local.date().checked_sub(1.day()).ok() } else { Some(local.date()) }
}

/// Whose eyes an order is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// A mailbox, which shows the reader that was found.
    Reader,
    /// A report, which shows the reader that was named.
    Report,
}

/// The order of a message with what the gateway and the reader added, and what was repaired when it came.
pub(crate) async fn order_of(
    stored: &StoredMessage,
    view: View,
    sender: Option<&str>,
    root: Option<Name>,
) -> (Element, Vec<Repair>) {
    let message = stored.message.as_ref();
    let (order, repairs) = order_for(message, stored.route(), view, root).await;
    let acknowledged = stored.events.iter().rev().find_map(|event| match event.kind {
        EventKind::Acknowledged { .. } => Some(event.at),
        _ => None,
    });
    let delivered = stored.events.iter().rev().find_map(|event| match event.kind {
        EventKind::Delivered { .. } => Some(event.at),
        _ => None,
    });
    let added = Added {
        initial_send: Some(message.received_at),
        delivery: delivered,
        initial_fetch: acknowledged,
        reception: acknowledged,
        sender: sender.map(str::to_owned),
        size: message.payload_size(),
    };
    (order.write(&added), repairs)
}

/// The order of a message as its author meant it, and what was repaired when it came.
pub(crate) async fn order_for(
    message: &Message,
    route: Option<&Route>,
    view: View,
    root: Option<Name>,
) -> (MetaData, Vec<Repair>) {
    let carried = match message.carried(CarriedKind::XtaMetadata) {
        Some(text) => amtsbote_soap::parse(text.as_bytes(), XmlLimits::default()).await.ok(),
        None => None,
    };
    let read = carried.and_then(|element| MetaData::read(&element).ok());
    let (mut order, repairs) =
        read.unwrap_or_else(|| (from_message(message, route, root.as_ref()), Vec::new()));
    if let (View::Reader, Some(route)) = (view, route)
        && identifier(&order.reader) != route.destination.organization.as_str()
    {
        order.reader =
            party("Reader", route.destination.organization.as_str(), Some(&route.organization.name));
    }
    (order, repairs)
}

/// Whether the name of the document's root element would tell the type of a message.
pub(crate) fn wants_root(message: &Message) -> bool {
    let media_type = message.parts.first().map_or("", |part| part.media_type.as_str());
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let xml = essence.ends_with("/xml") || essence.ends_with("+xml");
    xml && message.metadata.message_type.is_none() && message.carried(CarriedKind::XtaMetadata).is_none()
}

/// The order of a message that came in another way.
fn from_message(message: &Message, route: Option<&Route>, root: Option<&Name>) -> MetaData {
    let metadata = &message.metadata;
    let reader = match (&metadata.recipient, route) {
        (Some(recipient), _) => recipient.as_str(),
        (None, Some(route)) => route.destination.organization.as_str(),
        (None, None) => RESPONSIBLE,
    };
    let process = [
        metadata.case_id.as_ref().map(|id| Element::new(META, "Requester").with_text(id.as_str())),
        said(metadata.process_ref.as_deref()).map(|text| Element::new(META, "Responder").with_text(text)),
    ];
    let process: Vec<Element> = process.into_iter().flatten().collect();
    MetaData {
        test: false,
        origin: None,
        not_before: metadata.not_before,
        obsolete_after: metadata.expires_at.and_then(last_day),
        service_quality: None,
        receipt_requests: None,
        author: party("Author", message.sender.as_str(), None),
        reply_to: metadata.reply_to.as_ref().map(|to| party("ReplyTo", to.as_str(), None)),
        reader: party("Reader", reader, None),
        other_destinations: None,
        message_id: xta_id(message),
        in_reply_to: metadata.in_reply_to.map(own_id).into_iter().collect(),
        process_ref: (!process.is_empty()).then(|| Element::new(META, "ProcessRef").with_all(process)),
        subject: metadata.subject.clone(),
        service: service_uri(message, route),
        scenario: undefined_scenario(said(metadata.business_scenario.as_deref()).unwrap_or(NO_SCENARIO)),
        message_type: message_type(message, root),
        properties: metadata.area.as_ref().map(area_property),
    }
}

/// A text that says something.
fn said(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

fn area_property(area: &AreaKey) -> Element {
    let key = code(Element::new(META, "Key"), LIST_PROPERTIES, "1", "area");
    let value = Element::new(META, "Value").with_text(area.to_string());
    Element::new(META, "MessageProperties").with(Element::new(META, "Property").with(key).with(value))
}

/// The service in the form in which it is registered, else as a URI of our own.
fn service_uri(message: &Message, route: Option<&Route>) -> String {
    let registered = route.and_then(|route| route.specification.as_ref());
    match (&message.metadata.service, registered) {
        (ServiceKey::Uri(uri), _) if uri.as_str() == NO_SERVICE => String::new(),
        (ServiceKey::Uri(uri), _) => uri.to_string(),
        (_, Some(specification)) => specification.to_string(),
        (key, None) => format!("{CATALOGUE}{key}"),
    }
}

fn message_type(message: &Message, root: Option<&Name>) -> Element {
    let element = Element::new(META, "MessageType");
    let known = message.metadata.message_type.as_ref();
    let known = known.filter(|known| is_uri(&known.payload_schema) && said(Some(&known.code)).is_some());
    match (known, root.filter(|root| !root.namespace().is_empty())) {
        (None, Some(root)) => code(element, LIST_ELEMENT_NAME, "1.0", root.local())
            .with_attribute("payloadSchema", root.namespace()),
        (Some(known), _) => {
            let list = known.list_uri.as_deref().filter(|uri| is_uri(uri)).unwrap_or(LIST_ELEMENT_NAME);
            let version = said(known.list_version.as_deref()).unwrap_or("1.0");
            code(element, list, version, &known.code).with_attribute("payloadSchema", &known.payload_schema)
        }
        (None, None) => {
            let media_type =
                message.parts.first().map_or("application/octet-stream", |part| &part.media_type);
            let essence = media_type.split(';').next().unwrap_or_default().trim();
            let schema = format!("urn:amtsbote:payload:{essence}");
            code(element, LIST_ELEMENT_NAME, "1.0", NO_TYPE).with_attribute("payloadSchema", schema)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_end_at_midnight_in_berlin() {
        for (date, end) in [
            (jiff::civil::date(2025, 3, 4), "2025-03-04T23:00:00Z"),
            (jiff::civil::date(2025, 7, 4), "2025-07-04T22:00:00Z"),
            (jiff::civil::date(2025, 3, 29), "2025-03-29T23:00:00Z"),
        ] {
            let end: Timestamp = end.parse().unwrap();
            assert_eq!(end_of_day(date), Ok(end));
            assert_eq!(last_day(end), Some(date));
            assert_eq!(last_day(end - jiff::SignedDuration::from_secs(1)), Some(date));
        }
    }

    #[test]
    fn only_ids_of_ours_are_read_as_such() {
        let id: MessageId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(parse_own_id(&own_id(id).to_uppercase()), Some(id));
        assert_eq!(
            parse_own_id("urn:de:xta:messageid:amtsbote:0b7f7c52-4c8e-4d0c-8a53-6a1f5f1a1c01"),
            None,
            "another version"
        );
        let braces = "urn:de:xta:messageid:amtsbote:{01890a5d-ac96-774b-bcce-b302099a8057}";
        assert_eq!(parse_own_id(braces), None, "another spelling");
        let simple = "urn:de:xta:messageid:amtsbote:01890a5dac96774bbcceb302099a8057";
        assert_eq!(parse_own_id(simple), None, "another spelling");
        assert_eq!(parse_own_id("urn:de:xta:messageid:andere:01890a5d-ac96-774b-bcce-b302099a8057"), None);
    }
}
