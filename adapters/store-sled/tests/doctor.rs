//! One place of a store is hurt, 200 times: it opens, the doctor names what is hurt, nothing else is lost, nothing is silently
//! missing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amtsbote_core::delivery::{Face, Input};
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::port::{
    Accepted, Change, MessageStore, Note, NoteKind, Staged, StoreError, StoredMessage,
};
use amtsbote_core::route::ChannelKind;
use amtsbote_store_sled::{OpenError, SledStore, StoreOptions, examine, open};
use amtsbote_testkit::files::copy_folder;
use amtsbote_testkit::samples::{Acceptances, seal};
use amtsbote_testkit::seeded::SeededEntropy;
use amtsbote_testkit::time::noon;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MESSAGES: usize = 120;
const PLACES: u64 = 200;

async fn apply(store: &SledStore, id: MessageId, input: Input) {
    let before = store.head(id).await.unwrap().unwrap();
    let next = before.apply(input, noon()).unwrap();
    let change = Change { id, expected: before.version, delivery: next.delivery, events: next.events };
    store.commit(vec![change]).await.unwrap();
}

/// Messages in many states, two of them with a payload file, and a hold.
async fn fill(folder: &Path) -> Vec<MessageId> {
    let (store, _) = open(folder, StoreOptions::default()).unwrap();
    let (samples, mut ids) = (Acceptances::default(), Vec::new());
    for n in 0..MESSAGES {
        let big = n % 60 == 7;
        let document = if big {
            (0..1_500_000_usize).map(|at| (at * 7 + n) as u8).collect()
        } else {
            format!("document {n}").repeat(40).into_bytes()
        };
        let channel = if n % 3 == 0 { ChannelKind::Amqp } else { ChannelKind::Mailbox };
        let mut acceptance = samples.routed(&n.to_string(), &document, channel);
        if big {
            // Its attachment came first.
            let message = Arc::make_mut(&mut acceptance.message);
            let (attachment, content) = document.split_at(500_000);
            let part = |bytes: &[u8], offset| Part {
                size: bytes.len() as u64,
                sha256: Sha256Digest::of(bytes),
                offset,
                ..message.parts[0].clone()
            };
            message.parts = vec![part(content, 500_000), part(attachment, 0)];
            let mut writer = store.stage().await.unwrap();
            writer.write(Bytes::from(document)).await.unwrap();
            acceptance.payload = writer.finish().await.unwrap();
            assert!(matches!(acceptance.payload, Staged::File(_)));
        }
        let id = acceptance.message.id;
        assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
        ids.push(id);
        if n % 4 != 0 {
            apply(&store, id, Input::Sealed(seal())).await;
        }
        if n % 3 == 1 && n % 4 != 0 {
            let (lease, account) = (LeaseId::generate(&SeededEntropy::new(1)), "department".parse().unwrap());
            let until = noon() + std::time::Duration::from_secs(60);
            apply(&store, id, Input::Lease { lease, account, until }).await;
            if n % 2 == 0 {
                let account = "department".parse().unwrap();
                apply(&store, id, Input::Acknowledge { lease, account, face: Face::Rest }).await;
            }
        }
    }
    store.commit_with(Vec::new(), vec![Note::keep(NoteKind::Hold, "a hold", &1)]).await.unwrap();
    ids
}

/// What is known of a message, with its document.
type Known = (StoredMessage, Vec<u8>);

async fn read(store: &SledStore, id: MessageId) -> Result<Option<Known>, StoreError> {
    let Some(stored) = store.load(id).await? else { return Ok(None) };
    let mut content = Vec::new();
    if let Some(mut reader) = store.open_part(id, 0, 0).await? {
        while let Some(bytes) = reader.next().await? {
            content.extend_from_slice(&bytes);
        }
    }
    Ok(Some((stored, content)))
}

fn same(one: &Known, other: &Known) -> bool {
    one.0.message == other.0.message
        && one.0.delivery == other.0.delivery
        && one.0.events == other.0.events
        && one.1 == other.1
}

fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        std::fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_file() && std::fs::metadata(path).unwrap().len() > 0);
    found.sort();
    found
}

