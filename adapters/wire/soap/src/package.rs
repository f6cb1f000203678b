//! A SOAP message as it comes over HTTP: plain, or in a package whose parts hold the large content (SOAP 1.2, MTOM, XOP).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use percent_encoding::percent_decode_str;
use tokio_util::io::StreamReader;

use crate::base64::{Base64Decoder, Base64Encoder};
use crate::element::{Content, Element};
use crate::envelope::{ContentSink, EnvelopeReader, Header, ReadError, Rest, Shape};
use crate::media_type::MediaType;
use crate::multipart::{Multipart, PackageError, PartHead, TransferEncoding};
use crate::name::{Name, XOP};
use crate::tokens::{Limit, XmlLimits};

/// Parts of a package.
const PARTS_MAX: usize = 1_000;

/// How a message is packed; an answer is packed like its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packaging {
    /// The envelope alone, content as base64 inside.
    Plain,
    /// `multipart/related` with content in parts of its own.
    Mtom,
}

/// The media type is none that SOAP 1.2 comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a media type of SOAP 1.2")]
pub struct UnsupportedMediaType;

/// What the headers of HTTP say about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// How it is packed.
    pub packaging: Packaging,
    /// Every action that is named, wherever it is.
    pub actions: Vec<String>,
    boundary: String,
    start: Option<String>,
}

impl Transport {
    /// Reads `Content-Type` and, if it is there, `SOAPAction`.
    ///
    /// # Errors
    /// [`UnsupportedMediaType`] for anything but `application/soap+xml` and packages of it in UTF-8.
    pub fn of(content_type: &str, soap_action: Option<&str>) -> Result<Self, UnsupportedMediaType> {
        let media: MediaType = content_type.parse().map_err(|_| UnsupportedMediaType)?;
        check_charset(&media)?;
        let mut actions = Vec::new();
        actions.extend(media.parameter("action").map(str::to_owned));
        actions.extend(soap_action.map(|action| action.trim().trim_matches('"').to_owned()));
        let (packaging, boundary) = match media.essence() {
            "application/soap+xml" => (Packaging::Plain, String::new()),
            "multipart/related" => {
                let boundary = media.parameter("boundary").ok_or(UnsupportedMediaType)?;
                let inner = media.parameter("start-info").and_then(|inner| inner.parse::<MediaType>().ok());
                actions.extend(inner.as_ref().and_then(|inner| inner.parameter("action")).map(str::to_owned));
                (Packaging::Mtom, boundary.to_owned())
            }
            _ => return Err(UnsupportedMediaType),
        };
        actions.retain(|action| !action.is_empty());
        let start =
            media.parameter("start").map(|id| id.trim_start_matches('<').trim_end_matches('>').to_owned());
        Ok(Self { packaging, actions, boundary, start })
    }
}

fn check_charset(media: &MediaType) -> Result<(), UnsupportedMediaType> {
    match media.parameter("charset").map(str::to_ascii_lowercase).as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(()),
        Some(_) => Err(UnsupportedMediaType),
    }
}

/// The bytes of the envelope.
enum Source<S> {
    Plain(S),
    Package(Box<Multipart<S>>),
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Source<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match self.get_mut() {
            Self::Plain(stream) => stream.poll_next_unpin(cx),
            // Errors of the package travel through the reader of XML and are found again behind it.
            Self::Package(multipart) => multipart.poll_content(cx).map_err(io::Error::other),
        }
    }
}

/// Reads a message: headers, then body with all its content.
pub struct MessageReader<S> {
    envelope: EnvelopeReader<StreamReader<Source<S>, Bytes>>,
    packaging: Packaging,
    actions: Vec<String>,
    parts: Parts,
}

