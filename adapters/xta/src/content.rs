//! Content of orders on its way between SOAP and the store. It streams; only sizes and digests are kept.

use std::collections::{BTreeMap, BTreeSet};

use amtsbote_core::message::{Message, Part, Sha256Digest};
use amtsbote_core::port::{PayloadWriter, Staged, StoreError};
use amtsbote_soap::{Content, ContentSink, Element, Name, Shape};
use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::fault::{ErrorCode, Refused, wrong};
use crate::names::{XENC, XTA};

/// Media type of content that only the reader can open.
pub(crate) const ENCRYPTED: &str = "application/xenc+xml";
/// Attribute of content that came as an element whose XML was looked at, and goes on as it is. No client can set it.
const ELEMENT: &str = "element";
/// Bytes that are around the encrypted content in its element.
const ENVELOPE: u64 = 1 << 20;
/// Attachments of one message.
const ATTACHMENTS_MAX: usize = 1_000;
/// Longest attribute or name that is kept.
const ATTRIBUTE_MAX: usize = 1_000;

/// Why content is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("too large")]
    TooLarge,
    #[error("too many contents")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How the body of a request is read.
pub(crate) fn shape(name: &Name) -> Shape {
    match (name.namespace(), name.local()) {
        (XTA, "Message" | "Attachment" | "Resource" | "Data") => Shape::Base64,
        (XENC, "EncryptedData") => Shape::Opaque { namespace: XENC, local: "CipherValue" },
        _ => Shape::Tree,
    }
}

/// Content that went by.
struct Piece {
    offset: u64,
    size: u64,
    hasher: Sha256,
}

/// Writes content into a payload of the store, one after the other. Without a store, for requests that have none, everything is too
/// much.
pub(crate) struct Spool {
    writer: Option<Box<dyn PayloadWriter>>,
    limit: u64,
    total: u64,
    pieces: Vec<Piece>,
}

impl Spool {
    /// Takes up to `limit` bytes. Encrypted content is base64 inside, and may be longer by that.
    pub(crate) fn new(writer: Box<dyn PayloadWriter>, limit: u64) -> Self {
        Self { writer: Some(writer), limit, total: 0, pieces: Vec::new() }
    }

    /// Takes no content.
    pub(crate) fn none() -> Self {
        Self { writer: None, limit: 0, total: 0, pieces: Vec::new() }
    }

    /// The payload and its parts: the document, then attachments.
    pub(crate) async fn finish(self, order: Order) -> Result<(Vec<Part>, Staged), Refused> {
        let encrypted = order.0.iter().any(|one| one.attributes.contains_key(ELEMENT));
        if !encrypted && self.total > self.limit {
            return Err(ErrorCode::TooLarge.into());
        }
        let mut parts = Vec::with_capacity(order.0.len());
        let mut used = BTreeSet::new();
        for one in order.0 {
            let piece =
                self.pieces.get(one.number).filter(|_| used.insert(one.number)).ok_or(ErrorCode::Internal)?;
            let sha256 = Sha256Digest::from(piece.hasher.clone());
            let (offset, size) = (piece.offset, piece.size);
            let Described { name, media_type, attributes, .. } = one;
            parts.push(Part { name, media_type, size, sha256, offset, attributes });
        }
        let writer = self.writer.ok_or(ErrorCode::Internal)?;
        Ok((parts, writer.finish().await?))
    }
}

#[async_trait]
impl ContentSink for Spool {
    type Error = ContentError;

