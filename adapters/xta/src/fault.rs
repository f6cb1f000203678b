//! Faults of XTA, and the one table from core's errors to them (WSDL, list `fehlernummer` 1.0). Peers see the code; the log sees the
//! chain.

use amtsbote_core::delivery::Refusal;
use amtsbote_core::exchange::ExchangeError;
use amtsbote_core::intake::IntakeError;
use amtsbote_core::mailbox::MailboxError;
use amtsbote_core::port::StoreError;
use amtsbote_core::route::OutcomeKind;
use amtsbote_core::submissions::SubmissionError;
use amtsbote_soap::{Element, Fault, FaultCode, Limit, PackageError, ReadError, XmlError};

use crate::channel::WRONG_MODE;
use crate::content::ContentError;
use crate::names::XTA;
use crate::operation::Operation;

/// The numbers of the list, with its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 9010
    CertificateExpired,
    /// 9012
    NoAccount,
    /// 9013
    NotBooked,
    /// 9014
    ForeignIdentifier,
    /// 9020
    NoParameters,
    /// 9021
    NoUri,
    /// 9022
    WrongParameters,
    /// 9023
    TooLarge,
    /// 9024
    IdTaken,
    /// 9030
    Internal,
    /// 9031
    DirectoryDown,
    /// 9032
    NotDelivered,
    /// 9070
    UnknownId,
    /// 9080
    OnlyAsynchronous,
    /// 9081
    OnlySynchronous,
    /// 9100
    NotBeforePassed,
    /// 9101
    NotBeforeMissing,
}

use ErrorCode as Code;

impl ErrorCode {
    /// Number, exception and text.
    fn row(self) -> (u16, &'static str, &'static str) {
        const PERMISSION: &str = "PermissionDeniedException";
        const PARAMETER: &str = "ParameterIsNotValidException";
        const TECHNICAL: &str = "XTAWSTechnicalProblemException";
        match self {
            Self::CertificateExpired => (9010, PERMISSION, "Authentisierung/Zertifikat ist abgelaufen."),
            Self::NoAccount => (9012, PERMISSION, "Account nicht vorhanden."),
            Self::NotBooked => (9013, PERMISSION, "Dienst ist nicht gebucht."),
            Self::ForeignIdentifier => {
                (9014, PERMISSION, "Authentisierung/Zertifikat passt nicht zur Absenderkennung.")
            }
            Self::NoParameters => (9020, PARAMETER, "Keine Parameter vorhanden"),
            Self::NoUri => (9021, PARAMETER, "Keine gültige URI"),
            Self::WrongParameters => (9022, PARAMETER, "Ungültige Parameterkombination"),
            Self::TooLarge => (9023, PARAMETER, "Die Nachricht überschreitet die Größenbeschränkung."),
            Self::IdTaken => (9024, PARAMETER, "MessageID ist bereits vergeben."),
            Self::Internal => (9030, TECHNICAL, "Interner Fehler beim XTA-Server bzw. XTA-Dienstleister"),
            Self::DirectoryDown => (9031, TECHNICAL, "Fehler beim externen Verzeichnisdienst"),
            Self::NotDelivered => (9032, TECHNICAL, "Fehler bei der Zustellung"),
            Self::UnknownId => {
                (9070, "InvalidMessageIDException", "MessageID für den Account nicht bekannt.")
            }
            Self::OnlyAsynchronous => {
                (9080, "SyncAsyncException", "Der Dienst wird nur asynchron angeboten.")
            }
            Self::OnlySynchronous => (9081, "SyncAsyncException", "Der Dienst wird nur synchron angeboten."),
            Self::NotBeforePassed => (
                9100,
                "CancelDeniedException",
                "Der durch den Schalter NotBefore gesetzte Termin ist verstrichen.",
            ),
            Self::NotBeforeMissing => {
                (9101, "CancelDeniedException", "Der Schalter NotBefore wurde nicht gesetzt.")
            }
        }
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.row().0
    }

