//! Messages to be written: blocks in their order, signed as a whole.

use amtsbote_soap::document::{Document, DocumentLimits};

use super::algorithm::SignatureAlgorithm;
use super::block::{ControlBlock, block_with};
use super::certificate::Identity;
use super::code::Code;
use super::envelope::{Direction, MessageKind};
use super::names::{NS5, OSCI, SOAP};
use super::problem::Problem;
use super::signature::{NewReference, write};

/// Who signs a message.
#[derive(Debug, Clone)]
pub struct Signer<'a> {
    /// Certificate and key.
    pub identity: &'a Identity,
    /// How.
    pub algorithm: SignatureAlgorithm,
    /// Id of the certificate in the message.
    pub key: String,
}

/// What we wrote ourselves is not limited: canonical forms of what was taken in can be much larger than it was.
const OWN: DocumentLimits = DocumentLimits {
    bytes: u32::MAX as usize,
    depth: 128,
    attributes: 1 << 16,
    value: u32::MAX as usize,
    nodes: u32::MAX as usize,
};

/// A part that goes along: its content id, and the digest of its bytes by the signer's algorithm.
pub type PartDigest = (String, Vec<u8>);

/// A message that is being put together.
pub struct Draft {
    kind: MessageKind,
    control: String,
    blocks: Vec<String>,
    body: String,
}

impl Draft {
    /// Begins with the block every message has.
    pub fn new(kind: MessageKind, control: &ControlBlock) -> Self {
        Self { kind, control: control.write(), blocks: Vec::new(), body: String::new() }
    }

    /// Adds a header block behind the others.
    #[must_use]
    pub fn with(mut self, block: impl Into<Option<String>>) -> Self {
        self.blocks.extend(block.into());
        self
    }

    /// Adds to the body.
    #[must_use]
    pub fn with_body(mut self, text: &str) -> Self {
        self.body.push_str(text);
        self
    }

    fn text(&self, signature: &str) -> String {
        let (location, control) = (self.kind.schema_location(), &self.control);
        let (blocks, body) = (self.blocks.concat(), &self.body);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\r\n<soap:Envelope{NS5} xsi:schemaLocation=\"{location}\"><soap:Header>{control}{signature}{blocks}</soap:Header><soap:Body Id=\"body\">{body}</soap:Body></soap:Envelope>"
        )
    }

    /// The XML part. What is signed is what a reader will find: digests are taken from the tree of what was written.
    ///
    /// # Errors
    /// When the signer's key does not fit, or what was put together is no message.
    pub fn finish(self, signer: Option<&Signer<'_>>, parts: &[PartDigest]) -> Result<String, Problem> {
        let unsigned = self.text("");
        let Some(signer) = signer else { return Ok(unsigned) };
        let document = Document::parse(unsigned.into_bytes(), OWN)?;
        let header = document.root().child(SOAP, "Header").ok_or(Problem::Structure("no Header"))?;
        let body = document.root().child(SOAP, "Body");
        let digest = signer.algorithm.digest;
        let elements = header.children().chain(body);
        let mut references: Vec<NewReference> =
            elements.map(|one| NewReference::element(one, digest)).collect::<Result<_, _>>()?;
        references.extend(parts.iter().map(|(id, value)| NewReference::part(id, value.clone())));
        let signature = write(&references, signer.algorithm, signer.identity, &signer.key)?;
        let name = match self.kind.direction {
            Direction::Request => "ClientSignature",
            Direction::Response => "SupplierSignature",
        };
        let block = block_with(name, &name.to_ascii_lowercase(), "", &signature);
        Ok(self.text(&block))
    }
}

/// The XML part of a fault: unsigned, and without what tells other messages apart.
pub fn write_fault(code: Code) -> String {
    let who = match code.kind() {
        super::code::Kind::ServerFault => "Server",
        _ => "Client",
    };
    let (text, digits) = (super::block::content(code.german()), code.digits());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\r\n<soap:Envelope xmlns:osci=\"{OSCI}\" xmlns:soap=\"{SOAP}\"><soap:Body><soap:Fault><faultcode>soap:{who}</faultcode><faultstring>{text}</faultstring><detail><osci:Code>{digits}</osci:Code></detail></soap:Fault></soap:Body></soap:Envelope>"
    )
}
