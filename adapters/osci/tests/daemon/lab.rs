//! A gateway process with an intermediary, and keys of its clients.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_certs::{KeyKind, Purpose};
use amtsbote_core::port::Entropy;
use amtsbote_http::{Client as HttpClient, ClientOptions, Reach};
use amtsbote_it::{Lab, Options};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::certificate::Identity;
use amtsbote_osci::reception::Limits;
use amtsbote_osci::{OsciClient, Own, Peer};
use amtsbote_testkit::seeded::SeededEntropy;

/// Password of all p12 files.
pub(crate) const PASSWORD: &str = "laboratory";
/// Everybody with keys of OSCI.
const NAMES: [&str; 4] = ["intermediary", "alice", "bob", "clerk"];

fn section(more: &str) -> String {
    format!(
        r#"
[osci]
listen = "127.0.0.1:0"
cipher_certificate = "pki/intermediary-cipher.pem"
cipher_key = "pki/intermediary-cipher.key"
signature_certificate = "pki/intermediary-sign.pem"
signature_key = "pki/intermediary-sign.key"
legacy_ciphers = true
dangerously_accept_rsa15 = true
{more}
"#
    )
}

const ACCOUNTS: &str = r#"
[[accounts]]
name = "alice"
roles = ["author", "reader"]
parties = ["dept:alice"]
serves = ["osci:alice"]
osci_cipher = ["pki/alice-cipher.pem"]
osci_signature = ["pki/alice-sign.pem"]
certificates = ["pki/alice.pem"]
[[accounts]]
name = "bob"
roles = ["author", "reader"]
parties = ["dept:bob"]
serves = ["osci:bob"]
osci_cipher = ["pki/bob-cipher.pem"]
osci_signature = ["pki/bob-sign.pem"]
certificates = ["pki/bob.pem"]
"#;

/// A laboratory whose gateway is not started yet. `more`: lines for `[osci]`.
pub(crate) async fn prepare(more: &str) -> Lab {
    let lab = Lab::prepare(Options { extra: section(more), ..Options::default() }).await;
    for name in ["alice", "bob"] {
        lab.pki.add(name, &Purpose::Client, KeyKind::P256).unwrap();
    }
    for name in NAMES {
        lab.pki.add(&format!("{name}-cipher"), &Purpose::Cipher, KeyKind::Rsa3072).unwrap();
        lab.pki.add(&format!("{name}-sign"), &Purpose::Seal, KeyKind::Rsa3072).unwrap();
    }
    lab.write_configuration(ACCOUNTS);
    lab
}

/// Somebody's keys.
pub(crate) fn own(lab: &Lab, name: &str) -> Own {
    let identity = |kind: &str| {
        let read =
            |extension: &str| std::fs::read(lab.path(&format!("pki/{name}-{kind}.{extension}"))).unwrap();
        Identity::from_pem(&read("pem"), &read("key")).unwrap()
    };
    Own { cipher: identity("cipher"), signature: identity("sign") }
}

/// Puts all keys into files the official library reads.
pub(crate) fn export(lab: &Lab, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for name in NAMES {
        for kind in ["cipher", "sign"] {
            let pem = lab.path(&format!("pki/{name}-{kind}.pem"));
            std::fs::copy(&pem, folder.join(format!("{name}-{kind}.crt"))).unwrap();
            let status = Command::new("openssl")
                .args(["pkcs12", "-export", "-passout", &format!("pass:{PASSWORD}"), "-in"])
                .arg(&pem)
                .arg("-inkey")
                .arg(lab.path(&format!("pki/{name}-{kind}.key")))
                .arg("-out")
                .arg(folder.join(format!("{name}-{kind}.p12")))
                .status()
                .unwrap();
            assert!(status.success());
        }
    }
}

/// A client with somebody's keys.
pub(crate) fn client(lab: &Lab, name: &str, seed: u64) -> OsciClient {
    let options = ClientOptions {
        reach: Reach::Anywhere,
        connect: Duration::from_secs(5),
        total: Duration::from_secs(300),
        body: 8 << 20,
    };
    let http = HttpClient::new(amtsbote_tls::client_config(Vec::new(), None).unwrap(), options).unwrap();
    let limits =
        Limits { xml: 8 << 20, message: 2 << 30, policy: Policy::default(), folder: std::env::temp_dir() };
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    OsciClient::new(http, entropy, limits, own(lab, name))
}

/// The intermediary as its clients see it.
pub(crate) fn peer(lab: &Lab) -> Peer {
    let keys = own(lab, "intermediary");
    Peer {
        url: format!("http://{}/", lab.gateway().osci.unwrap()).parse().unwrap(),
        cipher: keys.cipher.certificate().clone(),
        signature: Some(keys.signature.certificate().clone()),
    }
}
