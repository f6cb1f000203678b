//! TLS by rustls with aws-lc-rs: who the peer is, which certificates we show, and how both are replaced while running.
//!
//! The crate decides who is *trusted*; who is *allowed* is decided above it. An expired client certificate is let through the
//! handshake and marked, so that the protocol above can say what is wrong (design section 9); possession of the key is always
//! proven.

mod client;
mod material;
mod server;
mod verifier;

pub use client::client_config;
pub use material::{Identity, MaterialError, certificate_expiry, load_certificates};
pub use rustls::{ClientConfig, ServerConfig};
pub use server::{ClientAuth, ServerTls, Trusted};
pub use tokio_rustls::server::TlsStream;
pub use verifier::{Peer, PeerTrust};
