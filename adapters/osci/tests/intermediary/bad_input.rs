//! Everything that is wrong has the right code, and leaves nothing behind.

use std::sync::Arc;

use amtsbote_http::Client as HttpClient;
use amtsbote_osci::clients::Unknown;
use amtsbote_osci::codec::algorithm::{KeyTransport, Policy, Symmetric};
use amtsbote_osci::codec::block::{CertificateRole, Certificates, ControlBlock};
use amtsbote_osci::codec::certificate::{Certificate, Identity};
use amtsbote_osci::codec::cipher::{Encryptor, IvLength, generate_key};
use amtsbote_osci::codec::code::{Code, Language};
use amtsbote_osci::codec::compose::{Extras, request, response};
use amtsbote_osci::codec::content::{NewContainer, NewContent};
use amtsbote_osci::codec::draft::{Signer, write_fault};
use amtsbote_osci::codec::encryption::{Method, write_envelope};
use amtsbote_osci::codec::envelope::PeerFault;
use amtsbote_osci::codec::mime::{close_package, open_package};
use amtsbote_osci::codec::order::{Answer, CardRule, CardSelection, FetchRule, Request, Response};
use amtsbote_osci::reception::{Incoming, Limits, Reception};
use amtsbote_osci::{DialogError, Freight, Own};
use axum::http::{HeaderMap, Method as HttpMethod};

use crate::lab::{KEYS, Lab, Setup, certificates_for, digits, fetch, folder, letter, package, store_order};

/// An order to be put together by hand.
struct Raw<'a> {
    order: Request,
    control: ControlBlock,
    own: &'a Own,
    signer: Option<&'a Identity>,
    certificates: Certificates,
    package: String,
}

impl<'a> Raw<'a> {
    fn new(order: Request, own: &'a Own) -> Self {
        let control =
            ControlBlock { challenge: Some("ch".to_owned()), sequence: Some(0), ..ControlBlock::default() };
        let certificates = Certificates::default();
        Self { order, control, own, signer: Some(&own.signature), certificates, package: String::new() }
    }

    fn init(own: &'a Own) -> Self {
        let raw = Self::new(Request::InitDialog, own);
        Self { control: ControlBlock { sequence: None, ..raw.control.clone() }, ..raw }
    }

    fn store(own: &'a Own, id: &str, to: &str) -> Self {
        let raw = Self::new(store_order(id, "s"), own);
        Self { certificates: certificates_for(to), package: package(b"x"), ..raw }
    }

    fn plain(&self) -> String {
        let mut certificates =
            Certificates::default().with(CertificateRole::CipherOriginator, self.own.cipher.certificate());
        if let Some(signer) = self.signer {
            certificates = certificates.with(CertificateRole::SignatureOriginator, signer.certificate());
        }
        certificates.0.extend(self.certificates.0.clone());
        let block = certificates.write_others();
        let extras = Extras { others: Some(&block), package: &self.package, ..Extras::default() };
        let signer = self.signer.map(|identity| Signer {
            identity,
            algorithm: identity.preferred(),
            key: CertificateRole::SignatureOriginator.id_of(identity.certificate()),
        });
        let xml = request(&self.order, &self.control, "de", extras).finish(signer.as_ref(), &[]).unwrap();
        wrap(&xml)
    }
}

fn wrap(xml: &str) -> String {
    open_package("b", None) + xml + &close_package("b")
}

fn encrypt(plain: &str, method: Method, recipient: &Certificate) -> Vec<u8> {
    let key = generate_key(method.symmetric).unwrap();
    let mut encryptor = Encryptor::new(method.symmetric, method.iv, &key).unwrap();
    let mut ciphertext = encryptor.update(plain.as_bytes()).unwrap();
    ciphertext.extend(encryptor.finish().unwrap());
    let mut bytes = open_package("o", None).into_bytes();
    bytes.extend(write_envelope(method, &key, recipient).unwrap().into_bytes());
    bytes.extend(
        b"\r\n--o\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <osci_enc>\r\n\r\n",
    );
    bytes.extend(ciphertext);
    bytes.extend(close_package("o").into_bytes());
    bytes
}

/// The code of the answer: of the fault, or of the feedback.
async fn code_of(lab: &Lab, bytes: Vec<u8>) -> String {
    answer_to(&lab.http, lab, bytes).await.0
}

