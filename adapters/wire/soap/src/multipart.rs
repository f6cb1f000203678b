//! `multipart/related` as it streams by (RFC 2046 section 5.1, RFC 2387): one part after the other, nothing kept but the head of
//! a part and what might be the beginning of a delimiter.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use memchr::memmem::Finder;

use crate::media_type::MediaType;
use crate::tokens::Limit;

/// Bytes of the headers of one part.
const HEADERS_MAX: usize = 16 << 10;
/// Bytes before the first and after the last delimiter, which nobody needs.
const AROUND_MAX: usize = 64 << 10;
/// Longest boundary (RFC 2046).
const BOUNDARY_MAX: usize = 70;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is no well-formed multipart.
    #[error("the package is malformed: {0}")]
    Malformed(&'static str),
    /// It is larger than allowed.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// A part is referenced that is not there, twice, or in a way that is not understood.
    #[error("a reference to a part: {0}")]
    Reference(&'static str),
    /// The bytes stopped coming.
    #[error("reading failed")]
    Input(#[source] io::Error),
}

/// How the bytes of a part are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferEncoding {
    /// As they are.
    Identity,
    /// As base64.
    Base64,
}

/// The headers of a part that mean something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartHead {
    /// Content-ID without its angle brackets.
    pub(crate) id: Option<String>,
    pub(crate) media_type: Option<MediaType>,
    pub(crate) encoding: TransferEncoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter.
    Preamble,
    /// At the line end behind the headers of a part. It is not content, but the delimiter may begin with it.
    Start,
    /// In the content of a part.
    Content,
    /// At a delimiter, which is still in the buffer.
    Delimiter,
    /// Behind the last delimiter.
    End,
}

/// Reads parts from a stream of bytes.
pub(crate) struct Multipart<S> {
    stream: S,
    buffer: BytesMut,
    delimiter: Finder<'static>,
    place: Place,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Multipart<S> {
    pub(crate) fn new(stream: S, boundary: &str) -> Result<Self, PackageError> {
        if boundary.is_empty()
            || boundary.len() > BOUNDARY_MAX
            || !boundary.bytes().all(|b| (b' '..=b'~').contains(&b))
        {
            return Err(PackageError::Malformed("its boundary"));
        }
        // The first delimiter needs no line before it.
        let buffer = BytesMut::from(&b"\r\n"[..]);
        let delimiter = Finder::new(&format!("\r\n--{boundary}")).into_owned();
        Ok(Self { stream, buffer, delimiter, place: Place::Preamble })
    }

    /// Goes to the next part, whether or not the current one was read; `None` behind the last.
    pub(crate) async fn next_part(&mut self) -> Result<Option<PartHead>, PackageError> {
        let mut passed = 0;
        while !matches!(self.place, Place::Delimiter | Place::End) {
            let preamble = self.place == Place::Preamble;
            match std::future::poll_fn(|cx| self.poll_content(cx)).await {
                Some(Ok(bytes)) => passed += if preamble { bytes.len() } else { 0 },
                Some(Err(error)) => return Err(error),
                None => {}
            }
            if passed > AROUND_MAX {
                return Err(PackageError::Malformed("no delimiter at its beginning"));
            }
        }
        if self.place == Place::End {
            return Ok(None);
        }
        self.buffer.advance(self.delimiter.needle().len());
        self.at_least(2).await?;
        if self.buffer.starts_with(b"--") {
            self.place = Place::End;
            return self.epilogue().await.map(|()| None);
        }
        let head = self.head().await?;
        self.place = Place::Start;
        Ok(Some(head))
    }

    /// The headers of a part, from behind the delimiter to the empty line.
    async fn head(&mut self) -> Result<PartHead, PackageError> {
        let mut searched = 0;
        let length = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer[searched..], b"\r\n\r\n") {
                break searched + at;
            }
            searched = self.buffer.len().saturating_sub(3);
            if searched > HEADERS_MAX {
                return Err(Limit::PartHeaders.into());
            }
            self.more().await?;
        };
        if length > HEADERS_MAX {
            return Err(Limit::PartHeaders.into());
        }
        let head = self.buffer.split_to(length);
        self.buffer.advance(2);
        parse_head(&head)
    }

    /// Some bytes of the current part; `None` at its end.
    pub(crate) fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PackageError>>> {
        loop {
            if matches!(self.place, Place::Delimiter | Place::End) {
                return Poll::Ready(None);
            }
            let needle = self.delimiter.needle().len();
            // How much of the buffer is content for sure.
            let safe = match self.delimiter.find(&self.buffer) {
                // What a delimiter looks like may also be the beginning of a longer line of content.
                Some(0) => match self.buffer.get(needle..needle + 2) {
                    Some(b"--" | b"\r\n" | [b' ' | b'\t', _]) => {
                        self.place = Place::Delimiter;
                        return Poll::Ready(None);
                    }
                    Some(_) => needle,
                    None => 0,
                },
                Some(at) => at,
                None => (self.buffer.len() + 1).saturating_sub(needle),
            };
            if safe > 0 && self.place == Place::Start {
                self.place = Place::Content;
                self.buffer.advance(2);
                continue;
            }
            if safe > 0 {
                return Poll::Ready(Some(Ok(self.buffer.split_to(safe).freeze())));
            }
            match ready!(self.stream.poll_next_unpin(cx)) {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Poll::Ready(Some(Err(PackageError::Input(error)))),
                None => {
                    return Poll::Ready(Some(Err(PackageError::Malformed("its last delimiter is missing"))));
                }
            }
        }
    }

    async fn more(&mut self) -> Result<(), PackageError> {
        match self.stream.next().await {
            Some(Ok(bytes)) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            Some(Err(error)) => Err(PackageError::Input(error)),
            None => Err(PackageError::Malformed("its last delimiter is missing")),
        }
    }

    async fn at_least(&mut self, length: usize) -> Result<(), PackageError> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(())
    }

    /// Reads what comes behind the last delimiter, so that the connection can be used again.
    async fn epilogue(&mut self) -> Result<(), PackageError> {
        let mut length = self.buffer.len();
        self.buffer.clear();
        while let Some(bytes) = self.stream.next().await {
            length += bytes.map_err(PackageError::Input)?.len();
            if length > AROUND_MAX {
                return Err(PackageError::Malformed("something comes behind its last delimiter"));
            }
        }
        Ok(())
    }
}

