//! Messages in chunks, with everything that can go wrong between the first and the last.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::State;
use amtsbote_osci::codec::block::{CertificateRole, Certificates, ControlBlock};
use amtsbote_osci::codec::compose::{Extras, request};
use amtsbote_osci::codec::content::ContentPackage;
use amtsbote_osci::codec::mime::{close_package, open_package};
use amtsbote_osci::codec::order::{Answer, ChunkInformation, FetchRule, Request};
use amtsbote_osci::{Answered, DialogError, Freight, Session};
use sha2::{Digest as _, Sha256};

use crate::lab::{KEYS, Lab, certificates_for, digits, fetch, package, store_order};

const KIB: usize = 1024;

/// The order inside, as deployed clients make it: neither signed nor encrypted.
fn inner(id: &str, to: &str, content: &[u8]) -> Vec<u8> {
    let control =
        ControlBlock { challenge: Some("i".to_owned()), sequence: Some(0), ..ControlBlock::default() };
    let mut certificates =
        Certificates::default().with(CertificateRole::CipherOriginator, KEYS["alice"].cipher.certificate());
    certificates.0.extend(certificates_for(to).0);
    let (block, package) = (certificates.write_others(), package(content));
    let extras = Extras { others: Some(&block), package: &package, ..Extras::default() };
    let xml = request(&store_order(id, "inside"), &control, "de", extras).finish(None, &[]).unwrap();
    (open_package("i", None) + &xml + &close_package("i")).into_bytes()
}

struct Chunk<'a> {
    id: &'a str,
    to: &'a str,
    number: u64,
    size: u64,
    total: u64,
    bytes: &'a [u8],
}

impl Chunk<'_> {
    async fn send(&self, session: &mut Session) -> Answered {
        self.try_send(session).await.unwrap()
    }

    async fn try_send(&self, session: &mut Session) -> Result<Answered, DialogError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(self.bytes).unwrap();
        let chunk = ChunkInformation {
            number: Some(self.number),
            size: Some(self.size),
            total: Some(self.total),
            total_size: Some(1),
            received: Vec::new(),
        };
        let order =
            Request::PartialStoreDelivery { id: self.id.to_owned(), subject: None, chunk: Some(chunk) };
        let container = "<osci:ContentContainer Id=\"ChunkContentContainer\"><osci:Content Id=\"ChunkContent\" href=\"cid:ChunkBlobStoreDelivery\"></osci:Content></osci:ContentContainer>";
        let freight = Freight::delivery(container.to_owned(), certificates_for(self.to)).with_file(
            "ChunkBlobStoreDelivery",
            Arc::new(file),
            self.bytes.len() as u64,
            Sha256::digest(self.bytes).into(),
        );
        session.ask(&order, freight).await
    }
}

fn chunk_of(answered: &Answered) -> (&ChunkInformation, Vec<&str>) {
    match &answered.response.answer {
        Answer::PartialStoreDelivery { chunk, inside, .. } => {
            let inside = inside.iter().flat_map(|inside| &inside.0);
            (chunk, inside.map(|entry| entry.digits.as_str()).collect())
        }
        other => panic!("{other:?}"),
    }
}

