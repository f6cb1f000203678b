//! Contents: containers, their signatures, their encryption (OSCI-Transport 1.2, "Inhaltsdaten").

use std::collections::{BTreeMap, BTreeSet};

use amtsbote_soap::canonical::canonical;
use amtsbote_soap::document::{Document, DocumentLimits, ElementRef};
use openssl::hash::hash;

use super::algorithm::Policy;
use super::block::{CertificateRole, Certificates, attribute};
use super::certificate::{Certificate, Identity};
use super::cipher::{Decryptor, Encryptor, generate_key};
use super::encryption::{
    EncryptedData, KeyOwner, Method, decode, decrypt_value, encode, read_symmetric, write_attachment,
    write_content,
};
use super::envelope::Envelope;
use super::names::{BASE64, C14N, DS, NS5, OSCI, XENC};
use super::problem::Problem;
use super::signature::{NewReference, PartDigests, Reference, Signature, matches, part_agrees, write};

/// Containers inside of each other.
const NESTING_MAX: usize = 16;
/// Signatures of one container.
const SIGNATURES_MAX: usize = 16;

/// The contents of a delivery as they travel: encrypted ones and containers, in the order they came.
#[derive(Debug, Clone, Copy)]
pub struct ContentPackage<'d>(ElementRef<'d>);

/// One thing in a package that a reader may want by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<'d> {
    /// Bytes in the XML.
    Inline {
        /// Id of the content.
        id: &'d str,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A part of the message.
    Part {
        /// Id of the content.
        id: &'d str,
        /// Content id of the part.
        part: &'d str,
    },
    /// Something only its readers can open, as XML that means the same anywhere.
    Sealed {
        /// Its id, if it has one.
        id: Option<&'d str>,
        /// The element.
        xml: String,
    },
}

impl<'d> ContentPackage<'d> {
    /// The package of a message that has one.
    ///
    /// # Errors
    /// [`Problem::Structure`] if there is none.
    pub fn of(envelope: &'d Envelope) -> Result<Self, Problem> {
        let package = envelope.body()?.child(OSCI, "ContentPackage");
        package.map(Self).ok_or(Problem::Structure("no ContentPackage"))
    }

    /// The package a document consists of.
    ///
    /// # Errors
    /// [`Problem::Structure`] if it is another.
    pub fn root(document: &'d Document) -> Result<Self, Problem> {
        let root = document.root();
        if root.is(OSCI, "ContentPackage") {
            Ok(Self(root))
        } else {
            Err(Problem::Structure("no ContentPackage"))
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.children().next().is_none()
    }

    /// Its children as XML that means the same anywhere, one behind the other. Signatures of authors stay valid.
    pub fn canonical_children(&self) -> String {
        self.0.children().map(canonical).collect()
    }

    /// Whether there is anything in it that only its readers can open.
    pub fn is_sealed(&self) -> bool {
        self.0.descendants().any(|one| one.is(XENC, "EncryptedData"))
    }

    /// Whether it has signatures that everybody can see.
    pub fn is_signed(&self) -> bool {
        self.0.descendants().any(|one| one.is(DS, "Signature"))
    }

    /// Checks what an intermediary has to: the structure, that everything referred to is there, that no key is shown to everybody, and
    /// that visible signatures of authors are right.
    ///
    /// # Errors
    /// [`Problem::Structure`] and [`Problem::Signature`].
    pub fn check(
        &self,
        certificates: &Certificates,
        part_ids: &BTreeSet<&str>,
        parts: &dyn PartDigests,
    ) -> Result<(), Problem> {
        for child in self.0.children() {
            if child.is(XENC, "EncryptedData") {
                check_sealed(child, certificates)?;
            } else if child.is(OSCI, "ContentContainer") {
                check_container(child, certificates, part_ids, parts, 0)?;
            } else {
                return Err(Problem::Structure("something else in the ContentPackage"));
            }
        }
        Ok(())
    }

    /// Everything a reader may want by itself, in the order it came; what is inside of other containers, too.
    ///
    /// # Errors
    /// [`Problem::Structure`] if base64 is none.
    pub fn items(&self) -> Result<Vec<Item<'d>>, Problem> {
        let mut items = Vec::new();
        collect(self.0, &mut items)?;
        Ok(items)
    }

