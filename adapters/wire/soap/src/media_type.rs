//! Media types with parameters, as deployed SOAP stacks write them.

use std::str::FromStr;

/// A media type, for example `multipart/related; type="application/xop+xml"; boundary=b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    parameters: Vec<(String, String)>,
}

/// Text that is no media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a media type")]
pub struct NotMediaType;

impl MediaType {
    /// Type and subtype in lower case.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// The value of a parameter without quotes; names do not care for case. Of several the first counts.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl FromStr for MediaType {
    type Err = NotMediaType;

    /// RFC 2045 section 5.1; values that should have been quoted are read up to the next semicolon.
    fn from_str(text: &str) -> Result<Self, NotMediaType> {
        let (essence, mut rest) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim().to_ascii_lowercase();
        let token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&b))
        };
        if !essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype)) {
            return Err(NotMediaType);
        }
        let mut parameters = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ';']);
            if rest.is_empty() {
                return Ok(Self { essence, parameters });
            }
            let (name, value) = rest.split_once('=').ok_or(NotMediaType)?;
            let (value, after) = parameter_value(value.trim_start())?;
            parameters.push((name.trim().to_ascii_lowercase(), value));
            rest = after;
        }
    }
}

/// A value and what comes after it.
fn parameter_value(text: &str) -> Result<(String, &str), NotMediaType> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_once(';').unwrap_or((text, ""));
        return Ok((value.trim_end().to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next().ok_or(NotMediaType)?.1),
            c => value.push(c),
        }
    }
    Err(NotMediaType)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_of_quotes_are_read() {
        let media: MediaType = r#"Multipart/Related; start-info="application/soap+xml; action=\"urn:x\""; Boundary=uuid:1 ;type="a/b""#
            .parse()
            .unwrap();
        assert_eq!(media.essence(), "multipart/related");
        assert_eq!(media.parameter("start-info"), Some(r#"application/soap+xml; action="urn:x""#));
        assert_eq!((media.parameter("boundary"), media.parameter("type")), (Some("uuid:1"), Some("a/b")));
        assert_eq!(media.parameter("charset"), None);
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "text", "/xml", "text/xml; a", "text/xml; a=\"b", "text/xml; a=\"b\\", "te xt/xml"] {
            assert_eq!(text.parse::<MediaType>(), Err(NotMediaType), "{text}");
        }
    }
}