async fn info(session: &mut Session, id: &str) -> Answered {
    let order = Request::PartialStoreDelivery { id: id.to_owned(), subject: None, chunk: None };
    session.ask(&order, Freight::delivery(String::new(), certificates_for("bob"))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_in_any_order_and_over_restarts_and_make_one_delivery() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let content = vec![b'x'; 10 * KIB];
    let whole = inner(&id, "bob", &content);
    let pieces: Vec<&[u8]> = whole.chunks(5 * KIB).collect();
    let total = pieces.len() as u64;
    let chunk = |number: u64| {
        let bytes = pieces[usize::try_from(number).unwrap() - 1];
        Chunk { id: &id, to: "bob", number, size: 5, total, bytes }
    };
    let first = chunk(total).send(&mut alice).await;
    assert_eq!((digits(&first), chunk_of(&first).0.received.clone()), (vec!["0801"], vec![total]));
    let lab = lab.restart().await;
    let mut alice = lab.dialog("alice").await;
    assert_eq!(chunk_of(&info(&mut alice, &id).await).0.received, [total]);
    assert_eq!(digits(&chunk(total).send(&mut alice).await), ["9900"], "it is there already");
    for number in 1..total - 1 {
        assert_eq!(digits(&chunk(number).send(&mut alice).await), ["0801"]);
    }
    assert_eq!(lab.stored(), 0);
    let last = chunk(total - 1).send(&mut alice).await;
    assert_eq!((digits(&last), chunk_of(&last).1), (vec!["0801", "3950"], vec!["0801"]));
    let Answer::PartialStoreDelivery { card: Some(card), .. } = &last.response.answer else {
        panic!("no card")
    };
    assert_eq!((card.message_id.as_str(), card.subject.as_deref()), (id.as_str(), Some("inside")));
    // Whoever missed the answer asks once more.
    let told = info(&mut alice, &id).await;
    assert_eq!((digits(&told), chunk_of(&told).1), (vec!["0801", "3950"], vec!["0801"]));
    assert_eq!(digits(&chunk(1).send(&mut alice).await), ["9900"]);
    lab.settle().await;
    assert_eq!(lab.stored(), 1);
    let mut bob = lab.dialog("bob").await;
    let (found, fetched) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!(found, Some(id));
    assert_eq!(
        ContentPackage::of(&fetched.received.envelope).unwrap().canonical_children(),
        package(&content)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_taken_in_at_the_end_is_taken_in_once_it_can_be() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let whole = inner(&id, "bob", b"content");
    let chunk = Chunk { id: &id, to: "bob", number: 1, size: 100, total: 1, bytes: &whole };
    // The disk is full when everything is there.
    lab.outside.store.set_full(true);
    assert!(chunk.try_send(&mut alice).await.is_err());
    assert_eq!(lab.stored(), 0);
    lab.outside.store.set_full(false);
    let mut alice = lab.dialog("alice").await;
    let told = info(&mut alice, &id).await;
    assert_eq!((digits(&told), chunk_of(&told).1), (vec!["0801", "3950"], vec!["0801"]));
    assert_eq!(lab.stored(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_in_before_a_crash_is_not_taken_in_twice() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let whole = inner(&id, "bob", &[b'x'; 10 * KIB]);
    let total = whole.len().div_ceil(5 * KIB) as u64;
    let pieces = whole.chunks(5 * KIB).zip(1..);
    let mut pieces: Vec<Chunk<'_>> =
        pieces.map(|(bytes, number)| Chunk { id: &id, to: "bob", number, size: 5, total, bytes }).collect();
    let last = pieces.pop().unwrap();
    for chunk in pieces {
        chunk.send(&mut alice).await;
    }
    let transfers = lab.outside.folder.path().join("chunks/in");
    let only = |folder: &Path| std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let transfer = only(&only(&transfers));
    let files = || std::fs::read_dir(&transfer).unwrap().map(|file| file.unwrap().path());
    let before: Vec<(PathBuf, Vec<u8>)> =
        files().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert_eq!(chunk_of(&last.send(&mut alice).await).1, ["0801"]);
    // As if nobody had got to noting how it turned out.
    std::fs::remove_file(transfer.join("outcome.json")).unwrap();
    for (path, bytes) in before {
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(transfer.join(format!("{total}.chunk")), last.bytes).unwrap();
    let told = info(&mut alice, &id).await;
    assert_eq!((digits(&told), chunk_of(&told).1), (vec!["0801", "3950"], vec!["0801"]));
    assert_eq!(lab.stored(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_has_its_own_code() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let bytes = vec![0; 300 * KIB];
    let chunk = |number, size, total, length: usize| Chunk {
        id: &id,
        to: "bob",
        number,
        size,
        total,
        bytes: &bytes[..length],
    };
    let mut code = async |chunk: Chunk<'_>| digits(&chunk.send(&mut alice).await)[0].to_owned();
    assert_eq!(code(chunk(0, 5, 3, 5 * KIB)).await, "9901");
    assert_eq!(code(chunk(4, 5, 3, 5 * KIB)).await, "9901");
    assert_eq!(code(chunk(1, 101, 3, 101 * KIB)).await, "9902", "more than the limit");
    assert_eq!(code(chunk(1, 5, 3, 6 * KIB)).await, "9902", "more than announced");
    assert_eq!(code(chunk(1, 1, 3, KIB)).await, "9903");
    assert_eq!(code(chunk(1, 100, 30, 100 * KIB)).await, "9904");
    assert_eq!(code(chunk(1, 5, 3, 4 * KIB)).await, "9905", "less than announced");
    assert_eq!(code(chunk(1, 5, 3, 5 * KIB)).await, "0801");
    assert_eq!(code(chunk(2, 5, 4, 5 * KIB)).await, "9901", "another number of chunks");
    assert_eq!(code(chunk(2, 6, 3, 6 * KIB)).await, "9905", "another size");
    assert_eq!(code(Chunk { to: "alice", ..chunk(2, 5, 3, 5 * KIB) }).await, "9905", "another addressee");
    assert_eq!(code(Chunk { id: "made-up", ..chunk(1, 5, 3, 5 * KIB) }).await, "9801");
    assert_eq!(code(chunk(2, 5, 3, 5 * KIB)).await, "0801");
    let last = chunk(3, 5, 3, 2 * KIB).send(&mut alice).await;
    assert_eq!((digits(&last), chunk_of(&last).1), (vec!["9950"], vec!["9100"]), "it was noise");
    assert_eq!(lab.stored(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_inside_must_be_the_one_that_was_announced() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    for (other_id, other_to) in [(true, false), (false, true)] {
        let id = alice.message_id().await.unwrap();
        let other = alice.message_id().await.unwrap();
        let whole = inner(if other_id { &other } else { &id }, if other_to { "alice" } else { "bob" }, b"x");
        let chunk = Chunk { id: &id, to: "bob", number: 1, size: 100, total: 1, bytes: &whole };
        let answered = chunk.send(&mut alice).await;
        assert_eq!((digits(&answered), chunk_of(&answered).1), (vec!["9950"], vec!["9905"]));
    }
    assert_eq!(lab.stored(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_takes_too_long_begins_anew() {
    let lab = Lab::start().await;
    let mut alice = lab.dialog("alice").await;
    let id = alice.message_id().await.unwrap();
    let bytes = vec![0; 5 * KIB];
    let chunk = |number| Chunk { id: &id, to: "bob", number, size: 5, total: 3, bytes: &bytes };
    assert_eq!(digits(&chunk(1).send(&mut alice).await), ["0801"]);
    lab.outside.clock.advance(Duration::from_secs(3_601));
    let mut alice = lab.dialog("alice").await;
    let second = chunk(2).send(&mut alice).await;
    assert_eq!((digits(&second), chunk_of(&second).0.received.clone()), (vec!["0801", "3951"], vec![2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_goes_out_in_chunks_that_fit_together() {
    let lab = Lab::start().await;
    let content: Vec<u8> = (0..50_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let id = lab.store("alice", "bob", "s", &content).await;
    let ask = |number: u64, received: Vec<u64>| {
        let chunk = ChunkInformation {
            number: Some(number),
            size: Some(20),
            received,
            ..ChunkInformation::default()
        };
        Request::PartialFetchDelivery(FetchRule::Id(id.clone()), chunk)
    };
    let mut whole = Vec::new();
    let (mut number, mut total, mut have) = (1, 2, Vec::new());
    let mut bob = lab.dialog("bob").await;
    while number <= total {
        if number == 2 {
            // The connection breaks off; another dialog goes on.
            bob = lab.dialog("bob").await;
        }
        let answered = bob.ask(&ask(number, have.clone()), Freight::default()).await.unwrap();
        let Answer::PartialFetchDelivery { chunk, id: shown, .. } = &answered.response.answer else {
            panic!("no chunk")
        };
        assert_eq!((chunk.number, shown), (Some(number), &id));
        total = chunk.total.unwrap();
        let part = answered.received.part("ChunkBlobFetchDelivery").unwrap();
        let mut reading = answered.received.content(part);
        while let Some(piece) = reading.next_piece().unwrap() {
            whole.extend(piece);
        }
        have.push(number);
        number += 1;
    }
    assert!(total > 2);
    let text = String::from_utf8(whole).unwrap();
    assert!(text.starts_with("MIME-Version: 1.0\r\n") && text.ends_with("--\r\n"));
    assert!(text.contains(&package(&content)), "the delivery is inside, byte for byte");
    let waiting = |lab: &Lab| {
        lab.outside.store.deliveries().iter().filter(|(_, one)| one.state != State::Acknowledged).count()
    };
    assert_eq!(waiting(&lab), 1, "nothing says yet that it arrived");
    bob.close().await.unwrap();
    assert_eq!(waiting(&lab), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_two_packages_are_not_mixed() {
    let lab = Lab::start().await;
    lab.store("alice", "bob", "s", &[b'x'; 50_000]).await;
    let mut bob = lab.dialog("bob").await;
    let mut ask = async |number: u64, received: Vec<u64>| {
        let (number, size) = (Some(number), Some(20));
        let chunk = ChunkInformation { number, size, received, ..ChunkInformation::default() };
        bob.ask(&Request::PartialFetchDelivery(FetchRule::Next, chunk), Freight::default()).await.unwrap()
    };
    assert_eq!(digits(&ask(1, Vec::new()).await), ["0801"]);
    std::fs::remove_dir_all(lab.outside.folder.path().join("chunks/out")).unwrap();
    std::fs::create_dir(lab.outside.folder.path().join("chunks/out")).unwrap();
    assert_eq!(digits(&ask(2, vec![1]).await), ["9905"]);
    assert_eq!(digits(&ask(1, Vec::new()).await), ["0801"], "from the beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_delivery_was_not_received() {
    let lab = Lab::start().await;
    let id = lab.store("alice", "bob", "s", &[b'x'; 50_000]).await;
    let chunk = ChunkInformation { number: Some(1), size: Some(20), ..ChunkInformation::default() };
    let mut bob = lab.dialog("bob").await;
    let order = Request::PartialFetchDelivery(FetchRule::Next, chunk);
    bob.ask(&order, Freight::default()).await.unwrap();
    bob.close().await.unwrap();
    let mut bob = lab.dialog("bob").await;
    assert_eq!(fetch(&mut bob, FetchRule::Next).await.0, Some(id));
    for (number, size, code) in [(1, 101, "9902"), (1, 1, "9903"), (9, 20, "9901")] {
        let chunk =
            ChunkInformation { number: Some(number), size: Some(size), ..ChunkInformation::default() };
        let mut bob = lab.dialog("bob").await;
        lab.store("alice", "bob", "s", &[b'x'; 50_000]).await;
        let answered =
            bob.ask(&Request::PartialFetchDelivery(FetchRule::Next, chunk), Freight::default()).await;
        assert_eq!(digits(&answered.unwrap()), [code]);
    }
}
