//! Senders that wait for the answer: one attempt, one outcome, whatever happens to sender, recipient and gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amtsbote_core::delivery::{DeadReason, EventKind, FailureReason, Order, Proof, Refusal, State};
use amtsbote_core::engine::EngineOptions;
use amtsbote_core::exchange::{EXCHANGE_WITHIN, ExchangeError};
use amtsbote_core::hold::HoldKey;
use amtsbote_core::id::MessageId;
use amtsbote_core::intake::{IntakeError, Submission, Target, UnusableCertificate};
use amtsbote_core::message::{Part, Sha256Digest};
use amtsbote_core::operations::{Action, OperationError};
use amtsbote_core::port::{ExchangeOutcome, Exchanger, Handover, InstantAnswer, MessageStore, Staged};
use amtsbote_core::route::ChannelKind;
use amtsbote_testkit::channel::FakeChannel;
use amtsbote_testkit::samples::{OFFICE, intake_key, metadata};
use amtsbote_testkit::time::noon;
use async_trait::async_trait;
use tokio::sync::Notify;

use crate::lab::{Lab, sealer};

/// What the recipient does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Answer,
    Take,
    Refuse,
    Hang,
    Die,
    /// Answers when it is told to.
    Wait,
}

/// A recipient that answers at once; it plays AMQP.
struct Recipient {
    act: Act,
    asked: AtomicUsize,
    go: Notify,
}

