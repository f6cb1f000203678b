//! The search of `MessageStore`: by every facet, by time and by words; in pages; never what is no longer so.

use amtsbote_core::delivery::Input;
use amtsbote_core::id::MessageId;
use amtsbote_core::port::{Cursor, MessageStore, Search, SearchPage};
use amtsbote_core::route::ChannelKind;

use super::store::{accept, apply, die, later, order};
use crate::samples::{Acceptances, OFFICE, PORTAL, metadata, route, seal};
use crate::time::noon;

async fn page(store: &dyn MessageStore, search: &Search, after: Option<Cursor>, limit: usize) -> SearchPage {
    let page = store.search(search, after, limit).await.unwrap();
    assert_eq!(page.behind, 0, "so little is waited for");
    page
}

async fn found(store: &dyn MessageStore, search: Search) -> Vec<MessageId> {
    page(store, &search, None, 99).await.found.iter().map(|found| found.id).collect()
}

pub(super) async fn messages_are_found_by_what_they_are(store: &dyn MessageStore) {
    assert!(found(store, Search::default()).await.is_empty());
    let samples = Acceptances::default();
    let mut other = metadata();
    other.case_id = Some("case-2".parse().unwrap());
    other.service = "ozg:10519".parse().unwrap();
    let elsewhere = route("wgb:999999999999", ChannelKind::Webhook);
    let one = accept(store, samples.routed("1", b"x", ChannelKind::Amqp)).await;
    let two = accept(store, samples.make("2", other, b"x", Some(&elsewhere))).await;
    let open = accept(store, samples.make("3", metadata(), b"x", None)).await;
    for id in [one, two] {
        apply(store, id, Input::Sealed(seal()), noon()).await;
    }

    assert_eq!(found(store, Search::default()).await, [open, two, one], "newest first");
    let by = async |search| found(store, search).await;
    let none = Search::default;
    assert_eq!(by(Search { account: Some(PORTAL.parse().unwrap()), ..none() }).await, [open, two, one]);
    assert!(by(Search { account: Some("nobody".parse().unwrap()), ..none() }).await.is_empty());
    assert_eq!(by(Search { case_id: Some("case-1".parse().unwrap()), ..none() }).await, [open, one]);
    assert_eq!(by(Search { party: Some("ags:07315000".parse().unwrap()), ..none() }).await, [open, two, one]);
    assert_eq!(by(Search { party: Some(OFFICE.parse().unwrap()), ..none() }).await, [one]);
    assert_eq!(by(Search { destination: Some(elsewhere.destination.clone()), ..none() }).await, [two]);
    assert_eq!(by(Search { service: Some("ozg:10519".parse().unwrap()), ..none() }).await, [two]);
    assert_eq!(by(Search { state: Some("queued".to_owned()), ..none() }).await, [two, one]);
    assert_eq!(by(Search { state: Some("accepted".to_owned()), ..none() }).await, [open]);
    let both =
        Search { state: Some("queued".to_owned()), case_id: Some("case-1".parse().unwrap()), ..none() };
    assert_eq!(by(both.clone()).await, [one], "all conditions hold");
    assert_eq!(by(Search { since: Some(noon()), before: Some(later(1)), ..none() }).await.len(), 3);
    assert!(by(Search { since: Some(later(1)), ..none() }).await.is_empty());
    assert!(by(Search { before: Some(noon()), ..none() }).await.is_empty());

    die(store, one, later(1)).await;
    assert!(by(both).await.is_empty(), "what was so before is not found");
    let dead = Search { state: Some("dead".to_owned()), ..none() };
    assert_eq!(by(dead.clone()).await, [one]);
    assert_eq!(by(Search { code: Some("refused".to_owned()), ..none() }).await, [one]);
    assert!(by(Search { code: Some("other".to_owned()), ..none() }).await.is_empty());
    assert_eq!(by(Search { text: Some("FUSE".to_owned()), ..none() }).await, [one]);
    assert!(by(Search { text: Some("confused".to_owned()), ..none() }).await.is_empty());
    let [entry] = page(store, &dead, None, 9).await.found.try_into().unwrap();
    assert_eq!(entry.failure.unwrap().code, "refused");
    assert_eq!(entry.delivery, store.head(one).await.unwrap().unwrap());

    assert!(by(Search { at_risk: true, ..none() }).await.is_empty());
    apply(store, one, Input::Redrive(order()), later(2)).await;
    assert!(by(dead).await.is_empty());
    assert_eq!(
        by(Search { code: Some("refused".to_owned()), ..none() }).await,
        [one],
        "what went wrong stays"
    );
    store.forget(vec![two]).await.unwrap();
    assert_eq!(by(Search::default()).await, [open, one]);
}

pub(super) async fn what_is_found_comes_in_pages(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let mut ids = Vec::new();
    for n in 0..7 {
        let channel = if n % 2 == 0 { ChannelKind::Amqp } else { ChannelKind::Mailbox };
        ids.push(accept(store, samples.routed(&format!("{n}"), b"x", channel)).await);
    }
    ids.reverse();
    for (search, wanted) in [
        (Search::default(), ids.clone()),
        (
            Search { destination: Some(route(OFFICE, ChannelKind::Amqp).destination), ..Search::default() },
            ids.iter().step_by(2).copied().collect(),
        ),
    ] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = page(store, &search, after, 2).await;
            assert!(page.found.len() <= 2);
            all.extend(page.found.iter().map(|found| found.id));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(all, wanted, "each once, in order");
    }
}
