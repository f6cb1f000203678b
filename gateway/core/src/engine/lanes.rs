//! Shares the engine's slots between destinations: who may start how many attempts now. Pure; the store says what is due.
//!
//! Destinations with due work take turns; each turn is at most one quantum, so that a destination with a long queue, or one
//! that hangs, adds no more than that to any other (promise P5). Limits are counted here as permits in use.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use crate::delivery::RetryPolicy;
use crate::mailbox::add;
use crate::route::Destination;

/// Attempts one turn may start, for a weight of one.
pub(super) const QUANTUM: usize = 16;
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
}

impl Default for DestinationPolicy {
    /// 16 at the same time, any rate, weight 1, the usual retries.
    fn default() -> Self {
        Self { concurrency: 16, rate: None, weight: NonZeroU32::MIN, retry: RetryPolicy::default() }
    }
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
}

/// Lanes of all destinations that are at work, and whose turn it was last.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Destination, Lane>,
    /// Who was served last; the next turn begins behind it.
    pub(super) cursor: Option<Destination>,
}

impl Lanes {
    /// How many attempts a destination may begin in one turn now; if none because of its rate, when it may again.
    pub(super) fn room(
        &self,
        destination: &Destination,
        policy: &DestinationPolicy,
        now: Timestamp,
    ) -> Result<usize, Option<Timestamp>> {
        let (running, paced_until) =
            self.lanes.get(destination).map_or((0, None), |lane| (lane.running, lane.paced_until));
        let turn = QUANTUM.saturating_mul(policy.weight.get() as usize);
        let free = policy.concurrency.saturating_sub(running).min(turn);
        if free == 0 {
            return Err(None);
        }
        match (policy.rate, paced_until) {
            (Some(_), Some(until)) if until > now => Err(Some(until)),
            // At most a second's worth at once, however long nothing happened.
            (Some(rate), _) => Ok(free.min(rate.get() as usize)),
            (None, _) => Ok(free),
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
        if let Some(rate) = policy.rate {
            let from = lane.paced_until.filter(|until| *until > now).unwrap_or(now);
            lane.paced_until = Some(add(from, Duration::from_secs(1) / rate.get()));
        }
    }

    /// An attempt has ended.
    pub(super) fn end(&mut self, destination: &Destination, now: Timestamp) {
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        lane.running = lane.running.saturating_sub(1);
        // Lanes without work and without a pace to keep are forgotten: memory follows what runs, not what exists.
        if lane.running == 0 && lane.paced_until.is_none_or(|until| until <= now) {
            self.lanes.remove(destination);
        }
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
        lanes.end(&office(), at(1));
        assert_eq!(lanes.room(&office(), &policy, at(1)), Ok(1));
        let heavy = DestinationPolicy { weight: NonZeroU32::new(3).unwrap(), concurrency: 1_000, ..policy };
        assert_eq!(Lanes::default().room(&office(), &heavy, at(0)), Ok(3 * QUANTUM));
    }

    #[test]
    fn a_rate_spreads_attempts_over_time() {
        let (mut lanes, policy) = (Lanes::default(), policy(100, 4));
        assert_eq!(lanes.room(&office(), &policy, at(0)), Ok(4));
        for _ in 0..4 {
            lanes.begin(&office(), &policy, at(0));
            lanes.end(&office(), at(0));
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
        lanes.end(&office(), at(10));
        assert_eq!(lanes.room(&office(), &policy, at(10)), Err(Some(at(500))), "the pace is kept");
        lanes.begin(&office(), &policy, at(500));
        lanes.end(&office(), at(2_000));
        assert!(lanes.lanes.is_empty());
    }
}
