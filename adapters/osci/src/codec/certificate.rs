//! Certificates as messages carry them, and the private keys of the gateway.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::pkey::{Id, PKey, Private, Public};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use sha2::{Digest as _, Sha256};
use x509_cert::Certificate as X509;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::{KeyUsage, KeyUsages};

use super::algorithm::{Digest, KeyTransport, Policy, Scheme, SignatureAlgorithm};
use super::problem::{Problem, Undecryptable};

/// Bits of an RSA key that is still accepted.
const RSA_MIN: u32 = 2048;
/// Bits of a key on a curve that is still accepted.
const CURVE_MIN: u32 = 256;
/// Bytes of a certificate.
const CERTIFICATE_MAX: usize = 16 << 10;

/// An X.509 certificate, checked for nothing but its form and the strength of its key.
#[derive(Clone)]
pub struct Certificate(Arc<Inner>);

struct Inner {
    der: Vec<u8>,
    fingerprint: [u8; 32],
    parsed: X509,
    key: PKey<Public>,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", hex::encode(self.0.fingerprint))
    }
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// [`Problem::Certificate`] if it is none, or its key is too weak.
    pub fn from_der(der: &[u8]) -> Result<Self, Problem> {
        if der.len() > CERTIFICATE_MAX {
            return Err(Problem::Certificate("too long"));
        }
        let parsed = X509::from_der(der).map_err(|_| Problem::Certificate("not readable"))?;
        let spki = parsed.tbs_certificate.subject_public_key_info.to_der();
        let spki = spki.map_err(|_| Problem::Certificate("not readable"))?;
        let key = PKey::public_key_from_der(&spki).map_err(|_| Problem::Certificate("no usable key"))?;
        let strong = match key.id() {
            Id::RSA | Id::RSA_PSS => key.bits() >= RSA_MIN,
            Id::EC => key.bits() >= CURVE_MIN,
            _ => false,
        };
        if !strong {
            return Err(Problem::Certificate("the key is too weak or of another kind"));
        }
        let fingerprint = Sha256::digest(der).into();
        Ok(Self(Arc::new(Inner { der: der.to_vec(), fingerprint, parsed, key })))
    }

    /// Reads PEM; of a chain the first.
    ///
    /// # Errors
    /// As for [`Self::from_der`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Problem> {
        let unreadable = || Problem::Certificate("not readable");
        let chain = openssl::x509::X509::stack_from_pem(pem).map_err(|_| unreadable())?;
        let der = chain.first().and_then(|first| first.to_der().ok());
        Self::from_der(&der.ok_or_else(unreadable)?)
    }

    /// DER.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// SHA-256 over the DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.0.fingerprint
    }

    /// Subject, RFC 4514.
    pub fn subject(&self) -> String {
        self.0.parsed.tbs_certificate.subject.to_string()
    }

    /// Issuer, RFC 4514.
    pub fn issuer(&self) -> String {
        self.0.parsed.tbs_certificate.issuer.to_string()
    }

    /// Serial number, decimal.
    pub fn serial(&self) -> String {
        let bytes = self.0.parsed.tbs_certificate.serial_number.as_bytes();
        let number = BigNum::from_slice(bytes).and_then(|number| number.to_dec_str());
        number.map_or_else(|_| String::new(), |digits| digits.to_string())
    }

    /// The last second of its validity.
    pub fn expires(&self) -> Option<Timestamp> {
        let end = self.0.parsed.tbs_certificate.validity.not_after.to_unix_duration();
        Timestamp::from_second(i64::try_from(end.as_secs()).ok()?).ok()
    }

    /// Whether it is valid at a time.
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        let validity = &self.0.parsed.tbs_certificate.validity;
        let second = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs());
        match (second(validity.not_before), second(validity.not_after)) {
            (Ok(start), Ok(end)) => (start..=end).contains(&at.as_second()),
            _ => false,
        }
    }

    /// Whether another certificate's key signed this one.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        let parsed = openssl::x509::X509::from_der(&self.0.der);
        parsed.and_then(|parsed| parsed.verify(&issuer.0.key)).unwrap_or(false)
    }

    /// Whether it may sign; without the extension it may.
    pub fn may_sign(&self) -> bool {
        self.allows(KeyUsages::DigitalSignature) || self.allows(KeyUsages::NonRepudiation)
    }

    /// Whether keys may be wrapped for it; without the extension they may.
    pub fn may_encipher(&self) -> bool {
        self.allows(KeyUsages::KeyEncipherment) || self.allows(KeyUsages::DataEncipherment)
    }

    fn allows(&self, usage: KeyUsages) -> bool {
        match self.0.parsed.tbs_certificate.get::<KeyUsage>() {
            Ok(Some((_, usages))) => usages.0.contains(usage),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Whether its key can make signatures of this scheme.
    pub fn fits(&self, scheme: Scheme) -> bool {
        match scheme {
            Scheme::Rsa => self.0.key.id() == Id::RSA,
            Scheme::Pss => matches!(self.0.key.id(), Id::RSA | Id::RSA_PSS),
            Scheme::Ecdsa => self.0.key.id() == Id::EC,
        }
    }

    /// Whether a signature over some bytes is its key's.
    pub fn verifies(&self, algorithm: SignatureAlgorithm, bytes: &[u8], signature: &[u8]) -> bool {
        self.try_verify(algorithm, bytes, signature).unwrap_or(false)
    }

    fn try_verify(
        &self,
        algorithm: SignatureAlgorithm,
        bytes: &[u8],
        signature: &[u8],
    ) -> Result<bool, openssl::error::ErrorStack> {
        if !self.fits(algorithm.scheme) {
            return Ok(false);
        }
        // As long as the key, leading zeroes included; OpenSSL would do without them.
        if algorithm.scheme != Scheme::Ecdsa && signature.len() != self.0.key.size() {
            return Ok(false);
        }
        let mut verifier = Verifier::new(algorithm.digest.message_digest(), &self.0.key)?;
        match algorithm.scheme {
            Scheme::Rsa => verifier.set_rsa_padding(Padding::PKCS1)?,
            Scheme::Pss => {
                verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
                verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
                verifier.set_rsa_mgf1_md(algorithm.digest.message_digest())?;
            }
            Scheme::Ecdsa => {
                let half = signature.len() / 2;
                let numbers = (signature.len().is_multiple_of(2) && half == self.coordinate()?)
                    .then(|| signature.split_at(half));
                let Some((r, s)) = numbers else { return Ok(false) };
                let pair = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
                return verifier.verify_oneshot(&pair.to_der()?, bytes);
            }
        }
        verifier.verify_oneshot(signature, bytes)
    }

    /// Bytes of a number of a signature on the key's curve.
    fn coordinate(&self) -> Result<usize, openssl::error::ErrorStack> {
        coordinate(&self.0.key)
    }

    /// Wraps a key for the owner.
    ///
    /// # Errors
    /// [`Problem::Certificate`] if the certificate is not for that.
    pub fn wrap(&self, transport: KeyTransport, key: &[u8]) -> Result<Vec<u8>, Problem> {
        if self.0.key.id() != Id::RSA {
            return Err(Problem::Certificate("keys are wrapped for RSA only"));
        }
        let mut context = PkeyCtx::new(&self.0.key)?;
        context.encrypt_init()?;
        match transport {
            KeyTransport::Oaep { digest, mgf } => {
                context.set_rsa_padding(Padding::PKCS1_OAEP)?;
                context.set_rsa_oaep_md(digest.md())?;
                context.set_rsa_mgf1_md(mgf.md())?;
            }
            KeyTransport::Rsa15 => context.set_rsa_padding(Padding::PKCS1)?,
        }
        let mut wrapped = Vec::new();
        context.encrypt_to_vec(key, &mut wrapped)?;
        Ok(wrapped)
    }
}

fn coordinate<T: openssl::pkey::HasPublic>(key: &PKey<T>) -> Result<usize, openssl::error::ErrorStack> {
    let mut order = BigNum::new()?;
    let mut context = openssl::bn::BigNumContext::new()?;
    key.ec_key()?.group().order(&mut order, &mut context)?;
    Ok(usize::try_from(order.num_bytes()).unwrap_or_default())
}

/// A certificate with its private key.
#[derive(Clone)]
pub struct Identity {
    certificate: Certificate,
    key: PKey<Private>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.certificate)
    }
}

