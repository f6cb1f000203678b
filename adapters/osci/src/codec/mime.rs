//! The package that lies in the body of a request (OSCI-Transport 1.2, "MIME-Format"): a reader that is fed, and heads to write.
//!
//! Unlike in any other protocol the header with the boundary is part of the body. Lines end with CRLF and nothing else.

use std::fmt::Write as _;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem;

/// Bytes of one line of a header.
const LINE_MAX: usize = 16 << 10;
/// Bytes of one header.
const HEADER_MAX: usize = 64 << 10;
/// Parts of a package.
const PARTS_MAX: usize = 1_000;
/// Blank lines between things.
const BLANKS_MAX: usize = 16;
/// Content id of the XML part.
pub const ROOT_ID: &str = "osci@message";

/// Why bytes are no package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MimeError {
    /// A header is malformed.
    #[error("a malformed header")]
    Header,
    /// It is not a package of related parts in version 1.0.
    #[error("not multipart/related")]
    NotRelated,
    /// A part lacks its type or its id.
    #[error("a part without type or id")]
    Incomplete,
    /// Two parts have the same id.
    #[error("two parts with the same id")]
    Twice,
    /// A part is in an encoding nobody uses here.
    #[error("an unknown transfer encoding")]
    Encoding,
    /// Text that is not UTF-8 as it says.
    #[error("another charset than UTF-8")]
    Charset,
    /// Something stands between the parts.
    #[error("text between parts")]
    Between,
    /// The end is missing.
    #[error("it ends too early")]
    Truncated,
    /// A line, header or list of parts is too long.
    #[error("a header or the list of parts is too long")]
    TooMuch,
}

/// How the bytes of a part are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// In base64.
    Base64,
}

/// The header of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// Without brackets.
    pub id: String,
    /// As it came.
    pub content_type: String,
    /// How its bytes are written.
    pub encoding: Encoding,
    /// All other fields, as they came.
    pub others: Vec<(String, String)>,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A part begins.
    Part(PartHead),
    /// Some of its bytes, still encoded.
    Data(Bytes),
    /// It ends.
    PartEnd,
    /// The package ends; whatever follows is ignored.
    End,
}

enum State {
    /// The header of the package.
    Head,
    /// Blank lines, then a delimiter.
    Between,
    /// The header of a part.
    PartHead,
    /// The content of a part; `true` before its first byte.
    Body(bool),
    /// The last delimiter was there.
    Ending,
    Done,
}

/// Takes a package apart as it comes.
pub struct MimeReader {
    buffer: BytesMut,
    state: State,
    /// CRLF, two hyphens, the boundary.
    delimiter: Vec<u8>,
    fields: Vec<String>,
    header: usize,
    blanks: usize,
    ids: Vec<String>,
}

impl Default for MimeReader {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            state: State::Head,
            delimiter: Vec::new(),
            fields: Vec::new(),
            header: 0,
            blanks: 0,
            ids: Vec::new(),
        }
    }
}

impl MimeReader {
    /// Takes some bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Done) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// No more bytes come.
    ///
    /// # Errors
    /// [`MimeError::Truncated`] before the end of the package.
    pub fn finish(&self) -> Result<(), MimeError> {
        match self.state {
            State::Done => Ok(()),
            _ => Err(MimeError::Truncated),
        }
    }

