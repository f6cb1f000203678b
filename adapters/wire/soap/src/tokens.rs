//! XML as it comes from strangers: one token at a time, names resolved, everything counted before it is kept.
//!
//! Refused outright: document types, processing instructions, entities of one's own, any encoding but UTF-8. Limits lie below the
//! parser, so that it cannot be made to collect more than they allow. Long base64 content is not a token: it is streamed by
//! [`Tokens::text_bytes`].

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::name::{NamespaceResolver, PrefixDeclaration, ResolveResult};
use quick_xml::reader::Reader;
use quick_xml::{Error, XmlVersion};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, ReadBuf};

use crate::name::{Attribute, Name};

/// Bounds of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XmlLimits {
    /// Elements inside each other.
    pub depth: usize,
    /// Attributes of one element, declarations of namespaces included.
    pub attributes: usize,
    /// Bytes of one attribute's value or one piece of text; names of namespaces are shorter.
    pub value: usize,
    /// Bytes of the whole document without streamed content.
    pub markup: usize,
}

impl Default for XmlLimits {
    /// 64 deep, 1,000 attributes, 64 KiB, 1 MiB.
    fn default() -> Self {
        Self { depth: 64, attributes: 1_000, value: 64 << 10, markup: 1 << 20 }
    }
}

/// Bytes of the name of a namespace.
pub(crate) const NAMESPACE_MAX: usize = 1_000;

/// Which bound was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Limit {
    /// [`XmlLimits::depth`].
    #[error("elements are nested too deeply")]
    Depth,
    /// [`XmlLimits::attributes`].
    #[error("an element has too many attributes")]
    Attributes,
    /// [`XmlLimits::value`].
    #[error("a text or attribute is too long")]
    Value,
    /// [`XmlLimits::markup`].
    #[error("the document is too long")]
    Markup,
    /// Bytes of content, decoded.
    #[error("the content is too large")]
    Content,
    /// Parts of a package.
    #[error("the package has too many parts")]
    Parts,
    /// Bytes of the headers of a part.
    #[error("the headers of a part are too long")]
    PartHeaders,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It is no well-formed XML.
    #[error("not well-formed: {0}")]
    Malformed(&'static str),
    /// It uses something that is refused from strangers.
    #[error("{0} is refused")]
    Forbidden(&'static str),
    /// It is larger than allowed.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// The bytes stopped coming.
    #[error("reading failed")]
    Input(#[source] io::Error),
}

/// A start tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) name: Name,
    pub(crate) attributes: Vec<Attribute>,
}

/// The next thing in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Start(Tag),
    End,
    /// Part of a text, references resolved; empty pieces are possible.
    Text(String),
    /// The end of the document, after its one root element.
    Eof,
}

/// Lets so many bytes through and no more.
struct Metered<R> {
    inner: R,
    left: usize,
}

/// What [`Metered`] says when nothing is left. A type, because errors of the reader below travel the same way.
#[derive(Debug, thiserror::Error)]
#[error("nothing left")]
struct Exhausted;

