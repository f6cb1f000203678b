//! The gateway at other people's intermediaries: as originator, and as the owner of a mailbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use amtsbote_core::delivery::{Delivery, EventKind, RemoteStage, State};
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::{Admission, Submission, Target, UnusableCertificate};
use amtsbote_core::message::{IdScheme, IntakeKey, Message, Part, Sha256Digest};
use amtsbote_core::port::{MessageStore, NoteKind, Staged};
use amtsbote_core::remote::Following;
use amtsbote_core::route::Route;
use amtsbote_osci::clients::Trust;
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::Certificates;
use amtsbote_osci::codec::content::{
    ContentPackage, Item, NewContainer, NewContent, part_keys, verify_container,
};
use amtsbote_osci::codec::order::{Answer, CardRule, CardSelection, FetchRule, Request};
use amtsbote_osci::codec::signature::NoParts;
use amtsbote_osci::reception::Limits;
use amtsbote_osci::{Freight, Inbound, OsciFollower, OsciPoller, Peer, Protection};
use amtsbote_testkit::time::noon;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method as HttpMethod, StatusCode};
use axum::response::IntoResponse as _;
use futures::StreamExt as _;
use url::Url;

use crate::lab::{Hub, KEYS, Lab, NoMetadata, PATIENCE, Setup, certificates_for, fetch, store_order};

fn hub(remote: &Lab, protection: Protection) -> Hub {
    Hub {
        peer: remote.peer(),
        own: "alice",
        recipient: "bob",
        protection,
        receiver: None,
        patience: PATIENCE,
    }
}

async fn behind(hub: Hub) -> Lab {
    Lab::with(Setup { hub: Some(hub), ..Setup::default() }).await
}

/// Hands a message in that did not come by OSCI.
async fn submit(lab: &Lab, document: &[u8], attachment: &[u8]) -> MessageId {
    let part = |name: &str, bytes: &[u8], offset: usize| Part {
        name: Some(name.to_owned()),
        media_type: "application/octet-stream".to_owned(),
        size: bytes.len() as u64,
        sha256: Sha256Digest::of(bytes),
        offset: offset as u64,
        attributes: BTreeMap::new(),
    };
    let mut metadata = amtsbote_testkit::samples::metadata();
    (metadata.area, metadata.recipient) = (None, Some("osci:office".parse().unwrap()));
    let submission = Submission {
        key: IntakeKey {
            account: "portal".parse().unwrap(),
            scheme: IdScheme::Client,
            value: format!("k{}", crate::lab::rand_seed()).parse().unwrap(),
        },
        sender: "ags:07315000".parse().unwrap(),
        metadata,
        parts: vec![part("antrag.xml", document, 0), part("anlage 1.pdf", attachment, document.len())],
        payload: Staged::Inline(vec![document.to_vec().into(), attachment.to_vec().into()]),
        external_ids: Vec::new(),
        carried: Vec::new(),
        canonical: Vec::new(),
        target: Target::LocalMailbox,
        reserved: None,
        unusable_certificate: UnusableCertificate::Refuse,
    };
    let nothing = |_: &Message, _: &Delivery, _: Option<&Route>| axum::body::Bytes::new();
    match lab.services.intake.accept(submission, &nothing).await.unwrap() {
        Admission::New(proof) => proof.id(),
        Admission::Repeated(_) => panic!("it is new"),
    }
}

