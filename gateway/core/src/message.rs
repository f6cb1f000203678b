//! What a portal hands in and what is kept of it, unchanged for ever: metadata, parts, digests.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::MessageId;
use crate::key::{AccountName, AreaKey, CaseId, IdempotencyKey, OrderingKey, PartyId, ServiceKey};

/// SHA-256 of some content; written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Digest of bytes that are at hand; streams feed a [`Sha256`] themselves and use [`From`].
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The raw digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Sha256> for Sha256Digest {
    fn from(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl From<[u8; 32]> for Sha256Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0_u8; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(text.as_bytes(), &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// Scheduling class inside a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before `normal`; of the hand-overs to a push channel one of eight still goes to `normal`.
    High,
    /// The usual class.
    #[default]
    Normal,
}

/// Kind of business message, as XTA's MessageType carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessageType {
    /// Code of the message in its list.
    pub code: String,
    /// URI of the schema the payload follows.
    pub payload_schema: String,
    /// URI of the code list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_uri: Option<String>,
    /// Version of the code list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_version: Option<String>,
}

/// Everything the author says about a submission. Its JSON form is canonical: equal metadata has equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The service applied for.
    pub service: ServiceKey,
    /// The place that decides who is responsible; absent exactly when `recipient` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaKey>,
    /// The recipient, when the author already knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<PartyId>,
    /// One line for humans; personal data, never logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The author's case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case_id: Option<CaseId>,
    /// Scheduling class.
    #[serde(default)]
    pub priority: Priority,
    /// Not to be handed over before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Worthless afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Legal deadline (Frist) by which it should have been handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Messages with the same key keep their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<OrderingKey>,
    /// Party of the sender that takes replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<PartyId>,
    /// Kind of business message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_type: Option<MessageType>,
    /// XTA business scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_scenario: Option<String>,
    /// Message this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<MessageId>,
    /// Process the message belongs to, across systems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_ref: Option<String>,
}

/// Position of a part: the document is number 0, attachments count from 1 in order of arrival.
pub type PartNumber = u16;

/// One stored body part. The payload is the concatenation of all parts in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// File name as given, for humans; never used as a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Media type as given, `application/octet-stream` if none was.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub sha256: Sha256Digest,
    /// Where the part begins in the payload.
    pub offset: u64,
    /// What the sender's protocol says about the part besides, by the protocol's own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// Protocol in which an external id has its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdScheme {
    /// REST `Idempotency-Key`.
    Client,
    /// XTA MessageID.
    Xta,
    /// OSCI MessageId.
    Osci,
}

impl Metadata {
    /// What holds for an answer that says nothing about itself: the same case, without what was meant for the question alone.
    pub fn of_answer(&self) -> Self {
        Self {
            subject: None,
            message_type: None,
            deadline: None,
            expires_at: None,
            not_before: None,
            ordering_key: None,
            ..self.clone()
        }
    }
}

/// An id somebody else gave the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalId {
    /// Protocol.
    pub scheme: IdScheme,
    /// The id, in its original spelling.
    pub value: String,
}

/// Kind of metadata that is carried along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarriedKind {
    /// The element MessageMetaData of XTA 2.1.1.
    XtaMetadata,
    /// The element X509TokenContainer of XTA 2.1.1.
    XtaTokens,
    /// The certificates of an OSCI delivery, a header block in its canonical form.
    OsciCertificates,
    /// A header block of an OSCI delivery that nobody here knows, in its canonical form.
    OsciHeader,
    /// Checks of the certificates of an OSCI delivery, as JSON.
    OsciInspections,
}

/// Metadata of a protocol as it came, byte for byte. What [`Metadata`] knows is there, too; the rest is carried to whoever speaks
/// the same protocol. May hold personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// What it is.
    pub kind: CarriedKind,
    /// The text.
    pub text: String,
}

/// Key under which intake of a message is idempotent: unique per account and scheme (design section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IntakeKey {
    /// Who submits.
    pub account: AccountName,
    /// Protocol of the key.
    pub scheme: IdScheme,
    /// The key, normalised as its protocol compares it.
    pub value: IdempotencyKey,
}

