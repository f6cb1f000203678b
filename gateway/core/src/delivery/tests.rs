use std::collections::HashSet;

use jiff::Timestamp;

use super::*;
use crate::id::{LeaseId, MessageId};
use crate::message::{Message, Metadata, Sha256Digest};
use crate::port::Entropy;
use crate::route::{ChannelKind, Destination, Endpoint, OrganizationRef, Route};

struct Byte(u8);
impl Entropy for Byte {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn route(channel: ChannelKind) -> Box<Route> {
    let organization: crate::key::PartyId = "wgb:073150000000".parse().unwrap();
    Box::new(Route {
        service: "10092".to_owned(),
        specification: None,
        organization: OrganizationRef { key: organization.clone(), name: "Mainz".to_owned(), category: None },
        lookup_key: organization.clone(),
        matched_area: None,
        destination: Destination { organization: organization.clone(), channel },
        endpoint: Endpoint::new(channel, organization.to_string()),
        evidence: None,
        decided_at: at(0),
        trace: Vec::new(),
    })
}

fn accepted(metadata: serde_json::Value, route: Option<&Route>) -> Delivery {
    let metadata: Metadata = serde_json::from_value(metadata).unwrap();
    let message = Message {
        id: MessageId::from_bytes([1; 16]),
        received_at: at(0),
        account: "portal".parse().unwrap(),
        sender: "ags:07315000".parse().unwrap(),
        metadata,
        parts: Vec::new(),
        content: Sha256Digest::of(b""),
        external_ids: Vec::new(),
        carried: Vec::new(),
    };
    Delivery::new(&message, route)
}

fn plain() -> serde_json::Value {
    serde_json::json!({"service": {"ozg": "10092"}, "area": {"ars": "073150000000"}})
}

fn seal() -> SealRecord {
    SealRecord { algorithm: "test".to_owned(), certificate: "00".to_owned(), signature: vec![1].into() }
}

fn run(delivery: Delivery, steps: Vec<(Input, i64)>) -> (Delivery, Vec<EventKind>) {
    let mut events = Vec::new();
    let mut now = delivery;
    for (input, second) in steps {
        let next = now.apply(input, at(second)).unwrap();
        assert_eq!(next.delivery.version, now.version + 1);
        now = next.delivery;
        events.extend(next.events.into_iter().map(|event| event.kind));
    }
    (now, events)
}

fn in_mailbox() -> Delivery {
    let route = route(ChannelKind::Mailbox);
    run(accepted(plain(), Some(&route)), vec![(Input::Sealed(seal()), 1)]).0
}

fn lease(byte: u8, until: i64) -> Input {
    Input::Lease { lease: LeaseId::generate(&Byte(byte)), account: "dept".parse().unwrap(), until: at(until) }
}

fn acknowledge(byte: u8) -> Input {
    Input::Acknowledge {
        lease: LeaseId::generate(&Byte(byte)),
        account: "dept".parse().unwrap(),
        face: Face::Rest,
    }
}

#[test]
fn nothing_is_available_before_it_is_sealed() {
    let route = route(ChannelKind::Mailbox);
    let delivery = accepted(plain(), Some(&route));
    assert_eq!(delivery.placement(), Placement::Prepare);
    assert_eq!(delivery.apply(lease(1, 60), at(1)).unwrap_err(), Refusal::NotNow);
    assert!(matches!(in_mailbox().placement(), Placement::Available { .. }));
}

#[test]
fn delivered_fetched_and_acknowledged_are_different() {
    let (leased, _) = run(in_mailbox(), vec![(lease(1, 60), 2)]);
    assert_eq!((in_mailbox().shown_state(), leased.shown_state()), ("delivered", "fetched"));
    let (done, events) = run(leased, vec![(acknowledge(1), 3)]);
    assert_eq!(done.shown_state(), "acknowledged");
    assert!(matches!(events.as_slice(), [EventKind::Acknowledged { .. }]));
    assert!(done.is_finished());
}

#[test]
fn a_lease_that_ended_cannot_acknowledge_even_before_the_timer_fired() {
    let (leased, _) = run(in_mailbox(), vec![(lease(1, 60), 2)]);
    assert_eq!(leased.apply(acknowledge(1), at(60)).unwrap_err(), Refusal::LeaseLost);
    assert_eq!(leased.apply(acknowledge(2), at(59)).unwrap_err(), Refusal::WrongLease);
    let (free, events) = run(leased, vec![(Input::Due, 60)]);
    assert_eq!(events, [EventKind::LeaseExpired]);
    assert_eq!(free.apply(acknowledge(1), at(61)).unwrap_err(), Refusal::LeaseLost);
}

#[test]
fn every_further_lease_counts_as_another_attempt() {
    let (again, events) = run(in_mailbox(), vec![(lease(1, 60), 2), (Input::Due, 60), (lease(2, 120), 61)]);
    assert_eq!(again.attempts, 2);
    assert!(events.iter().any(|event| matches!(event, EventKind::Leased { attempt: 2, .. })));
}

#[test]
fn cancelling_works_until_the_first_hand_over() {
    let cancel = || Input::Cancel { account: "portal".parse().unwrap() };
    let (cancelled, _) = run(in_mailbox(), vec![(cancel(), 2)]);
    assert_eq!(cancelled.apply(lease(1, 60), at(3)).unwrap_err(), Refusal::Finished);
    let (leased, _) = run(in_mailbox(), vec![(lease(1, 60), 2), (Input::Due, 60)]);
    assert_eq!(leased.apply(cancel(), at(61)).unwrap_err(), Refusal::HandedOut);
    assert_eq!(cancelled.apply(cancel(), at(4)).unwrap_err(), Refusal::Finished);
}

#[test]
fn a_worker_that_lost_its_lease_cannot_complete() {
    let route = route(ChannelKind::Amqp);
    let (first, _) = run(
        accepted(plain(), Some(&route)),
        vec![(Input::Sealed(seal()), 1), (Input::StartAttempt { until: at(60) }, 2)],
    );
    let State::Attempting { token, .. } = first.state else { panic!("{first:?}") };
    assert_eq!(first.apply(Input::Lost { next: Ok(at(61)) }, at(59)).unwrap_err(), Refusal::NotNow);
    let again = vec![
        (Input::Lost { next: Ok(at(61)) }, 60),
        (Input::Due, 61),
        (Input::StartAttempt { until: at(120) }, 61),
    ];
    let (second, events) = run(first, again);
    assert_eq!(events[0], EventKind::AttemptLost { attempt: 1 });
    let late = second.apply(Input::Succeeded { token, proof: Proof("x".to_owned()) }, at(62));
    assert_eq!(late.unwrap_err(), Refusal::LeaseLost);
    assert_eq!(second.attempts, 2);
}

#[test]
fn a_department_that_lost_its_lease_is_told_so() {
    let (again, _) = run(in_mailbox(), vec![(lease(1, 60), 2), (Input::Due, 60), (lease(2, 120), 61)]);
    assert_eq!(again.apply(acknowledge(1), at(62)).unwrap_err(), Refusal::LeaseLost);
    assert_eq!(again.apply(acknowledge(3), at(62)).unwrap_err(), Refusal::WrongLease);
    assert!(again.apply(acknowledge(2), at(62)).is_ok());
}

#[test]
fn a_message_that_kills_its_workers_is_given_up_in_the_end() {
    let last = FailureReason { code: "outcome-unknown".to_owned(), detail: String::new() };
    let reason = DeadReason::AttemptsExhausted { last };
    let steps = vec![
        (Input::Sealed(seal()), 1),
        (Input::StartAttempt { until: at(60) }, 2),
        (Input::Lost { next: Err(reason.clone()) }, 60),
    ];
    let (dead, events) = run(accepted(plain(), Some(&route(ChannelKind::Amqp))), steps);
    assert_eq!(dead.state, State::Dead { reason: reason.clone() });
    assert_eq!(events[2..], [EventKind::AttemptLost { attempt: 1 }, EventKind::Dead { reason }]);
}

#[test]
fn a_dead_or_withdrawn_message_is_no_longer_offered() {
    let last = FailureReason { code: "damaged".to_owned(), detail: String::new() };
    let (dead, _) = run(in_mailbox(), vec![(lease(1, 60), 2), (Input::Damaged(last), 3)]);
    assert_eq!(dead.apply(acknowledge(1), at(4)).unwrap_err(), Refusal::Finished);
    let (withdrawn, _) = run(in_mailbox(), vec![(Input::Cancel { account: "portal".parse().unwrap() }, 2)]);
    let fetch = Input::Fetch { account: "dept".parse().unwrap() };
    assert_eq!(withdrawn.apply(fetch, at(3)).unwrap_err(), Refusal::Finished);
}

#[test]
fn a_message_that_expired_while_it_waited_is_not_queued() {
    let mut metadata = plain();
    metadata["notBefore"] = at(10).to_string().into();
    metadata["expiresAt"] = at(20).to_string().into();
    let sealed = vec![(Input::Sealed(seal()), 1), (Input::Due, 30)];
    let (expired, _) = run(accepted(metadata, Some(&route(ChannelKind::Amqp))), sealed);
    assert_eq!(expired.state, State::Expired);
}

#[test]
fn the_end_of_its_time_ends_a_message_wherever_it_waits() {
    let mut metadata = plain();
    metadata["expiresAt"] = at(50).to_string().into();
    let pull = route(ChannelKind::Mailbox);
    let push = route(ChannelKind::Amqp);
    let ends = |delivery: Delivery| {
        assert_eq!(delivery.alarm(), Some(at(50)));
        assert_eq!(delivery.apply(Input::Due, at(49)).map(|_| ()).unwrap_err(), Refusal::NotNow);
        let (expired, events) = run(delivery, vec![(Input::Due, 50)]);
        assert_eq!((expired.state.clone(), events), (State::Expired, vec![EventKind::Expired]));
        assert_eq!(expired.alarm(), Some(at(50)), "the sender has to be told");
        let (put_off, _) = run(expired, vec![(Input::NoticePutOff { until: at(350) }, 51)]);
        assert_eq!(put_off.alarm(), Some(at(350)));
        let (told, _) = run(put_off, vec![(Input::Notified { notice: None }, 351)]);
        assert_eq!(told.alarm(), None);
        let again = told.apply(Input::NoticePutOff { until: at(400) }, at(352));
        assert_eq!(again.unwrap_err(), Refusal::NotNow);
    };
    let open = accepted(metadata.clone(), None);
    ends(open);
    let (queued, _) = run(accepted(metadata.clone(), Some(&push)), vec![(Input::Sealed(seal()), 1)]);
    ends(queued.clone());
    let (available, _) = run(accepted(metadata, Some(&pull)), vec![(Input::Sealed(seal()), 1)]);
    ends(available.clone());
    // Who works on it may finish; the alarm rings afterwards.
    let (leased, _) = run(available, vec![(lease(1, 60), 2)]);
    assert_eq!(leased.alarm(), None);
    let (back, _) = run(leased, vec![(Input::Due, 60)]);
    ends_late(back);
    let (attempting, _) = run(queued, vec![(Input::StartAttempt { until: at(60) }, 2)]);
    assert_eq!(attempting.alarm(), None);
}

#[test]
fn a_deadline_is_warned_of_and_never_passes_in_silence() {
    let mut metadata = plain();
    metadata["deadline"] = at(100).to_string().into();
    let waiting = accepted(metadata, Some(&route(ChannelKind::Mailbox)))
        .warned_before(std::time::Duration::from_secs(60));
    let (waiting, _) = run(waiting, vec![(Input::Sealed(seal()), 1)]);
    assert_eq!(waiting.alarm(), Some(at(40)));
    let (warned, events) = run(waiting.clone(), vec![(Input::Due, 40)]);
    assert_eq!(events, [EventKind::DeadlineNear { deadline: at(100) }]);
    assert_eq!((warned.state.clone(), warned.alarm()), (State::Delivered, Some(at(100))));
    let (missed, events) = run(warned.clone(), vec![(Input::Due, 100)]);
    assert_eq!(events, [EventKind::DeadlineMissed { deadline: at(100) }]);
    assert_eq!((missed.state, missed.deadline_watch), (State::Delivered, None));
    // Nobody looked before it was over: no warning after the event.
    let (late, events) = run(waiting, vec![(Input::Due, 200)]);
    assert_eq!((events, late.alarm()), (vec![EventKind::DeadlineMissed { deadline: at(100) }], None));
    // With the department in time: nothing to say.
    let (done, _) = run(warned, vec![(lease(1, 60), 50), (acknowledge(1), 51)]);
    assert_eq!(done.alarm(), None);
}

/// A message whose time ended while somebody worked on it.
fn ends_late(delivery: Delivery) {
    let (expired, _) = run(delivery, vec![(Input::Due, 60)]);
    assert_eq!(expired.state, State::Expired);
}

#[test]
fn a_message_that_cannot_be_sealed_waits() {
    let open = accepted(plain(), Some(&route(ChannelKind::Mailbox)));
    let (waiting, events) = run(open, vec![(Input::SealFailed { retry_at: at(30) }, 1)]);
    assert_eq!(events, [EventKind::SealFailed { retry_at: at(30) }]);
    assert_eq!(waiting.placement(), Placement::Timer { due: at(30) });
    let (sealed, _) = run(waiting, vec![(Input::Due, 30), (Input::Sealed(seal()), 31)]);
    assert!(sealed.sealed);
}

#[test]
fn an_expired_message_is_not_handed_out() {
    let route = route(ChannelKind::Mailbox);
    let mut metadata = plain();
    metadata["expiresAt"] = at(10).to_string().into();
    let (available, _) = run(accepted(metadata, Some(&route)), vec![(Input::Sealed(seal()), 1)]);
    let (expired, events) = run(available, vec![(lease(1, 60), 10)]);
    assert_eq!((expired.state, events), (State::Expired, vec![EventKind::Expired]));
}

#[test]
fn what_was_taken_in_time_may_be_finished() {
    let mut metadata = plain();
    metadata["expiresAt"] = at(10).to_string().into();
    let take =
        |until| Input::Take { account: "department".parse().unwrap(), face: Face::Xta, until: at(until) };
    let route = route(ChannelKind::Mailbox);
    let offered = run(accepted(metadata, Some(&route)), vec![(Input::Sealed(seal()), 1)]).0;
    let (taken, _) = run(offered.clone(), vec![(take(30), 5)]);
    assert_eq!(taken.alarm(), Some(at(30)));
    assert_eq!(taken.apply(Input::Due, at(20)).map(|_| ()), Err(Refusal::NotNow));
    let close = Input::Close { account: "department".parse().unwrap(), face: Face::Xta };
    assert_eq!(run(taken.clone(), vec![(close, 20)]).0.state, State::Acknowledged);
    // Taking it again does not put the end off any further.
    let (again, _) = run(taken, vec![(take(50), 20)]);
    assert_eq!(again.alarm(), Some(at(30)));
    assert_eq!(run(again.clone(), vec![(Input::Due, 30)]).0.state, State::Expired);
    assert_eq!(run(again, vec![(take(60), 30)]).0.state, State::Expired);
    assert_eq!(run(offered, vec![(take(40), 10)]).0.state, State::Expired);
}

#[test]
fn not_before_delays_the_hand_over() {
    let route = route(ChannelKind::Mailbox);
    let mut metadata = plain();
    metadata["notBefore"] = at(100).to_string().into();
    let (waiting, _) = run(accepted(metadata, Some(&route)), vec![(Input::Sealed(seal()), 1)]);
    assert_eq!(waiting.placement(), Placement::Timer { due: at(100) });
    assert_eq!(waiting.apply(Input::Due, at(99)).unwrap_err(), Refusal::NotNow);
    let (available, _) = run(waiting, vec![(Input::Due, 100)]);
    assert!(matches!(available.placement(), Placement::Available { .. }));
}

#[test]
fn an_open_route_waits_and_is_then_decided() {
    let reason = FailureReason { code: "directory-unavailable".to_owned(), detail: String::new() };
    let again = |at| Input::RouteOpen { reason: reason.clone(), retry_at: at };
    let tries = vec![
        (again(at(10)), 1),
        (Input::Due, 10),
        (again(at(20)), 11),
        (Input::Due, 20),
        (again(at(30)), 21),
    ];
    let (open, events) = run(accepted(plain(), None), tries);
    assert_eq!((open.shown_state(), open.placement()), ("accepted", Placement::Timer { due: at(30) }));
    let said = events.iter().filter(|event| matches!(event, EventKind::RouteOpen { .. })).count();
    assert_eq!(said, 1, "the ProcessCard says it once");
    let (routed, _) = run(open, vec![(Input::Due, 30), (Input::Routed(route(ChannelKind::Mailbox)), 31)]);
    assert_eq!((routed.shown_state(), routed.placement()), ("queued", Placement::Prepare));
    let refused = routed.apply(Input::Routed(route(ChannelKind::Amqp)), at(32));
    assert_eq!(refused.unwrap_err(), Refusal::NotNow, "a destination is fixed");
}

#[test]
fn only_finished_messages_lose_their_payload() {
    assert_eq!(in_mailbox().apply(Input::Strip, at(9)).unwrap_err(), Refusal::NotNow);
    let (done, _) = run(in_mailbox(), vec![(lease(1, 60), 2), (acknowledge(1), 3), (Input::Strip, 4)]);
    assert_eq!(done.placement(), Placement::Finished { since: at(3), stripped: true });
    assert_eq!(done.apply(Input::Strip, at(5)).unwrap_err(), Refusal::NotNow);
}

/// Any sequence of inputs keeps the invariants that other modules build on.
mod any_order {
    use proptest::prelude::*;