    /// What comes next; `None` if more bytes are needed.
    ///
    /// # Errors
    /// See [`MimeError`]; nothing more comes then.
    pub fn next_event(&mut self) -> Result<Option<Event>, MimeError> {
        loop {
            match self.state {
                State::Head => {
                    let Some(done) = self.header_line()? else { return Ok(None) };
                    if done {
                        let fields = std::mem::take(&mut self.fields);
                        self.delimiter = delimiter(&fields)?;
                        self.state = State::Between;
                    }
                }
                State::Between => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    if line == self.delimiter[2..] {
                        (self.state, self.header, self.blanks) = (State::PartHead, 0, 0);
                    } else if line.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                        self.blank()?;
                    } else {
                        return Err(MimeError::Between);
                    }
                }
                State::PartHead => {
                    let Some(done) = self.header_line()? else { return Ok(None) };
                    if done {
                        let head = part_head(&std::mem::take(&mut self.fields))?;
                        if self.ids.len() >= PARTS_MAX {
                            return Err(MimeError::TooMuch);
                        }
                        if self.ids.contains(&head.id) {
                            return Err(MimeError::Twice);
                        }
                        self.ids.push(head.id.clone());
                        self.state = State::Body(true);
                        return Ok(Some(Event::Part(head)));
                    }
                }
                State::Body(start) => return Ok(self.body(start)),
                State::Ending => {
                    self.state = State::Done;
                    return Ok(Some(Event::End));
                }
                State::Done => {
                    self.buffer.clear();
                    return Ok(None);
                }
            }
        }
    }

    /// Bytes that were fed and not handed out yet.
    pub fn waiting(&self) -> u64 {
        self.buffer.len() as u64
    }

    fn blank(&mut self) -> Result<(), MimeError> {
        self.blanks += 1;
        if self.blanks > BLANKS_MAX { Err(MimeError::TooMuch) } else { Ok(()) }
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Option<BytesMut>, MimeError> {
        match memmem::find(&self.buffer, b"\r\n") {
            Some(length) if length <= LINE_MAX => {
                let line = self.buffer.split_to(length);
                self.buffer.advance(2);
                Ok(Some(line))
            }
            None if self.buffer.len() <= LINE_MAX => Ok(None),
            _ => Err(MimeError::TooMuch),
        }
    }

    /// Reads a line of a header; `true` at its end.
    fn header_line(&mut self) -> Result<Option<bool>, MimeError> {
        let Some(line) = self.line()? else { return Ok(None) };
        if line.is_empty() {
            if self.fields.is_empty() {
                self.blank()?;
                return Ok(Some(false));
            }
            return Ok(Some(true));
        }
        self.header += line.len();
        if self.header > HEADER_MAX {
            return Err(MimeError::TooMuch);
        }
        let line = std::str::from_utf8(&line).map_err(|_| MimeError::Header)?;
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(MimeError::Header);
        }
        match (line.starts_with([' ', '\t']), self.fields.last_mut()) {
            (true, Some(field)) => field.push_str(line),
            (true, None) => return Err(MimeError::Header),
            (false, _) => self.fields.push(line.to_owned()),
        }
        Ok(Some(false))
    }

    fn body(&mut self, start: bool) -> Option<Event> {
        // The delimiter of an empty part follows its header at once.
        if start {
            let first = &self.delimiter[2..];
            if self.buffer.len() < first.len() + 2 {
                return None;
            }
            self.state = State::Body(false);
            if self.buffer.starts_with(first)
                && let Some(next) = after_delimiter(&self.buffer[first.len()..])
            {
                self.buffer.advance(first.len() + 2);
                return Some(self.leave(next));
            }
        }
        let mut from = 0;
        while let Some(found) = memmem::find(&self.buffer[from..], &self.delimiter) {
            let at = from + found;
            let behind = &self.buffer[at + self.delimiter.len()..];
            if behind.len() < 2 {
                return (at > 0).then(|| Event::Data(self.buffer.split_to(at).freeze()));
            }
            if let Some(next) = after_delimiter(behind) {
                if at > 0 {
                    return Some(Event::Data(self.buffer.split_to(at).freeze()));
                }
                self.buffer.advance(self.delimiter.len() + 2);
                return Some(self.leave(next));
            }
            from = at + 2;
        }
        // The last bytes may be the beginning of a delimiter.
        let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
        (sure > 0).then(|| Event::Data(self.buffer.split_to(sure).freeze()))
    }

    fn leave(&mut self, next: State) -> Event {
        (self.state, self.header, self.blanks) = (next, 0, 0);
        Event::PartEnd
    }
}

/// What stands behind a delimiter decides what it is.
fn after_delimiter(behind: &[u8]) -> Option<State> {
    match behind {
        [b'\r', b'\n', ..] => Some(State::PartHead),
        [b'-', b'-', ..] => Some(State::Ending),
        _ => None,
    }
}

/// Name and value of a field.
fn field(line: &str) -> Result<(&str, &str), MimeError> {
    let (name, value) = line.split_once(':').ok_or(MimeError::Header)?;
    let well = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if well { Ok((name, value.trim())) } else { Err(MimeError::Header) }
}

/// A parameter of a media type, which are separated by semicolons and, by some, by blanks.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let words = value.split([';', ' ', '\t']).skip(1);
    let mut named = words.filter_map(|word| word.split_once('='));
    let (_, value) = named.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(value.trim_matches('"'))
}

fn media_type(value: &str) -> &str {
    value.split([';', ' ', '\t']).next().unwrap_or_default()
}