    /// Sealed contents, for those who have a key.
    fn sealed(&self) -> impl Iterator<Item = ElementRef<'d>> {
        self.0.children().filter(|one| one.is(XENC, "EncryptedData"))
    }

    /// Opens what can be opened with a key; the containers that were inside, as documents of their own.
    ///
    /// # Errors
    /// [`Problem::Undecryptable`] if something is sealed for the key and cannot be opened.
    pub fn open(
        &self,
        identity: &Identity,
        certificates: &Certificates,
        policy: Policy,
    ) -> Result<Vec<Document>, Problem> {
        let mut opened = Vec::new();
        for data in self.sealed() {
            let keys = EncryptedData::keys(data, policy)?;
            let ours = keys.iter().find(|key| match &key.owner {
                KeyOwner::Certificate(der) => der == identity.certificate().der(),
                KeyOwner::Id(id) => {
                    certificates.by_id(id).is_some_and(|entry| entry.certificate == *identity.certificate())
                }
            });
            let Some(key) = ours else { continue };
            let plain = decrypt_value(data, key.open(identity, policy)?)?;
            opened.push(Document::parse(plain, DocumentLimits::default())?);
        }
        Ok(opened)
    }
}

/// What is inside of something sealed is its reader's business.
fn collect<'d>(element: ElementRef<'d>, items: &mut Vec<Item<'d>>) -> Result<(), Problem> {
    for one in element.children() {
        if one.is(XENC, "EncryptedData") {
            items.push(Item::Sealed { id: one.attribute("Id"), xml: canonical(one) });
            continue;
        }
        if one.is(OSCI, "Content") {
            let id = one.attribute("Id").unwrap_or_default();
            if let Some(part) = one.attribute("href").and_then(|href| href.strip_prefix("cid:")) {
                items.push(Item::Part { id, part });
            } else if let Some(inline) = one.child(OSCI, "Base64Content") {
                let bytes =
                    decode(&inline.text()).ok_or(Problem::Structure("a content that is no base64"))?;
                items.push(Item::Inline { id: inline.attribute("Id").unwrap_or_default(), bytes });
            }
        }
        collect(one, items)?;
    }
    Ok(())
}

fn check_sealed(data: ElementRef<'_>, certificates: &Certificates) -> Result<(), Problem> {
    if data.descendants().any(|one| one.is(DS, "MgmtData")) {
        return Err(Problem::Structure("a key that everybody can read"));
    }
    if data.descendants().skip(1).any(|one| one.is(XENC, "EncryptedData")) {
        return Err(Problem::Structure("encrypted data inside of encrypted data"));
    }
    let references = data.descendants().filter(|one| one.is(DS, "RetrievalMethod"));
    for reference in references {
        let id = reference.attribute("URI").and_then(|uri| uri.strip_prefix('#'));
        if id.and_then(|id| certificates.by_id(id)).is_none() {
            return Err(Problem::Structure("a reader without certificate"));
        }
    }
    Ok(())
}

fn check_container(
    container: ElementRef<'_>,
    certificates: &Certificates,
    part_ids: &BTreeSet<&str>,
    parts: &dyn PartDigests,
    depth: usize,
) -> Result<(), Problem> {
    if depth > NESTING_MAX {
        return Err(Problem::Structure("containers are nested too deeply"));
    }
    for child in container.children() {
        if child.is(XENC, "EncryptedData") {
            check_sealed(child, certificates)?;
        } else if child.is(OSCI, "Content") {
            let href = child.attribute("href").map(|href| href.strip_prefix("cid:").unwrap_or_default());
            if href.is_some_and(|part| !part_ids.contains(part)) {
                return Err(Problem::Structure("a content whose part is missing"));
            }
            if let Some(inner) = child.child(OSCI, "ContentContainer") {
                check_container(inner, certificates, part_ids, parts, depth + 1)?;
            }
        } else if !child.is(DS, "Signature") {
            return Err(Problem::Structure("something else in a container"));
        }
    }
    verify_container(container, certificates, parts).map(|_| ())
}

