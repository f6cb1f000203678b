//! Attempts, fairness, retention, and what stands in nobody's way.

use std::sync::Arc;
use std::time::Duration;

use amtsbote_core::delivery::{DeadReason, Delivery, EventKind, Order, SealRecord, State};
use amtsbote_core::engine::{DestinationPolicy, EngineOptions, Policies, Retention};
use amtsbote_core::id::MessageId;
use amtsbote_core::mailbox::LeaseRequest;
use amtsbote_core::message::{Priority, Sha256Digest};
use amtsbote_core::operations::Action;
use amtsbote_core::port::{MessageStore, SealError, SealRequest, Sealer};
use amtsbote_core::route::ChannelKind;
use amtsbote_testkit::channel::{Act, FakeChannel};
use amtsbote_testkit::samples::{OFFICE, metadata};
use amtsbote_testkit::seal::FakeSealer;
use amtsbote_testkit::time::noon;
use async_trait::async_trait;

use crate::lab::{Lab, endpoint, sealer};

/// Panics at one document, signs all others.
struct Fragile(Sha256Digest);

#[async_trait]
impl Sealer for Fragile {
    async fn seal(&self, request: SealRequest) -> Result<SealRecord, SealError> {
        assert!(request.document != self.0, "a bug");
        FakeSealer::default().seal(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_worker_panics_is_dead_lettered_and_blocks_nobody() {
    let fragile = Arc::new(Fragile(Sha256Digest::of(b"<poison/>")));
    let options = EngineOptions { prepare_concurrency: 1, ..EngineOptions::default() };
    let lab = Lab::new(FakeChannel::taking(), fragile, options).await;
    let poison = lab.samples.routed("poison", b"<poison/>", ChannelKind::Amqp);
    let poisoned = poison.message.id;
    drop(lab.store.accept(poison).await.unwrap());
    let good = lab.accept("good", ChannelKind::Amqp).await;
    lab.run(Duration::from_secs(10)).await;
    let State::Dead { reason: DeadReason::Damaged { last } } = lab.state(poisoned).await else { panic!() };
    assert_eq!(last.detail, "the worker died on this message");
    assert_eq!(lab.state(good).await, State::Delivered);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_fails_before_its_lease_ends() {
    let channel = FakeChannel::scripted(|_, attempt| if attempt == 1 { Act::Hang } else { Act::Take });
    let lab = Lab::new(channel, sealer(), EngineOptions::default()).await;
    let id = lab.accept("1", ChannelKind::Amqp).await;
    lab.run(Duration::from_secs(600)).await;
    assert_eq!(lab.state(id).await, State::Delivered);
    let card = lab.store.load(id).await.unwrap().unwrap().events;
    let code = card.iter().find_map(|event| match &event.kind {
        EventKind::AttemptFailed { reason, .. } => Some(reason.code.as_str()),
        _ => None,
    });
    assert_eq!(code, Some("timeout"));
    assert!(card.iter().all(|event| !matches!(event.kind, EventKind::AttemptLost { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_message_stands_in_nobodys_way() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let (damaged, good) =
        (lab.accept("1", ChannelKind::Mailbox).await, lab.accept("2", ChannelKind::Mailbox).await);
    lab.run(Duration::from_secs(1)).await;
    lab.store.damage(damaged);
    assert_eq!(lab.lease().await, [good]);
    assert!(matches!(lab.state(damaged).await, State::Dead { reason: DeadReason::Damaged { .. } }));
    let alone = lab.accept("3", ChannelKind::Mailbox).await;
    lab.run(Duration::from_secs(1)).await;
    lab.store.damage(alone);
    assert!(lab.mailboxes.list(&lab.department, 10).await.unwrap().is_empty());
    assert!(lab.lease().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_payload_is_damaged_is_not_leased_again_and_again() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let id = lab.accept("1", ChannelKind::Mailbox).await;
    lab.run(Duration::from_secs(1)).await;
    assert_eq!(lab.lease().await, [id]);
    lab.store.damage_payload(id);
    assert!(lab.mailboxes.read(&lab.department, id, 0, 0).await.is_err());
    assert!(matches!(lab.state(id).await, State::Dead { reason: DeadReason::Damaged { .. } }));
    lab.run(Duration::from_secs(120)).await;
    assert!(lab.lease().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn retention_removes_payloads_then_records() {
    let day = Duration::from_secs(24 * 3600);
    let retention = Retention { payload: day, record: 3 * day, interval: Duration::from_secs(3600) };
    let lab =
        Lab::new(FakeChannel::taking(), sealer(), EngineOptions { retention, ..EngineOptions::default() })
            .await;
    let mut ids = Vec::new();
    for n in 0..300 {
        ids.push(lab.accept(&n.to_string(), ChannelKind::Amqp).await);
    }
    lab.run(Duration::from_secs(60)).await;
    tokio::spawn(Arc::clone(&lab.engine).run_retention(lab.stop.clone()));
    let stripped = async || {
        let heads = lab.store.deliveries();
        (heads.len(), heads.iter().filter(|(_, head)| head.stripped).count())
    };
    tokio::time::sleep(day / 2).await;
    assert_eq!(stripped().await, (300, 0));
    tokio::time::sleep(day).await;
    assert_eq!(stripped().await, (300, 300));
    tokio::time::sleep(2 * day).await;
    assert_eq!(stripped().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_route_is_looked_up_again_before_a_late_attempt() {
    let channel = FakeChannel::scripted(|_, attempt| match attempt {
        1 => Act::Fail(amtsbote_core::delivery::FailureClass::Transient),
        _ => Act::Take,
    });
    // The first retry is due when the decision is older than a minute.
    let retry = amtsbote_core::delivery::RetryPolicy::try_new(
        Duration::from_secs(120),
        1.0,
        Duration::from_secs(120),
        0.0,
        5,
        Duration::from_secs(86_400),
    );
    let usual = DestinationPolicy { retry: retry.unwrap(), ..DestinationPolicy::default() };
    let policies = Policies { usual, ..Policies::default() };
    let options =
        EngineOptions { recheck_after: Duration::from_secs(60), policies, ..EngineOptions::default() };
    let lab = Lab::new(channel, sealer(), options).await;
    let open = lab.samples.make("1", metadata(), b"<antrag/>", None);
    let id = open.message.id;
    drop(lab.store.accept(open).await.unwrap());
    lab.run(Duration::from_secs(30)).await;
    lab.directory
        .answer(OFFICE, amtsbote_core::port::DirectoryAnswer::NotValid { warning: "closed".to_owned() });
    lab.run(Duration::from_secs(120)).await;
    let card = lab.store.load(id).await.unwrap().unwrap();
    let withdrawn = card.events.iter().any(|event| {
        matches!(&event.kind, EventKind::AttemptFailed { reason, .. } if reason.code == "route-withdrawn")
    });
    assert!(withdrawn, "{:?}", card.events);
    assert!(lab.channel.seen().is_empty());
    assert_eq!(lab.state(id).await.as_str(), "dead", "its destination may be well, so somebody has to act");
    lab.directory.list(OFFICE, endpoint("amqp://main?queue=q"));
    let order = Order { by: "operator".parse().unwrap(), reason: "listed again".to_owned() };
    lab.operations.act(Action::Reroute, id, order).await.unwrap();
    lab.run(Duration::from_secs(1)).await;
    assert_eq!(lab.state(id).await, State::Delivered);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_at_once_when_the_process_ends() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let request = LeaseRequest { max: 1, duration: Duration::from_secs(60), wait: Duration::from_secs(60) };
    let began = tokio::time::Instant::now();
    let ending = async {
        // Long after the poll has begun to wait.
        tokio::time::sleep(Duration::from_secs(5)).await;
        lab.wake.close();
    };
    let (lease, ()) = tokio::join!(lab.mailboxes.lease(&lab.department, request), ending);
    assert!(lease.unwrap().messages.is_empty());
    assert_eq!(began.elapsed().as_secs(), 5);
}

fn limited(concurrency: usize, rate: Option<u32>) -> EngineOptions {
    let rate = rate.and_then(std::num::NonZeroU32::new);
    let usual = DestinationPolicy { concurrency, rate, ..DestinationPolicy::default() };
    let policies = Policies { usual, ..Policies::default() };
    EngineOptions { attempt_concurrency: 8, policies, ..EngineOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_holds_no_more_than_its_own_slots() {
    let stuck = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let hanging = Arc::clone(&stuck);
    let channel = FakeChannel::scripted(move |id, _| match hanging.lock().unwrap().contains(&id) {
        true => Act::Hang,
        false => Act::Take,
    });
    let lab = Lab::new(channel, sealer(), limited(4, None)).await;
    let submitting = async {
        // After the engine has begun: what it finds there is let go slowly.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let hanging = lab.queue("wgb:000000000001", Priority::Normal, 100).await;
        stuck.lock().unwrap().extend(hanging.iter().copied());
        let quiet = lab.queue("wgb:000000000002", Priority::Normal, 100).await;
        lab.wake.work();
        // Far less than the lease of a hanging attempt.
        tokio::time::sleep(Duration::from_secs(2)).await;
        (hanging, quiet)
    };
    let (hanging, quiet) = lab.run_while(submitting).await;
    let arrived = lab.channel.seen();
    let of = |ids: &[MessageId]| arrived.iter().filter(|seen| ids.contains(&seen.id)).count();
    assert_eq!((of(&hanging), of(&quiet)), (4, 100));
}

#[tokio::test(start_paused = true)]
async fn destinations_that_hang_do_not_take_all_slots_together() {
    let quiet = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let answering = Arc::clone(&quiet);
    let channel = FakeChannel::scripted(move |id, _| match answering.lock().unwrap().contains(&id) {
        true => Act::Take,
        false => Act::Hang,
    });
    let lab = Lab::new(channel, sealer(), limited(4, None)).await;
    let submitting = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        for n in 1..4 {
            lab.queue(&format!("wgb:00000000000{n}"), Priority::Normal, 20).await;
        }
        lab.wake.work();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let late = lab.queue("wgb:000000000009", Priority::Normal, 20).await;
        quiet.lock().unwrap().extend(late.iter().copied());
        lab.wake.work();
        tokio::time::sleep(Duration::from_secs(2)).await;
        late
    };
    let late = lab.run_while(submitting).await;
    for id in late {
        assert_eq!(lab.state(id).await, State::Delivered);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_a_process_begins_is_let_go_slowly() {
    let release_rate = std::num::NonZeroU32::new(10).unwrap();
    let usual = DestinationPolicy { release_rate, ..DestinationPolicy::default() };
    let policies = Policies { usual, ..Policies::default() };
    let lab =
        Lab::new(FakeChannel::taking(), sealer(), EngineOptions { policies, ..EngineOptions::default() });
    let lab = lab.await;
    lab.queue(OFFICE, Priority::Normal, 200).await;
    lab.run(Duration::from_secs(5)).await;
    let before = lab.channel.seen().len();
    assert!((30..=70).contains(&before), "{before} in five seconds at ten per second");
    let lab = lab.restart().await;
    lab.run(Duration::from_secs(5)).await;
    let after = lab.channel.seen().len() - before;
    assert!((30..=70).contains(&after), "{after} in five seconds at ten per second");
}

#[tokio::test(start_paused = true)]
async fn many_that_come_due_at_once_keep_nobody_waiting() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    lab.serve_by_mailbox();
    let end = noon().checked_add(Duration::from_secs(60)).unwrap();
    for n in 0..1_000 {
        let mut short = metadata();
        short.expires_at = Some(end);
        lab.submit(&format!("short-{n}"), short, ChannelKind::Mailbox).await;
    }
    lab.run(Duration::from_millis(59_500)).await;
    // One by one, the expiries alone would take five seconds.
    lab.store.set_commit_time(Duration::from_millis(5));
    lab.run(Duration::from_millis(600)).await;
    let late = lab.queue("wgb:000000000009", Priority::Normal, 1).await[0];
    lab.run(Duration::from_millis(500)).await;
    assert_eq!(lab.state(late).await, State::Delivered);
    let over = |(_, one): &&(MessageId, Delivery)| one.state == State::Expired;
    assert_eq!(lab.store.deliveries().iter().filter(over).count(), 1_000, "all ended on time");
    lab.store.set_commit_time(Duration::ZERO);
    lab.run(Duration::from_secs(60)).await;
    let deliveries = lab.store.deliveries();
    let expired = deliveries.iter().filter(|(_, one)| one.state == State::Expired);
    assert!(expired.clone().all(|(_, one)| one.notice_due.is_none()), "all senders were told");
    assert_eq!(expired.count(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn destinations_with_due_work_take_turns() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), limited(100, None)).await;
    let flood = lab.queue("wgb:000000000001", Priority::Normal, 300).await;
    let mut quiet = Vec::new();
    for n in 2..6 {
        quiet.extend(lab.queue(&format!("wgb:00000000000{n}"), Priority::Normal, 5).await);
    }
    lab.run(Duration::from_secs(5)).await;
    let arrived: Vec<MessageId> = lab.channel.seen().iter().map(|seen| seen.id).collect();
    assert_eq!(arrived.len(), 320);
    let before_last_quiet = arrived.iter().position(|id| quiet.last() == Some(id)).unwrap();
    let flood_before = arrived[..before_last_quiet].iter().filter(|id| flood.contains(id)).count();
    // Each of the quiet ones waits for at most one quantum of the flood per turn of its own.
    assert!(flood_before <= 16 * 6, "{flood_before} of the flood came before the last of the quiet ones");
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_and_the_normal_class_does_not_starve() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), limited(100, Some(10))).await;
    let high = lab.queue("wgb:000000000001", Priority::High, 60).await;
    let normal = lab.queue("wgb:000000000001", Priority::Normal, 20).await;
    lab.run(Duration::from_millis(4_500)).await;
    let arrived = lab.channel.seen();
    assert!((40..=55).contains(&arrived.len()), "{} in four and a half seconds", arrived.len());
    let of = |ids: &[MessageId]| arrived.iter().filter(|seen| ids.contains(&seen.id)).count();
    assert_eq!(of(&normal), arrived.len() / 8, "one of eight");
    assert_eq!(of(&high), arrived.len() - arrived.len() / 8);
}

#[tokio::test(start_paused = true)]
async fn a_message_nobody_fetches_expires_by_itself() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let mut short = metadata();
    short.expires_at = Some(noon().checked_add(Duration::from_secs(90)).unwrap());
    let route = amtsbote_testkit::samples::route(OFFICE, ChannelKind::Mailbox);
    let acceptance = lab.samples.make("1", short, b"<antrag/>", Some(&route));
    let id = acceptance.message.id;
    drop(lab.store.accept(acceptance).await.unwrap());
    lab.run(Duration::from_secs(60)).await;
    assert_eq!(lab.state(id).await, State::Delivered);
    lab.run(Duration::from_secs(60)).await;
    assert_eq!(lab.state(id).await, State::Expired);
    assert!(lab.lease().await.is_empty());
}
