//! The XML part of a message: parsed once into one tree, its kind found, its outer structure checked.

use std::collections::HashSet;

use amtsbote_soap::document::{Document, DocumentLimits, ElementRef};

use super::code::Code;
use super::names::{DS, OSCI, OSCI_2017, SOAP, XENC, XSI};
use super::problem::Problem;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opens an explicit dialog.
    InitDialog,
    /// Ends it.
    ExitDialog,
    /// Asks for the id of a delivery.
    GetMessageId,
    /// Puts a delivery into a mailbox.
    StoreDelivery,
    /// Takes one out of the client's own.
    FetchDelivery,
    /// Asks what happened to deliveries.
    FetchProcessCard,
    /// Has a delivery pushed.
    ForwardDelivery,
    /// Pushes it.
    AcceptDelivery,
    /// Has a delivery pushed and answered.
    MediateDelivery,
    /// Pushes it and wants the answer.
    ProcessDelivery,
    /// Brings a chunk of a store order.
    PartialStoreDelivery,
    /// Takes a chunk of the answer to a fetch order.
    PartialFetchDelivery,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From client to supplier.
    Request,
    /// Back.
    Response,
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageKind {
    /// About what.
    pub operation: Operation,
    /// Which way.
    pub direction: Direction,
}

/// Where the element of an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Body,
}

/// Name in schemas, name of the element, place.
const OPERATIONS: &[(Operation, &str, &str, Place)] = &[
    (Operation::InitDialog, "InitDialog", "initDialog", Place::Body),
    (Operation::ExitDialog, "ExitDialog", "exitDialog", Place::Body),
    (Operation::GetMessageId, "GetMessageId", "getMessageId", Place::Body),
    (Operation::StoreDelivery, "StoreDelivery", "storeDelivery", Place::Header),
    (Operation::FetchDelivery, "FetchDelivery", "fetchDelivery", Place::Header),
    (Operation::FetchProcessCard, "FetchProcessCard", "fetchProcessCard", Place::Body),
    (Operation::ForwardDelivery, "ForwardDelivery", "forwardDelivery", Place::Header),
    (Operation::AcceptDelivery, "AcceptDelivery", "acceptDelivery", Place::Header),
    (Operation::MediateDelivery, "MediateDelivery", "mediateDelivery", Place::Header),
    (Operation::ProcessDelivery, "ProcessDelivery", "processDelivery", Place::Header),
    (Operation::PartialStoreDelivery, "PartialStoreDelivery", "partialStoreDelivery", Place::Header),
    (Operation::PartialFetchDelivery, "PartialFetchDelivery", "partialFetchDelivery", Place::Header),
];

impl Operation {
    fn row(self) -> (&'static str, &'static str, Place) {
        let found = OPERATIONS.iter().find(|(one, ..)| *one == self);
        found.map_or(("", "", Place::Body), |(_, schema, element, place)| (schema, element, *place))
    }

    /// Name as in the names of schemas and in logs.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// A request about it.
    pub fn request(self) -> MessageKind {
        MessageKind { operation: self, direction: Direction::Request }
    }

    /// A response about it.
    pub fn response(self) -> MessageKind {
        MessageKind { operation: self, direction: Direction::Response }
    }
}

impl MessageKind {
    fn namespace(self) -> &'static str {
        match self.operation {
            Operation::PartialStoreDelivery | Operation::PartialFetchDelivery => OSCI_2017,
            _ => OSCI,
        }
    }

    /// Local name of the element that makes it what it is.
    pub(crate) fn element(self) -> String {
        let (schema, element, _) = self.operation.row();
        match self.direction {
            Direction::Request => element.to_owned(),
            Direction::Response => format!("responseTo{schema}"),
        }
    }

    /// Name in schemas.
    fn schema(self) -> String {
        let prefix = if self.direction == Direction::Response { "ResponseTo" } else { "" };
        format!("{prefix}{}", self.operation.as_str())
    }

    fn parse(schema: &str) -> Option<Self> {
        let (direction, name) = match schema.strip_prefix("ResponseTo") {
            Some(name) => (Direction::Response, name),
            None => (Direction::Request, schema),
        };
        let (operation, ..) = OPERATIONS.iter().find(|(_, one, ..)| *one == name)?;
        Some(Self { operation: *operation, direction })
    }

    /// The value of the attribute by which deployed software tells messages apart; exact to the blank.
    pub(crate) fn schema_location(self) -> String {
        schema_location(&self.schema())
    }
}