    /// Whether a generated client of the operation knows the exception.
    fn is_declared_by(self, operation: Operation) -> bool {
        use Operation as Op;
        match self.row().1 {
            "PermissionDeniedException" | "XTAWSTechnicalProblemException" => true,
            "ParameterIsNotValidException" => matches!(
                operation,
                Op::LookupService | Op::CancelMessage | Op::SendMessage | Op::SendMessageSync
            ),
            "InvalidMessageIDException" => {
                matches!(operation, Op::GetTransportReport | Op::GetMessage | Op::GetNextMessage | Op::Close)
            }
            "SyncAsyncException" => matches!(operation, Op::SendMessage | Op::SendMessageSync),
            "CancelDeniedException" => operation == Op::CancelMessage,
            _ => false,
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refused {
    /// With a fault of the standard. `about` names the field, never its value; it goes into the log.
    Modelled { code: ErrorCode, about: &'static str },
    /// With a fault that no operation declares.
    Plain(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Plain(fault)
    }
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self::Modelled { code, about: "" }
    }
}

/// Refused because of a field.
pub(crate) fn wrong(code: ErrorCode, about: &'static str) -> Refused {
    Refused::Modelled { code, about }
}

impl Refused {
    /// The fault as it goes out. What the operation does not declare becomes a plain one, which generated clients can show.
    pub(crate) fn fault(self, operation: Option<Operation>) -> Fault {
        let (code, about) = match self {
            Self::Plain(fault) => return fault,
            Self::Modelled { code, about } => (code, about),
        };
        let (number, exception, text) = code.row();
        let whose = match exception {
            "XTAWSTechnicalProblemException" => FaultCode::Receiver,
            _ => FaultCode::Sender,
        };
        let reason = if about.is_empty() { text.to_owned() } else { format!("{text} ({about})") };
        if !operation.is_some_and(|operation| code.is_declared_by(operation)) {
            return Fault { language: "de", ..Fault::new(whose, reason) };
        }
        let error = Element::new(XTA, "errorCode")
            .with_attribute("listURI", "urn:de:xta:webservice:codeliste:fehlernummer")
            .with_attribute("listVersionID", "1.0")
            .with(Element::new("", "code").with_text(number.to_string()))
            .with(Element::new("", "name").with_text(text));
        Fault::modelled(whose, "de", reason, Element::new(XTA, exception).with(error))
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full | StoreError::Stopped { .. } => {
                // The store itself reports once, and readiness shows it.
                tracing::debug!(error = &error as &dyn std::error::Error, "A request was refused.");
            }
            StoreError::Damaged { .. } | StoreError::Io { .. } | StoreError::Removed { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "A request failed.");
            }
        }
        Code::Internal.into()
    }
}

impl From<MailboxError> for Refused {
    fn from(error: MailboxError) -> Self {
        match error {
            MailboxError::Unknown => Code::UnknownId.into(),
            MailboxError::Refused(Refusal::Held) => {
                wrong(Code::Internal, "der Betrieb hält die Nachricht an")
            }
            // Leased, over, or gone: for this reader it is not there.
            MailboxError::Refused(_) => Code::UnknownId.into(),
            MailboxError::Store(StoreError::Removed { .. }) => Code::UnknownId.into(),
            MailboxError::Store(error) => error.into(),
        }
    }
}

impl From<SubmissionError> for Refused {
    fn from(error: SubmissionError) -> Self {
        match error {
            SubmissionError::Unknown => Code::UnknownId.into(),
            SubmissionError::Refused(_) => Code::NotBeforePassed.into(),
            SubmissionError::Store(error) => error.into(),
        }
    }
}

impl From<IntakeError> for Refused {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Metadata(problem) => wrong(Code::WrongParameters, problem.field),
            IntakeError::Refused(resolution) => outcome(resolution.outcome),
            IntakeError::Conflict(_) => Code::IdTaken.into(),
            IntakeError::OnlyAsynchronous => Code::OnlyAsynchronous.into(),
            IntakeError::RouteOpen => Code::DirectoryDown.into(),
            IntakeError::Store(error) => error.into(),
        }
    }
}

impl From<ExchangeError> for Refused {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Intake(error) => error.into(),
            ExchangeError::Overloaded => Code::Internal.into(),
            ExchangeError::Failed(reason) if reason.code == WRONG_MODE => Code::OnlyAsynchronous.into(),
            ExchangeError::UnderWay | ExchangeError::Failed(_) | ExchangeError::Unknown(_) => {
                Code::NotDelivered.into()
            }
            ExchangeError::Store(error) => error.into(),
        }
    }
}

/// How the outcomes of routing are told.
pub(crate) fn outcome(outcome: OutcomeKind) -> Refused {
    match outcome {
        OutcomeKind::ServiceUnknown => wrong(Code::NotBooked, "SERVICE_UNKNOWN"),
        OutcomeKind::Ambiguous
        | OutcomeKind::AreaAmbiguous
        | OutcomeKind::AreaTooCoarse
        | OutcomeKind::NotResponsible
        | OutcomeKind::NotValid
        | OutcomeKind::NoChannel
        | OutcomeKind::AreaUnknown
        | OutcomeKind::BadRequest
        | OutcomeKind::CertificateUnusable => wrong(Code::WrongParameters, outcome.as_str()),
        // These are accepted, so they do not come here.
        OutcomeKind::Resolved | OutcomeKind::DirectoryUnavailable => Code::Internal.into(),
    }
}

impl From<ReadError<ContentError>> for Refused {
    fn from(error: ReadError<ContentError>) -> Self {
        let plain = |reason: &'static str| Self::Plain(Fault::new(FaultCode::Sender, reason));
        match error {
            ReadError::OtherVersion => Self::Plain(Fault::version_mismatch()),
            ReadError::NotSoap(_) => plain("The request is no SOAP 1.2 envelope of the expected shape."),
            ReadError::Xml(XmlError::Input(_)) | ReadError::Package(PackageError::Input(_)) => {
                plain("The request stopped coming.")
            }
            ReadError::Xml(XmlError::Forbidden(_)) => plain("The request uses XML that is refused here."),
            ReadError::Xml(XmlError::Malformed(_)) => plain("The request is no well-formed XML."),
            ReadError::Xml(XmlError::Limit(_)) => plain("The request is larger or deeper than allowed."),
            ReadError::Package(PackageError::Limit(Limit::Content)) => Code::TooLarge.into(),
            ReadError::Package(PackageError::Limit(_)) => plain("The package is larger than allowed."),
            ReadError::Package(PackageError::Malformed(_)) => plain("The package is malformed."),
            ReadError::Package(PackageError::Reference(_)) => wrong(Code::WrongParameters, "xop:Include"),
            ReadError::Base64 => wrong(Code::WrongParameters, "base64"),
            ReadError::Sink(ContentError::TooLarge) => Code::TooLarge.into(),
            ReadError::Sink(ContentError::TooMany) => wrong(Code::WrongParameters, "Attachment"),
            ReadError::Sink(ContentError::Store(error)) => error.into(),
        }
    }
}
