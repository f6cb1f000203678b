//! `MessageMetaData`, the transport order (OSCI message meta data 2.02): read tolerantly, written strictly.
//!
//! What a deployed client leaves out is repaired, and it is remembered that it was. What is written is valid, in the order of the
//! schema. Not here: what it means to core (`mapping`).

use amtsbote_core::Timestamp;
use amtsbote_soap::{Element, Name};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::fault::{ErrorCode, Refused, wrong};
use crate::names::{ADDRESSING, LIST_ELEMENT_NAME, META, NO_SCENARIO, SECURITY, TYPE_OF_PARTY};

/// Longest MessageID: as long as a key of intake.
const ID_MAX: usize = 255;

/// Something a client left out and the gateway put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    DeliveryAttributes,
    IdentifierType,
    BusinessScenario,
    MessageType,
    MsgSize,
}

impl Repair {
    /// For the report.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::DeliveryAttributes => "DeliveryAttributes",
            Self::IdentifierType => "Identifier/@type",
            Self::BusinessScenario => "BusinessScenario",
            Self::MessageType => "MessageType",
            Self::MsgSize => "MsgSize",
        }
    }
}

/// The order as its author meant it. Elements in it are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetaData {
    pub(crate) test: bool,
    pub(crate) origin: Option<Timestamp>,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) obsolete_after: Option<Date>,
    pub(crate) service_quality: Option<String>,
    pub(crate) receipt_requests: Option<Element>,
    pub(crate) author: Element,
    pub(crate) reply_to: Option<Element>,
    pub(crate) reader: Element,
    pub(crate) other_destinations: Option<Element>,
    pub(crate) message_id: String,
    pub(crate) in_reply_to: Vec<String>,
    pub(crate) process_ref: Option<Element>,
    pub(crate) subject: Option<String>,
    /// Empty if none was named.
    pub(crate) service: String,
    pub(crate) scenario: Element,
    pub(crate) message_type: Element,
    pub(crate) properties: Option<Element>,
}

/// What the gateway and the reader add.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Added {
    pub(crate) initial_send: Option<Timestamp>,
    pub(crate) delivery: Option<Timestamp>,
    pub(crate) initial_fetch: Option<Timestamp>,
    pub(crate) reception: Option<Timestamp>,
    /// Identifier of the gateway as sender.
    pub(crate) sender: Option<String>,
    /// Bytes of all contents.
    pub(crate) size: u64,
}

/// The identifier of a party.
pub(crate) fn identifier(party: &Element) -> String {
    party.text_of(META, "Identifier").unwrap_or_default()
}

/// A party of only an identifier.
pub(crate) fn party(role: &str, identifier: &str, name: Option<&str>) -> Element {
    let mut inner = Element::new(META, "Identifier").with_attribute("type", TYPE_OF_PARTY);
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        inner = inner.with_attribute("name", name);
    }
    Element::new(META, role).with(inner.with_text(identifier))
}

/// A code with its list.
pub(crate) fn code(element: Element, list: &str, version: &str, code: &str) -> Element {
    element
        .with_attribute("listURI", list)
        .with_attribute("listVersionID", version)
        .with(Element::new("", "code").with_text(code))
}

