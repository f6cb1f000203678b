//! Downloads with `Range` (RFC 9110 section 14): one range of bytes; several are answered with the whole.

use amtsbote_core::message::Part;
use amtsbote_core::port::PartReader;
use amtsbote_http::Problem;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

/// First byte and number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) partial: bool,
}

/// What the header asks for; an unreadable header is ignored, an impossible range refused.
pub(crate) fn wanted(headers: &HeaderMap, size: u64) -> Result<Span, Problem> {
    let whole = Span { start: 0, length: size, partial: false };
    let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Ok(whole);
    };
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(whole);
    };
    let number = |text: &str| (!text.is_empty()).then(|| text.parse::<u64>());
    let (start, end) = match (number(first.trim()), number(last.trim())) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(Ok(first)), None) => (first, size),
        (None, Some(Ok(last))) => (size.saturating_sub(last), size),
        _ => return Ok(whole),
    };
    if start >= size {
        return Err(Problem::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range-not-satisfiable",
            "The part is shorter than the range begins",
        )
        .with("size", size));
    }
    Ok(Span { start, length: end - start, partial: true })
}

/// A streaming answer with the bytes of a span.
pub(crate) fn respond(part: &Part, span: Span, reader: Box<dyn PartReader>) -> Response {
    let body = futures::stream::unfold((reader, span.length), |(mut reader, left)| async move {
        if left == 0 {
            // The end also checks the digest of a whole part; a mismatch must not look like a complete download.
            return match reader.next().await {
                Ok(_) => None,
                Err(error) => Some((Err(error), (reader, 0))),
            };
        }
        match reader.next().await {
            Ok(Some(mut bytes)) => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                bytes.truncate(take);
                Some((Ok::<Bytes, _>(bytes), (reader, left - take as u64)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), (reader, 0))),
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_str(&part.media_type);
    headers.insert(
        header::CONTENT_TYPE,
        media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(span.length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", part.sha256)) {
        headers.insert(header::ETAG, tag);
    }
    if span.partial {
        let range = format!("bytes {}-{}/{}", span.start, span.start + span.length - 1, part.size);
        if let Ok(range) = HeaderValue::from_str(&range) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(range: &str) -> Result<(u64, u64, bool), StatusCode> {
        let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(range).unwrap())]);
        wanted(&headers, 100)
            .map(|span| (span.start, span.length, span.partial))
            .map_err(|problem| problem.status())
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        assert_eq!(ask("bytes=0-9"), Ok((0, 10, true)));
        assert_eq!(ask("bytes=90-"), Ok((90, 10, true)));
        assert_eq!(ask("bytes=-10"), Ok((90, 10, true)));
        assert_eq!(ask("bytes=-1000"), Ok((0, 100, true)));
        assert_eq!(ask("bytes=50-1000"), Ok((50, 50, true)));
        assert_eq!(ask("bytes=100-"), Err(StatusCode::RANGE_NOT_SATISFIABLE));
        for ignored in ["bytes=9-0", "items=0-9", "bytes=a-b", "bytes=0-1,5-6", "bytes=-"] {
            assert_eq!(ask(ignored), Ok((0, 100, false)), "{ignored}");
        }
    }
}
