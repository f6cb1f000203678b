//! What the store does about torn tails, flipped bytes, and indexes that are missing, old or garbage.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use amtsbote_core::delivery::{Delivery, Input};
use amtsbote_core::id::MessageId;
use amtsbote_core::port::{Accepted, Change, MessageStore, Staged, StoreError};
use amtsbote_core::route::ChannelKind;
use amtsbote_store_sled::{OpenError, OpenReport, SledStore, StoreOptions, open};
use amtsbote_testkit::files::copy_folder;
use amtsbote_testkit::samples::{Acceptances, seal};
use amtsbote_testkit::time::noon;

fn reopen(folder: &Path) -> (SledStore, OpenReport) {
    open(folder, StoreOptions::default()).unwrap()
}

fn journal(folder: &Path) -> PathBuf {
    let mut segments: Vec<_> =
        std::fs::read_dir(folder.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    segments.pop().unwrap()
}

async fn fill(store: &SledStore, count: usize) -> Vec<MessageId> {
    let samples = Acceptances::default();
    let mut ids = Vec::new();
    for n in 0..count {
        let acceptance =
            samples.routed(&format!("{n}"), format!("document {n}").as_bytes(), ChannelKind::Mailbox);
        ids.push(acceptance.message.id);
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
    }
    ids
}

async fn apply(store: &SledStore, id: MessageId, input: Input) -> Delivery {
    let before = store.head(id).await.unwrap().unwrap();
    let next = before.apply(input, noon()).unwrap();
    let change =
        Change { id, expected: before.version, delivery: next.delivery.clone(), events: next.events };
    store.commit(vec![change]).await.unwrap();
    next.delivery
}

#[tokio::test]
async fn what_was_committed_survives_a_death_without_farewell() {
    let (folder, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = reopen(folder.path());
    let ids = fill(&store, 50).await;
    for id in &ids[..20] {
        apply(&store, *id, Input::Sealed(seal())).await;
    }
    copy_folder(folder.path(), crashed.path());
    let (after, report) = reopen(crashed.path());
    assert_eq!((report.damaged.len(), report.cut, report.lost.len()), (0, 0, 0));
    for (n, id) in ids.iter().enumerate() {
        let state = after.head(*id).await.unwrap().unwrap();
        assert_eq!(state.sealed, n < 20);
    }
    assert_eq!(after.to_prepare(None, 99).await.unwrap().len(), 30);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let ids = fill(&reopen(folder.path()).0, 5).await;
    let path = journal(folder.path());
    let length = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0x41; 77], length).unwrap();
    let (store, report) = reopen(folder.path());
    assert_eq!((report.cut, report.damaged.len()), (77, 0));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    assert_eq!(std::fs::read_dir(folder.path().join("quarantine")).unwrap().count(), 1);
    assert!(store.load(ids[4]).await.unwrap().is_some());
    assert_eq!(fill_more(&store).await, Accepted::First);
}

async fn fill_more(store: &SledStore) -> Accepted {
    let samples = Acceptances::default();
    // Samples repeat their ids; go past those that are taken.
    for _ in 0..50 {
        samples.unused_id();
    }
    store.accept(samples.routed("more", b"more", ChannelKind::Mailbox)).await.unwrap()
}

#[tokio::test]
async fn a_flipped_byte_hurts_one_message_only_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ids = fill(&reopen(folder.path()).0, 20).await;
    let path = journal(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    let place = bytes
        .windows(11)
        .position(|window| window == b"document 7\x41" || window.starts_with(b"document 7"))
        .unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"D", place as u64).unwrap();

    // The index still knows the message: its damage shows when it is read.
    let (store, _) = reopen(folder.path());
    assert!(matches!(store.load(ids[7]).await, Err(StoreError::Damaged { id, .. }) if id == ids[7]));
    assert_eq!(store.status().quarantined, 1);
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| *n != 7) {
        assert!(store.load(*id).await.unwrap().is_some(), "message {n}");
    }
    drop(store);

    // Rebuilt from the journal alone: the frame is put aside, everything else is there.
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (store, report) = reopen(folder.path());
    assert_eq!(report.rebuilt.as_deref(), Some("the index is missing"));
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(store.load(ids[7]).await.unwrap().is_none());
    assert_eq!(store.to_prepare(None, 99).await.unwrap().len(), 19);
    let aside: Vec<_> = std::fs::read_dir(folder.path().join("quarantine")).unwrap().collect();
    assert_eq!(aside.len(), 1);
}

