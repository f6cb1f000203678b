//! Messages we write are messages we read: every kind, every algorithm of signatures and encryption, and none of them readable by others.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use amtsbote_osci::codec::Problem;
use amtsbote_osci::codec::algorithm::{
    Digest, KeyTransport, Mode, Policy, Scheme, SignatureAlgorithm, Symmetric,
};
use amtsbote_osci::codec::block::{CertificateRole, Certificates, ControlBlock, Features, custom_headers};
use amtsbote_osci::codec::card::{Inspection, MathResult, ProcessCard};
use amtsbote_osci::codec::certificate::{Certificate, Identity};
use amtsbote_osci::codec::cipher::{Encryptor, IvLength, generate_key};
use amtsbote_osci::codec::code::{Code, Language};
use amtsbote_osci::codec::compose::{Extras, request, response};
use amtsbote_osci::codec::content::{
    ContentPackage, Item, NewContainer, NewContent, part_keys, verify_container,
};
use amtsbote_osci::codec::draft::{Signer, write_fault};
use amtsbote_osci::codec::encryption::read_envelope;
use amtsbote_osci::codec::encryption::{Method, find_key, write_envelope};
use amtsbote_osci::codec::envelope::{Envelope, Parsed, parse};
use amtsbote_osci::codec::order::{
    Answer, CardRule, CardSelection, ChunkInformation, FetchRule, Part, Push, Request, Response,
};
use amtsbote_osci::codec::signature::{NoParts, verify};
use amtsbote_soap::document::{Document, DocumentLimits};
use jiff::Timestamp;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::{X509, X509NameBuilder};