impl MetaData {
    /// Reads what came, and says what was repaired.
    pub(crate) fn read(element: &Element) -> Result<(Self, Vec<Repair>), Refused> {
        let mut repairs = Vec::new();
        let missing = |about| wrong(ErrorCode::WrongParameters, about);
        let empty = Element::new(META, "DeliveryAttributes");
        let attributes = element.child(META, "DeliveryAttributes").unwrap_or_else(|| {
            repairs.push(Repair::DeliveryAttributes);
            &empty
        });
        let time = |name: &'static str| match attributes.text_of(META, name) {
            Some(text) => read_time(&text).map(Some).ok_or(wrong(ErrorCode::WrongParameters, name)),
            None => Ok(None),
        };
        let obsolete_after = match attributes.text_of(META, "ObsoleteAfter") {
            Some(text) => Some(read_date(&text).ok_or(missing("ObsoleteAfter"))?),
            None => None,
        };
        let originators = element.child(META, "Originators").ok_or(missing("Author"))?;
        let author = originators.child(META, "Author").and_then(|one| read_party(one, &mut repairs));
        let reply_to = originators.child(META, "ReplyTo").and_then(|one| read_party(one, &mut Vec::new()));
        let destinations = element.child(META, "Destinations").ok_or(missing("Reader"))?;
        let reader = destinations.child(META, "Reader").and_then(|one| read_party(one, &mut repairs));
        let identification = element.child(META, "MsgIdentification").ok_or(missing("MessageID"))?;
        let message_id = identification.text_of(ADDRESSING, "MessageID").ok_or(missing("MessageID"))?;
        if !is_id(&message_id) {
            return Err(wrong(ErrorCode::NoUri, "MessageID"));
        }
        let qualifier = element.child(META, "Qualifier").ok_or(missing("Qualifier"))?;
        let service = qualifier.text_of(META, "Service").unwrap_or_default();
        if !service.is_empty() && !is_uri(&service) {
            return Err(wrong(ErrorCode::NoUri, "Service"));
        }
        let scenario =
            qualifier.child(META, "BusinessScenario").and_then(read_scenario).unwrap_or_else(|| {
                repairs.push(Repair::BusinessScenario);
                undefined_scenario(NO_SCENARIO)
            });
        let message_type = qualifier.child(META, "MessageType").ok_or(missing("MessageType"))?;
        let message_type = read_message_type(message_type, &mut repairs).ok_or(missing("MessageType"))?;
        if element.child(META, "MsgSize").is_some_and(|size| size.text().parse::<u64>().unwrap_or(0) == 0) {
            repairs.push(Repair::MsgSize);
        }
        let test = match element.attribute("TestMsg").map(str::trim) {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(missing("TestMsg")),
        };
        let in_reply_to = identification.children_of(META, "In-Reply-To").map(Element::text);
        repairs.dedup();
        let read = Self {
            test,
            origin: time("Origin")?,
            not_before: time("NotBefore")?,
            obsolete_after,
            service_quality: attributes.text_of(META, "ServiceQuality"),
            receipt_requests: attributes.child(META, "ReceiptRequests").map(read_receipt_requests),
            author: author.ok_or(missing("Author"))?,
            reply_to,
            reader: reader.ok_or(missing("Reader"))?,
            other_destinations: destinations
                .child(META, "OtherDestinations")
                .and_then(read_other_destinations),
            message_id,
            in_reply_to: in_reply_to.filter(|id| is_uri(id)).collect(),
            process_ref: identification.child(META, "ProcessRef").and_then(read_process_ref),
            subject: qualifier.text_of(META, "Subject"),
            service,
            scenario,
            message_type,
            properties: element.child(META, "MessageProperties").and_then(read_properties),
        };
        // The other times are not the author's, but what stands there has to be a time.
        for name in ["InitialSend", "Delivery", "InitialFetch", "Reception"] {
            time(name)?;
        }
        Ok((read, repairs))
    }

    /// What the author says, in a form in which equal orders are equal bytes.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        self.write(&Added::default()).canonical()
    }

    /// A property of our own list.
    pub(crate) fn property(&self, list: &str, wanted: &str) -> Option<String> {
        self.properties.as_ref()?.children_of(META, "Property").find_map(|property| {
            let key = property.child(META, "Key")?;
            let fits =
                key.attribute("listURI") == Some(list) && key.text_of("", "code").as_deref() == Some(wanted);
            fits.then(|| property.text_of(META, "Value")).flatten()
        })
    }

    /// Writes it with what gateway and reader add.
    pub(crate) fn write(&self, added: &Added) -> Element {
        let text = |name: &str, text: String| Element::new(META, name).with_text(text);
        let time = |name: &str, at: Option<Timestamp>| at.map(|at| text(name, write_time(at)));
        let attributes = Element::new(META, "DeliveryAttributes")
            .with_all(time("Origin", self.origin))
            .with_all(time("InitialSend", added.initial_send))
            .with_all(time("NotBefore", self.not_before))
            .with_all(self.obsolete_after.map(|date| text("ObsoleteAfter", date.to_string())))
            .with_all(time("Delivery", added.delivery))
            .with_all(time("InitialFetch", added.initial_fetch))
            .with_all(time("Reception", added.reception))
            .with_all(self.service_quality.clone().map(|quality| text("ServiceQuality", quality)))
            .with_all(self.receipt_requests.clone());
        let originators = Element::new(META, "Originators")
            .with(self.author.clone())
            .with_all(added.sender.as_deref().map(|sender| party("Sender", sender, Some("Amtsbote"))))
            .with_all(self.reply_to.clone());
        let destinations = Element::new(META, "Destinations")
            .with(self.reader.clone())
            .with_all(self.other_destinations.clone());
        let identification = Element::new(META, "MsgIdentification")
            .with(Element::new(ADDRESSING, "MessageID").with_text(&self.message_id))
            .with_all(self.in_reply_to.iter().map(|id| text("In-Reply-To", id.clone())))
            .with_all(self.process_ref.clone());
        let qualifier = Element::new(META, "Qualifier")
            .with_all(self.subject.clone().map(|subject| text("Subject", subject)))
            .with(text("Service", self.service.clone()))
            .with(self.scenario.clone())
            .with(self.message_type.clone());
        let size = Some(added.size).filter(|size| *size > 0).map(|size| text("MsgSize", size.to_string()));
        let mut element = Element::new(META, "MessageMetaData");
        if self.test {
            element = element.with_attribute("TestMsg", "true");
        }
        element
            .with(attributes)
            .with(originators)
            .with(destinations)
            .with(identification)
            .with(qualifier)
            .with_all(self.properties.clone())
            .with_all(size)
    }
}

