//! A whole document as one tree, for XML that is signed: it is parsed once, and whatever is verified, read or passed on are nodes of
//! that one tree.
//!
//! Unlike the streaming reader this keeps prefixes and the places of declarations, because Canonical XML needs them. The same things
//! are refused from strangers, and comments are dropped. Texts lie where they came; only those with references are copied.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::PrefixDeclaration;
use quick_xml::reader::Reader;
use quick_xml::{Error, XmlVersion};

use crate::tokens::{
    Limit, NAMESPACE_MAX, XmlError, check_declaration, check_qname, is_char, is_space, resolve,
};

/// Bounds of a tree. Text is bounded by the bytes of the document, which the caller holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentLimits {
    /// Bytes of the document, at most 4 GiB.
    pub bytes: usize,
    /// Elements inside each other.
    pub depth: usize,
    /// Attributes of one element, declarations of namespaces included.
    pub attributes: usize,
    /// Bytes of one attribute's value.
    pub value: usize,
    /// Elements, texts and attributes together.
    pub nodes: usize,
}

impl Default for DocumentLimits {
    /// 64 MiB, 64 deep, 64 attributes, 64 KiB, 500,000 nodes.
    fn default() -> Self {
        Self { bytes: 64 << 20, depth: 64, attributes: 64, value: 64 << 10, nodes: 500_000 }
    }
}

/// Prefixes that may be bound at the same place: all of them are looked at for every name.
const BINDINGS_MAX: usize = 64;

/// The `xml` prefix, which nobody declares.
const XML: &str = "http://www.w3.org/XML/1998/namespace";

type Span = Range<u32>;

/// A parsed document.
#[derive(Debug)]
pub struct Document {
    source: String,
    nodes: Vec<Node>,
    attributes: Vec<AttributeNode>,
    declarations: Vec<Declaration>,
    namespaces: Vec<String>,
}

#[derive(Debug)]
enum Node {
    Element {
        prefix: Span,
        local: Span,
        namespace: u16,
        /// Index behind its last descendant.
        end: u32,
        parent: Option<u32>,
        attributes: Span,
        declarations: Span,
    },
    Text(Value),
}

#[derive(Debug)]
enum Value {
    Verbatim(Span),
    Copied(Box<str>),
}

#[derive(Debug)]
struct AttributeNode {
    prefix: Span,
    local: Span,
    namespace: u16,
    value: Value,
}

#[derive(Debug)]
struct Declaration {
    prefix: Span,
    namespace: u16,
}

/// An element of a [`Document`].
#[derive(Clone, Copy)]
pub struct ElementRef<'d> {
    document: &'d Document,
    index: u32,
}

/// An attribute of an [`ElementRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributeRef<'d> {
    /// Prefix as written, or empty.
    pub prefix: &'d str,
    /// Namespace, or empty.
    pub namespace: &'d str,
    /// Local name.
    pub local: &'d str,
    /// Normalised value.
    pub value: &'d str,
}

/// What stands inside of an element.
#[derive(Clone, Copy)]
pub enum Child<'d> {
    /// An element.
    Element(ElementRef<'d>),
    /// Text with references resolved; text next to text is possible.
    Text(&'d str),
}

impl PartialEq for ElementRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.document, other.document) && self.index == other.index
    }
}

impl Eq for ElementRef<'_> {}

impl std::fmt::Debug for ElementRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{} xmlns=\"{}\">", self.local(), self.namespace())
    }
}

impl Document {
    /// Parses a document.
    ///
    /// # Errors
    /// [`XmlError`] for anything that is not well-formed, refused from strangers, or beyond a limit.
    pub fn parse(source: Vec<u8>, limits: DocumentLimits) -> Result<Self, XmlError> {
        if source.len() > limits.bytes {
            return Err(Limit::Markup.into());
        }
        let source = String::from_utf8(source).map_err(|_| XmlError::Malformed("not UTF-8"))?;
        if !source.chars().all(is_char) {
            return Err(XmlError::Malformed("a character that XML does not have"));
        }
        let mut builder = Builder::new(&source, limits);
        builder.run()?;
        let Builder { nodes, attributes, declarations, namespaces, .. } = builder;
        Ok(Self { source, nodes, attributes, declarations, namespaces })
    }