/// The same for a message of any name.
pub(crate) fn schema_location(name: &str) -> String {
    format!("{SOAP} soap{name}.xsd {DS} oscisig.xsd {XENC} oscienc.xsd")
}

/// A message that is not encrypted, or not any more.
#[derive(Debug)]
pub struct Envelope {
    document: Document,
    kind: MessageKind,
}

/// A fault of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFault {
    /// Its code, if it is known.
    pub code: Option<Code>,
    /// Four digits, or whatever it was.
    pub digits: String,
}

/// What an XML part turned out to be.
#[derive(Debug)]
pub enum Parsed {
    /// An order or the answer to one.
    Message(Envelope),
    /// The envelope around an encrypted one.
    Encrypted(Document),
    /// A fault.
    Fault(PeerFault),
}

/// Parses an XML part.
///
/// # Errors
/// [`Problem::Xml`] and [`Problem::Structure`].
pub fn parse(xml: Vec<u8>, limits: DocumentLimits) -> Result<Parsed, Problem> {
    let document = Document::parse(xml, limits)?;
    let root = document.root();
    if !root.is(SOAP, "Envelope") {
        return Err(Problem::Structure("the root element is no SOAP envelope"));
    }
    let location = root.attributes().find(|one| one.namespace == XSI && one.local == "schemaLocation");
    let Some(location) = location else { return fault(root).map(Parsed::Fault) };
    let mut words = location.value.split_ascii_whitespace();
    let schema = words.find(|word| *word == SOAP).and_then(|_| words.next());
    let name = schema.and_then(|schema| schema.strip_prefix("soap")?.strip_suffix(".xsd"));
    let name = name.ok_or(Problem::Structure("schemaLocation names no message"))?;
    if name == "MessageEncrypted" {
        return Ok(Parsed::Encrypted(document));
    }
    let kind =
        MessageKind::parse(name).ok_or(Problem::NotAnOrder("schemaLocation names no known message"))?;
    let envelope = Envelope { document, kind };
    envelope.check()?;
    Ok(Parsed::Message(envelope))
}

fn fault(root: ElementRef<'_>) -> Result<PeerFault, Problem> {
    let body = root.child(SOAP, "Body").and_then(|body| body.child(SOAP, "Fault"));
    let fault = body.ok_or(Problem::Structure("neither a message nor a fault"))?;
    let code = fault.descendants().find(|one| one.is(OSCI, "Code"));
    let digits = code.map(|code| code.text().trim().to_owned()).unwrap_or_default();
    let digits: String = digits.chars().filter(char::is_ascii_digit).take(4).collect();
    Ok(PeerFault { code: Code::parse(&digits), digits })
}

