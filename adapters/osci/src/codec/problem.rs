//! Everything that can be wrong with a message, and the one table from that to the standard's codes.

use amtsbote_soap::XmlError;

use super::code::Code;
use super::mime::MimeError;

/// Something cannot be decrypted. What exactly is wrong is not said to anybody, or it would help those who try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be decrypted")]
pub struct Undecryptable;

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is no package.
    #[error("no package: {0}")]
    Mime(#[from] MimeError),
    /// Its XML part is not acceptable.
    #[error("XML: {0}")]
    Xml(#[from] XmlError),
    /// It does not have the structure of a message.
    #[error("structure: {0}")]
    Structure(&'static str),
    /// It is encrypted for somebody else.
    #[error("encrypted for a certificate without a key here")]
    ForeignKey,
    /// It uses an algorithm that is unknown, or switched off.
    #[error("an algorithm that is not accepted")]
    Algorithm,
    /// It cannot be decrypted.
    #[error(transparent)]
    Undecryptable(#[from] Undecryptable),
    /// What came out of the encryption is no order.
    #[error("no order: {0}")]
    NotAnOrder(&'static str),
    /// It is larger than allowed.
    #[error("too large")]
    TooLarge,
    /// It does not belong to a dialog, or not now.
    #[error("wrong dialog: {0}")]
    Dialog(&'static str),
    /// It lacks the certificate the response would be encrypted for.
    #[error("the client's cipher certificate is missing")]
    NoCipherCertificate,
    /// A certificate cannot be read or is too weak.
    #[error("certificate: {0}")]
    Certificate(&'static str),
    /// It is not signed, but has to be.
    #[error("not signed")]
    Unsigned,
    /// The signature leaves something out.
    #[error("not signed: {0}")]
    NotAllSigned(String),
    /// The signature is wrong.
    #[error("signature: {0}")]
    Signature(&'static str),
    /// Our own cryptography fails.
    #[error("cryptography failed")]
    Crypto(#[from] openssl::error::ErrorStack),
}

impl Problem {
    /// The code the standard has for it.
    pub fn code(&self) -> Code {
        match self {
            Self::Mime(_) | Self::Xml(_) | Self::Structure(_) | Self::TooLarge => Code::NotOsci,
            Self::ForeignKey => Code::NoKey,
            Self::Algorithm | Self::Undecryptable(_) => Code::Undecryptable,
            Self::NotAnOrder(_) => Code::NotAnOrder,
            Self::Dialog(_) => Code::WrongDialog,
            Self::NoCipherCertificate => Code::ClientCipherMissing,
            Self::Certificate(_) => Code::NotOsci,
            Self::Unsigned => Code::NotSigned,
            Self::NotAllSigned(_) => Code::NotAllSigned,
            Self::Signature(_) => Code::SignatureInvalid,
            Self::Crypto(_) => Code::Internal,
        }
    }
}
