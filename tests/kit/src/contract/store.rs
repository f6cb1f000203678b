//! Contract of `MessageStore`. A store is opened on a folder, so that it can be opened again after a "crash".

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::delivery::{
    DeadReason, Delivery, Face, FailureClass, FailureReason, Input, Order, Placement, State, Transition,
};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::{LeaseId, MessageId};
use amtsbote_core::key::PartyId;
use amtsbote_core::message::{ExternalId, IdScheme, PartNumber, Priority};
use amtsbote_core::port::{
    Acceptance, Accepted, Change, CommitError, DeadCursor, MessageStore, Note, NoteKind, StoreError,
    SubmissionFilter, Timer,
};
use amtsbote_core::route::{ChannelKind, Destination};
use bytes::Bytes;

use crate::samples::{Acceptances, OFFICE, PORTAL, intake_key, metadata, seal};
use crate::seeded::SeededEntropy;
use crate::time::noon;

/// Opens a store on a folder. Opened again on the same folder it has the same content.
pub type StoreFactory<'a> = &'a dyn Fn(&Path) -> Arc<dyn MessageStore>;

/// Runs the whole suite for a store that keeps its content in a folder.
pub async fn crash_safe(open: StoreFactory<'_>) {
    in_memory_rules(open).await;
    everything_survives_reopening(open).await;
}

/// The rules that need no reopening; also for stores that keep nothing.
pub async fn in_memory_rules(open: StoreFactory<'_>) {
    let run = |name: &str| {
        let folder = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        let store = open(folder.path());
        (folder, store)
    };
    let (_folder, store) = run("accept");
    accepted_messages_are_readable(store.as_ref()).await;
    let (_folder, store) = run("payload");
    payloads_of_any_size_come_back(store.as_ref()).await;
    let (_folder, store) = run("duplicate");
    a_key_is_taken_once(store).await;
    let (_folder, store) = run("ids");
    an_id_is_taken_once(store).await;
    let (_folder, store) = run("commit");
    commits_compare_versions_and_are_atomic(store.as_ref()).await;
    let (_folder, store) = run("queues");
    queues_follow_the_placement(store.as_ref()).await;
    let (_folder, store) = run("alarms");
    alarms_are_timers_as_long_as_nobody_works_on_the_message(store.as_ref()).await;
    let (_folder, store) = run("mailbox");
    a_mailbox_has_its_order(store.as_ref()).await;
    let (_folder, store) = run("external");
    messages_are_found_by_ids_of_others(store.as_ref()).await;
    let (_folder, store) = run("share");
    destinations_are_listed_once_and_have_their_order(store.as_ref()).await;
    let (_folder, store) = run("list");
    submissions_are_listed_newest_first(store.as_ref()).await;
    let (_folder, store) = run("line");
    only_the_first_in_line_is_listed(store.as_ref()).await;
    let (_folder, store) = run("held");
    holds_and_the_dead_have_lists_of_their_own(store.as_ref()).await;
    let (_folder, store) = run("search");
    super::search::messages_are_found_by_what_they_are(store.as_ref()).await;
    let (_folder, store) = run("pages");
    super::search::what_is_found_comes_in_pages(store.as_ref()).await;
    let (_folder, store) = run("notes");
    notes_are_committed_with_changes(store.as_ref()).await;
    let (_folder, store) = run("retention");
    retention_removes_payload_then_record(store.as_ref()).await;
}

pub(super) async fn accept(store: &dyn MessageStore, acceptance: Acceptance) -> MessageId {
    let id = acceptance.message.id;
    assert_eq!(store.accept(acceptance).await.unwrap(), Accepted::First);
    id
}

pub(super) async fn apply(store: &dyn MessageStore, id: MessageId, input: Input, now: Timestamp) -> Delivery {
    let before = store.head(id).await.unwrap().unwrap();
    let Transition { delivery, events } = before.apply(input, now).unwrap();
    let change = Change { id, expected: before.version, delivery: delivery.clone(), events };
    store.commit(vec![change]).await.unwrap();
    delivery
}

async fn read(store: &dyn MessageStore, id: MessageId, part: PartNumber, offset: u64) -> Vec<u8> {
    let mut reader = store.open_part(id, part, offset).await.unwrap().unwrap();
    let mut content = Vec::new();
    while let Some(bytes) = reader.next().await.unwrap() {
        content.extend_from_slice(&bytes);
    }
    content
}

