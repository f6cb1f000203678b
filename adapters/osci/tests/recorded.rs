//! The recorded messages of the official client and of an independent intermediary that it accepted: all of them are parsed, decrypted
//! and verified, and whatever is changed in them is noticed. Skipped with a message where the recordings are not at hand.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use amtsbote_osci::codec::Problem;
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::{
    CertificateRole, Certificates, ControlBlock, Features, custom_headers, languages,
};
use amtsbote_osci::codec::certificate::Identity;
use amtsbote_osci::codec::code::Code;
use amtsbote_osci::codec::content::{ContentPackage, Item, part_keys, verify_container};
use amtsbote_osci::codec::encryption::find_key;
use amtsbote_osci::codec::envelope::{Direction, Operation};
use amtsbote_osci::codec::order::{Request, Response};
use amtsbote_osci::codec::signature::verify;
use amtsbote_osci::reception::{Incoming, Limits, Received, Reception, ReceptionError};

fn recordings() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/osci12");
    if folder.exists() {
        return Some(folder);
    }
    eprintln!("skipped: there are no recordings at {}", folder.display());
    None
}

struct Keys(BTreeMap<String, Identity>);

impl Keys {
    fn load(folder: &Path) -> Self {
        let mut keys = BTreeMap::new();
        for entry in std::fs::read_dir(folder.join("keys")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "key") {
                let certificate = std::fs::read(path.with_extension("crt")).unwrap();
                let identity = Identity::from_pem(&certificate, &std::fs::read(&path).unwrap()).unwrap();
                keys.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), identity);
            }
        }
        Self(keys)
    }

    fn ciphers(&self) -> Vec<Identity> {
        self.0.iter().filter(|(name, _)| name.ends_with("-cipher")).map(|(_, key)| key.clone()).collect()
    }
}

const EVERYTHING: Policy = Policy { legacy_ciphers: true, rsa15: true };

fn receive(bytes: &[u8], keys: &[Identity], policy: Policy, cut: usize) -> Result<Incoming, ReceptionError> {
    let limits = Limits { xml: 64 << 20, message: 1 << 30, policy, folder: std::env::temp_dir() };
    let mut reception = Reception::new(limits);
    for piece in bytes.chunks(cut) {
        reception.feed(piece)?;
        if let Some(data) = reception.locked() {
            let decryptor = find_key(data, keys)?.certificate().der().to_vec();
            let key = keys.iter().find(|key| key.certificate().der() == decryptor).unwrap();
            let decryptor = data.open(key, policy)?;
            reception.unlock(decryptor)?;
        }
    }
    reception.finish()
}

fn message(bytes: &[u8], keys: &[Identity], policy: Policy) -> Result<Received, Problem> {
    match receive(bytes, keys, policy, 10_000) {
        Ok(Incoming::Message(message)) => Ok(*message),
        Ok(Incoming::Fault(fault)) => panic!("a fault {fault:?}"),
        Err(ReceptionError::Problem(problem)) => Err(problem),
        Err(ReceptionError::Io(error)) => panic!("{error}"),
    }
}

/// Whose certificate the order signature is made with.
fn signer(message: &Received) -> CertificateRole {
    let kind = message.envelope.kind();
    match (kind.direction, kind.operation) {
        (Direction::Request, Operation::AcceptDelivery | Operation::ProcessDelivery) => {
            CertificateRole::SignatureIntermediary
        }
        (Direction::Request, _) | (Direction::Response, Operation::ProcessDelivery) => {
            CertificateRole::SignatureOriginator
        }
        (Direction::Response, Operation::AcceptDelivery) => CertificateRole::SignatureAddressee,
        (Direction::Response, _) => CertificateRole::SignatureIntermediary,
    }
}

