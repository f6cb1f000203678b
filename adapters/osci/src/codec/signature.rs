//! Signatures over orders and over contents (XML Signature with inclusive Canonical XML 1.0).
//!
//! Only what a message of this protocol needs is understood: one `SignedInfo`, references to elements of the same tree by Id and to parts
//! by content id, no other transforms. Everything else is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use amtsbote_soap::canonical::{Greater, canonicalize};
use amtsbote_soap::document::ElementRef;
use openssl::hash::Hasher;

use super::algorithm::{Digest, SignatureAlgorithm};
use super::block::{CertificateRole, Certificates};
use super::certificate::{Certificate, Identity};
use super::encryption::{decode, encode};
use super::envelope::{Direction, Envelope};
use super::names::{BASE64, C14N, DS, NS5, OSCI};
use super::problem::Problem;

/// References of one signature.
const REFERENCES_MAX: usize = 1_100;

/// Digests of the parts of a package, over their decoded bytes.
pub trait PartDigests {
    /// The digest of a part; `None` if there is none of that id.
    ///
    /// # Errors
    /// When the part cannot be read.
    fn digest(&self, id: &str, algorithm: Digest) -> std::io::Result<Option<Vec<u8>>>;
}

/// A package without parts.
pub struct NoParts;

impl PartDigests for NoParts {
    fn digest(&self, _: &str, _: Digest) -> std::io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) uri: String,
    pub(crate) transforms: Vec<String>,
    pub(crate) digest: Digest,
    pub(crate) value: Vec<u8>,
}

/// A `ds:Signature` in the form that is accepted.
pub(crate) struct Signature<'d> {
    info: ElementRef<'d>,
    algorithm: SignatureAlgorithm,
    pub(crate) references: Vec<Reference>,
    value: Vec<u8>,
    /// Id of the certificate of whoever signed.
    pub(crate) key: String,
}

fn only<'d>(parent: ElementRef<'d>, local: &str) -> Result<ElementRef<'d>, Problem> {
    let mut found = parent.children().filter(|one| one.is(DS, local));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Problem::Signature("its structure")),
    }
}

fn algorithm(element: ElementRef<'_>) -> Result<&str, Problem> {
    element.attribute("Algorithm").ok_or(Problem::Signature("its structure"))
}

impl<'d> Signature<'d> {
    pub(crate) fn read(signature: ElementRef<'d>) -> Result<Self, Problem> {
        let info = only(signature, "SignedInfo")?;
        if algorithm(only(info, "CanonicalizationMethod")?)? != C14N {
            return Err(Problem::Signature("a canonical form that is not accepted"));
        }
        let method = SignatureAlgorithm::parse(algorithm(only(info, "SignatureMethod")?)?)?;
        let references: Vec<Reference> = info
            .children()
            .filter(|one| one.is(DS, "Reference"))
            .take(REFERENCES_MAX + 1)
            .map(read_reference)
            .collect::<Result<_, _>>()?;
        if references.is_empty() || references.len() > REFERENCES_MAX {
            return Err(Problem::Signature("its references"));
        }
        let value = decode(&only(signature, "SignatureValue")?.text());
        let value = value.ok_or(Problem::Signature("its structure"))?;
        let key = only(only(signature, "KeyInfo")?, "RetrievalMethod")?.attribute("URI");
        let key = key.and_then(|uri| uri.strip_prefix('#')).ok_or(Problem::Signature("it is nobody's"))?;
        Ok(Self { info, algorithm: method, references, value, key: key.to_owned() })
    }

    /// Whether the statement about the references is the certificate owner's. Takes a millisecond.
    pub(crate) fn verify(&self, certificate: &Certificate) -> Result<(), Problem> {
        if !certificate.may_sign() {
            return Err(Problem::Signature("the certificate is not for signatures"));
        }
        let verified = [Greater::Plain, Greater::Escaped].into_iter().any(|greater| {
            let mut text = Vec::new();
            canonicalize(self.info, greater, &mut |piece| text.extend_from_slice(piece.as_bytes()));
            certificate.verifies(self.algorithm, &text, &self.value)
        });
        if verified { Ok(()) } else { Err(Problem::Signature("its value")) }
    }
}