async fn mailbox(store: &dyn MessageStore, mailbox: &PartyId, limit: usize) -> Vec<MessageId> {
    store.mailbox(mailbox, None, limit).await.unwrap().iter().map(|place| place.id).collect()
}

fn lease(token: u64, until: Timestamp) -> Input {
    let lease = LeaseId::generate(&SeededEntropy::new(token));
    Input::Lease { lease, account: "department".parse().unwrap(), until }
}

fn acknowledge(token: u64) -> Input {
    let lease = LeaseId::generate(&SeededEntropy::new(token));
    Input::Acknowledge { lease, account: "department".parse().unwrap(), face: Face::Rest }
}

pub(super) fn later(seconds: i64) -> Timestamp {
    noon().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap()
}

async fn accepted_messages_are_readable(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let acceptance = samples.routed("k", b"<antrag/>", ChannelKind::Mailbox);
    let (message, events) = (Arc::clone(&acceptance.message), acceptance.events.clone());
    let id = accept(store, acceptance).await;
    let loaded = store.load(id).await.unwrap().unwrap();
    assert_eq!((loaded.message, &loaded.events), (message, &events));
    assert_eq!(store.head(id).await.unwrap(), Some(loaded.delivery));
    let unknown = samples.unused_id();
    assert!(store.load(unknown).await.unwrap().is_none());
    assert_eq!(store.head(unknown).await.unwrap(), None);
    assert!(store.open_part(unknown, 0, 0).await.unwrap().is_none());
    assert!(store.open_part(id, 1, 0).await.unwrap().is_none());
}

async fn payloads_of_any_size_come_back(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    for size in [0_usize, 1, 4095, 70_000, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let document: Vec<u8> = (0..size).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
        let mut acceptance = samples.routed(&format!("size-{size}"), &document, ChannelKind::Mailbox);
        let mut writer = store.stage().await.unwrap();
        for piece in document.chunks(60_000) {
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        acceptance.payload = writer.finish().await.unwrap();
        let id = accept(store, acceptance).await;
        assert!(read(store, id, 0, 0).await == document, "size {size}");
        let offset = size / 3;
        assert!(read(store, id, 0, offset as u64).await == document[offset..], "size {size} from {offset}");
    }
    let mut abandoned = store.stage().await.unwrap();
    abandoned.write(Bytes::from(vec![0; 3 << 20])).await.unwrap();
    drop(abandoned);
}

async fn a_key_is_taken_once(store: Arc<dyn MessageStore>) {
    let samples = Acceptances::default();
    let first = samples.routed("same", b"one", ChannelKind::Mailbox);
    let (id, content, answer) = (first.message.id, first.message.content, first.answer.clone());
    assert!(store.intake(&intake_key("same")).await.unwrap().is_none());
    accept(store.as_ref(), first).await;
    let again = store.accept(samples.routed("same", b"two", ChannelKind::Mailbox)).await.unwrap();
    let Accepted::Seen(earlier) = again else { panic!("taken twice") };
    assert_eq!((earlier.id, earlier.content, earlier.answer.clone()), (id, content, answer));
    assert_eq!(store.intake(&intake_key("same")).await.unwrap(), Some(earlier));
    let mut other = samples.routed("same", b"one", ChannelKind::Mailbox);
    other.key.account = "somebody-else".parse().unwrap();
    accept(store.as_ref(), other).await;

    // Many at once: one is first, all others see exactly that one.
    let racers: Vec<_> = (0..16)
        .map(|_| {
            let acceptance = samples.routed("race", b"x", ChannelKind::Mailbox);
            let store = Arc::clone(&store);
            tokio::spawn(async move { (acceptance.message.id, store.accept(acceptance).await.unwrap()) })
        })
        .collect();
    let (mut winners, mut seen) = (Vec::new(), Vec::new());
    for racer in racers {
        match racer.await.unwrap() {
            (id, Accepted::First) => winners.push(id),
            (_, Accepted::Seen(earlier)) => seen.push(earlier.id),
        }
    }
    assert_eq!(winners.len(), 1);
    assert!(seen.iter().all(|id| *id == winners[0]));
}

/// Ids that were given out before can come twice, at once and with other content.
async fn an_id_is_taken_once(store: Arc<dyn MessageStore>) {
    let samples = Acceptances::default();
    for size in [10_usize, 2 << 20] {
        let first = samples.routed(&format!("id-{size}"), b"", ChannelKind::Mailbox);
        let id = first.message.id;
        let racers: Vec<_> = (0..12_u8)
            .map(|n| {
                let document = vec![n; size];
                let key = if n % 2 == 0 { format!("id-{size}") } else { format!("id-{size}-{n}") };
                let mut acceptance = samples.routed(&key, &document, ChannelKind::Mailbox);
                Arc::make_mut(&mut acceptance.message).id = id;
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let mut writer = store.stage().await.unwrap();
                    writer.write(Bytes::from(document)).await.unwrap();
                    acceptance.payload = writer.finish().await.unwrap();
                    (n, acceptance.message.content, store.accept(acceptance).await.unwrap())
                })
            })
            .collect();
        let (mut winners, mut seen) = (Vec::new(), Vec::new());
        for racer in racers {
            match racer.await.unwrap() {
                (n, content, Accepted::First) => winners.push((n, content)),
                (_, _, Accepted::Seen(earlier)) => seen.push((earlier.id, earlier.content)),
            }
        }
        assert_eq!(winners.len(), 1);
        let (n, content) = winners[0];
        assert!(seen.iter().all(|one| *one == (id, content)));
        assert!(read(store.as_ref(), id, 0, 0).await == vec![n; size]);
    }
}