/// Hurts one place of one file. What was done, in words.
fn hurt(folder: &Path, random: &mut StdRng) -> String {
    let part = ["journal", "journal", "journal", "index", "index", "payload"][random.random_range(0..6)];
    let files = files(folder, part);
    let path = &files[random.random_range(0..files.len())];
    let length = std::fs::metadata(path).unwrap().len();
    let size = [1, 512, 4096][random.random_range(0..3)];
    let place = random.random_range(0..length) / size * size;
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(size.min(length - place)).unwrap()];
    let how = random.random_range(0..3);
    match how {
        0 => {
            file.read_exact_at(&mut bytes, place).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
            file.write_all_at(&bytes, place).unwrap();
        }
        1 => file.write_all_at(&bytes, place).unwrap(),
        _ => file.set_len(place).unwrap(),
    }
    let name = path.strip_prefix(folder).unwrap().display();
    format!("{} {size} bytes at {place} of {name}", ["flipped", "zeroed", "cut"][how])
}

/// Lets the store look for what its index has lost and build it anew.
async fn scrubbed(store: &SledStore) {
    let working = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(5));
        loop {
            every.tick().await;
            if store.status().stopped.is_none() && store.scrub().is_ok_and(|report| report.lost.is_empty()) {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), working).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_damage_is_named_and_nothing_else_is_lost() {
    let sound = tempfile::tempdir().unwrap();
    let ids = fill(sound.path()).await;
    let mut before = BTreeMap::new();
    {
        let (store, _) = open(sound.path(), StoreOptions::default()).unwrap();
        for id in &ids {
            before.insert(*id, read(&store, *id).await.unwrap().unwrap());
        }
    }
    let healthy = examine(sound.path(), &|_, _, _| {}).unwrap();
    assert_eq!(
        (healthy.findings.as_slice(), healthy.messages, healthy.payload_files),
        ([].as_slice(), 120, 2)
    );
    let (mut hurt_messages, mut sound_stores) = (0, 0);
    for seed in 0..PLACES {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(sound.path(), folder.path());
        let what = hurt(folder.path(), &mut StdRng::seed_from_u64(seed));
        let report = examine(folder.path(), &|_, _, _| {}).unwrap();
        let named: BTreeSet<MessageId> =
            report.findings.iter().filter_map(|finding| finding.message).collect();
        let (store, opened) = open(folder.path(), StoreOptions::default()).unwrap();
        scrubbed(&store).await;
        let mut lost = BTreeSet::new();
        for id in &ids {
            match read(&store, *id).await {
                Ok(Some(found)) if same(&found, &before[id]) => {}
                _ => drop(lost.insert(*id)),
            }
        }
        let context =
            || format!("seed {seed}: {what}: lost {lost:?}, opened {opened:?}, {:#?}", report.findings);
        assert!(lost.is_subset(&named), "not named: {}", context());
        let whole = what.starts_with("cut");
        assert!(whole || lost.len() <= 6, "too much: {}", context());
        // What is hurt is not called sound, and what is lost is never missing in silence.
        assert!(lost.is_empty() || !report.findings.is_empty(), "{}", context());
        let kept = store.notes(NoteKind::Hold, None, 9).await.unwrap().len();
        assert!(
            kept == 1 || !report.is_sound() || !report.findings.is_empty(),
            "the hold is gone: {}",
            context()
        );
        let mut listed = store.to_prepare(None, 999).await.unwrap();
        let places = store.mailbox(&"wgb:073150000000".parse().unwrap(), None, 999).await.unwrap();
        listed.extend(places.iter().map(|place| place.id));
        let destination = format!("amqp/{}", "wgb:073150000000").parse().unwrap();
        listed.extend(store.ready(&destination, amtsbote_core::message::Priority::High, 999).await.unwrap());
        for (id, (stored, _)) in &before {
            use amtsbote_core::delivery::Placement::{Available, Prepare, Ready};
            let waits = matches!(stored.delivery.placement(), Prepare | Available { .. } | Ready { .. });
            assert!(!waits || listed.contains(id) || lost.contains(id), "{id} waits nowhere: {}", context());
        }
        hurt_messages += lost.len();
        sound_stores += usize::from(lost.is_empty());
    }
    assert!(hurt_messages > 50 && sound_stores > 50, "{hurt_messages} hurt, {sound_stores} sound");
}

#[tokio::test]
async fn a_store_in_use_or_of_another_format_is_not_examined() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(examine(folder.path(), &|_, _, _| {}), Err(OpenError::Io { .. })), "no store");
    let (store, _) = open(folder.path(), StoreOptions::default()).unwrap();
    assert!(matches!(examine(folder.path(), &|_, _, _| {}), Err(OpenError::InUse(_))));
    drop(store);
    assert!(examine(folder.path(), &|_, _, _| {}).unwrap().findings.is_empty());
    std::fs::write(folder.path().join("format"), "amtsbote-store 9 salt 00000000").unwrap();
    assert!(matches!(examine(folder.path(), &|_, _, _| {}), Err(OpenError::Format { .. })));
}
