//! The one place where an OSCI delivery becomes a message, and any message an OSCI delivery (design section 4.4).
//!
//! | OSCI | message |
//! |---|---|
//! | MessageId | id, and external id of scheme `osci` |
//! | cipher certificate of the addressee | recipient: the first organisation its account serves |
//! | certificate of the originator | account and sender |
//! | Subject | subject |
//! | first content | document |
//! | further contents, parts of the message | attachments |
//! | ContentPackage as it came, in its canonical form | last attachment; the document itself if only readers can open it |
//! | NonIntermediaryCertificates, custom header blocks, inspections | carried along |
//! | MessageMetaData | metadata as for XTA, carried along byte for byte |
//!
//! A message that did not come by OSCI is put into one container: a small document inside the XML, everything else as parts.

use std::collections::{BTreeMap, BTreeSet};

use amtsbote_core::key::{ServiceKey, SpecificationUri};
use amtsbote_core::message::{
    Carried, CarriedKind, IdScheme, Message, Metadata, Part, PartNumber, Priority, Sha256Digest,
};
use amtsbote_core::port::{MessageStore, PartReader, PayloadWriter, Staged, StoreError};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::codec::Problem;
use crate::codec::block::{CertificateEntry, CertificateRole, Certificates, CustomHeader, check_ids};
use crate::codec::card::Inspection;
use crate::codec::content::{ContentPackage, Item, NewContainer, NewContent};
use crate::codec::mime::{Encoding, PartHead};
use crate::reception::Received;

/// Media type of content that only its readers can open.
const SEALED: &str = "application/xenc+xml";
/// Attribute of the part that is the content package.
const PACKAGE: &str = "osci-package";
/// Attribute of parts that travel as parts of the message: their content id.
const CONTENT_ID: &str = "osci-content-id";
/// Attribute of parts whose header had more fields.
const FIELDS: &str = "osci-fields";
/// Documents up to this size travel inside of the XML.
const INLINE_MAX: u64 = 1 << 20;
/// Bytes of a content package that are read into memory.
const PACKAGE_MAX: u64 = 64 << 20;

/// Stands for the service of a delivery that names none.
const NO_SERVICE: &str = "urn:amtsbote:service:unnamed";

/// Metadata of a delivery that says nothing.
pub(crate) fn unspoken() -> Option<Metadata> {
    Some(Metadata {
        service: ServiceKey::Uri(NO_SERVICE.parse::<SpecificationUri>().ok()?),
        area: None,
        recipient: None,
        subject: None,
        case_id: None,
        priority: Priority::Normal,
        not_before: None,
        expires_at: None,
        deadline: None,
        ordering_key: None,
        reply_to: None,
        message_type: None,
        business_scenario: None,
        in_reply_to: None,
        process_ref: None,
    })
}

/// A part that is about to be stored.
pub(crate) struct Planned {
    name: Option<String>,
    media_type: String,
    attributes: BTreeMap<String, String>,
    source: Source,
}

enum Source {
    Bytes(Bytes),
    /// Content id of a received part.
    Part(String),
}

/// A name for people: without a path, without control characters, not too long. Never used to open a file.
fn clean_name(given: &str) -> Option<String> {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(255).collect();
    (!name.is_empty()).then_some(name)
}

fn media_type(bytes: &[u8]) -> &'static str {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'<') { "application/xml" } else { "application/octet-stream" }
}

/// What of a delivery is kept, once it is right. Digests whatever its authors signed, large parts included: nothing for a worker of the runtime.
pub(crate) fn checked(received: &Received, certificates: &Certificates) -> Result<Vec<Planned>, Problem> {
    check_ids(&received.envelope)?;
    let package = ContentPackage::of(&received.envelope)?;
    package.check(certificates, &received.part_ids(), received)?;
    plan(&package, received)
}

