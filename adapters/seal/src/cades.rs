//! Detached CMS SignedData with the attributes of CAdES-BES: content type, message digest, signing time, and
//! signing-certificate-v2 (RFC 5035), which binds the certificate.

use amtsbote_core::Timestamp;
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    CertificateSet, EncapsulatedContentInfo, SignedAttributes, SignedData, SignerIdentifier, SignerInfo,
    SignerInfos,
};
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5911, rfc5912};
use der::asn1::{GeneralizedTime, OctetString, SetOfVec, UtcTime};
use der::{Any, DateTime, Encode, Sequence};
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::attr::Attribute;

use crate::key::{CannotSign, SealKey};

/// ESSCertIDv2 (RFC 5035 section 4) with the default digest, SHA-256, which DER leaves out.
#[derive(Clone, Debug, Sequence)]
struct EssCertIdV2 {
    cert_hash: OctetString,
}

#[derive(Clone, Debug, Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
}

/// A signature could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CadesError {
    #[error("the signature cannot be encoded: {0}")]
    Encoding(#[from] der::Error),
    #[error(transparent)]
    Key(#[from] CannotSign),
    #[error("the seal has no certificate")]
    NoCertificate,
}

/// Signs a document by its digest.
pub(crate) fn sign(key: &SealKey, document: &[u8; 32], at: Timestamp) -> Result<Vec<u8>, CadesError> {
    let (leaf_der, leaf) = key.chain.first().ok_or(CadesError::NoCertificate)?;
    let attributes: SignedAttributes = SetOfVec::try_from(vec![
        attribute(rfc5911::ID_CONTENT_TYPE, &rfc5911::ID_DATA)?,
        attribute(rfc5911::ID_MESSAGE_DIGEST, &OctetString::new(document.as_slice())?)?,
        signing_time(at)?,
        signing_certificate(leaf_der)?,
    ])?;
    // The signature covers the attributes as SET OF, not with the implicit tag they have inside SignerInfo (RFC 5652, 5.4).
    let signature = key.sign(&attributes.to_der()?)?;
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: leaf.tbs_certificate.issuer.clone(),
            serial_number: leaf.tbs_certificate.serial_number.clone(),
        }),
        digest_alg: sha256(),
        signed_attrs: Some(attributes),
        signature_algorithm: key.algorithm(),
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    let certificates: Vec<_> = key.certificates().map(CertificateChoices::Certificate).collect();
    let signed = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![sha256()])?,
        encap_content_info: EncapsulatedContentInfo { econtent_type: rfc5911::ID_DATA, econtent: None },
        certificates: Some(CertificateSet(SetOfVec::try_from(certificates)?)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![signer])?),
    };
    let content = ContentInfo { content_type: rfc5911::ID_SIGNED_DATA, content: Any::encode_from(&signed)? };
    Ok(content.to_der()?)
}

fn sha256() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: rfc5912::ID_SHA_256, parameters: None }
}

fn attribute(oid: ObjectIdentifier, value: &(impl der::EncodeValue + der::Tagged)) -> der::Result<Attribute> {
    let mut values = SetOfVec::new();
    values.insert(Any::encode_from(value)?)?;
    Ok(Attribute { oid, values })
}

/// UTCTime until 2049, GeneralizedTime afterwards (RFC 5652, 11.3).
fn signing_time(at: Timestamp) -> der::Result<Attribute> {
    let at = DateTime::from_system_time(at.into())?;
    if at.year() >= 2050 {
        attribute(rfc5911::ID_SIGNING_TIME, &GeneralizedTime::from_date_time(at))
    } else {
        attribute(rfc5911::ID_SIGNING_TIME, &UtcTime::from_date_time(at)?)
    }
}

fn signing_certificate(der: &[u8]) -> der::Result<Attribute> {
    let cert_hash = OctetString::new(Sha256::digest(der).to_vec())?;
    let value = SigningCertificateV2 { certs: vec![EssCertIdV2 { cert_hash }] };
    attribute(rfc5911::ID_AA_SIGNING_CERTIFICATE_V_2, &value)
}
