//! Two gateways: one is an intermediary, the other its client in both directions.

use amtsbote_it::{Lab, METADATA, Options};
use amtsbote_osci::Freight;
use amtsbote_osci::codec::block::{CertificateRole, Certificates, custom_headers};
use amtsbote_osci::codec::content::{ContentPackage, Item, NewContainer, NewContent, verify_container};
use amtsbote_osci::codec::order::{Answer, FetchRule, Request};
use amtsbote_osci::codec::signature::NoParts;

use crate::lab::{client, own, peer, prepare};

/// A gateway that is alice at the intermediary: what its department should get goes to bob, what alice gets there comes in.
async fn neighbour(hub: &Lab) -> Lab {
    let pki = |name: &str| hub.path(&format!("pki/{name}")).display().to_string();
    let extra = format!(
        r#"
[osci_peers.hub]
url = "http://{address}/"
intermediary_cipher = "{intermediary_cipher}"
intermediary_signature = "{intermediary_sign}"
cipher_certificate = "{cipher}.pem"
cipher_key = "{cipher}.key"
signature_certificate = "{sign}.pem"
signature_key = "{sign}.key"
recipient = "{recipient}"
sign_content = true
poll = "100ms"
account = "portal"
organization = "wgb:064110000000"
"#,
        address = hub.gateway().osci.unwrap(),
        intermediary_cipher = pki("intermediary-cipher.pem"),
        intermediary_sign = pki("intermediary-sign.pem"),
        cipher = pki("alice-cipher"),
        sign = pki("alice-sign"),
        recipient = pki("bob-cipher.pem"),
    );
    Lab::start(Options { extra, channel: "osci://hub".to_owned(), ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_by_rest_reaches_a_mailbox_of_osci_and_an_answer_comes_back() {
    let mut hub = prepare("").await;
    hub.start_gateway().await;
    let local = neighbour(&hub).await;
    let id = local.client("portal").submit("one", METADATA, b"<antrag/>").await;
    // Hand-over takes a moment.
    let (found, fetched) = loop {
        let mut bob = client(&hub, "bob", 1).open(peer(&hub)).await.unwrap();
        let answered = bob.ask(&Request::FetchDelivery(FetchRule::Next), Freight::default()).await.unwrap();
        if let Answer::FetchDelivery(_, Some(card)) = &answered.response.answer {
            let card = card.as_ref().clone();
            bob.close().await.unwrap();
            break (card, answered);
        }
    };
    assert_eq!(found.subject.as_deref(), Some("Wohngeld"));
    let envelope = &fetched.received.envelope;
    let package = ContentPackage::of(envelope).unwrap();
    assert!(matches!(&package.items().unwrap()[..], [Item::Inline { bytes, .. }] if bytes == b"<antrag/>"));
    let certificates = Certificates::read(envelope).unwrap();
    let document = amtsbote_soap::document::Document::parse(
        package.canonical_children().into_bytes(),
        amtsbote_soap::document::DocumentLimits::default(),
    );
    let signers = verify_container(document.as_ref().unwrap().root(), &certificates, &NoParts);
    assert_eq!(signers.unwrap(), [own(&hub, "alice").signature.certificate()]);
    let metadata = custom_headers(envelope).unwrap().into_iter().find(|header| header.is_metadata()).unwrap();
    assert!(metadata.text.contains("4711"), "the case goes along");
    let delivered = async || {
        let shown = local.client("portal").get(&format!("/v1/submissions/{id}")).await;
        shown.json["state"] == "delivered"
    };
    while !delivered().await {}

    let mut bob = client(&hub, "bob", 1).open(peer(&hub)).await.unwrap();
    let answer_id = bob.message_id().await.unwrap();
    let container = NewContainer { contents: vec![NewContent::Inline(b"<bescheid/>".to_vec())] };
    let alice = own(&hub, "alice");
    let certificates =
        Certificates::default().with(CertificateRole::CipherAddressee, alice.cipher.certificate());
    let order = Request::StoreDelivery { id: Some(answer_id.clone()), subject: Some("Bescheid".to_owned()) };
    let stored =
        bob.ask(&order, Freight::delivery(container.finish(None).unwrap(), certificates)).await.unwrap();
    assert!(stored.response.feedback.is_success());
    let reader = local.client("stranger");
    let leased = loop {
        if let Some(message) = reader.lease(1).await.1.into_iter().next() {
            break message;
        }
    };
    let external = leased["externalIds"].as_array().unwrap();
    assert!(
        external.iter().any(|one| one["scheme"] == "osci" && one["value"] == answer_id.as_str()),
        "{leased}"
    );
    let names: Vec<&str> =
        leased["attachments"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["osci-content-package.xml"], "signatures go along");
}