async fn commits_compare_versions_and_are_atomic(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let one = accept(store, samples.routed("1", b"1", ChannelKind::Mailbox)).await;
    let two = accept(store, samples.routed("2", b"2", ChannelKind::Mailbox)).await;
    let mut changes = Vec::new();
    for id in [one, two] {
        let before = store.head(id).await.unwrap().unwrap();
        let next = before.apply(Input::Sealed(seal()), noon()).unwrap();
        changes.push(Change { id, expected: before.version, delivery: next.delivery, events: next.events });
    }
    let mut stale = changes.clone();
    stale[1].expected += 1;
    assert!(matches!(store.commit(stale).await, Err(CommitError::Stale(id)) if id == two));
    assert_eq!(store.head(one).await.unwrap().unwrap().version, 1, "nothing of a stale batch is taken");
    store.commit(changes.clone()).await.unwrap();
    assert!(matches!(store.commit(changes).await, Err(CommitError::Stale(_))), "taken once");
    let loaded = store.load(one).await.unwrap().unwrap();
    assert_eq!(loaded.events.len(), 4, "received, routed, sealed, delivered");
    assert_eq!(loaded.seal(), Some(&seal()));
    let mut nobody = samples.routed("3", b"3", ChannelKind::Mailbox);
    nobody.delivery.version = 2;
    let change = Change { id: nobody.message.id, expected: 1, delivery: nobody.delivery, events: Vec::new() };
    assert!(matches!(store.commit(vec![change]).await, Err(CommitError::Stale(_))));
}

async fn queues_follow_the_placement(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let push = accept(store, samples.routed("push", b"1", ChannelKind::Amqp)).await;
    let pull = accept(store, samples.routed("pull", b"2", ChannelKind::Mailbox)).await;
    assert_eq!(store.to_prepare(None, 10).await.unwrap(), [push, pull]);
    assert_eq!(store.to_prepare(Some(push), 10).await.unwrap(), [pull]);
    assert_eq!(store.to_prepare(None, 1).await.unwrap(), [push]);

    apply(store, push, Input::Sealed(seal()), noon()).await;
    apply(store, pull, Input::Sealed(seal()), noon()).await;
    assert!(store.to_prepare(None, 10).await.unwrap().is_empty());
    let [destination] = store.waiting_destinations(None, 10).await.unwrap().try_into().unwrap();
    assert_eq!(destination.channel, ChannelKind::Amqp);
    assert_eq!(store.ready(&destination, Priority::High, 10).await.unwrap(), [push]);

    apply(store, push, Input::StartAttempt { until: later(60) }, noon()).await;
    apply(store, pull, lease(1, later(30)), noon()).await;
    assert!(store.waiting_destinations(None, 10).await.unwrap().is_empty());
    assert!(store.ready(&destination, Priority::High, 10).await.unwrap().is_empty());
    let office: PartyId = OFFICE.parse().unwrap();
    assert!(mailbox(store, &office, 10).await.is_empty());
    let timers = store.timers(10).await.unwrap();
    assert_eq!(timers.iter().map(|timer| timer.due).collect::<Vec<_>>(), [later(30), later(60)]);
    assert_eq!(store.leased(LeaseId::generate(&SeededEntropy::new(1))).await.unwrap(), [pull]);

    apply(store, pull, Input::Due, later(30)).await;
    assert_eq!(mailbox(store, &office, 10).await, [pull]);
    assert!(store.leased(LeaseId::generate(&SeededEntropy::new(1))).await.unwrap().is_empty());
    assert_eq!(store.timers(10).await.unwrap(), [Timer { id: push, due: later(60) }]);
}

