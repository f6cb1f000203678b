//! Signatures of ours, judged by software nobody here wrote: xmlsec1, and lxml with Python's cryptography. Skipped with a message where
//! they are not installed; `tests/run` installs them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use amtsbote_osci::codec::algorithm::{Scheme, SignatureAlgorithm};
use amtsbote_osci::codec::block::{CertificateRole, Certificates, ControlBlock, Features};
use amtsbote_osci::codec::certificate::Identity;
use amtsbote_osci::codec::compose::{Extras, request};
use amtsbote_osci::codec::draft::Signer;
use amtsbote_osci::codec::mime::{Encoding, PartHead, close_package, open_package, open_part};
use amtsbote_osci::codec::order::Request;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::{X509, X509NameBuilder};

fn identity(key: PKey<Private>) -> Identity {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", "signer").unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build().to_pem().unwrap();
    Identity::from_pem(&certificate, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

/// A signed order with a part, as the bytes of its package; and its XML part.
fn order(signer: &Identity, algorithm: SignatureAlgorithm, attachment: Option<&[u8]>) -> (Vec<u8>, String) {
    let certificates =
        Certificates::default().with(CertificateRole::SignatureOriginator, signer.certificate());
    let (block, features) = (certificates.write_others(), Features::all());
    let custom = ["<x:y xmlns:x=\"urn:x\" Id=\"mine\">ä &gt; b</x:y>".to_owned()];
    let package = "<osci:ContentContainer Id=\"c\"><osci:Content Id=\"d\" href=\"cid:part.bin\"></osci:Content></osci:ContentContainer>";
    let extras = Extras {
        others: Some(&block),
        features: Some(&features),
        custom: &custom,
        package: if attachment.is_some() { package } else { "" },
        ..Extras::default()
    };
    let control =
        ControlBlock { challenge: Some("c".to_owned()), sequence: Some(0), ..ControlBlock::default() };
    let store =
        Request::StoreDelivery { id: Some("x".to_owned()), subject: Some("Größe < \"1\" & 2".to_owned()) };
    let signer = Signer {
        identity: signer,
        algorithm,
        key: CertificateRole::SignatureOriginator.id_of(signer.certificate()),
    };
    let digest = |bytes: &[u8]| {
        let method = match algorithm.digest.uri().rsplit('#').next().unwrap() {
            "sha256" => MessageDigest::sha256(),
            "sha384" => MessageDigest::sha384(),
            "sha512" => MessageDigest::sha512(),
            "sha3-256" => MessageDigest::sha3_256(),
            "sha3-384" => MessageDigest::sha3_384(),
            _ => MessageDigest::sha3_512(),
        };
        openssl::hash::hash(method, bytes).unwrap().to_vec()
    };
    let parts: Vec<_> = attachment.iter().map(|bytes| ("part.bin".to_owned(), digest(bytes))).collect();
    let xml = request(&store, &control, "de en", extras).finish(Some(&signer), &parts).unwrap();
    let mut bytes = (open_package("B", None) + &xml).into_bytes();
    if let Some(attachment) = attachment {
        let content_type = "application/octet-stream".to_owned();
        let head =
            PartHead { id: "part.bin".to_owned(), content_type, encoding: Encoding::Raw, others: Vec::new() };
        bytes.extend(open_part("B", &head, None).into_bytes());
        bytes.extend_from_slice(attachment);
    }
    bytes.extend(close_package("B").into_bytes());
    (bytes, xml)
}

fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python");
    let usable = Command::new(&python).args(["-c", "import lxml, cryptography"]).output();
    if usable.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: there is no Python with lxml and cryptography; tests/run installs it");
    None
}

#[test]
fn python_agrees_with_every_algorithm() {
    let Some(python) = python() else { return };
    let curve = |nid| {
        let group = EcGroup::from_curve_name(nid).unwrap();
        identity(PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
    };
    let rsa = identity(PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
    let curves = [curve(Nid::X9_62_PRIME256V1), curve(Nid::SECP521R1), curve(Nid::BRAINPOOL_P256R1)];
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify_order.py");
    let verify = |bytes: &[u8]| {
        let file = folder.path().join("message");
        std::fs::write(&file, bytes).unwrap();
        Command::new(&python).arg(&script).arg(&file).output().unwrap()
    };
    let mut judged = 0;
    for algorithm in SignatureAlgorithm::all() {
        let signers: Vec<&Identity> = match algorithm.scheme {
            Scheme::Ecdsa => curves.iter().collect(),
            Scheme::Rsa | Scheme::Pss => vec![&rsa],
        };
        for signer in signers {
            let (bytes, _) = order(signer, algorithm, Some(b"\r\n--attachment\0\xff"));
            let output = verify(&bytes);
            assert!(output.status.success(), "{algorithm:?}: {}", String::from_utf8_lossy(&output.stderr));
            judged += 1;
        }
    }
    assert_eq!(judged, 9 + 3 * 3);
    let (mut bytes, _) = order(&rsa, rsa.preferred(), Some(b"attachment"));
    let at = bytes.windows(10).rposition(|window| window == b"attachment").unwrap();
    bytes[at] ^= 1;
    assert!(!verify(&bytes).status.success(), "the judge notices a change");
}

#[test]
fn xmlsec_agrees_with_what_it_knows() {
    if Command::new("xmlsec1").arg("--version").output().is_err() {
        eprintln!("skipped: xmlsec1 is not installed; tests/run installs it");
        return;
    }
    let rsa = identity(PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
    let (_, xml) = order(&rsa, rsa.preferred(), None);
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("signer.der");
    std::fs::write(&certificate, rsa.certificate().der()).unwrap();
    let verify = |xml: &str| {
        let file = folder.path().join("order.xml");
        // The certificate is given from outside: xmlsec1 does not follow references to it.
        std::fs::write(&file, without_key_info(xml)).unwrap();
        let blocks = [
            "ControlBlock",
            "DesiredLanguages",
            "QualityOfTimestamp",
            "storeDelivery",
            "NonIntermediaryCertificates",
            "ClientSignature",
        ];
        let ids = blocks.map(|name| format!("--id-attr:Id http://www.osci.de/2002/04/osci:{name}"));
        let others = [
            "--id-attr:Id http://schemas.xmlsoap.org/soap/envelope/:Body",
            "--id-attr:Id http://xoev.de/transport/osci12/7:FeatureDescription",
            "--id-attr:Id urn:x:y",
        ];
        let ids = ids.iter().map(String::as_str).chain(others).flat_map(|pair| pair.split(' '));
        Command::new("xmlsec1")
            .args(["--verify", "--pubkey-cert-der"])
            .arg(&certificate)
            .args(ids)
            .arg(&file)
            .output()
            .unwrap()
    };
    let output = verify(&xml);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!verify(&xml.replace("LanguagesList=\"de en\"", "LanguagesList=\"en de\"")).status.success());
}

/// `KeyInfo` is not signed.
fn without_key_info(xml: &str) -> String {
    let (start, end) = (xml.find("<ds:KeyInfo>").unwrap(), "</ds:KeyInfo>");
    let end = xml.find(end).unwrap() + end.len();
    format!("{}{}", &xml[..start], &xml[end..])
}
