//! Shares the engine's slots between destinations: who may start how many attempts now. Pure; the store says what is due.
//!
//! Destinations with due work take turns; each turn is at most one quantum, so that a destination with a long queue, or one
//! that hangs, adds no more than that to any other (promise P5). Limits are counted here as permits in use. A destination that
//! was held or out of order starts slowly: one attempt at a time, one more after each success; and at its release rate, doubled
//! every minute, until what had piled up is gone.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use super::breaker::{AttemptEnd, Breaker, BreakerPolicy, OpenBreaker, Turn};
use crate::delivery::{DeadHead, RetryPolicy};
use crate::mailbox::add;
use crate::route::Destination;

/// Attempts one turn may start, for a weight of one.
pub(super) const QUANTUM: usize = 16;
const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
/// One of so many picks goes to the lower class.
const NORMAL_TURN: u64 = 8;

/// How one destination is served.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationPolicy {
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Attempts begun per second; `None`: as many as there are.
    pub rate: Option<NonZeroU32>,
    /// Quanta in one turn, against other destinations.
    pub weight: NonZeroU32,
    /// When a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// When it counts as out of order.
    pub breaker: BreakerPolicy,
    /// Attempts begun per second after a hold or an outage, until the back-log is gone; doubles every minute.
    pub release_rate: NonZeroU32,
    /// What a dead message does to those behind it with the same ordering key.
    pub dead_head: DeadHead,
}

impl Default for DestinationPolicy {
    /// 16 at the same time, any rate but 100 per second after an outage, weight 1, the usual retries and breaker; a dead
    /// message blocks those with the same ordering key.
    fn default() -> Self {
        Self {
            concurrency: 16,
            rate: None,
            weight: NonZeroU32::MIN,
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            release_rate: NonZeroU32::new(100).unwrap_or(NonZeroU32::MAX),
            dead_head: DeadHead::default(),
        }
    }
}

/// A pace reaches at most a second ahead, as rates are whole numbers per second.
const LONGEST_PACE: Duration = Duration::from_secs(2);

/// Whether a time is still to come. What lies further ahead than it can was set before the wall clock was set back.
pub(super) fn is_ahead(until: Timestamp, now: Timestamp, longest: Duration) -> bool {
    until > now && until <= add(now, longest)
}

/// Policies of all destinations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policies {
    /// For every destination without one of its own.
    pub usual: DestinationPolicy,
    /// For some.
    pub special: BTreeMap<Destination, DestinationPolicy>,
}

impl Policies {
    /// The policy in force for a destination.
    pub fn of(&self, destination: &Destination) -> &DestinationPolicy {
        self.special.get(destination).unwrap_or(&self.usual)
    }
}

/// What is going on at one destination.
#[derive(Debug, Default)]
struct Lane {
    running: usize,
    picks: u64,
    /// When the next attempt may begin, and how far the allowance is used up (GCRA: theoretical arrival time).
    paced_until: Option<Timestamp>,
    breaker: Breaker,
    /// Whether an operator holds it.
    held: bool,
    /// Attempts at the same time while it starts again.
    start: Option<usize>,
    /// Since when what piled up is let go, as long as there is something of it.
    releasing: Option<Timestamp>,
}

impl Lane {
    /// Attempts begun per second now. The release rate grows, or a destination that gets more than that would never catch up.
    fn rate(&self, policy: &DestinationPolicy, now: Timestamp) -> Option<NonZeroU32> {
        let Some(since) = self.releasing else { return policy.rate };
        let minutes = u32::try_from(now.duration_since(since).as_mins()).unwrap_or(0);
        let grown = policy.release_rate.saturating_mul(TWO.saturating_pow(minutes));
        Some(policy.rate.map_or(grown, |rate| rate.min(grown)))
    }

    fn release(&mut self, now: Timestamp) {
        (self.held, self.start, self.releasing) = (false, Some(1), Some(now));
    }