async fn alarms_are_timers_as_long_as_nobody_works_on_the_message(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let route = crate::samples::route(OFFICE, ChannelKind::Mailbox);
    let mut metadata = metadata();
    metadata.expires_at = Some(later(100));
    let id = accept(store, samples.make("expires", metadata, b"x", Some(&route))).await;
    let alarm = [Timer { id, due: later(100) }];
    assert_eq!(store.timers(10).await.unwrap(), alarm);
    apply(store, id, Input::Sealed(seal()), noon()).await;
    assert_eq!(store.timers(10).await.unwrap(), alarm);
    apply(store, id, lease(1, later(30)), noon()).await;
    assert_eq!(store.timers(10).await.unwrap(), [Timer { id, due: later(30) }]);
    apply(store, id, Input::Due, later(30)).await;
    assert_eq!(store.timers(10).await.unwrap(), alarm);
    apply(store, id, Input::Due, later(100)).await;
    assert_eq!(store.timers(10).await.unwrap(), alarm, "the sender has to be told");
    apply(store, id, Input::Notified { notice: None }, later(101)).await;
    assert!(store.timers(10).await.unwrap().is_empty());
    assert!(mailbox(store, &OFFICE.parse().unwrap(), 10).await.is_empty());
}

async fn messages_are_found_by_ids_of_others(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let mut ids = Vec::new();
    for (key, scheme, value) in [
        ("one", IdScheme::Xta, "urn:de:xta:messageid:Amt:1"),
        ("two", IdScheme::Xta, "urn:de:xta:messageid:amt:1"),
        ("three", IdScheme::Osci, "urn:de:xta:messageid:amt:1"),
        ("four", IdScheme::Client, "urn:de:xta:messageid:amt:1"),
    ] {
        let mut acceptance = samples.routed(key, b"x", ChannelKind::Mailbox);
        let mut message = acceptance.message.as_ref().clone();
        message.external_ids = vec![ExternalId { scheme, value: value.to_owned() }];
        acceptance.message = Arc::new(message);
        ids.push(accept(store, acceptance).await);
    }
    let found = async |scheme, value, limit| store.by_external_id(scheme, value, limit).await.unwrap();
    assert_eq!(found(IdScheme::Xta, "URN:de:xta:messageid:AMT:1", 9).await, ids[..2]);
    assert_eq!(found(IdScheme::Xta, "urn:de:xta:messageid:amt:1", 1).await, ids[..1]);
    assert_eq!(found(IdScheme::Osci, "urn:de:xta:messageid:amt:1", 9).await, ids[2..3]);
    assert!(found(IdScheme::Client, "urn:de:xta:messageid:amt:1", 9).await.is_empty());
    assert!(found(IdScheme::Xta, "urn:de:xta:messageid:amt:", 9).await.is_empty());
    apply(store, ids[0], Input::Cancel { account: PORTAL.parse().unwrap() }, noon()).await;
    assert_eq!(found(IdScheme::Xta, "urn:de:xta:messageid:amt:1", 9).await, ids[..2], "still known");
    store.forget(vec![ids[0]]).await.unwrap();
    assert_eq!(found(IdScheme::Xta, "urn:de:xta:messageid:amt:1", 9).await, ids[1..2], "forgotten");
}

