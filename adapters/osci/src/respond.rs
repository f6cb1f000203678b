//! Responses as bytes: the XML part, then the parts, read from the store while they are sent; encrypted on the way if they have to be.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use amtsbote_core::id::MessageId;
use amtsbote_core::port::{Entropy, MessageStore, PartReader, StoreError};
use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use openssl::hash::Hasher;
use tokio::task::spawn_blocking;

use crate::codec::Problem;
use crate::codec::algorithm::Digest;
use crate::codec::certificate::Certificate;
use crate::codec::cipher::{Encryptor, encrypted_length, generate_key};
use crate::codec::draft::PartDigest;
use crate::codec::encryption::{Method, PART_ID, write_envelope};
use crate::codec::mime::{Encoding, PartHead, boundary, close_package, open_package, open_part};
use crate::deliveries::PartOut;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Where the bytes of an outgoing part are.
#[derive(Clone)]
pub(crate) enum Content {
    /// In a file, from a place.
    File {
        /// Which.
        file: Arc<File>,
        /// Where it begins.
        from: u64,
    },
    /// Part of a message.
    Stored(Arc<dyn MessageStore>, MessageId, u16),
}

/// A part of an outgoing message.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) head: PartHead,
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) content: Content,
}

impl Outgoing {
    /// A part of a stored message.
    pub(crate) fn stored(store: &Arc<dyn MessageStore>, message: MessageId, part: PartOut) -> Self {
        let content = Content::Stored(Arc::clone(store), message, part.number);
        Self { head: part.head, size: part.size, sha256: *part.sha256.as_bytes(), content }
    }

    /// Bytes that lie somewhere else.
    pub(crate) fn file(id: &str, content: Content, size: u64, sha256: [u8; 32]) -> Self {
        let content_type = "application/octet-stream".to_owned();
        let head = PartHead { id: id.to_owned(), content_type, encoding: Encoding::Raw, others: Vec::new() };
        Self { head, size, sha256, content }
    }
}

impl Outgoing {
    /// Reads it.
    pub(crate) async fn open(&self) -> Result<Box<dyn PartReader>, StoreError> {
        match &self.content {
            Content::File { file, from } => {
                Ok(Box::new(FileReader { file: Arc::clone(file), from: *from, left: self.size }))
            }
            Content::Stored(store, id, number) => open(store.as_ref(), *id, *number).await,
        }
    }
}

/// Digests of parts, for a signature. With SHA-256 they are known; for others the parts are read once more.
pub(crate) async fn digests(parts: &[Outgoing], algorithm: Digest) -> Result<Vec<PartDigest>, SendError> {
    let mut digests = Vec::with_capacity(parts.len());
    for part in parts {
        let value = match algorithm {
            Digest::Sha256 => part.sha256.to_vec(),
            _ => {
                let mut hasher = Hasher::new(algorithm.message_digest()).map_err(Problem::from)?;
                let mut reader = part.open().await?;
                while let Some(piece) = reader.next().await? {
                    hasher.update(&piece).map_err(Problem::from)?;
                }
                hasher.finish().map_err(Problem::from)?.to_vec()
            }
        };
        digests.push((part.head.id.clone(), value));
    }
    Ok(digests)
}

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Problem(#[from] Problem),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn open(
    store: &dyn MessageStore,
    id: MessageId,
    number: u16,
) -> Result<Box<dyn PartReader>, StoreError> {
    store.open_part(id, number, 0).await?.ok_or(StoreError::Removed { id })
}

/// Reads a range of a file in pieces.
struct FileReader {
    file: Arc<File>,
    from: u64,
    left: u64,
}

#[async_trait]
impl PartReader for FileReader {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let (file, from) = (Arc::clone(&self.file), self.from);
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, from).map(|()| bytes)
        });
        let read = read.await.map_err(io::Error::other).and_then(|read| read);
        let bytes = read.map_err(|source| StoreError::Io { doing: "reading a package", source })?;
        self.from += length as u64;
        self.left -= length as u64;
        Ok(Some(bytes.into()))
    }
}

enum Segment {
    Bytes(Bytes),
    File(FileReader),
    Stored(Arc<dyn MessageStore>, MessageId, u16),
    /// The end of what is encrypted.
    Seal,
}

/// A message as a stream of bytes whose number is known.
pub(crate) struct Wire {
    segments: VecDeque<Segment>,
    encryptor: Option<Encryptor>,
    reader: Option<Box<dyn PartReader>>,
    pub(crate) length: u64,
}

