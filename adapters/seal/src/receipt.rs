//! Receipts as compact JWS: ES256 (PS256 for RSA seals), certificate chain in `x5c`.

use amtsbote_core::port::{Receipt, SealError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::key::SealKey;

pub(crate) fn sign(key: &SealKey, receipt: &Receipt) -> Result<String, SealError> {
    let failed = |error: jsonwebtoken::errors::Error| SealError { reason: error.to_string() };
    let (algorithm, signing) = if key.is_ecdsa() {
        (Algorithm::ES256, EncodingKey::from_ec_pem(&key.pem).map_err(failed)?)
    } else {
        (Algorithm::PS256, EncodingKey::from_rsa_pem(&key.pem).map_err(failed)?)
    };
    let mut header = Header::new(algorithm);
    header.x5c = Some(key.chain.iter().map(|(der, _)| STANDARD.encode(der)).collect());
    jsonwebtoken::encode(&header, receipt, &signing).map_err(failed)
}