/// What a delivery consists of, the document first.
fn plan(package: &ContentPackage<'_>, received: &Received) -> Result<Vec<Planned>, Problem> {
    let items = package.items()?;
    let canonical = package.canonical_children();
    let only_sealed = matches!(items.as_slice(), [Item::Sealed { xml, .. }] if *xml == canonical);
    let mut planned = Vec::new();
    let mut used = BTreeSet::new();
    for item in items {
        match item {
            Item::Inline { id, bytes } => planned.push(Planned {
                name: clean_name(id),
                media_type: media_type(&bytes).to_owned(),
                attributes: BTreeMap::new(),
                source: Source::Bytes(bytes.into()),
            }),
            Item::Part { part, .. } => {
                if used.insert(part.to_owned()) {
                    planned.extend(attached(received, part));
                }
            }
            Item::Sealed { xml, .. } => {
                let mark = (PACKAGE.to_owned(), "sealed".to_owned());
                planned.push(Planned {
                    name: Some("encrypted.xml".to_owned()),
                    media_type: SEALED.to_owned(),
                    attributes: only_sealed.then_some(mark).into_iter().collect(),
                    source: Source::Bytes(xml.into()),
                });
            }
        }
    }
    if planned.is_empty() && !received.parts().is_empty() {
        return Err(Problem::Structure("parts that no content refers to"));
    }
    let others: Vec<&str> = received.part_ids().into_iter().filter(|id| !used.contains(*id)).collect();
    for id in others {
        planned.extend(attached(received, id));
    }
    if planned.is_empty() {
        return Err(Problem::Structure("nothing in the ContentPackage"));
    }
    if !only_sealed {
        planned.push(Planned {
            name: Some("osci-content-package.xml".to_owned()),
            media_type: "application/xml".to_owned(),
            attributes: BTreeMap::from([(PACKAGE.to_owned(), "children".to_owned())]),
            source: Source::Bytes(canonical.into()),
        });
    }
    Ok(planned)
}

fn attached(received: &Received, id: &str) -> Option<Planned> {
    let head = &received.part(id)?.head;
    let mut attributes = BTreeMap::from([(CONTENT_ID.to_owned(), id.to_owned())]);
    if !head.others.is_empty() {
        let fields: Vec<String> =
            head.others.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        attributes.insert(FIELDS.to_owned(), fields.join("\r\n"));
    }
    let (name, media_type) = (clean_name(id), head.content_type.clone());
    Some(Planned { name, media_type, attributes, source: Source::Part(id.to_owned()) })
}

/// Why parts were not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a part cannot be read")]
    Read(#[from] std::io::Error),
}

/// Writes the parts of a delivery into the store.
pub(crate) async fn keep(
    planned: Vec<Planned>,
    received: &Received,
    mut writer: Box<dyn PayloadWriter>,
) -> Result<(Vec<Part>, Staged), KeepError> {
    let (mut parts, mut offset) = (Vec::with_capacity(planned.len()), 0);
    for Planned { name, media_type, attributes, source } in planned {
        let (mut hasher, mut size) = (Sha256::new(), 0);
        match source {
            Source::Bytes(bytes) => {
                hasher.update(&bytes);
                size += bytes.len() as u64;
                writer.write(bytes).await?;
            }
            Source::Part(id) => {
                let mut content = received.part(&id).map(|part| received.content(part));
                while let Some(mut reading) = content.take() {
                    let read = if reading.is_in_memory() {
                        reading.next_piece()?.map(|piece| (piece, reading))
                    } else {
                        let read = tokio::task::spawn_blocking(move || Ok((reading.next_piece()?, reading)));
                        let (piece, reading) = read
                            .await
                            .map_err(std::io::Error::other)?
                            .map_err(|error: std::io::Error| error)?;
                        piece.map(|piece| (piece, reading))
                    };
                    let Some((piece, reading)) = read else { break };
                    hasher.update(&piece);
                    size += piece.len() as u64;
                    writer.write(piece.into()).await?;
                    content = Some(reading);
                }
            }
        }
        let sha256 = Sha256Digest::from(hasher);
        parts.push(Part { name, media_type, size, sha256, offset, attributes });
        offset += size;
    }
    Ok((parts, writer.finish().await?))
}

