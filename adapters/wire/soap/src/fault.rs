//! SOAP 1.2 faults, written and read.

use crate::addressing::SOAP_FAULT_ACTION;
use crate::element::Element;
use crate::name::{ADDRESSING, ENVELOPE, ENVELOPE_11, Name, XML};

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCode {
    /// The request is wrong.
    Sender,
    /// The gateway cannot do it.
    Receiver,
    /// Another version of SOAP is spoken here.
    VersionMismatch,
    /// A header block that must be understood is not.
    MustUnderstand,
}

impl FaultCode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "Sender",
            Self::Receiver => "Receiver",
            Self::VersionMismatch => "VersionMismatch",
            Self::MustUnderstand => "MustUnderstand",
        }
    }
}

/// A fault as it goes out: never anything internal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub code: FaultCode,
    /// From general to specific; of WS-Addressing.
    pub subcodes: Vec<Name>,
    /// One sentence for people.
    pub reason: String,
    /// Language of the sentence.
    pub language: &'static str,
    /// What programs decide by.
    pub detail: Option<Box<Element>>,
    /// Header blocks that belong to it.
    pub headers: Vec<Element>,
    /// Action of the answer; `None`: that of the operation.
    pub action: Option<&'static str>,
}

impl Fault {
    /// A fault without detail, that no operation declares.
    pub fn new(code: FaultCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            subcodes: Vec::new(),
            reason: reason.into(),
            language: "en",
            detail: None,
            headers: Vec::new(),
            action: Some(SOAP_FAULT_ACTION),
        }
    }

    /// A fault an operation declares: it has the operation's action.
    pub fn modelled(
        code: FaultCode,
        language: &'static str,
        reason: impl Into<String>,
        detail: Element,
    ) -> Self {
        Self { language, detail: Some(Box::new(detail)), action: None, ..Self::new(code, reason) }
    }

    /// With a subcode inside of those before.
    #[must_use]
    pub fn with_subcode(mut self, subcode: Name) -> Self {
        self.subcodes.push(subcode);
        self
    }

    /// With a detail.
    #[must_use]
    pub fn with_detail(self, detail: Element) -> Self {
        Self { detail: Some(Box::new(detail)), ..self }
    }

    /// With another action.
    #[must_use]
    pub fn with_action(self, action: &'static str) -> Self {
        Self { action: Some(action), ..self }
    }

    /// The envelope is of SOAP 1.1.
    pub fn version_mismatch() -> Self {
        let supported = Element::new(ENVELOPE, "SupportedEnvelope").with_attribute("qname", "env:Envelope");
        let upgrade = Element::new(ENVELOPE, "Upgrade").with(supported);
        let mut fault = Self::new(FaultCode::VersionMismatch, "Only SOAP 1.2 is spoken here.");
        fault.headers.push(upgrade);
        fault
    }

    /// Header blocks that must be understood are not.
    pub fn must_understand(names: &[Name]) -> Self {
        let mut fault =
            Self::new(FaultCode::MustUnderstand, "A header block that must be understood is not.");
        fault.headers = names.iter().map(not_understood).collect();
        fault
    }

    /// The element for the body. It expects the prefixes `env` and `wsa` to be declared as usual.
    pub fn element(&self) -> Element {
        let value = |text: String| Element::new(ENVELOPE, "Value").with_text(text);
        let inner = self.subcodes.iter().rev().fold(None, |inner: Option<Element>, subcode| {
            let one = Element::new(ENVELOPE, "Subcode").with(value(format!(
                "{}:{}",
                prefix(subcode),
                subcode.local()
            )));
            Some(one.with_all(inner))
        });
        let code =
            Element::new(ENVELOPE, "Code").with(value(format!("env:{}", self.code.as_str()))).with_all(inner);
        let mut text = Element::new(ENVELOPE, "Text").with_text(&self.reason);
        text.attributes
            .push(crate::name::Attribute { name: Name::new(XML, "lang"), value: self.language.to_owned() });
        let detail = self.detail.clone().map(|detail| Element::new(ENVELOPE, "Detail").with(*detail));
        Element::new(ENVELOPE, "Fault")
            .with(code)
            .with(Element::new(ENVELOPE, "Reason").with(text))
            .with_all(detail)
    }
}

fn prefix(name: &Name) -> &'static str {
    match name.namespace() {
        ADDRESSING => "wsa",
        _ => "env",
    }
}

/// The name goes into an attribute as a qualified name, so its prefix is declared right there.
fn not_understood(name: &Name) -> Element {
    let element = Element::new(ENVELOPE, "NotUnderstood");
    if name.namespace().is_empty() {
        return element.with_attribute("qname", name.local());
    }
    element
        .with_attribute("xmlns:nu", name.namespace())
        .with_attribute("qname", format!("nu:{}", name.local()))
}

/// A fault as a peer sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFault {
    /// Local part of the code, for example `Sender`.
    pub code: String,
    /// Its sentence; from a stranger, so not for logs.
    pub reason: String,
    /// What is inside of the detail.
    pub detail: Vec<Element>,
}

impl PeerFault {
    /// Reads the child of a body, if it is a fault of SOAP 1.2 or 1.1.
    pub fn of(body: &Element) -> Option<Self> {
        if body.is(ENVELOPE, "Fault") {
            let value = body.descend(ENVELOPE, &["Code", "Value"]).map(Element::text).unwrap_or_default();
            let reason = body.descend(ENVELOPE, &["Reason", "Text"]).map(Element::text).unwrap_or_default();
            let detail = body.child(ENVELOPE, "Detail").map(|one| one.children().cloned().collect());
            return Some(Self { code: local_part(&value), reason, detail: detail.unwrap_or_default() });
        }
        body.is(ENVELOPE_11, "Fault").then(|| Self {
            code: local_part(&body.text_of("", "faultcode").unwrap_or_default()),
            reason: body.text_of("", "faultstring").unwrap_or_default(),
            detail: body.child("", "detail").map(|one| one.children().cloned().collect()).unwrap_or_default(),
        })
    }
}

fn local_part(qualified: &str) -> String {
    qualified.rsplit(':').next().unwrap_or_default().to_owned()
}
