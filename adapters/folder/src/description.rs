//! `message.json`: what the gateway knows of a message, in the words of the mailbox, and the names of its files.

use amtsbote_core::message::Part;
use amtsbote_core::port::Handover;
use serde_json::Value;

/// Name of the description.
pub(crate) const DESCRIPTION: &str = "message.json";
/// Name of the seal.
pub(crate) const SIGNATURE: &str = "signature.p7s";

/// The file of a part; 0 is the document.
pub(crate) fn file_name(number: usize, part: &Part) -> String {
    let extension = extension(&part.media_type);
    match number {
        0 => format!("document.{extension}"),
        n => format!("attachment-{n}.{extension}"),
    }
}

/// Extensions old systems look for. Nothing a sender wrote becomes one.
fn extension(media_type: &str) -> &'static str {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/pdf" => "pdf",
        "application/json" => "json",
        "application/zip" => "zip",
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "text/plain" => "txt",
        "text/csv" => "csv",
        "text/html" => "html",
        essence if essence == "text/xml" || essence == "application/xml" || essence.ends_with("+xml") => {
            "xml"
        }
        _ => "bin",
    }
}

/// The description of a hand-over.
pub(crate) fn describe(handover: &Handover) -> Value {
    let mut described = handover.describe(|number, part| ("file", file_name(number, part)));
    described["signature"] = Value::from(SIGNATURE);
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_follow_the_type_and_nothing_else() {
        for (media_type, expected) in [
            ("application/xml", "xml"),
            ("Text/XML; charset=utf-8", "xml"),
            ("application/xenc+xml", "xml"),
            ("application/pdf", "pdf"),
            ("image/svg+xml", "xml"),
            ("../../etc/passwd", "bin"),
            ("", "bin"),
        ] {
            assert_eq!(extension(media_type), expected, "{media_type}");
        }
    }
}