    /// The root element.
    pub fn root(&self) -> ElementRef<'_> {
        ElementRef { document: self, index: 0 }
    }

    /// All elements in the order of their start tags.
    pub fn elements(&self) -> impl Iterator<Item = ElementRef<'_>> {
        let elements =
            self.nodes.iter().zip(0_u32..).filter(|(node, _)| matches!(node, Node::Element { .. }));
        elements.map(|(_, index)| ElementRef { document: self, index })
    }

    fn text(&self, span: &Span) -> &str {
        &self.source[span.start as usize..span.end as usize]
    }

    fn value<'d>(&'d self, value: &'d Value) -> &'d str {
        match value {
            Value::Verbatim(span) => self.text(span),
            Value::Copied(text) => text,
        }
    }
}

struct Parts<'d> {
    prefix: &'d Span,
    local: &'d Span,
    namespace: u16,
    end: u32,
    parent: Option<u32>,
    attributes: &'d Span,
    declarations: &'d Span,
}

impl<'d> ElementRef<'d> {
    fn parts(self) -> Parts<'d> {
        match &self.document.nodes[self.index as usize] {
            Node::Element { prefix, local, namespace, end, parent, attributes, declarations } => Parts {
                prefix,
                local,
                namespace: *namespace,
                end: *end,
                parent: *parent,
                attributes,
                declarations,
            },
            Node::Text(_) => unreachable!("references are made for elements only"),
        }
    }

    /// Local name.
    pub fn local(self) -> &'d str {
        self.document.text(self.parts().local)
    }

    /// Prefix as written, or empty.
    pub fn prefix(self) -> &'d str {
        self.document.text(self.parts().prefix)
    }

    /// Namespace, or empty.
    pub fn namespace(self) -> &'d str {
        &self.document.namespaces[usize::from(self.parts().namespace)]
    }

    /// Whether it has this name.
    pub fn is(self, namespace: &str, local: &str) -> bool {
        self.local() == local && self.namespace() == namespace
    }

    /// The element around it.
    pub fn parent(self) -> Option<Self> {
        self.parts().parent.map(|index| Self { index, ..self })
    }

    /// Its attributes in the order they came.
    pub fn attributes(self) -> impl Iterator<Item = AttributeRef<'d>> {
        let (document, range) = (self.document, self.parts().attributes.clone());
        document.attributes[range.start as usize..range.end as usize].iter().map(|one| AttributeRef {
            prefix: document.text(&one.prefix),
            namespace: &document.namespaces[usize::from(one.namespace)],
            local: document.text(&one.local),
            value: document.value(&one.value),
        })
    }

    /// The value of an attribute without a namespace.
    pub fn attribute(self, local: &str) -> Option<&'d str> {
        self.attributes().find(|one| one.namespace.is_empty() && one.local == local).map(|one| one.value)
    }

    /// Namespaces declared on its start tag: prefix (or empty) and name (or empty).
    pub(crate) fn declared(self) -> impl Iterator<Item = (&'d str, &'d str)> {
        let (document, range) = (self.document, self.parts().declarations.clone());
        document.declarations[range.start as usize..range.end as usize]
            .iter()
            .map(|one| (document.text(&one.prefix), document.namespaces[usize::from(one.namespace)].as_str()))
    }

    /// What stands inside.
    pub fn content(self) -> impl Iterator<Item = Child<'d>> {
        let (document, end) = (self.document, self.parts().end);
        let mut next = self.index + 1;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let index = next;
            match &document.nodes[index as usize] {
                Node::Element { end, .. } => {
                    next = *end;
                    Some(Child::Element(ElementRef { document, index }))
                }
                Node::Text(value) => {
                    next += 1;
                    Some(Child::Text(document.value(value)))
                }
            }
        })
    }

    /// Elements inside.
    pub fn children(self) -> impl Iterator<Item = Self> {
        self.content().filter_map(|child| match child {
            Child::Element(element) => Some(element),
            Child::Text(_) => None,
        })
    }

    /// The first child of this name.
    pub fn child(self, namespace: &str, local: &str) -> Option<Self> {
        self.children().find(|one| one.is(namespace, local))
    }

    /// It and all elements inside, in the order of their start tags.
    pub fn descendants(self) -> impl Iterator<Item = Self> {
        let (document, range) = (self.document, self.index..self.parts().end);
        range
            .filter(|index| matches!(document.nodes[*index as usize], Node::Element { .. }))
            .map(move |index| Self { document, index })
    }

    /// Its text without that of elements inside.
    pub fn text(self) -> Cow<'d, str> {
        let mut texts = self.content().filter_map(|child| match child {
            Child::Text(text) => Some(text),
            Child::Element(_) => None,
        });
        let first = texts.next().unwrap_or_default();
        match texts.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                let mut whole = String::with_capacity(first.len() + second.len());
                whole.push_str(first);
                whole.push_str(second);
                whole.extend(texts);
                Cow::Owned(whole)
            }
        }
    }
}

