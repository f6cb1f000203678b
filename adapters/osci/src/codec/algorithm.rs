//! Algorithms by their names in XML (XML Signature, XML Encryption 1.1, RFC 9231), and what is accepted.

use openssl::cipher::{Cipher, CipherRef};
use openssl::hash::MessageDigest;
use openssl::md::{Md, MdRef};

use super::problem::Problem;

/// Digest algorithms. SHA-1 and RIPEMD-160 are not among them: they are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
    /// SHA3-512.
    Sha3_512,
}

impl Digest {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Sha256, Self::Sha384, Self::Sha512, Self::Sha3_256, Self::Sha3_384, Self::Sha3_512];

    /// Its name as a digest method.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Sha256 => "http://www.w3.org/2001/04/xmlenc#sha256",
            Self::Sha384 => "http://www.w3.org/2001/04/xmldsig-more#sha384",
            Self::Sha512 => "http://www.w3.org/2001/04/xmlenc#sha512",
            Self::Sha3_256 => "http://www.w3.org/2007/05/xmldsig-more#sha3-256",
            Self::Sha3_384 => "http://www.w3.org/2007/05/xmldsig-more#sha3-384",
            Self::Sha3_512 => "http://www.w3.org/2007/05/xmldsig-more#sha3-512",
        }
    }

    /// The digest of that name.
    ///
    /// # Errors
    /// [`Problem::Signature`] for all others.
    pub fn parse(uri: &str) -> Result<Self, Problem> {
        Self::ALL
            .iter()
            .copied()
            .find(|one| one.uri() == uri)
            .ok_or(Problem::Signature("a digest algorithm that is not accepted"))
    }

    pub(crate) fn message_digest(self) -> MessageDigest {
        match self {
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
            Self::Sha512 => MessageDigest::sha512(),
            Self::Sha3_256 => MessageDigest::sha3_256(),
            Self::Sha3_384 => MessageDigest::sha3_384(),
            Self::Sha3_512 => MessageDigest::sha3_512(),
        }
    }

    pub(crate) fn md(self) -> &'static MdRef {
        match self {
            Self::Sha256 => Md::sha256(),
            Self::Sha384 => Md::sha384(),
            Self::Sha512 => Md::sha512(),
            Self::Sha3_256 => Md::sha3_256(),
            Self::Sha3_384 => Md::sha3_384(),
            Self::Sha3_512 => Md::sha3_512(),
        }
    }
}

/// How a signature is padded, or which kind of key makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// RSA with PKCS#1 v1.5.
    Rsa,
    /// RSA-PSS, MGF1 and salt as the digest.
    Pss,
    /// ECDSA, the two numbers one behind the other.
    Ecdsa,
}

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignatureAlgorithm {
    /// How.
    pub scheme: Scheme,
    /// Over which digest.
    pub digest: Digest,
}

const SIGNATURES: &[(Scheme, Digest, &str)] = &[
    (Scheme::Rsa, Digest::Sha256, "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"),
    (Scheme::Rsa, Digest::Sha384, "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384"),
    (Scheme::Rsa, Digest::Sha512, "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512"),
    (Scheme::Pss, Digest::Sha256, "http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1"),
    (Scheme::Pss, Digest::Sha384, "http://www.w3.org/2007/05/xmldsig-more#sha384-rsa-MGF1"),
    (Scheme::Pss, Digest::Sha512, "http://www.w3.org/2007/05/xmldsig-more#sha512-rsa-MGF1"),
    (Scheme::Pss, Digest::Sha3_256, "http://www.w3.org/2007/05/xmldsig-more#sha3-256-rsa-MGF1"),
    (Scheme::Pss, Digest::Sha3_384, "http://www.w3.org/2007/05/xmldsig-more#sha3-384-rsa-MGF1"),
    (Scheme::Pss, Digest::Sha3_512, "http://www.w3.org/2007/05/xmldsig-more#sha3-512-rsa-MGF1"),
    (Scheme::Ecdsa, Digest::Sha256, "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"),
    (Scheme::Ecdsa, Digest::Sha384, "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"),
    (Scheme::Ecdsa, Digest::Sha512, "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512"),
];

