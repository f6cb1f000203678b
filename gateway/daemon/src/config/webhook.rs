//! Webhooks of departments.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use amtsbote_http::Reach;
use amtsbote_webhook::{Address, Format};
use url::Url;

use super::KeyPair;
use super::reader::{Findings, Section};
use super::schema::optional_pair_of;

const URL: &str = "write a URL such as \"https://office.example/messages\", or from_directory = true";

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where.
    pub address: Address,
    /// File with the secrets shared with it.
    pub secrets: PathBuf,
    /// Authorities of its certificate.
    pub authorities: Vec<PathBuf>,
    /// Our certificate there.
    pub identity: Option<KeyPair>,
    /// What a request holds.
    pub format: Format,
    /// Which addresses may be called.
    pub reach: Reach,
    /// Time for one request.
    pub attempt: Duration,
}

/// Endpoints by name.
pub(super) fn webhooks(root: &mut Section<'_>, findings: &mut Findings) -> BTreeMap<String, WebhookConfig> {
    let named = root.named(findings, "webhooks");
    named.into_iter().filter_map(|(name, section)| Some((name, webhook(section, findings)?))).collect()
}

fn webhook(mut section: Section<'_>, findings: &mut Findings) -> Option<WebhookConfig> {
    let url = section.parsed::<Url>(findings, "url", URL);
    let listed = section.flag(findings, "from_directory", false);
    let address = match (url, listed) {
        (Some(url), false) if url.scheme() == "https" && url.host_str().is_some() => Some(Address::Url(url)),
        (None, true) => Some(Address::Directory),
        (Some(_), false) => {
            section.issue(findings, "url", "is no HTTPS address", URL);
            None
        }
        (Some(_), true) => {
            section.issue(findings, "url", "contradicts from_directory", URL);
            None
        }
        (None, false) => {
            section.issue(findings, "url", "is missing", URL);
            None
        }
    };
    let secrets = section.path(findings, "secret_file");
    let authorities = section.paths(findings, "ca");
    if authorities.is_empty() {
        section.issue(findings, "ca", "is empty", "name the authorities of the endpoint's certificate");
    }
    let identity = optional_pair_of(&mut section, findings, "certificate", "key");
    let format = match section.text(findings, "format").as_deref() {
        None | Some("document") => Format::Document,
        Some("multipart") => Format::Multipart,
        Some(_) => {
            section.issue(findings, "format", "is unknown", "write \"document\" or \"multipart\"");
            Format::Document
        }
    };
    let usual = if listed { "public" } else { "anywhere" };
    let reach = match section.text(findings, "reach").as_deref().unwrap_or(usual) {
        "anywhere" => Reach::Anywhere,
        "public" => Reach::PublicOnly,
        _ => {
            section.issue(findings, "reach", "is unknown", "write \"anywhere\" or \"public\"");
            Reach::PublicOnly
        }
    };
    let attempt = section.duration(findings, "attempt", Duration::from_secs(25));
    section.close(findings);
    Some(WebhookConfig {
        address: address?,
        secrets: secrets?,
        authorities,
        identity,
        format,
        reach,
        attempt,
    })
}