/// How a message ended.
async fn ended(lab: &Lab, id: MessageId) -> (State, u32) {
    loop {
        let delivery = lab.outside.store.head(id).await.unwrap().unwrap();
        if matches!(delivery.state, State::Delivered | State::Dead { .. } | State::Rejected { .. }) {
            return (delivery.state, delivery.attempts);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_portal_reaches_a_mailbox_at_another_intermediary() {
    let remote = Lab::start().await;
    let local = behind(hub(&remote, Protection::default())).await;
    let id = submit(&local, b"<antrag/>", b"attachment").await;
    assert_eq!(ended(&local, id).await, (State::Delivered, 1));
    let stored = local.outside.store.load(id).await.unwrap().unwrap();
    let proof = stored.events.iter().find_map(|event| match &event.kind {
        EventKind::Delivered { proof, .. } => proof.clone(),
        _ => None,
    });
    remote.settle().await;
    let mut bob = remote.dialog("bob").await;
    let (found, fetched) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!(proof.unwrap().0, format!("stored at OSCI intermediary hub as {}", found.unwrap()));
    let items = ContentPackage::of(&fetched.received.envelope).unwrap().items().unwrap();
    let [Item::Inline { bytes, .. }, Item::Part { part, .. }] = &items[..] else { panic!("{items:?}") };
    assert_eq!(bytes, b"<antrag/>");
    let mut content = fetched.received.content(fetched.received.part(part).unwrap());
    assert_eq!(content.next_piece().unwrap().unwrap(), b"attachment");
}

/// What the remote intermediary said, as far as it is on the ProcessCard here.
async fn told(local: &Lab, id: MessageId) -> Vec<RemoteStage> {
    let stored = local.outside.store.load(id).await.unwrap().unwrap();
    let stages = stored.events.iter().filter_map(|event| match &event.kind {
        EventKind::Remote { stage, remote_at } => {
            assert!((noon()..noon() + Duration::from_secs(60)).contains(remote_at), "{remote_at}");
            Some(*stage)
        }
        _ => None,
    });
    stages.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_delivery_there_is_told_here() {
    // It tells of two deliveries at a time.
    let remote = Lab::with(Setup { cards: 2, ..Setup::default() }).await;
    let local = behind(hub(&remote, Protection::default())).await;
    let follower = OsciFollower {
        name: "hub".to_owned(),
        client: local.client("alice"),
        peer: remote.peer(),
        following: Following::new(Arc::clone(&local.services.store), Arc::clone(&local.services.clock)),
        every: Duration::from_secs(60),
        clock: Arc::clone(&local.services.clock),
    };
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(submit(&local, format!("<antrag n=\"{n}\"/>").as_bytes(), b"").await);
        ended(&local, ids[n]).await;
    }
    remote.settle().await;
    follower.look().await;
    assert_eq!(told(&local, ids[0]).await, []);
    let mut bob = remote.dialog("bob").await;
    fetch(&mut bob, FetchRule::Next).await;
    follower.look().await;
    assert_eq!(told(&local, ids[0]).await, [RemoteStage::Fetched]);
    fetch(&mut bob, FetchRule::Next).await;
    follower.look().await;
    follower.look().await;
    assert_eq!(told(&local, ids[0]).await, [RemoteStage::Fetched, RemoteStage::Received], "each once");
    assert_eq!(told(&local, ids[1]).await, [RemoteStage::Fetched]);
    assert_eq!(told(&local, ids[2]).await, []);
    let notes = local.outside.store.notes(NoteKind::RemoteId, None, 9).await.unwrap();
    assert_eq!(notes.len(), 2, "what was received is not followed any more");
    fetch(&mut bob, FetchRule::Next).await;
    bob.close().await.unwrap();
    follower.look().await;
    for id in ids {
        assert_eq!(told(&local, id).await, [RemoteStage::Fetched, RemoteStage::Received]);
    }
    let notes = local.outside.store.notes(NoteKind::RemoteId, None, 9).await.unwrap();
    assert!(notes.is_empty(), "nothing is left behind");
}

/// A server that is reached and does something else than answer, until it is told to hand on to an intermediary.
async fn wayward(remote: Arc<Lab>, way: Way, well: Arc<AtomicBool>) -> Peer {
    let peer = remote.peer();
    let handler = move |body: Bytes| {
        let (remote, well) = (Arc::clone(&remote), Arc::clone(&well));
        async move {
            if well.load(Ordering::SeqCst) {
                let reply = remote.http.exchange(HttpMethod::POST, remote.url(), HeaderMap::new(), body);
                return reply.await.unwrap().body.into_response();
            }
            let line = |n: u8| Ok::<_, std::io::Error>(Bytes::from(vec![n; 1 << 16]));
            match way {
                Way::Hangs => std::future::pending().await,
                Way::BreaksOff => Body::from_stream(futures::stream::iter([
                    line(b'a'),
                    Err(std::io::ErrorKind::ConnectionReset.into()),
                ]))
                .into_response(),
                Way::Stalls => Body::from_stream(
                    futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(
                        b"MIME-Version: 1.0\r\n",
                    ))])
                    .chain(futures::stream::pending()),
                )
                .into_response(),
                Way::NeverEnds => Body::from_stream(futures::stream::iter(
                    std::iter::once(Ok::<_, std::io::Error>(Bytes::from_static(ENDLESS)))
                        .chain(std::iter::repeat_with(move || line(b'x'))),
                ))
                .into_response(),
                Way::Garbage => "<html>502</html>".into_response(),
                Way::Redirects => {
                    (StatusCode::TEMPORARY_REDIRECT, [("location", "http://127.0.0.1:1/")]).into_response()
                }
            }
        }
    };
    Peer { url: serve_at(Router::new().fallback(handler)).await, ..peer }
}