    /// Lanes without work, without a pace to keep and without troubles are forgotten: memory follows what runs, not what exists.
    fn is_idle(&self, now: Timestamp) -> bool {
        self.running == 0
            && self.paced_until.is_none_or(|until| !is_ahead(until, now, LONGEST_PACE))
            && self.breaker.is_at_rest()
            && !self.held
            && self.releasing.is_none()
    }
}

/// Lanes of all destinations that are at work, and whose turn it was last.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Destination, Lane>,
    /// Who was served last; the next turn begins behind it.
    pub(super) cursor: Option<Destination>,
}

impl Lanes {
    /// Takes up a breaker that was open when the last process ended.
    pub(super) fn reopen(&mut self, open: OpenBreaker) {
        let lane = self.lanes.entry(open.destination.clone()).or_default();
        lane.breaker = Breaker::Open(open);
    }

    /// An operator holds the destination.
    pub(super) fn hold(&mut self, destination: &Destination) {
        self.lanes.entry(destination.clone()).or_default().held = true;
    }

    /// How many attempts a destination that is not held may begin in one turn now; if none because it has to wait, until when.
    pub(super) fn room(
        &mut self,
        destination: &Destination,
        policy: &DestinationPolicy,
        now: Timestamp,
    ) -> Result<usize, Option<Timestamp>> {
        let turn = QUANTUM.saturating_mul(policy.weight.get() as usize);
        let Some(lane) = self.lanes.get_mut(destination) else {
            let first = policy.rate.map_or(usize::MAX, |rate| rate.get() as usize);
            return Ok(policy.concurrency.min(turn).min(first));
        };
        if lane.held {
            lane.release(now);
        }
        if let Breaker::Open(open) = &lane.breaker {
            let longest = policy.breaker.longest.max(policy.breaker.first);
            return match is_ahead(open.next_probe, now, longest) {
                true => Err(Some(open.next_probe)),
                false if lane.running > 0 => Err(None),
                false => Ok(1),
            };
        }
        let concurrency = lane.start.map_or(policy.concurrency, |start| start.min(policy.concurrency));
        let free = concurrency.saturating_sub(lane.running).min(turn);
        if free == 0 {
            return Err(None);
        }
        match (lane.rate(policy, now), lane.paced_until) {
            (Some(_), Some(until)) if is_ahead(until, now, LONGEST_PACE) => Err(Some(until)),
            // At most a second's worth at once, however long nothing happened.
            (Some(rate), _) => Ok(free.min(rate.get() as usize)),
            (None, _) => Ok(free),
        }
    }

    /// What piled up at a destination is let go: slowly, from one attempt at a time.
    pub(super) fn release(&mut self, destination: &Destination, now: Timestamp) {
        let lane = self.lanes.entry(destination.clone()).or_default();
        if lane.releasing.is_none() {
            lane.release(now);
        }
    }

    /// Whether no attempt is under way there.
    pub(super) fn is_quiet(&self, destination: &Destination) -> bool {
        self.lanes.get(destination).is_none_or(|lane| lane.running == 0)
    }

    /// A turn found fewer messages than it could have begun: what piled up is gone.
    pub(super) fn drained(&mut self, destination: &Destination, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        lane.releasing = None;
        if lane.is_idle(now) {
            self.lanes.remove(destination);
        }
    }

    /// Whether the next pick goes to the lower class although a higher one waits.
    pub(super) fn is_normal_turn(&self, destination: &Destination) -> bool {
        self.lanes.get(destination).is_some_and(|lane| lane.picks % NORMAL_TURN == NORMAL_TURN - 1)
    }

    /// An attempt begins.
    pub(super) fn begin(&mut self, destination: &Destination, policy: &DestinationPolicy, now: Timestamp) {
        let lane = self.lanes.entry(destination.clone()).or_default();
        lane.running += 1;
        lane.picks += 1;
        if let Some(rate) = lane.rate(policy, now) {
            let from = lane.paced_until.filter(|until| is_ahead(*until, now, LONGEST_PACE)).unwrap_or(now);
            lane.paced_until = Some(add(from, Duration::from_secs(1) / rate.get()));
        }
    }

