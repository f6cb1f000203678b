//! A description of the three ports for toolkits, written from the facts of the standard.

use crate::XtaOptions;

const DOCUMENT: &str = include_str!("xta.wsdl");

/// The document with the addresses at which the client found it. Text that can be no host is not repeated.
pub(crate) fn document(options: &XtaOptions, host: Option<&str>) -> String {
    let plain = |host: &&str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
    };
    let host = host.filter(plain).unwrap_or("localhost");
    [("@management@", &options.management), ("@send@", &options.send), ("@msgbox@", &options.msgbox)]
        .into_iter()
        .fold(DOCUMENT.to_owned(), |text, (mark, path)| text.replace(mark, &format!("https://{host}{path}")))
}