fn check_signature(message: &Received) -> Result<(), Problem> {
    let certificates = Certificates::read(&message.envelope)?;
    verify(&message.envelope, &certificates, signer(message), &message.part_ids(), message).map(|_| ())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::read_dir(path).unwrap().map(|one| one.unwrap().path()).collect()
            } else {
                vec![path]
            }
        })
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.ends_with(".request.bin") || name.ends_with(".response.bin")) && !name.contains(".inner.")
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_recorded_message_is_understood() {
    let Some(folder) = recordings() else { return };
    let keys = Keys::load(&folder).ciphers();
    let files = files(&folder);
    let (mut signed, mut encrypted, mut faults, mut containers, mut sealed) = (0, 0, 0, 0, 0);
    for path in &files {
        let bytes = std::fs::read(path).unwrap();
        let shown = path.strip_prefix(&folder).unwrap().display().to_string();
        let message = match receive(&bytes, &keys, EVERYTHING, 3_000) {
            Ok(Incoming::Message(message)) => *message,
            Ok(Incoming::Fault(fault)) => {
                assert!(fault.code.is_some(), "{shown}");
                faults += 1;
                continue;
            }
            Err(error) => panic!("{shown}: {error}"),
        };
        encrypted += usize::from(message.encrypted.is_some());
        let control =
            ControlBlock::read(&message.envelope).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert!(control.challenge.is_some() || control.response.is_some(), "{shown}");
        let certificates =
            Certificates::read(&message.envelope).unwrap_or_else(|error| panic!("{shown}: {error}"));
        Features::read(&message.envelope).unwrap();
        custom_headers(&message.envelope).unwrap();
        match message.envelope.kind().direction {
            Direction::Request => {
                languages(&message.envelope).unwrap();
                Request::read(&message.envelope).map(|_| ())
            }
            Direction::Response => Response::read(&message.envelope).map(|_| ()),
        }
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
        match check_signature(&message) {
            Ok(()) => signed += 1,
            Err(Problem::Unsigned) => {}
            Err(error) => panic!("{shown}: {error}"),
        }
        if let Ok(package) = ContentPackage::of(&message.envelope) {
            package
                .check(&certificates, &message.part_ids(), &message)
                .unwrap_or_else(|error| panic!("{shown}: {error}"));
            containers += usize::from(package.is_signed());
            for item in package.items().unwrap() {
                let Item::Sealed { .. } = item else { continue };
                let opened: Vec<_> = keys
                    .iter()
                    .flat_map(|key| package.open(key, &certificates, EVERYTHING).unwrap())
                    .collect();
                assert!(!opened.is_empty(), "{shown}");
                for document in &opened {
                    // Attachments are signed as they were before they were encrypted.
                    if part_keys(document.root(), EVERYTHING).unwrap().is_empty() {
                        verify_container(document.root(), &certificates, &message).unwrap();
                    }
                }
                sealed += 1;
            }
        }
    }
    assert_eq!(files.len(), 270, "messages");
    assert_eq!(signed, 252, "order signatures");
    assert_eq!(encrypted, 175, "encrypted messages");
    assert!(containers >= 8 && sealed >= 9 && faults >= 1, "{containers} {sealed} {faults}");
}

#[test]
fn what_was_decrypted_is_what_was_recorded() {
    let Some(folder) = recordings() else { return };
    let keys = Keys::load(&folder).ciphers();
    for path in files(&folder) {
        let inner =
            path.with_extension("").with_extension(match path.to_str().unwrap().contains(".request.") {
                true => "request.inner.bin",
                false => "response.inner.bin",
            });
        if !inner.exists() {
            continue;
        }
        let outer = message(&std::fs::read(&path).unwrap(), &keys, EVERYTHING).unwrap();
        let plain = message(&std::fs::read(&inner).unwrap(), &keys, EVERYTHING).unwrap();
        assert_eq!(outer.part_ids(), plain.part_ids());
        for part in outer.parts() {
            let (mut one, mut other) =
                (outer.content(part), plain.content(plain.part(&part.head.id).unwrap()));
            loop {
                let (piece, same) = (one.next_piece().unwrap(), other.next_piece().unwrap());
                assert_eq!(piece, same, "{}", path.display());
                if piece.is_none() {
                    break;
                }
            }
        }
    }
}