impl Identity {
    /// From a certificate and its private key, both PEM.
    ///
    /// # Errors
    /// [`Problem::Certificate`] if they cannot be read or do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Problem> {
        let certificate = Certificate::from_pem(certificate)?;
        let key =
            PKey::private_key_from_pem(key).map_err(|_| Problem::Certificate("the key is not readable"))?;
        if !key.public_eq(&certificate.0.key) {
            return Err(Problem::Certificate("the key belongs to another certificate"));
        }
        Ok(Self { certificate, key })
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Both in one file for software that reads PKCS#12, under a password.
    ///
    /// # Errors
    /// When cryptography fails.
    pub fn to_p12(&self, name: &str, password: &str) -> Result<Vec<u8>, Problem> {
        let certificate = openssl::x509::X509::from_der(self.certificate.der())?;
        let mut builder = openssl::pkcs12::Pkcs12::builder();
        builder.name(name).pkey(&self.key).cert(&certificate);
        Ok(builder.build2(password)?.to_der()?)
    }

    /// The algorithm this key signs with, if nobody wants another.
    pub fn preferred(&self) -> SignatureAlgorithm {
        let digest = match self.key.bits() {
            // Digests are as strong as the curve.
            bits if self.key.id() == Id::EC && bits > 384 => Digest::Sha512,
            bits if self.key.id() == Id::EC && bits > 256 => Digest::Sha384,
            _ => Digest::Sha256,
        };
        let scheme = match self.key.id() {
            Id::EC => Scheme::Ecdsa,
            Id::RSA_PSS => Scheme::Pss,
            _ => Scheme::Rsa,
        };
        SignatureAlgorithm { scheme, digest }
    }

