//! Servers of somebody else, over TLS with the certificates of a laboratory.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;

use crate::{Lab, Options};

/// Serves until the test ends; the base address. `known_clients`: who has no certificate of the laboratory is not let in.
pub async fn serve_tls(pki: &Path, known_clients: bool, router: Router) -> String {
    let load = |name: &str| {
        let certificates = CertificateDer::pem_file_iter(pki.join(name)).unwrap();
        certificates.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let key = PrivateKeyDer::from_pem_file(pki.join("server.key")).unwrap();
    let tls = rustls::ServerConfig::builder();
    let tls = match known_clients {
        false => tls.with_no_client_auth(),
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(load("ca.pem"));
            tls.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        }
    };
    let tls = tls.with_single_cert(load("server.pem"), key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let service = hyper_util::service::TowerToHyperService::new(router);
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let (acceptor, service) = (acceptor.clone(), service.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let stream = hyper_util::rt::TokioIo::new(stream);
                drop(hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await);
            });
        }
    });
    format!("https://{address}")
}

/// A laboratory whose department gets everything at an endpoint; the gateway is started separately. `more`: lines of the endpoint's section, and
/// further sections.
pub async fn lab_with_endpoint(router: Router, options: Options, more: &str) -> Lab {
    let lab = Lab::prepare(Options { channel: "webhook://office".to_owned(), ..options }).await;
    let url = serve_tls(&lab.path("pki"), false, router).await;
    std::fs::write(lab.path("hook.secret"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    lab.write_configuration(&format!(
        "[webhooks.office]\nurl = \"{url}/hooks\"\nca = [\"pki/ca.pem\"]\nsecret_file = \"hook.secret\"\n{more}"
    ));
    lab
}