#[test]
fn old_algorithms_are_refused_unless_switched_on() {
    let Some(folder) = recordings() else { return };
    let keys = Keys::load(&folder).ciphers();
    for (name, policy) in [
        ("init-exit-3des", Policy { rsa15: true, legacy_ciphers: false }),
        ("init-exit-cbc-rsa15", Policy { rsa15: false, legacy_ciphers: true }),
        ("init-exit-cbc-rsa15", Policy { rsa15: true, legacy_ciphers: false }),
    ] {
        let bytes = std::fs::read(folder.join(name).join("01-InitDialog.request.bin")).unwrap();
        assert!(message(&bytes, &keys, EVERYTHING).is_ok());
        let problem = message(&bytes, &keys, policy).unwrap_err();
        assert_eq!(problem.code(), Code::Undecryptable, "{name}: {problem}");
    }
}

/// Where a byte is changed, and what has to come of it.
#[test]
fn whatever_is_changed_is_noticed_with_the_right_code() {
    let Some(folder) = recordings() else { return };
    let keys = Keys::load(&folder);
    let all = keys.ciphers();
    // Ciphertext, in every piece of it.
    let bytes = std::fs::read(folder.join("store-default/02-StoreDelivery.request.bin")).unwrap();
    let start = find(&bytes, b"Content-ID: <osci_enc>");
    for at in (start + 30..bytes.len() - 60).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let code = message(&changed, &all, EVERYTHING).unwrap_err().code();
        assert_eq!(code, Code::Undecryptable, "at {at}");
    }
    // The wrapped key, and a key of somebody else.
    let at = find(&bytes, b"<xenc:CipherValue>") + 30;
    let mut changed = bytes.clone();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    assert_eq!(message(&changed, &all, EVERYTHING).unwrap_err().code(), Code::Undecryptable);
    let stranger = [keys.0["dave-cipher"].clone()];
    assert_eq!(message(&bytes, &stranger, EVERYTHING).unwrap_err().code(), Code::NoKey);
    // Every element that is signed, in the text of the decrypted message.
    let inner =
        std::fs::read(folder.join("store-content-signed-plain-transport/02-StoreDelivery.request.bin"))
            .unwrap();
    let inner = String::from_utf8(inner).unwrap();
    let mut changes = 0;
    for (from, to, code) in [
        ("SequenceNumber=\"0\"", "SequenceNumber=\"1\"", Code::SignatureInvalid),
        ("LanguagesList=\"de", "LanguagesList=\"en", Code::SignatureInvalid),
        (
            "Quality=\"plain\" Service=\"reception\"",
            "Quality=\"cryptographic\" Service=\"reception\"",
            Code::SignatureInvalid,
        ),
        ("</soap:Header>", "<x Id=\"x\"></x></soap:Header>", Code::NotAllSigned),
        ("<osci:ContentPackage>", "<osci:ContentPackage> ", Code::SignatureInvalid),
        ("#rsa-sha256", "#rsa-sha1", Code::SignatureInvalid),
        ("xmlenc#sha256", "xmlenc#ripemd160", Code::SignatureInvalid),
        ("REC-xml-c14n-20010315", "REC-xml-c14n-20010315#WithComments", Code::SignatureInvalid),
        ("URI=\"#body\"", "URI=\"#controlblock\"", Code::SignatureInvalid),
        ("URI=\"#originator_signature_", "URI=\"#addressee_cipher_", Code::SignatureInvalid),
        ("Id=\"body\"", "Id=\"controlblock\"", Code::NotOsci),
        ("<osci:ClientSignature ", "<osci:SupplierSignature ", Code::NotOsci),
        ("<?xml", "<!DOCTYPE a><?xml", Code::NotOsci),
    ] {
        assert!(inner.contains(from), "{from}");
        let changed = inner.replacen(from, to, 1);
        let problem =
            message(changed.as_bytes(), &all, EVERYTHING).and_then(|one| check_signature(&one)).unwrap_err();
        assert_eq!(problem.code(), code, "{from}: {problem}");
        changes += 1;
    }
    // Without the reference to it, something is not signed.
    let (start, end) = (inner.find("<ds:Reference URI=\"#desiredlanguages\"").unwrap(), "</ds:Reference>");
    let end = start + inner[start..].find(end).unwrap() + end.len();
    let subset = format!("{}{}", &inner[..start], &inner[end..]);
    let problem =
        message(subset.as_bytes(), &all, EVERYTHING).and_then(|one| check_signature(&one)).unwrap_err();
    assert_eq!(problem.code(), Code::NotAllSigned);
    // The signed body moved away, and another in its place.
    let (start, end) = (inner.find("<soap:Body").unwrap(), inner.find("</soap:Body>").unwrap() + 12);
    let body = &inner[start..end];
    let wrapped = inner.replace("</soap:Header>", &format!("<x Id=\"x\">{body}</x></soap:Header>"));
    let wrapped = wrapped.replacen(
        &format!("</soap:Header>{body}"),
        &format!("</soap:Header>{}", body.replacen("Id=\"body\"", "Id=\"other\"", 1)),
        1,
    );
    let problem =
        message(wrapped.as_bytes(), &all, EVERYTHING).and_then(|one| check_signature(&one)).unwrap_err();
    assert!(
        matches!(problem.code(), Code::NotOsci | Code::SignatureInvalid | Code::NotAllSigned),
        "{problem}"
    );
    assert_eq!(changes, 13);
}