    /// Signs some bytes.
    ///
    /// # Errors
    /// [`Problem::Certificate`] if the key is of another kind than the algorithm needs.
    pub fn sign(&self, algorithm: SignatureAlgorithm, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
        if !self.certificate.fits(algorithm.scheme) {
            return Err(Problem::Certificate("the key is of another kind"));
        }
        let mut signer = Signer::new(algorithm.digest.message_digest(), &self.key)?;
        match algorithm.scheme {
            Scheme::Rsa => signer.set_rsa_padding(Padding::PKCS1)?,
            Scheme::Pss => {
                signer.set_rsa_padding(Padding::PKCS1_PSS)?;
                signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
                signer.set_rsa_mgf1_md(algorithm.digest.message_digest())?;
            }
            Scheme::Ecdsa => {}
        }
        let signature = signer.sign_oneshot_to_vec(bytes)?;
        if algorithm.scheme != Scheme::Ecdsa {
            return Ok(signature);
        }
        let pair = EcdsaSig::from_der(&signature)?;
        let size = coordinate(&self.key)?;
        let padded = |number: &openssl::bn::BigNumRef| number.to_vec_padded(i32::try_from(size).unwrap_or(0));
        let mut numbers = padded(pair.r())?;
        numbers.extend(padded(pair.s())?);
        Ok(numbers)
    }

    /// Unwraps a key. All that can be wrong looks the same from outside.
    ///
    /// # Errors
    /// [`Problem::Algorithm`] if the policy does not accept the way it is wrapped, else [`Problem::Undecryptable`].
    pub fn unwrap(
        &self,
        transport: KeyTransport,
        wrapped: &[u8],
        policy: Policy,
    ) -> Result<Vec<u8>, Problem> {
        if transport == KeyTransport::Rsa15 && !policy.rsa15 {
            return Err(Problem::Algorithm);
        }
        let unwrap = || {
            let mut context = PkeyCtx::new(&self.key)?;
            context.decrypt_init()?;
            match transport {
                KeyTransport::Oaep { digest, mgf } => {
                    context.set_rsa_padding(Padding::PKCS1_OAEP)?;
                    context.set_rsa_oaep_md(digest.md())?;
                    context.set_rsa_mgf1_md(mgf.md())?;
                }
                KeyTransport::Rsa15 => context.set_rsa_padding(Padding::PKCS1)?,
            }
            let mut key = Vec::new();
            context.decrypt_to_vec(wrapped, &mut key)?;
            Ok::<_, openssl::error::ErrorStack>(key)
        };
        unwrap().map_err(|_| Undecryptable.into())
    }
}
