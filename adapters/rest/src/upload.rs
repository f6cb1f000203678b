//! Reads `multipart/form-data` as it comes: parts in any order, constant memory, everything counted before it is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::port::{MessageStore, Staged, StoreError};
use amtsbote_http::{InFlight, Problem};
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::BytesMut;
use futures::StreamExt as _;
use multer::{Constraints, Field, Multipart, SizeLimit};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::RestLimits;
use crate::fault::{bad_request, store};

/// Bytes and time spent on a body that is refused anyway.
const LINGER: usize = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Bytes that may wait in memory for the head of a part to end; far more than any head, because content may follow at once.
const HEAD_MAX: usize = 4 << 20;
/// Bytes for boundary and headers of one part.
const PART_FRAMING: u64 = 1 << 10;
/// Longest file name kept.
const NAME_MAX: usize = 255;

/// A body that was read to its end.
pub(crate) struct Upload {
    pub(crate) metadata: Vec<u8>,
    /// Document first.
    pub(crate) parts: Vec<Part>,
    pub(crate) payload: Staged,
}

/// Bodies that need no metadata part of their own may leave it out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetadataPart {
    Required,
    Optional,
}

struct Reader<'a> {
    limits: &'a RestLimits,
    writer: Box<dyn amtsbote_core::port::PayloadWriter>,
    offset: u64,
    metadata: Option<Vec<u8>>,
    document: Option<Part>,
    attachments: Vec<Part>,
    /// Bytes that came since something was made of them. The parser keeps what it waits for in memory.
    came: Arc<AtomicUsize>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Reads a whole body. If it fails or is given up, nothing stays.
pub(crate) async fn read(
    store_port: &dyn MessageStore,
    limits: &RestLimits,
    headers: &HeaderMap,
    body: Body,
    metadata: MetadataPart,
) -> Result<Upload, Problem> {
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > stream_limit(limits)) {
        linger(body.into_data_stream()).await;
        return Err(body_too_large(limits));
    }
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(content_type).ok().filter(|boundary| !boundary.is_empty());
    let Some(boundary) = boundary else {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "multipart-required",
            "The body must be multipart/form-data with a boundary",
        ));
    };
    let mut stream = body.into_data_stream();
    let writer = store_port.stage().await.map_err(|error| store(&error))?;
    let mut reader = Reader {
        limits,
        writer,
        offset: 0,
        metadata: None,
        document: None,
        attachments: Vec::new(),
        came: Arc::default(),
    };
    if let Err(problem) = reader.parts(&mut stream, boundary).await {
        linger(stream).await;
        return Err(problem);
    }
    reader.finish(metadata).await
}

/// Reserves memory for a body, as long as the permit lives.
pub(crate) async fn admit(
    in_flight: &InFlight,
    headers: &HeaderMap,
    body: Body,
) -> Result<(OwnedSemaphorePermit, Body), Problem> {
    match in_flight.enter(headers) {
        Ok(permit) => Ok((permit, body)),
        Err(problem) => {
            linger(body.into_data_stream()).await;
            Err(problem)
        }
    }
}

/// Bytes of a whole stream: the limit is for document and attachments, so that metadata and the framing of parts come on top.
fn stream_limit(limits: &RestLimits) -> u64 {
    limits.body + limits.metadata as u64 + (limits.attachments as u64 + 2) * PART_FRAMING
}