/// A URI as far as it has to be one: visible characters, with a scheme.
pub(crate) fn is_uri(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 1_000
        && text.contains(':')
        && text.chars().all(|c| c.is_ascii_graphic())
}

/// An id that can be a key of intake.
pub(crate) fn is_id(text: &str) -> bool {
    is_uri(text) && text.len() <= ID_MAX
}

/// `xs:dateTime`; without an offset it is UTC.
pub(crate) fn read_time(text: &str) -> Option<Timestamp> {
    if text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    let zoned = text.parse::<Timestamp>().ok();
    zoned.or_else(|| {
        text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })
}

/// In UTC, whole milliseconds.
pub(crate) fn write_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// `xs:date`; its offset plays no part.
fn read_date(text: &str) -> Option<Date> {
    let (date, offset) = text.split_at_checked(10)?;
    let known = offset.is_empty() || offset == "Z" || offset.len() == 6 && offset.starts_with(['+', '-']);
    known.then(|| date.parse().ok()).flatten()
}

/// Attributes of these names in no namespace that say something.
fn keep_attributes(from: &Element, mut to: Element, names: &[&str]) -> Element {
    for name in names {
        if let Some(value) = from.attribute(name).map(str::trim).filter(|value| !value.is_empty()) {
            to = to.with_attribute(name, value);
        }
    }
    to
}

fn read_identifier(given: &Element, repairs: &mut Vec<Repair>) -> Option<Element> {
    let value = given.text();
    if value.is_empty() || value.chars().any(char::is_control) {
        return None;
    }
    let kind = given.attribute("type").map(str::trim).filter(|kind| !kind.is_empty());
    if kind.is_none() {
        repairs.push(Repair::IdentifierType);
    }
    let element = Element { content: Vec::new(), attributes: Vec::new(), name: given.name.clone() };
    let element = element.with_attribute("type", kind.unwrap_or(TYPE_OF_PARTY));
    Some(keep_attributes(given, element, &["name", "category"]).with_text(value))
}

/// A party with its identifier; passwords are not carried on.
fn read_party(given: &Element, repairs: &mut Vec<Repair>) -> Option<Element> {
    let identifier = read_identifier(given.child(META, "Identifier")?, repairs)?;
    let tokens = given.children_of(META, "SecurityToken").filter_map(read_token);
    let party = Element { content: Vec::new(), attributes: Vec::new(), name: given.name.clone() };
    Some(party.with(identifier).with_all(tokens))
}

/// A certificate or a reference to one. Ids are left out: in a list many orders stand in one document.
fn read_token(given: &Element) -> Option<Element> {
    let usage = given.attribute("usage").map(str::trim);
    let usage = usage.filter(|usage| matches!(*usage, "AUTHENTICATION" | "ENCRYPTION" | "SIGNATURE"))?;
    let inner = given.children().next().filter(|_| given.children().count() == 1)?;
    let bare = Element { content: Vec::new(), attributes: Vec::new(), name: inner.name.clone() };
    let inner = if inner.is(SECURITY, "BinarySecurityToken") {
        let types = ["ValueType", "EncodingType"].into_iter();
        let types = types.filter(|name| inner.attribute(name).is_some_and(is_uri)).collect::<Vec<_>>();
        keep_attributes(inner, bare, &types).with_text(inner.text())
    } else if inner.is(SECURITY, "SecurityTokenReference") {
        Element { content: inner.content.clone(), ..bare }
    } else {
        return None;
    };
    let token = Element::new(META, "SecurityToken").with_attribute("usage", usage);
    let reference = given.attribute("payloadRef").map(str::trim).filter(|name| is_ncname(name));
    let token = reference.into_iter().fold(token, |token, name| token.with_attribute("payloadRef", name));
    Some(token.with(inner))
}

