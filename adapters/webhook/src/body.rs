//! What is posted: the document alone, or everything as `multipart/form-data`.

use std::collections::VecDeque;

use amtsbote_core::message::Part;
use amtsbote_core::port::{Handover, PartReader, StoreError};
use bytes::Bytes;
use futures::Stream;
use http::HeaderValue;

/// What a request holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The document is the body; attachments are fetched from the gateway.
    #[default]
    Document,
    /// Description, document, attachments and seal as parts of a form.
    Multipart,
}

/// Extensions of contents in a form.
fn file_name(number: usize) -> String {
    match number {
        0 => "document".to_owned(),
        n => format!("attachment-{n}"),
    }
}

#[derive(Debug, Clone)]
enum Piece {
    Bytes(Bytes),
    Part(u16),
}

/// The body of a request; it can be read as often as it is needed.
#[derive(Debug)]
pub(crate) struct Body {
    /// `Content-Type`.
    pub(crate) content_type: HeaderValue,
    /// Bytes.
    pub(crate) length: u64,
    pieces: Vec<Piece>,
}

/// Types that senders wrote are no headers unless they are spelled like one.
fn media_type(text: &str) -> HeaderValue {
    let usual = HeaderValue::from_static("application/octet-stream");
    HeaderValue::from_str(text)
        .ok()
        .filter(|value| value.to_str().is_ok() && !text.is_empty())
        .unwrap_or(usual)
}

impl Body {
    /// The body of a hand-over; `None` if there is no document. `boundary` stands in none of the contents.
    pub(crate) fn of(handover: &Handover, format: Format, boundary: &str) -> Option<Self> {
        let parts = &handover.message.parts;
        let document = parts.first()?;
        if format == Format::Document {
            let content_type = media_type(&document.media_type);
            return Some(Self { content_type, length: document.size, pieces: vec![Piece::Part(0)] });
        }
        let mut form = Form { boundary, pieces: Vec::new(), length: 0 };
        let description = handover.describe(|number, _| ("file", file_name(number)));
        form.field("metadata", "message.json", "application/json", description.to_string().into());
        for (number, part) in parts.iter().enumerate() {
            form.part(number, part);
        }
        let seal = handover.seal.signature.clone();
        form.field("signature", "signature.p7s", "application/pkcs7-signature", seal);
        form.text(format!("--{boundary}--\r\n"));
        let content_type =
            HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}")).ok()?;
        Some(Self { content_type, length: form.length, pieces: form.pieces })
    }

    /// The body from its first byte. The parts are opened before anything is sent.
    pub(crate) async fn open(
        &self,
        handover: &Handover,
    ) -> Result<impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static, StoreError> {
        let mut sources = VecDeque::new();
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => sources.push_back(Source::Bytes(bytes.clone())),
                Piece::Part(number) => {
                    if let Some(part) = handover.open(*number).await? {
                        sources.push_back(Source::Reader(part.reader));
                    }
                }
            }
        }
        Ok(futures::stream::try_unfold(sources, |mut sources| async move {
            loop {
                match sources.pop_front() {
                    None => return Ok(None),
                    Some(Source::Bytes(bytes)) => return Ok(Some((bytes, sources))),
                    Some(Source::Reader(mut reader)) => {
                        if let Some(bytes) = reader.next().await? {
                            sources.push_front(Source::Reader(reader));
                            return Ok(Some((bytes, sources)));
                        }
                    }
                }
            }
        }))
    }
}

enum Source {
    Bytes(Bytes),
    Reader(Box<dyn PartReader>),
}

/// A form that is being put together (RFC 7578).
struct Form<'a> {
    boundary: &'a str,
    pieces: Vec<Piece>,
    length: u64,
}

impl Form<'_> {
    fn text(&mut self, text: String) {
        self.bytes(text.into());
    }

    fn bytes(&mut self, bytes: Bytes) {
        self.length += bytes.len() as u64;
        self.pieces.push(Piece::Bytes(bytes));
    }

    fn head(&mut self, name: &str, file: &str, media_type: &str) {
        let boundary = self.boundary;
        self.text(format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: {media_type}\r\n\r\n"
        ));
    }

    fn field(&mut self, name: &str, file: &str, media_type: &str, content: Bytes) {
        self.head(name, file, media_type);
        self.bytes(content);
        self.text("\r\n".to_owned());
    }

    fn part(&mut self, number: usize, part: &Part) {
        let name = if number == 0 { "document" } else { "attachment" };
        let media_type = media_type(&part.media_type);
        self.head(name, &file_name(number), media_type.to_str().unwrap_or_default());
        self.length += part.size;
        self.pieces.push(Piece::Part(u16::try_from(number).unwrap_or(u16::MAX)));
        self.text("\r\n".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_senders_wrote_becomes_no_header_line() {
        assert_eq!(media_type("application/pdf; name=x"), "application/pdf; name=x");
        for wrong in ["", "text/plain\r\nX-Evil: 1", "text/\u{e4}", "a\0b"] {
            assert_eq!(media_type(wrong), "application/octet-stream", "{wrong:?}");
        }
    }
}