    use super::*;

    fn inputs() -> impl Strategy<Value = Vec<(u8, i64)>> {
        proptest::collection::vec((0_u8..21, 0_i64..40), 1..60)
    }

    fn input(kind: u8, delivery: &Delivery, now: i64) -> Input {
        let reason = FailureReason { code: "x".to_owned(), detail: String::new() };
        let token = match delivery.state {
            State::Attempting { token, .. } => token,
            _ => 1,
        };
        let account = || "dept".parse().unwrap();
        match kind {
            0 => Input::Routed(route(if now % 2 == 0 { ChannelKind::Mailbox } else { ChannelKind::Amqp })),
            1 => Input::Sealed(seal()),
            2 => Input::StartAttempt { until: at(now + 10) },
            3 => Input::Succeeded { token, proof: Proof(String::new()) },
            4 => Input::Failed { token, class: FailureClass::Transient, reason, next: Ok(at(now + 5)) },
            5 => Input::Due,
            6 => lease(1, now + 10),
            7 => acknowledge(1),
            8 => Input::Release { lease: LeaseId::generate(&Byte(1)), account: account() },
            9 => Input::Cancel { account: account() },
            10 => Input::Fetch { account: account() },
            11 => Input::Strip,
            12 => Input::RouteOpen { reason, retry_at: at(now + 5) },
            13 => Input::SealFailed { retry_at: at(now + 5) },
            14 => Input::Lost { next: Ok(at(now + 5)) },
            15 => Input::Lost { next: Err(DeadReason::TooOld { last: reason }) },
            16 => Input::Damaged(reason),
            17 => Input::Extend { lease: LeaseId::generate(&Byte(1)), until: at(now + 10) },
            18 => Input::Refused(RejectReason::Unroutable),
            19 => Input::Replied { reply: MessageId::from_bytes([1; 16]) },
            _ => Input::Reject {
                lease: LeaseId::generate(&Byte(1)),
                code: "unzustaendig".to_owned(),
                detail: String::new(),
            },
        }
    }