impl<R: AsyncBufRead + Unpin> AsyncBufRead for Metered<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let bytes = ready!(Pin::new(&mut this.inner).poll_fill_buf(cx))?;
        if this.left == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::Error::other(Exhausted)));
        }
        Poll::Ready(Ok(bytes.get(..this.left).unwrap_or(bytes)))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.left = this.left.saturating_sub(amount);
        Pin::new(&mut this.inner).consume(amount);
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = bytes.len().min(into.remaining());
        into.put_slice(&bytes[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

/// Reads tokens. After an error nothing more is read.
pub(crate) struct Tokens<R> {
    reader: Reader<Metered<R>>,
    limits: XmlLimits,
    scopes: NamespaceResolver,
    /// Namespaces seen, so that each exists once in memory.
    namespaces: BTreeMap<String, Arc<str>>,
    buffer: Vec<u8>,
    depth: usize,
    /// The end of an empty element is still owed.
    end_owed: bool,
    seen_root: bool,
    fragment: Option<Vec<u8>>,
    /// Length of the fragment before the last token.
    before_last: usize,
}

impl<R: AsyncBufRead + Unpin> Tokens<R> {
    pub(crate) fn new(input: R, limits: XmlLimits) -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the door through which untrusted XML enters")]
        let mut reader = Reader::from_reader(Metered { inner: input, left: limits.markup });
        let config = reader.config_mut();
        config.check_comments = true;
        config.check_end_names = true;
        Self {
            reader,
            limits,
            scopes: NamespaceResolver::default(),
            namespaces: BTreeMap::new(),
            buffer: Vec::new(),
            depth: 0,
            end_owed: false,
            seen_root: false,
            fragment: None,
            before_last: 0,
        }
    }

    /// What it read from.
    pub(crate) fn into_input(self) -> R {
        self.reader.into_inner().inner
    }

    /// The next token. Comments are passed over.
    pub(crate) async fn next(&mut self) -> Result<Token, XmlError> {
        if self.end_owed {
            self.end_owed = false;
            self.scopes.pop();
            return Ok(Token::End);
        }
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let event = self.reader.read_event_into_async(&mut buffer).await.map_err(xml_error)?;
            let token = self.token(&event)?;
            drop(event);
            self.buffer = buffer;
            if let Some(token) = token {
                return Ok(token);
            }
        }
    }

    fn token(&mut self, event: &Event<'_>) -> Result<Option<Token>, XmlError> {
        if let Some(fragment) = &mut self.fragment {
            self.before_last = fragment.len();
            write_raw(fragment, event);
        }
        match event {
            Event::Start(start) => {
                self.depth += 1;
                self.start(start).map(Token::Start).map(Some)
            }
            Event::Empty(start) => {
                self.depth += 1;
                let tag = self.start(start)?;
                self.depth -= 1;
                self.end_owed = true;
                Ok(Some(Token::Start(tag)))
            }
            Event::End(_) => {
                self.depth = self.depth.checked_sub(1).ok_or(XmlError::Malformed("an end tag too many"))?;
                self.scopes.pop();
                Ok(Some(Token::End))
            }
            Event::Text(text) => self.text(&text.xml10_content()),
            Event::CData(_) if self.depth == 0 => {
                Err(XmlError::Malformed("text outside of the root element"))
            }
            Event::CData(text) => self.text(&text.xml10_content()),
            Event::GeneralRef(_) if self.depth == 0 => {
                Err(XmlError::Malformed("text outside of the root element"))
            }
            Event::GeneralRef(reference) => resolve(reference).map(|one| Some(Token::Text(one.into()))),
            Event::Comment(text) if text.chars().all(is_char) => Ok(None),
            Event::Comment(_) => Err(XmlError::Malformed("a character that XML does not have")),
            Event::Decl(declaration) => {
                check_declaration(declaration, self.seen_root || self.depth > 0).map(|()| None)
            }
            Event::PI(_) => Err(XmlError::Forbidden("a processing instruction")),
            Event::DocType(_) => Err(XmlError::Forbidden("a document type")),
            Event::Eof if self.depth == 0 && self.seen_root => Ok(Some(Token::Eof)),
            Event::Eof => Err(XmlError::Malformed("it ends too early")),
        }
    }

    fn text(&self, text: &str) -> Result<Option<Token>, XmlError> {
        if self.depth == 0 {
            return match text.trim_matches(is_space).is_empty() {
                true => Ok(None),
                false => Err(XmlError::Malformed("text outside of the root element")),
            };
        }
        if text.len() > self.limits.value {
            return Err(Limit::Value.into());
        }
        if !text.chars().all(is_char) || text.contains("]]>") {
            return Err(XmlError::Malformed("a character that XML does not have"));
        }
        Ok(Some(Token::Text(text.to_owned())))
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<Tag, XmlError> {
        if self.depth == 1 && std::mem::replace(&mut self.seen_root, true) {
            return Err(XmlError::Malformed("a second root element"));
        }
        if self.depth > self.limits.depth {
            return Err(Limit::Depth.into());
        }
        if start.attributes().with_checks(false).count() > self.limits.attributes {
            return Err(Limit::Attributes.into());
        }
        check_bindings(start)?;
        self.scopes.push(start).map_err(|_| XmlError::Malformed("a declaration of a namespace"))?;
        let name = self.element_name(start)?;
        let attributes = self.attributes(start)?;
        Ok(Tag { name, attributes })
    }

    fn element_name(&mut self, start: &BytesStart<'_>) -> Result<Name, XmlError> {
        check_qname(start.name().into_inner())?;
        let (namespace, local) = self.scopes.resolve_element(start.name());
        let namespace = bound(&namespace)?;
        Ok(Name { namespace: self.intern(&namespace), local: local.into_inner().into() })
    }

    fn attributes(&mut self, start: &BytesStart<'_>) -> Result<Vec<Attribute>, XmlError> {
        let mut attributes: Vec<Attribute> = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|_| XmlError::Malformed("an attribute"))?;
            if attribute.value.len() > self.limits.value {
                return Err(Limit::Value.into());
            }
            if attribute.value.contains('<') {
                return Err(XmlError::Malformed("an attribute"));
            }
            let value = attribute
                .normalized_value(XmlVersion::Explicit1_0)
                .map_err(|_| XmlError::Malformed("a reference in an attribute"))?;
            if !value.chars().all(is_char) {
                return Err(XmlError::Malformed("a character that XML does not have"));
            }
            match attribute.key.as_namespace_binding() {
                Some(PrefixDeclaration::Named(_)) if value.is_empty() => {
                    return Err(XmlError::Malformed("a declaration of a namespace"));
                }
                Some(_) => continue,
                None => check_qname(attribute.key.into_inner())?,
            }
            let (namespace, local) = self.scopes.resolve_attribute(attribute.key);
            let namespace = bound(&namespace)?;
            let name = Name { namespace: self.intern(&namespace), local: local.into_inner().into() };
            if attributes.iter().any(|other| other.name == name) {
                return Err(XmlError::Malformed("an attribute that is there twice"));
            }
            attributes.push(Attribute { name, value: value.into() });
        }
        Ok(attributes)
    }

    fn intern(&mut self, namespace: &str) -> Arc<str> {
        if let Some(known) = self.namespaces.get(namespace) {
            return Arc::clone(known);
        }
        let known: Arc<str> = namespace.into();
        self.namespaces.insert(namespace.to_owned(), Arc::clone(&known));
        known
    }

    /// Begins to keep the bytes of the element whose start tag was the last token, so that they mean the same by themselves:
    /// what was declared around it is declared on its start tag.
    pub(crate) fn begin_fragment(&mut self) -> Result<(), XmlError> {
        const LOST: XmlError = XmlError::Malformed("a start tag");
        let raw = std::str::from_utf8(&self.buffer).map_err(|_| LOST)?;
        let raw = raw.strip_prefix('<').and_then(|raw| raw.strip_suffix('>')).ok_or(LOST)?;
        let (content, close) = raw.strip_suffix('/').map_or((raw, ">"), |content| (content, "/>"));
        let name_end = content.find(is_space).unwrap_or(content.len());
        let start = BytesStart::from_content(content, name_end);
        let own: Vec<_> =
            start.attributes().flatten().filter_map(|one| one.key.as_namespace_binding()).collect();
        let mut fragment = format!("<{}", content.trim_end_matches(is_space));
        for (prefix, namespace) in self.scopes.bindings().filter(|(prefix, _)| !own.contains(prefix)) {
            fragment.push_str(" xmlns");
            if let PrefixDeclaration::Named(prefix) = prefix {
                fragment.push(':');
                fragment.push_str(prefix);
            }
            // Bindings are kept as they were written, but not with the quotes they had.
            fragment.push_str("=\"");
            fragment.push_str(&namespace.into_inner().replace('"', "&quot;"));
            fragment.push('"');
        }
        fragment.push_str(close);
        self.fragment = Some(fragment.into_bytes());
        Ok(())
    }

    /// What was kept since it was asked last.
    pub(crate) fn take_fragment(&mut self) -> Vec<u8> {
        self.fragment.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What was kept since it was asked last, without the last token, which is forgotten.
    pub(crate) fn take_fragment_before_last(&mut self) -> Vec<u8> {
        let mut kept = self.take_fragment();
        kept.truncate(self.before_last);
        kept
    }

    /// The rest of what was kept; nothing more is kept.
    pub(crate) fn end_fragment(&mut self) -> Vec<u8> {
        self.fragment.take().unwrap_or_default()
    }

    /// Some raw bytes of the text that begins here, without keeping them; `None` at the next markup or reference. They count neither
    /// against [`XmlLimits::markup`] nor are they part of a fragment: the caller has a budget of its own.
    pub(crate) async fn text_bytes<T>(
        &mut self,
        with: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, XmlError> {
        if self.end_owed {
            return Ok(None);
        }
        let input = &mut self.reader.get_mut().inner;
        let bytes = input.fill_buf().await.map_err(XmlError::Input)?;
        if bytes.is_empty() {
            return Err(XmlError::Malformed("it ends too early"));
        }
        let length = memchr::memchr2(b'<', b'&', bytes).unwrap_or(bytes.len());
        if length == 0 {
            return Ok(None);
        }
        let result = with(&bytes[..length]);
        input.consume(length);
        Ok(Some(result))
    }
}

/// The XML declaration comes first and names no other encoding.
pub(crate) fn check_declaration(declaration: &BytesDecl<'_>, late: bool) -> Result<(), XmlError> {
    let encoding = declaration.encoding().transpose().map_err(|_| XmlError::Malformed("declaration"))?;
    match encoding {
        Some(name) if !name.eq_ignore_ascii_case("utf-8") && !name.eq_ignore_ascii_case("us-ascii") => {
            Err(XmlError::Forbidden("any encoding but UTF-8"))
        }
        _ if late => Err(XmlError::Malformed("a declaration inside")),
        _ => Ok(()),
    }
}

/// XML 1.0, production 2.
pub(crate) fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// XML 1.0, production 3.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Names begin like names and have at most one prefix. The rest of the characters cannot do harm and is not looked at.
pub(crate) fn check_qname(name: &str) -> Result<(), XmlError> {
    let begins_well = |part: &str| part.starts_with(|c: char| c.is_alphabetic() || c == '_' || c >= '\u{C0}');
    let well = match name.split_once(':') {
        Some((prefix, local)) => begins_well(prefix) && begins_well(local) && !local.contains(':'),
        None => begins_well(name),
    };
    if well && !name.contains(['"', '\'', '<', '&', '/', '=']) {
        Ok(())
    } else {
        Err(XmlError::Malformed("a name"))
    }
}

/// Names of namespaces are short, and written in one way: they are compared for every name below.
fn check_bindings(start: &BytesStart<'_>) -> Result<(), XmlError> {
    let mut attributes = start.attributes();
    let attributes = attributes.with_checks(false).flatten();
    for binding in attributes.filter(|one| one.key.as_namespace_binding().is_some()) {
        if binding.value.len() > NAMESPACE_MAX {
            return Err(Limit::Value.into());
        }
        if binding.value.contains('&') {
            return Err(XmlError::Forbidden("a reference in the name of a namespace"));
        }
    }
    Ok(())
}

/// The namespace of a name.
fn bound(namespace: &ResolveResult<'_>) -> Result<String, XmlError> {
    match namespace {
        ResolveResult::Bound(namespace) => Ok(namespace.into_inner().to_owned()),
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Unknown(_) => Err(XmlError::Malformed("a prefix that is not declared")),
    }
}

/// The five entities everybody knows, and characters by number.
pub(crate) fn resolve(reference: &BytesRef<'_>) -> Result<char, XmlError> {
    let wrong = XmlError::Malformed("a reference");
    if reference.is_char_ref() {
        let character = reference.resolve_char_ref().ok().flatten();
        return character.filter(|one| is_char(*one)).ok_or(wrong);
    }
    match reference.as_ref() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => Err(XmlError::Forbidden("an entity of one's own")),
    }
}

