//! Holds, breakers, ordering keys, notices, dead letters and bulk operations.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amtsbote_core::delivery::{
    DeadHead, EventKind, Face, FailureClass, Order, Refusal, RejectReason, RetryPolicy, State,
};
use amtsbote_core::engine::{DestinationPolicy, EngineOptions, NOTICE_TYPE, Policies};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::mailbox::{MailboxError, XTA_CLAIM};
use amtsbote_core::message::{ExternalId, IdScheme, Priority};
use amtsbote_core::operations::{Action, Bulk, BulkProblem, DeadFilter, JobState, OperationError};
use amtsbote_core::port::{MessageStore, NoteKind};
use amtsbote_core::route::ChannelKind;
use amtsbote_testkit::channel::{Act, FakeChannel};
use amtsbote_testkit::samples::{OFFICE, metadata};
use amtsbote_testkit::time::noon;

use crate::lab::{Lab, sealer};

const HOUR: Duration = Duration::from_secs(3600);

fn order() -> Order {
    Order { by: "operator".parse().unwrap(), reason: "maintenance".to_owned() }
}

fn key(text: &str) -> HoldKey {
    text.parse().unwrap()
}

fn office() -> String {
    format!("destination/amqp/{OFFICE}")
}

fn options(policy: DestinationPolicy) -> EngineOptions {
    EngineOptions { policies: Policies { usual: policy, ..Policies::default() }, ..EngineOptions::default() }
}

/// Gives up after three failures or an hour.
fn impatient() -> DestinationPolicy {
    let second = Duration::from_secs(1);
    let retry = RetryPolicy::try_new(10 * second, 2.0, 60 * second, 0.0, 3, HOUR).unwrap();
    DestinationPolicy { retry, ..DestinationPolicy::default() }
}

/// A channel that does what `down` says: everything fails in one way, or everything is taken.
fn switched(down: &Arc<AtomicBool>, class: FailureClass) -> FakeChannel {
    let down = Arc::clone(down);
    FakeChannel::scripted(move |_, _| if down.load(Ordering::Relaxed) { Act::Fail(class) } else { Act::Take })
}

#[tokio::test(start_paused = true)]
async fn a_weekend_hold_uses_up_nothing_and_releases_in_deadline_order() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    lab.operations.hold(key(&office()), order(), None).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..40_u64 {
        let mut metadata = metadata();
        // Late ones first, so that acceptance is the wrong order.
        metadata.deadline = Some(noon() + 90 * 24 * HOUR - HOUR * u32::try_from(n).unwrap());
        expected.push(lab.submit(&format!("{n}"), metadata, ChannelKind::Amqp).await);
    }
    expected.reverse();
    lab.run(60 * HOUR).await;
    assert!(lab.channel.seen().is_empty());
    for id in &expected {
        let delivery = lab.store.head(*id).await.unwrap().unwrap();
        assert_eq!((delivery.state, delivery.attempts, delivery.retries.failures), (State::Queued, 0, 0));
    }
    lab.operations.release(&key(&office()), "operator".parse().unwrap(), None).await.unwrap();
    lab.run(Duration::from_secs(60)).await;
    let arrived: Vec<_> = lab.channel.seen().iter().map(|seen| seen.id).collect();
    assert_eq!(arrived, expected);
    let attempts: BTreeSet<u32> = lab.channel.seen().iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, BTreeSet::from([1]));
}

#[tokio::test(start_paused = true)]
async fn a_hold_with_an_end_ends_by_itself_also_after_a_restart() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let until = noon() + HOUR;
    lab.operations.hold(key(&office()), order(), Some(until)).await.unwrap();
    let id = lab.submit("1", metadata(), ChannelKind::Amqp).await;
    lab.run(HOUR / 2).await;
    let lab = lab.restart().await;
    assert_eq!(lab.operations.holds()[0].until, Some(until));
    lab.run(HOUR / 4).await;
    assert_eq!(lab.state(id).await, State::Queued);
    lab.run(HOUR / 2).await;
    assert_eq!(lab.state(id).await, State::Delivered);
    assert!(lab.operations.holds().is_empty());
    let (trail, _) = lab.operations.audit(None, 10).await.unwrap();
    let actions: Vec<_> = trail.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["release", "hold"], "newest first");
}