async fn a_mailbox_has_its_order(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let route = crate::samples::route(OFFICE, ChannelKind::Mailbox);
    let mut expected = Vec::new();
    for (key, priority, deadline, place) in [
        ("late", "normal", None, 3),
        ("soon", "normal", Some(later(3600)), 2),
        ("high", "high", None, 1),
        ("urgent", "high", Some(later(60)), 0),
        ("last", "normal", None, 4),
    ] {
        let mut metadata = metadata();
        metadata.priority = serde_json::from_value(priority.into()).unwrap();
        metadata.deadline = deadline;
        let id = accept(store, samples.make(key, metadata, b"x", Some(&route))).await;
        apply(store, id, Input::Sealed(seal()), noon()).await;
        expected.push((place, id));
    }
    expected.sort();
    let expected: Vec<MessageId> = expected.into_iter().map(|(_, id)| id).collect();
    let office: PartyId = OFFICE.parse().unwrap();
    assert_eq!(mailbox(store, &office, 10).await, expected);
    assert_eq!(mailbox(store, &office, 2).await, expected[..2]);
    let (mut after, mut paged) = (None, Vec::new());
    loop {
        let page = store.mailbox(&office, after, 2).await.unwrap();
        paged.extend(page.iter().map(|place| place.id));
        after = page.last().copied();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, expected, "page by page");
    let take = Input::Take { account: "department".parse().unwrap(), face: Face::Xta, until: later(300) };
    apply(store, expected[0], take, noon()).await;
    assert_eq!(mailbox(store, &office, 10).await, expected, "taken without a lease");
    let close = Input::Close { account: "department".parse().unwrap(), face: Face::Xta };
    apply(store, expected[0], close, noon()).await;
    assert_eq!(mailbox(store, &office, 10).await, expected[1..], "acknowledged");
    assert!(mailbox(store, &"wgb:07315000000".parse().unwrap(), 10).await.is_empty(), "a prefix is no key");
}

async fn destinations_are_listed_once_and_have_their_order(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let mut queues: BTreeMap<Destination, Vec<(u8, MessageId)>> = BTreeMap::new();
    for n in 0..30_u8 {
        let organization = format!("wgb:00000000000{}", n % 5);
        let route = crate::samples::route(&organization, ChannelKind::Amqp);
        let mut metadata = metadata();
        let high = n % 3 == 0;
        metadata.priority = if high { Priority::High } else { Priority::Normal };
        let id = accept(store, samples.make(&format!("{n}"), metadata, b"x", Some(&route))).await;
        apply(store, id, Input::Sealed(seal()), noon()).await;
        queues.entry(route.destination).or_default().push((u8::from(!high), id));
    }
    let mut listed = Vec::new();
    while let page = store.waiting_destinations(listed.last(), 2).await.unwrap()
        && !page.is_empty()
    {
        assert!(page.len() <= 2);
        listed.extend(page);
    }
    assert_eq!(listed.len(), 5);
    for destination in listed {
        let mut queue = queues.remove(&destination).unwrap();
        queue.sort();
        let ids = |from: usize| queue[from..].iter().map(|(_, id)| *id).collect::<Vec<_>>();
        let high = queue.iter().filter(|(class, _)| *class == 0).count();
        assert_eq!(store.ready(&destination, Priority::High, 99).await.unwrap(), ids(0));
        assert_eq!(store.ready(&destination, Priority::High, 2).await.unwrap(), ids(0)[..2]);
        assert_eq!(store.ready(&destination, Priority::Normal, 99).await.unwrap(), ids(high));
    }
}

/// Accepts a message with an ordering key and seals it.
async fn in_line(
    store: &dyn MessageStore,
    samples: &Acceptances,
    key: &str,
    line: &str,
    channel: ChannelKind,
) -> MessageId {
    let mut metadata = metadata();
    metadata.ordering_key = Some(line.parse().unwrap());
    let route = crate::samples::route(OFFICE, channel);
    let id = accept(store, samples.make(key, metadata, b"x", Some(&route))).await;
    apply(store, id, Input::Sealed(seal()), noon()).await;
    id
}

pub(super) fn order() -> Order {
    Order { by: "operator".parse().unwrap(), reason: "test".to_owned() }
}