fn xml_error(error: Error) -> XmlError {
    match error {
        Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Exhausted>()) => {
            Limit::Markup.into()
        }
        Error::Io(error) => {
            XmlError::Input(Arc::try_unwrap(error).unwrap_or_else(|shared| shared.kind().into()))
        }
        Error::Encoding(_) => XmlError::Malformed("not UTF-8"),
        Error::Namespace(_) => XmlError::Malformed("a declaration of a namespace"),
        Error::Syntax(_) | Error::IllFormed(_) | Error::InvalidAttr(_) | Error::Escape(_) => {
            XmlError::Malformed("its markup")
        }
    }
}

/// An event as it was written.
fn write_raw(into: &mut Vec<u8>, event: &Event<'_>) {
    let (before, content, after): (&str, &str, &str) = match event {
        Event::Start(tag) => ("<", tag, ">"),
        Event::Empty(tag) => ("<", tag, "/>"),
        Event::End(tag) => ("</", tag, ">"),
        Event::Text(text) => ("", text, ""),
        Event::CData(text) => ("<![CDATA[", text, "]]>"),
        Event::Comment(text) => ("<!--", text, "-->"),
        Event::GeneralRef(name) => ("&", name, ";"),
        // Refused or not inside of an element.
        Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Eof => return,
    };
    for piece in [before, content, after] {
        into.extend_from_slice(piece.as_bytes());
    }
}