fn identity(name: &str, key: PKey<Private>) -> Identity {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(4711).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(1_700_000_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(2_000_000_000).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build().to_pem().unwrap();
    Identity::from_pem(&certificate, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

fn rsa(name: &str) -> Identity {
    identity(name, PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap())
}

fn curve(name: &str, nid: Nid) -> Identity {
    let group = EcGroup::from_curve_name(nid).unwrap();
    identity(name, PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
}

fn read(xml: &str) -> Envelope {
    match parse(xml.as_bytes().to_vec(), DocumentLimits::default()).unwrap() {
        Parsed::Message(envelope) => envelope,
        other => panic!("{other:?}"),
    }
}

fn control() -> ControlBlock {
    ControlBlock {
        response: Some("abc".to_owned()),
        challenge: Some("d&f".to_owned()),
        conversation: Some("4711".to_owned()),
        sequence: Some(3),
    }
}

fn card() -> ProcessCard {
    let at = |second| Some(Timestamp::from_second(second).unwrap());
    ProcessCard {
        message_id: "id-1".to_owned(),
        modified: at(3_000).unwrap(),
        creation: at(1_000),
        forwarding: at(2_000),
        reception: None,
        subject: Some("Größe > 1 & <2>".to_owned()),
        inspections: Vec::new(),
    }
}

fn requests() -> Vec<Request> {
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let push =
        Push { receiver: "http://127.0.0.1/?a=1&b=2".to_owned(), id: Some("x".to_owned()), subject: None };
    let chunk = ChunkInformation {
        number: Some(1),
        size: Some(64),
        total: Some(3),
        total_size: Some(169),
        received: Vec::new(),
    };
    let rule = |selection, part, no_reception, limit| {
        Request::FetchProcessCard(CardRule { selection, part, no_reception, limit })
    };
    let fetched = ChunkInformation {
        number: Some(2),
        size: Some(64),
        received: vec![1],
        ..ChunkInformation::default()
    };
    vec![
        Request::InitDialog,
        Request::ExitDialog,
        Request::GetMessageId,
        Request::StoreDelivery { id: Some("a;b".to_owned()), subject: Some("Betreff <&>".to_owned()) },
        Request::StoreDelivery { id: None, subject: None },
        Request::FetchDelivery(FetchRule::Next),
        Request::FetchDelivery(FetchRule::Id("x".to_owned())),
        Request::FetchDelivery(FetchRule::Since(at)),
        rule(CardSelection::All, None, false, None),
        rule(CardSelection::Ids(vec!["a".to_owned(), "b".to_owned()]), None, false, Some(5)),
        rule(CardSelection::Created(at), Some(Part::Originator), true, None),
        rule(CardSelection::Modified(at), Some(Part::Addressee), false, Some(1)),
        Request::ForwardDelivery(push.clone()),
        Request::MediateDelivery(Push { id: None, ..push }),
        Request::PartialStoreDelivery { id: "x".to_owned(), subject: None, chunk: Some(chunk) },
        Request::PartialStoreDelivery { id: "x".to_owned(), subject: None, chunk: None },
        Request::PartialFetchDelivery(
            FetchRule::Next,
            ChunkInformation { received: Vec::new(), ..fetched.clone() },
        ),
        Request::PartialFetchDelivery(FetchRule::Id("x".to_owned()), fetched),
        Request::AcceptDelivery(Box::new(card())),
        Request::ProcessDelivery { reply_id: Some("r".to_owned()), card: Some(Box::new(card())) },
        Request::ProcessDelivery { reply_id: None, card: None },
    ]
}

#[test]
fn every_request_is_read_as_it_was_written() {
    let signer = rsa("signer");
    let certificates =
        Certificates::default().with(CertificateRole::SignatureOriginator, signer.certificate());
    let features = Features { max_chunk: Some(7), ..Features::all() };
    let custom = ["<x:y xmlns:x=\"urn:x\" Id=\"mine\">1</x:y>".to_owned()];
    let signer = Signer {
        identity: &signer,
        algorithm: signer.preferred(),
        key: CertificateRole::SignatureOriginator.id_of(signer.certificate()),
    };
    let block = certificates.write_others();
    for one in requests() {
        let extras =
            Extras { others: Some(&block), features: Some(&features), custom: &custom, ..Extras::default() };
        let xml = request(&one, &control(), "de en", extras).finish(Some(&signer), &[]).unwrap();
        let envelope = read(&xml);
        assert_eq!(Request::read(&envelope).unwrap(), one, "{xml}");
        assert_eq!(ControlBlock::read(&envelope).unwrap(), control());
        assert_eq!(Certificates::read(&envelope).unwrap(), certificates);
        assert_eq!(Features::read(&envelope).unwrap().unwrap(), features);
        let headers = custom_headers(&envelope).unwrap();
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[0].name, ("urn:x".to_owned(), "y".to_owned()));
        let role = CertificateRole::SignatureOriginator;
        let verified = verify(&envelope, &certificates, role, &BTreeSet::new(), &NoParts).unwrap();
        assert_eq!(verified, signer.identity.certificate());
    }
}

#[test]
fn every_answer_is_read_as_it_was_written() {
    let card = Box::new(card());
    let received = Box::new(ProcessCard { reception: Some(card.modified), ..(*card).clone() });
    let created = Box::new(ProcessCard { forwarding: None, ..(*card).clone() });
    let rule = CardRule { selection: CardSelection::All, part: None, no_reception: false, limit: None };
    let chunk = ChunkInformation {
        number: Some(1),
        total: Some(2),
        received: vec![1, 2],
        ..ChunkInformation::default()
    };
    let sent = ChunkInformation {
        number: Some(1),
        total: Some(2),
        total_size: Some(9),
        ..ChunkInformation::default()
    };
    for answer in [
        Answer::InitDialog,
        Answer::ExitDialog,
        Answer::GetMessageId(Some("x".to_owned())),
        Answer::GetMessageId(None),
        Answer::StoreDelivery(Some(created.clone())),
        Answer::FetchDelivery(FetchRule::Next, Some(card.clone())),
        Answer::FetchDelivery(FetchRule::Id("x".to_owned()), None),
        Answer::FetchProcessCard(rule, vec![(*received).clone(), (*created).clone()]),
        Answer::ForwardDelivery(Some(received.clone())),
        Answer::MediateDelivery(Some(received), Some(card)),
        Answer::PartialStoreDelivery { inside: None, card: Some(created), chunk },
        Answer::PartialFetchDelivery { rule: FetchRule::Next, chunk: sent, id: "x".to_owned() },
        Answer::AcceptDelivery,
        Answer::ProcessDelivery { id: Some("r".to_owned()), subject: Some("s".to_owned()) },
    ] {
        let codes = [Code::MoreDeliveries, Code::DoneOpen];
        let xml = response(&answer, &codes, Language::English, &control(), Extras::default())
            .finish(None, &[])
            .unwrap();
        let read = Response::read(&read(&xml)).unwrap();
        assert_eq!(read.answer, answer, "{xml}");
        assert!(read.feedback.is_success(), "the main result comes first");
        assert_eq!(read.feedback.0[1].code(), Some(Code::MoreDeliveries));
    }
}

#[test]
fn inspections_are_written_in_the_order_of_the_schema() {
    let certificate = rsa("Größe, der").certificate().clone();
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let inspection = Inspection::of(&certificate, MathResult::Indeterminate, at);
    let card = ProcessCard { inspections: vec![inspection], ..card() };
    let answer = Answer::StoreDelivery(Some(Box::new(card)));
    let xml = response(&answer, &[Code::Done], Language::German, &control(), Extras::default())
        .finish(None, &[])
        .unwrap();
    let start = xml.find("<osci:Inspection>").unwrap();
    let inspection = &xml[start..xml.find("</osci:InspectionReport>").unwrap()];
    assert!(inspection.contains("<osci:X509SerialNumber>4711</osci:X509SerialNumber>"), "{inspection}");
    assert!(inspection.contains("CN=Größe\\, der"), "{inspection}");
    assert!(
        inspection.ends_with("<osci:OfflineResult Result=\"valid\"></osci:OfflineResult></osci:Inspection>")
    );
}

#[test]
fn every_signature_algorithm_signs_and_verifies() {
    let keys = [
        rsa("rsa"),
        curve("p256", Nid::X9_62_PRIME256V1),
        curve("p384", Nid::SECP384R1),
        curve("p521", Nid::SECP521R1),
        curve("brainpool", Nid::BRAINPOOL_P256R1),
    ];
    let other = rsa("other");
    let mut made = 0;
    for algorithm in SignatureAlgorithm::all() {
        for key in &keys {
            let signed = key.sign(algorithm, b"bytes");
            if !key.certificate().fits(algorithm.scheme) {
                assert!(signed.is_err());
                continue;
            }
            let signature = signed.unwrap();
            assert!(key.certificate().verifies(algorithm, b"bytes", &signature), "{algorithm:?}");
            assert!(!key.certificate().verifies(algorithm, b"other", &signature), "{algorithm:?}");
            assert!(!key.certificate().verifies(algorithm, b"bytes", &signature[1..]), "{algorithm:?}");
            assert!(!other.certificate().verifies(algorithm, b"bytes", &signature), "{algorithm:?}");
            made += 1;
        }
    }
    assert_eq!(made, 9 + 3 * 4);
    assert_eq!(keys[2].preferred(), SignatureAlgorithm { scheme: Scheme::Ecdsa, digest: Digest::Sha384 });
}

#[test]
fn keys_are_wrapped_in_every_way_and_only_for_their_owner() {
    let (owner, other) = (rsa("owner"), rsa("other"));
    let everything = Policy { legacy_ciphers: true, rsa15: true };
    let oaep = [Digest::Sha256, Digest::Sha384, Digest::Sha512];
    let mut ways: Vec<KeyTransport> =
        oaep.into_iter().flat_map(|digest| oaep.map(|mgf| KeyTransport::Oaep { digest, mgf })).collect();
    ways.push(KeyTransport::Rsa15);
    for symmetric in Symmetric::all() {
        for transport in &ways {
            let method = Method { symmetric, iv: IvLength::Sixteen, transport: *transport };
            let key = generate_key(symmetric).unwrap();
            let xml = write_envelope(method, &key, owner.certificate()).unwrap();
            let Parsed::Encrypted(document) = parse(xml.into_bytes(), DocumentLimits::default()).unwrap()
            else {
                panic!("not encrypted");
            };
            let data = read_envelope(&document, everything).unwrap();
            assert_eq!(data.method, method);
            let keys = [other.clone(), owner.clone()];
            let found = find_key(&data, &keys).unwrap();
            assert_eq!(found.certificate(), owner.certificate());
            let mut encryptor = Encryptor::new(symmetric, method.iv, &key).unwrap();
            let mut ciphertext = encryptor.update(b"plain").unwrap();
            ciphertext.extend(encryptor.finish().unwrap());
            let mut decryptor = data.open(found, everything).unwrap();
            let mut plain = decryptor.update(&ciphertext).unwrap();
            plain.extend(decryptor.finish().unwrap());
            assert_eq!(plain, b"plain");
            assert!(matches!(find_key(&data, &keys[..1]), Err(Problem::ForeignKey)));
            // Unwrapped with a wrong key it looks like any other damage; with PKCS#1 v1.5 it may even look like a key.
            if let Ok(mut decryptor) = data.open(&other, everything) {
                let opened = decryptor.update(&ciphertext).and_then(|_| decryptor.finish());
                assert!(
                    *transport == KeyTransport::Rsa15 && (opened.is_err() || symmetric.mode != Mode::Gcm)
                );
            }
        }
    }
    let curve = curve("curve", Nid::X9_62_PRIME256V1);
    assert!(write_envelope(Method::default(), &[0; 32], curve.certificate()).is_err());
}

#[test]
fn weak_keys_are_refused() {
    let key = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    let weak = std::panic::catch_unwind(|| identity("weak", key));
    assert!(weak.is_err(), "a certificate with 1,024 bits was read");
}

#[test]
fn sealed_contents_open_for_their_readers_only() {
    let (author, reader, stranger) = (rsa("author"), rsa("reader"), rsa("stranger"));
    let certificates = Certificates::default()
        .with(CertificateRole::SignatureOriginator, author.certificate())
        .with(CertificateRole::CipherAddressee, reader.certificate());
    let digest = openssl::hash::hash(MessageDigest::sha256(), b"attachment").unwrap().to_vec();
    let container = NewContainer {
        contents: vec![
            NewContent::Inline(b"document".to_vec()),
            NewContent::Part("a<b>".to_owned(), Some(digest)),
        ],
    };
    let reader_id = CertificateRole::CipherAddressee.id_of(reader.certificate());
    let readers: [(String, Certificate); 1] = [(reader_id, reader.certificate().clone())];
    let part_key = ("a<b>".to_owned(), vec![7; 32]);
    let sealed =
        container.seal(Some(&author), &readers, Method::default(), std::slice::from_ref(&part_key)).unwrap();
    let store = Request::StoreDelivery { id: Some("x".to_owned()), subject: None };
    let block = certificates.write_others();
    let extras = Extras { others: Some(&block), package: &sealed, ..Extras::default() };
    let envelope = read(&request(&store, &control(), "de", extras).finish(None, &[]).unwrap());
    let package = ContentPackage::of(&envelope).unwrap();
    package.check(&certificates, &BTreeSet::from(["a<b>"]), &NoParts).unwrap();
    assert!(matches!(package.items().unwrap().as_slice(), [Item::Sealed { id: Some("encdata_0"), .. }]));
    assert!(!sealed.contains("ZG9jdW1lbnQ"), "the document can be read");
    assert!(package.open(&stranger, &certificates, Policy::default()).unwrap().is_empty());
    let opened = package.open(&reader, &certificates, Policy::default()).unwrap();
    let root = opened[0].root();
    assert_eq!(part_keys(root, Policy::default()).unwrap()[0].0, "a<b>");
    struct Attachment;
    impl amtsbote_osci::codec::signature::PartDigests for Attachment {
        fn digest(&self, id: &str, _: Digest) -> std::io::Result<Option<Vec<u8>>> {
            let content = b"attachment";
            Ok((id == "a<b>")
                .then(|| openssl::hash::hash(MessageDigest::sha256(), content).unwrap().to_vec()))
        }
    }
    assert_eq!(verify_container(root, &certificates, &Attachment).unwrap(), [author.certificate()]);
    assert!(verify_container(root, &certificates, &NoParts).is_err(), "the attachment is missing");
}

#[test]
fn contents_with_faults_are_refused() {
    let author = rsa("author");
    let certificates =
        Certificates::default().with(CertificateRole::SignatureOriginator, author.certificate());
    let container = NewContainer { contents: vec![NewContent::Inline(b"document".to_vec())] };
    let signed = container.finish(Some(&author)).unwrap();
    let check = |package: &str, certificates: &Certificates| {
        let store = Request::StoreDelivery { id: Some("x".to_owned()), subject: None };
        let xml = request(&store, &control(), "de", Extras { package, ..Extras::default() })
            .finish(None, &[])
            .unwrap();
        let envelope = read(&xml);
        ContentPackage::of(&envelope)?.check(certificates, &BTreeSet::new(), &NoParts)
    };
    check(&signed, &certificates).unwrap();
    let code = |package: &str, certificates: &Certificates| check(package, certificates).unwrap_err().code();
    assert_eq!(code(&signed, &Certificates::default()), Code::SignatureInvalid);
    assert_eq!(code(&signed.replace("ZG9j", "ZG9k"), &certificates), Code::SignatureInvalid);
    let more = signed.replace("</osci:ContentContainer>", "<osci:Content><osci:Base64Content Id=\"c9\">AA==</osci:Base64Content></osci:Content></osci:ContentContainer>");
    assert_eq!(code(&more, &certificates), Code::NotAllSigned);
    assert_eq!(
        code(
            "<osci:ContentContainer><osci:Content Id=\"c\" href=\"cid:none\"/></osci:ContentContainer>",
            &certificates
        ),
        Code::NotOsci
    );
    assert_eq!(code("<osci:Other/>", &certificates), Code::NotOsci);
    let shown =
        "<xenc:EncryptedData><ds:KeyInfo><ds:MgmtData>AAAA</ds:MgmtData></ds:KeyInfo></xenc:EncryptedData>";
    assert_eq!(code(shown, &certificates), Code::NotOsci);
    let nobody = "<xenc:EncryptedData><ds:KeyInfo><xenc:EncryptedKey><ds:KeyInfo><ds:RetrievalMethod URI=\"#nobody\"/></ds:KeyInfo></xenc:EncryptedKey></ds:KeyInfo></xenc:EncryptedData>";
    assert_eq!(code(nobody, &certificates), Code::NotOsci);
    let nested = (0..18).fold(String::new(), |inner, n| {
        format!(
            "<osci:ContentContainer><osci:Content Id=\"c{n}\">{inner}</osci:Content></osci:ContentContainer>"
        )
    });
    assert_eq!(code(&nested, &certificates), Code::NotOsci);
}

#[test]
fn faults_are_read_as_they_were_written() {
    for code in Code::ALL.iter().filter(|code| code.is_fault()) {
        let Ok(Parsed::Fault(fault)) = parse(write_fault(*code).into_bytes(), DocumentLimits::default())
        else {
            panic!("{code:?}");
        };
        assert_eq!(fault.code, Some(*code));
    }
    let document =
        Document::parse(write_fault(Code::Internal).into_bytes(), DocumentLimits::default()).unwrap();
    assert!(document.elements().any(|one| one.text() == "soap:Server"));
}
