//! Writes trees as XML. Everything that leaves is written here, so nothing can leave unescaped.

use crate::element::{Content, Element};
use crate::name::{Attribute, Name, XML};

/// Preferred prefixes: prefix and namespace.
pub type Prefixes = [(&'static str, &'static str)];

/// A piece of a document that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes as they are.
    Text(Vec<u8>),
    /// Here comes the binary content with this number.
    Binary(usize),
    /// Here comes the content with this number, as it is.
    Verbatim(usize),
}

/// The XML declaration.
pub const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Writes an element; namespaces of `prefixes` are declared on it, others where they occur.
pub fn write(element: &Element, prefixes: &Prefixes) -> Vec<Piece> {
    let mut writer = Writer { prefixes, text: String::new(), pieces: Vec::new() };
    writer.element(element, true);
    writer.flush();
    writer.pieces
}

/// Writes an element that has no binary content.
pub fn write_whole(element: &Element, prefixes: &Prefixes) -> Vec<u8> {
    let pieces = write(element, prefixes).into_iter().filter_map(|piece| match piece {
        Piece::Text(bytes) => Some(bytes),
        Piece::Binary(_) | Piece::Verbatim(_) => None,
    });
    pieces.flatten().collect()
}

struct Writer<'a> {
    prefixes: &'a Prefixes,
    text: String,
    pieces: Vec<Piece>,
}

impl Writer<'_> {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.pieces.push(Piece::Text(std::mem::take(&mut self.text).into_bytes()));
        }
    }

    fn element(&mut self, element: &Element, root: bool) {
        let mut declared: Vec<(String, &str)> = Vec::new();
        let name = self.qualified(&element.name, &mut declared);
        let attributes: Vec<(String, &str)> = element
            .attributes
            .iter()
            .map(|Attribute { name, value }| (self.qualified(name, &mut declared), value.as_str()))
            .collect();
        self.text.push('<');
        self.text.push_str(&name);
        if root {
            for (prefix, namespace) in self.prefixes {
                self.attribute(&format!("xmlns:{prefix}"), namespace);
            }
        }
        for (prefix, namespace) in declared {
            self.attribute(&format!("xmlns:{prefix}"), namespace);
        }
        for (name, value) in attributes {
            self.attribute(&name, value);
        }
        if element.content.is_empty() {
            self.text.push_str("/>");
            return;
        }
        self.text.push('>');
        for content in &element.content {
            match content {
                Content::Element(child) => self.element(child, false),
                Content::Text(text) => self.escape(text, false),
                Content::Verbatim(number) => {
                    self.flush();
                    self.pieces.push(Piece::Verbatim(*number));
                }
                Content::Binary(number) => {
                    self.flush();
                    self.pieces.push(Piece::Binary(*number));
                }
            }
        }
        self.text.push_str("</");
        self.text.push_str(&name);
        self.text.push('>');
    }

    /// A name with a prefix; one that has no preferred prefix gets a new one, declared on the element.
    fn qualified<'b>(&self, name: &'b Name, declared: &mut Vec<(String, &'b str)>) -> String {
        let namespace = name.namespace();
        if namespace.is_empty() {
            return name.local().to_owned();
        }
        if namespace == XML {
            return format!("xml:{}", name.local());
        }
        if let Some((prefix, _)) = self.prefixes.iter().find(|(_, known)| *known == namespace) {
            return format!("{prefix}:{}", name.local());
        }
        let known = declared.iter().find(|(_, known)| *known == namespace).map(|(prefix, _)| prefix.clone());
        let prefix = known.unwrap_or_else(|| {
            let prefix = format!("n{}", declared.len());
            declared.push((prefix.clone(), namespace));
            prefix
        });
        format!("{prefix}:{}", name.local())
    }

    fn attribute(&mut self, name: &str, value: &str) {
        self.text.push(' ');
        self.text.push_str(name);
        self.text.push_str("=\"");
        self.escape(value, true);
        self.text.push('"');
    }

    fn escape(&mut self, text: &str, in_attribute: bool) {
        for c in text.chars() {
            match c {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' if in_attribute => self.text.push_str("&quot;"),
                '\n' if in_attribute => self.text.push_str("&#10;"),
                '\t' if in_attribute => self.text.push_str("&#9;"),
                '\r' => self.text.push_str("&#13;"),
                // What XML has no way to say; nobody who read XML can have put it there.
                '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => {
                    self.text.push('\u{FFFD}');
                }
                c => self.text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(element: &Element, prefixes: &Prefixes) -> String {
        String::from_utf8(write_whole(element, prefixes)).unwrap()
    }

    #[test]
    fn names_get_their_prefixes_and_text_is_escaped() {
        let element = Element::new("urn:a", "one")
            .with_attribute("b", "\"<\n&")
            .with(Element::new("urn:other", "two").with_text("<&>\r\u{1}"))
            .with(Element::new("", "three"));
        assert_eq!(
            text(&element, &[("a", "urn:a")]),
            "<a:one xmlns:a=\"urn:a\" b=\"&quot;&lt;&#10;&amp;\"><n0:two xmlns:n0=\"urn:other\">&lt;&amp;&gt;&#13;\u{FFFD}</n0:two><three/></a:one>"
        );
    }

    #[test]
    fn binary_content_splits_the_document() {
        let mut element = Element::new("", "a");
        element.content.push(Content::Binary(7));
        let pieces = write(&element, &[]);
        assert_eq!(pieces, [Piece::Text(b"<a>".to_vec()), Piece::Binary(7), Piece::Text(b"</a>".to_vec())]);
    }
}
