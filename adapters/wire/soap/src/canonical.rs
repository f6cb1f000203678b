//! Canonical XML 1.0 without comments, inclusive (W3C REC-xml-c14n-20010315), of one element with everything inside it.
//!
//! Inclusive means: every namespace that is in scope at the element is written on it, used or not.

use crate::document::{Child, ElementRef};

/// How `>` in the values of attributes is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Greater {
    /// As it is; so says the recommendation.
    #[default]
    Plain,
    /// As a reference; a deployed implementation does so.
    Escaped,
}

/// Writes the canonical form of an element, piece by piece.
pub fn canonicalize(element: ElementRef<'_>, greater: Greater, out: &mut impl FnMut(&str)) {
    let scope = in_scope(element);
    let mut attributes: Vec<_> = element.attributes().collect();
    // Attributes of the namespace xml are inherited by an element that is cut out.
    for ancestor in ancestors(element) {
        for one in ancestor.attributes().filter(|one| one.prefix == "xml") {
            if !attributes.iter().any(|own| own.prefix == "xml" && own.local == one.local) {
                attributes.push(one);
            }
        }
    }
    let mut writer = Writer { greater, rendered: Vec::new(), out };
    writer.element(element, scope, attributes);
}

/// The canonical form of an element.
pub fn canonical(element: ElementRef<'_>) -> String {
    let mut text = String::new();
    canonicalize(element, Greater::Plain, &mut |piece| text.push_str(piece));
    text
}

fn ancestors(element: ElementRef<'_>) -> impl Iterator<Item = ElementRef<'_>> {
    std::iter::successors(element.parent(), |one| one.parent())
}

/// Prefixes and namespaces that mean something at an element, its own declarations included.
pub fn in_scope(element: ElementRef<'_>) -> Vec<(&str, &str)> {
    let mut scope: Vec<(&str, &str)> = Vec::new();
    for one in std::iter::once(element).chain(ancestors(element)) {
        for (prefix, namespace) in one.declared() {
            if !scope.iter().any(|(known, _)| *known == prefix) {
                scope.push((prefix, namespace));
            }
        }
    }
    scope.retain(|(_, namespace)| !namespace.is_empty());
    scope
}

struct Writer<'d, 'o, F> {
    greater: Greater,
    /// What was written on elements around the current one, the innermost last.
    rendered: Vec<(&'d str, &'d str)>,
    out: &'o mut F,
}

impl<'d, F: FnMut(&str)> Writer<'d, '_, F> {
    /// Depth is bounded by the parser.
    fn element(
        &mut self,
        element: ElementRef<'d>,
        mut namespaces: Vec<(&'d str, &'d str)>,
        mut attributes: Vec<crate::document::AttributeRef<'d>>,
    ) {
        namespaces.sort_unstable();
        attributes.sort_unstable_by_key(|one| (one.namespace, one.local));
        self.put("<");
        self.name(element.prefix(), element.local());
        for (prefix, namespace) in &namespaces {
            self.put(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
            self.put(prefix);
            self.put("=\"");
            self.value(namespace);
            self.put("\"");
        }
        for one in attributes {
            self.put(" ");
            self.name(one.prefix, one.local);
            self.put("=\"");
            self.value(one.value);
            self.put("\"");
        }
        self.put(">");
        let before = self.rendered.len();
        self.rendered.extend(namespaces);
        for child in element.content() {
            match child {
                Child::Text(text) => self.text(text),
                Child::Element(inner) => {
                    let new = inner.declared().filter(|(prefix, namespace)| {
                        let outer = self.rendered.iter().rev().find(|(known, _)| known == prefix);
                        outer.map_or("", |(_, outer)| outer) != *namespace
                    });
                    let (new, attributes) = (new.collect(), inner.attributes().collect());
                    self.element(inner, new, attributes);
                }
            }
        }
        self.rendered.truncate(before);
        self.put("</");
        self.name(element.prefix(), element.local());
        self.put(">");
    }

    fn put(&mut self, text: &str) {
        (self.out)(text);
    }

    fn name(&mut self, prefix: &str, local: &str) {
        if !prefix.is_empty() {
            self.put(prefix);
            self.put(":");
        }
        self.put(local);
    }

    fn text(&mut self, text: &str) {
        escape(text, self.out, |byte| match byte {
            b'&' => Some("&amp;"),
            b'<' => Some("&lt;"),
            b'>' => Some("&gt;"),
            b'\r' => Some("&#xD;"),
            _ => None,
        });
    }

    fn value(&mut self, text: &str) {
        let greater = self.greater;
        escape(text, self.out, |byte| match byte {
            b'&' => Some("&amp;"),
            b'<' => Some("&lt;"),
            b'>' if greater == Greater::Escaped => Some("&gt;"),
            b'"' => Some("&quot;"),
            b'\t' => Some("&#x9;"),
            b'\n' => Some("&#xA;"),
            b'\r' => Some("&#xD;"),
            _ => None,
        });
    }
}

fn escape(text: &str, out: &mut impl FnMut(&str), with: impl Fn(u8) -> Option<&'static str>) {
    let mut begin = 0;
    for (at, byte) in text.bytes().enumerate() {
        if let Some(reference) = with(byte) {
            out(&text[begin..at]);
            out(reference);
            begin = at + 1;
        }
    }
    out(&text[begin..]);
}

/// Text as Canonical XML writes it.
pub fn escape_text(text: &str, out: &mut String) {
    escape(text, &mut |piece: &str| out.push_str(piece), |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'\r' => Some("&#xD;"),
        _ => None,
    });
}

