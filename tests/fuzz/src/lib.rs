//! Targets: each takes any bytes and must neither panic, nor hang, nor keep more than it may. What it accepts must mean the same however
//! it is cut into pieces, and must be read again after it was written.

mod osci;

use std::io;

pub use osci::{ciphertext, document, osci_message};

use amtsbote_soap::{
    Element, Header, InMemory, MediaType, MessageReader, Name, Packaging, ReadError, Shape, TooMuch,
    Transport, XmlLimits, envelope, pack,
};
use bytes::Bytes;

/// Contents of one message.
const CONTENT: usize = 1 << 20;

/// A message that was read.
#[derive(Debug, PartialEq)]
struct Message {
    headers: Vec<Header>,
    body: Vec<Element>,
    contents: Vec<Vec<u8>>,
}

fn shape(name: &Name) -> Shape {
    match name.local() {
        "Message" | "Attachment" => Shape::Base64,
        "EncryptedData" => {
            Shape::Opaque { namespace: "http://www.w3.org/2001/04/xmlenc#", local: "CipherValue" }
        }
        _ => Shape::Tree,
    }
}

fn is_kept(name: &Name) -> bool {
    name.local() == "MessageMetaData"
}

fn read(content_type: &str, bytes: &[u8], piece: usize) -> Result<Message, ReadError<TooMuch>> {
    let pieces: Vec<io::Result<Bytes>> =
        bytes.chunks(piece.max(1)).map(|one| Ok(Bytes::copy_from_slice(one))).collect();
    let mut sink = InMemory::new(CONTENT);
    futures::executor::block_on(async {
        let Ok(transport) = Transport::of(content_type, None) else {
            return Err(ReadError::NotSoap("another type"));
        };
        let stream = futures::stream::iter(pieces);
        let mut reader = MessageReader::open(transport, stream, XmlLimits::default(), &mut sink).await?;
        let headers = reader.headers(is_kept).await?;
        let body = reader.body(shape, &mut sink).await?;
        let contents = (0..).map_while(|number| sink.content(number).map(<[u8]>::to_vec)).collect();
        Ok(Message { headers, body, contents })
    })
}

/// Reads a message in one piece and in small ones.
///
/// # Panics
/// When the two differ, or what was kept of a header does not mean the same by itself.
fn read_twice(content_type: &str, bytes: &[u8]) -> Option<Message> {
    let whole = read(content_type, bytes, bytes.len());
    let pieces = read(content_type, bytes, 3);
    match (&whole, &pieces) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "pieces matter"),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string(), "pieces matter"),
        (one, other) => panic!("pieces matter: {one:?} {other:?}"),
    }
    let message = whole.ok()?;
    for header in message.headers.iter().filter(|header| !header.source.is_empty()) {
        let again = futures::executor::block_on(amtsbote_soap::parse(&header.source, XmlLimits::default()));
        assert_eq!(again.ok().as_ref(), Some(&header.element), "what was kept means something else");
    }
    Some(message)
}

/// An envelope by itself.
///
/// # Panics
/// When a promise of this library is broken.
pub fn envelope_alone(bytes: &[u8]) {
    let Some(message) = read_twice("application/soap+xml", bytes) else { return };
    if !message.contents.is_empty() {
        return;
    }
    let headers = message.headers.iter().map(|header| header.element.clone()).collect();
    let written = pack(envelope(headers, message.body.clone()), &[], Packaging::Plain, "urn:a", "b", &[]);
    let bytes: Vec<u8> = written
        .segments
        .into_iter()
        .flat_map(|segment| match segment {
            amtsbote_soap::Segment::Bytes(bytes) => bytes.to_vec(),
            amtsbote_soap::Segment::Content(..) => Vec::new(),
        })
        .collect();
    // Written with other prefixes it may be longer than what may be read.
    if let Ok(again) = read("application/soap+xml", &bytes, bytes.len()) {
        assert_eq!(again.body, message.body, "written and read again it is another");
    }
}

/// A package whose boundary is `B`.
///
/// # Panics
/// When a promise of this library is broken.
pub fn package(bytes: &[u8]) {
    drop(read_twice("multipart/related; type=\"application/xop+xml\"; boundary=B; start=\"<root>\"", bytes));
}

/// A media type.
///
/// # Panics
/// When a promise of this library is broken.
pub fn media_type(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(media_type) = text.parse::<MediaType>()
    {
        assert!(media_type.essence().contains('/'));
        drop(Transport::of(text, Some(text)));
    }
}
