//! Which client certificates pass the handshake, and what the protocol above learns of them.

use std::collections::HashSet;
use std::sync::Arc;

use der::Decode;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};

use crate::material::MaterialError;

/// Why a peer's certificate was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTrust {
    /// Its fingerprint is configured.
    Pinned,
    /// It chains to a client authority.
    Authority,
}

/// A peer that has proven possession of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// SHA-256 over the certificate.
    pub fingerprint: [u8; 32],
    /// Subject as RFC 4514 text.
    pub subject: String,
    /// Why it was accepted.
    pub trust: PeerTrust,
    /// Outside its validity: nothing may be done for it.
    pub expired: bool,
}

/// Accepts leaves that are pinned or chain to a client authority, also outside their validity.
#[derive(Debug)]
pub(crate) struct PinnedOrAuthority {
    pins: HashSet<[u8; 32]>,
    authorities: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    mandatory: bool,
}

impl PinnedOrAuthority {
    pub(crate) fn new(
        pins: HashSet<[u8; 32]>,
        roots: RootCertStore,
        mandatory: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, MaterialError> {
        let authorities = if roots.is_empty() {
            None
        } else {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
            Some(verifier.map_err(|error| MaterialError::Authorities(error.to_string()))?)
        };
        Ok(Self { pins, authorities, algorithms: provider.signature_verification_algorithms, mandatory })
    }

    /// The verdict on a leaf; asked again after the handshake, because resumption does not ask the verifier.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Error> {
        let fingerprint: [u8; 32] = Sha256::digest(leaf.as_ref()).into();
        let parsed = x509_cert::Certificate::from_der(leaf)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let validity = &parsed.tbs_certificate.validity;
        let start = validity.not_before.to_unix_duration().as_secs();
        let end = validity.not_after.to_unix_duration().as_secs();
        let expired = !(start..=end).contains(&now.as_secs());
        let peer =
            |trust| Peer { fingerprint, subject: parsed.tbs_certificate.subject.to_string(), trust, expired };
        if self.pins.contains(&fingerprint) {
            return Ok(peer(PeerTrust::Pinned));
        }
        let Some(authorities) = &self.authorities else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        // The chain of an expired leaf is judged as of its last valid second.
        let then = match authorities.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => return Ok(peer(PeerTrust::Authority)),
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => not_after,
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                not_before
            }
            Err(error) => return Err(error),
        };
        authorities.verify_client_cert(leaf, intermediates, then)?;
        Ok(Peer { expired: true, ..peer(PeerTrust::Authority) })
    }
}

impl ClientCertVerifier for PinnedOrAuthority {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: a client with a pinned certificate of an unknown authority would withhold it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
