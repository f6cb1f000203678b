use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::{Face, ItemState};
use amtsbote_core::port::MessageStore as _;
use amtsbote_osci::clients::Unknown;
use amtsbote_osci::codec::block::{CertificateRole, custom_headers};
use amtsbote_osci::codec::card::ProcessCard;
use amtsbote_osci::codec::cipher::IvLength;
use amtsbote_osci::codec::content::{ContentPackage, Item, NewContainer, NewContent};
use amtsbote_osci::codec::encryption::Method;
use amtsbote_osci::codec::order::{Answer, CardRule, CardSelection, FetchRule, Part, Request};
use amtsbote_osci::{DIALOG_IDLE, DialogError, Freight, Own, Session};
use amtsbote_testkit::directory::FakeDirectory;
use sha2::{Digest as _, Sha256};

use crate::lab::{KEYS, Lab, Setup, certificates_for, digits, fetch, letter, store_order};

async fn cards(session: &mut Session, rule: CardRule) -> Vec<ProcessCard> {
    let answered = session.ask(&Request::FetchProcessCard(rule), Freight::default()).await.unwrap();
    match answered.response.answer {
        Answer::FetchProcessCard(_, cards) => cards,
        other => panic!("{other:?}"),
    }
}

fn by_id(id: &str) -> CardRule {
    CardRule {
        selection: CardSelection::Ids(vec![id.to_owned()]),
        part: None,
        no_reception: false,
        limit: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_comes_out_as_it_went_in_and_its_card_tells() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let attachment: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&attachment).unwrap();
    let container = NewContainer {
        contents: vec![
            NewContent::Inline(b"<antrag/>".to_vec()),
            NewContent::Part("big.bin".to_owned(), None),
        ],
    };
    let sent = container.finish(None).unwrap();
    let custom = "<x:mine xmlns:x=\"urn:x\" Id=\"mine\">&amp;</x:mine>".to_owned();
    let freight = Freight::delivery(sent.clone(), certificates_for("bob")).with_header(custom);
    let size = attachment.len() as u64;
    let freight = freight.with_file("big.bin", Arc::new(file), size, Sha256::digest(&attachment).into());
    let stored = alice.ask(&store_order(&id, "Betreff <&>"), freight).await.unwrap();
    assert_eq!(digits(&stored), ["0801"]);
    lab.settle().await;

    let mut bob = lab.dialog("bob").await;
    let (found, fetched) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!(found.as_deref(), Some(id.as_str()));
    let envelope = &fetched.received.envelope;
    let content = ContentPackage::of(envelope).unwrap();
    assert_eq!(content.canonical_children(), sent, "not a byte was changed");
    let mut reading = fetched.received.content(fetched.received.part("big.bin").unwrap());
    let mut bytes = Vec::new();
    while let Some(piece) = reading.next_piece().unwrap() {
        bytes.extend(piece);
    }
    assert!(bytes == attachment);
    let headers = custom_headers(envelope).unwrap();
    assert_eq!(headers.iter().map(|header| header.name.1.as_str()).collect::<Vec<_>>(), ["mine"]);
    let Answer::FetchDelivery(_, Some(card)) = &fetched.response.answer else { panic!("no card") };
    assert!(card.forwarding.is_some() && card.reception.is_none());
    assert_eq!(card.subject.as_deref(), Some("Betreff <&>"));

    let before = cards(&mut alice, by_id(&id)).await;
    assert!(before[0].reception.is_none(), "nothing came from the recipient yet");
    bob.close().await.unwrap();
    let after = cards(&mut alice, by_id(&id)).await;
    assert!(after[0].reception.is_some() && after[0].modified == after[0].reception.unwrap());
    assert_eq!(after[0].creation, before[0].creation);
    let (_, delivery) = lab.outside.store.deliveries().pop().unwrap();
    assert!(matches!(delivery.item.unwrap().state, ItemState::Acknowledged { face: Face::Osci, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_offered_again() {
    let lab = Lab::start().await;
    let id = lab.store("alice", "bob", "one", b"1").await;
    for _ in 0..2 {
        let mut bob = lab.dialog("bob").await;
        assert_eq!(fetch(&mut bob, FetchRule::Next).await.0.as_deref(), Some(id.as_str()));
        // Nothing more is sent in this dialog.
    }
    let lab = lab.restart().await;
    let mut bob = lab.dialog("bob").await;
    assert_eq!(fetch(&mut bob, FetchRule::Next).await.0.as_deref(), Some(id.as_str()));
    let all = CardRule { selection: CardSelection::All, part: None, no_reception: false, limit: None };
    // Any further request says that it arrived.
    assert!(cards(&mut bob, all).await[0].reception.is_some());
    assert_eq!(fetch(&mut bob, FetchRule::Next).await.0, None);
    // By its id it comes once more.
    let (again, fetched) = fetch(&mut bob, FetchRule::Id(id.clone())).await;
    assert_eq!((again, digits(&fetched)), (Some(id), vec!["0801"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_selects_what_it_says() {
    let lab = Lab::start().await;
    let first = lab.store("alice", "bob", "one", b"1").await;
    lab.outside.clock.advance(Duration::from_secs(60));
    let between = amtsbote_core::port::Clock::now(lab.outside.clock.as_ref());
    lab.outside.clock.advance(Duration::from_secs(60));
    let second = lab.store("alice", "bob", "two", b"2").await;
    let mut bob = lab.dialog("bob").await;
    let (next, answered) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!((next.as_ref(), digits(&answered)), (Some(&first), vec!["0801", "3800"]));
    assert_eq!(fetch(&mut bob, FetchRule::Since(between)).await.0.as_ref(), Some(&second));
    let (nothing, answered) = fetch(&mut bob, FetchRule::Id("unheard-of".to_owned())).await;
    assert_eq!((nothing, digits(&answered)), (None, vec!["9803"]));
    let rule = |selection, part, no_reception, limit| CardRule { selection, part, no_reception, limit };
    let ids = |cards: Vec<ProcessCard>| cards.into_iter().map(|card| card.message_id).collect::<Vec<_>>();
    let both = vec![first.clone(), second.clone()];
    assert_eq!(ids(cards(&mut bob, rule(CardSelection::All, None, false, None)).await), both);
    assert_eq!(
        ids(cards(&mut bob, rule(CardSelection::Created(between), None, false, None)).await),
        [second]
    );
    assert_eq!(ids(cards(&mut bob, rule(CardSelection::Created(between), Some(Part::Originator), false, None)).await).len(), 0);
    assert_eq!(
        ids(cards(&mut bob, rule(CardSelection::Modified(between), Some(Part::Addressee), false, None)).await),
        both
    );
    assert_eq!(ids(cards(&mut bob, rule(CardSelection::Modified(between), None, true, None)).await).len(), 0);
    let limited = Request::FetchProcessCard(rule(CardSelection::All, None, false, Some(1)));
    assert_eq!(digits(&bob.ask(&limited, Freight::default()).await.unwrap()), ["0801", "3801"]);
    let mut alice = lab.dialog("alice").await;
    let ever = || CardSelection::Created(amtsbote_testkit::time::noon());
    assert_eq!(ids(cards(&mut alice, rule(ever(), Some(Part::Originator), false, None)).await), both);
    assert_eq!(ids(cards(&mut alice, rule(ever(), Some(Part::Addressee), false, None)).await).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_readers_open_what_is_sealed_and_it_stays_sealed() {
    let lab = Lab::start().await;
    let bob = &KEYS["bob"];
    let reader =
        (CertificateRole::CipherAddressee.id_of(bob.cipher.certificate()), bob.cipher.certificate().clone());
    let container = NewContainer { contents: vec![NewContent::Inline(b"secret".to_vec())] };
    let sealed = container.seal(Some(&KEYS["alice"].signature), &[reader], Method::default(), &[]).unwrap();
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let freight = Freight::delivery(sealed.clone(), certificates_for("bob"));
    assert_eq!(digits(&alice.ask(&store_order(&id, "s"), freight).await.unwrap()), ["0801"]);
    lab.settle().await;
    let (message, _) = lab.outside.store.deliveries().pop().unwrap();
    let stored = lab.services.store.load(message).await.unwrap().unwrap();
    assert_eq!(stored.message.parts[0].media_type, "application/xenc+xml");
    assert_eq!(stored.message.parts.len(), 1);
    let mut session = lab.dialog("bob").await;
    let (_, fetched) = fetch(&mut session, FetchRule::Next).await;
    let package = ContentPackage::of(&fetched.received.envelope).unwrap();
    assert_eq!(package.canonical_children(), sealed);
    let certificates = amtsbote_osci::codec::block::Certificates::read(&fetched.received.envelope).unwrap();
    let opened = package.open(&bob.cipher, &certificates, Default::default()).unwrap();
    assert_eq!(opened[0].root().children().filter(|one| one.local() == "Content").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialog_without_a_word_ends() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    alice.message_id().await.unwrap();
    lab.outside.clock.advance(DIALOG_IDLE + Duration::from_secs(1));
    assert!(matches!(alice.message_id().await, Err(DialogError::Fault(digits)) if digits == "9400"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_dialogs_are_unknown_and_ids_are_not() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let lab = lab.restart().await;
    let client = lab.client("alice");
    let answered = client.once(&lab.peer(), &store_order(&id, "s"), letter("bob", b"1")).await.unwrap();
    assert_eq!(digits(&answered), ["0800"]);
    let again = client.once(&lab.peer(), &store_order(&id, "s"), letter("bob", b"1")).await.unwrap();
    assert_eq!(digits(&again), ["9801"], "an id is used once, also for the same content");
    assert_eq!(lab.stored(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_encrypted_like_orders() {
    let lab = Lab::start().await;
    let method = Method { iv: IvLength::Sixteen, ..Method::default() };
    let mut alice = lab.client("alice").encrypting(method).open(lab.peer()).await.unwrap();
    let answered = alice.ask(&Request::GetMessageId, Freight::default()).await.unwrap();
    assert_eq!(answered.received.encrypted, Some(method));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_may_store_where_it_is_allowed_and_no_more() {
    let unknown = Unknown::StoreFor {
        account: "guests".parse().unwrap(),
        addressees: vec!["bob".parse().unwrap()],
        categories: Vec::new(),
    };
    let lab = Lab::with(Setup { unknown, ..Setup::default() }).await;
    let id = lab.store("mallory", "bob", "hello", b"1").await;
    let mut mallory = lab.dialog("mallory").await;
    let other = mallory.message_id().await.unwrap();
    let refused = mallory.ask(&store_order(&other, "s"), letter("alice", b"1")).await.unwrap();
    assert_eq!(digits(&refused), ["9706"]);
    assert_eq!(digits(&fetch(&mut mallory, FetchRule::Next).await.1), ["9803"]);
    assert_eq!(cards(&mut mallory, by_id(&id)).await.len(), 1, "it sent this one");
    // Another stranger shares the account, but not the deliveries.
    let mut intermediary = lab.dialog("intermediary").await;
    assert_eq!(cards(&mut intermediary, by_id(&id)).await.len(), 0);
    let mut bob = lab.dialog("bob").await;
    assert_eq!(fetch(&mut bob, FetchRule::Next).await.0, Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_says_which_strangers_may_store() {
    let unknown = Unknown::StoreFor {
        account: "guests".parse().unwrap(),
        addressees: vec!["bob".parse().unwrap()],
        categories: vec!["Passbehörde".to_owned(), "Meldebehörde".to_owned()],
    };
    let directory = Arc::new(FakeDirectory::default());
    directory.list_client(KEYS["mallory"].cipher.certificate().der(), "Meldebehörde");
    directory.list_client(KEYS["intermediary"].cipher.certificate().der(), "Standesamt");
    let setup = Setup { unknown, directory: Some(Arc::clone(&directory)), ..Setup::default() };
    let lab = Lab::with(setup).await;
    lab.store("mallory", "bob", "hello", b"1").await;
    let code_of = |error: DialogError| match error {
        DialogError::Fault(digits) => digits,
        other => panic!("{other}"),
    };
    let mut foreign = lab.dialog("intermediary").await;
    let refused = foreign.message_id().await.unwrap_err();
    assert_eq!(code_of(refused), "9501", "it belongs to another category");
    // Outside of dialogs nobody proves that a certificate is its own.
    let forger = Own { signature: KEYS["intermediary"].signature.clone(), ..KEYS["mallory"].clone() };
    for (order, freight) in
        [(Request::GetMessageId, Freight::default()), (store_order("an-id", "s"), letter("bob", b"forged"))]
    {
        let answered = lab.client_of(forger.clone()).once(&lab.peer(), &order, freight).await.unwrap();
        assert_eq!(digits(&answered), ["9802"], "{order:?}");
    }
    // Whether it may cannot be said now: that is no refusal. Those who have an account are not asked about.
    directory.set_down(true);
    let later = lab.dialog("mallory").await.message_id().await.unwrap_err();
    assert_eq!(code_of(later), "9000");
    lab.store("alice", "bob", "hello", b"2").await;
    assert_eq!(lab.stored(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_says_whose_a_new_certificate_is() {
    let directory = Arc::new(FakeDirectory::default());
    // Bob encrypts anew; nobody told us, but the directory knows.
    let new = KEYS["mallory"].cipher.certificate();
    directory.list_addressee(new.der(), "osci:somebody-else");
    directory.list_addressee(new.der(), "osci:bob");
    let lab = Lab::with(Setup { directory: Some(Arc::clone(&directory)), ..Setup::default() }).await;
    let id = lab.store("alice", "mallory", "hello", b"1").await;
    let mut alice = lab.dialog("alice").await;
    let other = alice.message_id().await.unwrap();
    let refused = alice.ask(&store_order(&other, "s"), letter("intermediary", b"1")).await.unwrap();
    assert_eq!(digits(&refused), ["9706"]);
    directory.set_down(true);
    let later = alice.ask(&store_order(&other, "s"), letter("mallory", b"1")).await.unwrap_err();
    assert!(matches!(later, DialogError::Fault(digits) if digits == "9000"));
    directory.set_down(false);
    let mut bob = lab.dialog("bob").await;
    assert_eq!(fetch(&mut bob, FetchRule::Next).await.0, Some(id));
    // Two that are served here share it: nobody guesses whose it is.
    directory.list_addressee(new.der(), "osci:alice");
    let mut alice = lab.dialog("alice").await;
    let ambiguous = alice.ask(&store_order(&other, "s"), letter("mallory", b"1")).await.unwrap();
    assert_eq!(digits(&ambiguous), ["9706"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_the_certificate_of_others_does_not_use_up_their_quota() {
    let lab = Lab::with(Setup { quota: 20, ..Setup::default() }).await;
    let mut alice = lab.dialog("alice").await;
    // Signed by nobody whom we know as alice.
    let forger = Own { signature: KEYS["mallory"].signature.clone(), ..KEYS["alice"].clone() };
    let forger = lab.client_of(forger);
    for _ in 0..40 {
        let answered = forger.once(&lab.peer(), &Request::GetMessageId, Freight::default()).await.unwrap();
        assert_eq!(digits(&answered), ["9700"]);
    }
    alice.message_id().await.unwrap();
    let refused = loop {
        let answered = alice.ask(&Request::GetMessageId, Freight::default()).await.unwrap();
        if !answered.response.feedback.is_success() {
            break answered;
        }
    };
    assert_eq!(digits(&refused), ["9811"], "her own calls do");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_other_ways_is_put_into_a_container() {
    let lab = Lab::start().await;
    let samples = amtsbote_testkit::samples::Acceptances::default();
    let route = amtsbote_testkit::samples::route("osci:bob", amtsbote_core::route::ChannelKind::Mailbox);
    let acceptance = samples.make("k", amtsbote_testkit::samples::metadata(), b"<antrag/>", Some(&route));
    let id = acceptance.message.id;
    assert!(matches!(
        lab.outside.store.accept(acceptance).await.unwrap(),
        amtsbote_core::port::Accepted::First
    ));
    let sealed = lab.outside.store.head(id).await.unwrap().unwrap();
    let input = amtsbote_core::delivery::Input::Sealed(amtsbote_testkit::samples::seal());
    if let Ok(next) = sealed.apply(input, amtsbote_testkit::time::noon()) {
        let change = amtsbote_core::port::Change {
            id,
            expected: sealed.version,
            delivery: next.delivery,
            events: next.events,
        };
        // The engine may have been faster.
        let _either = lab.outside.store.commit(vec![change]).await;
    }
    lab.settle().await;
    let mut bob = lab.dialog("bob").await;
    let (found, fetched) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!(found, Some(id.uuid().as_hyphenated().to_string()));
    let package = ContentPackage::of(&fetched.received.envelope).unwrap();
    let items = package.items().unwrap();
    assert!(matches!(&items[..], [Item::Inline { bytes, .. }] if bytes == b"<antrag/>"), "{items:?}");
    assert!(custom_headers(&fetched.received.envelope).unwrap()[0].is_metadata());
    assert_eq!(package.canonical_children(), crate::lab::package(b"<antrag/>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dialogs_that_strangers_open_in_a_clients_name_do_not_keep_it_out() {
    let lab = Lab::start().await;
    let client = lab.client("alice");
    let mut own = client.open(lab.peer()).await.unwrap();
    own.message_id().await.unwrap();
    // Whoever has the certificate can open these, but read none of the challenges.
    for _ in 0..120 {
        client.open(lab.peer()).await.unwrap();
    }
    own.message_id().await.unwrap();
    let mut another = client.open(lab.peer()).await.unwrap();
    another.message_id().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_have_dialogs_without_number() {
    let lab = Lab::start().await;
    let client = lab.client("alice");
    let mut sessions = Vec::new();
    let refused = loop {
        match client.open(lab.peer()).await {
            Ok(mut session) => {
                session.message_id().await.unwrap();
                sessions.push(session);
            }
            Err(error) => break error,
        }
        assert!(sessions.len() <= 100);
    };
    assert_eq!(sessions.len(), 100);
    assert!(matches!(refused, DialogError::Fault(_)), "{refused}");
    assert!(lab.client("bob").open(lab.peer()).await.is_ok(), "others are not affected");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_signed_contents_may_share_a_part() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let digest: [u8; 32] = Sha256::digest(b"shared").into();
    let shared = NewContent::Part("shared".to_owned(), Some(digest.to_vec()));
    let container = NewContainer { contents: vec![shared.clone(), shared] };
    let package = container.finish(Some(&KEYS["alice"].signature)).unwrap();
    assert_eq!(package.matches("URI=\"cid:shared\"").count(), 2);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"shared").unwrap();
    let freight = Freight::delivery(package, certificates_for("bob"));
    let freight = freight.with_file("shared", Arc::new(file), 6, digest);
    let stored = alice.ask(&store_order(&id, "s"), freight).await.unwrap();
    assert_eq!(digits(&stored), ["0801"]);
}
