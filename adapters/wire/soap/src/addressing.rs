//! WS-Addressing 1.0 as far as request and answer over HTTP need it.

use crate::element::Element;
use crate::envelope::Header;
use crate::fault::{Fault, FaultCode};
use crate::name::{ADDRESSING, Name};

/// Answers go back on the same connection, never anywhere else.
pub const ANONYMOUS: &str = "http://www.w3.org/2005/08/addressing/anonymous";
/// Action of faults of addressing itself.
pub const FAULT_ACTION: &str = "http://www.w3.org/2005/08/addressing/fault";
/// Action of faults that no operation declares.
pub const SOAP_FAULT_ACTION: &str = "http://www.w3.org/2005/08/addressing/soap/fault";

/// What a request says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addressing {
    /// `wsa:Action`.
    pub action: Option<String>,
    /// `wsa:MessageID` of the exchange, to which the answer relates.
    pub message_id: Option<String>,
}

impl Addressing {
    /// Reads the header blocks of a request.
    ///
    /// # Errors
    /// A fault for a block that is there twice, and for a place to answer to that is not this connection.
    pub fn of(headers: &[Header]) -> Result<Self, Fault> {
        let ours =
            || headers.iter().map(|header| &header.element).filter(|one| one.name.namespace() == ADDRESSING);
        for (n, one) in ours().enumerate() {
            let repeatable = matches!(one.name.local(), "RelatesTo" | "ReferenceParameters");
            if !repeatable && ours().take(n).any(|other| other.name == one.name) {
                return Err(invalid("InvalidCardinality", "A header block of WS-Addressing is there twice."));
            }
        }
        let text = |local| {
            ours().find(|one| one.is(ADDRESSING, local)).map(Element::text).filter(|text| !text.is_empty())
        };
        for place in ["ReplyTo", "FaultTo"] {
            let address = ours()
                .find(|one| one.is(ADDRESSING, place))
                .and_then(|one| one.text_of(ADDRESSING, "Address"));
            if address.is_some_and(|address| address != ANONYMOUS) {
                let reason = "Answers can only be sent on the same connection.";
                return Err(invalid("OnlyAnonymousAddressSupported", reason));
            }
        }
        Ok(Self { action: text("Action"), message_id: text("MessageID") })
    }

    /// The one action of the request, from HTTP and from WS-Addressing.
    ///
    /// # Errors
    /// A fault if there is none, or two that differ.
    pub fn resolve_action(&self, http: &[String]) -> Result<String, Fault> {
        let mut actions = self.action.iter().chain(http);
        let Some(first) = actions.next() else {
            let reason = "The request names no action.";
            return Err(Fault::new(FaultCode::Sender, reason)
                .with_subcode(Name::new(ADDRESSING, "MessageAddressingHeaderRequired"))
                .with_action(FAULT_ACTION));
        };
        if actions.any(|other| other != first) {
            return Err(invalid("ActionMismatch", "The actions in HTTP and in WS-Addressing differ."));
        }
        Ok(first.clone())
    }

    /// The header blocks of an answer with this action.
    pub fn answer(&self, action: &str, message_id: &str) -> Vec<Element> {
        let mut headers = vec![
            Element::new(ADDRESSING, "Action").with_text(action),
            Element::new(ADDRESSING, "MessageID").with_text(message_id),
            Element::new(ADDRESSING, "To").with_text(ANONYMOUS),
        ];
        let relates_to = self.message_id.iter().map(|id| Element::new(ADDRESSING, "RelatesTo").with_text(id));
        headers.extend(relates_to);
        headers
    }
}

/// The header blocks of a request.
pub fn request(action: &str, message_id: &str, to: &str) -> Vec<Element> {
    let anonymous = Element::new(ADDRESSING, "Address").with_text(ANONYMOUS);
    vec![
        Element::new(ADDRESSING, "Action").with_text(action),
        Element::new(ADDRESSING, "MessageID").with_text(message_id),
        Element::new(ADDRESSING, "To").with_text(to),
        Element::new(ADDRESSING, "ReplyTo").with(anonymous),
    ]
}

/// No operation has this action.
pub fn action_not_supported(action: &str) -> Fault {
    let problem =
        Element::new(ADDRESSING, "ProblemAction").with(Element::new(ADDRESSING, "Action").with_text(action));
    Fault::new(FaultCode::Sender, "The action is not offered here.")
        .with_subcode(Name::new(ADDRESSING, "ActionNotSupported"))
        .with_detail(problem)
        .with_action(FAULT_ACTION)
}

fn invalid(subcode: &str, reason: &'static str) -> Fault {
    Fault::new(FaultCode::Sender, reason)
        .with_subcode(Name::new(ADDRESSING, "InvalidAddressingHeader"))
        .with_subcode(Name::new(ADDRESSING, subcode))
        .with_action(FAULT_ACTION)
}