impl Wire {
    /// Lays a message out. With a certificate it is encrypted for its owner.
    pub(crate) fn new(
        xml: String,
        parts: Vec<Outgoing>,
        encrypt: Option<(Method, &Certificate)>,
        entropy: &dyn Entropy,
    ) -> Result<Self, Problem> {
        let new_boundary = || {
            let mut random = [0; 12];
            entropy.fill(&mut random);
            boundary(random)
        };
        let inner = new_boundary();
        let mut segments = VecDeque::new();
        let mut length = 0;
        let mut push = |segments: &mut VecDeque<Segment>, text: String| {
            length += text.len() as u64;
            segments.push_back(Segment::Bytes(text.into()));
        };
        push(&mut segments, open_package(&inner, None) + &xml);
        let mut stored = 0;
        for part in parts {
            push(&mut segments, open_part(&inner, &part.head, Some(part.size)));
            stored += part.size;
            segments.push_back(match part.content {
                Content::File { file, from } => Segment::File(FileReader { file, from, left: part.size }),
                Content::Stored(store, id, number) => Segment::Stored(store, id, number),
            });
        }
        push(&mut segments, close_package(&inner));
        length += stored;
        let Some((method, recipient)) = encrypt else {
            return Ok(Self { segments, encryptor: None, reader: None, length });
        };
        let key = generate_key(method.symmetric)?;
        let envelope = write_envelope(method, &key, recipient)?;
        let encryptor = Encryptor::new(method.symmetric, method.iv, &key)?;
        let length = encrypted_length(method.symmetric, method.iv, length);
        let outer = new_boundary();
        let content_type = "application/octet-stream".to_owned();
        let head =
            PartHead { id: PART_ID.to_owned(), content_type, encoding: Encoding::Raw, others: Vec::new() };
        // This part is called binary where attachments are called 8-bit.
        let opened = open_part(&outer, &head, Some(length)).replace(": 8-bit\r\n", ": binary\r\n");
        let before = open_package(&outer, Some(envelope.len())) + &envelope + &opened;
        let after = close_package(&outer);
        let length = length + (before.len() + after.len()) as u64;
        segments.push_back(Segment::Seal);
        segments.push_back(Segment::Bytes(after.into()));
        segments.push_front(Segment::Bytes(before.into()));
        Ok(Self { segments, encryptor: Some(encryptor), reader: None, length })
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self, first: bool) -> Result<Option<Bytes>, SendError> {
        loop {
            if let Some(reader) = &mut self.reader {
                match reader.next().await? {
                    Some(piece) => return Ok(Some(self.through(piece)?)),
                    None => self.reader = None,
                }
            }
            match self.segments.pop_front() {
                None => return Ok(None),
                Some(Segment::Bytes(bytes)) if first => return Ok(Some(bytes)),
                Some(Segment::Bytes(bytes)) => return Ok(Some(self.through(bytes)?)),
                Some(Segment::File(reader)) => self.reader = Some(Box::new(reader)),
                Some(Segment::Stored(store, id, number)) => {
                    self.reader = Some(open(store.as_ref(), id, number).await?);
                }
                Some(Segment::Seal) => {
                    if let Some(encryptor) = self.encryptor.take() {
                        return Ok(Some(encryptor.finish()?.into()));
                    }
                }
            }
        }
    }

    fn through(&mut self, piece: Bytes) -> Result<Bytes, Problem> {
        match &mut self.encryptor {
            Some(encryptor) => Ok(encryptor.update(&piece)?.into()),
            None => Ok(piece),
        }
    }

    /// The bytes, as they are wanted.
    pub(crate) fn stream(self) -> impl futures::Stream<Item = Result<Bytes, SendError>> + Send {
        stream::try_unfold((self, true), |(mut wire, first)| async move {
            // The envelope around what is encrypted comes first, and only that is not encrypted itself.
            let plain = first && wire.encryptor.is_some();
            let piece = wire.next(plain).await?;
            Ok(piece.map(|piece| (piece, (wire, false))))
        })
    }

    /// An answer over HTTP; also faults travel with 200, or deployed clients would not read them.
    pub(crate) fn into_response(self) -> Response {
        let length = self.length;
        let mut response = Response::new(Body::from_stream(self.stream()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}