impl Envelope {
    /// What kind of message it is.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    fn root(&self) -> ElementRef<'_> {
        self.document.root()
    }

    /// Header blocks, the signature among them.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = ElementRef<'_>> {
        self.root().child(SOAP, "Header").into_iter().flat_map(ElementRef::children)
    }

    /// The header block of this name.
    pub(crate) fn block(&self, namespace: &str, local: &str) -> Option<ElementRef<'_>> {
        self.blocks().find(|one| one.is(namespace, local))
    }

    /// The body.
    pub(crate) fn body(&self) -> Result<ElementRef<'_>, Problem> {
        self.root().child(SOAP, "Body").ok_or(Problem::Structure("no Body"))
    }

    /// The element that makes it what it is.
    pub(crate) fn element(&self) -> Result<ElementRef<'_>, Problem> {
        let (namespace, local) = (self.kind.namespace(), self.kind.element());
        let found = match self.kind.operation.row().2 {
            Place::Header => self.block(namespace, &local),
            Place::Body => self.body()?.child(namespace, &local),
        };
        found.ok_or(Problem::NotAnOrder("the element of the message is missing"))
    }

    /// Everything that holds for every message.
    fn check(&self) -> Result<(), Problem> {
        let mut parts = self.root().children();
        let (header, body) = (parts.next(), parts.next());
        if !header.is_some_and(|one| one.is(SOAP, "Header")) || !body.is_some_and(|one| one.is(SOAP, "Body"))
        {
            return Err(Problem::Structure("an envelope has Header and Body"));
        }
        if parts.next().is_some() {
            return Err(Problem::Structure("something stands behind the Body"));
        }
        let mut ids = HashSet::new();
        for element in self.document.elements() {
            let id = element.attribute("Id");
            if id.is_some_and(|id| id.is_empty() || !ids.insert(id)) {
                return Err(Problem::Structure("an Id is empty or there twice"));
            }
        }
        let mut names = HashSet::new();
        for block in self.blocks().chain(body) {
            if block.attribute("Id").is_none() {
                return Err(Problem::Structure("a header block or the Body has no Id"));
            }
            // Wishes for timestamps come in pairs.
            let service = block.attribute("Service").filter(|_| block.is(OSCI, "QualityOfTimestamp"));
            if !names.insert((block.namespace(), block.local(), service)) {
                return Err(Problem::Structure("a header block is there twice"));
            }
        }
        let element = self.element()?;
        // An element of another message in the same place could be taken for it by somebody else.
        let operations = self.blocks().chain(self.body()?.children());
        let foreign = operations.filter(|one| {
            *one != element
                && matches!(one.namespace(), OSCI | OSCI_2017)
                && OPERATIONS.iter().any(|(operation, ..)| {
                    operation.request().element() == one.local()
                        || operation.response().element() == one.local()
                })
        });
        match foreign.count() {
            0 => Ok(()),
            _ => Err(Problem::NotAnOrder("two messages in one")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::names::NS5;

    fn parse_text(text: &str) -> Result<Parsed, Problem> {
        parse(text.as_bytes().to_vec(), DocumentLimits::default())
    }

    fn envelope(kind: &str, header: &str, body: &str) -> String {
        let location = schema_location(kind);
        format!(
            "<soap:Envelope{NS5} xsi:schemaLocation=\"{location}\"><soap:Header>{header}</soap:Header><soap:Body Id=\"body\">{body}</soap:Body></soap:Envelope>"
        )
    }

    #[test]
    fn every_kind_has_one_name() {
        for (operation, ..) in OPERATIONS {
            for kind in [operation.request(), operation.response()] {
                assert_eq!(MessageKind::parse(&kind.schema()), Some(kind));
            }
        }
        assert_eq!(Operation::StoreDelivery.response().element(), "responseToStoreDelivery");
    }

    #[test]
    fn both_the_attribute_and_the_element_say_what_it_is() {
        let good = envelope("InitDialog", "", "<osci:initDialog/>");
        let Ok(Parsed::Message(message)) = parse_text(&good) else { panic!("not read") };
        assert_eq!(message.kind(), Operation::InitDialog.request());
        for (wrong, code) in [
            (envelope("ExitDialog", "", "<osci:initDialog/>"), Code::NotAnOrder),
            (envelope("InitDialog", "<osci:storeDelivery Id='s'/>", "<osci:initDialog/>"), Code::NotAnOrder),
            (envelope("InitDialog", "<osci:initDialog Id='s'/>", ""), Code::NotAnOrder),
            (envelope("Unheard", "", "<osci:initDialog/>"), Code::NotAnOrder),
            (good.replace("Id=\"body\"", ""), Code::NotOsci),
            (envelope("InitDialog", "<osci:DesiredLanguages/>", "<osci:initDialog/>"), Code::NotOsci),
            (
                envelope("InitDialog", "<osci:DesiredLanguages Id='body'/>", "<osci:initDialog/>"),
                Code::NotOsci,
            ),
            (envelope("InitDialog", "<a Id='1'/><a Id='2'/>", "<osci:initDialog/>"), Code::NotOsci),
            (good.replace("</soap:Body>", "</soap:Body><soap:Body Id='b'/>"), Code::NotOsci),
            (good.replace("soap:Envelope", "soap:Letter"), Code::NotOsci),
            (format!("<!DOCTYPE a>{good}"), Code::NotOsci),
        ] {
            let problem = parse_text(&wrong).map(|_| ()).expect_err(&wrong);
            assert_eq!(problem.code(), code, "{problem} {wrong}");
        }
    }

    #[test]
    fn faults_are_known_by_what_they_lack() {
        let text = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><s:faultcode>s:Client</s:faultcode>\
            <s:detail><c:Code xmlns:c=\"http://www.osci.de/2002/04/osci\">9400</c:Code></s:detail></s:Fault></s:Body></s:Envelope>";
        let Ok(Parsed::Fault(fault)) = parse_text(text) else { panic!("not read") };
        assert_eq!(fault.code, Some(Code::WrongDialog));
        assert!(parse_text(&text.replace("Fault", "Other")).is_err());
    }
}