/// A name without a prefix, as far as ASCII goes.
fn is_ncname(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn read_other_destinations(given: &Element) -> Option<Element> {
    let read = |local| {
        given
            .children_of(META, local)
            .filter_map(|one| read_identifier(one, &mut Vec::new()))
            .collect::<Vec<_>>()
    };
    let (others, copies) = (read("OtherReaders"), read("CcReaders"));
    (!others.is_empty()).then(|| Element::new(META, "OtherDestinations").with_all(others).with_all(copies))
}

fn read_process_ref(given: &Element) -> Option<Element> {
    let read = |local: &str| {
        let one = given.child(META, local)?;
        let text = one.text();
        let element = keep_attributes(one, Element::new(META, local), &["ProccesName"]);
        (!text.is_empty()).then(|| element.with_text(text))
    };
    let ends: Vec<_> = [read("Requester"), read("Responder")].into_iter().flatten().collect();
    (!ends.is_empty()).then(|| Element::new(META, "ProcessRef").with_all(ends))
}

fn read_receipt_requests(given: &Element) -> Element {
    let markers = ["Submission", "Relay", "Delivery", "Fetch", "Reception"];
    let markers = markers.into_iter().filter(|name| given.child(META, name).is_some());
    Element::new(META, "ReceiptRequests")
        .with_all(markers.map(|name| Element::new(META, name)))
        .with_all(given.child(META, "ReceiptTo").and_then(read_endpoint))
}

/// An address of WS-Addressing, of which only the address is kept.
fn read_endpoint(given: &Element) -> Option<Element> {
    let address = given.text_of(ADDRESSING, "Address").filter(|address| is_uri(address))?;
    let address = Element::new(ADDRESSING, "Address").with_text(address);
    Some(Element { content: Vec::new(), attributes: Vec::new(), name: given.name.clone() }.with(address))
}

/// The code of a `KeyCode`, whatever namespace its child has.
fn read_code(given: &Element) -> Option<(String, Option<String>)> {
    let text = |local: &str| {
        let child = given.children().find(|child| child.name.local() == local)?;
        Some(child.text()).filter(|text| !text.is_empty())
    };
    Some((text("code")?, text("name")))
}

/// A code whose list is known.
fn read_key_code(given: &Element, name: &Name) -> Option<Element> {
    let (code, label) = read_code(given)?;
    let list = |attribute| given.attribute(attribute).map(str::trim).filter(|value| !value.is_empty());
    let (uri, version) = (list("listURI")?, list("listVersionID")?);
    let element = Element { name: name.clone(), attributes: Vec::new(), content: Vec::new() };
    let element = element.with_attribute("listURI", uri).with_attribute("listVersionID", version);
    let element = element.with(Element::new("", "code").with_text(code));
    Some(element.with_all(label.map(|label| Element::new("", "name").with_text(label))))
}

fn read_scenario(given: &Element) -> Option<Element> {
    if let Some(defined) = given.child(META, "Defined") {
        let defined = read_key_code(defined, &defined.name)?;
        return Some(Element::new(META, "BusinessScenario").with(defined));
    }
    given.text_of(META, "Undefined").map(|text| undefined_scenario(&text))
}

pub(crate) fn undefined_scenario(text: &str) -> Element {
    Element::new(META, "BusinessScenario").with(Element::new(META, "Undefined").with_text(text))
}

fn read_message_type(given: &Element, repairs: &mut Vec<Repair>) -> Option<Element> {
    let (value, label) = read_code(given)?;
    let schema = given.attribute("payloadSchema").map(str::trim).filter(|schema| !schema.is_empty())?;
    let list = |attribute| given.attribute(attribute).map(str::trim).filter(|value| !value.is_empty());
    let (uri, version) = (list("listURI"), list("listVersionID"));
    if uri.is_none() || version.is_none() {
        repairs.push(Repair::MessageType);
    }
    let element = code(
        Element::new(META, "MessageType"),
        uri.unwrap_or(LIST_ELEMENT_NAME),
        version.unwrap_or("1.0"),
        &value,
    );
    let element = element.with_attribute("payloadSchema", schema);
    Some(element.with_all(label.map(|label| Element::new("", "name").with_text(label))))
}

fn read_properties(given: &Element) -> Option<Element> {
    let properties: Vec<_> = given
        .children_of(META, "Property")
        .filter_map(|property| {
            let key = property.child(META, "Key")?;
            let key = read_key_code(key, &key.name)?;
            let value = property.text_of(META, "Value")?;
            let value = Element::new(META, "Value").with_text(value);
            Some(Element::new(META, "Property").with(key).with(value))
        })
        .collect();
    (!properties.is_empty()).then(|| Element::new(META, "MessageProperties").with_all(properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        for (text, expected) in [
            ("2025-03-04T10:15:00.123+01:00", Some("2025-03-04T09:15:00.123Z")),
            ("2025-03-04T10:15:00", Some("2025-03-04T10:15:00.000Z")),
            ("2025-03-04T10:15:00Z", Some("2025-03-04T10:15:00.000Z")),
            ("2025-03-04", None),
            ("gestern", None),
        ] {
            assert_eq!(read_time(text).map(write_time).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("2025-03-04", true),
            ("2025-03-04Z", true),
            ("2025-03-04+01:00", true),
            ("2025-02-30", false),
            ("2025-03-04T1", false),
            ("ä", false),
        ] {
            assert_eq!(read_date(text).is_some(), expected, "{text}");
        }
    }
}