#[tokio::test(start_paused = true)]
async fn services_accounts_and_messages_can_be_held_on_every_channel() {
    for channel in [ChannelKind::Amqp, ChannelKind::Mailbox] {
        for scope in ["service/ozg:10092", "account/portal", "message"] {
            let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
            let id = lab.submit("held", metadata(), channel).await;
            let hold = if scope == "message" { key(&format!("message/{id}")) } else { key(scope) };
            lab.operations.hold(hold.clone(), order(), None).await.unwrap();
            lab.run(HOUR).await;
            assert!(lab.lease().await.is_empty(), "{scope}");
            let delivery = lab.store.head(id).await.unwrap().unwrap();
            assert_eq!((delivery.shown_state(), delivery.attempts), ("held", 0), "{scope}");
            let read = lab.mailboxes.read(&lab.department, id, 0, 0).await;
            assert!(read.is_err(), "{scope}");
            lab.operations.release(&hold, "operator".parse().unwrap(), None).await.unwrap();
            lab.run(Duration::from_secs(30)).await;
            let arrived = if channel == ChannelKind::Mailbox {
                lab.lease().await.len()
            } else {
                lab.channel.seen().len()
            };
            assert_eq!(arrived, 1, "{scope}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_mailbox_hands_nothing_out() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let mailbox = key(&format!("destination/mailbox/{OFFICE}"));
    lab.operations.hold(mailbox.clone(), order(), None).await.unwrap();
    let id = lab.submit("1", metadata(), ChannelKind::Mailbox).await;
    lab.run(HOUR).await;
    assert!(lab.lease().await.is_empty());
    assert!(lab.mailboxes.list(&lab.department, 9).await.unwrap().is_empty());
    assert!(lab.mailboxes.read(&lab.department, id, 0, 0).await.is_err());
    lab.operations.release(&mailbox, "operator".parse().unwrap(), None).await.unwrap();
    assert_eq!(lab.lease().await, [id]);
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_not_held() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let unknown = [
        "destination/amqp/wgb:999999999991",
        "service/ozg:99999",
        "account/nobody",
        "message/urn:uuid:01976c6e-7a00-7000-8000-000000000001",
    ];
    for target in unknown {
        let refused = lab.operations.hold(key(target), order(), None).await;
        assert!(matches!(refused, Err(OperationError::UnknownTarget(_))), "{target}");
    }
    let past = lab.operations.hold(key(&office()), order(), Some(noon())).await;
    assert!(matches!(past, Err(OperationError::EndsInThePast)));
    let by = || "operator".parse().unwrap();
    assert!(matches!(
        lab.operations.release(&key(&office()), by(), None).await,
        Err(OperationError::NotHeld)
    ));
}

#[tokio::test(start_paused = true)]
async fn an_outage_opens_the_breaker_and_uses_up_no_retries() {
    let down = Arc::new(AtomicBool::new(true));
    let lab = Lab::new(switched(&down, FailureClass::Destination), sealer(), options(impatient())).await;
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(lab.submit(&format!("{n}"), metadata(), ChannelKind::Amqp).await);
    }
    lab.run(3 * HOUR).await;
    let [open] = lab.operations.breakers().await.unwrap().try_into().unwrap();
    assert_eq!((open.reason.code.as_str(), open.destination.organization.as_str()), ("scripted", OFFICE));
    // Longer than every policy allows, over a restart.
    let lab = lab.restart().await;
    lab.run(9 * HOUR).await;
    let mut tried = 0;
    for id in &ids {
        let delivery = lab.store.head(*id).await.unwrap().unwrap();
        assert_eq!(delivery.retries.failures, 0);
        tried += delivery.attempts;
    }
    assert!(tried < 16 + 10 + 12 * 12, "{tried} attempts: one probe each five minutes");
    down.store(false, Ordering::Relaxed);
    lab.run(HOUR).await;
    for id in &ids {
        assert_eq!(lab.state(*id).await, State::Delivered);
    }
    assert!(lab.operations.breakers().await.unwrap().is_empty());
    assert!(lab.store.notes(NoteKind::Breaker, None, 9).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_piled_up_is_let_go_at_the_release_rate() {
    let rate = std::num::NonZeroU32::new(5).unwrap();
    let policy = DestinationPolicy { release_rate: rate, ..DestinationPolicy::default() };
    let lab = Lab::new(FakeChannel::taking(), sealer(), options(policy)).await;
    lab.operations.hold(key(&office()), order(), None).await.unwrap();
    for n in 0..100 {
        lab.submit(&format!("{n}"), metadata(), ChannelKind::Amqp).await;
    }
    let seconds = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    let arrived = || lab.channel.seen().len();
    lab.run_while(async {
        seconds(3600).await;
        lab.operations.release(&key(&office()), "operator".parse().unwrap(), None).await.unwrap();
        seconds(10).await;
        assert!((40..=56).contains(&arrived()), "{} in ten seconds", arrived());
        seconds(60).await;
        assert_eq!(arrived(), 100);
        // Afterwards it is served as usual.
        for n in 100..200 {
            lab.submit(&format!("{n}"), metadata(), ChannelKind::Amqp).await;
        }
        lab.wake.work();
        seconds(5).await;
        assert_eq!(arrived(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_our_own_uses_up_nothing() {
    let down = Arc::new(AtomicBool::new(true));
    let lab = Lab::new(switched(&down, FailureClass::Ours), sealer(), options(impatient())).await;
    let id = lab.submit("1", metadata(), ChannelKind::Amqp).await;
    lab.run(5 * HOUR).await;
    assert_eq!(lab.store.head(id).await.unwrap().unwrap().retries.failures, 0);
    assert!(lab.operations.breakers().await.unwrap().is_empty());
    down.store(false, Ordering::Relaxed);
    lab.run(HOUR).await;
    assert_eq!(lab.state(id).await, State::Delivered);
}

fn with_line(line: &str) -> amtsbote_core::message::Metadata {
    let mut metadata = metadata();
    metadata.ordering_key = Some(line.parse().unwrap());
    metadata
}

#[tokio::test(start_paused = true)]
async fn one_line_is_handed_over_in_order_and_blocks_no_other() {
    let failing = Arc::new(Mutex::new(BTreeSet::new()));
    let script = Arc::clone(&failing);
    let channel = FakeChannel::scripted(move |id, attempt| {
        if attempt < 4 && script.lock().unwrap().contains(&id) {
            Act::Fail(FailureClass::Transient)
        } else {
            Act::Take
        }
    });
    let lab = Lab::new(channel, sealer(), EngineOptions::default()).await;
    let (mut slow, mut other) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let mut urgent = with_line("file-1");
        // Even what is urgent waits for what was accepted before it.
        urgent.priority = if n % 2 == 0 { Priority::Normal } else { Priority::High };
        slow.push(lab.submit(&format!("slow-{n}"), urgent, ChannelKind::Amqp).await);
        other.push(lab.submit(&format!("other-{n}"), with_line("file-2"), ChannelKind::Amqp).await);
    }
    failing.lock().unwrap().extend([slow[0], slow[5]]);
    lab.run(Duration::from_secs(2)).await;
    let arrived = |ids: &[_]| {
        lab.channel.seen().iter().map(|seen| seen.id).filter(|id| ids.contains(id)).collect::<Vec<_>>()
    };
    assert_eq!((arrived(&slow).len(), arrived(&other)), (0, other.clone()));
    lab.run(HOUR).await;
    assert_eq!(arrived(&slow), slow);
}

#[tokio::test(start_paused = true)]
async fn a_dead_head_blocks_its_line_or_is_skipped_as_configured() {
    for dead_head in [DeadHead::Block, DeadHead::Skip] {
        let poison = Arc::new(Mutex::new(None));
        let script = Arc::clone(&poison);
        let channel = FakeChannel::scripted(move |id, attempt| {
            let refused = *script.lock().unwrap() == Some(id) && attempt == 1;
            if refused { Act::Fail(FailureClass::Permanent) } else { Act::Take }
        });
        let lab = Lab::new(
            channel,
            sealer(),
            options(DestinationPolicy { dead_head, ..DestinationPolicy::default() }),
        )
        .await;
        let head = lab.submit("head", with_line("file"), ChannelKind::Amqp).await;
        *poison.lock().unwrap() = Some(head);
        let next = lab.submit("next", with_line("file"), ChannelKind::Amqp).await;
        lab.run(HOUR).await;
        assert!(matches!(lab.state(head).await, State::Dead { .. }));
        let expected = if dead_head == DeadHead::Block { State::Queued } else { State::Delivered };
        assert_eq!(lab.state(next).await, expected);
        lab.operations.act(Action::Redrive, head, order()).await.unwrap();
        lab.run(HOUR).await;
        assert_eq!((lab.state(head).await, lab.state(next).await), (State::Delivered, State::Delivered));
    }
}

/// A lab with dead letters of two destinations.
async fn with_dead_letters(count: usize) -> (Lab, Arc<AtomicBool>) {
    let down = Arc::new(AtomicBool::new(true));
    let lab = Lab::new(switched(&down, FailureClass::Permanent), sealer(), EngineOptions::default()).await;
    for n in 0..count {
        lab.submit(&format!("{n}"), metadata(), ChannelKind::Amqp).await;
    }
    lab.queue("wgb:000000000002", Priority::Normal, 10).await;
    lab.run(HOUR).await;
    (lab, down)
}

fn redrive(filter: DeadFilter) -> Bulk {
    Bulk { action: Action::Redrive, filter, all: false, rate: Some(2) }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_operation_goes_on_after_a_restart_and_touches_each_once() {
    let (lab, down) = with_dead_letters(100).await;
    let filter =
        DeadFilter { destination: Some(format!("amqp/{OFFICE}").parse().unwrap()), ..DeadFilter::default() };
    assert_eq!(lab.operations.preview(&redrive(filter.clone())).await.unwrap(), 100);
    // Still down: what is sent again dies again, and must not be sent a second time by the same operation.
    let job = lab.operations.submit(redrive(filter), order()).await.unwrap();
    lab.run_with_jobs(Duration::from_secs(20)).await;
    let half = lab.operations.job(&job.id).await.unwrap();
    assert!((30..60).contains(&half.done) && half.state == JobState::Running, "{half:?}");
    let lab = lab.restart().await;
    lab.run_with_jobs(Duration::from_secs(60)).await;
    let done = lab.operations.job(&job.id).await.unwrap();
    assert_eq!((done.state, done.done, done.failed), (JobState::Done, 100, 0));
    let (dead, _) = lab.operations.dead_letters(&DeadFilter::default(), None, 1_000).await.unwrap();
    assert_eq!(dead.len(), 110);
    let attempts: Vec<u32> = dead.iter().map(|entry| entry.delivery.attempts).collect();
    assert_eq!(attempts.iter().filter(|attempts| **attempts == 2).count(), 100);
    down.store(false, Ordering::Relaxed);
    let everything = Bulk { all: true, rate: None, ..redrive(DeadFilter::default()) };
    lab.operations.submit(everything, order()).await.unwrap();
    lab.run_with_jobs(HOUR).await;
    assert_eq!(lab.operations.count(&DeadFilter::default()).await.unwrap(), 0);
    let (trail, _) = lab.operations.audit(None, 10).await.unwrap();
    assert!(trail.iter().all(|entry| entry.action == "bulk-redrive" && entry.by.as_str() == "operator"));
}

#[tokio::test(start_paused = true)]
async fn bulk_operations_nobody_wants_are_not_begun() {
    let (lab, _) = with_dead_letters(3).await;
    let refused = async |bulk: Bulk| match lab.operations.submit(bulk, order()).await {
        Err(OperationError::Bulk(problem)) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(redrive(DeadFilter::default())).await, BulkProblem::Everything);
    let nothing = DeadFilter { code: Some("never".to_owned()), ..DeadFilter::default() };
    assert_eq!(refused(redrive(nothing.clone())).await, BulkProblem::Nothing);
    assert_eq!(refused(Bulk { rate: Some(0), ..redrive(nothing) }).await, BulkProblem::Rate);
    assert!(matches!(lab.operations.job("none").await, Err(OperationError::UnknownJob)));
    assert!(lab.operations.jobs().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_bulk_operation_stays_stopped() {
    let (lab, _) = with_dead_letters(100).await;
    let filter = DeadFilter { account: Some("portal".parse().unwrap()), ..DeadFilter::default() };
    let job = lab.operations.submit(redrive(filter), order()).await.unwrap();
    lab.run_with_jobs(Duration::from_secs(10)).await;
    lab.operations.stop_job(&job.id, order()).await.unwrap();
    let stopped = lab.operations.job(&job.id).await.unwrap();
    lab.run_with_jobs(HOUR).await;
    assert_eq!(lab.operations.job(&job.id).await.unwrap(), stopped);
    assert!(stopped.state == JobState::Stopped && stopped.done < 60, "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_can_be_given_up_or_sent_another_way_and_only_then() {
    let (lab, _) = with_dead_letters(2).await;
    let (dead, _) = lab.operations.dead_letters(&DeadFilter::default(), None, 2).await.unwrap();
    let [one, two] = [dead[0].id, dead[1].id];
    lab.operations.act(Action::Cancel, one, order()).await.unwrap();
    assert_eq!(lab.state(one).await, State::Cancelled);
    let again = lab.operations.act(Action::Redrive, one, order()).await;
    assert!(matches!(again, Err(OperationError::Refused(Refusal::NotDead))));
    // The account that serves the office has been given a mailbox meanwhile.
    lab.serve_by_mailbox();
    let moved = lab.operations.act(Action::Reroute, two, order()).await.unwrap();
    assert_eq!(moved.destination.unwrap().channel, ChannelKind::Mailbox);
    assert_eq!(lab.lease().await, [two]);
    let unknown = lab.operations.act(Action::Redrive, lab.samples.unused_id(), order()).await;
    assert!(matches!(unknown, Err(OperationError::UnknownMessage)));
}

#[tokio::test(start_paused = true)]
async fn senders_find_a_notice_in_their_mailbox() {
    let (lab, _) = with_dead_letters(1).await;
    let portal = lab.account("portal");
    let notices = lab.mailboxes.list(&portal, 100).await.unwrap();
    assert_eq!(notices.len(), 11, "one for each");
    let mut content = Vec::new();
    let first = &notices[0].message;
    assert_eq!(first.parts[0].media_type, NOTICE_TYPE);
    let mut reader = lab.mailboxes.read(&portal, first.id, 0, 0).await.unwrap();
    while let Some(bytes) = reader.next().await.unwrap() {
        content.extend_from_slice(&bytes);
    }
    let notice: serde_json::Value = serde_json::from_slice(&content).unwrap();
    let about = first.metadata.in_reply_to.unwrap();
    assert_eq!(notice["message"], about.to_string());
    assert_eq!((&notice["state"], &notice["reason"]["code"]), (&"dead".into(), &"scripted".into()));
    assert!(!String::from_utf8(content).unwrap().contains("scripted failure"), "no foreign error texts");
    let card = lab.store.load(about).await.unwrap().unwrap().events;
    let told = card
        .iter()
        .filter(|event| matches!(event.kind, amtsbote_core::delivery::EventKind::SenderNotified { .. }));
    assert_eq!(told.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_room_for_a_notice_it_stays_owed_and_others_go_on() {
    let first = Mutex::new(None);
    let channel = FakeChannel::scripted(move |id, attempt| {
        match (*first.lock().unwrap().get_or_insert(id) == id, attempt) {
            (true, _) => Act::Fail(FailureClass::Permanent),
            (false, 1) => Act::Fail(FailureClass::Transient),
            (false, _) => Act::Take,
        }
    });
    let lab = Lab::new(channel, sealer(), EngineOptions::default()).await;
    let refused = lab.queue(OFFICE, Priority::High, 1).await[0];
    let waiting = lab.queue(OFFICE, Priority::Normal, 1).await[0];
    lab.store.set_full(true);
    lab.run(Duration::from_secs(120)).await;
    assert_eq!(lab.state(refused).await.as_str(), "dead");
    assert_eq!(lab.state(waiting).await, State::Delivered, "its second attempt was due after the notice");
    assert!(lab.store.head(refused).await.unwrap().unwrap().notice_due.is_some());
    lab.store.set_full(false);
    lab.run(Duration::from_secs(300)).await;
    assert_eq!(lab.store.head(refused).await.unwrap().unwrap().notice_due, None);
    assert_eq!(lab.mailboxes.list(&lab.account("portal"), 9).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_held_service_is_held_however_senders_name_it() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    // The samples name it by its OZG id.
    lab.operations.hold(key("service/leika:99107023037000"), order(), None).await.unwrap();
    let id = lab.queue(OFFICE, Priority::Normal, 1).await[0];
    lab.run(Duration::from_secs(60)).await;
    let held = lab.store.head(id).await.unwrap().unwrap();
    assert_eq!((held.state, held.held), (State::Queued, Some(key("service/leika:99107023037000"))));
    lab.operations.release(&key("service/leika:99107023037000"), order().by, None).await.unwrap();
    lab.run(Duration::from_secs(60)).await;
    assert_eq!(lab.state(id).await, State::Delivered);
}

#[tokio::test(start_paused = true)]
async fn a_slow_bulk_operation_does_not_keep_others_waiting() {
    let (lab, _) = with_dead_letters(1).await;
    let (dead, _) = lab.operations.dead_letters(&DeadFilter::default(), None, 99).await.unwrap();
    let slow = Bulk { action: Action::Cancel, filter: DeadFilter::default(), all: true, rate: Some(1) };
    let slow = lab.operations.submit(slow, order()).await.unwrap();
    lab.run_with_jobs(Duration::from_secs(2)).await;
    let quick = Bulk { action: Action::Cancel, filter: DeadFilter::default(), all: true, rate: None };
    let quick = lab.operations.submit(quick, order()).await.unwrap();
    lab.run_with_jobs(Duration::from_secs(1)).await;
    let quick = lab.operations.job(&quick.id).await.unwrap();
    assert_eq!(quick.state, JobState::Done);
    assert!(quick.done >= dead.len() as u64 - 5, "{quick:?}");
    lab.run_with_jobs(Duration::from_secs(120)).await;
    assert_eq!(lab.operations.job(&slow.id).await.unwrap().state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_over_before_its_time_also_when_it_goes_another_way() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let mut later = metadata();
    later.not_before = Some(noon().checked_add(HOUR).unwrap());
    let id = lab.submit("later", later, ChannelKind::Amqp).await;
    lab.run(Duration::from_secs(60)).await;
    lab.serve_by_mailbox();
    let moved = lab.operations.act(Action::Reroute, id, order()).await.unwrap();
    assert_eq!((moved.state.as_str(), lab.lease().await.len()), ("waiting", 0));
    lab.run(HOUR).await;
    assert_eq!(lab.lease().await, [id]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_closes_does_not_fill_the_journal() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let id = lab.accept("one", ChannelKind::Mailbox).await;
    lab.run(Duration::from_secs(1)).await;
    let take = || lab.mailboxes.take(&lab.department, id, Face::Xta, XTA_CLAIM);
    for _ in 0..64 {
        drop(take().await.unwrap());
    }
    let noted = lab.store.head(id).await.unwrap();
    for _ in 0..10 {
        assert_eq!(take().await.unwrap().message.id, id);
    }
    assert_eq!(lab.store.head(id).await.unwrap(), noted);
    let closed = lab.mailboxes.close(&lab.department, &BTreeSet::from([id]), Face::Xta).await;
    assert!(closed.is_ok() && lab.state(id).await == State::Acknowledged);
    assert!(matches!(take().await, Err(MailboxError::Refused(Refusal::Finished))));
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_knows_what_arrived_before() {
    let lab = Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await;
    let mut ids = Vec::new();
    for (key, document) in [("first", "<antrag/>"), ("again", "<antrag/>"), ("other", "<andere/>")] {
        let mut acceptance = lab.samples.routed(key, document.as_bytes(), ChannelKind::Mailbox);
        let value = "urn:de:xta:messageid:fv:1".to_owned();
        Arc::make_mut(&mut acceptance.message).external_ids =
            vec![ExternalId { scheme: IdScheme::Xta, value }];
        ids.push(acceptance.message.id);
        drop(lab.store.accept(acceptance).await.unwrap());
    }
    lab.run(Duration::from_secs(1)).await;
    let reason = RejectReason::IdTaken;
    assert_eq!(lab.state(ids[2]).await, State::Rejected { reason });
    let attempts = async |id| lab.store.head(id).await.unwrap().unwrap().attempts;
    assert_eq!(
        (attempts(ids[0]).await, attempts(ids[1]).await),
        (0, 1),
        "the second is marked when it is handed out"
    );
    assert_eq!(lab.lease().await, ids[..2]);
    let card = lab.store.load(ids[1]).await.unwrap().unwrap().events;
    assert!(card.iter().any(|event| event.kind == EventKind::SecondArrival { first: ids[0] }));
}