pub(super) async fn die(store: &dyn MessageStore, id: MessageId, at: Timestamp) {
    let started = apply(store, id, Input::StartAttempt { until: later(60) }, at).await;
    let State::Attempting { token, .. } = started.state else { panic!("{started:?}") };
    let reason = FailureReason { code: "refused".to_owned(), detail: String::new() };
    let next = Err(DeadReason::Permanent { last: reason.clone() });
    apply(store, id, Input::Failed { token, class: FailureClass::Permanent, reason, next }, at).await;
}

async fn only_the_first_in_line_is_listed(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let office: PartyId = OFFICE.parse().unwrap();
    let (one, two) = (
        in_line(store, &samples, "1", "file-7", ChannelKind::Mailbox).await,
        in_line(store, &samples, "2", "file-7", ChannelKind::Mailbox).await,
    );
    let other = in_line(store, &samples, "3", "file-8", ChannelKind::Mailbox).await;
    assert_eq!(mailbox(store, &office, 9).await, [one, other]);
    apply(store, one, lease(1, later(30)), noon()).await;
    assert_eq!(mailbox(store, &office, 9).await, [other], "a lease is no end");
    apply(store, one, acknowledge(1), later(1)).await;
    assert_eq!(mailbox(store, &office, 9).await, [two, other]);

    let mut push = Vec::new();
    for n in 0..4 {
        push.push(in_line(store, &samples, &format!("push-{n}"), "file-7", ChannelKind::Amqp).await);
    }
    let [destination] = store.waiting_destinations(None, 9).await.unwrap().try_into().unwrap();
    let ready = async || store.ready(&destination, Priority::High, 9).await.unwrap();
    assert_eq!(ready().await, [push[0]]);
    // Leaving from the middle changes nothing for the others.
    apply(store, push[1], Input::Cancel { account: PORTAL.parse().unwrap() }, noon()).await;
    assert_eq!(ready().await, [push[0]]);
    // A dead head blocks until somebody acts.
    die(store, push[0], noon()).await;
    assert!(ready().await.is_empty());
    assert!(store.waiting_destinations(None, 9).await.unwrap().is_empty());
    let waiting = store.tally().await.unwrap().waiting;
    assert_eq!(waiting.iter().map(|tally| tally.messages).sum::<u64>(), 4, "two here, two in the mailbox");
    apply(store, push[0], Input::Redrive(order()), later(5)).await;
    assert_eq!(ready().await, [push[0]]);
    // One that is to be skipped does not.
    die_skipping(store, push[0]).await;
    assert_eq!(ready().await, [push[2]]);
    apply(store, push[0], Input::Redrive(order()), later(5)).await;
    assert_eq!(ready().await, [push[0]], "back at its old place");
    apply(store, push[0], Input::Withdraw(order()), later(6)).await;
    assert_eq!(ready().await, [push[2]]);
    apply(store, push[2], Input::Withdraw(order()), later(6)).await;
    assert_eq!(ready().await, [push[3]]);
}

async fn die_skipping(store: &dyn MessageStore, id: MessageId) {
    let skip = Input::DeadHead(amtsbote_core::delivery::DeadHead::Skip);
    apply(store, id, skip, noon()).await;
    die(store, id, noon()).await;
}

async fn holds_and_the_dead_have_lists_of_their_own(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let hold: HoldKey = "account/portal".parse().unwrap();
    let mut ids = Vec::new();
    for n in 0..4 {
        let id = accept(store, samples.routed(&format!("{n}"), b"x", ChannelKind::Amqp)).await;
        apply(store, id, Input::Sealed(seal()), noon()).await;
        ids.push(id);
    }
    for id in &ids[..2] {
        apply(store, *id, Input::Hold { hold: hold.clone(), reason: "why".to_owned() }, noon()).await;
    }
    assert_eq!(store.holding(None, 9).await.unwrap(), std::slice::from_ref(&hold));
    assert!(store.holding(Some(&hold), 9).await.unwrap().is_empty());
    assert_eq!(store.held(&hold, 9).await.unwrap(), ids[..2]);
    assert_eq!(store.held(&hold, 1).await.unwrap(), ids[..1]);
    assert!(store.held(&"account/another".parse().unwrap(), 9).await.unwrap().is_empty());
    let [tally] = store.tally().await.unwrap().waiting.try_into().unwrap();
    assert_eq!((tally.messages, tally.oldest), (4, ids[0]), "held ones wait, too");
    apply(store, ids[0], Input::Unhold, later(1)).await;
    assert_eq!(store.held(&hold, 9).await.unwrap(), ids[1..2]);

    die(store, ids[3], later(10)).await;
    die(store, ids[2], later(20)).await;
    assert_eq!(store.tally().await.unwrap().dead, 2);
    let dead: Vec<_> = store.dead(None, 9).await.unwrap().iter().map(|entry| entry.id).collect();
    assert_eq!(dead, [ids[3], ids[2]], "those that died first come first");
    let after = DeadCursor { since: later(10), id: ids[3] };
    assert_eq!(store.dead(Some(after), 9).await.unwrap().len(), 1);
    assert_eq!(store.dead(None, 1).await.unwrap().len(), 1);
    assert_eq!(store.newest().await.unwrap(), Some(ids[3]));
}

