//! Qualified names. Prefixes never matter, so they are not kept.

use std::fmt;
use std::sync::Arc;

/// SOAP 1.2 envelope.
pub const ENVELOPE: &str = "http://www.w3.org/2003/05/soap-envelope";
/// SOAP 1.1 envelope, which is answered with a version mismatch.
pub const ENVELOPE_11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// WS-Addressing 1.0.
pub const ADDRESSING: &str = "http://www.w3.org/2005/08/addressing";
/// XOP includes.
pub const XOP: &str = "http://www.w3.org/2004/08/xop/include";
/// WS-Security 1.0 extensions.
pub const SECURITY: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
/// WS-Security 1.0 utility.
pub const SECURITY_UTILITY: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
/// What the prefix `xml` stands for.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// A name with its namespace; the empty namespace is none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub(crate) namespace: Arc<str>,
    pub(crate) local: Box<str>,
}

impl Name {
    /// A name in a namespace.
    pub fn new(namespace: &str, local: &str) -> Self {
        Self { namespace: namespace.into(), local: local.into() }
    }

    /// The namespace; empty if there is none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The local part.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Whether it is this name.
    pub fn is(&self, namespace: &str, local: &str) -> bool {
        *self.local == *local && *self.namespace == *namespace
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.local)
        } else {
            write!(f, "{{{}}}{}", self.namespace, self.local)
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An attribute; declarations of namespaces are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, mostly in no namespace.
    pub name: Name,
    /// Its value, references resolved.
    pub value: String,
}