/// The beginning of an answer whose XML never ends.
const ENDLESS: &[u8] = b"MIME-Version: 1.0\r\nContent-Type: Multipart/Related; boundary=b; type=\"text/xml\"; start=\"<osci@message>\"\r\n\r\n--b\r\nContent-Type: text/xml; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit\r\nContent-ID: <osci@message>\r\n\r\n<a>";

#[derive(Debug, Clone, Copy)]
enum Way {
    Hangs,
    Stalls,
    BreaksOff,
    NeverEnds,
    Garbage,
    Redirects,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_does_instead_of_answering_the_message_waits_and_goes_on() {
    for (way, code) in [
        (Way::Hangs, "outcome-unknown"),
        (Way::Stalls, "outcome-unknown"),
        (Way::BreaksOff, "answer-unusable"),
        (Way::NeverEnds, "answer-unusable"),
        (Way::Garbage, "answer-unusable"),
        (Way::Redirects, "outcome-unknown"),
    ] {
        let (remote, well) = (Arc::new(Lab::start().await), Arc::new(AtomicBool::new(false)));
        let peer = wayward(Arc::clone(&remote), way, Arc::clone(&well)).await;
        // Only for what never ends by itself; nobody else needs as long.
        let patience = match way {
            Way::Hangs | Way::Stalls => Duration::from_millis(50),
            _ => PATIENCE,
        };
        let local = behind(Hub { peer, patience, ..hub(&remote, Protection::default()) }).await;
        let id = submit(&local, b"<antrag/>", b"").await;
        let failed = loop {
            let stored = local.outside.store.load(id).await.unwrap().unwrap();
            let failed = stored.events.iter().find_map(|event| match &event.kind {
                EventKind::AttemptFailed { reason, .. } => Some(reason.clone()),
                _ => None,
            });
            match failed {
                Some(failed) => break failed,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(failed.code, code, "{way:?}: {}", failed.detail);
        assert_eq!(remote.stored(), 0);
        if matches!(way, Way::Hangs | Way::Stalls) {
            continue;
        }
        well.store(true, Ordering::SeqCst);
        assert_eq!(ended(&local, id).await.0, State::Delivered, "{way:?}");
        assert_eq!(remote.stored(), 1, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_are_signed_and_sealed_for_the_recipient_if_that_is_wanted() {
    let remote = Lab::start().await;
    let protection = Protection { sign: Some(KEYS["alice"].signature.clone()), encrypt: true };
    let local = behind(hub(&remote, protection)).await;
    let id = submit(&local, b"<antrag/>", b"attachment").await;
    assert_eq!(ended(&local, id).await.0, State::Delivered);
    remote.settle().await;
    let mut bob = remote.dialog("bob").await;
    let (_, fetched) = fetch(&mut bob, FetchRule::Next).await;
    let certificates = Certificates::read(&fetched.received.envelope).unwrap();
    let package = ContentPackage::of(&fetched.received.envelope).unwrap();
    assert!(matches!(&package.items().unwrap()[..], [Item::Sealed { .. }]));
    let opened = package.open(&KEYS["bob"].cipher, &certificates, Policy::default()).unwrap();
    let mut keys = part_keys(opened[0].root(), Policy::default()).unwrap();
    let (part, mut decryptor) = keys.pop().unwrap();
    let mut content = fetched.received.content(fetched.received.part(&part).unwrap());
    let mut plain = Vec::new();
    while let Some(piece) = content.next_piece().unwrap() {
        plain.extend(decryptor.update(&piece).unwrap());
    }
    plain.extend(decryptor.finish().unwrap());
    assert_eq!(plain, b"attachment");
    struct Plain(Vec<u8>);
    impl amtsbote_osci::codec::signature::PartDigests for Plain {
        fn digest(
            &self,
            _: &str,
            _: amtsbote_osci::codec::algorithm::Digest,
        ) -> std::io::Result<Option<Vec<u8>>> {
            Ok(Some(Sha256Digest::of(&self.0).as_bytes().to_vec()))
        }
    }
    let signers = verify_container(opened[0].root(), &certificates, &Plain(plain)).unwrap();
    assert_eq!(signers, [KEYS["alice"].signature.certificate()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_author_signed_stays_signed_over_two_intermediaries() {
    let remote = Lab::start().await;
    let local = behind(Hub { own: "alice", ..hub(&remote, Protection::default()) }).await;
    let bob = &KEYS["bob"];
    let container = NewContainer { contents: vec![NewContent::Inline(b"signed".to_vec())] };
    let sent = container.finish(Some(&bob.signature)).unwrap();
    // Bob is the author here, and the recipient there.
    let mut session = local.dialog("bob").await;
    let id = session.message_id().await.unwrap();
    let freight = Freight::delivery(sent.clone(), certificates_for("mallory"));
    session.ask(&store_order(&id, "s"), freight).await.unwrap();
    let (message, _) = local.outside.store.deliveries().pop().unwrap();
    assert_eq!(ended(&local, message).await.0, State::Delivered);
    remote.settle().await;
    let mut recipient = remote.dialog("bob").await;
    let (_, fetched) = fetch(&mut recipient, FetchRule::Next).await;
    let package = ContentPackage::of(&fetched.received.envelope).unwrap();
    assert_eq!(package.canonical_children(), sent, "not a byte was changed");
    let certificates = Certificates::read(&fetched.received.envelope).unwrap();
    package.check(&certificates, &fetched.received.part_ids(), &NoParts).unwrap();
}

/// Stands before an intermediary and loses one exchange.
async fn unreliable(remote: Arc<Lab>, lose: usize, after_it_was_taken: bool) -> Peer {
    let seen = Arc::new(AtomicUsize::new(0));
    let peer = remote.peer();
    let handler = move |body: Bytes| {
        let (remote, seen) = (Arc::clone(&remote), Arc::clone(&seen));
        async move {
            let lost = seen.fetch_add(1, Ordering::SeqCst) + 1 == lose;
            if lost && !after_it_was_taken {
                return StatusCode::BAD_GATEWAY.into_response();
            }
            let reply =
                remote.http.exchange(HttpMethod::POST, remote.url(), HeaderMap::new(), body).await.unwrap();
            match lost {
                true => StatusCode::BAD_GATEWAY.into_response(),
                false => reply.body.into_response(),
            }
        }
    };
    Peer { url: serve_at(Router::new().fallback(handler)).await, ..peer }
}

/// Serves on a port of its own.
async fn serve_at(router: Router) -> Url {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap()).parse().unwrap();
    let (listener, stop) = (
        amtsbote_http::Listener { name: "proxy", socket, tls: None, router, limits: Default::default() },
        tokio_util::sync::CancellationToken::new(),
    );
    tokio::spawn(amtsbote_http::serve(listener, stop));
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_on_the_way_the_mailbox_gets_it_once() {
    for (lose, after_it_was_taken) in [(1, false), (2, true), (3, false), (3, true), (4, true)] {
        let remote = Arc::new(Lab::start().await);
        let peer = unreliable(Arc::clone(&remote), lose, after_it_was_taken).await;
        let local = behind(Hub { peer, ..hub(&remote, Protection::default()) }).await;
        let id = submit(&local, b"<antrag/>", b"").await;
        let (state, attempts) = ended(&local, id).await;
        // The fourth exchange ends the dialog; nothing depends on it.
        let expected = if lose == 4 { 1 } else { 2 };
        assert_eq!((state, attempts), (State::Delivered, expected), "{lose} {after_it_was_taken}");
        assert_eq!(remote.stored(), 1, "{lose} {after_it_was_taken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_pushed_is_pushed_again() {
    let believed = KEYS["intermediary"].signature.certificate().clone();
    let recipient = Lab::with(Setup { pushed_by: Some(believed), ..Setup::default() }).await;
    let recipient = Arc::new(recipient);
    let way = unreliable(Arc::clone(&recipient), 1, false).await.url;
    let remote = Lab::with(Setup { push_to: vec![way.clone()], ..Setup::default() }).await;
    let local = behind(Hub { receiver: Some(way), ..hub(&remote, Protection::default()) }).await;
    let id = submit(&local, b"<antrag/>", b"").await;
    assert_eq!(ended(&local, id).await, (State::Delivered, 2));
    assert_eq!(recipient.stored(), 1, "it is where it was to go");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_class() {
    let remote = Lab::start().await;
    let local = behind(Hub { recipient: "intermediary", ..hub(&remote, Protection::default()) }).await;
    let id = submit(&local, b"<antrag/>", b"").await;
    assert!(matches!(ended(&local, id).await.0, State::Dead { .. }), "nobody has that mailbox there");
    assert_eq!(remote.stored(), 0);
    let stored = local.outside.store.load(id).await.unwrap().unwrap();
    let code = stored.events.iter().find_map(|event| match &event.kind {
        EventKind::AttemptFailed { reason, .. } => Some(reason.code.clone()),
        _ => None,
    });
    assert_eq!(code.as_deref(), Some("recipient-refused"));
}

pub(crate) fn inbound(local: &Lab) -> Inbound {
    Inbound {
        name: "hub".to_owned(),
        account: "bob".parse().unwrap(),
        sender: "dept:bob".parse().unwrap(),
        recipient: "osci:bob".parse().unwrap(),
        intake: Arc::clone(&local.services.intake),
        store: Arc::clone(&local.services.store),
        metadata: Arc::new(NoMetadata),
        trust: Trust::default(),
        clock: Arc::clone(&local.services.clock),
        entropy: Arc::clone(&local.services.entropy),
    }
}

fn poller(local: &Lab, remote: &Lab) -> OsciPoller {
    OsciPoller {
        client: local.client("bob"),
        peer: remote.peer(),
        inbound: inbound(local),
        every: Duration::from_secs(60),
        clock: Arc::clone(&local.services.clock),
    }
}

async fn receptions(remote: &Lab, ids: &[String]) -> usize {
    let rule = CardRule {
        selection: CardSelection::Ids(ids.to_vec()),
        part: None,
        no_reception: false,
        limit: None,
    };
    let mut alice = remote.dialog("alice").await;
    let answered = alice.ask(&Request::FetchProcessCard(rule), Freight::default()).await.unwrap();
    let Answer::FetchProcessCard(_, cards) = answered.response.answer else { panic!("no cards") };
    cards.iter().filter(|card| card.reception.is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_mailbox_is_emptied_into_ours() {
    let (remote, local) = (Lab::start().await, Lab::start().await);
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(remote.store("alice", "bob", &format!("s{n}"), format!("content {n}").as_bytes()).await);
    }
    // Without room here nothing counts as received there.
    local.outside.store.set_full(true);
    poller(&local, &remote).look().await;
    assert_eq!((local.stored(), receptions(&remote, &ids).await), (0, 0));
    local.outside.store.set_full(false);
    poller(&local, &remote).look().await;
    assert_eq!((local.stored(), receptions(&remote, &ids).await), (3, 3));
    poller(&local, &remote).look().await;
    assert_eq!(local.stored(), 3);
    local.settle().await;
    let mut bob = local.dialog("bob").await;
    let (found, fetched) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!(found.as_ref(), Some(&ids[0]), "the id stays what it was");
    let items = ContentPackage::of(&fetched.received.envelope).unwrap().items().unwrap();
    assert!(matches!(&items[..], [Item::Inline { bytes, .. }] if bytes == b"content 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_but_not_confirmed_is_not_doubled() {
    let remote = Arc::new(Lab::start().await);
    let local = Lab::start().await;
    let id = remote.store("alice", "bob", "s", b"content").await;
    // The answer to the request behind it is lost: open, fetch, then this one.
    let peer = unreliable(Arc::clone(&remote), 3, false).await;
    OsciPoller { peer, ..poller(&local, &remote) }.look().await;
    assert_eq!((local.stored(), receptions(&remote, std::slice::from_ref(&id)).await), (1, 0));
    poller(&local, &remote).look().await;
    assert_eq!((local.stored(), receptions(&remote, &[id]).await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_cannot_be_taken_stays_there_and_stops_nobody() {
    let (remote, local) = (Lab::start().await, Lab::start().await);
    let mut ids = vec![remote.store("alice", "bob", "s", b"before").await];
    let (mut large, size) = (Vec::new(), 64 << 10);
    for n in 0..6 {
        let content = if n < 2 { vec![b'x'; size] } else { b"behind".to_vec() };
        let stored = remote.store("alice", "bob", "s", &content).await;
        if n < 2 { large.push(stored) } else { ids.push(stored) }
    }
    // Less than the intermediary takes.
    let limits = Limits { xml: size, ..local.services.options.limits() };
    let client = local.client_with(KEYS["bob"].clone(), limits);
    let poller = OsciPoller { client, ..poller(&local, &remote) };
    for _ in 0..2 {
        poller.look().await;
        assert_eq!((local.stored(), receptions(&remote, &ids).await), (5, 5));
        assert_eq!(receptions(&remote, &large).await, 0);
    }
}
