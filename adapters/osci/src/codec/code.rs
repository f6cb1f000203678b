//! Codes of feedback and faults (OSCI-Transport 1.2, section "Rückmeldungen", with the supplement of 2017).

/// What a code says about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It was executed.
    Success,
    /// It was executed; something is worth a look.
    Warning,
    /// It was not executed, and the response says so.
    Error,
    /// It was not understood; the client's fault.
    ClientFault,
    /// It was not understood; the supplier's fault.
    ServerFault,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $kind:ident, $german:literal, $english:literal;)+) => {
        /// A code that has a meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Four digits.
            pub fn digits(self) -> &'static str {
                match self { $(Self::$name => $number,)+ }
            }

            /// What it says about the request.
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }

            /// For people, in German.
            pub fn german(self) -> &'static str {
                match self { $(Self::$name => $german,)+ }
            }

            /// For people, in English.
            pub fn english(self) -> &'static str {
                match self { $(Self::$name => $english,)+ }
            }
        }
    };
}

codes! {
    /// Executed; the dialog is over.
    Done = "0800", Success, "Auftrag ausgeführt, Dialog beendet", "Order executed, dialog finished";
    /// Executed; the dialog goes on.
    DoneOpen = "0801", Success, "Auftrag ausgeführt, Dialog weiterhin geöffnet", "Order executed, dialog still open";
    /// The client's cipher certificate is outside its validity.
    ClientCipherExpired = "3500", Warning, "Chiffrierzertifikat des Benutzers außerhalb des Gültigkeitszeitraums", "The client's cipher certificate is outside its validity period";
    /// The client's cipher certificate could not be checked completely.
    ClientCipherUnchecked = "3501", Warning, "Chiffrierzertifikat des Benutzers nicht vollständig prüfbar", "The client's cipher certificate could not be checked completely";
    /// The client's signature certificate is outside its validity.
    ClientSignatureExpired = "3700", Warning, "Signaturzertifikat des Benutzers außerhalb des Gültigkeitszeitraums", "The client's signature certificate is outside its validity period";
    /// An author's signature certificate is outside its validity.
    AuthorSignatureExpired = "3701", Warning, "Signaturzertifikat eines Autors außerhalb des Gültigkeitszeitraums", "An author's signature certificate is outside its validity period";
    /// An author's signature certificate was not signed by its issuer.
    AuthorSignatureInvalid = "3702", Warning, "Signaturzertifikat eines Autors ungültig", "An author's signature certificate is invalid";
    /// An author's signature certificate is revoked.
    AuthorSignatureRevoked = "3703", Warning, "Signaturzertifikat eines Autors widerrufen", "An author's signature certificate is revoked";
    /// An author's cipher certificate is outside its validity.
    AuthorCipherExpired = "3704", Warning, "Chiffrierzertifikat eines Autors außerhalb des Gültigkeitszeitraums", "An author's cipher certificate is outside its validity period";
    /// The addressee's cipher certificate is outside its validity.
    AddresseeCipherExpired = "3705", Warning, "Chiffrierzertifikat des Empfängers außerhalb des Gültigkeitszeitraums", "The recipient's cipher certificate is outside its validity period";
    /// A reader's cipher certificate is outside its validity.
    ReaderCipherExpired = "3706", Warning, "Chiffrierzertifikat eines Lesers außerhalb des Gültigkeitszeitraums", "A reader's cipher certificate is outside its validity period";
    /// A certificate could not be checked completely.
    CheckIncomplete = "3707", Warning, "Zertifikatsprüfung unvollständig", "The certificates could not be checked completely";
    /// The recipient's signature certificate is outside its validity.
    RecipientSignatureExpired = "3708", Warning, "Signaturzertifikat des Empfängers außerhalb des Gültigkeitszeitraums", "The recipient's signature certificate is outside its validity period";
    /// More deliveries wait.
    MoreDeliveries = "3800", Warning, "Weitere Zustellungen liegen bereit", "More deliveries are waiting";
    /// More process cards match.
    MoreCards = "3801", Warning, "Weitere Laufzettel entsprechen der Auswahl", "More process cards match the selection";
    /// The recipient did not sign its response.
    ResponseUnsigned = "3802", Warning, "Antwort des Empfängers nicht signiert", "The recipient did not sign its response";
    /// The recipient did not encrypt its response.
    ResponsePlain = "3803", Warning, "Antwort des Empfängers nicht verschlüsselt", "The recipient did not encrypt its response";
    /// There is feedback inside.
    InsideFeedback = "3950", Warning, "Rückmeldungen zur inneren Nachricht liegen vor", "There is feedback on the inner message";
    /// A message in chunks was discarded.
    ChunksExpired = "3951", Warning, "Zeitlimit der paketierten Nachricht überschritten", "The time of the chunked message is over";
    /// A message in chunks is being processed.
    ChunksInProcess = "3952", Warning, "Paketierte Nachricht wird noch verarbeitet", "The chunked message is still being processed";
    /// Internal error of the supplier.
    Internal = "9000", ServerFault, "Interner Fehler beim Supplier", "Internal error of the supplier";
    /// Not a valid OSCI message.
    NotOsci = "9100", ClientFault, "Keine gültige OSCI-Nachricht", "Not a valid OSCI message";
    /// The supplier has no key for the certificate.
    NoKey = "9200", ClientFault, "Zum verwendeten Chiffrierzertifikat liegt kein privater Schlüssel vor", "There is no private key for the certificate used";
    /// The supplier's certificate is revoked.
    KeyRevoked = "9201", ClientFault, "Das verwendete Chiffrierzertifikat des Suppliers ist widerrufen", "The supplier's certificate that was used is revoked";
    /// Cannot be decrypted.
    Undecryptable = "9202", ClientFault, "Auftragsdaten nicht entschlüsselbar", "The order could not be decrypted";
    /// What was decrypted is no order.
    NotAnOrder = "9300", ClientFault, "Entschlüsselte Daten sind kein gültiger Auftrag", "The decrypted data are not a valid order";
    /// Conversation, sequence or response are wrong.
    WrongDialog = "9400", ClientFault, "ConversationId, SequenceNumber oder Response falsch", "ConversationId, SequenceNumber or Response is wrong";
    /// The client's cipher certificate is missing.
    ClientCipherMissing = "9500", ClientFault, "Chiffrierzertifikat des Benutzers fehlt", "The client's cipher certificate is missing";
    /// The client's cipher certificate is not accepted.
    ClientCipherInvalid = "9501", ClientFault, "Chiffrierzertifikat des Benutzers ungültig", "The client's cipher certificate is invalid";
    /// The client's cipher certificate is revoked.
    ClientCipherRevoked = "9502", ClientFault, "Chiffrierzertifikat des Benutzers widerrufen", "The client's cipher certificate is revoked";
    /// Internal error while the client's cipher certificate was checked.
    ClientCipherInternal = "9503", ServerFault, "Interner Fehler bei der Prüfung des Chiffrierzertifikats des Benutzers", "Internal error while checking the client's cipher certificate";
    /// Not signed, although it has to be.
    NotSigned = "9600", Error, "Auftrag nicht signiert", "The order is not signed";
    /// The signature is wrong.
    SignatureInvalid = "9601", Error, "Signatur über die Auftragsdaten ungültig", "The signature of the order is invalid";
    /// Something is not signed.
    NotAllSigned = "9602", Error, "Nicht alle relevanten Auftragsdaten signiert", "Not all relevant parts of the order are signed";
    /// Internal error while the signature was checked.
    SignatureInternal = "9603", Error, "Interner Fehler bei der Signaturprüfung", "Internal error while checking the signature";
    /// The client's signature certificate is not accepted.
    ClientSignatureInvalid = "9700", Error, "Signaturzertifikat des Benutzers ungültig", "The client's signature certificate is invalid";
    /// The client's signature certificate is revoked.
    ClientSignatureRevoked = "9701", Error, "Signaturzertifikat des Benutzers widerrufen", "The client's signature certificate is revoked";
    /// An author's cipher certificate is not accepted.
    AuthorCipherInvalid = "9704", Error, "Chiffrierzertifikat eines Autors ungültig", "An author's cipher certificate is invalid";
    /// An author's cipher certificate is revoked.
    AuthorCipherRevoked = "9705", Error, "Chiffrierzertifikat eines Autors widerrufen", "An author's cipher certificate is revoked";
    /// The addressee's cipher certificate is not accepted.
    AddresseeCipherInvalid = "9706", Error, "Chiffrierzertifikat des Empfängers ungültig oder hier unbekannt", "The recipient's cipher certificate is invalid or not known here";
    /// The addressee's cipher certificate is revoked.
    AddresseeCipherRevoked = "9707", Error, "Chiffrierzertifikat des Empfängers widerrufen", "The recipient's cipher certificate is revoked";
    /// A reader's cipher certificate is not accepted.
    ReaderCipherInvalid = "9708", Error, "Chiffrierzertifikat eines Lesers ungültig", "A reader's cipher certificate is invalid";
    /// A reader's cipher certificate is revoked.
    ReaderCipherRevoked = "9709", Error, "Chiffrierzertifikat eines Lesers widerrufen", "A reader's cipher certificate is revoked";
    /// Internal error while certificates were checked.
    CheckInternal = "9710", Error, "Interner Fehler bei der Zertifikatsprüfung", "Internal error while checking certificates";
    /// The recipient's signature certificate is not accepted.
    RecipientSignatureInvalid = "9711", Error, "Signaturzertifikat des Empfängers ungültig", "The recipient's signature certificate is invalid";
    /// The recipient's signature certificate is revoked.
    RecipientSignatureRevoked = "9712", Error, "Signaturzertifikat des Empfängers widerrufen", "The recipient's signature certificate is revoked";
    /// A delivery without an id.
    NoMessageId = "9800", Error, "Zustellung ohne MessageId abgelehnt", "A delivery without a message id is refused";
    /// The id was not given out here, or was used.
    MessageIdUnusable = "9801", Error, "MessageId nicht von diesem Intermediär vergeben oder bereits verwendet", "The message id was not given out here or is already used";
    /// The request needs an explicit dialog.
    ExplicitOnly = "9802", Error, "Auftrag nur in explizitem Dialog möglich", "The order needs an explicit dialog";
    /// No delivery matches.
    NoDelivery = "9803", Error, "Keine der Auswahl entsprechende Zustellung", "No delivery matches the selection";
    /// No process card matches.
    NoCard = "9804", Error, "Kein der Auswahl entsprechender Laufzettel", "No process card matches the selection";
    /// The recipient did not accept it.
    NotAccepted = "9805", Error, "Zustellung vom Empfänger nicht akzeptiert", "The recipient did not accept the delivery";
    /// The recipient's answer holds nothing.
    NoAnswer = "9806", Error, "Antwort des Empfängers enthält keine Zustellung", "The recipient's answer contains no delivery";
    /// The recipient's signature is wrong.
    RecipientSignatureWrong = "9807", Error, "Signatur der Antwort des Empfängers ungültig", "The signature of the recipient's answer is invalid";
    /// Internal error at the recipient.
    RecipientInternal = "9808", Error, "Interner Fehler beim Empfänger", "Internal error of the recipient";
    /// The recipient was not reached.
    NotReached = "9809", Error, "Fehler bei der Weiterleitung, Empfänger nicht erreicht", "Error while forwarding, the recipient was not reached";
    /// The recipient was reached.
    Reached = "9810", Error, "Fehler bei der Weiterleitung, Empfänger erreicht", "Error while forwarding, the recipient was reached";
    /// Internal error while the order was executed.
    ExecutionFailed = "9811", Error, "Interner Fehler beim Supplier bei der Ausführung des Auftrags", "Internal error of the supplier executing the order";
    /// The chunk is there already.
    ChunkExists = "9900", Error, "Paket bereits vorhanden", "The chunk is already there";
    /// The number of the chunk is wrong.
    ChunkNumber = "9901", Error, "Paketnummer falsch", "The number of the chunk is wrong";
    /// The chunk is too large.
    ChunkTooLarge = "9902", Error, "Paket größer als erlaubt", "The chunk is larger than allowed";
    /// The chunk is too small.
    ChunkTooSmall = "9903", Error, "Paket kleiner als erlaubt", "The chunk is smaller than allowed";
    /// The message is too large.
    MessageTooLarge = "9904", Error, "Maximale Nachrichtengröße überschritten", "The message is larger than allowed";
    /// What is said about the chunk is wrong.
    ChunkInformation = "9905", Error, "Angaben zum Paket falsch", "The chunk information is wrong";
    /// There are errors inside.
    InsideError = "9950", Error, "Innere Nachricht fehlerhaft", "The inner message failed";
}

