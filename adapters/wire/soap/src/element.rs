//! Small trees of elements: headers, metadata, everything but large content.

use crate::name::{Attribute, Name};
use crate::tokens::is_space;

/// An element with what is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: Name,
    /// Its attributes, in the order of the document.
    pub attributes: Vec<Attribute>,
    /// What is inside, in the order of the document.
    pub content: Vec<Content>,
}

/// What can be inside of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Another element.
    Element(Element),
    /// Text, references resolved.
    Text(String),
    /// Large content that is not part of the tree: base64 in the text of a plain message, a part of its own in a package. Numbered
    /// by whoever reads or writes it.
    Binary(usize),
    /// Large content that is a well-formed element and is written as it is, in every packaging. Numbered like [`Self::Binary`].
    Verbatim(usize),
}

impl Element {
    /// An empty element.
    pub fn new(namespace: &str, local: &str) -> Self {
        Self { name: Name::new(namespace, local), attributes: Vec::new(), content: Vec::new() }
    }

    /// With an attribute in no namespace.
    #[must_use]
    pub fn with_attribute(mut self, local: &str, value: impl Into<String>) -> Self {
        self.attributes.push(Attribute { name: Name::new("", local), value: value.into() });
        self
    }

    /// With some text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.content.push(Content::Text(text.into()));
        self
    }

    /// With another element inside.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.content.push(Content::Element(child));
        self
    }

    /// With other elements inside.
    #[must_use]
    pub fn with_all(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.content.extend(children.into_iter().map(Content::Element));
        self
    }

    /// Whether it has this name.
    pub fn is(&self, namespace: &str, local: &str) -> bool {
        self.name.is(namespace, local)
    }

    /// The value of an attribute in no namespace.
    pub fn attribute(&self, local: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|one| one.name.is("", local));
        found.map(|one| one.value.as_str())
    }

    /// The value of an attribute.
    pub fn attribute_of(&self, namespace: &str, local: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|one| one.name.is(namespace, local));
        found.map(|one| one.value.as_str())
    }

    /// All elements directly inside.
    pub fn children(&self) -> impl DoubleEndedIterator<Item = &Self> {
        self.content.iter().filter_map(|one| match one {
            Content::Element(element) => Some(element),
            Content::Text(_) | Content::Binary(_) | Content::Verbatim(_) => None,
        })
    }

    /// The elements of a name directly inside.
    pub fn children_of<'a>(&'a self, namespace: &'a str, local: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children().filter(move |one| one.is(namespace, local))
    }

    /// The first element of a name directly inside.
    pub fn child<'a>(&'a self, namespace: &'a str, local: &'a str) -> Option<&'a Self> {
        self.children().find(|one| one.is(namespace, local))
    }

    /// The first element along a path of names in one namespace.
    pub fn descend<'a>(&'a self, namespace: &'a str, path: &[&'a str]) -> Option<&'a Self> {
        path.iter().try_fold(self, |element, local| element.child(namespace, local))
    }

    /// Its text without white space around.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for one in &self.content {
            if let Content::Text(piece) = one {
                text.push_str(piece);
            }
        }
        text.trim_matches(is_space).to_owned()
    }

    /// The text of the first element of a name directly inside; `None` if there is no such element or it is empty.
    pub fn text_of(&self, namespace: &str, local: &str) -> Option<String> {
        self.child(namespace, local).map(Self::text).filter(|text| !text.is_empty())
    }

    /// The number of its binary content, if it has one.
    pub fn binary(&self) -> Option<usize> {
        self.content.iter().find_map(|one| match one {
            Content::Binary(number) => Some(*number),
            Content::Element(_) | Content::Text(_) | Content::Verbatim(_) => None,
        })
    }

    /// A form in which two elements are equal if they mean the same: prefixes, the order of attributes, and white space around
    /// text play no part. For digests, not for the wire.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.canonicalize(&mut bytes);
        bytes
    }

    fn canonicalize(&self, into: &mut Vec<u8>) {
        let mut field = |tag: u8, text: &str| {
            into.push(tag);
            into.extend_from_slice(&(text.len() as u64).to_be_bytes());
            into.extend_from_slice(text.as_bytes());
        };
        field(b'<', &self.name.to_string());
        let mut attributes: Vec<_> = self.attributes.iter().collect();
        attributes.sort_by(|one, other| one.name.cmp(&other.name));
        for attribute in attributes {
            field(b'@', &attribute.name.to_string());
            field(b'=', &attribute.value);
        }
        field(b't', &self.text());
        for child in self.children() {
            child.canonicalize(into);
        }
        into.push(b'>');
    }
}