/// The delimiter a package's header announces.
fn delimiter(fields: &[String]) -> Result<Vec<u8>, MimeError> {
    let mut boundary = None;
    for line in fields {
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case("MIME-Version") && value != "1.0" {
            return Err(MimeError::NotRelated);
        }
        if name.eq_ignore_ascii_case("Content-Type") {
            if !media_type(value).eq_ignore_ascii_case("multipart/related") || boundary.is_some() {
                return Err(MimeError::NotRelated);
            }
            boundary = parameter(value, "boundary");
        }
    }
    let boundary = boundary.filter(|one| !one.is_empty() && one.len() <= 200).ok_or(MimeError::NotRelated)?;
    Ok([b"\r\n--", boundary.as_bytes()].concat())
}

fn part_head(fields: &[String]) -> Result<PartHead, MimeError> {
    let (mut id, mut content_type, mut transfer) = (None, None, None);
    let mut others = Vec::new();
    for line in fields {
        let (name, value) = field(line)?;
        let known = match name.to_ascii_lowercase().as_str() {
            "content-id" => &mut id,
            "content-type" => &mut content_type,
            "content-transfer-encoding" => &mut transfer,
            // Says how long the part is; its delimiter says so better.
            "content-length" => continue,
            _ => {
                others.push((name.to_owned(), value.to_owned()));
                continue;
            }
        };
        if known.replace(value).is_some() {
            return Err(MimeError::Header);
        }
    }
    let id = id.map(|id| id.trim_start_matches('<').trim_end_matches('>').to_owned());
    let id = id.filter(|id| !id.is_empty() && id.len() <= 1_000).ok_or(MimeError::Incomplete)?;
    let content_type = content_type.filter(|one| !one.is_empty()).ok_or(MimeError::Incomplete)?;
    let charset = parameter(content_type, "charset");
    if charset.is_some_and(|charset| !charset.eq_ignore_ascii_case("utf-8")) {
        return Err(MimeError::Charset);
    }
    let encoding = match transfer.map(str::to_ascii_lowercase).as_deref() {
        _ if media_type(content_type).eq_ignore_ascii_case("text/base64") => Encoding::Base64,
        Some("base64") => Encoding::Base64,
        None | Some("8-bit" | "8bit" | "binary" | "7bit" | "7-bit") => Encoding::Raw,
        Some(_) => return Err(MimeError::Encoding),
    };
    Ok(PartHead { id, content_type: content_type.to_owned(), encoding, others })
}

/// A boundary, from random bytes.
pub fn boundary(random: [u8; 12]) -> String {
    format!("MIME_boundary_{}", hex::encode(random))
}

/// The header of a package and of its XML part. Its length is told if it is known.
pub fn open_package(boundary: &str, root_length: Option<usize>) -> String {
    let mut text = format!(
        "MIME-Version: 1.0\r\nContent-Type: Multipart/Related; boundary={boundary}; type=text/xml\r\n\r\n--{boundary}\r\n\
         Content-Type: text/xml; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit\r\nContent-ID: <{ROOT_ID}>\r\n"
    );
    if let Some(length) = root_length {
        // Writing into memory does not fail.
        let _written = write!(text, "Content-Length: {length}\r\n");
    }
    text.push_str("\r\n");
    text
}

