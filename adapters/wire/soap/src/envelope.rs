//! Reads SOAP 1.2 envelopes: header blocks first, as small trees, then the body, whose large content streams into a sink.

use std::convert::Infallible;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncBufRead;

use crate::base64::Base64Decoder;
use crate::element::{Content, Element};
use crate::multipart::{PackageError, package_error};
use crate::name::{ENVELOPE, ENVELOPE_11, Name, XOP};
use crate::tokens::{Tag, Token, Tokens, XmlError, XmlLimits, is_space};

/// Takes large content while it is read. One content at a time: begin, write as often as needed, end.
#[async_trait]
pub trait ContentSink: Send {
    /// Why it takes no more, for example because there is too much of it.
    type Error: Send;

    /// Begins the next content and numbers it.
    ///
    /// # Errors
    /// When nothing can be taken.
    async fn begin(&mut self) -> Result<usize, Self::Error>;

    /// Takes some bytes of the content that was begun last.
    ///
    /// # Errors
    /// When they cannot be taken.
    async fn write(&mut self, bytes: Bytes) -> Result<(), Self::Error>;

    /// The content is complete.
    ///
    /// # Errors
    /// When it cannot be kept.
    async fn end(&mut self) -> Result<(), Self::Error>;
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The XML is refused.
    #[error(transparent)]
    Xml(XmlError),
    /// The package around it is refused.
    #[error(transparent)]
    Package(PackageError),
    /// It is XML, but no SOAP envelope.
    #[error("no SOAP envelope: {0}")]
    NotSoap(&'static str),
    /// It is an envelope of another version.
    #[error("another version of SOAP")]
    OtherVersion,
    /// Content that should be base64 is not.
    #[error("content that is not base64")]
    Base64,
    /// The sink takes no more.
    #[error("the content was not taken")]
    Sink(E),
}

impl<E> From<XmlError> for ReadError<E> {
    fn from(error: XmlError) -> Self {
        match error {
            XmlError::Input(error) => match package_error(error) {
                PackageError::Input(error) => Self::Xml(XmlError::Input(error)),
                error => Self::Package(error),
            },
            error => Self::Xml(error),
        }
    }
}

impl<E> From<PackageError> for ReadError<E> {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}

/// How the content of an element is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As a small tree.
    Tree,
    /// As base64 that streams into the sink, or a reference to a part.
    Base64,
    /// The element as a whole streams into the sink, byte for byte and meaning the same by itself. Texts of the elements of this
    /// name inside of it may be of any length.
    Opaque {
        /// Namespace of the long ones.
        namespace: &'static str,
        /// Local name of the long ones.
        local: &'static str,
    },
}

/// A header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub element: Element,
    /// Its bytes, if they were asked for; they mean the same by themselves.
    pub source: Vec<u8>,
}

impl Header {
    /// Whether whoever processes the message has to understand it.
    pub fn must_understand(&self) -> bool {
        let wanted = matches!(self.element.attribute_of(ENVELOPE, "mustUnderstand"), Some("true" | "1"));
        let for_us = match self.element.attribute_of(ENVELOPE, "role").map(str::trim) {
            None | Some("") => true,
            Some(role) => {
                let kind = role.strip_prefix("http://www.w3.org/2003/05/soap-envelope/role/");
                matches!(kind, Some("next" | "ultimateReceiver"))
            }
        };
        wanted && for_us
    }
}

/// Content whose rest comes in other parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) rest: Vec<Rest>,
}

/// What still belongs to content that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The part with this reference, as base64.
    Part(String),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A body that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) elements: Vec<Element>,
    pub(crate) unfinished: Option<Unfinished>,
}

/// Header blocks of an envelope.
const HEADERS_MAX: usize = 100;

/// Reads a small document of one element, for example a header block that was kept.
///
/// # Errors
/// When it is refused like anything else from strangers.
pub async fn parse(bytes: &[u8], limits: XmlLimits) -> Result<Element, XmlError> {
    let mut reader = EnvelopeReader::new(bytes, limits);
    let read = async {
        let root = reader.element_start::<Infallible>("an element is expected").await?;
        let element = reader.tree(root).await?;
        reader.end().await?;
        Ok(element)
    };
    read.await.map_err(|error: ReadError<Infallible>| match error {
        ReadError::Xml(error) => error,
        _ => XmlError::Malformed("an element is expected"),
    })
}

/// The name of the root element of a document that begins with these bytes; `None` if that cannot be said.
pub async fn root_name(bytes: &[u8]) -> Option<Name> {
    let mut reader = EnvelopeReader::new(bytes, XmlLimits::default());
    reader.element_start::<Infallible>("an element is expected").await.ok().map(|tag| tag.name)
}

/// Reads one envelope.
pub(crate) struct EnvelopeReader<R> {
    tokens: Tokens<R>,
}

impl<R: AsyncBufRead + Unpin + Send> EnvelopeReader<R> {
    pub(crate) fn new(input: R, limits: XmlLimits) -> Self {
        Self { tokens: Tokens::new(input, limits) }
    }