/// An accepted message. Immutable; what happens to it is its [`crate::delivery::Delivery`] and its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Identity.
    pub id: MessageId,
    /// When the acceptance was decided.
    pub received_at: Timestamp,
    /// Account that submitted it.
    pub account: AccountName,
    /// Party it was submitted for.
    pub sender: PartyId,
    /// What the author said.
    pub metadata: Metadata,
    /// Document first, then attachments.
    pub parts: Vec<Part>,
    /// Digest over metadata and parts, see [`content_digest`].
    pub content: Sha256Digest,
    /// Ids others gave it.
    pub external_ids: Vec<ExternalId>,
    /// Metadata of the protocol it came in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<Carried>,
}

impl Message {
    /// Ids under which it arrived. What only carried metadata name is not among them: nobody vouches for that.
    pub fn arrival_ids(&self) -> impl Iterator<Item = &ExternalId> {
        let by_osci = self.carried(CarriedKind::OsciCertificates).is_some();
        self.external_ids.iter().filter(move |id| match id.scheme {
            IdScheme::Client => false,
            IdScheme::Xta => !by_osci,
            IdScheme::Osci => true,
        })
    }

    /// Metadata of a protocol, if it came with any.
    pub fn carried(&self, kind: CarriedKind) -> Option<&str> {
        self.carried.iter().find(|one| one.kind == kind).map(|one| one.text.as_str())
    }

    /// The id it has in a protocol, if somebody gave it one.
    pub fn external_id(&self, scheme: IdScheme) -> Option<&str> {
        self.external_ids.iter().find(|id| id.scheme == scheme).map(|id| id.value.as_str())
    }

    /// Party whose mailbox takes replies and notices for the sender.
    pub fn reply_to(&self) -> &PartyId {
        self.metadata.reply_to.as_ref().unwrap_or(&self.sender)
    }

    /// Bytes of all parts together.
    pub fn payload_size(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }
}

/// Digest by which two submissions count as the same: canonical metadata plus, per part in order, name, media type,
/// length and digest (design section 4.2). Packaging does not matter. `canonical` is what else the author says in a form in which equal
/// statements are equal bytes; empty if there is nothing else.
pub fn content_digest(metadata: &Metadata, canonical: &[u8], parts: &[Part]) -> Sha256Digest {
    let mut hasher = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    // Serialising plain strings and numbers into memory cannot fail; an empty field would only make digests differ.
    field(&serde_json::to_vec(metadata).unwrap_or_default());
    if !canonical.is_empty() {
        field(canonical);
    }
    for part in parts {
        field(part.name.as_deref().unwrap_or_default().as_bytes());
        field(part.media_type.as_bytes());
        field(&part.size.to_be_bytes());
        field(part.sha256.as_bytes());
    }
    hasher.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: Option<&str>, offset: u64) -> Part {
        Part {
            name: name.map(str::to_owned),
            media_type: "application/pdf".to_owned(),
            size: 3,
            sha256: Sha256Digest::of(b"abc"),
            offset,
            attributes: BTreeMap::new(),
        }
    }

    fn metadata(subject: &str) -> Metadata {
        serde_json::from_value(serde_json::json!({
            "service": {"ozg": "10092"}, "area": {"ars": "073150000000"}, "subject": subject
        }))
        .unwrap()
    }

    #[test]
    fn same_content_ignores_where_the_bytes_lie() {
        let one = content_digest(&metadata("a"), b"", &[part(Some("x"), 0), part(None, 3)]);
        assert_eq!(one, content_digest(&metadata("a"), b"", &[part(Some("x"), 7), part(None, 0)]));
    }

    #[test]
    fn any_difference_an_author_makes_is_other_content() {
        let one = content_digest(&metadata("a"), b"", &[part(Some("x"), 0), part(None, 3)]);
        assert_ne!(one, content_digest(&metadata("b"), b"", &[part(Some("x"), 0), part(None, 3)]));
        assert_ne!(one, content_digest(&metadata("a"), b"", &[part(None, 0), part(Some("x"), 3)]));
        assert_ne!(one, content_digest(&metadata("a"), b"", &[part(Some("x"), 0)]));
        assert_ne!(one, content_digest(&metadata("a"), b"z", &[part(Some("x"), 0), part(None, 3)]));
    }
}