impl SignatureAlgorithm {
    /// All that have a name.
    pub fn all() -> impl Iterator<Item = Self> {
        SIGNATURES.iter().map(|(scheme, digest, _)| Self { scheme: *scheme, digest: *digest })
    }

    /// Its name; `None` for combinations nobody has named.
    pub fn uri(self) -> Option<&'static str> {
        let found =
            SIGNATURES.iter().find(|(scheme, digest, _)| (*scheme, *digest) == (self.scheme, self.digest));
        found.map(|(_, _, uri)| *uri)
    }

    /// The algorithm of that name.
    ///
    /// # Errors
    /// [`Problem::Signature`] for all others.
    pub fn parse(uri: &str) -> Result<Self, Problem> {
        let found = SIGNATURES.iter().find(|(_, _, name)| *name == uri);
        let (scheme, digest, _) =
            found.ok_or(Problem::Signature("a signature algorithm that is not accepted"))?;
        Ok(Self { scheme: *scheme, digest: *digest })
    }
}

/// Modes of symmetric encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// AES with Galois counter mode: tampering is noticed.
    Gcm,
    /// AES with cipher block chaining.
    Cbc,
    /// Triple DES with cipher block chaining.
    TripleDes,
}

/// Symmetric encryption: mode and bytes of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symmetric {
    /// Mode.
    pub mode: Mode,
    /// Bytes of the key.
    pub key: usize,
}

const SYMMETRIC: &[(Mode, usize, &str)] = &[
    (Mode::Gcm, 32, "http://www.w3.org/2009/xmlenc11#aes256-gcm"),
    (Mode::Gcm, 24, "http://www.w3.org/2009/xmlenc11#aes192-gcm"),
    (Mode::Gcm, 16, "http://www.w3.org/2009/xmlenc11#aes128-gcm"),
    (Mode::Cbc, 32, "http://www.w3.org/2001/04/xmlenc#aes256-cbc"),
    (Mode::Cbc, 24, "http://www.w3.org/2001/04/xmlenc#aes192-cbc"),
    (Mode::Cbc, 16, "http://www.w3.org/2001/04/xmlenc#aes128-cbc"),
    (Mode::TripleDes, 24, "http://www.w3.org/2001/04/xmlenc#tripledes-cbc"),
];

impl Symmetric {
    /// AES-256-GCM, what is used unless a peer needs something else.
    pub const DEFAULT: Self = Self { mode: Mode::Gcm, key: 32 };

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        SYMMETRIC.iter().map(|(mode, key, _)| Self { mode: *mode, key: *key })
    }

    /// Its name.
    pub fn uri(self) -> &'static str {
        let found = SYMMETRIC.iter().find(|(mode, key, _)| (*mode, *key) == (self.mode, self.key));
        found.map_or("", |(_, _, uri)| *uri)
    }

    /// The encryption of that name, if the policy accepts it.
    ///
    /// # Errors
    /// [`Problem::Algorithm`].
    pub fn parse(uri: &str, policy: Policy) -> Result<Self, Problem> {
        let found = SYMMETRIC.iter().find(|(_, _, name)| *name == uri).ok_or(Problem::Algorithm)?;
        if found.0 != Mode::Gcm && !policy.legacy_ciphers {
            return Err(Problem::Algorithm);
        }
        Ok(Self { mode: found.0, key: found.1 })
    }

    pub(crate) fn cipher(self) -> Option<&'static CipherRef> {
        Some(match (self.mode, self.key) {
            (Mode::Gcm, 32) => Cipher::aes_256_gcm(),
            (Mode::Gcm, 24) => Cipher::aes_192_gcm(),
            (Mode::Gcm, 16) => Cipher::aes_128_gcm(),
            (Mode::Cbc, 32) => Cipher::aes_256_cbc(),
            (Mode::Cbc, 24) => Cipher::aes_192_cbc(),
            (Mode::Cbc, 16) => Cipher::aes_128_cbc(),
            (Mode::TripleDes, 24) => Cipher::des_ede3_cbc(),
            _ => return None,
        })
    }
}

