//! The server side: one configuration in force, replaced as a whole; connections keep the one they began with.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::material::{Identity, MaterialError};
use crate::verifier::{Peer, PinnedOrAuthority};

/// Whether a connection without a client certificate is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A certificate is asked for; without one the peer is nobody.
    Requested,
}

/// Which clients are trusted.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    /// SHA-256 fingerprints of single certificates.
    pub pins: HashSet<[u8; 32]>,
    /// Authorities.
    pub authorities: Vec<CertificateDer<'static>>,
}

struct InForce {
    config: Arc<ServerConfig>,
    verifier: Arc<PinnedOrAuthority>,
}

/// TLS of a listener.
pub struct ServerTls(ArcSwap<InForce>);

impl ServerTls {
    /// Builds the configuration.
    ///
    /// # Errors
    /// When certificate, key or authorities cannot be used.
    pub fn new(identity: Identity, trusted: Trusted, auth: ClientAuth) -> Result<Self, MaterialError> {
        Ok(Self(ArcSwap::from_pointee(build(identity, trusted, auth)?)))
    }

    /// Puts new certificates and trust into force for new connections; on error the old ones stay.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn replace(
        &self,
        identity: Identity,
        trusted: Trusted,
        auth: ClientAuth,
    ) -> Result<(), MaterialError> {
        self.0.store(Arc::new(build(identity, trusted, auth)?));
        Ok(())
    }

    /// Shakes hands. The peer is `None` if it showed no certificate. Not bounded in time; the caller is.
    ///
    /// # Errors
    /// When the handshake fails or the certificate is not trusted.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Option<Peer>)> {
        let in_force = self.0.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&in_force.config)).accept(stream).await?;
        let peer = match stream.get_ref().1.peer_certificates() {
            Some([leaf, intermediates @ ..]) => {
                let judged = in_force.verifier.judge(leaf, intermediates, UnixTime::now());
                Some(judged.map_err(io::Error::other)?)
            }
            Some([]) | None => None,
        };
        Ok((stream, peer))
    }
}

fn build(identity: Identity, trusted: Trusted, auth: ClientAuth) -> Result<InForce, MaterialError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in trusted.authorities {
        roots.add(authority)?;
    }
    let mandatory = auth == ClientAuth::Required;
    let verifier = Arc::new(PinnedOrAuthority::new(trusted.pins, roots, mandatory, &provider)?);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::clone(&verifier) as _)
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(InForce { config: Arc::new(config), verifier })
}