#[tokio::test]
async fn a_garbage_index_is_put_aside_and_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let ids = fill(&reopen(folder.path()).0, 30).await;
    for garbage in [vec![0_u8; 4096], vec![0xff; 64], Vec::new()] {
        std::fs::write(folder.path().join("index/db"), &garbage).unwrap();
        std::fs::write(folder.path().join("index/conf"), &garbage).unwrap();
        let (store, report) = reopen(folder.path());
        assert!(report.rebuilt.is_some(), "{report:?}");
        for id in &ids {
            assert!(store.load(*id).await.unwrap().is_some());
        }
        assert_eq!(store.to_prepare(None, 99).await.unwrap().len(), 30);
    }
    assert_eq!(
        std::fs::read_dir(folder.path().join("quarantine")).unwrap().count(),
        1,
        "the last one is kept"
    );
}

#[tokio::test]
async fn an_index_older_than_its_checkpoint_is_rebuilt() {
    let (folder, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(&reopen(folder.path()).0, 5).await;
    copy_folder(&folder.path().join("index"), old.path());
    let (store, _) = reopen(folder.path());
    assert_eq!(fill_more(&store).await, Accepted::First);
    drop(store);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    std::fs::create_dir(folder.path().join("index")).unwrap();
    copy_folder(old.path(), &folder.path().join("index"));
    let (store, report) = reopen(folder.path());
    assert_eq!(report.rebuilt.as_deref(), Some("the index is older than the last checkpoint"));
    assert_eq!(store.to_prepare(None, 99).await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_second_process_and_a_future_format_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = reopen(folder.path());
    assert!(matches!(open(folder.path(), StoreOptions::default()), Err(OpenError::InUse(_))));
    drop(first);
    std::fs::write(folder.path().join("format"), "amtsbote-store 9\n").unwrap();
    let refused = open(folder.path(), StoreOptions::default()).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, OpenError::Format { found, .. } if found == "amtsbote-store 9"), "{refused}");
}

#[tokio::test]
async fn without_an_intact_format_nothing_is_taken_for_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let ids = fill(&store, 3).await;
    drop(store);
    let (format, journal) = (folder.path().join("format"), journal(folder.path()));
    let (sound, before) = (std::fs::read_to_string(&format).unwrap(), std::fs::read(&journal).unwrap());
    let refuse = |expected: &str| {
        let refused = open(folder.path(), StoreOptions::default()).map(|_| ()).unwrap_err();
        assert!(matches!(refused, OpenError::FormatHurt { problem, .. } if problem == expected), "{refused}");
        assert_eq!(std::fs::read(&journal).unwrap(), before);
    };
    let digit = sound.find("salt ").unwrap() + 5;
    let other = if sound.as_bytes()[digit] == b'0' { "1" } else { "0" };
    let mut hurt = sound.clone();
    hurt.replace_range(digit..=digit, other);
    std::fs::write(&format, &hurt).unwrap();
    refuse("is damaged");
    std::fs::write(&format, &sound[..digit + 4]).unwrap();
    refuse("is damaged");
    std::fs::remove_file(&format).unwrap();
    refuse("is missing");
    std::fs::write(&format, &sound).unwrap();
    let (store, _) = reopen(folder.path());
    assert_eq!(store.to_prepare(None, 99).await.unwrap(), ids);
}

/// Accepts messages until the next segment of the journal is begun.
async fn fill_one_segment(store: &SledStore, samples: &Acceptances, folder: &Path) -> Vec<MessageId> {
    let segments = || std::fs::read_dir(folder.join("journal")).unwrap().count();
    let (before, mut ids) = (segments(), Vec::new());
    while segments() == before {
        let name = samples.unused_id().to_string();
        let acceptance = samples.routed(&name, &vec![7_u8; 900 << 10], ChannelKind::Mailbox);
        ids.push(acceptance.message.id);
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
    }
    ids
}

async fn finish(store: &SledStore, ids: &[MessageId]) {
    for id in ids {
        apply(store, *id, Input::Cancel { account: "portal".parse().unwrap() }).await;
        apply(store, *id, Input::Strip).await;
    }
}

