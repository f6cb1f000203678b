//! The XTA face, and remote XTA servers.

use std::collections::BTreeMap;
use std::time::Duration;

use amtsbote_core::key::{AccountName, PartyId};
use amtsbote_xta::{Urls, XtaOptions};
use url::Url;

use super::reader::{Findings, Section};
use super::schema::key_pair_of;
use super::{XtaPoll, XtaServerConfig};

const SECOND: Duration = Duration::from_secs(1);
const URL: &str = "write a URL such as \"https://xta.example/send.svc\"";
const IDENTIFIER: &str = "write an identifier such as \"ags:07315000\"";

/// The paths must differ and must not be those of the REST face.
pub(super) fn face(mut section: Section<'_>, findings: &mut Findings, most: u64) -> XtaOptions {
    let usual = XtaOptions::default();
    let mut paths: Vec<String> = Vec::new();
    for (key, default) in
        [("send", &usual.send), ("management", &usual.management), ("msgbox", &usual.msgbox)]
    {
        let path = section.text(findings, key).unwrap_or_else(|| default.clone());
        let shape = path.len() > 1
            && path.starts_with('/')
            && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.".contains(&b));
        if !shape || path.starts_with("/v1") || path == "/openapi.json" || paths.contains(&path) {
            let remedy = "write a path of its own such as \"/xta/send\", not below /v1";
            section.issue(findings, key, "is no path for this port", remedy);
        }
        paths.push(path);
    }
    let server_identity = section.text(findings, "server_identity").unwrap_or(usual.server_identity);
    let sender = section.parsed::<PartyId>(findings, "sender", IDENTIFIER).map(|party| party.to_string());
    let message_limit = section.number(findings, "message_bytes", usual.message_limit.min(most), 1024..=most);
    let answer_within = section.duration(findings, "answer_within", usual.answer_within);
    section.close(findings);
    let mut paths = paths.into_iter();
    let mut next = || paths.next().unwrap_or_default();
    let (send, management, msgbox) = (next(), next(), next());
    XtaOptions { send, management, msgbox, server_identity, sender, message_limit, most, answer_within }
}

/// Remote servers by name.
pub(super) fn servers(root: &mut Section<'_>, findings: &mut Findings) -> BTreeMap<String, XtaServerConfig> {
    let named = root.named(findings, "xta_servers");
    named.into_iter().filter_map(|(name, section)| Some((name, server(section, findings)?))).collect()
}

fn server(mut section: Section<'_>, findings: &mut Findings) -> Option<XtaServerConfig> {
    let mut url = |key: &str| {
        let url: Option<Url> = section.needed(findings, key, URL);
        if url.as_ref().is_some_and(|url| url.scheme() != "https" || url.host_str().is_none()) {
            section.issue(findings, key, "is no HTTPS address", URL);
        }
        url
    };
    let (send, management, msgbox) = (url("send"), url("management"), url("msgbox"));
    let identity = key_pair_of(&mut section, findings);
    let authorities = section.paths(findings, "ca");
    let identifier = section.needed::<PartyId>(findings, "identifier", IDENTIFIER);
    let author = section.parsed::<PartyId>(findings, "author", IDENTIFIER).map(|party| party.to_string());
    let attempt = section.duration(findings, "attempt", 60 * SECOND);
    let polled = section.has("poll");
    let every = section.duration(findings, "poll", 60 * SECOND);
    let account =
        section.parsed::<AccountName>(findings, "account", "name the account in whose name orders come in");
    let poll = match (polled, account) {
        (true, Some(account)) => Some(XtaPoll { every, account }),
        (true, None) => {
            section.issue(findings, "account", "is missing", "name the account in whose name orders come in");
            None
        }
        (false, _) => None,
    };
    section.close(findings);
    let urls = Urls { send: send?, management: management?, msgbox: msgbox? };
    let identifier = identifier?.to_string();
    Some(XtaServerConfig { urls, identity: identity?, authorities, identifier, author, attempt, poll })
}
