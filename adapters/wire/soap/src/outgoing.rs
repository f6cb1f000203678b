//! Packs a message for HTTP: envelope and content, plain or as a package. What it yields is a plan; the content itself is read
//! only while it is sent.

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::element::{Content, Element};
use crate::name::{ENVELOPE, XOP};
use crate::package::Packaging;
use crate::write::{DECLARATION, Piece, Prefixes, write};

/// How content is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// As base64.
    Base64,
}

/// What is to be sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Bytes(Bytes),
    /// The content with this number.
    Content(usize, Coding),
}

/// A message ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// For the header of HTTP.
    pub content_type: String,
    /// What to send, one after the other.
    pub segments: Vec<Segment>,
}

/// An envelope of these header blocks and this body.
pub fn envelope(headers: Vec<Element>, body: Vec<Element>) -> Element {
    Element::new(ENVELOPE, "Envelope")
        .with(Element::new(ENVELOPE, "Header").with_all(headers))
        .with(Element::new(ENVELOPE, "Body").with_all(body))
}

/// Packs an envelope. `boundary` must be unlike anything in the content: make it of random characters. `media_types` are those of the
/// numbered content, for the headers of parts.
pub fn pack(
    mut envelope: Element,
    prefixes: &Prefixes,
    packaging: Packaging,
    action: &str,
    boundary: &str,
    media_types: &[&str],
) -> Outgoing {
    match packaging {
        Packaging::Plain => {
            let segments = written(&envelope, prefixes, Coding::Base64);
            let content_type = format!("application/soap+xml; charset=utf-8; action=\"{action}\"");
            Outgoing { content_type, segments }
        }
        Packaging::Mtom => {
            let mut numbers = Vec::new();
            take_content(&mut envelope, boundary, &mut numbers);
            let line = |text: String| Segment::Bytes(text.into());
            let mut segments = vec![line(format!(
                "--{boundary}\r\nContent-Type: application/xop+xml; charset=UTF-8; type=\"application/soap+xml\"; \
                 action=\"{action}\"\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <{}>\r\n\r\n",
                root_id(boundary)
            ))];
            segments.extend(written(&envelope, prefixes, Coding::Identity));
            for number in numbers {
                let media_type = media_types.get(number).copied().filter(|one| is_header_safe(one));
                segments.push(line(format!(
                    "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <{}>\r\n\r\n",
                    media_type.unwrap_or("application/octet-stream"),
                    part_id(number, boundary)
                )));
                segments.push(Segment::Content(number, Coding::Identity));
            }
            segments.push(line(format!("\r\n--{boundary}--\r\n")));
            let content_type = format!(
                "multipart/related; type=\"application/xop+xml\"; boundary=\"{boundary}\"; start=\"<{}>\"; \
                 start-info=\"application/soap+xml\"; action=\"{action}\"",
                root_id(boundary)
            );
            Outgoing { content_type, segments }
        }
    }
}

fn root_id(boundary: &str) -> String {
    format!("root.{boundary}@amtsbote")
}

fn part_id(number: usize, boundary: &str) -> String {
    format!("part{number}.{boundary}@amtsbote")
}

/// Whether text from a stranger may stand in a header line.
fn is_header_safe(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Replaces content by references to parts.
fn take_content(element: &mut Element, boundary: &str, numbers: &mut Vec<usize>) {
    for content in &mut element.content {
        match content {
            Content::Element(child) => take_content(child, boundary, numbers),
            Content::Binary(number) => {
                let id = utf8_percent_encode(&part_id(*number, boundary), NON_ALPHANUMERIC).to_string();
                numbers.push(*number);
                *content = Content::Element(
                    Element::new(XOP, "Include").with_attribute("href", format!("cid:{id}")),
                );
            }
            Content::Text(_) | Content::Verbatim(_) => {}
        }
    }
}

fn written(envelope: &Element, prefixes: &Prefixes, coding: Coding) -> Vec<Segment> {
    let pieces = write(envelope, prefixes).into_iter().map(|piece| match piece {
        Piece::Text(bytes) => Segment::Bytes(bytes.into()),
        Piece::Binary(number) => Segment::Content(number, coding),
        Piece::Verbatim(number) => Segment::Content(number, Coding::Identity),
    });
    std::iter::once(Segment::Bytes(Bytes::from_static(DECLARATION.as_bytes()))).chain(pieces).collect()
}