/// An element whose end tag is still to come.
struct Open {
    index: u32,
    /// Bindings before it.
    bindings: usize,
}

struct Builder<'s> {
    source: &'s str,
    limits: DocumentLimits,
    nodes: Vec<Node>,
    attributes: Vec<AttributeNode>,
    declarations: Vec<Declaration>,
    namespaces: Vec<String>,
    known: HashMap<String, u16>,
    bindings: Vec<(&'s str, u16)>,
    open: Vec<Open>,
}

impl<'s> Builder<'s> {
    fn new(source: &'s str, limits: DocumentLimits) -> Self {
        let mut builder = Self {
            source,
            limits,
            nodes: Vec::new(),
            attributes: Vec::new(),
            declarations: Vec::new(),
            namespaces: vec![String::new()],
            known: HashMap::from([(String::new(), 0)]),
            bindings: Vec::new(),
            open: Vec::new(),
        };
        builder.namespaces.push(XML.to_owned());
        builder.known.insert(XML.to_owned(), 1);
        builder.bindings.push(("xml", 1));
        builder
    }

    fn run(&mut self) -> Result<(), XmlError> {
        let mut reader = Reader::from_str(self.source);
        reader.config_mut().check_end_names = true;
        reader.config_mut().check_comments = true;
        loop {
            let event = reader.read_event().map_err(xml_error)?;
            match event {
                Event::Start(tag) => self.start(&tag)?,
                Event::Empty(tag) => {
                    self.start(&tag)?;
                    self.end()?;
                }
                Event::End(_) => self.end()?,
                Event::Text(text) => {
                    if text.contains("]]>") {
                        return Err(XmlError::Malformed("a character that XML does not have"));
                    }
                    self.text(text.into_inner())?;
                }
                Event::CData(_) if self.open.is_empty() => {
                    return Err(XmlError::Malformed("text outside of the root element"));
                }
                Event::CData(text) => self.text(text.into_inner())?,
                Event::GeneralRef(_) if self.open.is_empty() => {
                    return Err(XmlError::Malformed("text outside of the root element"));
                }
                Event::GeneralRef(reference) => {
                    let one = resolve(&reference)?;
                    self.push_text(Value::Copied(one.to_string().into()))?;
                }
                Event::Comment(_) => {}
                Event::Decl(declaration) => check_declaration(&declaration, !self.nodes.is_empty())?,
                Event::PI(_) => return Err(XmlError::Forbidden("a processing instruction")),
                Event::DocType(_) => return Err(XmlError::Forbidden("a document type")),
                Event::Eof if self.open.is_empty() && !self.nodes.is_empty() => return Ok(()),
                Event::Eof => return Err(XmlError::Malformed("it ends too early")),
            }
        }
    }