/// Parts of a package that were read.
#[derive(Default)]
struct Parts {
    count: usize,
    /// Content of those with an id.
    by_id: BTreeMap<String, usize>,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin + Send> MessageReader<S> {
    /// Begins to read. Parts that come before the envelope go into the sink.
    ///
    /// # Errors
    /// When the package is malformed or the sink takes no more.
    pub async fn open<K: ContentSink>(
        transport: Transport,
        stream: S,
        limits: XmlLimits,
        sink: &mut K,
    ) -> Result<Self, ReadError<K::Error>> {
        let Transport { packaging, mut actions, boundary, start } = transport;
        let mut parts = Parts::default();
        let source = match packaging {
            Packaging::Plain => Source::Plain(stream),
            Packaging::Mtom => {
                let mut multipart = Multipart::new(stream, &boundary)?;
                let root = loop {
                    let head = multipart
                        .next_part()
                        .await?
                        .ok_or(PackageError::Malformed("its envelope is missing"))?;
                    parts.count += 1;
                    if start.is_none() || start == head.id {
                        break head;
                    }
                    parts.keep(&mut multipart, head, sink).await?;
                };
                actions.extend(root_action(&root)?);
                Source::Package(Box::new(multipart))
            }
        };
        let envelope = EnvelopeReader::new(StreamReader::new(source), limits);
        Ok(Self { envelope, packaging, actions, parts })
    }

    /// Every action that HTTP and the package name.
    pub fn actions(&self) -> &[String] {
        &self.actions
    }

    /// Reads the header blocks. Of those for which `keep` says so the bytes are kept.
    ///
    /// # Errors
    /// When it is no SOAP 1.2 envelope.
    pub async fn headers<E>(&mut self, keep: fn(&Name) -> bool) -> Result<Vec<Header>, ReadError<E>> {
        let headers = self.envelope.headers(keep).await?;
        let mut includes = Vec::new();
        headers.iter().for_each(|header| find_includes(&header.element, &mut includes));
        match includes.is_empty() && !headers.iter().any(|header| is_include(&header.element)) {
            true => Ok(headers),
            false => Err(PackageError::Reference("only the body may refer to parts").into()),
        }
    }

    /// Reads the body to the end of the message; call it after [`Self::headers`]. Content goes into the sink, and in the trees there
    /// are its numbers.
    ///
    /// # Errors
    /// When the envelope or its package is malformed, or the sink takes no more.
    pub async fn body<K: ContentSink>(
        mut self,
        shape: fn(&Name) -> Shape,
        sink: &mut K,
    ) -> Result<Vec<Element>, ReadError<K::Error>> {
        let mut body = self.envelope.body(shape, sink).await?;
        let mut includes = Vec::new();
        body.elements.iter().for_each(|element| find_includes(element, &mut includes));
        let places = places(&includes)?;
        match self.envelope.into_input().into_inner() {
            Source::Plain(_) if places.is_empty() && body.unfinished.is_none() => {}
            Source::Plain(_) => {
                return Err(PackageError::Reference("there is no package around it").into());
            }
            Source::Package(mut multipart) => {
                let mut unfinished = body.unfinished.map(|one| VecDeque::from(one.rest));
                let mut next = match &mut unfinished {
                    Some(rest) => write_bytes(rest, sink).await?,
                    None => None,
                };
                while let Some(head) = multipart.next_part().await? {
                    self.parts.count += 1;
                    if self.parts.count > PARTS_MAX {
                        return Err(PackageError::from(Limit::Parts).into());
                    }
                    let Some(id) = head.id.clone() else { continue };
                    match &mut unfinished {
                        Some(rest) if next.as_ref().is_some_and(|next| is_same(next, &id)) => {
                            encode_part(&mut multipart, head, sink).await?;
                            next = write_bytes(rest, sink).await?;
                        }
                        Some(_) => {}
                        None if places.contains_key(&id) => {
                            self.parts.keep(&mut multipart, head, sink).await?;
                        }
                        None => {}
                    }
                }
                if unfinished.is_some() {
                    if next.is_some() {
                        return Err(
                            PackageError::Reference("a part is missing, or comes before another").into()
                        );
                    }
                    sink.end().await.map_err(ReadError::Sink)?;
                }
            }
        }
        let mut numbers = vec![None; includes.len()];
        for (id, number) in &self.parts.by_id {
            if let Some(place) = places.get(id)
                && numbers[*place].replace(*number).is_some()
            {
                return Err(PackageError::Reference("it means two parts").into());
            }
        }
        if numbers.contains(&None) {
            return Err(PackageError::Reference("a part is missing").into());
        }
        let mut numbers = numbers.into_iter().flatten();
        body.elements.iter_mut().for_each(|element| replace_includes(element, &mut numbers));
        Ok(body.elements)
    }

    /// How the message is packed.
    pub fn packaging(&self) -> Packaging {
        self.packaging
    }
}

impl Parts {
    /// Reads the current part into the sink.
    async fn keep<S, K>(
        &mut self,
        multipart: &mut Multipart<S>,
        head: PartHead,
        sink: &mut K,
    ) -> Result<(), ReadError<K::Error>>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin + Send,
        K: ContentSink,
    {
        let Some(id) = head.id else { return Ok(()) };
        if self.by_id.contains_key(&id) {
            return Err(PackageError::Malformed("two parts have the same Content-ID").into());
        }
        let number = sink.begin().await.map_err(ReadError::Sink)?;
        let mut decoder = Base64Decoder::default();
        while let Some(bytes) = std::future::poll_fn(|cx| multipart.poll_content(cx)).await {
            let bytes = match head.encoding {
                TransferEncoding::Identity => bytes?,
                TransferEncoding::Base64 => decoder.feed(&bytes?).map_err(|_| ReadError::Base64)?.into(),
            };
            sink.write(bytes).await.map_err(ReadError::Sink)?;
        }
        decoder.finish().map_err(|_| ReadError::Base64)?;
        sink.end().await.map_err(ReadError::Sink)?;
        self.by_id.insert(id, number);
        Ok(())
    }
}

/// Writes the current part as base64 into the content that is open.
async fn encode_part<S, K>(
    multipart: &mut Multipart<S>,
    head: PartHead,
    sink: &mut K,
) -> Result<(), ReadError<K::Error>>
where
    S: Stream<Item = io::Result<Bytes>> + Unpin + Send,
    K: ContentSink,
{
    let mut encoder = Base64Encoder::default();
    while let Some(bytes) = std::future::poll_fn(|cx| multipart.poll_content(cx)).await {
        let text = match head.encoding {
            TransferEncoding::Identity => encoder.feed(&bytes?).into(),
            // It is what it has to be already; whether it is base64 is for whoever decrypts it to say.
            TransferEncoding::Base64 => bytes?,
        };
        sink.write(text).await.map_err(ReadError::Sink)?;
    }
    sink.write(encoder.finish().into()).await.map_err(ReadError::Sink)
}

/// Writes the bytes that come next, up to the reference of the part that has to follow.
async fn write_bytes<K: ContentSink>(
    rest: &mut VecDeque<Rest>,
    sink: &mut K,
) -> Result<Option<String>, ReadError<K::Error>> {
    while let Some(next) = rest.pop_front() {
        match next {
            Rest::Bytes(bytes) => sink.write(bytes.into()).await.map_err(ReadError::Sink)?,
            Rest::Part(href) => return Ok(Some(reference(&href)?)),
        }
    }
    Ok(None)
}

/// The action the part with the envelope names, if its type fits.
fn root_action(root: &PartHead) -> Result<Option<String>, PackageError> {
    let Some(media) = &root.media_type else {
        return Ok(None);
    };
    if !matches!(media.essence(), "application/xop+xml" | "application/soap+xml") {
        return Err(PackageError::Malformed("the type of the part with the envelope"));
    }
    if check_charset(media).is_err() || root.encoding != TransferEncoding::Identity {
        return Err(PackageError::Malformed("the encoding of the part with the envelope"));
    }
    let named =
        |media: &MediaType| media.parameter("action").filter(|one| !one.is_empty()).map(str::to_owned);
    let inner = || media.parameter("type").and_then(|inner| inner.parse().ok());
    Ok(named(media).or_else(|| inner().and_then(|inner: MediaType| named(&inner))))
}

/// The Content-ID a reference names, as it is written.
fn reference(href: &str) -> Result<String, PackageError> {
    let id = href.trim().strip_prefix("cid:").filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or(PackageError::Reference("only cid: is understood"))
}

/// Which reference means a part, by its Content-ID in every spelling that is understood. A part is referenced once.
fn places(includes: &[Element]) -> Result<BTreeMap<String, usize>, PackageError> {
    let mut places = BTreeMap::new();
    for (place, include) in includes.iter().enumerate() {
        let href = reference(include.attribute("href").unwrap_or_default())?;
        for spelling in BTreeSet::from([decoded(&href), href]) {
            if places.insert(spelling, place).is_some() {
                return Err(PackageError::Reference("a part is referenced twice"));
            }
        }
    }
    Ok(places)
}

/// Whether a reference means the part with this id: percent-decoded, else as it is written.
fn is_same(reference: &str, id: &str) -> bool {
    decoded(reference) == id || reference == id
}

/// What a reference says, percent-decoded if it can be.
fn decoded(reference: &str) -> String {
    let decoded = percent_decode_str(reference).decode_utf8();
    decoded.map_or_else(|_| reference.to_owned(), Cow::into_owned)
}

fn is_include(element: &Element) -> bool {
    element.is(XOP, "Include")
}

fn find_includes(element: &Element, found: &mut Vec<Element>) {
    for child in element.children() {
        if is_include(child) { found.push(child.clone()) } else { find_includes(child, found) }
    }
}

fn replace_includes(element: &mut Element, numbers: &mut impl Iterator<Item = usize>) {
    for content in &mut element.content {
        match content {
            Content::Element(child) if is_include(child) => {
                if let Some(number) = numbers.next() {
                    *content = Content::Binary(number);
                }
            }
            Content::Element(child) => replace_includes(child, numbers),
            Content::Text(_) | Content::Binary(_) | Content::Verbatim(_) => {}
        }
    }
}
