//! What goes in by one face comes out by every other: contents, ids, metadata, subject, case and signatures.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_it::soap::SoapAnswer;
use amtsbote_it::{Lab, Party, part, text, verifies};
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::{CertificateRole, Certificates, custom_headers};
use amtsbote_osci::codec::certificate::Certificate;
use amtsbote_osci::codec::content::{ContentPackage, Item, NewContainer, NewContent, verify_container};
use amtsbote_osci::codec::encryption::Method;
use amtsbote_osci::codec::order::{Answer, FetchRule, Request};
use amtsbote_osci::codec::signature::PartDigests;
use amtsbote_osci::{Answered, Freight, first_digits};
use amtsbote_soap::document::{Document, DocumentLimits};
use amtsbote_testkit::rabbitmq::{Rabbitmq, RabbitmqOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use reqwest::Method as HttpMethod;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::lab::{client, own, peer, prepare};

/// Line ends and letters that somebody could want to improve.
const DOCUMENT: &[u8] =
    "<w:antrag xmlns:w=\"urn:wohngeld\">\r\n <w:ort>Köln</w:ort>\t</w:antrag>\n".as_bytes();
/// What looks like a boundary, and is no text.
const ATTACHMENT: &[u8] = b"\r\n--B\x00\xff\r\n";
const SERVICE: &str = "http://amtsbote.example/dvdv/ozg10092/1/ozg10092v1Antrag.wsdl";

/// Metadata as XTA and OSCI carry them. `declared`: namespaces, where nobody else declares them.
fn metadata(id: &str, declared: &str) -> String {
    format!(
        r#"<meta:MessageMetaData{declared}><meta:DeliveryAttributes><meta:Origin>2025-03-04T10:15:00+01:00</meta:Origin></meta:DeliveryAttributes><meta:Originators><meta:Author><meta:Identifier name="Portal" type="xoev">dept:alice</meta:Identifier></meta:Author></meta:Originators><meta:Destinations><meta:Reader><meta:Identifier type="xoev">osci:bob</meta:Identifier></meta:Reader></meta:Destinations><meta:MsgIdentification><wsa:MessageID>{id}</wsa:MessageID><meta:ProcessRef><meta:Requester>4711</meta:Requester><meta:Responder>B-12</meta:Responder></meta:ProcessRef></meta:MsgIdentification><meta:Qualifier><meta:Subject>Wohngeld</meta:Subject><meta:Service>{SERVICE}</meta:Service><meta:BusinessScenario><meta:Defined listURI="urn:de:xta:codeliste:business.scenario" listVersionID="3"><code>XSOZIALES_DATA</code></meta:Defined></meta:BusinessScenario><meta:MessageType listURI="urn:de:payloadSchema:elementName" listVersionID="1.0" payloadSchema="urn:wohngeld"><code>antrag</code></meta:MessageType></meta:Qualifier></meta:MessageMetaData>"#
    )
}

/// The same in canonical form: with all namespaces of the envelope.
const CANONICAL: &str = r#" xmlns:ds="http://www.w3.org/2000/09/xmldsig#" xmlns:meta="http://www.osci.eu/ws/2014/10/transport" xmlns:osci="http://www.osci.de/2002/04/osci" xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/" xmlns:wsa="http://www.w3.org/2005/08/addressing" xmlns:xenc="http://www.w3.org/2001/04/xmlenc#" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" Id="messagemetadata""#;
const DECLARED: &str = r#" xmlns:meta="http://www.osci.eu/ws/2014/10/transport" xmlns:wsa="http://www.w3.org/2005/08/addressing" Id="messagemetadata""#;

async fn send_by_rest(portal: &Party, recipient: &str) {
    let metadata = json!({ "service": { "ozg": "10092" }, "recipient": recipient, "subject": "Wohngeld", "caseId": "4711" });
    let form = reqwest::multipart::Form::new()
        .part("metadata", text(&metadata.to_string()))
        .part("document", part("antrag.xml", "application/xml", DOCUMENT))
        .part("attachment", part("anlage.bin", "application/octet-stream", ATTACHMENT));
    let request = portal.request(HttpMethod::POST, "/v1/submissions").header("Idempotency-Key", recipient);
    let answer = portal.send(request.multipart(form)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// The id of XTA in the metadata of a delivery by OSCI.
const AUTHORS_ID: &str = "urn:de:xta:messageid:author:7";
const XTA_ID: &str = "urn:de:xta:messageid:fachverfahren:1";

async fn send_by_xta(portal: &Party) {
    let body = format!(
        "<xta:GenericContentContainer><xta:ContentContainer><xta:Message contentType=\"application/xml\" filename=\"antrag.xml\" encoding=\"UTF-8\">{}</xta:Message><xta:Attachment contentType=\"application/octet-stream\" filename=\"anlage.bin\" lang=\"de\" id=\"a1\">{}</xta:Attachment></xta:ContentContainer></xta:GenericContentContainer>",
        STANDARD.encode(DOCUMENT),
        STANDARD.encode(ATTACHMENT)
    );
    drop(portal.soap("sendMessage", &metadata(XTA_ID, ""), &body).await.ok());
}

/// Stores as alice; the id, and the children of the content package.
async fn send_by_osci(lab: &Lab, to: &str, sealed: bool) -> (String, String) {
    let alice = own(lab, "alice");
    let recipient = own(lab, to).cipher.certificate().clone();
    let digest: [u8; 32] = Sha256::digest(ATTACHMENT).into();
    let contents = vec![
        NewContent::Inline(DOCUMENT.to_vec()),
        NewContent::Part("anlage.bin".to_owned(), Some(digest.to_vec())),
    ];
    let container = NewContainer { contents };
    let package = match sealed {
        false => container.finish(Some(&alice.signature)).unwrap(),
        true => {
            let reader = (CertificateRole::CipherAddressee.id_of(&recipient), recipient.clone());
            container.seal(Some(&alice.signature), &[reader], Method::default(), &[]).unwrap()
        }
    };
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(ATTACHMENT).unwrap();
    let certificates = Certificates::default().with(CertificateRole::CipherAddressee, &recipient);
    let freight = Freight::delivery(package.clone(), certificates)
        .with_header(metadata(AUTHORS_ID, DECLARED))
        .with_file("anlage.bin", Arc::new(file), ATTACHMENT.len() as u64, digest);
    let mut session = client(lab, "alice", 1).open(peer(lab)).await.unwrap();
    let id = session.message_id().await.unwrap();
    let order = Request::StoreDelivery { id: Some(id.clone()), subject: Some("Wohngeld".to_owned()) };
    let stored = session.ask(&order, freight).await.unwrap();
    assert!(stored.response.feedback.is_success(), "{:?}", stored.response.feedback);
    session.close().await.unwrap();
    (id, package)
}

/// Messages in bob's mailbox, once there are so many: hand-over takes a moment.
async fn mailbox(bob: &Party, expected: usize) -> Vec<Value> {
    loop {
        let listed = bob.get("/v1/mailbox/messages").await.json["messages"].as_array().unwrap().clone();
        if listed.len() == expected {
            return listed;
        }
        tokio::task::yield_now().await;
    }
}

fn named(message: &Value, scheme: &str) -> Option<String> {
    let ids = message["externalIds"].as_array().unwrap();
    let found = ids.iter().find(|one| one["scheme"] == scheme)?;
    Some(found["value"].as_str().unwrap().to_owned())
}

/// Names of attachments.
fn attachments(message: &Value) -> Vec<&str> {
    let all = message["attachments"].as_array().unwrap();
    all.iter().filter_map(|one| one["name"].as_str()).collect()
}

async fn fetch_by_xta(bob: &Party, id: &str) -> SoapAnswer {
    let request = format!(
        "<osci:MsgBoxFetchRequest><osci:MsgSelector><wsa:MessageID>{id}</wsa:MessageID></osci:MsgSelector></osci:MsgBoxFetchRequest>"
    );
    bob.soap("getMessage", "", &request).await.ok()
}

async fn fetch_by_osci(lab: &Lab, id: &str) -> Answered {
    let mut bob = client(lab, "bob", 2).open(peer(lab)).await.unwrap();
    let order = Request::FetchDelivery(FetchRule::Id(id.to_owned()));
    let answered = bob.ask(&order, Freight::default()).await.unwrap();
    assert_eq!(first_digits(&answered.response), "0801");
    let Answer::FetchDelivery(_, Some(card)) = &answered.response.answer else { panic!("no card") };
    assert_eq!(card.subject.as_deref(), Some("Wohngeld"));
    // Dropped: the delivery was not received, and stays for the others.
    answered
}

/// What is in the clear: inline contents, and the contents of parts.
fn opened(answered: &Answered) -> Vec<Vec<u8>> {
    let package = ContentPackage::of(&answered.received.envelope).unwrap();
    let items = package.items().unwrap();
    let read = items.iter().map(|item| match item {
        Item::Inline { bytes, .. } => bytes.to_vec(),
        Item::Part { part, .. } => {
            let mut content = answered.received.content(answered.received.part(part).unwrap());
            let mut all = Vec::new();
            while let Some(piece) = content.next_piece().unwrap() {
                all.extend(piece);
            }
            all
        }
        Item::Sealed { .. } => panic!("it is in the clear"),
    });
    read.collect()
}

struct Attached;

impl PartDigests for Attached {
    fn digest(
        &self,
        id: &str,
        _: amtsbote_osci::codec::algorithm::Digest,
    ) -> std::io::Result<Option<Vec<u8>>> {
        Ok((id == "anlage.bin").then(|| Sha256::digest(ATTACHMENT).to_vec()))
    }
}

/// Who signed the container in a content package, by what stands in it.
fn signer(package: &[u8], known: &Certificate) -> bool {
    let document = Document::parse(package.to_vec(), DocumentLimits::default()).unwrap();
    let certificates = Certificates::default().with(CertificateRole::SignatureOriginator, known);
    verify_container(document.root(), &certificates, &Attached).unwrap() == [known]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_face_it_came_by_every_other_shows_the_same() {
    let mut lab = prepare("").await;
    lab.start_gateway().await;
    let (alice, bob) = (lab.client("alice"), lab.client("bob"));
    send_by_rest(&alice, "osci:bob").await;
    send_by_xta(&alice).await;
    let (osci_id, package) = send_by_osci(&lab, "bob", false).await;
    let listed = mailbox(&bob, 3).await;
    let (mut from_osci, mut from_xta) = (0, 0);
    for message in &listed {
        let id = message["id"].as_str().unwrap();
        assert_eq!(message["caseId"], "4711", "{message}");
        assert_eq!(message["metadata"]["subject"], "Wohngeld", "{message}");
        let uuid = id.strip_prefix("urn:uuid:").unwrap();
        // By REST.
        let base = format!("/v1/mailbox/messages/{id}");
        assert_eq!(bob.bytes(&format!("{base}/document")).await, DOCUMENT);
        assert_eq!(bob.bytes(&format!("{base}/attachments/1")).await, ATTACHMENT);
        assert_eq!(attachments(message)[0], "anlage.bin");
        // By XTA.
        let xta_id = named(message, "xta").unwrap_or_else(|| format!("urn:de:xta:messageid:amtsbote:{uuid}"));
        let fetched = fetch_by_xta(&bob, &xta_id).await;
        assert_eq!(STANDARD.decode(fetched.text("Message")).unwrap(), DOCUMENT);
        assert_eq!(STANDARD.decode(&fetched.texts("Attachment")[0]).unwrap(), ATTACHMENT);
        assert_eq!(fetched.text("Requester"), "4711");
        assert_eq!(fetched.text("Subject"), "Wohngeld");
        assert_eq!(fetched.text("Service"), SERVICE);
        // By OSCI.
        let by_osci = named(message, "osci").unwrap_or_else(|| uuid.to_owned());
        let answered = fetch_by_osci(&lab, &by_osci).await;
        assert_eq!(opened(&answered), [DOCUMENT, ATTACHMENT]);
        let headers = custom_headers(&answered.received.envelope).unwrap();
        let carried = headers.iter().find(|header| header.is_metadata()).unwrap();
        assert!(carried.text.contains("4711") && carried.text.contains("Wohngeld"), "{}", carried.text);
        match (named(message, "osci"), named(message, "xta")) {
            (Some(found), _) => {
                from_osci += 1;
                assert_eq!((found, xta_id.as_str()), (osci_id.clone(), AUTHORS_ID));
                assert_eq!(carried.text, metadata(AUTHORS_ID, CANONICAL));
                let stayed = ContentPackage::of(&answered.received.envelope).unwrap().canonical_children();
                assert_eq!(stayed, package, "not a byte was changed");
                let own = own(&lab, "alice");
                assert_eq!(attachments(message), ["anlage.bin", "osci-content-package.xml"]);
                let by_rest = bob.bytes(&format!("{base}/attachments/2")).await;
                assert!(signer(&by_rest, own.signature.certificate()), "the signature goes along by REST");
                let by_xta = STANDARD.decode(&fetched.texts("Attachment")[1]).unwrap();
                assert_eq!(by_xta, by_rest, "and by XTA");
            }
            (None, Some(found)) => {
                from_xta += 1;
                assert_eq!(found, XTA_ID);
                assert!(carried.text.contains("B-12"), "{}", carried.text);
            }
            (None, None) => {}
        }
    }
    assert_eq!((from_osci, from_xta), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_stays_sealed_on_every_face() {
    let mut lab = prepare("").await;
    lab.start_gateway().await;
    let bob = lab.client("bob");
    let (osci_id, package) = send_by_osci(&lab, "bob", true).await;
    let message = mailbox(&bob, 1).await.pop().unwrap();
    let id = message["id"].as_str().unwrap();
    assert_eq!(message["document"]["mediaType"], "application/xenc+xml", "{message}");
    let by_rest = bob.bytes(&format!("/v1/mailbox/messages/{id}/document")).await;
    assert_eq!(String::from_utf8(by_rest.clone()).unwrap(), package, "not a byte was changed");
    let fetched = fetch_by_xta(&bob, AUTHORS_ID).await;
    assert_eq!(fetched.attributes("Message", "contentType"), ["application/xenc+xml"]);
    assert_eq!(STANDARD.decode(fetched.text("Message")).unwrap(), by_rest);
    let answered = fetch_by_osci(&lab, &osci_id).await;
    let stayed = ContentPackage::of(&answered.received.envelope).unwrap();
    assert_eq!(stayed.canonical_children(), package);
    let certificates = Certificates::read(&answered.received.envelope).unwrap();
    let key = own(&lab, "bob").cipher;
    let containers = stayed.open(&key, &certificates, Policy::default()).unwrap();
    assert!(String::from_utf8_lossy(&by_rest).contains("EncryptedData"));
    let signers = verify_container(containers[0].root(), &certificates, &Attached).unwrap();
    assert_eq!(signers, [own(&lab, "alice").signature.certificate()], "the author's signature is inside");
}

/// An account that gets everything by a channel.
fn clerk(channel: &str) -> String {
    format!(
        r#"
[[accounts]]
name = "clerk"
roles = ["reader"]
parties = ["dept:clerk"]
serves = ["osci:clerk"]
channel = "{channel}"
osci_cipher = ["pki/clerk-cipher.pem"]
osci_signature = ["pki/clerk-sign.pem"]
"#
    )
}

/// What everybody is told about a delivery by OSCI.
fn check_description(described: &Value, osci_id: &str) {
    assert_eq!(
        described["externalIds"],
        json!([{ "scheme": "osci", "value": osci_id }, { "scheme": "xta", "value": AUTHORS_ID }])
    );
    assert_eq!(
        (&described["caseId"], &described["metadata"]["subject"]),
        (&json!("4711"), &json!("Wohngeld"))
    );
    assert_eq!(described["service"], format!("uri:{SERVICE}"));
    assert_eq!(attachments(described), ["anlage.bin", "osci-content-package.xml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_osci_lies_in_a_folder() {
    let mut lab =
        prepare(&("[folders.clerk]\npath = \"clerk\"\n".to_owned() + &clerk("folder://clerk"))).await;
    let folder = lab.path("clerk");
    std::fs::create_dir(&folder).unwrap();
    lab.start_gateway().await;
    let (osci_id, package) = send_by_osci(&lab, "clerk", false).await;
    let message = loop {
        let there = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut whole = there.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
        match whole.next() {
            Some(path) => break path,
            None => tokio::task::yield_now().await,
        }
    };
    let read = |name: &str| std::fs::read(message.join(name)).unwrap();
    check_description(&serde_json::from_slice(&read("message.json")).unwrap(), &osci_id);
    assert_eq!(
        (read("document.xml").as_slice(), read("attachment-1.bin").as_slice()),
        (DOCUMENT, ATTACHMENT)
    );
    let by_folder = read("attachment-2.xml");
    assert!(String::from_utf8_lossy(&by_folder).contains(&package), "not a byte was changed");
    assert!(signer(&by_folder, own(&lab, "alice").signature.certificate()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_osci_is_posted() {
    let (sender, mut posted) = tokio::sync::mpsc::unbounded_channel();
    let router = axum::Router::new().fallback(move |body: axum::body::Bytes| {
        let told = sender.send(body);
        async move { drop(told) }
    });
    let mut lab = prepare("").await;
    let url = amtsbote_it::endpoint::serve_tls(&lab.path("pki"), false, router).await;
    std::fs::write(lab.path("secret"), format!("whsec_{}", STANDARD.encode([1; 32]))).unwrap();
    let section = format!(
        "[webhooks.clerk]\nurl = \"{url}/\"\nsecret_file = \"secret\"\nca = [\"pki/ca.pem\"]\nformat = \"multipart\"\n"
    );
    let configuration = std::fs::read_to_string(lab.path("amtsbote.toml")).unwrap();
    let configuration = configuration + "\n" + &section + &clerk("webhook://clerk");
    std::fs::write(lab.path("amtsbote.toml"), configuration).unwrap();
    lab.start_gateway().await;
    let (osci_id, package) = send_by_osci(&lab, "clerk", false).await;
    let body = tokio::time::timeout(Duration::from_secs(60), posted.recv()).await.unwrap().unwrap();
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    assert!(holds(DOCUMENT) && holds(ATTACHMENT) && holds(package.as_bytes()), "not a byte was changed");
    let text = String::from_utf8_lossy(&body);
    let metadata = text.split("\r\n\r\n").nth(1).unwrap().split("\r\n--").next().unwrap();
    check_description(&serde_json::from_str(metadata).unwrap(), &osci_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_osci_goes_on_into_a_queue() {
    let queues = vec![("clerk.q".to_owned(), false)];
    let broker = Rabbitmq::start(&RabbitmqOptions { queues, ..RabbitmqOptions::default() }).await;
    let more = format!(
        "[brokers.main]\nurl = \"amqp://127.0.0.1:{}/%2f\"\nusername = \"guest\"\npassword_file = \"password\"\n",
        broker.port
    );
    let mut lab = prepare(&(more + &clerk("amqp://main?queue=clerk.q"))).await;
    std::fs::write(lab.path("password"), "guest").unwrap();
    lab.start_gateway().await;
    let (osci_id, _) = send_by_osci(&lab, "clerk", false).await;
    let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let consume = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("clerk.q".into(), "test".into(), consume, FieldTable::default()).await.unwrap();
    let delivery = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
    let delivery = delivery.unwrap().unwrap().unwrap();
    delivery.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!(delivery.data, DOCUMENT);
    let headers = delivery.properties.headers().clone().unwrap();
    let header = |name: &str| {
        let value = headers.inner().get(name).unwrap_or_else(|| panic!("{name} in {headers:?}"));
        String::from_utf8(value.as_long_string().unwrap().as_bytes().to_vec()).unwrap()
    };
    assert_eq!(delivery.properties.correlation_id().as_ref().unwrap().as_str(), "4711");
    let parts: Value = serde_json::from_str(&header("amtsbote-parts")).unwrap();
    let names: Vec<_> = parts.as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["anlage.bin", "osci-content-package.xml"]);
    let ids: Value = serde_json::from_str(&header("amtsbote-external-ids")).unwrap();
    assert_eq!(
        ids,
        json!([{ "scheme": "osci", "value": osci_id }, { "scheme": "xta", "value": AUTHORS_ID }])
    );
    assert_eq!(header("amtsbote-service"), format!("uri:{SERVICE}"));
    std::fs::write(lab.path("document"), &delivery.data).unwrap();
    std::fs::write(lab.path("signature"), STANDARD.decode(header("amtsbote-signature")).unwrap()).unwrap();
    assert!(verifies(&lab, "document"));
}