/// How a key is wrapped for its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyTransport {
    /// RSA-OAEP with its two digests, which may differ.
    Oaep {
        /// Digest of the label.
        digest: Digest,
        /// Digest of the mask generation function.
        mgf: Digest,
    },
    /// RSA with PKCS#1 v1.5.
    Rsa15,
}

impl KeyTransport {
    /// What is used unless a peer needs something else.
    pub const DEFAULT: Self = Self::Oaep { digest: Digest::Sha256, mgf: Digest::Sha256 };
    /// Name of RSA-OAEP in XML Encryption 1.1.
    pub const OAEP: &'static str = "http://www.w3.org/2009/xmlenc11#rsa-oaep";
    /// Name of PKCS#1 v1.5.
    pub const RSA_15: &'static str = "http://www.w3.org/2001/04/xmlenc#rsa-1_5";
}

const MASKS: &[(Digest, &str)] = &[
    (Digest::Sha256, "http://www.w3.org/2009/xmlenc11#mgf1sha256"),
    (Digest::Sha384, "http://www.w3.org/2009/xmlenc11#mgf1sha384"),
    (Digest::Sha512, "http://www.w3.org/2009/xmlenc11#mgf1sha512"),
];

/// The name of a mask generation function; SHA-3 has none.
pub(crate) fn mask_uri(digest: Digest) -> Option<&'static str> {
    MASKS.iter().find(|(one, _)| *one == digest).map(|(_, uri)| *uri)
}

/// The digest of a mask generation function.
pub(crate) fn parse_mask(uri: &str) -> Result<Digest, Problem> {
    MASKS.iter().find(|(_, name)| *name == uri).map(|(digest, _)| *digest).ok_or(Problem::Algorithm)
}

/// What is accepted besides AES-GCM with RSA-OAEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// CBC and Triple DES are decrypted.
    pub legacy_ciphers: bool,
    /// Keys wrapped with PKCS#1 v1.5 are unwrapped.
    pub rsa15: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back() {
        for one in Digest::ALL {
            assert_eq!(Digest::parse(one.uri()).unwrap(), *one);
        }
        for one in SignatureAlgorithm::all() {
            assert_eq!(SignatureAlgorithm::parse(one.uri().unwrap()).unwrap(), one);
        }
        let old = Policy { legacy_ciphers: true, rsa15: false };
        for one in Symmetric::all() {
            assert_eq!(Symmetric::parse(one.uri(), old).unwrap(), one);
            assert!(one.cipher().is_some());
            assert_eq!(Symmetric::parse(one.uri(), Policy::default()).is_ok(), one.mode == Mode::Gcm);
        }
        for digest in [Digest::Sha256, Digest::Sha384, Digest::Sha512] {
            assert_eq!(parse_mask(mask_uri(digest).unwrap()).unwrap(), digest);
        }
    }

    #[test]
    fn what_is_broken_is_refused() {
        for digest in
            ["http://www.w3.org/2000/09/xmldsig#sha1", "http://www.w3.org/2001/04/xmlenc#ripemd160", ""]
        {
            assert!(matches!(Digest::parse(digest), Err(Problem::Signature(_))));
        }
        for signature in [
            "http://www.w3.org/2000/09/xmldsig#rsa-sha1",
            "http://www.w3.org/2001/04/xmldsig-more#rsa-ripemd160",
            "http://www.w3.org/2000/09/xmldsig#hmac-sha1",
        ] {
            assert!(matches!(SignatureAlgorithm::parse(signature), Err(Problem::Signature(_))));
        }
        let weak = "http://www.w3.org/2001/04/xmlenc#tripledes-cbc";
        assert!(matches!(Symmetric::parse(weak, Policy::default()), Err(Problem::Algorithm)));
    }
}
