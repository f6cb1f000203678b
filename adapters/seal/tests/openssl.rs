//! OpenSSL, which knows nothing of us, accepts what the seal makes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use amtsbote_certs::{Folder, KeyKind, Purpose};
use amtsbote_core::message::Sha256Digest;
use amtsbote_core::port::{Receipt, ReceiptPart, ReceiptSigner, SealRequest, Sealer};
use amtsbote_seal::{KeyError, Seal};
use amtsbote_testkit::samples::Acceptances;
use amtsbote_testkit::time::noon;

const DOCUMENT: &[u8] = b"<?xml version=\"1.0\"?>\n<antrag>\r\nbinary \x00 too</antrag>\n";

fn pki(folder: &Path) -> Folder {
    Folder::create(folder, SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_000_000)).unwrap()
}

fn seal(folder: &Path, kind: KeyKind) -> Seal {
    pki(folder).add("seal", &Purpose::Seal, kind).unwrap();
    Seal::load(&folder.join("seal.pem"), &folder.join("seal.key")).unwrap()
}

fn verifies(folder: &Path, content: &[u8]) -> bool {
    std::fs::write(folder.join("document"), content).unwrap();
    let openssl = Command::new("openssl")
        .args([
            "cms",
            "-verify",
            "-cades",
            "-binary",
            "-inform",
            "DER",
            "-content",
            "document",
            "-in",
            "signature",
        ])
        .args(["-CAfile", "seal-ca.pem", "-out", "verified", "-attime", "1768478400"])
        .current_dir(folder)
        .output()
        .unwrap();
    openssl.status.success() && std::fs::read(folder.join("verified")).unwrap() == content
}

#[tokio::test]
async fn openssl_verifies_both_kinds_of_keys_and_notices_a_change() {
    for kind in [KeyKind::P256, KeyKind::Rsa3072] {
        let folder = tempfile::tempdir().unwrap();
        let request = SealRequest { document: Sha256Digest::of(DOCUMENT), at: noon() };
        let record = seal(folder.path(), kind).seal(request).await.unwrap();
        std::fs::write(folder.path().join("signature"), &record.signature).unwrap();
        assert!(verifies(folder.path(), DOCUMENT), "{kind:?}");
        assert!(!verifies(folder.path(), &DOCUMENT[1..]), "{kind:?}");
        let expected = if kind == KeyKind::P256 { "ecdsa-p256-sha256" } else { "rsa-pkcs1-sha256" };
        assert_eq!(record.algorithm, expected);
    }
}

#[tokio::test]
async fn a_receipt_verifies_with_the_certificate_it_carries() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    for (kind, algorithm) in [(KeyKind::P256, Algorithm::ES256), (KeyKind::Rsa3072, Algorithm::PS256)] {
        let folder = tempfile::tempdir().unwrap();
        let receipt = Receipt {
            id: Acceptances::default().unused_id(),
            received_at: noon(),
            case_id: Some("case-1".parse().unwrap()),
            recipient: None,
            parts: vec![ReceiptPart {
                name: None,
                media_type: "application/xml".to_owned(),
                size: DOCUMENT.len() as u64,
                sha256: Sha256Digest::of(DOCUMENT),
            }],
        };
        let token = seal(folder.path(), kind).sign(receipt.clone(), noon()).await.unwrap();
        let header = decode_header(&token).unwrap();
        assert_eq!((header.alg, header.x5c.as_ref().unwrap().len()), (algorithm, 2));
        let public = Command::new("openssl")
            .args(["x509", "-in", "seal.pem", "-noout", "-pubkey"])
            .current_dir(folder.path())
            .output()
            .unwrap()
            .stdout;
        let key = if kind == KeyKind::P256 {
            DecodingKey::from_ec_pem(&public)
        } else {
            DecodingKey::from_rsa_pem(&public)
        };
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        let decoded = decode::<serde_json::Value>(&token, &key.unwrap(), &validation).unwrap();
        assert_eq!(decoded.claims, serde_json::to_value(&receipt).unwrap());
        assert_eq!(decoded.claims["parts"][0]["sha256"], Sha256Digest::of(DOCUMENT).to_string());
    }
}

#[tokio::test]
async fn nothing_is_signed_outside_the_validity_of_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let seal = seal(folder.path(), KeyKind::P256);
    let document = Sha256Digest::of(DOCUMENT);
    let late = seal.expires() + std::time::Duration::from_secs(1);
    for at in [late.try_into().unwrap(), "2001-01-01T00:00:00Z".parse().unwrap()] {
        let refused = seal.seal(SealRequest { document, at }).await.unwrap_err();
        assert!(refused.to_string().contains("not valid"), "{refused}");
    }
}

#[test]
fn a_certificate_for_other_purposes_is_no_seal() {
    let folder = tempfile::tempdir().unwrap();
    pki(folder.path()).add("client", &Purpose::Client, KeyKind::P256).unwrap();
    let refused =
        Seal::load(&folder.path().join("client.pem"), &folder.path().join("client.key")).err().unwrap();
    assert!(matches!(refused, KeyError::Usage { .. }), "{refused}");
}

#[test]
fn unusable_material_is_refused_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pki = pki(folder);
    pki.add("one", &Purpose::Seal, KeyKind::P256).unwrap();
    pki.add("two", &Purpose::Seal, KeyKind::P256).unwrap();
    let load = |chain: &str, key: &str| Seal::load(&folder.join(chain), &folder.join(key)).err().unwrap();
    assert!(matches!(load("one.pem", "two.key"), KeyError::Mismatch { .. }));
    assert!(
        matches!(load("missing.pem", "two.key"), KeyError::File { path, .. } if path.ends_with("missing.pem"))
    );
    assert!(matches!(load("one.pem", "one.pem"), KeyError::File { path, .. } if path.ends_with("one.pem")));
    let weak = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "weak.key", "-out", "weak.pem",
            "-subj", "/CN=x",
        ])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(weak.status.success());
    assert!(matches!(load("weak.pem", "weak.key"), KeyError::Weak { .. }));
}
