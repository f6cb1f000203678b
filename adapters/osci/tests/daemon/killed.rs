use std::collections::BTreeSet;

use amtsbote_it::Lab;
use amtsbote_osci::codec::block::{CertificateRole, Certificates};
use amtsbote_osci::codec::content::{NewContainer, NewContent};
use amtsbote_osci::codec::order::{Answer, CardRule, CardSelection, FetchRule, Request};
use amtsbote_osci::{Freight, Session};

use crate::lab::{client, own, peer, prepare};

/// Deliveries of the run.
const DELIVERIES: usize = 500;
/// The gateway is killed after so many further answers.
const EVERY: usize = 60;

/// What the clients wrote down.
#[derive(Default)]
struct Books {
    /// The intermediary said it has them.
    stored: BTreeSet<String>,
    /// Came out, and are safe with the recipient.
    fetched: BTreeSet<String>,
    /// A further request was sent behind them: they may count as received.
    maybe_received: BTreeSet<String>,
    /// It was answered: they do.
    received: BTreeSet<String>,
}

/// Stores until something breaks or all is done.
async fn store(lab: &Lab, books: &mut Books, mut budget: usize) {
    let client = client(lab, "alice", books.stored.len() as u64);
    let Ok(mut session) = client.open(peer(lab)).await else { return };
    let bob = own(lab, "bob");
    let certificates =
        || Certificates::default().with(CertificateRole::CipherAddressee, bob.cipher.certificate());
    while books.stored.len() < DELIVERIES && budget > 0 {
        let Ok(id) = session.message_id().await else { return };
        let container = NewContainer { contents: vec![NewContent::Inline(id.clone().into_bytes())] };
        let freight = Freight::delivery(container.finish(None).unwrap(), certificates());
        let order = Request::StoreDelivery { id: Some(id.clone()), subject: None };
        let Ok(answered) = session.ask(&order, freight).await else { return };
        assert!(answered.response.feedback.is_success(), "{:?}", answered.response.feedback);
        books.stored.insert(id);
        budget -= 1;
    }
}

/// Fetches until something breaks or nothing more is there.
async fn fetch(lab: &Lab, books: &mut Books, mut budget: usize) {
    let client = client(lab, "bob", 1_000_000 + books.fetched.len() as u64);
    let Ok(mut session) = client.open(peer(lab)).await else { return };
    let mut last: Option<String> = None;
    while budget > 0 {
        books.maybe_received.extend(last.clone());
        let Ok(answered) = session.ask(&Request::FetchDelivery(FetchRule::Next), Freight::default()).await
        else {
            return;
        };
        books.received.extend(last.take());
        let Answer::FetchDelivery(_, Some(card)) = &answered.response.answer else { break };
        books.fetched.insert(card.message_id.clone());
        last = Some(card.message_id.clone());
        budget -= 1;
    }
    // Every other dialog breaks off instead of ending.
    if budget > 0 {
        books.maybe_received.extend(last.clone());
        if session.close().await.is_ok() {
            books.received.extend(last);
        }
    }
}

async fn receptions(session: &mut Session, ids: &[String]) -> BTreeSet<String> {
    let rule = CardRule {
        selection: CardSelection::Ids(ids.to_vec()),
        part: None,
        no_reception: false,
        limit: None,
    };
    let answered = session.ask(&Request::FetchProcessCard(rule), Freight::default()).await.unwrap();
    let Answer::FetchProcessCard(_, cards) = answered.response.answer else { panic!("no cards") };
    assert_eq!(cards.len(), ids.len(), "every delivery has a card");
    cards.into_iter().filter(|card| card.reception.is_some()).map(|card| card.message_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_no_delivery_and_invent_no_reception() {
    let mut lab = prepare("").await;
    lab.start_gateway().await;
    let mut books = Books::default();
    let (mut kills, mut rounds) = (0_usize, 0);
    // Some come out whose storing was never confirmed.
    while books.stored.len() < DELIVERIES || !books.stored.is_subset(&books.fetched) {
        let (mut storing, mut fetching) =
            (Books { stored: books.stored.clone(), ..Books::default() }, Books::default());
        std::mem::swap(&mut fetching.fetched, &mut books.fetched);
        // Both sides stop at a kill that comes in the middle of what they do.
        let done_storing = storing.stored.len() >= DELIVERIES;
        let budget = if done_storing { DELIVERIES } else { EVERY };
        {
            let (lab, storing, fetching) = (&lab, &mut storing, &mut fetching);
            let work = async {
                tokio::join!(store(lab, storing, budget), fetch(lab, fetching, budget));
            };
            let killer = async {
                if done_storing {
                    std::future::pending::<()>().await;
                }
                // The moment is any: some requests of others later.
                let other = client(lab, "alice", 77 + kills as u64);
                for _ in 0..(3 + kills * 5 % 17) {
                    let _ended = other.open(peer(lab)).await;
                }
                lab.signal_gateway("KILL");
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = work => {}
                () = killer => {}
            }
        }
        books.stored.extend(storing.stored);
        books.fetched.extend(fetching.fetched);
        books.maybe_received.extend(fetching.maybe_received);
        books.received.extend(fetching.received);
        rounds += 1;
        assert!(rounds < 200, "something never comes out: {:?}", books.stored.difference(&books.fetched));
        if !done_storing {
            lab.kill_gateway().await;
            lab.start_gateway().await;
            kills += 1;
        }
    }
    assert!(kills >= 5, "{kills}");
    let lost: Vec<&String> = books.stored.difference(&books.fetched).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let ids: Vec<String> = books.fetched.iter().cloned().collect();
    let mut session = client(&lab, "bob", 5).open(peer(&lab)).await.unwrap();
    let mut shown = BTreeSet::new();
    for ids in ids.chunks(100) {
        shown.extend(receptions(&mut session, ids).await);
    }
    let invented: Vec<&String> = shown.difference(&books.maybe_received).collect();
    assert!(invented.is_empty(), "{invented:?}");
    let forgotten: Vec<&String> = books.received.difference(&shown).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}