    async fn begin(&mut self) -> Result<usize, ContentError> {
        if self.writer.is_none() {
            return Err(ContentError::TooLarge);
        }
        if self.pieces.len() > ATTACHMENTS_MAX {
            return Err(ContentError::TooMany);
        }
        self.pieces.push(Piece { offset: self.total, size: 0, hasher: Sha256::new() });
        Ok(self.pieces.len() - 1)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        let length = bytes.len() as u64;
        if self.total + length > self.limit.saturating_add(self.limit / 3 + ENVELOPE) {
            return Err(ContentError::TooLarge);
        }
        self.total += length;
        if let (Some(piece), Some(writer)) = (self.pieces.last_mut(), &mut self.writer) {
            piece.size += length;
            piece.hasher.update(&bytes);
            writer.write(bytes).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), ContentError> {
        Ok(())
    }
}

/// What the container says about one content.
struct Described {
    number: usize,
    name: Option<String>,
    media_type: String,
    attributes: BTreeMap<String, String>,
}

/// The contents of a `GenericContentContainer`, the document first.
pub(crate) struct Order(Vec<Described>);

impl Order {
    /// Reads the container; exactly one of a `ContentContainer` and `EncryptedData`.
    pub(crate) fn of(container: &Element) -> Result<Self, Refused> {
        let mut children = container.children();
        let (Some(inner), None) = (children.next(), children.next()) else {
            return Err(wrong(ErrorCode::WrongParameters, "GenericContentContainer"));
        };
        if inner.is(XENC, "EncryptedData") {
            let number = inner.binary().ok_or(wrong(ErrorCode::WrongParameters, "EncryptedData"))?;
            let name = Some("encrypted.xml".to_owned());
            let attributes = BTreeMap::from([(ELEMENT.to_owned(), "EncryptedData".to_owned())]);
            let media_type = ENCRYPTED.to_owned();
            return Ok(Self(vec![Described { number, name, media_type, attributes }]));
        }
        if !inner.is(XTA, "ContentContainer") {
            return Err(wrong(ErrorCode::WrongParameters, "GenericContentContainer"));
        }
        let mut described = Vec::new();
        for (n, child) in inner.children().enumerate() {
            if n > ATTACHMENTS_MAX {
                return Err(wrong(ErrorCode::WrongParameters, "Attachment"));
            }
            let expected = if n == 0 { "Message" } else { "Attachment" };
            if !child.is(XTA, expected) {
                return Err(wrong(ErrorCode::WrongParameters, "ContentContainer"));
            }
            described.push(describe(child)?);
        }
        if described.is_empty() {
            return Err(wrong(ErrorCode::WrongParameters, "Message"));
        }
        Ok(Self(described))
    }
}

fn describe(content: &Element) -> Result<Described, Refused> {
    let number = content.binary().ok_or(wrong(ErrorCode::WrongParameters, "Message"))?;
    let media_type = content.attribute("contentType").map(str::trim).filter(|one| !one.is_empty());
    let media_type = media_type.ok_or(wrong(ErrorCode::WrongParameters, "contentType"))?;
    let too_long = content.attributes.iter().any(|one| one.value.len() > ATTRIBUTE_MAX);
    if too_long {
        return Err(wrong(ErrorCode::WrongParameters, "ContentContainer"));
    }
    let kept = ["contentDescription", "encoding", "filename", "id", "lang", "size"];
    let kept =
        kept.into_iter().filter_map(|name| Some((name.to_owned(), content.attribute(name)?.to_owned())));
    Ok(Described {
        number,
        name: content.attribute("filename").map(clean_name).filter(|name| !name.is_empty()),
        media_type: media_type.to_owned(),
        attributes: kept.collect(),
    })
}

/// A name for people: without a path, without control characters, not too long. Never used to open a file.
fn clean_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).take(255).collect()
}

/// Whether the content is an element that came as it is and goes on as it is. What came in another way may look like it, but nobody
/// has looked at its XML.
fn is_verbatim(message: &Message) -> bool {
    matches!(message.parts.as_slice(), [only] if only.attributes.contains_key(ELEMENT))
}

/// A language tag as the schema has it.
fn is_language(text: &str) -> bool {
    let mut subtags = text.split('-');
    let letters = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphabetic());
    let any = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
    subtags.next().is_some_and(letters) && subtags.all(any)
}

/// The container of a message; its parts are the numbered contents.
pub(crate) fn container(message: &Message) -> Element {
    let mut container = Element::new(XTA, "GenericContentContainer");
    if is_verbatim(message) {
        container.content.push(Content::Verbatim(0));
        return container;
    }
    let mut inner = Element::new(XTA, "ContentContainer");
    for (number, part) in message.parts.iter().enumerate() {
        let mut content = Element::new(XTA, if number == 0 { "Message" } else { "Attachment" });
        content = content.with_attribute("contentType", &part.media_type);
        let given =
            |name: &str| part.attributes.get(name).map(String::as_str).filter(|value| !value.is_empty());
        for name in ["contentDescription", "encoding"] {
            if let Some(value) = given(name) {
                content = content.with_attribute(name, value);
            }
        }
        if let Some(name) = given("filename").or(part.name.as_deref()).filter(|name| !name.is_empty()) {
            content = content.with_attribute("filename", name);
        }
        if let Some(id) = given("id") {
            content = content.with_attribute("id", id);
        }
        if let Some(language) = given("lang").filter(|language| is_language(language)) {
            content = content.with_attribute("lang", language);
        }
        if part.size > 0 {
            content = content.with_attribute("size", part.size.to_string());
        }
        content.content.push(Content::Binary(number));
        inner = inner.with(content);
    }
    container.with(inner)
}
