//! Key and certificate of a seal.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use const_oid::db::{rfc5280, rfc5912};
use der::asn1::AnyRef;
use der::{Any, Decode};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage};

/// Smallest RSA modulus (BSI TR-02102-1).
const RSA_MIN_BITS: usize = 3072;

/// A seal cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file is unreadable or holds something else.
    #[error("{path}: {detail}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// RSA below 3072 bits.
    #[error("{path}: RSA keys need at least {RSA_MIN_BITS} bits")]
    Weak {
        /// Which.
        path: PathBuf,
    },
    /// The certificate is not meant for seals.
    #[error("{path}: a seal needs a certificate for digitalSignature, nonRepudiation and emailProtection")]
    Usage {
        /// Which.
        path: PathBuf,
    },
    /// They do not belong together.
    #[error("certificate {chain} and key {key} do not belong together")]
    Mismatch {
        /// Certificate file.
        chain: PathBuf,
        /// Key file.
        key: PathBuf,
    },
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

pub(crate) struct SealKey {
    pair: Pair,
    /// The key as PEM, for the JWS library.
    pub(crate) pem: Vec<u8>,
    /// Leaf first, each as DER and parsed.
    pub(crate) chain: Vec<(Vec<u8>, Certificate)>,
}

/// Signing failed inside the cryptographic library.
#[derive(Debug, thiserror::Error)]
#[error("the key cannot sign")]
pub(crate) struct CannotSign;

/// Key usage and extended key usage, where the certificate restricts them (RFC 5280, 4.2.1.3 and 4.2.1.12).
fn is_for_seals(leaf: &Certificate) -> bool {
    let usage = leaf.tbs_certificate.get::<KeyUsage>().ok().flatten();
    let extended = leaf.tbs_certificate.get::<ExtendedKeyUsage>().ok().flatten();
    usage.is_none_or(|(_, usage)| usage.digital_signature() && usage.non_repudiation())
        && extended.is_none_or(|(_, extended)| extended.0.contains(&rfc5280::ID_KP_EMAIL_PROTECTION))
}

impl SealKey {
    pub(crate) fn load(chain_path: &Path, key_path: &Path) -> Result<Self, KeyError> {
        let failed = |path: &Path, detail: String| KeyError::File { path: path.to_owned(), detail };
        let mut chain = Vec::new();
        let pems = CertificateDer::pem_file_iter(chain_path)
            .map_err(|error| failed(chain_path, error.to_string()))?;
        for der in pems {
            let der = der.map_err(|error| failed(chain_path, error.to_string()))?.to_vec();
            let parsed =
                Certificate::from_der(&der).map_err(|error| failed(chain_path, error.to_string()))?;
            // A certificate set must not name one twice.
            if !chain.iter().any(|(other, _)| *other == der) {
                chain.push((der, parsed));
            }
        }
        let Some((_, leaf)) = chain.first() else {
            return Err(failed(chain_path, "no certificate in this file".to_owned()));
        };
        if !is_for_seals(leaf) {
            return Err(KeyError::Usage { path: chain_path.to_owned() });
        }
        let pem = std::fs::read(key_path).map_err(|error| failed(key_path, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| failed(key_path, error.to_string()))?;
        let PrivateKeyDer::Pkcs8(pkcs8) = key else {
            return Err(failed(key_path, "expected a PKCS#8 key (BEGIN PRIVATE KEY)".to_owned()));
        };
        let pkcs8 = pkcs8.secret_pkcs8_der();
        let pair = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8) {
            Pair::Ecdsa(pair)
        } else if let Ok(pair) = rsa::KeyPair::from_pkcs8(pkcs8) {
            if pair.public_modulus_len() * 8 < RSA_MIN_BITS {
                return Err(KeyError::Weak { path: key_path.to_owned() });
            }
            Pair::Rsa(pair)
        } else {
            return Err(failed(key_path, "expected an ECDSA P-256 or RSA key".to_owned()));
        };
        let public = leaf.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
        let own: &[u8] = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        };
        if public != own {
            return Err(KeyError::Mismatch { chain: chain_path.to_owned(), key: key_path.to_owned() });
        }
        Ok(Self { pair, pem, chain })
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CannotSign> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| CannotSign),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| CannotSign)?;
                Ok(signature)
            }
        }
    }

    /// CMS identifier of the signature algorithm (RFC 5754).
    pub(crate) fn algorithm(&self) -> AlgorithmIdentifierOwned {
        match &self.pair {
            Pair::Ecdsa(_) => AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_256, parameters: None },
            Pair::Rsa(_) => AlgorithmIdentifierOwned {
                oid: rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
                parameters: Some(Any::from(AnyRef::NULL)),
            },
        }
    }

    pub(crate) fn algorithm_name(&self) -> &'static str {
        match &self.pair {
            Pair::Ecdsa(_) => "ecdsa-p256-sha256",
            Pair::Rsa(_) => "rsa-pkcs1-sha256",
        }
    }

    pub(crate) fn is_ecdsa(&self) -> bool {
        matches!(self.pair, Pair::Ecdsa(_))
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.chain.first().map(|(der, _)| hex::encode(Sha256::digest(der))).unwrap_or_default()
    }

    /// Whether a signature made at a time would verify.
    pub(crate) fn is_valid_at(&self, at: SystemTime) -> bool {
        self.chain.first().is_some_and(|(_, leaf)| {
            let validity = &leaf.tbs_certificate.validity;
            (validity.not_before.to_system_time()..=validity.not_after.to_system_time()).contains(&at)
        })
    }

    pub(crate) fn expires(&self) -> SystemTime {
        let leaf =
            self.chain.first().map(|(_, leaf)| leaf.tbs_certificate.validity.not_after.to_system_time());
        leaf.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Certificates for a CMS certificate set.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.chain.iter().map(|(_, certificate)| certificate.clone())
    }
}
