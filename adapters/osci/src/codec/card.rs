//! Process cards (Laufzettel) and feedback.

use amtsbote_soap::document::ElementRef;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::block::content;
use super::certificate::Certificate;
use super::code::{Code, Kind, Language};
use super::encryption::{decode, encode};
use super::names::OSCI;
use super::problem::Problem;

/// Bytes of a message id.
const ID_MAX: usize = 255;

/// Reads a time; one without an offset is taken as UTC.
pub(crate) fn read_time(text: &str) -> Result<Timestamp, Problem> {
    let text = text.trim();
    let plain = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    text.parse().ok().or_else(plain).ok_or(Problem::Structure("a time that is none"))
}

/// Writes a time, in whole seconds.
pub(crate) fn write_time(at: Timestamp) -> String {
    let second = Timestamp::from_second(at.as_second()).unwrap_or(at);
    second.to_string()
}

/// A message id is text in base64.
pub(crate) fn read_id(element: ElementRef<'_>) -> Result<String, Problem> {
    let bytes = decode(&element.text()).filter(|bytes| !bytes.is_empty() && bytes.len() <= ID_MAX);
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.filter(|text| !text.chars().any(char::is_control));
    text.ok_or(Problem::Structure("a MessageId that is none"))
}

pub(crate) fn write_id(name: &str, id: &str) -> String {
    format!("<osci:{name}>{}</osci:{name}>", encode(id.as_bytes()))
}

/// One line of feedback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Four digits.
    pub digits: String,
    /// For people.
    pub text: String,
}

impl Entry {
    /// What the code means here.
    pub fn code(&self) -> Option<Code> {
        Code::parse(&self.digits)
    }
}

/// What a supplier says about an order; the main result first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Feedback(pub Vec<Entry>);

impl Feedback {
    /// Whether the order was executed.
    pub fn is_success(&self) -> bool {
        self.0.first().is_some_and(|entry| entry.digits.starts_with('0'))
    }

    /// The main result.
    pub fn first(&self) -> Option<&Entry> {
        self.0.first()
    }

    pub(crate) fn read(parent: ElementRef<'_>) -> Result<Self, Problem> {
        Self::read_named(parent, "Feedback", OSCI)
    }

    pub(crate) fn read_named(parent: ElementRef<'_>, local: &str, namespace: &str) -> Result<Self, Problem> {
        let feedback = parent.child(namespace, local).ok_or(Problem::Structure("no Feedback"))?;
        let entries = feedback.children().filter(|one| one.is(OSCI, "Entry")).take(100);
        let text = |entry: ElementRef<'_>, local| {
            entry.child(OSCI, local).map(|one| one.text().trim().to_owned()).unwrap_or_default()
        };
        let entries: Vec<Entry> =
            entries.map(|entry| Entry { digits: text(entry, "Code"), text: text(entry, "Text") }).collect();
        if entries.is_empty() { Err(Problem::Structure("no Feedback")) } else { Ok(Self(entries)) }
    }
}

/// Writes feedback; errors before what went well, that before warnings.
pub(crate) fn write_feedback(name: &str, codes: &[Code], language: Language) -> String {
    let mut codes = codes.to_vec();
    codes.sort_by_key(|code| match code.kind() {
        Kind::ClientFault | Kind::ServerFault | Kind::Error => 0,
        Kind::Success => 1,
        Kind::Warning => 2,
    });
    let tag = language.tag();
    let entries: String = codes
        .iter()
        .map(|code| {
            let (digits, text) = (code.digits(), content(code.text(language)));
            format!(
                "<osci:Entry xml:lang=\"{tag}\"><osci:Code>{digits}</osci:Code><osci:Text>{text}</osci:Text></osci:Entry>"
            )
        })
        .collect();
    format!("<{name}>{entries}</{name}>")
}

/// What is known of a certificate's signature by its issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MathResult {
    /// It is right.
    Ok,
    /// It is wrong.
    Corrupted,
    /// Nobody here knows the issuer.
    Indeterminate,
}

/// One check of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// When.
    pub at: Timestamp,
    /// RFC 4514.
    pub subject: String,
    /// RFC 4514.
    pub issuer: String,
    /// Decimal.
    pub serial: String,
    /// Signature of the issuer.
    pub math: MathResult,
    /// Whether it was inside its validity.
    pub valid: bool,
}

