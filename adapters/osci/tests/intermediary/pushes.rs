//! One intermediary pushes, the other is the recipient.

use amtsbote_osci::codec::certificate::Certificate;
use amtsbote_osci::codec::content::{ContentPackage, Item};
use amtsbote_osci::codec::order::{Answer, FetchRule, Push, Request};
use amtsbote_osci::{Answered, Session};

use crate::lab::{KEYS, Lab, Setup, certificates_for, digits, fetch, letter, package};

/// A recipient that believes somebody, and an intermediary that may push to it.
async fn two(believed: &Certificate) -> (Lab, Lab) {
    let recipient = Lab::with(Setup { pushed_by: Some(believed.clone()), ..Setup::default() }).await;
    let intermediary = Lab::with(Setup { push_to: vec![recipient.url()], ..Setup::default() }).await;
    (recipient, intermediary)
}

async fn push(session: &mut Session, to: &Lab, wants_answer: bool) -> Answered {
    let id = session.message_id().await.unwrap();
    let push = Push { receiver: to.url().to_string(), id: Some(id), subject: Some("s".to_owned()) };
    let order = if wants_answer { Request::MediateDelivery(push) } else { Request::ForwardDelivery(push) };
    session.ask(&order, letter("bob", b"pushed")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_lies_in_the_mailbox_before_it_counts_as_received() {
    let (recipient, intermediary) = two(KEYS["intermediary"].signature.certificate()).await;
    let mut alice = intermediary.dialog("alice").await;
    let pushed = push(&mut alice, &recipient, false).await;
    assert_eq!(digits(&pushed), ["0801"]);
    let Answer::ForwardDelivery(Some(card)) = &pushed.response.answer else { panic!("no card") };
    assert!(card.reception.is_some());
    recipient.settle().await;
    let mut bob = recipient.dialog("bob").await;
    let (found, fetched) = fetch(&mut bob, FetchRule::Next).await;
    assert_eq!(found.as_ref(), Some(&card.message_id), "the id stays what it was");
    assert_eq!(
        ContentPackage::of(&fetched.received.envelope).unwrap().canonical_children(),
        package(b"pushed")
    );
    recipient.outside.store.set_full(true);
    let refused = push(&mut alice, &recipient, false).await;
    assert_eq!(digits(&refused), ["9808"], "there is no room");
    let Answer::ForwardDelivery(Some(card)) = &refused.response.answer else { panic!("no card") };
    assert!(card.reception.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed_and_nobody_here_answers_at_once() {
    let (recipient, intermediary) = two(KEYS["mallory"].signature.certificate()).await;
    let mut alice = intermediary.dialog("alice").await;
    assert_eq!(digits(&push(&mut alice, &recipient, false).await), ["9805"]);
    let (other, intermediary) = two(KEYS["intermediary"].signature.certificate()).await;
    let mut alice = intermediary.dialog("alice").await;
    assert_eq!(digits(&push(&mut alice, &other, true).await), ["9805"]);
    assert_eq!((recipient.stored(), other.stored()), (0, 0));
    // Addresses that nobody allowed are not called, and whoever is not pushed to says so.
    assert_eq!(digits(&push(&mut alice, &recipient, false).await), ["9809"]);
    let order = Push { receiver: other.url().to_string(), id: alice.message_id().await.ok(), subject: None };
    let to_alice = amtsbote_osci::Freight::delivery(package(b"x"), certificates_for("alice"));
    let refused = alice.ask(&Request::ForwardDelivery(order), to_alice).await.unwrap();
    assert_eq!(digits(&refused), ["9808"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_that_answers_at_once_is_asked_over_an_intermediary() {
    let believed = KEYS["intermediary"].signature.certificate().clone();
    let setup = Setup { pushed_by: Some(believed), answers: true, ..Setup::default() };
    let recipient = Lab::with(setup).await;
    let intermediary = Lab::with(Setup { push_to: vec![recipient.url()], ..Setup::default() }).await;
    let mut alice = intermediary.dialog("alice").await;
    let mediated = push(&mut alice, &recipient, true).await;
    assert_eq!(digits(&mediated), ["0801"]);
    let Answer::MediateDelivery(Some(card), Some(reply)) = &mediated.response.answer else {
        panic!("{:?}", mediated.response.answer)
    };
    assert!(card.reception.is_some() && reply.message_id != card.message_id);
    let package = ContentPackage::of(&mediated.received.envelope).unwrap();
    let items = package.items().unwrap();
    assert!(matches!(&items[..], [Item::Inline { bytes, .. }] if bytes == b"PUSHED"), "{items:?}");
    // The question and its answer are messages there, too.
    assert_eq!(recipient.stored(), 2);
    recipient.outside.store.set_full(true);
    let refused = push(&mut alice, &recipient, true).await;
    assert_eq!(digits(&refused), ["9808"], "there is no room");
    recipient.outside.store.set_full(false);
    let again = push(&mut alice, &recipient, true).await;
    assert_eq!(digits(&again), ["0801"]);
}