/// What a delivery says besides, for those who speak OSCI.
pub(crate) fn carry(
    certificates: &Certificates,
    custom: &[CustomHeader],
    inspections: &[Inspection],
) -> Vec<Carried> {
    // Deployed recipients refuse deliveries that name the addressee's signature certificate. An intermediary shows its own.
    let handed_on = |entry: &&CertificateEntry| {
        !matches!(
            entry.role,
            CertificateRole::SignatureAddressee
                | CertificateRole::CipherIntermediary
                | CertificateRole::SignatureIntermediary
        )
    };
    let block = Certificates(certificates.0.iter().filter(handed_on).cloned().collect()).write_others();
    let mut carried = vec![Carried { kind: CarriedKind::OsciCertificates, text: block }];
    carried.extend(custom.iter().map(|header| {
        let kind = if header.is_metadata() { CarriedKind::XtaMetadata } else { CarriedKind::OsciHeader };
        Carried { kind, text: header.text.clone() }
    }));
    if !inspections.is_empty() {
        let text = serde_json::to_string(inspections).unwrap_or_default();
        carried.push(Carried { kind: CarriedKind::OsciInspections, text });
    }
    carried
}

/// The inspections of a message.
pub(crate) fn inspections(message: &Message) -> Vec<Inspection> {
    let text = message.carried(CarriedKind::OsciInspections).unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// The id of a message as OSCI knows it.
pub(crate) fn osci_id(message: &Message) -> String {
    let given = message.external_id(IdScheme::Osci).map(str::to_owned);
    given.unwrap_or_else(|| message.id.uuid().as_hyphenated().to_string())
}

/// A part of a message on its way out.
#[derive(Debug, Clone)]
pub(crate) struct PartOut {
    pub(crate) head: PartHead,
    pub(crate) number: PartNumber,
    pub(crate) size: u64,
    pub(crate) sha256: Sha256Digest,
}

/// A message as an OSCI delivery.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    /// Children of the content package.
    pub(crate) package: String,
    pub(crate) parts: Vec<PartOut>,
    /// The block of certificates, as it came.
    pub(crate) certificates: Option<String>,
    /// Header blocks that go along.
    pub(crate) custom: Vec<String>,
}

async fn read_all(mut reader: Box<dyn PartReader>) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn gone(message: &Message) -> StoreError {
    StoreError::Removed { id: message.id }
}

fn number_of(at: usize) -> PartNumber {
    PartNumber::try_from(at).unwrap_or(PartNumber::MAX)
}

async fn bytes_of(
    store: &dyn MessageStore,
    message: &Message,
    number: PartNumber,
) -> Result<Vec<u8>, StoreError> {
    let reader = store.open_part(message.id, number, 0).await?.ok_or_else(|| gone(message))?;
    read_all(reader).await
}

/// A message in the form of OSCI. `metadata`: what it is in the form of XTA, if it did not come with that.
pub(crate) async fn render(
    store: &dyn MessageStore,
    message: &Message,
    metadata: Option<String>,
) -> Result<Rendered, StoreError> {
    let package_at = message.parts.iter().position(|part| part.attributes.contains_key(PACKAGE));
    let certificates = message.carried(CarriedKind::OsciCertificates).map(str::to_owned);
    let mut custom: Vec<String> = message
        .carried
        .iter()
        .filter(|one| one.kind == CarriedKind::OsciHeader)
        .map(|one| one.text.clone())
        .collect();
    let own = message.carried(CarriedKind::XtaMetadata).map(str::to_owned);
    custom.extend(own.or(metadata).map(|text| with_id(&text)));
    let Some(at) = package_at.filter(|at| message.parts[*at].size <= PACKAGE_MAX) else {
        let (package, parts) = contain(store, message).await?;
        return Ok(Rendered { package, parts, certificates, custom });
    };
    let package = bytes_of(store, message, number_of(at)).await?;
    let package = String::from_utf8(package).map_err(|_| StoreError::Damaged {
        id: message.id,
        detail: "its ContentPackage is no text".to_owned(),
    })?;
    let parts = message.parts.iter().enumerate().filter_map(|(number, part)| {
        let id = part.attributes.get(CONTENT_ID)?.clone();
        Some(part_out(part, number_of(number), id))
    });
    Ok(Rendered { package, parts: parts.collect(), certificates, custom })
}

