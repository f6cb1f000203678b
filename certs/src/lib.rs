//! Development PKI. For laboratories, tests and the demo; a data centre brings certificates of its own authorities.
//!
//! One authority for servers and clients, one for seals. Keys are PKCS#8 PEM files that only their owner may read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, RsaKeySize, SanType, SerialNumber,
};
use sha2::{Digest, Sha256};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// Generation failed.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// A file exists already; nothing is overwritten.
    #[error("{0} exists already; choose an empty folder")]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// TLS server with these names or addresses.
    Server(Vec<String>),
    /// TLS client.
    Client,
    /// Signing documents and receipts.
    Seal,
    /// Decrypting content, for example of an OSCI party.
    Cipher,
}

/// Kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA on P-256.
    #[default]
    P256,
    /// RSA with 3072 bits.
    Rsa3072,
}

/// A certificate with its key.
pub struct Issued {
    /// Certificate followed by its authority's.
    pub chain_pem: String,
    /// Private key, PKCS#8.
    pub key_pem: String,
    /// The certificate alone.
    pub der: Vec<u8>,
}

impl Issued {
    /// SHA-256 over the certificate, lower-case hex.
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.der).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A certification authority in memory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    now: SystemTime,
}

impl Authority {
    /// A fresh authority, valid for ten years from `now`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str, now: SystemTime) -> Result<Self, CertsError> {
        let mut params = params(name, now, 3650 * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?, now })
    }

    /// The authority's certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate for two years from the authority's time.
    ///
    /// # Errors
    /// When no key can be made or a server name is malformed.
    pub fn issue(&self, name: &str, purpose: &Purpose, kind: KeyKind) -> Result<Issued, CertsError> {
        self.issue_for(name, purpose, kind, self.now, 730 * DAY)
    }

    /// Issues a certificate for a span of time, for tests of expiry.
    ///
    /// # Errors
    /// As for [`Self::issue`].
    pub fn issue_for(
        &self,
        name: &str,
        purpose: &Purpose,
        kind: KeyKind,
        from: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, CertsError> {
        let key = match kind {
            KeyKind::P256 => KeyPair::generate()?,
            KeyKind::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072)?,
        };
        let mut params = params(name, from, lifetime);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        match purpose {
            Purpose::Server(names) => {
                params.subject_alt_names =
                    names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            Purpose::Client => {
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Purpose::Seal => {
                params.key_usages =
                    vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
            }
            Purpose::Cipher => {
                params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DataEncipherment];
            }
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            chain_pem: certificate.pem() + &self.issuer.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().to_vec(),
        })
    }
}

fn alternative(name: &str) -> Result<SanType, CertsError> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

fn params(name: &str, from: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "DE");
    subject.push(DnType::OrganizationName, "Amtsbote laboratory");
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    // Clocks differ: valid from five minutes ago.
    params.not_before = (from - Duration::from_secs(300)).into();
    params.not_after = (from + lifetime).into();
    params.serial_number = Some(serial(name, from));
    params
}

/// Serial numbers need not be secret; unique per name and time is enough for a laboratory.
fn serial(name: &str, from: SystemTime) -> SerialNumber {
    let nanos = from.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut bytes = Sha256::digest(format!("{name}/{nanos}"))[..16].to_vec();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from(bytes)
}

/// A folder of certificates: `NAME.pem` (chain), `NAME.key`, authorities as `ca.pem` and `seal-ca.pem`.
pub struct Folder {
    path: PathBuf,
    /// Authority for servers and clients.
    pub parties: Authority,
    /// Authority for seals.
    pub seals: Authority,
}

impl Folder {
    /// Makes both authorities and writes their certificates into a folder.
    ///
    /// # Errors
    /// When there are authorities already, or the folder cannot be written.
    pub fn create(path: &Path, now: SystemTime) -> Result<Self, CertsError> {
        let parties = Authority::new("Amtsbote laboratory CA", now)?;
        let seals = Authority::new("Amtsbote laboratory seal CA", now)?;
        std::fs::create_dir_all(path)
            .map_err(|source| CertsError::Write { path: path.to_owned(), source })?;
        let folder = Self { path: path.to_owned(), parties, seals };
        folder.write("ca.pem", &folder.parties.pem(), 0o644)?;
        folder.write("seal-ca.pem", &folder.seals.pem(), 0o644)?;
        Ok(folder)
    }

    /// Issues a certificate and writes it as `NAME.pem` and `NAME.key`.
    ///
    /// # Errors
    /// When it exists already or cannot be written.
    pub fn add(&self, name: &str, purpose: &Purpose, kind: KeyKind) -> Result<Issued, CertsError> {
        let authority = if *purpose == Purpose::Seal { &self.seals } else { &self.parties };
        let issued = authority.issue(name, purpose, kind)?;
        self.write(&format!("{name}.pem"), &issued.chain_pem, 0o644)?;
        self.write(&format!("{name}.key"), &issued.key_pem, 0o600)?;
        Ok(issued)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> Result<(), CertsError> {
        let path = self.path.join(name);
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let written = opened.and_then(|mut file| file.write_all(content.as_bytes()));
        written.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CertsError::Exists(path),
            _ => CertsError::Write { path, source },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_000_000)
    }

    #[test]
    fn a_seal_certificate_may_sign_and_commit_but_not_serve() {
        let authority = Authority::new("test", now()).unwrap();
        for kind in [KeyKind::P256, KeyKind::Rsa3072] {
            let issued = authority.issue("seal", &Purpose::Seal, kind).unwrap();
            let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
            let usage = certificate.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && usage.non_repudiation() && !usage.key_cert_sign());
            let extended = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(extended.email_protection && !extended.server_auth && !extended.client_auth);
        }
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Folder::create(folder.path(), now()).unwrap();
        pki.add("server", &Purpose::Server(vec!["localhost".to_owned(), "::1".to_owned()]), KeyKind::P256)
            .unwrap();
        let mode = std::fs::metadata(folder.path().join("server.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = pki.add("server", &Purpose::Client, KeyKind::P256).err().unwrap();
        assert!(matches!(again, CertsError::Exists(path) if path.ends_with("server.pem")));
        assert!(matches!(Folder::create(folder.path(), now()), Err(CertsError::Exists(_))));
    }
}