impl Inspection {
    /// The check of a certificate at a time.
    pub fn of(certificate: &Certificate, math: MathResult, at: Timestamp) -> Self {
        Self {
            at,
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            serial: certificate.serial(),
            math,
            valid: certificate.is_valid_at(at),
        }
    }

    fn write(&self) -> String {
        let math = match self.math {
            MathResult::Ok => "ok",
            MathResult::Corrupted => "corrupted",
            MathResult::Indeterminate => "indeterminate",
        };
        let offline = if self.valid { "valid" } else { "invalid" };
        format!(
            "<osci:Inspection><osci:Timestamp><osci:Plain>{}</osci:Plain></osci:Timestamp><osci:X509SubjectName>{}</osci:X509SubjectName><osci:X509IssuerName>{}</osci:X509IssuerName><osci:X509SerialNumber>{}</osci:X509SerialNumber><osci:CertType Type=\"unknown\"></osci:CertType><osci:MathResult Result=\"{math}\"></osci:MathResult><osci:OfflineResult Result=\"{offline}\"></osci:OfflineResult></osci:Inspection>",
            write_time(self.at),
            content(&self.subject),
            content(&self.issuer),
            content(&self.serial),
        )
    }
}

/// What happened to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessCard {
    /// Of the delivery.
    pub message_id: String,
    /// The last change of the card.
    pub modified: Timestamp,
    /// The intermediary received it (Einreichung).
    pub creation: Option<Timestamp>,
    /// A message with it was ready for the recipient (Weiterleitung).
    pub forwarding: Option<Timestamp>,
    /// The recipient has it (Empfangsbestätigung).
    pub reception: Option<Timestamp>,
    /// One line for people.
    pub subject: Option<String>,
    /// Checks of certificates. Not read from others.
    pub inspections: Vec<Inspection>,
}

impl ProcessCard {
    /// Writes it as an element of this name, as far as a time is allowed to show.
    pub(crate) fn write(&self, name: &str, with_forwarding: bool, with_reception: bool) -> String {
        let time = |name: &str, at: Option<Timestamp>| {
            at.map(|at| format!("<osci:{name}><osci:Plain>{}</osci:Plain></osci:{name}>", write_time(at)))
                .unwrap_or_default()
        };
        let subject = self.subject.as_deref();
        let subject = subject.map(|text| format!("<osci:Subject>{}</osci:Subject>", content(text)));
        let inspections: String = self.inspections.iter().map(Inspection::write).collect();
        format!(
            "<osci:{name}>{id}<osci:ProcessCard RecentModification=\"{modified}\">{creation}{forwarding}{reception}{subject}</osci:ProcessCard><osci:InspectionReport>{inspections}</osci:InspectionReport></osci:{name}>",
            id = write_id("MessageId", &self.message_id),
            modified = write_time(self.modified),
            creation = time("Creation", self.creation),
            forwarding = time("Forwarding", self.forwarding.filter(|_| with_forwarding)),
            reception = time("Reception", self.reception.filter(|_| with_reception)),
            subject = subject.unwrap_or_default(),
        )
    }

    pub(crate) fn read(bundle: ElementRef<'_>) -> Result<Self, Problem> {
        let id = bundle.child(OSCI, "MessageId").ok_or(Problem::Structure("a card without MessageId"))?;
        let card = bundle.child(OSCI, "ProcessCard").ok_or(Problem::Structure("a bundle without card"))?;
        let time = |name| {
            let plain = card.child(OSCI, name).and_then(|one| one.child(OSCI, "Plain"));
            plain.map(|one| read_time(&one.text())).transpose()
        };
        let modified = card.attribute("RecentModification");
        Ok(Self {
            message_id: read_id(id)?,
            modified: read_time(modified.ok_or(Problem::Structure("a card without its last change"))?)?,
            creation: time("Creation")?,
            forwarding: time("Forwarding")?,
            reception: time("Reception")?,
            subject: card.child(OSCI, "Subject").map(|one| one.text().into_owned()),
            inspections: Vec::new(),
        })
    }

    /// All cards inside of an element.
    pub(crate) fn read_all(parent: ElementRef<'_>, name: &str) -> Result<Vec<Self>, Problem> {
        parent.children().filter(|one| one.is(OSCI, name)).map(Self::read).collect()
    }
}