impl Recipient {
    fn that(act: Act) -> Arc<Self> {
        Arc::new(Self { act, asked: AtomicUsize::new(0), go: Notify::new() })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn part(document: &[u8]) -> Part {
    Part {
        name: None,
        media_type: "application/xml".to_owned(),
        size: document.len() as u64,
        sha256: Sha256Digest::of(document),
        offset: 0,
        attributes: BTreeMap::new(),
    }
}

#[async_trait]
impl Exchanger for Recipient {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Amqp
    }

    async fn exchange(&self, handover: &Handover) -> ExchangeOutcome {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert!(handover.open(0).await.unwrap().is_some() && handover.attempt == 1);
        match self.act {
            Act::Refuse => {
                let (code, detail) = ("order-refused".to_owned(), "scripted".to_owned());
                return ExchangeOutcome::Failed(FailureReason { code, detail });
            }
            Act::Hang => std::future::pending().await,
            Act::Die => panic!("scripted"),
            Act::Wait => self.go.notified().await,
            Act::Take => return ExchangeOutcome::Delivered(Proof("taken".to_owned())),
            Act::Answer => {}
        }
        let mut writer = handover.stage().await.unwrap();
        writer.write("<bescheid/>".into()).await.unwrap();
        ExchangeOutcome::Answered(Box::new(InstantAnswer {
            proof: Proof("answered".to_owned()),
            metadata: metadata(),
            parts: vec![part(b"<bescheid/>")],
            payload: writer.finish().await.unwrap(),
            external_ids: Vec::new(),
            carried: Vec::new(),
        }))
    }
}

fn submission(key: &str) -> Submission {
    Submission {
        key: intake_key(key),
        sender: "ags:07315000".parse().unwrap(),
        metadata: metadata(),
        parts: vec![part(b"<anfrage/>")],
        payload: Staged::Inline(vec!["<anfrage/>".into()]),
        external_ids: Vec::new(),
        carried: Vec::new(),
        canonical: Vec::new(),
        target: Target::Resolved,
        reserved: None,
        unusable_certificate: UnusableCertificate::Refuse,
    }
}

async fn lab() -> Lab {
    Lab::new(FakeChannel::taking(), sealer(), EngineOptions::default()).await
}

/// The message of a submission.
async fn id(lab: &Lab, key: &str) -> MessageId {
    lab.store.intake(&intake_key(key)).await.unwrap().unwrap().id
}

#[tokio::test(start_paused = true)]
async fn an_answer_need_not_be_wanted() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Take));
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    let exchanged = exchanges.exchange(submission("one")).await.unwrap();
    assert!(exchanged.answer.is_none());
    assert_eq!(exchanged.request.delivery.state, State::Delivered);
    let again = exchanges.exchange(submission("one")).await.unwrap();
    assert_eq!((again.request.message.id, recipient.asked()), (exchanged.request.message.id, 1));
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_back_and_is_kept() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Answer));
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    let answer = exchanges.exchange(submission("one")).await.unwrap().answer.unwrap();
    let asked = lab.store.load(id(&lab, "one").await).await.unwrap().unwrap();
    assert_eq!(answer.message.metadata.in_reply_to, Some(asked.message.id));
    assert_eq!(answer.message.metadata.recipient.as_ref().unwrap().as_str(), "ags:07315000");
    assert_eq!(answer.message.sender.as_str(), OFFICE);
    assert_eq!((&answer.delivery.state, &asked.delivery.state), (&State::Delivered, &State::Delivered));
    assert!(asked.seal().is_some(), "signed before it went out");
    let reply = answer.message.id;
    assert!(asked.events.iter().any(|event| event.kind == EventKind::Replied { reply }));
    let mut reader = lab.store.open_part(reply, 0, 0).await.unwrap().unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), "<bescheid/>");
    // Whoever asks again gets the same answer; the recipient is not asked again, by nobody.
    let again = exchanges.exchange(submission("one")).await.unwrap().answer.unwrap();
    assert_eq!((again.message.id, recipient.asked()), (reply, 1));
    lab.run(Duration::from_secs(3600)).await;
    assert_eq!((lab.channel.seen().len(), recipient.asked()), (0, 1));
    assert_eq!(lab.state(asked.message.id).await, State::Delivered);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_dead_and_stays_so() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Refuse));
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    for _ in 0..2 {
        let refused = exchanges.exchange(submission("one")).await;
        assert!(matches!(refused, Err(ExchangeError::Failed(reason)) if reason.code == "order-refused"));
    }
    let id = id(&lab, "one").await;
    assert!(matches!(lab.state(id).await, State::Dead { reason: DeadReason::SyncFailed { .. } }));
    let order = || Order { by: "operator".parse().unwrap(), reason: "again".to_owned() };
    for action in [Action::Redrive, Action::Reroute] {
        let refused = lab.operations.act(action, id, order()).await;
        assert!(matches!(refused, Err(OperationError::Refused(Refusal::Finished))), "{refused:?}");
    }
    lab.run(Duration::from_secs(3600)).await;
    assert_eq!((lab.channel.seen().len(), recipient.asked()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Hang));
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    let began = tokio::time::Instant::now();
    let unknown = exchanges.exchange(submission("one")).await;
    assert!(matches!(unknown, Err(ExchangeError::Unknown(reason)) if reason.code == "timeout"));
    assert_eq!(began.elapsed(), EXCHANGE_WITHIN);
    let id = id(&lab, "one").await;
    assert!(matches!(lab.state(id).await, State::Dead { reason: DeadReason::SyncUnknown { .. } }));
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_hangs_up_changes_nothing() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Wait));
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    let waiting = tokio::spawn({
        let exchanges = Arc::clone(&exchanges);
        async move { exchanges.exchange(submission("one")).await.map(drop) }
    });
    while recipient.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let impatient = exchanges.exchange(submission("one")).await;
    assert!(matches!(impatient, Err(ExchangeError::UnderWay)));
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    recipient.go.notify_one();
    let id = id(&lab, "one").await;
    while lab.state(id).await != State::Delivered {
        tokio::task::yield_now().await;
    }
    assert!(exchanges.exchange(submission("one")).await.is_ok());
    assert_eq!(recipient.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_leaves_behind_is_ended_and_not_tried_again() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Die));
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    assert!(matches!(exchanges.exchange(submission("one")).await, Err(ExchangeError::Unknown(_))));
    let id = id(&lab, "one").await;
    assert!(matches!(lab.state(id).await, State::Attempting { .. }));
    let lab = lab.restart().await;
    lab.run(Duration::from_secs(3600)).await;
    assert!(matches!(lab.state(id).await, State::Dead { reason: DeadReason::SyncUnknown { .. } }));
    assert_eq!((lab.channel.seen().len(), recipient.asked()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_was_accepted_only_is_ended_too() {
    let lab = lab().await;
    let until = noon() + Duration::from_secs(35);
    let mut acceptance = lab.samples.routed("left", b"<anfrage/>", ChannelKind::Amqp);
    acceptance.delivery = acceptance.delivery.answered_until(until);
    let id = acceptance.message.id;
    drop(lab.store.accept(acceptance).await.unwrap());
    lab.run(Duration::from_secs(30)).await;
    assert!(matches!(lab.state(id).await, State::Accepted { .. }), "its time is not over");
    lab.run(Duration::from_secs(60)).await;
    assert!(matches!(lab.state(id).await, State::Dead { reason: DeadReason::SyncFailed { .. } }));
    assert_eq!(lab.channel.seen().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_answered_is_refused_and_nothing_is_stored() {
    let lab = lab().await;
    let recipient = Recipient::that(Act::Answer);
    let exchanges = lab.exchanges(Arc::clone(&recipient));
    let mut later = submission("later");
    later.metadata.not_before = Some(noon() + Duration::from_secs(60));
    let refused = exchanges.exchange(later).await;
    assert!(matches!(refused, Err(ExchangeError::Intake(IntakeError::Metadata(_)))));
    lab.serve_by_mailbox();
    let refused = exchanges.exchange(submission("mailbox")).await;
    assert!(matches!(refused, Err(ExchangeError::Intake(IntakeError::OnlyAsynchronous))));
    for key in ["later", "mailbox"] {
        assert!(lab.store.intake(&intake_key(key)).await.unwrap().is_none(), "{key}");
    }
    assert_eq!(recipient.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_held_destination_is_not_asked() {
    let (lab, recipient) = (lab().await, Recipient::that(Act::Answer));
    let key: HoldKey = format!("destination/amqp/{OFFICE}").parse().unwrap();
    let order = Order { by: "operator".parse().unwrap(), reason: "maintenance".to_owned() };
    drop(lab.operations.hold(key, order, None).await.unwrap());
    let held = lab.exchanges(Arc::clone(&recipient)).exchange(submission("one")).await;
    assert!(matches!(held, Err(ExchangeError::Failed(reason)) if reason.code == "held"));
    assert_eq!(recipient.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_handed_in_without_waiting_has_no_answer() {
    let lab = lab().await;
    let exchanges = lab.exchanges(Recipient::that(Act::Answer));
    let mut acceptance = lab.samples.routed("one", b"<anfrage/>", ChannelKind::Amqp);
    let asked = submission("one");
    Arc::make_mut(&mut acceptance.message).content =
        amtsbote_core::message::content_digest(&asked.metadata, &asked.canonical, &asked.parts);
    let id = acceptance.message.id;
    drop(lab.store.accept(acceptance).await.unwrap());
    let conflict = exchanges.exchange(asked).await;
    assert!(matches!(conflict, Err(ExchangeError::Intake(IntakeError::Conflict(known))) if known == id));
}