async fn notes_are_committed_with_changes(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let id = accept(store, samples.routed("1", b"x", ChannelKind::Amqp)).await;
    let before = store.head(id).await.unwrap().unwrap();
    let next = before.apply(Input::Sealed(seal()), noon()).unwrap();
    let change = |expected| {
        vec![Change { id, expected, delivery: next.delivery.clone(), events: next.events.clone() }]
    };
    let note = |name: &str, value: &str| Note::keep(NoteKind::Job, name, &value);
    let stale = store.commit_with(change(before.version + 5), vec![note("a", "never")]).await;
    assert!(matches!(stale, Err(CommitError::Stale(_))));
    assert!(store.notes(NoteKind::Job, None, 9).await.unwrap().is_empty(), "all or nothing");
    store.commit_with(change(before.version), vec![note("a", "1"), note("b", "1")]).await.unwrap();
    store.commit_with(Vec::new(), vec![note("a", "2"), note("c", "1")]).await.unwrap();
    store.commit_with(Vec::new(), vec![Note::remove(NoteKind::Job, "b")]).await.unwrap();
    store.commit_with(Vec::new(), vec![Note::keep(NoteKind::Hold, "a", &"other")]).await.unwrap();
    let kept = async |after: Option<&str>, limit| {
        let notes = store.notes(NoteKind::Job, after, limit).await.unwrap();
        notes.iter().map(|note| format!("{}={}", note.name, note.value)).collect::<Vec<_>>()
    };
    assert_eq!(kept(None, 9).await, ["a=\"2\"", "c=\"1\""]);
    assert_eq!(kept(None, 1).await, ["a=\"2\""]);
    assert_eq!(kept(Some("a"), 9).await, ["c=\"1\""]);
    assert_eq!(store.head(id).await.unwrap().unwrap().version, before.version + 1);
}

async fn submissions_are_listed_newest_first(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(accept(store, samples.routed(&format!("{n}"), b"x", ChannelKind::Mailbox)).await);
    }
    apply(store, ids[1], Input::Cancel { account: PORTAL.parse().unwrap() }, noon()).await;
    ids.reverse();
    let mut filter = SubmissionFilter { account: PORTAL.parse().ok(), ..SubmissionFilter::default() };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = store.submissions(&filter, after, 2).await.unwrap();
        found.extend(page.iter().map(|entry| entry.id));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, ids);
    filter.state = Some("cancelled".to_owned());
    assert_eq!(store.submissions(&filter, None, 9).await.unwrap().0.len(), 1);
    filter.case_id = Some("another".parse().unwrap());
    assert!(store.submissions(&filter, None, 9).await.unwrap().0.is_empty());
    let foreign = SubmissionFilter { account: "stranger".parse().ok(), ..SubmissionFilter::default() };
    assert!(store.submissions(&foreign, None, 9).await.unwrap().0.is_empty());
    let organization = store.head(ids[0]).await.unwrap().unwrap().destination.unwrap().organization;
    let there = SubmissionFilter { organizations: vec![organization], ..foreign };
    assert_eq!(store.submissions(&there, None, 9).await.unwrap().0.len(), ids.len());
}