/// Verifies all signatures of a container; who signed. They cover every content of it.
///
/// # Errors
/// [`Problem::Signature`] and [`Problem::NotAllSigned`].
pub fn verify_container<'c>(
    container: ElementRef<'_>,
    certificates: &'c Certificates,
    parts: &dyn PartDigests,
) -> Result<Vec<&'c Certificate>, Problem> {
    let mut signers = Vec::new();
    for (number, element) in container.children().filter(|one| one.is(DS, "Signature")).enumerate() {
        if number == SIGNATURES_MAX {
            return Err(Problem::Structure("too many signatures"));
        }
        let signature = Signature::read(element)?;
        let entry = certificates.by_id(&signature.key);
        let signer = &entry.ok_or(Problem::Signature("it is nobody's"))?.certificate;
        // What is referred to may be large, so nobody but the signer makes us digest it, and once: two contents may share a part.
        signature.verify(signer)?;
        let mut covered: BTreeMap<&str, &Reference> = BTreeMap::new();
        for reference in &signature.references {
            match covered.insert(reference.uri.as_str(), reference) {
                Some(earlier) if earlier == reference => continue,
                Some(_) => return Err(Problem::Signature("two digests of the same")),
                None => {}
            }
            if !agrees(container, element, reference, parts)? {
                return Err(Problem::Signature("a digest"));
            }
        }
        for content in container.children().filter(|one| one.is(OSCI, "Content")) {
            let inline = content.child(OSCI, "Base64Content");
            let id = inline.unwrap_or(content).attribute("Id").unwrap_or_default();
            let own = content.attribute("href");
            let named = covered.contains_key(format!("#{id}").as_str());
            if !named || own.is_some_and(|part| !covered.contains_key(part)) {
                return Err(Problem::NotAllSigned(format!("#{id}")));
            }
        }
        signers.push(signer);
    }
    Ok(signers)
}

/// Whether a reference of a container's signature is right. Ids are looked for in the container only.
fn agrees(
    container: ElementRef<'_>,
    signature: ElementRef<'_>,
    reference: &Reference,
    parts: &dyn PartDigests,
) -> Result<bool, Problem> {
    if reference.uri.starts_with("cid:") {
        return match reference.transforms.is_empty() {
            true => part_agrees(reference, parts),
            false => Err(Problem::Signature("a transform that is not accepted")),
        };
    }
    let id = reference.uri.strip_prefix('#').ok_or(Problem::Signature("a reference to something else"))?;
    // Signatures refer to what is beside them, and to their own statement about the time.
    let beside = container.children().filter(|one| !one.is(DS, "Signature"));
    let inside = beside.flat_map(|one| std::iter::once(one).chain(one.children()));
    let mut found = inside.chain(signature.descendants()).filter(|one| one.attribute("Id") == Some(id));
    let element = found.next().ok_or(Problem::Signature("a reference to something else"))?;
    let transforms: Vec<&str> = reference.transforms.iter().map(String::as_str).collect();
    match transforms.as_slice() {
        [] | [C14N] => matches(element, reference),
        [BASE64] => {
            let bytes = decode(&element.text()).ok_or(Problem::Structure("a content that is no base64"))?;
            Ok(*hash(reference.digest.message_digest(), &bytes)? == *reference.value)
        }
        _ => Err(Problem::Signature("a transform that is not accepted")),
    }
}

/// One content of a new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewContent {
    /// Bytes in the XML.
    Inline(Vec<u8>),
    /// A part of the message: its content id, and its digest by the author's algorithm if there is an author.
    Part(String, Option<Vec<u8>>),
}

/// A container that is being put together.
#[derive(Debug, Clone, Default)]
pub struct NewContainer {
    /// Contents, in order.
    pub contents: Vec<NewContent>,
}

impl NewContainer {
    fn text(&self, signature: &str, sealed: &str) -> String {
        let mut inner = String::new();
        for (number, one) in self.contents.iter().enumerate() {
            match one {
                NewContent::Inline(bytes) => {
                    let bytes = encode(bytes);
                    inner += &format!(
                        "<osci:Content><osci:Base64Content Id=\"content{number}\">{bytes}</osci:Base64Content></osci:Content>"
                    );
                }
                NewContent::Part(part, _) => {
                    let part = attribute(part);
                    inner +=
                        &format!("<osci:Content Id=\"content{number}\" href=\"cid:{part}\"></osci:Content>");
                }
            }
        }
        format!(
            "<osci:ContentContainer{NS5} Id=\"contentcontainer0\">{signature}{inner}{sealed}</osci:ContentContainer>"
        )
    }

