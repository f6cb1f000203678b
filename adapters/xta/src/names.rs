//! Namespaces of XTA 2.1.1, and the prefixes everything is written with.

use amtsbote_soap::name;
use amtsbote_soap::write::Prefixes;

pub(crate) use amtsbote_soap::name::{ADDRESSING, SECURITY, SECURITY_UTILITY, XOP};

/// The XTA web service.
pub(crate) const XTA: &str = "http://xoev.de/transport/xta/211";
/// OSCI message meta data.
pub(crate) const META: &str = "http://www.osci.eu/ws/2014/10/transport";
/// OSCI 2 mailbox.
pub(crate) const OSCI: &str = "http://www.osci.eu/ws/2008/05/transport";
/// XML encryption.
pub(crate) const XENC: &str = "http://www.w3.org/2001/04/xmlenc#";
/// XML signatures.
pub(crate) const DS: &str = "http://www.w3.org/2000/09/xmldsig#";

/// Declared on every envelope.
pub(crate) const PREFIXES: &Prefixes = &[
    ("env", name::ENVELOPE),
    ("wsa", ADDRESSING),
    ("xta", XTA),
    ("meta", META),
    ("osci", OSCI),
    ("xop", XOP),
    ("ds", DS),
    ("wsse", SECURITY),
];

/// Placeholder for a business scenario that nobody named.
pub(crate) const NO_SCENARIO: &str = "unbekannt";
/// Code of a message type that nobody named.
pub(crate) const NO_TYPE: &str = "unbekannt";
/// List of message types by the name of their root element.
pub(crate) const LIST_ELEMENT_NAME: &str = "urn:de:payloadSchema:elementName";
/// Our own list of properties of messages.
pub(crate) const LIST_PROPERTIES: &str = "urn:amtsbote:codeliste:message-property";
/// Recommended list of kinds of records in reports.
pub(crate) const LIST_RECORDS: &str = "urn:amtsbote:codeliste:report-record";
/// Recommended list of kinds of identifiers of parties.
pub(crate) const TYPE_OF_PARTY: &str = "xoev";
/// Reader that asks for responsibility resolution.
pub(crate) const RESPONSIBLE: &str = "amtsbote:zustaendig";