async fn retention_removes_payload_then_record(store: &dyn MessageStore) {
    let samples = Acceptances::default();
    let id = accept(store, samples.routed("done", b"content", ChannelKind::Mailbox)).await;
    let open = accept(store, samples.routed("open", b"content", ChannelKind::Mailbox)).await;
    apply(store, id, Input::Sealed(seal()), noon()).await;
    apply(store, id, lease(1, later(60)), noon()).await;
    apply(store, id, acknowledge(1), later(10)).await;
    assert!(store.finished(later(10), false, 9).await.unwrap().is_empty(), "before means before");
    assert_eq!(store.finished(later(11), false, 9).await.unwrap(), [id]);
    apply(store, id, Input::Strip, later(20)).await;
    assert!(matches!(store.open_part(id, 0, 0).await, Err(StoreError::Removed { .. })));
    assert!(store.load(id).await.unwrap().is_some(), "the record is kept longer");
    assert_eq!(store.finished(later(11), true, 9).await.unwrap(), [id]);
    store.forget(vec![id]).await.unwrap();
    store.reclaim(later(30)).await.unwrap();
    assert!(store.load(id).await.unwrap().is_none());
    assert!(store.finished(later(99), true, 9).await.unwrap().is_empty());
    assert_eq!(store.intake(&intake_key("done")).await.unwrap(), None, "a key lives as long as its message");
    assert_eq!(read(store, open, 0, 0).await, b"content");
}

async fn everything_survives_reopening(open: StoreFactory<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let samples = Acceptances::default();
    let big = vec![42_u8; 3 << 20];
    let mut expected = Vec::new();
    {
        let store = open(folder.path());
        for n in 0..40 {
            let mut acceptance =
                samples.routed(&format!("{n}"), format!("doc {n}").as_bytes(), ChannelKind::Mailbox);
            if n == 7 {
                acceptance = samples.routed("7", &big, ChannelKind::Mailbox);
                let mut writer = store.stage().await.unwrap();
                writer.write(Bytes::from(big.clone())).await.unwrap();
                acceptance.payload = writer.finish().await.unwrap();
            }
            let id = accept(store.as_ref(), acceptance).await;
            if n % 2 == 0 {
                apply(store.as_ref(), id, Input::Sealed(seal()), noon()).await;
            }
            if n % 4 == 0 {
                apply(store.as_ref(), id, lease(n, later(60)), noon()).await;
            }
            if n % 8 == 0 {
                apply(store.as_ref(), id, acknowledge(n), later(1)).await;
            }
            expected.push(store.load(id).await.unwrap().unwrap());
        }
        store.forget(vec![expected.remove(0).message.id]).await.unwrap();
        let notes = [("kept", Some("1".to_owned())), ("removed", Some("2".to_owned())), ("removed", None)];
        for (name, value) in notes {
            let note = Note { kind: NoteKind::Audit, name: name.to_owned(), value };
            store.commit_with(Vec::new(), vec![note]).await.unwrap();
        }
    }
    let store = open(folder.path());
    let notes = store.notes(NoteKind::Audit, None, 9).await.unwrap();
    assert_eq!(notes.iter().map(|note| note.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    for before in &expected {
        let after = store.load(before.message.id).await.unwrap().unwrap();
        assert_eq!(after.message, before.message);
        assert_eq!(after.delivery, before.delivery);
        assert_eq!(after.events, before.events);
    }
    assert!(read(store.as_ref(), expected[6].message.id, 0, 0).await == big);
    assert_eq!(read(store.as_ref(), expected[0].message.id, 0, 0).await, b"doc 1");
    let count = |wanted: fn(&Placement) -> bool| {
        expected.iter().filter(|one| wanted(&one.delivery.placement())).count()
    };
    let prepare = store.to_prepare(None, 99).await.unwrap().len();
    assert_eq!(prepare, count(|placement| *placement == Placement::Prepare));
    let timers = store.timers(99).await.unwrap().len();
    assert_eq!(timers, count(|placement| matches!(placement, Placement::Timer { .. })));
    let available = mailbox(store.as_ref(), &OFFICE.parse().unwrap(), 99).await.len();
    assert_eq!(available, count(|placement| matches!(placement, Placement::Available { .. })));
    for n in 1..40 {
        let again =
            store.accept(samples.routed(&format!("{n}"), b"other", ChannelKind::Mailbox)).await.unwrap();
        assert!(matches!(again, Accepted::Seen(_)), "key {n} was forgotten");
    }
}