    /// The container, signed by its author if there is one.
    ///
    /// # Errors
    /// When the author's key does not fit.
    pub fn finish(&self, author: Option<&Identity>) -> Result<String, Problem> {
        self.finish_with(author, "")
    }

    /// `sealed`: statements about encrypted parts, which come behind everything that is signed.
    fn finish_with(&self, author: Option<&Identity>, sealed: &str) -> Result<String, Problem> {
        let Some(author) = author else { return Ok(self.text("", sealed)) };
        let algorithm = author.preferred();
        let document = Document::parse(self.text("", "").into_bytes(), DocumentLimits::default())?;
        let mut references = Vec::new();
        for (content, one) in document.root().children().zip(&self.contents) {
            match one {
                NewContent::Inline(bytes) => {
                    let digest = hash(algorithm.digest.message_digest(), bytes)?;
                    let id = content.child(OSCI, "Base64Content").and_then(|one| one.attribute("Id"));
                    references.push(NewReference::inline(id.unwrap_or_default(), digest.to_vec()));
                }
                NewContent::Part(part, digest) => {
                    let digest = digest.clone().ok_or(Problem::Structure("a part without digest"))?;
                    references.push(NewReference::element(content, algorithm.digest)?);
                    references.push(NewReference::part(part, digest));
                }
            }
        }
        let key = CertificateRole::SignatureOriginator.id_of(author.certificate());
        Ok(self.text(&write(&references, algorithm, author, &key)?, sealed))
    }

    /// The container for its readers only. Parts were encrypted with the keys given here, in the order of the contents.
    ///
    /// # Errors
    /// When the author's key does not fit, or one of the readers' is none for that.
    pub fn seal(
        &self,
        author: Option<&Identity>,
        readers: &[(String, Certificate)],
        method: Method,
        part_keys: &[(String, Vec<u8>)],
    ) -> Result<String, Problem> {
        let parts: String =
            part_keys.iter().map(|(part, key)| write_attachment(method, &attribute(part), key)).collect();
        let plain = self.finish_with(author, &parts)?;
        let key = generate_key(method.symmetric)?;
        let mut encryptor = Encryptor::new(method.symmetric, method.iv, &key)?;
        let mut ciphertext = encryptor.update(plain.as_bytes())?;
        ciphertext.extend(encryptor.finish()?);
        let readers: Vec<(&str, &Certificate)> = readers.iter().map(|(id, one)| (id.as_str(), one)).collect();
        write_content(method, "encdata_0", &key, &readers, &ciphertext)
    }
}

/// The container of a chunk, with the ids deployed software looks for.
pub(crate) fn chunk_container(part: &str) -> String {
    format!(
        "<osci:ContentContainer{NS5} Id=\"ChunkContentContainer\"><osci:Content Id=\"ChunkContent\" href=\"cid:{part}\"></osci:Content></osci:ContentContainer>"
    )
}

/// How a part is opened whose key is inside of a container: its content id, and what decrypts it.
///
/// # Errors
/// [`Problem::Structure`] and [`Problem::Algorithm`].
pub fn part_keys(container: ElementRef<'_>, policy: Policy) -> Result<Vec<(String, Decryptor)>, Problem> {
    let sealed = container.descendants().filter(|one| one.is(XENC, "EncryptedData"));
    let mut keys = Vec::new();
    for data in sealed {
        let Some(key) = data.child(DS, "KeyInfo").and_then(|info| info.child(DS, "MgmtData")) else {
            continue;
        };
        let (symmetric, iv) = read_symmetric(data, policy)?;
        let reference = data.child(XENC, "CipherData").and_then(|one| one.child(XENC, "CipherReference"));
        let part = reference.and_then(|one| one.attribute("URI")).and_then(|uri| uri.strip_prefix("cid:"));
        let part = part.ok_or(Problem::Structure("a key of no part"))?;
        let key = decode(&key.text()).ok_or(Problem::Structure("a key that is none"))?;
        keys.push((part.to_owned(), Decryptor::new(symmetric, iv, key)?));
    }
    Ok(keys)
}