fn part_out(part: &Part, number: PartNumber, id: String) -> PartOut {
    let fields = part.attributes.get(FIELDS).map(String::as_str).unwrap_or_default();
    let others = fields.split("\r\n").filter_map(|line| line.split_once(": "));
    let others = others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let content_type = part.media_type.clone();
    let head = PartHead { id, content_type, encoding: Encoding::Raw, others };
    PartOut { head, number, size: part.size, sha256: part.sha256 }
}

/// Puts a message into one container.
async fn contain(store: &dyn MessageStore, message: &Message) -> Result<(String, Vec<PartOut>), StoreError> {
    let (inline, parts) = contents(store, message).await?;
    let of_parts = parts.iter().map(|part| NewContent::Part(part.head.id.clone(), None));
    let contents = inline.map(NewContent::Inline).into_iter().chain(of_parts).collect();
    let unsigned = NewContainer { contents }.finish(None);
    let package = unsigned
        .map_err(|_| StoreError::Damaged { id: message.id, detail: "it has no form in OSCI".to_owned() })?;
    Ok((package, parts))
}

/// What a message that did not come by OSCI consists of: a small document, and everything else.
pub(crate) async fn contents(
    store: &dyn MessageStore,
    message: &Message,
) -> Result<(Option<Vec<u8>>, Vec<PartOut>), StoreError> {
    let (mut inline, mut parts, mut ids) = (None, Vec::new(), BTreeSet::new());
    for (at, part) in message.parts.iter().enumerate() {
        let number = number_of(at);
        if at == 0 && part.size <= INLINE_MAX {
            inline = Some(bytes_of(store, message, number).await?);
            continue;
        }
        let usual = |name: &&str| {
            name.len() <= 100 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let id = part.name.as_deref().filter(usual).map_or_else(|| format!("part{at}"), str::to_owned);
        let id = if ids.insert(id.clone()) { id } else { format!("{at}-{id}") };
        let mut out = part_out(part, number, id);
        // Media types of strangers become fields of a header.
        if out.head.content_type.chars().any(|c| c.is_control() || !c.is_ascii()) {
            out.head.content_type = "application/octet-stream".to_owned();
        }
        parts.push(out);
    }
    Ok((inline, parts))
}

/// Header blocks have an id; by this one deployed software finds the metadata.
fn with_id(element: &str) -> String {
    let name = element.find([' ', '>', '/', '\t', '\n', '\r']).unwrap_or(element.len());
    let (name, rest) = element.split_at(name);
    let tag = &rest[..rest.find('>').unwrap_or(rest.len())];
    if tag.contains(" Id=") { element.to_owned() } else { format!("{name} Id=\"MetaData\"{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_blocks_get_an_id_once() {
        assert_eq!(with_id("<m:M xmlns:m=\"u\"><a/></m:M>"), "<m:M Id=\"MetaData\" xmlns:m=\"u\"><a/></m:M>");
        assert_eq!(with_id("<M/>"), "<M Id=\"MetaData\"/>");
        let has = "<m:M xmlns:m=\"u\" Id=\"x\"><a/></m:M>";
        assert_eq!(with_id(has), has);
    }

    #[test]
    fn names_are_for_people() {
        assert_eq!(clean_name("../../etc/passwd").as_deref(), Some("passwd"));
        assert_eq!(clean_name("a\u{7}b").as_deref(), Some("ab"));
        assert_eq!(clean_name(""), None);
    }
}