    /// An attempt has ended. What it did to the breaker is to be made durable by the caller.
    pub(super) fn end(
        &mut self,
        destination: &Destination,
        policy: &DestinationPolicy,
        end: AttemptEnd,
        now: Timestamp,
    ) -> Turn {
        let Some(lane) = self.lanes.get_mut(destination) else { return Turn::Same };
        lane.running = lane.running.saturating_sub(1);
        if end == AttemptEnd::Answered {
            lane.start = lane.start.map(|start| start + 1).filter(|start| *start < policy.concurrency);
        }
        let turn = lane.breaker.note(destination, end, &policy.breaker, now);
        if turn == Turn::Closed {
            lane.release(now);
        }
        if lane.is_idle(now) {
            self.lanes.remove(destination);
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn office() -> Destination {
        Destination {
            organization: "wgb:073150000000".parse().unwrap(),
            channel: crate::route::ChannelKind::Amqp,
        }
    }

    fn policy(concurrency: usize, rate: u32) -> DestinationPolicy {
        DestinationPolicy { concurrency, rate: NonZeroU32::new(rate), ..DestinationPolicy::default() }
    }

    #[test]
    fn concurrency_is_a_permit_and_a_turn_is_bounded() {
        let (mut lanes, policy) = (Lanes::default(), policy(20, 0));
        assert_eq!(lanes.room(&office(), &policy, at(0)), Ok(QUANTUM));
        for _ in 0..19 {
            lanes.begin(&office(), &policy, at(0));
        }
        assert_eq!(lanes.room(&office(), &policy, at(0)), Ok(1));
        lanes.begin(&office(), &policy, at(0));
        assert_eq!(lanes.room(&office(), &policy, at(0)), Err(None));
        lanes.end(&office(), &policy, AttemptEnd::Answered, at(1));
        assert_eq!(lanes.room(&office(), &policy, at(1)), Ok(1));
        let heavy = DestinationPolicy { weight: NonZeroU32::new(3).unwrap(), concurrency: 1_000, ..policy };
        assert_eq!(Lanes::default().room(&office(), &heavy, at(0)), Ok(3 * QUANTUM));
    }

    #[test]
    fn a_wall_clock_that_is_set_back_stops_nobody() {
        let (mut lanes, policy) = (Lanes::default(), policy(100, 4));
        let (late, early) = (at(7_200_000), at(0));
        for _ in 0..4 {
            lanes.begin(&office(), &policy, late);
        }
        assert_eq!(lanes.room(&office(), &policy, late), Err(Some(at(7_201_000))));
        assert_eq!(lanes.room(&office(), &policy, early), Ok(4));
        let reason = crate::delivery::FailureReason { code: "down".to_owned(), detail: String::new() };
        lanes.reopen(OpenBreaker {
            destination: office(),
            since: late,
            reason,
            failed_probes: 3,
            next_probe: add(late, policy.breaker.longest),
        });
        for _ in 0..4 {
            lanes.end(&office(), &policy, AttemptEnd::Unclear, early);
        }
        lanes.reopen(OpenBreaker { next_probe: late, ..open_of(&lanes) });
        assert_eq!(lanes.room(&office(), &policy, early), Ok(1), "it is probed");
        lanes.begin(&office(), &policy, early);
        let reason = crate::delivery::FailureReason { code: "down".to_owned(), detail: String::new() };
        lanes.end(&office(), &policy, AttemptEnd::OutOfOrder { reason, retry_after: None }, early);
        assert!(matches!(lanes.room(&office(), &policy, early), Err(Some(_))), "and then waited for again");
    }

    fn open_of(lanes: &Lanes) -> OpenBreaker {
        let Breaker::Open(open) = &lanes.lanes[&office()].breaker else { panic!("it is closed") };
        open.clone()
    }

    #[test]
    fn a_rate_spreads_attempts_over_time() {
        let (mut lanes, policy) = (Lanes::default(), policy(100, 4));
        assert_eq!(lanes.room(&office(), &policy, at(0)), Ok(4));
        for _ in 0..4 {
            lanes.begin(&office(), &policy, at(0));
            lanes.end(&office(), &policy, AttemptEnd::Answered, at(0));
        }
        assert_eq!(lanes.room(&office(), &policy, at(0)), Err(Some(at(1_000))));
        assert_eq!(lanes.room(&office(), &policy, at(999)), Err(Some(at(1_000))));
        assert_eq!(lanes.room(&office(), &policy, at(1_000)), Ok(4));
    }

    #[test]
    fn one_of_eight_picks_is_for_the_lower_class() {
        let (mut lanes, policy) = (Lanes::default(), policy(100, 0));
        let turns: Vec<bool> = (0..16)
            .map(|_| {
                let turn = lanes.is_normal_turn(&office());
                lanes.begin(&office(), &policy, at(0));
                turn
            })
            .collect();
        assert_eq!(turns.iter().filter(|turn| **turn).count(), 2);
        assert!(turns[7] && turns[15]);
    }

    #[test]
    fn idle_lanes_are_forgotten() {
        let (mut lanes, policy) = (Lanes::default(), policy(1, 2));
        lanes.begin(&office(), &policy, at(0));
        lanes.end(&office(), &policy, AttemptEnd::Answered, at(10));
        assert_eq!(lanes.room(&office(), &policy, at(10)), Err(Some(at(500))), "the pace is kept");
        lanes.begin(&office(), &policy, at(500));
        lanes.end(&office(), &policy, AttemptEnd::Answered, at(2_000));
        assert!(lanes.lanes.is_empty());
    }

    #[test]
    fn after_an_outage_a_destination_starts_slowly() {
        let (mut lanes, policy) = (Lanes::default(), policy(4, 0));
        let out = || AttemptEnd::OutOfOrder {
            reason: crate::delivery::FailureReason { code: "down".to_owned(), detail: String::new() },
            retry_after: None,
        };
        for n in 0..5 {
            lanes.begin(&office(), &policy, at(0));
            let turn = lanes.end(&office(), &policy, out(), at(0));
            assert_eq!(matches!(turn, Turn::Open(_)), n == 4);
        }
        assert_eq!(lanes.room(&office(), &policy, at(4_999)), Err(Some(at(5_000))));
        assert_eq!(lanes.room(&office(), &policy, at(5_000)), Ok(1), "one message is the probe");
        lanes.begin(&office(), &policy, at(5_000));
        assert_eq!(lanes.room(&office(), &policy, at(5_000)), Err(None), "and only one");
        assert_eq!(lanes.end(&office(), &policy, AttemptEnd::Answered, at(5_001)), Turn::Closed);
        let mut now = 5_001;
        for room in [1, 2, 3, 4, 4] {
            assert_eq!(lanes.room(&office(), &policy, at(now)), Ok(room));
            lanes.begin(&office(), &policy, at(now));
            assert!(lanes.room(&office(), &policy, at(now)).is_err(), "100 per second");
            lanes.end(&office(), &policy, AttemptEnd::Answered, at(now));
            now += 10;
        }
        now += 60_000;
        assert!(lanes.room(&office(), &policy, at(now)).is_ok());
        lanes.begin(&office(), &policy, at(now));
        lanes.end(&office(), &policy, AttemptEnd::Answered, at(now));
        assert_eq!(lanes.room(&office(), &policy, at(now + 4)), Err(Some(at(now + 5))), "twice the rate");
        lanes.drained(&office(), at(now));
        lanes.begin(&office(), &policy, at(now));
        assert_eq!(lanes.room(&office(), &policy, at(now)), Ok(3), "as usual again");
    }

    #[test]
    fn a_hold_that_ends_lets_go_slowly_too() {
        let (mut lanes, policy) = (Lanes::default(), policy(4, 0));
        lanes.hold(&office());
        assert_eq!(lanes.room(&office(), &policy, at(0)), Ok(1));
    }
}