impl Code {
    /// The code with these digits.
    pub fn parse(digits: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.digits() == digits)
    }

    /// Whether it travels as a fault.
    pub fn is_fault(self) -> bool {
        matches!(self.kind(), Kind::ClientFault | Kind::ServerFault)
    }

    /// For people, in a language; German unless English was asked for.
    pub fn text(self, language: Language) -> &'static str {
        match language {
            Language::German => self.german(),
            Language::English => self.english(),
        }
    }
}

/// Languages of feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// `de`
    #[default]
    German,
    /// `en`
    English,
}

impl Language {
    /// The first that is spoken here out of a list such as `en-GB de`; German if there is none.
    pub fn of(list: &str) -> Self {
        list.split_ascii_whitespace()
            .find_map(|tag| match tag.split('-').next() {
                Some("de") => Some(Self::German),
                Some("en") => Some(Self::English),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Language tag.
    pub fn tag(self) -> &'static str {
        match self {
            Self::German => "de",
            Self::English => "en",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_say_what_kind_of_code_it_is() {
        for code in Code::ALL {
            let first = code.digits().as_bytes()[0];
            let expected = match code.kind() {
                Kind::Success => b'0',
                Kind::Warning => b'3',
                Kind::Error | Kind::ClientFault | Kind::ServerFault => b'9',
            };
            assert_eq!(first, expected, "{code:?}");
            assert_eq!(Code::parse(code.digits()), Some(*code));
            assert!(!code.text(Language::German).is_empty() && !code.text(Language::English).is_empty());
        }
        assert_eq!(Code::parse("4711"), None);
        let faults = Code::ALL.iter().filter(|code| code.is_fault()).count();
        assert_eq!(faults, 11);
        assert!(Code::ALL.iter().filter(|code| code.kind() == Kind::ServerFault).count() == 2);
    }

    #[test]
    fn the_first_language_that_is_spoken_here_is_taken() {
        assert_eq!(Language::of("fr en-GB de"), Language::English);
        assert_eq!(Language::of("de"), Language::German);
        assert_eq!(Language::of("fr"), Language::German);
        assert_eq!(Language::of(""), Language::German);
    }
}
