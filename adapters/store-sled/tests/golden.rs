//! A store written by an earlier build stays readable. `BLESS=1` writes it anew, for a new version of the format only.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use amtsbote_core::delivery::{Face, Input};
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::port::{Accepted, Change, MessageStore};
use amtsbote_core::route::ChannelKind;
use amtsbote_store_sled::{SledStore, StoreOptions, open};
use amtsbote_testkit::samples::{Acceptances, seal};
use amtsbote_testkit::seeded::SeededEntropy;
use amtsbote_testkit::time::noon;

const FILES: [&str; 2] = ["format", "journal/00000001.journal"];

async fn apply(store: &SledStore, id: MessageId, input: Input) {
    let before = store.head(id).await.unwrap().unwrap();
    let next = before.apply(input, noon()).unwrap();
    let change = Change { id, expected: before.version, delivery: next.delivery, events: next.events };
    store.commit(vec![change]).await.unwrap();
}

/// Four messages: untouched, leased, acknowledged and stripped, forgotten.
async fn write(folder: &Path) {
    let (store, _) = open(folder, StoreOptions::default()).unwrap();
    let samples = Acceptances::default();
    let mut ids = Vec::new();
    for n in 0..4 {
        let acceptance =
            samples.routed(&format!("key-{n}"), format!("document {n}").as_bytes(), ChannelKind::Mailbox);
        ids.push(acceptance.message.id);
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
    }
    let lease = LeaseId::generate(&SeededEntropy::new(9));
    let account = || "department".parse().unwrap();
    for id in &ids[1..3] {
        apply(&store, *id, Input::Sealed(seal())).await;
        let until = noon().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
        apply(&store, *id, Input::Lease { lease, account: account(), until }).await;
    }
    apply(&store, ids[2], Input::Acknowledge { lease, account: account(), face: Face::Rest }).await;
    apply(&store, ids[2], Input::Strip).await;
    apply(&store, ids[3], Input::Cancel { account: "portal".parse().unwrap() }).await;
    store.forget(vec![ids[3]]).await.unwrap();
}

#[tokio::test]
async fn a_store_of_format_1_is_readable() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store-1");
    let folder = tempfile::tempdir().unwrap();
    if std::env::var_os("BLESS").is_some() {
        let fresh = tempfile::tempdir().unwrap();
        write(fresh.path()).await;
        std::fs::create_dir_all(golden.join("journal")).unwrap();
        for file in FILES {
            std::fs::copy(fresh.path().join(file), golden.join(file)).unwrap();
        }
    }
    std::fs::create_dir(folder.path().join("journal")).unwrap();
    for file in FILES {
        std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
    }
    let (store, report) = open(folder.path(), StoreOptions::default()).unwrap();
    assert_eq!((report.damaged.len(), report.lost.len(), report.cut), (0, 0, 0));
    let samples = Acceptances::default();
    let expected = [
        ("queued", false, vec!["received", "routed"]),
        ("fetched", false, vec!["received", "routed", "sealed", "delivered", "leased"]),
        (
            "acknowledged",
            true,
            vec!["received", "routed", "sealed", "delivered", "leased", "acknowledged", "payload-removed"],
        ),
    ];
    for (n, (state, stripped, events)) in expected.into_iter().enumerate() {
        let made =
            samples.routed(&format!("key-{n}"), format!("document {n}").as_bytes(), ChannelKind::Mailbox);
        let stored = store.load(made.message.id).await.unwrap().unwrap();
        assert_eq!(stored.message, made.message);
        assert_eq!((stored.delivery.shown_state(), stored.delivery.stripped), (state, stripped));
        let kinds: Vec<String> = stored
            .events
            .iter()
            .map(|event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, events);
        assert!(matches!(store.accept(made).await.unwrap(), Accepted::Seen(_)));
        if n == 0 {
            let mut reader = store.open_part(stored.message.id, 0, 0).await.unwrap().unwrap();
            assert_eq!(reader.next().await.unwrap().unwrap(), "document 0");
        }
    }
    assert!(store.load(samples.unused_id()).await.unwrap().is_none());
}