fn read_reference(reference: ElementRef<'_>) -> Result<Reference, Problem> {
    let uri = reference.attribute("URI").ok_or(Problem::Signature("its references"))?;
    let transforms = match reference.children().find(|one| one.is(DS, "Transforms")) {
        Some(transforms) => {
            transforms.children().map(|one| algorithm(one).map(str::to_owned)).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    let digest = Digest::parse(algorithm(only(reference, "DigestMethod")?)?)?;
    let value = decode(&only(reference, "DigestValue")?.text());
    let value = value.ok_or(Problem::Signature("its references"))?;
    Ok(Reference { uri: uri.to_owned(), transforms, digest, value })
}

/// The digest of an element's canonical form.
pub(crate) fn digest_element(
    element: ElementRef<'_>,
    digest: Digest,
    greater: Greater,
) -> Result<Vec<u8>, Problem> {
    let mut hasher = Hasher::new(digest.message_digest())?;
    let mut failed = Ok(());
    canonicalize(element, greater, &mut |piece| {
        if failed.is_ok() {
            failed = hasher.update(piece.as_bytes());
        }
    });
    failed?;
    Ok(hasher.finish()?.to_vec())
}

/// Whether a reference is that of an element.
pub(crate) fn matches(element: ElementRef<'_>, reference: &Reference) -> Result<bool, Problem> {
    if digest_element(element, reference.digest, Greater::Plain)? == reference.value {
        return Ok(true);
    }
    // One deployed implementation writes one character in another way.
    let differs = element.descendants().any(|one| one.attributes().any(|one| one.value.contains('>')));
    Ok(differs && digest_element(element, reference.digest, Greater::Escaped)? == reference.value)
}

/// Checks the signature over an order: it covers exactly all header blocks besides itself, the body, and all parts; nothing more,
/// nothing less.
pub(crate) fn verify_order(
    signature: &Signature<'_>,
    certificate: &Certificate,
    elements: &[ElementRef<'_>],
    part_ids: &BTreeSet<&str>,
    parts: &dyn PartDigests,
) -> Result<(), Problem> {
    let mut wanted: BTreeMap<String, Option<ElementRef<'_>>> = BTreeMap::new();
    for element in elements {
        let id = element.attribute("Id").ok_or(Problem::Structure("a header block or the Body has no Id"))?;
        wanted.insert(format!("#{id}"), Some(*element));
    }
    wanted.extend(part_ids.iter().map(|id| (format!("cid:{id}"), None)));
    for reference in &signature.references {
        let element = wanted.remove(&reference.uri);
        let element = element.ok_or(Problem::Signature("a reference to something else"))?;
        let agrees = match element {
            Some(element) => {
                if reference.transforms != [C14N] {
                    return Err(Problem::Signature("a transform that is not accepted"));
                }
                matches(element, reference)?
            }
            None => {
                if !reference.transforms.is_empty() {
                    return Err(Problem::Signature("a transform that is not accepted"));
                }
                part_agrees(reference, parts)?
            }
        };
        if !agrees {
            return Err(Problem::Signature("a digest"));
        }
    }
    if let Some((left_out, _)) = wanted.pop_first() {
        return Err(Problem::NotAllSigned(left_out));
    }
    signature.verify(certificate)
}

pub(crate) fn part_agrees(reference: &Reference, parts: &dyn PartDigests) -> Result<bool, Problem> {
    let id = reference.uri.strip_prefix("cid:").unwrap_or_default();
    let digest =
        parts.digest(id, reference.digest).map_err(|_| Problem::Signature("a part cannot be read"))?;
    Ok(digest.is_some_and(|digest| digest == reference.value))
}

/// A reference to be written.
pub(crate) struct NewReference {
    pub(crate) uri: String,
    pub(crate) transform: Option<&'static str>,
    pub(crate) value: Vec<u8>,
}

impl NewReference {
    /// To an element of the same tree.
    pub(crate) fn element(element: ElementRef<'_>, digest: Digest) -> Result<Self, Problem> {
        let id = element.attribute("Id").ok_or(Problem::Structure("no Id"))?;
        let value = digest_element(element, digest, Greater::Plain)?;
        Ok(Self { uri: format!("#{id}"), transform: Some(C14N), value })
    }

    /// To a part of the package.
    pub(crate) fn part(id: &str, value: Vec<u8>) -> Self {
        Self { uri: format!("cid:{id}"), transform: None, value }
    }

    /// To bytes inside of the XML, in base64.
    pub(crate) fn inline(id: &str, value: Vec<u8>) -> Self {
        Self { uri: format!("#{id}"), transform: Some(BASE64), value }
    }
}

/// Writes a `ds:Signature` for a place where exactly the usual prefixes are declared.
pub(crate) fn write(
    references: &[NewReference],
    algorithm: SignatureAlgorithm,
    identity: &Identity,
    key: &str,
) -> Result<String, Problem> {
    let (digest, method) = (algorithm.digest.uri(), algorithm.uri().ok_or(Problem::Algorithm)?);
    let mut inner = format!(
        "<ds:CanonicalizationMethod Algorithm=\"{C14N}\"></ds:CanonicalizationMethod><ds:SignatureMethod Algorithm=\"{method}\"></ds:SignatureMethod>"
    );
    for reference in references {
        let (mut uri, value) = (String::new(), encode(&reference.value));
        amtsbote_soap::canonical::escape_value(&reference.uri, &mut uri);
        let transforms = reference.transform.map(|one| {
            format!("<ds:Transforms><ds:Transform Algorithm=\"{one}\"></ds:Transform></ds:Transforms>")
        });
        // Writing into memory does not fail.
        let _written = write!(
            inner,
            "<ds:Reference URI=\"{uri}\">{}<ds:DigestMethod Algorithm=\"{digest}\"></ds:DigestMethod><ds:DigestValue>{value}</ds:DigestValue></ds:Reference>",
            transforms.unwrap_or_default()
        );
    }
    let signed = format!("<ds:SignedInfo{NS5}>{inner}</ds:SignedInfo>");
    let value = encode(&identity.sign(algorithm, signed.as_bytes())?);
    Ok(format!(
        "<ds:Signature><ds:SignedInfo>{inner}</ds:SignedInfo><ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:RetrievalMethod URI=\"#{key}\"></ds:RetrievalMethod></ds:KeyInfo></ds:Signature>"
    ))
}

/// Checks whether and by whom a message is signed.
///
/// # Errors
/// [`Problem::Unsigned`], [`Problem::Signature`] and [`Problem::NotAllSigned`].
pub fn verify<'c>(
    envelope: &Envelope,
    certificates: &'c Certificates,
    signer: CertificateRole,
    part_ids: &BTreeSet<&str>,
    parts: &dyn PartDigests,
) -> Result<&'c Certificate, Problem> {
    let name = match envelope.kind().direction {
        Direction::Request => "ClientSignature",
        Direction::Response => "SupplierSignature",
    };
    let block = envelope.block(OSCI, name).ok_or(Problem::Unsigned)?;
    let mut children = block.children();
    let (Some(element), None) = (children.next(), children.next()) else {
        return Err(Problem::Signature("its structure"));
    };
    if !element.is(DS, "Signature") {
        return Err(Problem::Signature("its structure"));
    }
    let signature = Signature::read(element)?;
    // Any certificate of the message would do for the mathematics, but only one of them is the sender's.
    let entry = certificates.by_id(&signature.key).filter(|entry| entry.role == signer);
    let certificate = &entry.ok_or(Problem::Signature("it is somebody else's"))?.certificate;
    let mut elements: Vec<ElementRef<'_>> = envelope.blocks().filter(|one| *one != block).collect();
    elements.push(envelope.body()?);
    verify_order(&signature, certificate, &elements, part_ids, parts)?;
    Ok(certificate)
}
