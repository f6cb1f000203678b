//! Example certificates, made when first asked for, and their description on the wire.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use amtsbote_certs::{Authority, CertsError, KeyKind, Purpose};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::Holder;

/// The mock's own authority and everything it has issued.
pub(crate) struct Certificates {
    authority: Authority,
    issued: Mutex<BTreeMap<Holder, Vec<u8>>>,
}

/// SHA-1 over the DER, lower-case hex: the identity of a certificate in DVDV.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha1::digest(der))
}

impl Certificates {
    pub(crate) fn new(now: SystemTime) -> Result<Self, CertsError> {
        Ok(Self { authority: Authority::new("DVDV mock CA", now)?, issued: Mutex::default() })
    }

    /// The certificate of a holder; its key pair is made at the first call and takes a moment.
    pub(crate) fn of(&self, holder: &Holder) -> Result<Vec<u8>, CertsError> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(der) = issued.get(holder) {
            return Ok(der.clone());
        }
        let name = match holder {
            Holder::Intermediary(uri) => format!("Intermediary {}", uri.split('/').nth(2).unwrap_or(uri)),
            Holder::Category(category) => format!("Example {category}"),
        };
        let der = self.authority.issue(&name, &Purpose::Cipher, KeyKind::Rsa3072)?.der;
        issued.insert(holder.clone(), der.clone());
        Ok(der)
    }

    /// A certificate that was handed out, by its fingerprint.
    pub(crate) fn by_fingerprint(&self, wanted: &str) -> Option<(Holder, Vec<u8>)> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued
            .iter()
            .find(|(_, der)| fingerprint(der) == wanted)
            .map(|(holder, der)| (holder.clone(), der.clone()))
    }
}

/// A time as DVDV writes it.
pub(crate) fn wire_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// The description of a certificate; everything is taken from the DER.
pub(crate) fn describe(der: &[u8]) -> Value {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return json!({ "content": STANDARD.encode(der), "fingerprint": fingerprint(der) });
    };
    let first = |mut values: Vec<&str>| (!values.is_empty()).then(|| values.remove(0).to_owned());
    let name = |name: &x509_parser::x509::X509Name<'_>| {
        (
            first(name.iter_common_name().filter_map(|one| one.as_str().ok()).collect()),
            first(name.iter_organization().filter_map(|one| one.as_str().ok()).collect()),
            first(name.iter_organizational_unit().filter_map(|one| one.as_str().ok()).collect()),
        )
    };
    let (subject, issuer) = (name(certificate.subject()), name(certificate.issuer()));
    let time = |at: x509_parser::time::ASN1Time| Timestamp::from_second(at.timestamp()).ok().map(wire_time);
    let usage = certificate.key_usage().ok().flatten().map(|extension| extension.value.flags);
    let algorithm = match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" => "SHA256withECDSA",
        _ => "SHA256withRSA",
    };
    let serial = hex::encode(certificate.raw_serial());
    let mut described = json!({
        "content": STANDARD.encode(der),
        "fingerprint": fingerprint(der),
        "serial": certificate.serial.to_string(),
        "serialHex": serial.trim_start_matches('0'),
        "algorithm": algorithm,
        "nameIssuer": issuer.0, "organizationIssuer": issuer.1, "ouIssuer": issuer.2,
        "nameSubject": subject.0, "organizationSubject": subject.1, "ouSubject": subject.2,
        "validFrom": time(certificate.validity().not_before),
        "validTo": time(certificate.validity().not_after),
        "x509KeyUsage": usage,
    });
    if let Value::Object(members) = &mut described {
        members.retain(|_, value| !value.is_null());
    }
    described
}