#[tokio::test]
async fn what_was_forgotten_does_not_come_back_from_a_segment_that_had_to_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let samples = Acceptances::default();
    let segment = |number: u32| folder.path().join(format!("journal/{number:08}.journal"));
    // Most of the first segment is needed for ever. One of its messages has a change in the second.
    let first = fill_one_segment(&store, &samples, folder.path()).await;
    let one = first[0];
    finish(&store, &[one]).await;
    let second = fill_one_segment(&store, &samples, folder.path()).await;
    finish(&store, &second).await;
    store.reclaim(noon()).await.unwrap();
    assert!(segment(1).exists() && !segment(2).exists(), "the message was written again behind the second");
    store.forget(vec![one]).await.unwrap();
    // What says that it was forgotten lies in the third, which goes as well.
    let third = fill_one_segment(&store, &samples, folder.path()).await;
    finish(&store, &third).await;
    store.reclaim(noon()).await.unwrap();
    assert!(segment(1).exists() && !segment(3).exists());
    drop(store);
    for rebuild in [false, true] {
        if rebuild {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        let (store, _) = reopen(folder.path());
        assert_eq!(store.scrub().unwrap().lost, Vec::<String>::new());
        assert!(store.load(one).await.unwrap().is_none());
        assert!(store.load(first[1]).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn payloads_go_from_the_journal_however_much_beside_them_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let samples = Acceptances::default();
    let secret = |n: u32| format!("<antrag><name>Mustermann {n}</name></antrag>").into_bytes();
    let stands = |n: u32| {
        let files = std::fs::read_dir(folder.path().join("journal")).unwrap();
        let needle = secret(n);
        files.into_iter().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    let accept = async |n: u32| {
        let acceptance = samples.routed(&format!("small-{n}"), &secret(n), ChannelKind::Mailbox);
        let id = acceptance.message.id;
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
        id
    };
    let (first, kept) = (accept(1).await, accept(2).await);
    fill_one_segment(&store, &samples, folder.path()).await;
    let open = accept(3).await;
    finish(&store, &[first, open]).await;
    store.reclaim(noon()).await.unwrap();
    assert!(stands(1) && stands(3), "not worth it yet");
    drop(store);
    // What has to go is known after a restart, too.
    let (store, _) = reopen(folder.path());
    store.reclaim(noon().checked_add(jiff::SignedDuration::from_hours(24)).unwrap()).await.unwrap();
    assert!(!stands(1) && !stands(3));
    assert!(stands(2));
    for id in [first, kept, open] {
        assert!(store.load(id).await.unwrap().is_some());
    }
}

/// Enough messages for two closed segments and an open one.
async fn fill_segments(store: &SledStore, document: &[u8]) -> Vec<MessageId> {
    let samples = Acceptances::default();
    let mut ids = Vec::new();
    for n in 0..44 {
        let acceptance = samples.routed(&format!("{n}"), document, ChannelKind::Mailbox);
        ids.push(acceptance.message.id);
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
        if n == 1 {
            apply(store, ids[0], Input::Sealed(seal())).await;
        }
    }
    ids
}

fn journal_size(folder: &Path) -> u64 {
    let sizes = std::fs::read_dir(folder.join("journal")).unwrap();
    sizes.map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>()
}

#[tokio::test]
async fn damaged_messages_stop_neither_retention_nor_the_rest_of_reclaiming() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let ids = fill_segments(&store, &vec![7_u8; 900 << 10]).await;
    let segment = |number: u32| folder.path().join(format!("journal/{number:08}.journal"));
    let spoil = |number| {
        OpenOptions::new().write(true).open(segment(number)).unwrap().write_all_at(b"x", 100_000).unwrap();
    };
    // The first message of the first segment has a change in the same segment, the first of the second has none.
    spoil(1);
    spoil(2);
    for id in &ids {
        apply(&store, *id, Input::Cancel { account: "portal".parse().unwrap() }).await;
        apply(&store, *id, Input::Strip).await;
    }
    store.reclaim(noon()).await.unwrap();
    assert!(segment(1).exists(), "what is needed and cannot be read stays");
    assert!(!segment(2).exists());
    let aside = std::fs::read_dir(folder.path().join("quarantine")).unwrap();
    let mut aside: Vec<_> = aside.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    aside.sort();
    assert_eq!(aside, ["00000001-0.frame", "00000002-0.frame"]);
    assert!(matches!(store.load(ids[0]).await, Err(StoreError::Damaged { .. })));
    assert!(store.load(ids[1]).await.unwrap().is_some());
    let reports = store.status().quarantined;
    store.reclaim(noon()).await.unwrap();
    assert_eq!(store.status().quarantined, reports, "it is reported once");
    // Forgetting needs no record that can be read.
    store.forget(ids.clone()).await.unwrap();
    assert!(store.load(ids[0]).await.unwrap().is_none());
    drop(store);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (store, report) = reopen(folder.path());
    assert_eq!((report.damaged.len(), report.lost.len()), (1, 0));
    assert!(store.load(ids[1]).await.unwrap().is_none(), "forgotten messages stay forgotten");
}

#[tokio::test]
async fn a_forgotten_key_belongs_to_the_younger_message() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let ids = fill(&store, 3).await;
    apply(&store, ids[1], Input::Cancel { account: "portal".parse().unwrap() }).await;
    store.forget(vec![ids[1]]).await.unwrap();
    let samples = Acceptances::default();
    for _ in 0..50 {
        samples.unused_id();
    }
    let again = || samples.routed("1", b"again", ChannelKind::Mailbox);
    assert_eq!(store.accept(again()).await.unwrap(), Accepted::First);
    store.forget(vec![ids[1]]).await.unwrap();
    assert!(matches!(store.accept(again()).await.unwrap(), Accepted::Seen(_)));
    drop(store);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (store, _) = reopen(folder.path());
    assert!(matches!(store.accept(again()).await.unwrap(), Accepted::Seen(_)));
}

/// Stages a payload that is too large to travel in the journal.
async fn large(store: &SledStore, bytes: usize) -> Staged {
    let mut writer = store.stage().await.unwrap();
    for _ in 0..bytes / 65_536 {
        writer.write(vec![5_u8; 65_536].into()).await.unwrap();
    }
    writer.finish().await.unwrap()
}

fn payload_files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder.join("payload")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_damaged_large_payload_never_looks_complete() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let document = vec![5_u8; 3 << 20];
    let mut acceptance = Acceptances::default().routed("large", &document, ChannelKind::Mailbox);
    acceptance.payload = large(&store, document.len()).await;
    let id = acceptance.message.id;
    assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
    let [file] = payload_files(folder.path()).try_into().unwrap();
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"x", 77).unwrap();
    let mut reader = store.open_part(id, 0, 0).await.unwrap().unwrap();
    let mut received = 0;
    let error = loop {
        match reader.next().await {
            Ok(piece) => received += piece.unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Damaged { .. }) && received < document.len());
}