    fn end(&mut self) -> Result<(), XmlError> {
        let open = self.open.pop().ok_or(XmlError::Malformed("an end tag too many"))?;
        self.bindings.truncate(open.bindings);
        let behind = number(self.nodes.len());
        if let Some(Node::Element { end, .. }) = self.nodes.get_mut(open.index as usize) {
            *end = behind;
        }
        Ok(())
    }

    fn text(&mut self, text: Cow<'s, str>) -> Result<(), XmlError> {
        if self.open.is_empty() {
            return match text.trim_matches(is_space).is_empty() {
                true => Ok(()),
                false => Err(XmlError::Malformed("text outside of the root element")),
            };
        }
        if text.is_empty() {
            return Ok(());
        }
        let value = self.keep(text);
        self.push_text(value)
    }

    /// Line ends are what XML says they are.
    fn keep(&self, text: Cow<'s, str>) -> Value {
        match text {
            Cow::Borrowed(text) if !text.contains('\r') => Value::Verbatim(self.span(text)),
            text => Value::Copied(text.replace("\r\n", "\n").replace('\r', "\n").into()),
        }
    }

    fn push_text(&mut self, value: Value) -> Result<(), XmlError> {
        self.count(1)?;
        self.nodes.push(Node::Text(value));
        Ok(())
    }

    /// Where a piece of the source lies.
    fn span(&self, piece: &str) -> Span {
        let start = piece.as_ptr().addr().wrapping_sub(self.source.as_ptr().addr());
        number(start)..number(start + piece.len())
    }

    fn count(&self, more: usize) -> Result<(), XmlError> {
        if self.nodes.len() + self.attributes.len() + self.declarations.len() + more > self.limits.nodes {
            return Err(Limit::Markup.into());
        }
        Ok(())
    }

    fn start(&mut self, tag: &BytesStart<'s>) -> Result<(), XmlError> {
        if self.open.is_empty() && !self.nodes.is_empty() {
            return Err(XmlError::Malformed("a second root element"));
        }
        if self.open.len() >= self.limits.depth {
            return Err(Limit::Depth.into());
        }
        let count = tag.attributes().with_checks(false).take(self.limits.attributes + 1).count();
        if count > self.limits.attributes {
            return Err(Limit::Attributes.into());
        }
        self.count(count + 1)?;
        // The parser hands out pieces of the source, but says so of its own buffer only.
        let place = self.span_of_tag(tag);
        let bindings = self.bindings.len();
        let declarations = self.declare(place)?;
        let (prefix, local) = self.qname(tag_name(place))?;
        let namespace = self.lookup(prefix)?;
        let attributes = self.read_attributes(place)?;
        let index = number(self.nodes.len());
        let parent = self.open.last().map(|open| open.index);
        let (prefix, local) = (self.span(prefix), self.span(local));
        let end = index + 1;
        self.nodes.push(Node::Element { prefix, local, namespace, end, parent, attributes, declarations });
        self.open.push(Open { index, bindings });
        Ok(())
    }

