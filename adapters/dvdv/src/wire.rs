//! What servers send. Everything is optional, because real answers leave required properties out; unknown properties and
//! values are tolerated.

use std::collections::BTreeMap;

use amtsbote_core::Timestamp;
use amtsbote_core::port::DirectoryAnswer;
use amtsbote_core::route::{ChannelKind, Endpoint, EndpointCertificate, RecordRef};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::Decode;
use serde::Deserialize;

/// Answer of the token endpoint; snake case, against the example in the published file.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenReply {
    pub(crate) access_token: String,
    pub(crate) expires_in: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ProblemReply {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VerificationReply {
    #[serde(default)]
    pub(crate) verify_category: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrganizationReply {
    pub(crate) organization_keys: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceReply {
    id: Option<i64>,
    valid_from: Option<String>,
    valid_to: Option<String>,
    name_de: Option<String>,
    service_elements: Option<Vec<ElementReply>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ElementReply {
    service_element_description_name: Option<String>,
    service_element_type: Option<String>,
    custom_service_element_type: Option<String>,
    service_element_text: Option<String>,
    service_element_uri: Option<String>,
    cipher_certificate: Option<CertificateReply>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CertificateReply {
    content: Option<String>,
    revocation_date: Option<String>,
    revocation_reason: Option<String>,
}

impl CertificateReply {
    /// Base64 without white space.
    fn dense(&self) -> String {
        self.content.iter().flat_map(|text| text.chars()).filter(|c| !c.is_whitespace()).collect()
    }
}

/// A service with its span of validity, before it becomes an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) record: RecordRef,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Why the certificate must not be used.
    pub(crate) unusable: Option<String>,
}

impl Entry {
    /// Whether the entry may be used at a time, whatever its age.
    pub(crate) fn is_valid(&self, at: Timestamp) -> bool {
        self.record.valid_from.is_none_or(|from| from <= at) && self.record.valid_to.is_none_or(|to| at < to)
    }
}

/// A time that cannot be parsed makes the entry unusable rather than valid for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the service has an unreadable validity")]
pub(crate) struct UnreadableValidity;

fn time(text: Option<&String>) -> Result<Option<Timestamp>, UnreadableValidity> {
    text.map(|text| text.parse().map_err(|_| UnreadableValidity)).transpose()
}

impl ServiceReply {
    /// Translates into core's words; certificates are judged at `at`.
    pub(crate) fn into_entry(self, at: Timestamp) -> Result<Entry, UnreadableValidity> {
        let record = RecordRef {
            id: self.id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
            name: self.name_de.unwrap_or_default(),
            valid_from: time(self.valid_from.as_ref())?,
            valid_to: time(self.valid_to.as_ref())?,
        };
        let elements = self.service_elements.unwrap_or_default();
        let (endpoints, unusable) = match osci(&elements, at) {
            Some(Ok(endpoint)) => (vec![endpoint], None),
            Some(Err(reason)) => (Vec::new(), Some(reason)),
            None => (elements.iter().filter_map(other).collect(), None),
        };
        Ok(Entry { record, endpoints, unusable })
    }
}

/// The OSCI address: addressee and intermediary with their encryption certificates. `None`: not an OSCI service.
fn osci(elements: &[ElementReply], at: Timestamp) -> Option<Result<Endpoint, String>> {
    let find = |kind| elements.iter().find(|one| one.service_element_type.as_deref() == Some(kind));
    let (addressee, intermediary) = (find("OSCI_ADDRESSEE")?, find("OSCI_INTERMEDIARY"));
    Some((|| {
        let intermediary = intermediary.ok_or("no intermediary is listed")?;
        let mut certificates = BTreeMap::new();
        for (role, element) in
            [(EndpointCertificate::Recipient, addressee), (EndpointCertificate::Intermediary, intermediary)]
        {
            let certificate = cipher_certificate(element, elements)?;
            check(certificate, at)?;
            certificates.insert(role, certificate.dense());
        }
        let uri = |element: &ElementReply| {
            let uri = element.service_element_uri.as_deref().map(str::trim).filter(|uri| !uri.is_empty());
            uri.map(str::to_owned).ok_or("an address is missing")
        };
        let address = format!("{}#{}", uri(intermediary)?, uri(addressee)?);
        Ok(Endpoint { channel: ChannelKind::Osci, address, certificates })
    })())
}

/// The element's own certificate, else the one stand-alone certificate with the same role name. Never just the first.
fn cipher_certificate<'a>(
    element: &'a ElementReply,
    elements: &'a [ElementReply],
) -> Result<&'a CertificateReply, String> {
    if let Some(own) = &element.cipher_certificate {
        return Ok(own);
    }
    let mut named = elements.iter().filter(|one| {
        one.service_element_type.as_deref() == Some("CIPHER_CERTIFICATE")
            && one.service_element_description_name == element.service_element_description_name
    });
    match (named.next(), named.next()) {
        (Some(one), None) => {
            one.cipher_certificate.as_ref().ok_or_else(|| "an encryption certificate is empty".to_owned())
        }
        _ => Err("no encryption certificate is listed for an address".to_owned()),
    }
}

/// Revoked by date or reason, however written; expired; not for encryption: refused (fail closed).
fn check(certificate: &CertificateReply, at: Timestamp) -> Result<(), String> {
    if certificate.revocation_date.is_some() || certificate.revocation_reason.is_some() {
        return Err("the certificate is revoked".to_owned());
    }
    let der = STANDARD.decode(certificate.dense()).map_err(|_| "the certificate is not readable")?;
    let parsed = x509_cert::Certificate::from_der(&der).map_err(|_| "the certificate is not readable")?;
    let validity = &parsed.tbs_certificate.validity;
    let now = at.as_second().unsigned_abs();
    if now < validity.not_before.to_unix_duration().as_secs()
        || now > validity.not_after.to_unix_duration().as_secs()
    {
        return Err("the certificate is outside its validity".to_owned());
    }
    let usage = parsed.tbs_certificate.get::<x509_cert::ext::pkix::KeyUsage>();
    match usage.map_err(|_| "the certificate is not readable")? {
        Some((_, usage))
            if !(usage.key_encipherment() || usage.data_encipherment() || usage.key_agreement()) =>
        {
            Err("the certificate is not for encryption".to_owned())
        }
        _ => Ok(()),
    }
}

/// Addresses by the convention of Amtsbote; DVDV itself knows only OSCI.
fn other(element: &ElementReply) -> Option<Endpoint> {
    let kinds = BTreeMap::from([
        ("AMTSBOTE_XTA2", ChannelKind::Xta),
        ("AMTSBOTE_AMQP", ChannelKind::Amqp),
        ("AMTSBOTE_WEBHOOK", ChannelKind::Webhook),
        ("AMTSBOTE_DIRECTORY", ChannelKind::Folder),
    ]);
    let channel = *kinds.get(element.custom_service_element_type.as_deref()?)?;
    let address = if channel == ChannelKind::Folder {
        &element.service_element_text
    } else {
        &element.service_element_uri
    };
    let address = address.as_deref().map(str::trim).filter(|address| !address.is_empty())?;
    Some(Endpoint::new(channel, address.to_owned()))
}

/// Turns an entry into the answer at a time.
pub(crate) fn answer(entry: &Entry, at: Timestamp, fetched_at: Timestamp, stale: bool) -> DirectoryAnswer {
    if !entry.is_valid(at) {
        return DirectoryAnswer::NotValid { warning: "outside its validity".to_owned() };
    }
    match &entry.unusable {
        Some(reason) => DirectoryAnswer::CertificateUnusable { reason: reason.clone() },
        None => DirectoryAnswer::Found(amtsbote_core::port::DirectoryRecord {
            record: entry.record.clone(),
            endpoints: entry.endpoints.clone(),
            fetched_at,
            stale,
        }),
    }
}

/// Decodes the RFC 2047 words of a warning header, Q and B; unreadable text stays as it is.
pub(crate) fn decode_words(text: &str) -> String {
    let decode = |word: &str| -> Option<String> {
        let mut fields = word.strip_prefix("=?")?.strip_suffix("?=")?.splitn(3, '?');
        let (charset, encoding, content) = (fields.next()?, fields.next()?, fields.next()?);
        let bytes = match encoding {
            "B" | "b" => STANDARD.decode(content).ok()?,
            "Q" | "q" => {
                let content = content.replace('_', " ").replace('=', "%");
                percent_encoding::percent_decode_str(&content).collect()
            }
            _ => return None,
        };
        charset.eq_ignore_ascii_case("utf-8").then(|| String::from_utf8(bytes).ok()).flatten()
    };
    let words: Vec<String> =
        text.split(' ').map(|word| decode(word).unwrap_or_else(|| word.to_owned())).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_decoded() {
        assert_eq!(decode_words("=?UTF-8?Q?Dienst_ung=C3=BCltig?="), "Dienst ungültig");
        assert_eq!(decode_words("=?utf-8?B?RGllbnN0?="), "Dienst");
        assert_eq!(decode_words("plain =?broken?="), "plain =?broken?=");
    }

    #[test]
    fn a_service_of_nothing_but_nulls_is_listed_without_a_channel() {
        let reply: ServiceReply = serde_json::from_str(
            r#"{"id":null,"validFrom":null,"serviceElements":[{"serviceElementType":"NEW"}],"x":1}"#,
        )
        .unwrap();
        let entry = reply.into_entry(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((entry.endpoints.len(), entry.unusable), (0, None));
    }

    #[test]
    fn an_unreadable_validity_is_no_open_validity() {
        let reply: ServiceReply = serde_json::from_str(r#"{"validTo":"morgen"}"#).unwrap();
        assert_eq!(reply.into_entry(Timestamp::UNIX_EPOCH), Err(UnreadableValidity));
    }

    #[test]
    fn certificates_are_chosen_by_role_not_by_order() {
        let reply: ServiceReply = serde_json::from_str(
            r#"{"serviceElements":[
                {"serviceElementType":"OSCI_ADDRESSEE","serviceElementDescriptionName":"A","serviceElementUri":"osci-mailbox:a"},
                {"serviceElementType":"OSCI_INTERMEDIARY","serviceElementDescriptionName":"I","serviceElementUri":"http://i"},
                {"serviceElementType":"CIPHER_CERTIFICATE","serviceElementDescriptionName":"B","cipherCertificate":{"content":"AA=="}}]}"#,
        )
        .unwrap();
        let entry = reply.into_entry(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(entry.unusable.as_deref(), Some("no encryption certificate is listed for an address"));
    }

    #[test]
    fn a_reason_without_a_date_is_a_revocation() {
        let revoked = CertificateReply {
            content: None,
            revocation_date: None,
            revocation_reason: Some("KEY_COMPROMISE".to_owned()),
        };
        assert_eq!(check(&revoked, Timestamp::UNIX_EPOCH), Err("the certificate is revoked".to_owned()));
        let odd = CertificateReply {
            revocation_date: Some("gestern".to_owned()),
            revocation_reason: None,
            ..revoked
        };
        assert_eq!(check(&odd, Timestamp::UNIX_EPOCH), Err("the certificate is revoked".to_owned()));
    }
}