/// Reads on for a moment after a refusal: a client that is still sending would get a reset instead of the answer.
async fn linger(mut stream: BodyDataStream) {
    let reading = async {
        let mut left = LINGER;
        while let Some(Ok(bytes)) = stream.next().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whether it ended or not, the answer goes out now.
    drop(tokio::time::timeout(LINGER_TIME, reading).await);
}

async fn stalled<T>(
    limits: &RestLimits,
    reading: impl Future<Output = Result<T, multer::Error>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(limits.stall, reading).await {
        Ok(result) => result.map_err(|error| refused(&error, limits)),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-stalled", "The body stopped coming")),
    }
}

/// More than this came while the head of a part was awaited.
#[derive(Debug, thiserror::Error)]
#[error("the head of a part is too large")]
struct HeadTooLarge;

impl Reader<'_> {
    async fn parts(&mut self, stream: &mut BodyDataStream, boundary: String) -> Result<(), Problem> {
        let constraints =
            Constraints::new().size_limit(SizeLimit::new().whole_stream(stream_limit(self.limits)));
        let came = Arc::clone(&self.came);
        let counted = stream.map(move |bytes| {
            let bytes = bytes.map_err(|error| Box::new(error) as Failure)?;
            let before = came.fetch_add(bytes.len(), Ordering::Relaxed);
            if before > HEAD_MAX { Err(Box::new(HeadTooLarge) as Failure) } else { Ok(bytes) }
        });
        let mut multipart = Multipart::with_constraints(counted, boundary, constraints);
        loop {
            self.came.store(0, Ordering::Relaxed);
            let Some(field) = stalled(self.limits, multipart.next_field()).await? else { return Ok(()) };
            self.part(field).await?;
        }
    }

    async fn part(&mut self, field: Field<'_>) -> Result<(), Problem> {
        match field.name() {
            Some("metadata") if self.metadata.is_some() => Err(twice("metadata")),
            Some("metadata") => {
                self.metadata = Some(read_metadata(self.limits, field).await?);
                Ok(())
            }
            Some("document") if self.document.is_some() => Err(twice("document")),
            Some("document") => {
                self.document = Some(self.store(field).await?);
                Ok(())
            }
            Some("attachment") if self.attachments.len() >= self.limits.attachments => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-attachments",
                "There are too many attachments",
            )
            .with("limit", self.limits.attachments as u64)),
            Some("attachment") => {
                let part = self.store(field).await?;
                self.attachments.push(part);
                Ok(())
            }
            _ => Err(bad_request("part-unknown", "Parts must be named metadata, document or attachment")),
        }
    }

    async fn store(&mut self, mut field: Field<'_>) -> Result<Part, Problem> {
        let name = field.file_name().map(clean_name);
        let media_type =
            field.content_type().map_or("application/octet-stream", |mime| mime.as_ref()).to_owned();
        let mut hasher = Sha256::new();
        let mut size = 0;
        while let Some(bytes) = stalled(self.limits, field.chunk()).await? {
            self.came.store(0, Ordering::Relaxed);
            hasher.update(&bytes);
            size += bytes.len() as u64;
            if self.offset + size > self.limits.body {
                return Err(body_too_large(self.limits));
            }
            self.writer.write(bytes).await.map_err(|error: StoreError| store(&error))?;
        }
        let sha256 = Sha256Digest::from(hasher);
        let part = Part { name, media_type, size, sha256, offset: self.offset, attributes: BTreeMap::new() };
        self.offset += size;
        Ok(part)
    }

    async fn finish(self, metadata: MetadataPart) -> Result<Upload, Problem> {
        let metadata = match (self.metadata, metadata) {
            (Some(content), _) => content,
            (None, MetadataPart::Optional) => b"{}".to_vec(),
            (None, MetadataPart::Required) => return Err(missing("metadata")),
        };
        let Some(document) = self.document else { return Err(missing("document")) };
        let payload = self.writer.finish().await.map_err(|error| store(&error))?;
        let parts = std::iter::once(document).chain(self.attachments).collect();
        Ok(Upload { metadata, parts, payload })
    }
}

async fn read_metadata(limits: &RestLimits, mut field: Field<'_>) -> Result<Vec<u8>, Problem> {
    let mut content = BytesMut::new();
    while let Some(bytes) = stalled(limits, field.chunk()).await? {
        if content.len() + bytes.len() > limits.metadata {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "metadata-too-large",
                "The metadata part is too large",
            )
            .with("limit", limits.metadata as u64));
        }
        content.extend_from_slice(&bytes);
    }
    Ok(content.to_vec())
}

/// A name for people: without a path, without control characters, not too long. Never used to open a file.
fn clean_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

fn twice(part: &'static str) -> Problem {
    bad_request("part-repeated", "A part is there twice").with("part", part)
}

fn missing(part: &'static str) -> Problem {
    bad_request("part-missing", "A part is missing").with("part", part)
}

fn body_too_large(limits: &RestLimits) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large")
        .with("limit", limits.body)
}

fn refused(error: &multer::Error, limits: &RestLimits) -> Problem {
    match error {
        multer::Error::StreamSizeExceeded { .. } => body_too_large(limits),
        multer::Error::StreamReadFailed(error) if error.is::<HeadTooLarge>() => {
            bad_request("part-head-too-large", "What stands before the content of a part is too large")
        }
        _ => {
            bad_request("body-incomplete", "The body is not complete multipart/form-data; nothing was stored")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_paths_and_controls() {
        assert_eq!(clean_name("../../etc/passwd"), "passwd");
        assert_eq!(clean_name("C:\\Daten\\Antrag.pdf"), "Antrag.pdf");
        assert_eq!(clean_name("a\r\nb\u{0}.pdf"), "ab.pdf");
        assert_eq!(clean_name(&"x".repeat(999)).len(), 255);
    }
}
