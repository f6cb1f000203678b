//! SOAP 1.2 over HTTP for Amtsbote: hardened streaming XML, envelopes, WS-Addressing, faults, MTOM in both directions.
//!
//! What always holds: bytes of strangers enter through [`MessageReader`] only, under limits that lie below the parsers; what large
//! content there is streams past and is never held; names are resolved, so prefixes never matter; nothing leaves but through
//! [`write`](mod@write), which escapes. Not here: what any operation means, HTTP itself, signatures.
//!
//! XML that is signed has a tree of its own ([`document`]) and its canonical form ([`canonical`]).
//!
//! XTA 2 (2.1.1) and OSCI-Transport 1.2 speak it today; nothing here knows that.

pub mod addressing;
pub mod base64;
pub mod canonical;
pub mod document;
mod element;
mod envelope;
mod fault;
mod media_type;
mod memory;
mod multipart;
pub mod name;
mod outgoing;
mod package;
mod tokens;
pub mod write;

pub use element::{Content, Element};
pub use envelope::{ContentSink, Header, ReadError, Shape, parse, root_name};
pub use fault::{Fault, FaultCode, PeerFault};
pub use media_type::{MediaType, NotMediaType};
pub use memory::{InMemory, TooMuch};
pub use multipart::PackageError;
pub use name::{Attribute, Name};
pub use outgoing::{Coding, Outgoing, Segment, envelope, pack};
pub use package::{MessageReader, Packaging, Transport, UnsupportedMediaType};
pub use tokens::{Limit, XmlError, XmlLimits};

#[cfg(test)]
mod tests;