/// The header of another part, and the delimiter before it.
pub fn open_part(boundary: &str, head: &PartHead, length: Option<u64>) -> String {
    let transfer = match head.encoding {
        Encoding::Base64 => "base64",
        Encoding::Raw => "8-bit",
    };
    let (content_type, id) = (&head.content_type, &head.id);
    let mut text = format!(
        "\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: {transfer}\r\nContent-ID: <{id}>\r\n"
    );
    if let Some(length) = length {
        let _written = write!(text, "Content-Length: {length}\r\n");
    }
    for (name, value) in &head.others {
        let _written = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text
}

/// The end of a package.
pub fn close_package(boundary: &str) -> String {
    format!("\r\n--{boundary}--\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parts with their content.
    fn read(bytes: &[u8], cut: usize) -> Result<Vec<(PartHead, Vec<u8>)>, MimeError> {
        let mut reader = MimeReader::default();
        let (mut parts, mut ended) = (Vec::new(), false);
        for piece in bytes.chunks(cut) {
            reader.feed(piece);
            while let Some(event) = reader.next_event()? {
                match event {
                    Event::Part(head) => parts.push((head, Vec::new())),
                    Event::Data(data) => parts.last_mut().unwrap().1.extend_from_slice(&data),
                    Event::PartEnd => {}
                    Event::End => ended = true,
                }
            }
        }
        reader.finish()?;
        assert!(ended);
        Ok(parts)
    }

    fn package(attachments: &[(&str, &[u8])]) -> Vec<u8> {
        let boundary = boundary([7; 12]);
        let mut bytes = open_package(&boundary, Some(7)).into_bytes();
        bytes.extend_from_slice(b"<root/>");
        for (id, content) in attachments {
            let head = PartHead {
                id: (*id).to_owned(),
                content_type: "application/octet-stream".to_owned(),
                encoding: Encoding::Raw,
                others: vec![("X-Other".to_owned(), "kept".to_owned())],
            };
            bytes.extend(open_part(&boundary, &head, Some(content.len() as u64)).into_bytes());
            bytes.extend_from_slice(content);
        }
        bytes.extend(close_package(&boundary).into_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(content in "[-\r\n_MIEboundary07]{0,200}", other in proptest::collection::vec(any::<u8>(), 0..100), cut in 1_usize..50) {
            let bytes = package(&[("a", content.as_bytes()), ("b", &other)]);
            let parts = read(&bytes, cut).unwrap();
            prop_assert_eq!(parts.len(), 3);
            prop_assert_eq!(&parts[0].1, b"<root/>");
            prop_assert_eq!(&parts[0].0.id, ROOT_ID);
            prop_assert_eq!(parts[1].1.as_slice(), content.as_bytes());
            prop_assert_eq!(&parts[2].1, &other);
            prop_assert_eq!(&parts[2].0.others[0].1, "kept");
        }

        #[test]
        fn no_bytes_make_it_fall(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 1_usize..50) {
            let whole = [b"MIME-Version: 1.0\r\nContent-Type: Multipart/Related; boundary=b\r\n\r\n--b\r\n".as_slice(), &bytes].concat();
            prop_assert!(read(&whole, cut).is_err() || whole.windows(4).any(|four| four == b"--b-"));
        }
    }

    #[test]
    fn deployed_spellings_are_understood() {
        let text = "\r\ncontent-type: multipart/related;\r\n type=\"text/xml\" boundary=\"x+/=\"\r\n\r\n\r\n--x+/=\r\n\
            Content-ID: <osci@message>\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\r\n<r/>\r\n--x+/=\r\n\
            Content-Id: osci_enc\r\nContent-Type: text/base64\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\r\n--x+/=--";
        let parts = read(text.as_bytes(), 1_000).unwrap();
        assert_eq!(parts[0].1, b"<r/>");
        assert_eq!((parts[1].0.id.as_str(), parts[1].0.encoding), ("osci_enc", Encoding::Base64));
        assert_eq!(parts[1].1, b"");
    }

    #[test]
    fn every_error_is_one() {
        let head = "MIME-Version: 1.0\r\nContent-Type: Multipart/Related; boundary=b\r\n\r\n";
        let part = "--b\r\nContent-Type: a/b\r\nContent-ID: <1>\r\n\r\n\r\n";
        let long = format!("{head}--b\r\nX: {}\r\n", "x".repeat(20_000));
        let many = format!("{head}--b\r\n{}", format!("X: {}\r\n", "x".repeat(10_000)).repeat(8));
        let parts: String = (0..1_001).map(|n| part.replace("<1>", &format!("<{n}>"))).collect();
        for (text, error) in [
            ("no colon\r\n\r\n".to_owned(), MimeError::Header),
            ("MIME-Version: 2.0\r\n\r\n".to_owned(), MimeError::NotRelated),
            ("Content-Type: text/xml\r\n\r\n".to_owned(), MimeError::NotRelated),
            ("Content-Type: multipart/related\r\n\r\n".to_owned(), MimeError::NotRelated),
            (format!("{head}--b\r\nContent-ID: <1>\r\n\r\n"), MimeError::Incomplete),
            (format!("{head}--b\r\nContent-Type: a/b\r\n\r\n"), MimeError::Incomplete),
            (format!("{head}{part}{part}--b--"), MimeError::Twice),
            (
                format!(
                    "{head}--b\r\nContent-Type: a/b\r\nContent-ID: <1>\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
                ),
                MimeError::Encoding,
            ),
            (
                format!("{head}--b\r\nContent-Type: a/b; charset=latin1\r\nContent-ID: <1>\r\n\r\n"),
                MimeError::Charset,
            ),
            (format!("{head}text\r\n"), MimeError::Between),
            (format!("{head}{part}"), MimeError::Truncated),
            (head.replace("\r\n", "\n"), MimeError::Truncated),
            (long, MimeError::TooMuch),
            (many, MimeError::TooMuch),
            (format!("{head}{parts}--b--"), MimeError::TooMuch),
            ("\r\n".repeat(20), MimeError::TooMuch),
        ] {
            assert_eq!(read(text.as_bytes(), 4_096).map(|_| ()), Err(error), "{text:.200}");
        }
    }
}