    /// What it read from.
    pub(crate) fn into_input(self) -> R {
        self.tokens.into_input()
    }

    /// Reads up to the body. Of headers for which `keep` says so the bytes are kept.
    pub(crate) async fn headers<E>(&mut self, keep: fn(&Name) -> bool) -> Result<Vec<Header>, ReadError<E>> {
        let root = self.element_start("an envelope is expected").await?;
        if root.name.is(ENVELOPE_11, "Envelope") {
            return Err(ReadError::OtherVersion);
        }
        if !root.name.is(ENVELOPE, "Envelope") {
            return Err(ReadError::NotSoap("an envelope is expected"));
        }
        let mut first = self.element_start("a body is expected").await?;
        let mut headers = Vec::new();
        if first.name.is(ENVELOPE, "Header") {
            while let Some(tag) = self.child_start("text between header blocks").await? {
                if headers.len() == HEADERS_MAX {
                    return Err(ReadError::NotSoap("too many header blocks"));
                }
                let kept = keep(&tag.name);
                if kept {
                    self.tokens.begin_fragment()?;
                }
                let element = self.tree(tag).await?;
                headers.push(Header { element, source: self.tokens.end_fragment() });
            }
            first = self.element_start("a body is expected").await?;
        }
        if !first.name.is(ENVELOPE, "Body") {
            return Err(ReadError::NotSoap("a body is expected"));
        }
        Ok(headers)
    }

    /// Reads the body and the end of the envelope.
    pub(crate) async fn body<K: ContentSink>(
        &mut self,
        shape: fn(&Name) -> Shape,
        sink: &mut K,
    ) -> Result<Body, ReadError<K::Error>> {
        let mut body = Body { elements: Vec::new(), unfinished: None };
        let mut open: Vec<Element> = Vec::new();
        loop {
            match self.tokens.next().await? {
                Token::Start(tag) => {
                    let mut element =
                        Element { name: tag.name, attributes: tag.attributes, content: Vec::new() };
                    match shape(&element.name) {
                        Shape::Tree => {
                            open.push(element);
                            continue;
                        }
                        Shape::Base64 | Shape::Opaque { .. } if body.unfinished.is_some() => {
                            return Err(ReadError::NotSoap("content beside content that is not complete"));
                        }
                        Shape::Base64 => element.content.push(self.base64(sink).await?),
                        Shape::Opaque { namespace, local } => {
                            let number = sink.begin().await.map_err(ReadError::Sink)?;
                            element.content.push(Content::Binary(number));
                            body.unfinished = self.opaque((namespace, local), sink).await?;
                        }
                    }
                    attach(element, &mut open, &mut body);
                }
                Token::End => match open.pop() {
                    Some(element) => attach(element, &mut open, &mut body),
                    // The end of the body.
                    None => break,
                },
                Token::Text(text) => match open.last_mut() {
                    Some(element) => add_text(element, text),
                    None if text.trim_matches(is_space).is_empty() => {}
                    None => return Err(ReadError::NotSoap("text in the body")),
                },
                Token::Eof => return Err(XmlError::Malformed("it ends too early").into()),
            }
        }
        self.end().await.map(|()| body)
    }

    /// Nothing more may come but the ends of what is open.
    async fn end<E>(&mut self) -> Result<(), ReadError<E>> {
        loop {
            match self.tokens.next().await? {
                Token::Text(text) if text.trim_matches(is_space).is_empty() => {}
                Token::End => {}
                Token::Eof => return Ok(()),
                Token::Text(_) | Token::Start(_) => {
                    return Err(ReadError::NotSoap("something behind the body"));
                }
            }
        }
    }

    /// The start of the one element that has to come now.
    async fn element_start<E>(&mut self, expected: &'static str) -> Result<Tag, ReadError<E>> {
        self.child_start(expected).await?.ok_or(ReadError::NotSoap(expected))
    }

    /// The start of the next element, or `None` at the end of the one around it.
    async fn child_start<E>(&mut self, expected: &'static str) -> Result<Option<Tag>, ReadError<E>> {
        loop {
            match self.tokens.next().await? {
                Token::Start(tag) => return Ok(Some(tag)),
                Token::End => return Ok(None),
                Token::Text(text) if text.trim_matches(is_space).is_empty() => {}
                Token::Text(_) | Token::Eof => return Err(ReadError::NotSoap(expected)),
            }
        }
    }