/// Header lines, the first being what is left of the delimiter's line.
fn parse_head(bytes: &[u8]) -> Result<PartHead, PackageError> {
    const WRONG: PackageError = PackageError::Malformed("the headers of a part");
    let text = std::str::from_utf8(bytes).map_err(|_| WRONG)?;
    let text = text.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut lines = text.split("\r\n");
    if !lines.next().unwrap_or_default().trim().is_empty() {
        return Err(WRONG);
    }
    let mut head = PartHead { id: None, media_type: None, encoding: TransferEncoding::Identity };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(WRONG)?;
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-id" => head.id = Some(value.trim_start_matches('<').trim_end_matches('>').to_owned()),
            "content-type" => head.media_type = Some(value.parse().map_err(|_| WRONG)?),
            "content-transfer-encoding" => {
                head.encoding = match value.to_ascii_lowercase().as_str() {
                    "binary" | "8bit" | "7bit" => TransferEncoding::Identity,
                    "base64" => TransferEncoding::Base64,
                    _ => {
                        return Err(PackageError::Malformed("a transfer encoding that is not understood"));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(head)
}

/// The error of a package that travelled as one of reading.
pub(crate) fn package_error(error: io::Error) -> PackageError {
    match error.downcast::<PackageError>() {
        Ok(error) => error,
        Err(error) => PackageError::Input(error),
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;

    type Part = (PartHead, Vec<u8>);

    fn read(bytes: &[u8], boundary: &str, piece: usize) -> Result<Vec<Part>, PackageError> {
        let pieces: Vec<_> = bytes.chunks(piece).map(|one| Ok(Bytes::copy_from_slice(one))).collect();
        block_on(async {
            let mut multipart = Multipart::new(futures::stream::iter(pieces), boundary)?;
            let mut parts = Vec::new();
            while let Some(head) = multipart.next_part().await? {
                let mut content = Vec::new();
                while let Some(bytes) = std::future::poll_fn(|cx| multipart.poll_content(cx)).await {
                    content.extend_from_slice(&bytes?);
                }
                parts.push((head, content));
            }
            Ok(parts)
        })
    }

    #[test]
    fn parts_are_found_however_they_come() {
        let text = b"preamble\r\n--b\r\nContent-Type: text/xml;\r\n charset=utf-8\r\nCONTENT-ID: <a@b>\r\n\r\none\r\n--bx\r\n\r\n--b \t\r\n\r\n\r\n--b\r\nContent-Transfer-Encoding: Base64\r\n\r\nQQ==\r\n--b--\r\nepilogue";
        for piece in 1..text.len() {
            let parts = read(text, "b", piece).unwrap();
            let contents: Vec<_> = parts.iter().map(|(_, content)| content.as_slice()).collect();
            assert_eq!(contents, [&b"one\r\n--bx\r\n"[..], b"", b"QQ=="], "pieces of {piece}");
            assert_eq!(parts[0].0.id.as_deref(), Some("a@b"));
            assert_eq!(parts[0].0.media_type.as_ref().unwrap().parameter("charset"), Some("utf-8"));
            assert_eq!(parts[2].0.encoding, TransferEncoding::Base64);
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let long = format!("--b\r\nX: {}\r\n\r\n\r\n--b--", "x".repeat(HEADERS_MAX));
        for (text, what) in [
            ("", "last delimiter"),
            ("--b\r\n\r\ncontent\r\n--b", "last delimiter"),
            ("--b\r\n\r\ncontent", "last delimiter"),
            ("--b\r\nno header\r\n\r\n\r\n--b--", "headers"),
            ("--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\r\n--b--", "transfer encoding"),
            (&long, "too long"),
        ] {
            let error = read(text.as_bytes(), "b", 7).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(read(b"--b--", "", 7).is_err());
        assert!(read(b"--b--", &"b".repeat(71), 7).is_err());
    }

    proptest! {
        #[test]
        fn any_content_survives(contents in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'b'), any::<u8>()], 0..60), 1..4), piece in 1_usize..40) {
            let boundary = "b-never-in-content-b";
            let mut bytes = Vec::new();
            for content in &contents {
                bytes.extend_from_slice(format!("--{boundary}\r\n\r\n").as_bytes());
                bytes.extend_from_slice(content);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(format!("--{boundary}--").as_bytes());
            let read: Vec<Vec<u8>> = read(&bytes, boundary, piece).unwrap().into_iter().map(|(_, content)| content).collect();
            prop_assert_eq!(read, contents);
        }
    }
}