#[tokio::test]
async fn a_payload_file_without_a_message_is_put_aside_and_refused_ones_leave_none() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let samples = Acceptances::default();
    let mut first = samples.routed("1", &vec![5_u8; 2 << 20], ChannelKind::Mailbox);
    first.payload = large(&store, 2 << 20).await;
    assert_eq!(store.accept(first).await.unwrap(), Accepted::First);
    let mut again = samples.routed("1", &vec![5_u8; 2 << 20], ChannelKind::Mailbox);
    again.payload = large(&store, 2 << 20).await;
    assert!(matches!(store.accept(again).await.unwrap(), Accepted::Seen(_)));
    assert_eq!(payload_files(folder.path()).len(), 1);
    assert_eq!(std::fs::read_dir(folder.path().join("staging")).unwrap().count(), 0);
    drop(store);
    let stray = format!("{}.payload", samples.unused_id().uuid().as_hyphenated());
    std::fs::write(folder.path().join("payload").join(&stray), b"unknown").unwrap();
    let (store, _) = reopen(folder.path());
    store.scrub().unwrap();
    assert_eq!(payload_files(folder.path()).len(), 1);
    assert_eq!(std::fs::read(folder.path().join("quarantine").join(&stray)).unwrap(), b"unknown");
}

#[tokio::test]
async fn a_caller_that_hangs_up_during_accept_leaves_a_message_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let mut acceptance = Acceptances::default().routed("1", &vec![5_u8; 2 << 20], ChannelKind::Mailbox);
    acceptance.payload = large(&store, 2 << 20).await;
    let id = acceptance.message.id;
    {
        let mut accepting = store.accept(acceptance);
        assert!(futures::poll!(&mut accepting).is_pending());
    }
    // Whatever follows is answered behind the abandoned one.
    while store.head(id).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(payload_files(folder.path()).len(), 1);
}

#[tokio::test]
async fn space_returns_when_messages_are_done_and_nothing_else_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = reopen(folder.path());
    let document = vec![7_u8; 900 << 10];
    let ids = fill_segments(&store, &document).await;
    let size = || journal_size(folder.path());
    assert!(size() > 34 << 20);
    assert_eq!(store.status().journal_bytes, size());
    let kept: Vec<MessageId> = ids.iter().copied().step_by(11).collect();
    for id in ids.iter().filter(|id| !kept.contains(id)) {
        apply(&store, *id, Input::Cancel { account: "portal".parse().unwrap() }).await;
        apply(&store, *id, Input::Strip).await;
    }
    store.forget(ids[1..6].to_vec()).await.unwrap();
    store.reclaim(noon()).await.unwrap();
    assert!(size() < 14 << 20, "{}", size());
    assert_eq!(store.status().journal_bytes, size());
    drop(store);
    // Also when everything is rebuilt from what is left of the journal.
    for rebuild in [false, true] {
        if rebuild {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        let (store, report) = reopen(folder.path());
        assert_eq!((report.damaged.len(), report.lost.len()), (0, 0));
        for (n, id) in ids.iter().enumerate() {
            let found = store.load(*id).await.unwrap();
            assert_eq!(found.is_none(), (1..6).contains(&n), "message {n}");
            if kept.contains(id) {
                let mut reader = store.open_part(*id, 0, 0).await.unwrap().unwrap();
                assert!(reader.next().await.unwrap().unwrap() == document);
            }
        }
        // The first one was sealed already.
        assert_eq!(store.to_prepare(None, 99).await.unwrap().len(), kept.len() - 1);
    }
}