    /// A small element whose start tag was read.
    async fn tree<E>(&mut self, tag: Tag) -> Result<Element, ReadError<E>> {
        let mut open = vec![Element { name: tag.name, attributes: tag.attributes, content: Vec::new() }];
        loop {
            match self.tokens.next().await? {
                Token::Start(tag) => {
                    open.push(Element { name: tag.name, attributes: tag.attributes, content: Vec::new() });
                }
                Token::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        add_text(element, text);
                    }
                }
                Token::End => match (open.pop(), open.last_mut()) {
                    (Some(done), Some(parent)) => parent.content.push(Content::Element(done)),
                    (Some(done), None) => return Ok(done),
                    (None, _) => return Err(XmlError::Malformed("an end tag too many").into()),
                },
                Token::Eof => return Err(XmlError::Malformed("it ends too early").into()),
            }
        }
    }

    /// Content of an element that is base64: the text itself, or a reference to a part.
    async fn base64<K: ContentSink>(&mut self, sink: &mut K) -> Result<Content, ReadError<K::Error>> {
        let mut decoder = Base64Decoder::default();
        let mut number = None;
        let mut include = None;
        loop {
            while let Some(decoded) = self.tokens.text_bytes(|text| decoder.feed(text)).await? {
                write_content(sink, &mut number, decoded.map_err(|_| ReadError::Base64)?).await?;
            }
            match self.tokens.next().await? {
                Token::Text(text) => {
                    let decoded = decoder.feed(text.as_bytes()).map_err(|_| ReadError::Base64)?;
                    write_content(sink, &mut number, decoded).await?;
                }
                Token::Start(tag) if tag.name.is(XOP, "Include") && include.is_none() => {
                    include = Some(self.tree(tag).await?);
                }
                Token::Start(_) => {
                    return Err(ReadError::NotSoap("an element in content that is base64"));
                }
                Token::End => break,
                Token::Eof => return Err(XmlError::Malformed("it ends too early").into()),
            }
        }
        decoder.finish().map_err(|_| ReadError::Base64)?;
        if let Some(include) = include {
            return match number {
                None => Ok(Content::Element(include)),
                Some(_) => Err(ReadError::NotSoap("content beside a reference to a part")),
            };
        }
        let number = match number {
            Some(number) => number,
            None => sink.begin().await.map_err(ReadError::Sink)?,
        };
        sink.end().await.map_err(ReadError::Sink)?;
        Ok(Content::Binary(number))
    }

    /// An element that streams as a whole into content that has begun. If a part belongs into it, its rest is kept.
    async fn opaque<K: ContentSink>(
        &mut self,
        long: (&str, &str),
        sink: &mut K,
    ) -> Result<Option<Unfinished>, ReadError<K::Error>> {
        self.tokens.begin_fragment()?;
        let mut rest: Vec<Rest> = Vec::new();
        let mut depth = 1_usize;
        while depth > 0 {
            match self.tokens.next().await? {
                Token::Start(tag) if tag.name.is(XOP, "Include") => {
                    // The reference itself is not part of the content.
                    rest.push(Rest::Bytes(self.tokens.take_fragment_before_last()));
                    let include = self.tree(tag).await?;
                    drop(self.tokens.take_fragment());
                    rest.push(Rest::Part(include.attribute("href").unwrap_or_default().to_owned()));
                }
                Token::Start(tag) => {
                    depth += 1;
                    if tag.name.is(long.0, long.1) && rest.is_empty() {
                        let kept = self.tokens.take_fragment();
                        sink.write(kept.into()).await.map_err(ReadError::Sink)?;
                        while let Some(text) = self.tokens.text_bytes(base64_text).await? {
                            sink.write(text.ok_or(ReadError::Base64)?).await.map_err(ReadError::Sink)?;
                        }
                    }
                }
                Token::End => depth -= 1,
                Token::Text(_) => {}
                Token::Eof => return Err(XmlError::Malformed("it ends too early").into()),
            }
        }
        let kept = self.tokens.end_fragment();
        if rest.is_empty() {
            sink.write(kept.into()).await.map_err(ReadError::Sink)?;
            sink.end().await.map_err(ReadError::Sink)?;
            return Ok(None);
        }
        rest.push(Rest::Bytes(kept));
        Ok(Some(Unfinished { rest }))
    }
}

/// The text if there is nothing in it but base64 and white space.
fn base64_text(text: &[u8]) -> Option<Bytes> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/= \t\r\n".contains(byte);
    text.iter().all(allowed).then(|| Bytes::copy_from_slice(text))
}

async fn write_content<K: ContentSink>(
    sink: &mut K,
    number: &mut Option<usize>,
    bytes: Vec<u8>,
) -> Result<(), ReadError<K::Error>> {
    if bytes.is_empty() {
        return Ok(());
    }
    if number.is_none() {
        *number = Some(sink.begin().await.map_err(ReadError::Sink)?);
    }
    sink.write(bytes.into()).await.map_err(ReadError::Sink)
}

fn attach(element: Element, open: &mut [Element], body: &mut Body) {
    match open.last_mut() {
        Some(parent) => parent.content.push(Content::Element(element)),
        None => body.elements.push(element),
    }
}

fn add_text(element: &mut Element, text: String) {
    match element.content.last_mut() {
        Some(Content::Text(before)) => before.push_str(&text),
        _ => element.content.push(Content::Text(text)),
    }
}
