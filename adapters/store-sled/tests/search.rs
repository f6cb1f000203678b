//! The search is a projection: it comes back whatever happens to it, and says what it does not know yet.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use amtsbote_core::id::MessageId;
use amtsbote_core::port::{Accepted, MessageStore, Search};
use amtsbote_core::route::ChannelKind;
use amtsbote_store_sled::{SledStore, StoreOptions, open};
use amtsbote_testkit::files::copy_folder;
use amtsbote_testkit::samples::Acceptances;

fn reopen(folder: &Path) -> SledStore {
    open(folder, StoreOptions::default()).unwrap().0
}

async fn fill(store: &SledStore, from: usize, samples: &Acceptances) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for n in from..from + 20 {
        let acceptance = samples.routed(&format!("{n}"), b"x", ChannelKind::Mailbox);
        ids.push(acceptance.message.id);
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
    }
    ids
}

fn block(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder.join("search")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "block")).unwrap()
}

async fn all(store: &SledStore) -> Vec<MessageId> {
    let page = store.search(&Search::default(), None, 99).await.unwrap();
    assert_eq!(page.behind, 0);
    page.found.iter().rev().map(|found| found.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let samples = Acceptances::default();
    let store = reopen(folder.path());
    let first = fill(&store, 0, &samples).await;
    assert_eq!(all(&store).await, first);
    drop(store);
    let store = reopen(folder.path());
    let more = fill(&store, 20, &samples).await;
    assert_eq!(all(&store).await, [first, more].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_built_anew_when_it_is_missing_or_garbage_or_of_another_life() {
    let folder = tempfile::tempdir().unwrap();
    let samples = Acceptances::default();
    let store = reopen(folder.path());
    let ids = fill(&store, 0, &samples).await;
    assert_eq!(all(&store).await, ids);
    drop(store);
    let position = r#"{"position":{"segment":99,"offset":0},"blocks":1}"#;
    let damages: [&dyn Fn(&Path); 5] = [
        &|folder| std::fs::remove_file(block(folder)).unwrap(),
        &|folder| std::fs::remove_dir_all(folder.join("search")).unwrap(),
        // The machine went down while it was open: some of it may be missing.
        &|folder| {
            std::fs::remove_file(block(folder)).unwrap();
            std::fs::write(folder.join("search.open"), "another run of the system").unwrap();
        },
        // It knows more than there is.
        &|folder| std::fs::write(folder.join("search/position"), position).unwrap(),
        &|folder| std::fs::write(folder.join("search/position"), "garbage").unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage(folder.path());
        assert_eq!(all(&reopen(folder.path())).await, ids, "after damage {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_without_farewell_loses_nothing() {
    let (folder, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let samples = Acceptances::default();
    let store = reopen(folder.path());
    let mut ids = fill(&store, 0, &samples).await;
    assert_eq!(all(&store).await, ids);
    ids.extend(fill(&store, 20, &samples).await);
    copy_folder(folder.path(), crashed.path());
    assert_eq!(all(&reopen(crashed.path())).await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_somebody_comes_across_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let store = reopen(folder.path());
    let ids = fill(&store, 0, &Acceptances::default()).await;
    assert_eq!(all(&store).await, ids);
    let mut bytes = std::fs::read(block(folder.path())).unwrap();
    bytes[99] ^= 1;
    std::fs::write(block(folder.path()), bytes).unwrap();
    assert!(store.search(&Search::default(), None, 9).await.is_err(), "better no answer than a wrong one");
    assert_eq!(all(&store).await, ids);
}