    /// The content of a start tag where it lies in the source.
    fn span_of_tag(&self, tag: &BytesStart<'s>) -> &'s str {
        let content: &str = tag;
        let span = self.span(content);
        &self.source[span.start as usize..span.end as usize]
    }

    fn declare(&mut self, tag: &'s str) -> Result<Span, XmlError> {
        let first = number(self.declarations.len());
        let tag = BytesStart::from_content(tag, tag_name(tag).len());
        for attribute in tag.attributes().with_checks(false) {
            let attribute = attribute.map_err(|_| XmlError::Malformed("an attribute"))?;
            let Some(binding) = attribute.key.as_namespace_binding() else { continue };
            let prefix = match binding {
                PrefixDeclaration::Default => "",
                PrefixDeclaration::Named(prefix) => prefix,
            };
            let value = attribute.value.as_ref();
            if value.len() > NAMESPACE_MAX {
                return Err(Limit::Value.into());
            }
            if value.contains(['&', '<', '\t', '\n', '\r']) {
                return Err(XmlError::Forbidden("a reference in the name of a namespace"));
            }
            let reserved = matches!(prefix, "xml" | "xmlns") || value == XML;
            if reserved
                || value == "http://www.w3.org/2000/xmlns/"
                || (value.is_empty() && !prefix.is_empty())
            {
                return Err(XmlError::Malformed("a declaration of a namespace"));
            }
            let at = if prefix.is_empty() { 0..0 } else { self.span(prefix) };
            let prefix = &self.source[at.start as usize..at.end as usize];
            let earlier = &self.declarations[first as usize..];
            if earlier
                .iter()
                .any(|one| self.source[one.prefix.start as usize..one.prefix.end as usize] == *prefix)
            {
                return Err(XmlError::Malformed("an attribute that is there twice"));
            }
            let namespace = self.intern(value)?;
            if self.bindings.len() >= BINDINGS_MAX {
                return Err(Limit::Attributes.into());
            }
            self.bindings.push((prefix, namespace));
            self.declarations.push(Declaration { prefix: at, namespace });
        }
        Ok(first..number(self.declarations.len()))
    }

    fn read_attributes(&mut self, tag: &'s str) -> Result<Span, XmlError> {
        let first = number(self.attributes.len());
        let tag = BytesStart::from_content(tag, tag_name(tag).len());
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|_| XmlError::Malformed("an attribute"))?;
            if attribute.value.len() > self.limits.value {
                return Err(Limit::Value.into());
            }
            if attribute.value.contains('<') {
                return Err(XmlError::Malformed("an attribute"));
            }
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let key = self.span(attribute.key.into_inner());
            let (prefix, local) = self.qname(&self.source[key.start as usize..key.end as usize])?;
            let namespace = if prefix.is_empty() { 0 } else { self.lookup(prefix)? };
            let simple = !attribute.value.contains(['&', '\t', '\n', '\r']);
            let value = if simple {
                Value::Verbatim(self.span(&attribute.value))
            } else {
                let value = attribute.normalized_value(XmlVersion::Explicit1_0);
                let value = value.map_err(|_| XmlError::Malformed("a reference in an attribute"))?;
                if !value.chars().all(is_char) {
                    return Err(XmlError::Malformed("a character that XML does not have"));
                }
                Value::Copied(value.into())
            };
            let (prefix, local) = (self.span(prefix), self.span(local));
            let name = |one: &AttributeNode| {
                (one.namespace, &self.source[one.local.start as usize..one.local.end as usize])
            };
            let new = AttributeNode { prefix, local, namespace, value };
            if self.attributes[first as usize..].iter().any(|one| name(one) == name(&new)) {
                return Err(XmlError::Malformed("an attribute that is there twice"));
            }
            self.attributes.push(new);
        }
        Ok(first..number(self.attributes.len()))
    }

    fn qname(&self, name: &'s str) -> Result<(&'s str, &'s str), XmlError> {
        check_qname(name)?;
        Ok(name.split_once(':').unwrap_or((&name[..0], name)))
    }

    fn lookup(&self, prefix: &str) -> Result<u16, XmlError> {
        match self.bindings.iter().rev().find(|(bound, _)| *bound == prefix) {
            Some((_, namespace)) => Ok(*namespace),
            None if prefix.is_empty() => Ok(0),
            None => Err(XmlError::Malformed("a prefix that is not declared")),
        }
    }

    fn intern(&mut self, namespace: &str) -> Result<u16, XmlError> {
        if let Some(known) = self.known.get(namespace) {
            return Ok(*known);
        }
        let number = u16::try_from(self.namespaces.len()).map_err(|_| Limit::Attributes)?;
        self.namespaces.push(namespace.to_owned());
        self.known.insert(namespace.to_owned(), number);
        Ok(number)
    }
}

/// Documents are at most 4 GiB, so places in them fit.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn tag_name(tag: &str) -> &str {
    &tag[..tag.find(is_space).unwrap_or(tag.len())]
}

fn xml_error(error: Error) -> XmlError {
    match error {
        Error::Namespace(_) => XmlError::Malformed("a declaration of a namespace"),
        _ => XmlError::Malformed("its markup"),
    }
}
