//! The twelve operations and their actions. An action is never derived from a name: the two do not follow each other.

/// One of the three endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// Accounts, ids, reports.
    Management,
    /// Handing in.
    Send,
    /// Fetching.
    MsgBox,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are named as in the WSDL")]
pub enum Operation {
    CheckAccountActive,
    LookupService,
    GetTransportReport,
    CancelMessage,
    CreateMessageId,
    SendMessage,
    SendMessageSync,
    GetMessage,
    GetStatusList,
    GetNextMessage,
    GetNextStatusList,
    Close,
}

/// The body a request has to have: nothing, or exactly one element.
pub(crate) type BodyElement = Option<(&'static str, &'static str)>;

use crate::names::{ADDRESSING, OSCI, XTA};
use Operation as Op;

/// Operation, port, action of request and answer, element in the body of the request (WSDL; the body alone says too little).
const TABLE: [(Operation, Port, &str, BodyElement); 12] = [
    (Op::CheckAccountActive, Port::Management, "http://www.xta.de/XTA/CheckAccountActive", None),
    (
        Op::LookupService,
        Port::Management,
        "http://www.xta.de/XTA/IsServiceAvailable",
        Some((XTA, "LookupServiceRequest")),
    ),
    (
        Op::GetTransportReport,
        Port::Management,
        "http://www.xta.de/XTA/GetTransportReport",
        Some((ADDRESSING, "MessageID")),
    ),
    (
        Op::CancelMessage,
        Port::Management,
        "http://www.xta.de/XTA/CancelMessage",
        Some((ADDRESSING, "MessageID")),
    ),
    (Op::CreateMessageId, Port::Management, "http://www.xta.de/XTA/CreateMessageID", None),
    (
        Op::SendMessage,
        Port::Send,
        "http://www.xta.de/XTA/SendMessage",
        Some((XTA, "GenericContentContainer")),
    ),
    (
        Op::SendMessageSync,
        Port::Send,
        "http://www.xta.de/XTA/SendMessageSync",
        Some((XTA, "GenericContentContainer")),
    ),
    (
        Op::GetMessage,
        Port::MsgBox,
        "http://www.osci.eu/ws/2008/05/transport/urn/messageTypes/MsgBoxFetchRequest",
        Some((OSCI, "MsgBoxFetchRequest")),
    ),
    (
        Op::GetStatusList,
        Port::MsgBox,
        "http://www.osci.eu/ws/2008/05/transport/urn/messageTypes/MsgBoxStatusListRequest",
        Some((OSCI, "MsgBoxStatusListRequest")),
    ),
    (
        Op::GetNextMessage,
        Port::MsgBox,
        "http://www.osci.eu/ws/2008/05/transport/urn/messageTypes/MsgBoxGetNextMsgRequest",
        Some((OSCI, "MsgBoxGetNextRequest")),
    ),
    (
        Op::GetNextStatusList,
        Port::MsgBox,
        "http://www.osci.eu/ws/2008/05/transport/urn/messageTypes/MsgBoxGetNextListRequest",
        Some((OSCI, "MsgBoxGetNextRequest")),
    ),
    (
        Op::Close,
        Port::MsgBox,
        "http://www.osci.eu/ws/2008/05/transport/urn/messageTypes/MsgBoxCloseRequest",
        Some((OSCI, "MsgBoxCloseRequest")),
    ),
];

impl Operation {
    /// The operation a port has for an action.
    pub fn of(port: Port, action: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|(_, of, known, _)| *of == port && *known == action)
            .map(|(operation, ..)| *operation)
    }

    fn row(self) -> &'static (Self, Port, &'static str, BodyElement) {
        TABLE.iter().find(|(operation, ..)| *operation == self).unwrap_or(&TABLE[0])
    }

    /// The action of request, answer and modelled faults.
    pub fn action(self) -> &'static str {
        self.row().2
    }

    pub(crate) fn body(self) -> BodyElement {
        self.row().3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_in_the_table_once() {
        for (operation, port, action, _) in TABLE {
            assert_eq!(Operation::of(port, action), Some(operation));
            assert_eq!(operation.action(), action);
        }
        assert_eq!(Operation::of(Port::Send, Op::Close.action()), None);
    }
}