#[test]
fn a_changed_attachment_is_noticed() {
    let Some(folder) = recordings() else { return };
    let keys = Keys::load(&folder).ciphers();
    let mut bytes =
        std::fs::read(folder.join("store-attachment-plain-transport/02-StoreDelivery.request.bin")).unwrap();
    check_signature(&message(&bytes, &keys, EVERYTHING).unwrap()).unwrap();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    let problem = check_signature(&message(&bytes, &keys, EVERYTHING).unwrap()).unwrap_err();
    assert_eq!(problem.code(), Code::SignatureInvalid);
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

/// Requests with algorithms the other recordings lack: ECDSA, SHA-3, rsa-sha512, AES-192 and more.
#[test]
fn requests_with_rarer_algorithms_are_understood_and_wrong_ones_refused() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let keys = recordings().map(|folder| Keys::load(&folder).ciphers()).unwrap_or_default();
    let mut seen = 0;
    for entry in std::fs::read_dir(own).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        let is_encrypted = bytes.windows(12).any(|window| window == b"CipherRefere")
            && !bytes.windows(11).any(|window| window == b"soap:Header");
        if is_encrypted && keys.is_empty() {
            continue;
        }
        // Only the intermediary's key is there in earnest.
        let keys: Vec<Identity> = match name.as_str() {
            "refuse-foreign-key" => Vec::new(),
            _ => keys.clone(),
        };
        let checked = message(&bytes, &keys, EVERYTHING).and_then(|message| {
            let certificates = Certificates::read(&message.envelope)?;
            Request::read(&message.envelope)?;
            match check_signature(&message) {
                Ok(()) | Err(Problem::Unsigned) => {}
                Err(problem) => return Err(problem),
            }
            match ContentPackage::of(&message.envelope) {
                Ok(package) => package.check(&certificates, &message.part_ids(), &message),
                Err(_) => Ok(()),
            }
        });
        match name.starts_with("refuse-") {
            true => assert!(checked.is_err(), "{name}"),
            false => assert!(checked.is_ok(), "{name}: {:?}", checked.err()),
        }
        seen += 1;
    }
    assert!(seen >= 20, "{seen}");
}