    proptest! {
        #[test]
        fn invariants_hold(steps in inputs()) {
            let mut now = 0;
            let mut delivery = accepted(plain(), None);
            let mut facts = HashSet::new();
            for (kind, later) in steps {
                now += later;
                let Ok(next) = delivery.apply(input(kind, &delivery, now), at(now)) else { continue };
                let was_finished = delivery.is_finished();
                let next = next.delivery;
                prop_assert!(next.attempts >= delivery.attempts);
                let offered = matches!(next.placement(), Placement::Ready { .. } | Placement::Available { .. });
                prop_assert!(!offered || next.sealed);
                prop_assert!(!was_finished || next.state == delivery.state, "final states stay");
                if next.attempts > 0 {
                    prop_assert!(next.state != State::Cancelled, "handed out, so not cancelled");
                }
                facts.insert(next.shown_state());
                delivery = next;
            }
            prop_assert!(!facts.contains("acknowledged") || facts.contains("fetched"));
        }
    }
}

fn order() -> Order {
    Order { by: "operator".parse().unwrap(), reason: "fixed".to_owned() }
}

fn queued() -> Delivery {
    let route = route(ChannelKind::Amqp);
    run(accepted(plain(), Some(&route)), vec![(Input::Sealed(seal()), 1)]).0
}

fn attempt(delivery: Delivery, class: FailureClass, second: i64, retry: Option<i64>) -> Delivery {
    let (started, _) = run(delivery, vec![(Input::StartAttempt { until: at(second + 60) }, second)]);
    let State::Attempting { token, .. } = started.state else { panic!("{started:?}") };
    let reason = FailureReason { code: "test".to_owned(), detail: String::new() };
    let next = retry.map(at).ok_or(DeadReason::Permanent { last: reason.clone() });
    run(started, vec![(Input::Failed { token, class, reason, next }, second)]).0
}

#[test]
fn only_failures_of_its_own_use_up_retries() {
    let delivery = attempt(queued(), FailureClass::Destination, 10, Some(20));
    assert_eq!((delivery.attempts, delivery.retries), (1, Retries::default()));
    let delivery = attempt(run(delivery, vec![(Input::Due, 20)]).0, FailureClass::Ours, 20, Some(30));
    assert_eq!((delivery.attempts, delivery.retries), (2, Retries::default()));
    let delivery = attempt(run(delivery, vec![(Input::Due, 30)]).0, FailureClass::Transient, 30, Some(40));
    assert_eq!((delivery.attempts, delivery.retries.failures), (3, 1));
    assert_eq!(delivery.retries.waited, jiff::SignedDuration::from_secs(10));
    let (back, _) = run(delivery, vec![(Input::Due, 90_000)]);
    assert_eq!(
        back.retries.waited,
        jiff::SignedDuration::from_secs(10),
        "what it waited for others is not its own"
    );
}

#[test]
fn a_held_message_stands_aside_and_comes_back_unchanged() {
    let hold: crate::hold::HoldKey = "account/portal".parse().unwrap();
    for before in [queued(), in_mailbox()] {
        let hold_it = Input::Hold { hold: hold.clone(), reason: "why".to_owned() };
        let (held, _) = run(before.clone(), vec![(hold_it.clone(), 5)]);
        assert_eq!(held.shown_state(), "held");
        assert!(matches!(held.placement(), Placement::Held { .. }));
        assert!(held.apply(Input::StartAttempt { until: at(60) }, at(6)).is_err());
        assert!(held.apply(lease(1, 60), at(6)).is_err());
        assert_eq!(held.apply(hold_it, at(6)).unwrap_err(), Refusal::NotNow);
        let (back, events) = run(held, vec![(Input::Unhold, 90_000)]);
        assert_eq!(events, [EventKind::HoldEnded { hold: hold.clone() }]);
        assert_eq!(Delivery { version: before.version, ..back }, before);
    }
}

#[test]
fn a_held_message_still_expires_and_can_be_withdrawn() {
    let mut metadata = plain();
    metadata["expiresAt"] = at(50).to_string().into();
    let (queued, _) =
        run(accepted(metadata, Some(&route(ChannelKind::Amqp))), vec![(Input::Sealed(seal()), 1)]);
    let hold = Input::Hold { hold: "account/portal".parse().unwrap(), reason: "why".to_owned() };
    let (held, _) = run(queued, vec![(hold, 5)]);
    let (expired, _) = run(held.clone(), vec![(Input::Due, 50)]);
    assert_eq!((expired.state, expired.held), (State::Expired, None));
    let (cancelled, _) = run(held, vec![(Input::Cancel { account: "portal".parse().unwrap() }, 6)]);
    assert_eq!((cancelled.state, cancelled.held), (State::Cancelled, None));
}

#[test]
fn a_dead_letter_goes_again_with_new_retries_and_its_mark() {
    let dead = attempt(queued(), FailureClass::Permanent, 10, None);
    assert_eq!(dead.notice_due, Some(at(10)));
    let (again, _) = run(dead.clone(), vec![(Input::Redrive(order()), 20)]);
    assert_eq!((again.state.clone(), again.retries, again.attempts), (State::Queued, Retries::default(), 1));
    assert_eq!(again.apply(Input::Redrive(order()), at(21)).unwrap_err(), Refusal::NotDead);
    let elsewhere = route(ChannelKind::Mailbox);
    let (moved, events) = run(dead.clone(), vec![(Input::Reroute { order: order(), route: elsewhere }, 20)]);
    assert!(matches!(moved.placement(), Placement::Available { .. }));
    assert!(matches!(
        events.as_slice(),
        [EventKind::Rerouted { .. }, EventKind::Routed { .. }, EventKind::Delivered { .. }]
    ));
    let (gone, _) = run(dead, vec![(Input::Withdraw(order()), 20)]);
    assert_eq!(gone.apply(Input::Withdraw(order()), at(21)).unwrap_err(), Refusal::Finished);
    let (leased, _) = run(in_mailbox(), vec![(lease(1, 60), 2)]);
    assert_eq!(leased.apply(Input::Withdraw(order()), at(3)).unwrap_err(), Refusal::HandedOut);
}

#[test]
fn the_gateway_is_not_told_of_its_own_notices() {
    let mut notice = queued();
    notice.account = crate::account::GATEWAY.parse().unwrap();
    assert_eq!(attempt(notice, FailureClass::Permanent, 10, None).notice_due, None);
}
