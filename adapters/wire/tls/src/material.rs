//! Certificates and keys from PEM files.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use der::Decode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Unreadable or not PEM.
    #[error("{path}: {detail}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// rustls refuses it.
    #[error("certificate and key cannot be used")]
    Refused(#[from] rustls::Error),
    /// The authorities cannot be used.
    #[error("client authorities cannot be used: {0}")]
    Authorities(String),
}

/// A certificate chain with its key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Loads a chain (leaf first) and a key.
    ///
    /// # Errors
    /// When a file is unreadable, empty or of another kind.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, MaterialError> {
        let loaded = PrivateKeyDer::from_pem_file(key);
        let key = loaded
            .map_err(|error| MaterialError::File { path: key.to_owned(), detail: error.to_string() })?;
        Ok(Self { chain: load_certificates(chain)?, key })
    }

    /// When the leaf expires.
    pub fn expires(&self) -> Option<SystemTime> {
        self.chain.first().and_then(|leaf| certificate_expiry(leaf))
    }

    /// DER of the leaf.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

/// Loads all certificates of a PEM file; at least one.
///
/// # Errors
/// When the file is unreadable or has none.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let failed = |detail: String| MaterialError::File { path: path.to_owned(), detail };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in this file".to_owned()));
    }
    Ok(certificates)
}

/// End of validity of a certificate; `None` if it cannot be parsed.
pub fn certificate_expiry(der: &[u8]) -> Option<SystemTime> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_system_time())
}