/// The value of an attribute as Canonical XML writes it.
pub fn escape_value(text: &str, out: &mut String) {
    escape(text, &mut |piece: &str| out.push_str(piece), |byte| match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'"' => Some("&quot;"),
        b'\t' => Some("&#x9;"),
        b'\n' => Some("&#xA;"),
        b'\r' => Some("&#xD;"),
        _ => None,
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::{Document, DocumentLimits};
    use crate::{Limit, XmlError};

    fn parse(text: &str) -> Result<Document, XmlError> {
        Document::parse(text.as_bytes().to_vec(), DocumentLimits::default())
    }

    fn canonical_of(text: &str, local: &str) -> String {
        let document = parse(text).unwrap();
        let found = document.elements().find(|one| one.local() == local).unwrap();
        canonical(found)
    }

    #[test]
    fn an_element_that_is_cut_out_takes_everything_in_scope_along() {
        let text = r#"<?xml version="1.0"?><a:r xmlns:a="urn:a" xmlns:unused="urn:u" xmlns="urn:d" xml:lang="de"><a:m xmlns=""><e b="2" a:z="1" a="&lt;&#9;>&quot;" /></a:m></a:r>"#;
        let inner = r#"<e a="&lt;&#x9;>&quot;" b="2" a:z="1"></e>"#;
        assert_eq!(
            canonical_of(text, "m"),
            format!(r#"<a:m xmlns:a="urn:a" xmlns:unused="urn:u" xml:lang="de">{inner}</a:m>"#)
        );
        let whole = format!(
            r#"<a:r xmlns="urn:d" xmlns:a="urn:a" xmlns:unused="urn:u" xml:lang="de"><a:m xmlns="">{inner}</a:m></a:r>"#
        );
        assert_eq!(canonical_of(text, "r"), whole);
    }

    #[test]
    fn declarations_are_repeated_only_where_they_change() {
        let text = r#"<r xmlns:p="urn:1"><m xmlns:p="urn:1"><p:x xmlns:p="urn:2"/><p:y/></m></r>"#;
        assert_eq!(
            canonical_of(text, "r"),
            r#"<r xmlns:p="urn:1"><m><p:x xmlns:p="urn:2"></p:x><p:y></p:y></m></r>"#
        );
    }

    #[test]
    fn texts_have_one_form() {
        let text = "<r>a\r\nb\rc&#13;<![CDATA[<&>]]>&amp;&#228;<!-- gone --></r>";
        assert_eq!(canonical_of(text, "r"), "<r>a\nb\nc&#xD;&lt;&amp;&gt;&amp;ä</r>");
        let document = parse(text).unwrap();
        assert_eq!(document.root().text(), "a\nb\nc\r<&>&ä");
    }

    #[test]
    fn a_deployed_implementation_escapes_one_character_more() {
        let document = parse(r#"<r a=">">></r>"#).unwrap();
        let mut text = String::new();
        canonicalize(document.root(), Greater::Escaped, &mut |piece| text.push_str(piece));
        assert_eq!(text, r#"<r a="&gt;">&gt;</r>"#);
    }

    #[test]
    fn what_strangers_may_not_send_is_refused() {
        for wrong in [
            "<!DOCTYPE r><r/>",
            "<r><?pi?></r>",
            "<r>&own;</r>",
            "<r",
            "<r></s>",
            "<r/><r/>",
            "text<r/>",
            "<r/>text",
            "<r a='1' a='2'/>",
            "<r xmlns:a='urn:1' xmlns:b='urn:1' a:x='1' b:x='2'/>",
            "<r xmlns:a='urn:1' xmlns:a='urn:2'/>",
            "<p:r/>",
            "<r xmlns:p=''/>",
            "<r xmlns:xml='urn:1'/>",
            "<r a='<'/>",
            "<r>]]></r>",
            "<r>\u{1}</r>",
            "<r>&#1;</r>",
            "<r a='&#1;'/>",
            "",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let not_utf8 = b"<r>\xff</r>".to_vec();
        assert!(Document::parse(not_utf8, DocumentLimits::default()).is_err());
    }

    #[test]
    fn every_limit_is_one() {
        let limits = DocumentLimits { bytes: 200, depth: 3, attributes: 2, value: 5, nodes: 6 };
        let parse = |text: &str| Document::parse(text.as_bytes().to_vec(), limits).map(|_| ());
        assert!(parse("<r><s><t/></s></r>").is_ok());
        let limited = |text: &str, limit: Limit| {
            assert!(matches!(parse(text), Err(XmlError::Limit(is)) if is == limit), "{text}");
        };
        limited("<r><s><t><u/></t></s></r>", Limit::Depth);
        limited("<r a='' b='' c=''/>", Limit::Attributes);
        limited("<r a='123456'/>", Limit::Value);
        limited("<r><a/><a/><a/><a/><a/><a/></r>", Limit::Markup);
        limited(&format!("<r>{}</r>", "x".repeat(200)), Limit::Markup);
        let prefixes: String = (0..64).map(|n| format!("<a xmlns:p{n}='urn:p'>")).collect();
        let wide = DocumentLimits { depth: 100, ..DocumentLimits::default() };
        assert!(matches!(
            Document::parse(prefixes.into_bytes(), wide),
            Err(XmlError::Limit(Limit::Attributes))
        ));
    }

    fn element() -> impl Strategy<Value = String> {
        let text = "[ a-z<>&\"'\r\n\täß]{0,12}";
        let leaf = text.prop_map(|text| {
            let mut out = String::new();
            escape_text(&text, &mut out);
            out
        });
        leaf.prop_recursive(4, 24, 3, move |inner| {
            let name = proptest::sample::select(vec!["p:a", "q:b", "c", "d"]);
            let bound = proptest::sample::select(vec!["", " xmlns:p='urn:1'", " xmlns='urn:2'", " xmlns=''"]);
            (name, bound, text, proptest::collection::vec(inner, 0..3)).prop_map(
                |(name, bound, value, inner)| {
                    let mut escaped = String::new();
                    escape_value(&value, &mut escaped);
                    format!("<{name}{bound} p:v=\"{escaped}\">{}</{name}>", inner.concat())
                },
            )
        })
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(inner in element()) {
            let text = format!("<r xmlns:p='urn:p' xmlns:q='urn:q'>{inner}</r>");
            let once = canonical(parse(&text).unwrap().root());
            let again = canonical(parse(&once).unwrap().root());
            prop_assert_eq!(once, again);
        }

        #[test]
        fn an_element_means_the_same_wherever_it_is_put(inner in element()) {
            let text = format!("<r xmlns:p='urn:p' xmlns:q='urn:q'><m>{inner}</m></r>");
            let document = parse(&text).unwrap();
            let cut = canonical(document.root().children().next().unwrap());
            let moved = format!("<s xmlns:q='urn:q' xmlns:p='urn:p'>{cut}</s>");
            let moved = parse(&moved).unwrap();
            prop_assert_eq!(canonical(moved.root().children().next().unwrap()), cut);
        }
    }
}