async fn answer_to(http: &HttpClient, lab: &Lab, bytes: Vec<u8>) -> (String, Option<ControlBlock>) {
    let reply = http.exchange(HttpMethod::POST, lab.url(), HeaderMap::new(), bytes.into()).await.unwrap();
    assert_eq!(reply.status, 200, "faults, too, or deployed clients do not read them");
    let policy = Policy { legacy_ciphers: true, rsa15: true };
    let limits = Limits { xml: 1 << 20, message: 1 << 20, policy, folder: std::env::temp_dir() };
    let mut reception = Reception::new(limits);
    reception.feed(&reply.body).unwrap();
    if let Some(data) = reception.locked() {
        let keys: Vec<Identity> = KEYS.values().map(|own| own.cipher.clone()).collect();
        let key = amtsbote_osci::codec::encryption::find_key(data, &keys).unwrap();
        let decryptor = data.open(key, policy).unwrap();
        reception.unlock(decryptor).unwrap();
    }
    match reception.finish().unwrap() {
        Incoming::Fault(PeerFault { digits, .. }) => (digits, None),
        Incoming::Message(message) => {
            let response = Response::read(&message.envelope).unwrap();
            let control = ControlBlock::read(&message.envelope).unwrap();
            (response.feedback.first().unwrap().digits.clone(), Some(control))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_a_fault() {
    let lab = Lab::with(Setup { message_limit: 100_000, ..Setup::default() }).await;
    let alice = &KEYS["alice"];
    let good = Raw::init(alice).plain();
    let cipher = lab.peer().cipher;
    let encrypted = encrypt(&good, Method::default(), &cipher);
    assert_eq!(code_of(&lab, good.clone().into_bytes()).await, "0801");
    assert_eq!(code_of(&lab, encrypted.clone()).await, "0801");
    let tampered = |at: usize| {
        let mut bytes = encrypted.clone();
        let last = bytes.len() - 30 - at;
        bytes[last] ^= 1;
        bytes
    };
    let legacy = |name: &str, transport| {
        let policy = Policy { legacy_ciphers: true, rsa15: true };
        let method =
            Method { symmetric: Symmetric::parse(name, policy).unwrap(), iv: IvLength::Twelve, transport };
        encrypt(&good, method, &cipher)
    };
    let entity = "<!DOCTYPE a [<!ENTITY b \"c\">]>";
    let bomb = good.replacen("<soap:Envelope", &format!("{entity}<soap:Envelope"), 1);
    let deep = good.replacen("<osci:initDialog>", &format!("<osci:initDialog>{}", "<a>".repeat(100)), 1);
    let attributes: String = (0..2_000).map(|n| format!(" a{n}=\"\"")).collect();
    let answer = response(
        &Answer::ExitDialog,
        &[Code::Done],
        Language::German,
        &ControlBlock::default(),
        Extras::default(),
    );
    let twice = encrypt(&String::from_utf8_lossy(&encrypted), Method::default(), &cipher);
    for (name, bytes, code) in [
        ("nothing", Vec::new(), "9100"),
        ("noise", b"\0\x01\x02 noise".to_vec(), "9100"),
        ("bare XML", b"<soap:Envelope/>".to_vec(), "9100"),
        ("bare line feeds", good.replace("\r\n", "\n").into_bytes(), "9100"),
        ("no end", good.replace("--b--", "").into_bytes(), "9100"),
        ("another charset", good.replace("charset=UTF-8", "charset=ISO-8859-1").into_bytes(), "9100"),
        ("document type and entities", bomb.into_bytes(), "9100"),
        ("depth", deep.into_bytes(), "9100"),
        (
            "attributes",
            good.replacen("<osci:initDialog", &format!("<osci:initDialog{attributes}"), 1).into_bytes(),
            "9100",
        ),
        ("ids twice", good.replacen("Id=\"body\"", "Id=\"controlblock\"", 1).into_bytes(), "9100"),
        ("too large", vec![b' '; 200_000], "9100"),
        ("a part too many", encrypted.iter().copied().chain(*b"--").collect(), "0801"),
        ("another recipient", encrypt(&good, Method::default(), KEYS["bob"].cipher.certificate()), "9200"),
        ("tampered tag", tampered(0), "9202"),
        ("tampered ciphertext", tampered(500), "9202"),
        ("cut short", encrypted[..encrypted.len() - 200].to_vec(), "9100"),
        ("CBC", legacy("http://www.w3.org/2001/04/xmlenc#aes256-cbc", KeyTransport::DEFAULT), "9202"),
        (
            "Triple DES",
            legacy("http://www.w3.org/2001/04/xmlenc#tripledes-cbc", KeyTransport::DEFAULT),
            "9202",
        ),
        ("PKCS#1 v1.5", legacy("http://www.w3.org/2009/xmlenc11#aes256-gcm", KeyTransport::Rsa15), "9202"),
        (
            "an unknown cipher",
            String::from_utf8_lossy(&encrypted).replace("aes256-gcm", "rot13").into_bytes(),
            "9202",
        ),
        ("encrypted noise", encrypt("noise", Method::default(), &cipher), "9300"),
        ("encrypted twice", twice, "9300"),
        ("a response", wrap(&answer.finish(None, &[]).unwrap()).into_bytes(), "9300"),
        ("a fault", wrap(&write_fault(Code::Internal)).into_bytes(), "9300"),
        ("another body", good.replace("initDialog", "exitDialog").into_bytes(), "9300"),
        ("an unknown kind", good.replace("soapInitDialog", "soapUnheardOf").into_bytes(), "9300"),
        ("no challenge", good.replace("<osci:Challenge>ch</osci:Challenge>", "").into_bytes(), "9400"),
        ("a signature by a weak algorithm", good.replace("rsa-sha256", "rsa-sha1").into_bytes(), "9601"),
        (
            "a changed header",
            good.replace("LanguagesList=\"de\"", "LanguagesList=\"en\"").into_bytes(),
            "9601",
        ),
        (
            "an unsigned header",
            good.replace("</soap:Header>", "<x Id=\"x\"></x></soap:Header>").into_bytes(),
            "9602",
        ),
    ] {
        assert_eq!(code_of(&lab, bytes).await, code, "{name}");
    }
    assert_eq!(lab.stored(), 0);
    assert_eq!(folder(lab.outside.folder.path()), ["chunks"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_known_or_not_believed_gets_nothing() {
    let lab = Lab::start().await;
    let (alice, bob, mallory) = (&KEYS["alice"], &KEYS["bob"], &KEYS["mallory"]);
    let code = async |raw: Raw<'_>| code_of(&lab, raw.plain().into_bytes()).await;
    assert_eq!(code(Raw::init(mallory)).await, "9501", "a stranger");
    let mut anonymous = Raw::init(alice).plain();
    let (start, end) =
        (anonymous.find("<osci:CipherCertificateOriginator").unwrap(), "</osci:CipherCertificateOriginator>");
    let end = anonymous.find(end).unwrap() + end.len();
    anonymous.replace_range(start..end, "");
    assert_eq!(code_of(&lab, anonymous.into_bytes()).await, "9500");
    let id = lab.dialog("alice").await.message_id().await.unwrap();
    assert_eq!(code(Raw { signer: None, ..Raw::store(alice, &id, "bob") }).await, "9600");
    assert_eq!(code(Raw { signer: Some(&mallory.signature), ..Raw::store(alice, &id, "bob") }).await, "9700");
    assert_eq!(code(Raw { signer: Some(&bob.signature), ..Raw::store(alice, &id, "bob") }).await, "9700");
    assert_eq!(code(Raw::store(bob, &id, "bob")).await, "9801", "the id is somebody else's");
    assert_eq!(code(Raw::store(alice, "made-up", "bob")).await, "9801");
    let no_id = Request::StoreDelivery { id: None, subject: None };
    assert_eq!(code(Raw { order: no_id, ..Raw::store(alice, &id, "bob") }).await, "9800");
    assert_eq!(code(Raw::store(alice, &id, "mallory")).await, "9706", "nobody has that mailbox");
    assert_eq!(
        code(Raw { certificates: Certificates::default(), ..Raw::store(alice, &id, "bob") }).await,
        "9100"
    );
    assert_eq!(code(Raw { package: String::new(), ..Raw::store(alice, &id, "bob") }).await, "9100");
    for taken in ["responsetofetchdelivery", "intermediarycertificates", "intermed_signature_00"] {
        let poison = package(b"x").replace("contentcontainer0", taken);
        assert_eq!(code(Raw { package: poison, ..Raw::store(alice, &id, "bob") }).await, "9100", "{taken}");
    }
    assert_eq!(code(Raw::new(Request::FetchDelivery(FetchRule::Next), bob)).await, "9802");
    assert_eq!(lab.stored(), 0);
    assert_eq!(code(Raw::store(alice, &id, "bob")).await, "0800", "refusals did not use the id up");
    assert_eq!(code(Raw::store(alice, &id, "bob")).await, "9801");
    let other = Raw { package: package(b"other"), ..Raw::store(alice, &id, "bob") };
    assert_eq!(code(other).await, "9801");
    assert_eq!(lab.stored(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dialogs_are_broken_by_whatever_does_not_fit() {
    let lab = Lab::start().await;
    let alice = &KEYS["alice"];
    let open = async || answer_to(&lab.http, &lab, Raw::init(alice).plain().into_bytes()).await.1.unwrap();
    let next = |opened: &ControlBlock| ControlBlock {
        response: opened.challenge.clone(),
        challenge: Some("n".to_owned()),
        conversation: opened.conversation.clone(),
        sequence: Some(0),
    };
    let ask = async |control: ControlBlock| {
        let raw = Raw { control, ..Raw::new(Request::GetMessageId, alice) };
        answer_to(&lab.http, &lab, raw.plain().into_bytes()).await
    };
    let opened = open().await;
    let (code, second) = ask(next(&opened)).await;
    assert_eq!(code, "0801");
    assert_eq!(ask(next(&opened)).await.0, "9400", "the same order once more");
    let going_on = ControlBlock { sequence: Some(1), ..next(&second.unwrap()) };
    assert_eq!(ask(going_on).await.0, "9400", "a replay ends the dialog");
    for wrong in [
        |control: ControlBlock| ControlBlock { sequence: Some(1), ..control },
        |control| ControlBlock { sequence: None, ..control },
        |control| ControlBlock { response: Some("guessed".to_owned()), ..control },
        |control| ControlBlock { response: None, ..control },
        |control| ControlBlock { conversation: Some("4711".to_owned()), ..control },
        |control| ControlBlock { challenge: None, ..control },
    ] {
        let opened = open().await;
        assert_eq!(ask(wrong(next(&opened))).await.0, "9400", "{:?}", wrong(next(&opened)));
    }
    let opened = open().await;
    let raw = Raw { control: next(&opened), ..Raw::new(Request::GetMessageId, &KEYS["bob"]) };
    assert_eq!(code_of(&lab, raw.plain().into_bytes()).await, "9400", "somebody else goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_orders_at_the_same_time_one_breaks_the_dialog() {
    let lab = Arc::new(Lab::start().await);
    let alice = &KEYS["alice"];
    let opened = answer_to(&lab.http, &lab, Raw::init(alice).plain().into_bytes()).await.1.unwrap();
    let control = ControlBlock {
        response: opened.challenge,
        challenge: Some("n".to_owned()),
        conversation: opened.conversation,
        sequence: Some(0),
    };
    let plain = Raw { control, ..Raw::new(Request::GetMessageId, alice) }.plain();
    let ask = || code_of(&lab, plain.clone().into_bytes());
    let (one, other) = tokio::join!(ask(), ask());
    let mut codes = [one, other];
    codes.sort();
    assert_eq!(codes, ["0801", "9400"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_anything_about_the_mail_of_others() {
    let lab = Lab::start().await;
    let id = lab.store("alice", "bob", "s", b"1").await;
    let unknown = "01a20594-8b30-7000-b57f-31631e71333b".to_owned();
    let mut alice = lab.dialog("alice").await;
    for id in [id.clone(), unknown.clone()] {
        assert_eq!(digits(&fetch(&mut alice, FetchRule::Id(id)).await.1), ["9803"]);
    }
    let lab2 = Lab::with(Setup {
        unknown: Unknown::StoreFor {
            account: "guests".parse().unwrap(),
            addressees: vec!["bob".parse().unwrap()],
            categories: Vec::new(),
        },
        ..Setup::default()
    })
    .await;
    let id = lab2.store("alice", "bob", "s", b"1").await;
    let mut mallory = lab2.dialog("mallory").await;
    for id in [id, unknown] {
        let rule = CardRule {
            selection: CardSelection::Ids(vec![id]),
            part: None,
            no_reception: false,
            limit: None,
        };
        let answered = mallory.ask(&Request::FetchProcessCard(rule), Freight::default()).await.unwrap();
        assert_eq!(digits(&answered), ["9804"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_a_fault_of_the_supplier_and_costs_no_id() {
    let lab = Lab::start().await;
    let client = lab.client("alice");
    let id = lab.dialog("alice").await.message_id().await.unwrap();
    lab.outside.store.set_full(true);
    let refused = client.once(&lab.peer(), &store_order(&id, "s"), letter("bob", b"1")).await;
    assert!(matches!(refused, Err(amtsbote_osci::DialogError::Fault(digits)) if digits == "9000"));
    lab.outside.store.set_full(false);
    let stored = client.once(&lab.peer(), &store_order(&id, "s"), letter("bob", b"1")).await.unwrap();
    assert_eq!(digits(&stored), ["0800"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_are_made_to_cost_are_refused() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let sealed = |inner: &str| {
        format!(
            "<xenc:EncryptedData xmlns:xenc=\"http://www.w3.org/2001/04/xmlenc#\">{inner}</xenc:EncryptedData>"
        )
    };
    let signed = NewContainer { contents: vec![NewContent::Inline(b"x".to_vec())] };
    let signed = signed.finish(Some(&KEYS["alice"].signature)).unwrap();
    let from = signed.find("<ds:Signature").unwrap();
    let until = signed.find("</ds:Signature>").unwrap() + "</ds:Signature>".len();
    let signature = &signed[from..until];
    let signatures = |count: usize| {
        let numbered = (0..count).map(|n| signature.replacen(" Id=\"", &format!(" Id=\"n{n}-"), 1));
        signed.replace(signature, &numbered.collect::<String>())
    };
    let id = alice.message_id().await.unwrap();
    let many = Freight::delivery(signatures(16), with_signer("alice", "bob"));
    let answered = alice.ask(&store_order(&id, "s"), many).await.unwrap();
    assert!(answered.response.feedback.is_success(), "{answered:?}");
    let cases = [("sealed within sealed", sealed(&sealed(""))), ("masses of signatures", signatures(17))];
    for (name, package) in cases {
        let id = alice.message_id().await.unwrap();
        let freight = Freight::delivery(package, with_signer("alice", "bob"));
        let answered = alice.ask(&store_order(&id, "s"), freight).await;
        assert!(
            !matches!(&answered, Ok(answered) if answered.response.feedback.is_success()),
            "{name}: {answered:?}"
        );
        alice = lab.dialog("alice").await;
    }
    assert_eq!(lab.stored(), 1);
}

/// Certificates of a delivery whose author signed contents.
fn with_signer(author: &str, to: &str) -> Certificates {
    certificates_for(to).with(CertificateRole::SignatureOtherAuthor, KEYS[author].signature.certificate())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tag_nobody_learns_what_was_wrong() {
    let policy = Policy { legacy_ciphers: true, rsa15: false };
    let lab = Lab::with(Setup { policy, ..Setup::default() }).await;
    let cipher = lab.peer().cipher;
    let symmetric = Symmetric::parse("http://www.w3.org/2001/04/xmlenc#aes256-cbc", policy).unwrap();
    let method = Method { symmetric, iv: IvLength::Sixteen, transport: KeyTransport::DEFAULT };
    let good = Raw::init(&KEYS["alice"]).plain();
    assert_eq!(code_of(&lab, encrypt(&good, method, &cipher)).await, "0801");
    let mut padding = encrypt(&good, method, &cipher);
    let last = padding.len() - 30;
    padding[last] ^= 1;
    for (name, bytes) in [
        ("padding", padding),
        ("noise", encrypt("noise", method, &cipher)),
        ("no XML", encrypt(&wrap("noise"), method, &cipher)),
        ("no order", encrypt(&wrap("<soap:Envelope/>"), method, &cipher)),
    ] {
        assert_eq!(code_of(&lab, bytes).await, "9202", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_taken_in_can_be_handed_out() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    // Each of these repeats all declarations once it stands alone.
    let package = package(b"x") + &"<osci:ContentContainer></osci:ContentContainer>".repeat(90_000);
    let freight = Freight::delivery(package, certificates_for("bob"));
    let stored = alice.ask(&store_order(&id, "s"), freight).await.unwrap();
    assert!(stored.response.feedback.is_success(), "{:?}", stored.response.feedback);
    lab.settle().await;
    let next = lab.store("alice", "bob", "s", b"behind it").await;
    let client = lab.client("bob");
    let mut bob = client.open(lab.peer()).await.unwrap();
    // Our own client does not want to read as much; the intermediary has written it.
    let refused = bob.ask(&Request::FetchDelivery(FetchRule::Id(id)), Freight::default()).await;
    assert!(matches!(refused, Err(DialogError::Answer(_))), "{refused:?}");
    let mut bob = client.open(lab.peer()).await.unwrap();
    let fetched = bob.ask(&Request::FetchDelivery(FetchRule::Id(next)), Freight::default()).await.unwrap();
    assert!(matches!(fetched.response.answer, Answer::FetchDelivery(_, Some(_))));
}
